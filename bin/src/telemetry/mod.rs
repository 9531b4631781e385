//! How the program is watched: log lines, traces to a collector, metrics for whoever scrapes.
//!
//! The rule it keeps: telemetry never blocks and never fails a request. The start waits for no
//! collector, the end has a deadline, and neither changes the exit code.

pub mod names;

mod log;

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use prometheus::{Registry, TextEncoder};
use sandpit_config::{LogFormat, TelemetryConfig};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry as Spans};

use crate::settings;

/// Longest the last traces may take to leave. A collector that is down would hold the end of the
/// program longer.
const SHUTDOWN_MAX: Duration = Duration::from_secs(3);

/// Who is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role<'a> {
    /// A node, under its name.
    Node(&'a str),
    /// A verb of the command line: it logs warnings only, for its answer is what is looked at.
    Client,
}

/// Why there is no telemetry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `telemetry.log` is no filter.
    #[error("telemetry.log is `{filter}`; expected a level, or levels by module, as in `info`")]
    Filter {
        /// What it is.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The exporter of traces cannot be built.
    #[error("traces cannot be exported")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The metrics cannot be collected.
    #[error("metrics cannot be collected")]
    Metrics(#[source] opentelemetry_sdk::error::OTelSdkError),
    /// Somebody else in this process did it already.
    #[error("log lines cannot be collected")]
    Taken(#[source] tracing_subscriber::util::TryInitError),
}

/// What is collected, and where it goes. Keep it as long as the program runs.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    meters: SdkMeterProvider,
    registry: Registry,
}

impl Telemetry {
    /// Begins. Call it once, before the first runtime: the exporter has a thread and a client of
    /// its own, which must not be built inside another's.
    ///
    /// # Errors
    /// [`TelemetryError`]
    pub fn begin(config: &TelemetryConfig, role: Role<'_>) -> Result<Self, TelemetryError> {
        // The exporter's client asks for TLS and brings none. Whoever was first is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let resource = resource(role);
        global::set_text_map_propagator(TraceContextPropagator::new());
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build();
        let reader = reader.map_err(TelemetryError::Metrics)?;
        let meters =
            SdkMeterProvider::builder().with_reader(reader).with_resource(resource.clone());
        let meters = meters.build();
        global::set_meter_provider(meters.clone());
        let traces = traces(config, resource)?;
        let layer = traces.as_ref().map(|traces| {
            let layer = tracing_opentelemetry::layer().with_tracer(traces.tracer("sandpit"));
            // Each of these would add several attributes to every span.
            let layer = layer.with_threads(false).with_tracked_inactivity(false);
            layer.with_location(false).with_target(false).with_filter(exported())
        });
        let filter = match role {
            Role::Node(_) => config.log.as_str(),
            Role::Client => "warn,rmcp=error",
        };
        let filter = EnvFilter::try_new(filter)
            .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
        let json = match config.log_format {
            LogFormat::Auto => !std::io::stderr().is_terminal(),
            LogFormat::Human => false,
            LogFormat::Json => true,
        };
        let node = match role {
            Role::Node(node) => Some(node.to_owned()),
            Role::Client => None,
        };
        let lines: Box<dyn Layer<_> + Send + Sync> = if json {
            log::json(node).with_filter(filter).boxed()
        } else {
            log::human().with_filter(filter).boxed()
        };
        let collected = Spans::default().with(layer).with(lines).try_init();
        collected.map_err(TelemetryError::Taken)?;
        Ok(Self { traces, meters, registry })
    }

    /// Whether traces go anywhere.
    pub fn exports(&self) -> bool {
        self.traces.is_some()
    }

    /// All metrics, as Prometheus reads them.
    pub fn metrics(&self) -> Metrics {
        Metrics(self.registry.clone())
    }

    /// Sends what is left, in bounded time. That it returns does not prove that anything arrived.
    pub async fn end(self) {
        let last = tokio::task::spawn_blocking(move || self.flush());
        // On the runtime's own thread this could hang and lose the spans.
        if tokio::time::timeout(SHUTDOWN_MAX, last).await.is_err() {
            tracing::warn!(within = ?SHUTDOWN_MAX, "the last traces were not sent");
        }
    }

    fn flush(self) {
        if let Some(Err(error)) =
            self.traces.map(|traces| traces.shutdown_with_timeout(SHUTDOWN_MAX))
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
        if let Err(error) = self.meters.shutdown() {
            tracing::warn!(%error, "the metrics did not end in order");
        }
    }
}

/// The metrics of this process. Clone it freely.
#[derive(Clone, Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// In the text format of Prometheus.
    ///
    /// # Errors
    /// If the collected metrics contradict each other, as two of one name and different kinds.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.gather())
    }
}

fn resource(role: Role<'_>) -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("sandpit").with_attribute(version);
    match role {
        Role::Node(node) => {
            resource.with_attribute(KeyValue::new("service.instance.id", node.to_owned())).build()
        }
        Role::Client => resource.build(),
    }
}

/// The way of traces to a collector; `None` where nobody named one.
fn traces(
    config: &TelemetryConfig,
    resource: Resource,
) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
    let builder = SpanExporter::builder().with_http();
    // What code sets hides what the environment says, so the endpoint is set only if it is ours.
    let builder = match &config.otlp_endpoint {
        Some(base) => builder.with_endpoint(format!("{}/v1/traces", base.trim_end_matches('/'))),
        None if named.iter().any(|name| settings::variable(name).is_some()) => builder,
        None => return Ok(None),
    };
    let exporter = builder.build().map_err(TelemetryError::Exporter)?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.ratio)));
    let traces = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource)
        .build();
    global::set_tracer_provider(traces.clone());
    Ok(Some(traces))
}

/// What becomes part of traces: never the exporter's own calls, which would be exported again.
fn exported() -> Targets {
    let silent = ["hyper", "hyper_util", "h2", "tonic", "tower", "reqwest", "rustls"];
    let silent = silent.into_iter().map(|target| (target, LevelFilter::OFF));
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(silent)
        .with_target("opentelemetry", LevelFilter::WARN)
}
