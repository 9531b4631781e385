//! A node of the bench's own, in this process: its data directory is kept between runs, and it
//! disturbs no other.

use std::sync::Arc;
use std::time::Duration;

use sandpit_actors::bus::Bus;
use sandpit_actors::bus::nats::{Credentials, NatsBus};
use sandpit_actors::clock::Clock;
use sandpit_config::Config;
use sandpit_messages::pool::{GetPool, Stock};
use tokio::sync::oneshot;

use super::{Bench, BenchError};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::client::{Call, Client};
use crate::node::{self, Node};
use crate::session::Endpoint;

/// What is measured.
pub(super) const TEMPLATE: &str = "trading";
/// Longest wait for a stock.
const STOCK_MAX: Duration = Duration::from_secs(60);
/// Pause between two looks at a stock.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The configured node, with a stock of so many and everything else out of the way.
pub(super) fn config(bench: &Bench, stock: usize) -> Result<Config, BenchError> {
    let mut config = bench.config.clone();
    config.data.directory = Some(bench.folder("node")?);
    config.bus.url = None;
    config.http.listen = ([127, 0, 0, 1], 0).into();
    config.e2b.listen = ([127, 0, 0, 1], 0).into();
    // Lines of every start and stop are not what is looked at here.
    "warn".clone_into(&mut config.telemetry.log);
    for (name, template) in &mut config.template {
        template.warm_target = if name == TEMPLATE { stock } else { 0 };
    }
    Ok(config)
}

/// Starts a node, measures, and has it leave.
pub(super) fn with<T>(
    bench: &Bench,
    stock: usize,
    measure: impl AsyncFnOnce(&Node) -> Result<T, BenchError>,
) -> Result<T, Failure> {
    let config = config(bench, stock).map_err(|error| failed(&error))?;
    let mut measured = None;
    node::with(config, &bench.stages, async |node| {
        let prepared = node.provider().prepare(TEMPLATE, bench.stages.hearing()).await;
        prepared.map_err(|error| failed(&error))?;
        measured = Some(measure(node).await.map_err(|error| failed(&error))?);
        Ok(Exit::Done)
    })?;
    measured.ok_or_else(|| failed(&BenchError::new("it was interrupted")))
}

pub(super) fn failed(error: &dyn std::error::Error) -> Failure {
    let what = "the bench did not run to its end";
    Failure::new(Exit::Failed, "bench_failed", what).caused_by(error).next("sandpit doctor")
}

/// Whom the bench asks as.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) client: Client,
    pub(super) clock: Clock,
}

impl Asker {
    async fn connect(endpoint: Endpoint, config: Config) -> Result<Self, BenchError> {
        let clock = Clock::start();
        let options = endpoint.options(&config.bus, "sandpit-bench", clock);
        let bus = NatsBus::connect(options).await;
        let bus = bus.map_err(|error| BenchError::of("the bus", &error))?;
        let bus: Arc<dyn Bus> = Arc::new(bus);
        Ok(Self { client: Client::new(bus, clock), clock })
    }

    /// Waits until so many are ready.
    pub(super) async fn stocked(&self, ready: usize) -> Result<(), BenchError> {
        let until = self.clock.now() + STOCK_MAX;
        loop {
            let pool = self.client.request(&GetPool {}, Call::default()).await?;
            let is_ours = |stock: &&Stock| stock.template == TEMPLATE;
            let stock = pool.templates.iter().find(is_ours);
            let here = stock.map_or(0, |stock| stock.ready);
            if usize::try_from(here).is_ok_and(|here| here >= ready) {
                return Ok(());
            }
            if let Some(why) = stock.and_then(|stock| stock.broken.as_ref()) {
                return Err(BenchError::new(format!("template {TEMPLATE} is broken: {why}")));
            }
            if self.clock.now() > until {
                return Err(BenchError::new(format!("{here} of {ready} sandboxes became ready")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Asks from a thread and a runtime of its own: the node's thread serves, and nothing else.
pub(super) async fn asking<T: Send + 'static>(
    node: &Node,
    ask: impl AsyncFnOnce(Asker) -> Result<T, BenchError> + Send + 'static,
) -> Result<T, BenchError> {
    let (endpoint, config) = (node.endpoint().clone(), node.config().clone());
    let (told, asked) = oneshot::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let measured = match runtime {
            Ok(runtime) => {
                runtime.block_on(async { ask(Asker::connect(endpoint, config).await?).await })
            }
            Err(error) => Err(BenchError::of("a runtime", &error)),
        };
        // Nobody waits any more if the node gave up.
        drop(told.send(measured));
    };
    let thread = std::thread::Builder::new().name("bench".to_owned()).spawn(work);
    thread.map_err(|error| BenchError::of("a thread", &error))?;
    asked.await.map_err(|_| BenchError::new("whoever asked ended"))?
}

/// The node's server and its own user, for the library's raw echo beside the node.
pub(super) fn raw(node: &Node) -> Result<(String, Credentials), BenchError> {
    let server = node.embedded().ok_or_else(|| BenchError::new("the node has no server"))?;
    Ok((server.url().to_owned(), server.node().clone()))
}
