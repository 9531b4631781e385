//! The whole demonstration: prices, a node, the swarm, and the look back.

use std::path::Path;
use std::sync::Arc;

use sandpit_actors::bus::Bus;
use sandpit_actors::bus::nats::NatsBus;
use sandpit_actors::clock::Clock;
use sandpit_config::prices::PriceBook;
use sandpit_config::{Config, Folder, LogFormat};
use sandpit_messages::time::Moment;

use super::agent::TEMPLATE;
use super::leftovers::{Leftovers, Watch};
use super::live::Live;
use super::plan::{self, Part};
use super::report::{Ended, Report, SCHEMA, Swarm, Walls};
use super::swarm::{self, Worked};
use super::tables;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::out::{self, Out};
use crate::cli::progress::Stages;
use crate::client::Client;
use crate::market::{self, Market};
use crate::node::{self, Node};
use crate::settings;

/// What may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Agents, [`plan::AGENTS_MIN`] to [`plan::AGENTS_MAX`].
    pub agents: u32,
    /// What the desks' draws begin with.
    pub seed: u64,
}

/// Under which name sandboxes find the prices: `/data/market`.
const MOUNT: &str = "market";
/// This program, even if its file was replaced meanwhile.
const PROGRAM: &str = "/proc/self/exe";

/// Does all of it and prints the report.
///
/// # Errors
/// A [`Failure`] if it did not come to a report.
pub fn run(options: Options, mut config: Config, out: Out) -> Result<Exit, Failure> {
    let clock = Clock::start();
    let data = settings::data_directory(&config);
    let data = std::path::absolute(&data).unwrap_or(data);
    let mut watch = Watch::begin(&data);
    let stages = Stages::begin("sandpit demo", out.quiet);
    let market = prices(&data.join("market"), &config, &stages)?;
    let fetched = clock.now();
    adapt(&mut config, &market);

    let mut worked = None;
    let (mut began, mut ended) = (fetched, fetched);
    let left = node::with(config, &stages, async |node| {
        prepare(node, &stages).await?;
        let client = connect(node).await?;
        swarm::filled(&client).await;
        stages.end();
        began = clock.now();
        let parts = plan::parts(options.agents, options.seed);
        let cut_short = CutShort::armed();
        worked = Some(work(node, &client, parts, &mut watch, out).await?);
        cut_short.disarm();
        ended = clock.now();
        Ok(Exit::Done)
    });
    stages.end();
    let mut leftovers = runtime()?.block_on(watch.settled());
    let over = clock.now();
    let left = left?;
    let Some(Worked { workers, stock, cache, waited, held }) = worked else {
        return Ok(interrupted(&leftovers));
    };
    leftovers.sandboxes = held;
    let wall = Walls {
        data_ms: millis(fetched, Moment::START),
        node_ms: millis(began, fetched),
        swarm_ms: millis(ended, began),
        teardown_ms: millis(over, ended),
        total_ms: millis(over, Moment::START),
    };
    let swarm = Swarm(&workers);
    let cost = super::costs::estimate(&PriceBook::builtin(), &swarm.usage(waited));
    let cost = cost.expect("the price book comes with this version");
    let report = swarm.report(options.seed, market, &stock, cache, cost).closed(
        leftovers,
        watch.seen(),
        wall,
    );
    tell(&report, out);
    Ok(if report.ended == Ended::Ok { left } else { Exit::Failed })
}

/// For what is waited for while there is no node.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Failed, "internal", "the demonstration cannot wait").caused_by(&error)
    })
}

/// The prices, fetched unless they are there.
fn prices(home: &Path, config: &Config, stages: &Stages) -> Result<Market, Failure> {
    stages.step("getting prices", None);
    runtime()?.block_on(async {
        tokio::select! {
            market = market::ready(home, config.provider.local.python.as_deref()) => {
                market.map_err(|error| no_prices(&error, error.exit()))
            }
            _ = tokio::signal::ctrl_c() => {
                let what = "interrupted while getting prices; nothing was started";
                Err(Failure::new(Exit::Interrupted, "interrupted", what))
            }
        }
    })
}

fn no_prices(error: &dyn std::error::Error, exit: Exit) -> Failure {
    Failure::new(exit, "no_prices", "the demonstration has no prices").caused_by(error)
}

/// A node of its own: it joins nobody's bus, takes any port, keeps stock of the one template that
/// is used, and traces everything.
fn adapt(config: &mut Config, market: &Market) {
    config.bus.url = None;
    config.http.listen.set_port(0);
    config.e2b.listen.set_port(0);
    config.telemetry.ratio = 1.0;
    if config.telemetry.log_format == LogFormat::Auto {
        config.telemetry.log_format = LogFormat::Human;
    }
    for (name, template) in &mut config.template {
        if name == TEMPLATE {
            template.data.retain(|folder| folder.name != MOUNT);
            template.data.push(Folder { name: MOUNT.to_owned(), path: market.folder.clone() });
        } else {
            template.warm_target = 0;
        }
    }
}

/// Builds the template where that was never done.
async fn prepare(node: &Node, stages: &Stages) -> Result<(), Failure> {
    stages.step("building the template `trading`", None);
    let prepared = node.provider().prepare(TEMPLATE, stages.hearing()).await;
    prepared.map(drop).map_err(|error| {
        Failure::new(Exit::Failed, "no_template", "the template `trading` cannot be built")
            .caused_by(&error)
            .next("sandpit doctor")
    })
}

/// The demonstration's own way to the node: as a client like any other.
async fn connect(node: &Node) -> Result<Client, Failure> {
    let options = node.endpoint().options(&node.config().bus, "sandpit-demo", node.clock());
    let bus = NatsBus::connect(options).await;
    let bus: Arc<dyn Bus> = Arc::new(bus.map_err(|error| Failure::no_node(error.to_string()))?);
    Ok(Client::new(bus, node.clock()))
}

async fn work(
    node: &Node,
    client: &Client,
    parts: Vec<Part>,
    watch: &mut Watch,
    out: Out,
) -> Result<Worked, Failure> {
    let endpoint = node.endpoint();
    let (Some(url), Some(credentials)) = (endpoint.urls.first(), &endpoint.credentials) else {
        return Err(Failure::no_node("its bus has no address or no user"));
    };
    let live = Live::begin(&parts, out.quiet);
    let bus = swarm::Bus { url, credentials, client };
    let worked = swarm::work(Path::new(PROGRAM), bus, parts, &live, watch).await;
    worked.map_err(|error| {
        Failure::new(Exit::Failed, "no_agents", "the agents cannot be started").caused_by(&error)
    })
}

/// Says that it goes on when the swarm is cut short: the node may take seconds to leave, and somebody
/// who pressed Ctrl-C would press it again.
#[derive(Debug)]
struct CutShort {
    is_armed: bool,
}

impl CutShort {
    fn armed() -> Self {
        Self { is_armed: true }
    }

    fn disarm(mut self) {
        self.is_armed = false;
    }
}

impl Drop for CutShort {
    fn drop(&mut self) {
        if self.is_armed {
            out::note("\ncut short; agents are gone, executions and sandboxes are being ended");
        }
    }
}

fn interrupted(leftovers: &Leftovers) -> Exit {
    match leftovers.count() {
        0 => out::note("interrupted; agents, sandboxes and the node are gone, nothing is left"),
        left => out::note(&format!("interrupted; {left} things are left: {leftovers:?}")),
    }
    Exit::Interrupted
}

fn tell(report: &Report, out: Out) {
    if out.json {
        out.document(SCHEMA, report);
    } else {
        out::line(&tables::render(report, out::is_terminal()));
    }
}

fn millis(later: Moment, earlier: Moment) -> u64 {
    u64::try_from(later.since(earlier).as_millis()).unwrap_or(u64::MAX)
}
