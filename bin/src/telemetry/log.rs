//! Log lines on standard error: for people at a terminal, one JSON object a line otherwise.

use std::fmt;

use opentelemetry::trace::TraceContextExt;
use sandpit_actors::clock::Clock;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// For people.
pub(super) fn human<S>() -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_timer(WallClock::start())
}

/// For programs.
pub(super) fn json<S>(node: Option<String>) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .fmt_fields(Members)
        .event_format(Lines { clock: WallClock::start(), node })
}

/// The hour of the day, from the one place that reads it.
#[derive(Clone, Copy, Debug)]
struct WallClock(Clock);

impl WallClock {
    fn start() -> Self {
        Self(Clock::start())
    }

    fn text(self) -> String {
        self.0.both().wall.rfc3339()
    }
}

impl tracing_subscriber::fmt::time::FormatTime for WallClock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&self.text())
    }
}

/// `ts, level, target, msg`, the fields of the event and of its spans, `trace_id` and `span_id`.
#[derive(Debug)]
struct Lines {
    clock: WallClock,
    node: Option<String>,
}

/// Keeps the fields of a span as members of a JSON object, each after a comma. Spans get fields
/// while they last, and most of them end without a line: adding is appending, and only a line reads
/// them.
#[derive(Clone, Copy, Debug)]
struct Members;

impl<'writer> FormatFields<'writer> for Members {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut appended = Appended { to: writer, outcome: Ok(()) };
        fields.record(&mut appended);
        appended.outcome
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        self.format_fields(current.as_writer(), fields)
    }
}

impl Members {
    /// The fields; where one was recorded again, the last.
    fn read(kept: &FormattedFields<Self>) -> Map<String, Value> {
        let members = kept.fields.strip_prefix(',').unwrap_or_default();
        serde_json::from_str(&format!("{{{members}}}")).unwrap_or_default()
    }
}

struct Appended<'writer> {
    to: Writer<'writer>,
    outcome: fmt::Result,
}

impl Appended<'_> {
    fn set(&mut self, field: &Field, value: impl Serialize) {
        // Those are for who gets the spans.
        if !field.name().starts_with("otel.") && self.outcome.is_ok() {
            // In pieces: several spans of each request come this way, and `write!` costs more than
            // all it writes.
            let value = serde_json::to_string(&value).map_err(|_| fmt::Error);
            self.outcome = value.and_then(|value| {
                [",\"", field.name(), "\":", &value]
                    .iter()
                    .try_for_each(|one| self.to.write_str(one))
            });
        }
    }
}

impl<S> FormatEvent<S, Members> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, Members>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        // The outermost first, so that what is closest to the event wins.
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<Members>>() {
                line.extend(Members::read(fields));
            }
        }
        if let Some(span) = context.lookup_current() {
            let trace = tracing::dispatcher::get_default(|dispatch| {
                tracing_opentelemetry::get_otel_context(&span.id(), dispatch)
            });
            if let Some(trace) = trace.filter(|trace| trace.span().span_context().is_valid()) {
                let trace = trace.span().span_context().clone();
                line.insert("trace_id".to_owned(), trace.trace_id().to_string().into());
                line.insert("span_id".to_owned(), trace.span_id().to_string().into());
            }
        }
        event.record(&mut Fields(&mut line));
        if let Some(node) = &self.node {
            line.insert("node".to_owned(), node.as_str().into());
        }
        let metadata = event.metadata();
        line.insert("ts".to_owned(), self.clock.text().into());
        line.insert("level".to_owned(), metadata.level().as_str().to_lowercase().into());
        line.insert("target".to_owned(), metadata.target().into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// The fields of one event.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value.into());
    }
}

/// Takes every kind of field as the JSON value it is.
macro_rules! visit_values {
    ($visitor:ty) => {
        impl Visit for $visitor {
            fn record_f64(&mut self, field: &Field, value: f64) {
                self.set(field, value);
            }

            fn record_i64(&mut self, field: &Field, value: i64) {
                self.set(field, value);
            }

            fn record_u64(&mut self, field: &Field, value: u64) {
                self.set(field, value);
            }

            fn record_bool(&mut self, field: &Field, value: bool) {
                self.set(field, value);
            }

            fn record_str(&mut self, field: &Field, value: &str) {
                self.set(field, value);
            }

            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.set(field, format!("{value:?}"));
            }
        }
    };
}

visit_values!(Fields<'_>);
visit_values!(Appended<'_>);

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_line_is_one_object_with_the_fields_of_its_spans() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .fmt_fields(Members)
            .event_format(Lines { clock: WallClock::start(), node: Some("n".to_owned()) });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!(
                "outer",
                sandbox = "i1",
                bytes = 1,
                reason = tracing::field::Empty,
                otel.kind = "client"
            );
            span.record("reason", "\"quoted\"\n");
            span.record("bytes", 2);
            span.in_scope(|| tracing::warn!(count = 3, ratio = 0.5, "it \"happened\"\n"));
        });
        let bytes = kept.0.lock().unwrap().clone();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        let mut line: Value = serde_json::from_slice(&bytes).unwrap();
        let line = line.as_object_mut().unwrap();
        assert!(line.remove("ts").unwrap().as_str().unwrap().ends_with('Z'));
        line.remove("target");
        let expected = serde_json::json!({
            "level": "warn", "msg": "it \"happened\"\n", "count": 3, "ratio": 0.5,
            "sandbox": "i1", "bytes": 2, "reason": "\"quoted\"\n", "node": "n"
        });
        assert_eq!(Value::Object(line.clone()), expected);
    }
}
