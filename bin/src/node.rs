//! One node: builds what it is made of, waits, and leaves in order.

mod clouds;
pub mod embedded;
pub mod identity;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::System;
use axum::Router;
use sandpit_actors::bus::nats::{ConnectError, Credentials, NatsBus};
use sandpit_actors::bus::{Bus, BusState};
use sandpit_actors::clock::Clock;
use sandpit_actors::crew;
use sandpit_actors::embed::{EmbedError, Embedded, Life};
use sandpit_actors::market::Prices;
use sandpit_actors::node::{self, Drained, Patience, Ports};
use sandpit_actors::{entry, exec};
use sandpit_config::{Config, MarketConfig, ProviderKind};
use sandpit_messages::id::NodeId;
use sandpit_sandbox::Provider;
use sandpit_sandbox::local::{Launcher, LocalProvider};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::progress::Stages;
use crate::e2b::{self, Facade};
use crate::http::{Health, Http, NotListening};
use crate::limits;
use crate::mcp::http::Door;
use crate::mcp::{self, Face};
use crate::session::Endpoint;
use crate::telemetry::{Metrics, Role, Telemetry};
use identity::Identity;

/// A thread on which nothing moved for so long is stuck, and with it every request.
const STALL_MAX: Duration = Duration::from_secs(15);
/// What ending requests, sandboxes and the server may take beyond the executions' own time.
const FORCED_AFTER: Duration = Duration::from_secs(10);

/// Characters of a token that is not to be guessed.
const TOKEN_MIN: usize = 16;

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    data: PathBuf,
    clock: Clock,
    config: Config,
    endpoint: Endpoint,
    embedded: Option<Embedded>,
    provider: Arc<dyn Provider>,
    /// The engine, if it makes the sandboxes.
    local: Option<LocalProvider>,
    draining: Arc<AtomicBool>,
    http: Http,
    e2b: Facade,
}

/// How a node's time ended.
enum Ended {
    /// Whoever started it is done with it.
    Done(Result<Exit, Failure>),
    /// It was asked to.
    Asked,
    /// A part of it failed too often.
    GaveUp(Failure),
}

/// Starts a node, does `work` while it serves, and has it leave. A signal, or a part of the node
/// that fails too often, ends the work early.
///
/// # Errors
/// The [`Failure`] of the start, of the work, or of the part that gave up.
pub fn with(
    config: Config,
    stages: &Stages,
    work: impl AsyncFnOnce(&Node) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let identity = Identity::take(&config)?;
    let telemetry = Telemetry::begin(&config.telemetry, Role::Node(identity.node.as_str()));
    let telemetry = telemetry
        .map_err(|error| Failure::usage("the telemetry cannot begin").caused_by(&error))?;
    System::new().block_on(async {
        let outcome = async {
            let metrics = telemetry.metrics();
            let (node, actors) = Node::start(config, &identity, metrics, stages).await?;
            node.attend(actors, work).await
        };
        let outcome = outcome.await;
        telemetry.end().await;
        outcome
    })
}

impl Node {
    /// Builds everything and begins to serve.
    ///
    /// # Errors
    /// A [`Failure`] that names what is missing and what to do. What was started by then ends.
    async fn start(
        config: Config,
        identity: &Identity,
        metrics: Metrics,
        stages: &Stages,
    ) -> Result<(Self, node::Node), Failure> {
        let clock = Clock::start();
        let run = clock.both().wall.0;
        let (id, data) = (identity.node, identity.data.clone());
        let (provider, local): (Arc<dyn Provider>, _) = match config.provider.kind {
            ProviderKind::Local => {
                stages.step("looking at what this machine allows", None);
                let local = local(&config, id, &data).await?;
                (Arc::new(local.clone()), Some(local))
            }
            ProviderKind::E2b => (Arc::new(clouds::guarded(&config, id, clock)?), None),
        };
        let embedded = match config.bus.url {
            Some(_) => None,
            None => Some(embedded::start(&config, &data, stages, clock).await.map_err(no_server)?),
        };
        let (endpoint, own) = endpoints(&config, embedded.as_ref());
        stages.step("connecting to the bus", None);
        let connect = |name| NatsBus::connect(own.options(&config.bus, name, clock));
        let bus = connect("sandpit-data").await.map_err(no_bus)?;
        // What is asked and answered must not wait behind what is written down.
        let control = connect("sandpit-control").await.map_err(no_bus)?;
        let keys = control.kv(entry::bucket()).await;
        let keys = keys.map_err(|error| unusable_bus().caused_by(&error))?;
        let records = control.kv(crew::bucket()).await;
        let records = records.map_err(|error| unusable_bus().caused_by(&error))?;
        let ports = Ports {
            bus: Arc::new(bus.clone()),
            provider: Arc::clone(&provider),
            keys: Some(keys),
            records: Some(records),
            prices: prices(&config.market)?,
            clock,
            node: id,
            run,
        };
        let actors = Box::pin(node::start(ports, limits::node(&config))).await;
        let mut actors = actors.map_err(|error| unusable_bus().caused_by(&error))?;
        bus.barrier().await.map_err(|error| unusable_bus().caused_by(&error))?;
        actors.tree.watch_thread(STALL_MAX, end_stalled);
        let draining = Arc::new(AtomicBool::new(false));
        let health = health(&draining, bus.changes(), actors.tree.hung());
        let tools = tools(&config, &endpoint)?;
        let http = Http::listen(config.http.listen, health, metrics, tools);
        let http = http.await.map_err(no_http)?;
        let e2b = Facade::listen(&config, &data, actors.entry.direct());
        let e2b = e2b.await.map_err(no_e2b)?;
        let node = Self {
            id,
            data,
            clock,
            config,
            endpoint,
            embedded,
            provider,
            local,
            draining,
            http,
            e2b,
        };
        Ok((node, actors))
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where it keeps its things.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it was started with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Where its clients find it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where its HTTP face listens.
    pub fn http(&self) -> std::net::SocketAddr {
        self.http.address()
    }

    /// Where E2B's SDKs find it.
    pub fn e2b(&self) -> std::net::SocketAddr {
        self.e2b.address()
    }

    /// Where its sandboxes are made.
    pub fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    /// The nats-server it started, if it did.
    pub fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_ref()
    }

    /// Serves until `work` is done, a signal comes, or a part of it gives up; then leaves.
    async fn attend(
        self,
        mut actors: node::Node,
        work: impl AsyncFnOnce(&Self) -> Result<Exit, Failure>,
    ) -> Result<Exit, Failure> {
        let mut signals = Signals::new()?;
        let server = self.embedded.as_ref().map(Embedded::life);
        let ended = tokio::select! {
            done = work(&self) => Ended::Done(done),
            () = signals.next() => Ended::Asked,
            gave_up = actors.tree.watch() => Ended::GaveUp(gave_up_for(&gave_up)),
            why = server_gone(server) => Ended::GaveUp(gave_up_for(&why)),
        };
        tracing::info!(node = %self.id, "leaving");
        let forced_after = self.config.drain.executions_max + FORCED_AFTER;
        let drained = tokio::time::timeout(forced_after, self.leave(actors, &mut signals)).await;
        let forced = |why| {
            let what = "the node had to end before its work had";
            Failure::new(Exit::Forced, "forced", what).because(why)
        };
        match (ended, drained) {
            (Ended::GaveUp(failure), _) => Err(failure),
            (Ended::Done(Err(failure)), _) => Err(failure),
            (_, Err(_)) => Err(forced(format!("it did not leave within {forced_after:?}"))),
            (_, Ok(Drained { sandboxes_left: left @ 1.., .. })) => {
                Err(forced(format!("{left} sandboxes were not verified to be gone")))
            }
            (Ended::Done(Ok(exit)), Ok(_)) => Ok(exit),
            (Ended::Asked, Ok(Drained { requests_cut: 0, .. })) => Ok(Exit::Done),
            (Ended::Asked, Ok(Drained { requests_cut, .. })) => {
                Err(forced(format!("{requests_cut} requests were cut")))
            }
        }
    }

    /// Leaves in order. A further signal ends the executions at once.
    async fn leave(self, actors: node::Node, signals: &mut Signals) -> Drained {
        self.draining.store(true, Ordering::Release);
        let (exec, clock) = (actors.exec.clone(), self.clock);
        let patience =
            Patience { executions: self.config.drain.executions_max, ..Patience::default() };
        let mut drain = std::pin::pin!(actors.drain(patience));
        let drained = tokio::select! {
            drained = &mut drain => drained,
            () = signals.next() => {
                tracing::warn!("a second signal: executions end now");
                let close = exec.ask(exec::Close { until: clock.now() });
                // An actor that is gone runs nothing, so only the drain's word counts.
                futures_util::future::join(drain, close).await.0
            }
        };
        if let Some(local) = self.local {
            local.close().await;
        }
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
        drained
    }
}

/// The engine, whose inner processes are this program started again.
///
/// # Errors
/// A [`Failure`] that names what the machine refuses.
pub async fn local(config: &Config, node: NodeId, data: &Path) -> Result<LocalProvider, Failure> {
    let options = limits::local(config, node, data).map_err(|error| {
        Failure::new(Exit::Usage, "invalid_setting", "a template cannot be set up")
            .caused_by(&error)
    })?;
    LocalProvider::start(options, Launcher::CurrentExe).await.map_err(|error| {
        let what = "no sandboxes can be made on this machine";
        Failure::new(Exit::Failed, "engine_unusable", what).caused_by(&error).next("sandpit doctor")
    })
}

/// The prices that the node replays, if it has any.
///
/// # Errors
/// A [`Failure`] that names the file, and the line that is no prices.
fn prices(config: &MarketConfig) -> Result<Option<Arc<Prices>>, Failure> {
    let Some(path) = &config.prices else { return Ok(None) };
    let named = path.display();
    let failed = |what: String| Failure::usage(what).next("sandpit config show");
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| {
        failed(format!("market.prices: {named} cannot be read")).caused_by(&error)
    })?;
    let source = config.source.clone().unwrap_or_else(|| named.to_string());
    let prices = Prices::read(&text, source);
    let prices = prices.map_err(|error| {
        failed(format!("market.prices: {named} holds no prices")).caused_by(&error)
    })?;
    Ok(Some(Arc::new(prices)))
}

/// Where clients find the node, and where it connects itself.
fn endpoints(config: &Config, embedded: Option<&Embedded>) -> (Endpoint, Endpoint) {
    let Some(server) = embedded else {
        let endpoint = Endpoint::of_url(config.bus.url.as_deref().unwrap_or_default());
        return (endpoint.clone(), endpoint);
    };
    let of = |credentials: &Credentials| Endpoint {
        urls: vec![server.url().to_owned()],
        credentials: Some(credentials.clone()),
        embedded: true,
    };
    (of(server.client()), of(server.node()))
}

/// The tools over HTTP, for whoever may use them.
fn tools(config: &Config, endpoint: &Endpoint) -> Result<Router, Failure> {
    let token = match &config.http.token_file {
        Some(file) => Some(token(file)?),
        None => None,
    };
    let door = Door::of(config.http.listen.ip().is_loopback(), token.as_deref());
    let face = Face::new(endpoint.clone(), config.bus.clone());
    Ok(mcp::http::routes(door, move || face.clone()))
}

/// The first line of a file.
fn token(file: &Path) -> Result<String, Failure> {
    let unusable = || {
        let what = format!("http.token_file is {}, which holds no token", file.display());
        Failure::new(Exit::Usage, "invalid_setting", what)
            .next("write at least 16 characters into its first line")
    };
    let text = std::fs::read_to_string(file).map_err(|error| unusable().caused_by(&error))?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.len() < TOKEN_MIN { Err(unusable()) } else { Ok(token.to_owned()) }
}

/// What `/healthz` answers.
fn health(
    draining: &Arc<AtomicBool>,
    bus: watch::Receiver<BusState>,
    hung: watch::Receiver<usize>,
) -> Health {
    let draining = Arc::clone(draining);
    Arc::new(move || {
        if draining.load(Ordering::Acquire) {
            return Err("draining");
        }
        match *bus.borrow() {
            BusState::Connected { .. } if *hung.borrow() == 0 => Ok(()),
            BusState::Connected { .. } => Err("an actor hangs"),
            BusState::Down | BusState::Draining => Err("not connected to the bus"),
        }
    })
}

/// SIGTERM and Ctrl-C.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let heard = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, "internal", "signals cannot be heard").caused_by(&error)
            })
        };
        let (terminate, interrupt) =
            (heard(SignalKind::terminate())?, heard(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}

/// The nats-server of our own cannot be kept alive.
#[derive(Debug, thiserror::Error)]
#[error("nats-server: {why}")]
struct ServerGone {
    why: String,
}

async fn server_gone(life: Option<watch::Receiver<Life>>) -> ServerGone {
    let Some(mut life) = life else { return std::future::pending().await };
    let gave_up = life.wait_for(|life| matches!(life, Life::GaveUp { .. })).await;
    let why = match gave_up.as_deref() {
        Ok(Life::GaveUp { why }) => why.clone(),
        // Its keeper ended with it.
        _ => "its keeper ended".to_owned(),
    };
    ServerGone { why }
}

#[expect(clippy::disallowed_methods, reason = "the thread that would return from main is stuck")]
fn end_stalled() {
    tracing::error!(stalled = ?STALL_MAX, "the node's thread is stuck; ending");
    std::process::exit(Exit::Internal.number().into());
}

fn gave_up_for(why: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Internal, "gave_up", "the node gave up: a part of it failed too often")
        .caused_by(why)
        .next("start it again")
        .next("sandpit doctor")
}

fn no_server(error: EmbedError) -> Failure {
    let exit = match error {
        EmbedError::NotFound { .. } | EmbedError::NotStarted { .. } => Exit::NoServer,
        EmbedError::File { .. } => Exit::Failed,
        EmbedError::Open { .. } => Exit::Denied,
    };
    Failure::new(exit, "no_server", "the node has no nats-server").caused_by(&error)
}

fn no_bus(error: ConnectError) -> Failure {
    let exit = match error {
        ConnectError::TooOld { .. } | ConnectError::NoJetStream { .. } => Exit::NoServer,
        ConnectError::Unreachable { .. } | ConnectError::Unusable { .. } => Exit::Unavailable,
    };
    Failure::new(exit, "no_bus", "the node cannot join the bus").because(error.to_string())
}

fn unusable_bus() -> Failure {
    Failure::new(Exit::Unavailable, "no_bus", "the bus does not do what it should")
}

fn no_http(error: NotListening) -> Failure {
    Failure::new(Exit::Conflict, "not_listening", "the HTTP face cannot listen")
        .caused_by(&error)
        .next("sandpit up --set http.listen=127.0.0.1:0")
}

fn no_e2b(error: e2b::NotListening) -> Failure {
    Failure::new(Exit::Conflict, "not_listening", "the face for E2B's SDKs cannot listen")
        .caused_by(&error)
        .next("sandpit up --set e2b.listen=127.0.0.1:0")
}
