//! What an embedder starts: the actors of one node, kept alive, behind one service on the bus.
//!
//! ```no_run
//! # async fn example(
//! #     ports: sandpit_actors::node::Ports,
//! #     limits: sandpit_actors::node::Limits,
//! # ) -> Result<(), sandpit_actors::bus::BusError> {
//! // On a `LocalSet`, or in an actix system: actors live on the thread that starts them.
//! let mut node = sandpit_actors::node::start(ports, limits).await?;
//! let gave_up = node.tree.watch().await;
//! println!("{gave_up}"); // end the process with code 70
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use sandpit_messages::id::NodeId;
use sandpit_sandbox::Provider;
use tokio::sync::{Notify, broadcast};

use crate::agent::{self, AgentActor, AgentEnded};
use crate::bus::{Bus, BusError, Kv, Serving, gate, idempotency};
use crate::clock::Clock;
use crate::crew::agents::{Agents, Desk};
use crate::entry::{self, Entry};
use crate::exec::{self, ExecActor};
use crate::health::{self, HealthActor};
use crate::market::{self, MarketActor, Prices};
use crate::pool::{self, PoolActor};
use crate::reaper::{self, ReaperActor};
use crate::scaler::{self, ScalerActor};
use crate::supervise::{self, ActorRef, Tree};
use crate::swarm::{self, SwarmActor};

/// What a node stands on.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Where requests come from and output goes to.
    pub bus: Arc<dyn Bus>,
    /// Where code runs.
    pub provider: Arc<dyn Provider>,
    /// Where idempotency keys are claimed (see [`entry::bucket`]); without it, repeats are noticed
    /// only by this process.
    pub keys: Option<Arc<dyn Kv>>,
    /// Where deployments and swarms are written down (see [`crate::crew::bucket`]); without it,
    /// they end with this process.
    pub records: Option<Arc<dyn Kv>>,
    /// What can be replayed as a feed; a node without prices replays nothing.
    pub prices: Option<Arc<Prices>>,
    /// Reads the time.
    pub clock: Clock,
    /// Who this node is.
    pub node: NodeId,
    /// When it started, in Unix milliseconds: tells it from its former self.
    pub run: u64,
}

/// Bounds of everything in a node. Valid already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of failing actors.
    pub supervise: supervise::policy::Limits,
    /// Of the pool.
    pub pool: pool::policy::Limits,
    /// Of executions.
    pub exec: exec::policy::Limits,
    /// Of the reaper.
    pub reaper: reaper::policy::Limits,
    /// Of deployments.
    pub scaler: scaler::policy::Limits,
    /// Of swarms.
    pub swarm: swarm::policy::Limits,
    /// Of agents.
    pub agent: agent::policy::Limits,
    /// Of replays.
    pub market: market::policy::Limits,
    /// Of requests let in.
    pub gate: gate::Limits,
    /// Of remembered idempotency keys.
    pub keys: idempotency::Limits,
}

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    /// Keeps the actors alive; [`Tree::watch`] says when it gives up.
    pub tree: Tree,
    /// Who has the sandboxes.
    pub pool: ActorRef<PoolActor>,
    /// Who runs code in them.
    pub exec: ActorRef<ExecActor>,
    /// Who ends what should have ended.
    pub reaper: ActorRef<ReaperActor>,
    /// Who keeps deployments at their size.
    pub scaler: ActorRef<ScalerActor>,
    /// Who keeps swarms.
    pub swarm: ActorRef<SwarmActor>,
    /// Who runs agents in sandboxes.
    pub agents: ActorRef<AgentActor>,
    /// Told when a run of an agent ends.
    pub agents_ended: broadcast::Sender<AgentEnded>,
    /// Answers requests, whatever face they come through.
    pub entry: Entry,
    clock: Clock,
    serving: Serving,
}

/// Questions inside an actor beyond those that its own limits bound: looks, releases, housekeeping.
const SPARE_ROOM: usize = 1_024;

/// Executions that wait for whoever counts them. More than end in a second.
const RAN_ROOM: usize = 8_192;

/// Starts the actors on this thread and serves them on the bus. Needs a `LocalSet`, or an actix
/// system, around it.
///
/// # Errors
/// [`BusError`] if the bus cannot be listened to. Nothing is left running then.
pub async fn start(ports: Ports, limits: Limits) -> Result<Node, BusError> {
    let Ports { bus, provider, keys, records, prices, clock, node, run } = ports;
    let Limits {
        supervise,
        pool,
        exec,
        reaper,
        agent,
        market,
        scaler,
        swarm,
        gate,
        keys: remembered,
    } = limits;
    let nudge = Arc::new(Notify::new());
    let mut tree = Tree::new(clock, run, supervise);

    let room = pool.waiting_max + exec.callers_max + SPARE_ROOM;
    let ports =
        pool::Ports { clock, node, provider: Arc::clone(&provider), nudge: Arc::clone(&nudge) };
    // Seeds come from the system: ids must not be guessed.
    let pool = tree.keep("pool", room, move |life| {
        PoolActor::new(life, pool.clone(), ports.clone(), rand::random())
    });

    let ran = broadcast::Sender::new(RAN_ROOM);
    let room = exec.callers_max + SPARE_ROOM;
    let ports = exec::Ports {
        clock,
        provider: Arc::clone(&provider),
        bus: Arc::clone(&bus),
        pool: pool.clone(),
        ran: ran.clone(),
    };
    let exec = tree
        .keep("exec", room, move |life| ExecActor::new(life, exec, ports.clone(), rand::random()));

    let ports = reaper::Ports { clock, provider: Arc::clone(&provider), pool: pool.clone(), nudge };
    let reaper =
        tree.keep("reaper", SPARE_ROOM, move |life| ReaperActor::new(life, reaper, ports.clone()));

    let ports = health::Ports {
        clock,
        provider: Arc::clone(&provider),
        pool: pool.clone(),
        ran: ran.clone(),
    };
    let health = tree.keep("health", SPARE_ROOM, move |life| {
        HealthActor::new(life, health::policy::Limits::default(), ports.clone())
    });

    let ports = market::Ports { clock, node, bus: Arc::clone(&bus), prices };
    let market =
        tree.keep("market", SPARE_ROOM, move |life| MarketActor::new(life, market, ports.clone()));

    let agents_ended = broadcast::Sender::new(agent::ENDED_ROOM);
    let ports = agent::Ports {
        clock,
        bus: Arc::clone(&bus),
        exec: exec.clone(),
        market: market.clone(),
        ended: agents_ended.clone(),
    };
    let agents = tree.keep("agent", SPARE_ROOM, move |life| {
        AgentActor::new(life, agent, ports.clone(), rand::random())
    });

    let desk: Arc<dyn Agents> = Arc::new(Desk::new(clock, agents.clone()));
    let ports = scaler::Ports {
        clock,
        node,
        pool: pool.clone(),
        exec: exec.clone(),
        agents: Some(Arc::clone(&desk)),
        provider: Arc::clone(&provider),
        records: records.clone(),
    };
    let scaler = tree.keep("scaler", SPARE_ROOM, move |life| {
        ScalerActor::new(life, scaler.clone(), ports.clone(), rand::random())
    });

    let ports = swarm::Ports {
        clock,
        node,
        scaler: scaler.clone(),
        agents: Arc::clone(&desk),
        ran,
        records,
    };
    let swarm = tree.keep("swarm", SPARE_ROOM, move |life| {
        SwarmActor::new(life, swarm, ports.clone(), rand::random())
    });

    let ports = entry::Ports {
        clock,
        node,
        run,
        provider,
        keys,
        pool: pool.clone(),
        exec: exec.clone(),
        reaper: reaper.clone(),
        scaler: scaler.clone(),
        swarm: swarm.clone(),
        desk,
        health,
        agents: agents.clone(),
        market,
    };
    let entry = Entry::new(ports, remembered);
    let handler = Arc::new(entry.clone());
    let serving = bus.serve(entry::service(node), gate, handler).await?;
    Ok(Node {
        tree,
        pool,
        exec,
        reaper,
        agents,
        agents_ended,
        scaler,
        swarm,
        entry,
        clock,
        serving,
    })
}

/// How long each part of leaving may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Runs that have begun.
    pub executions: Duration,
    /// The end of all sandboxes.
    pub sandboxes: Duration,
    /// The end of the actors.
    pub actors: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            executions: Duration::from_secs(30),
            sandboxes: Duration::from_secs(8),
            actors: Duration::from_secs(2),
        }
    }
}

/// How a node left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were cut off.
    pub requests_cut: usize,
    /// Sandboxes not verified to be gone.
    pub sandboxes_left: usize,
}

impl Drained {
    /// Whether nothing was cut off and nothing is left.
    pub fn is_clean(&self) -> bool {
        *self == Self { requests_cut: 0, sandboxes_left: 0 }
    }
}

impl Node {
    /// Leaves: begins nothing new, lets runs end, answers what it was asked, then destroys every
    /// sandbox and ends the actors.
    pub async fn drain(self, patience: Patience) -> Drained {
        let Self { tree, pool, exec, scaler, swarm, entry, clock, serving, .. } = self;
        entry.drain();
        // One that is starting over makes nothing either: the pool refuses from its close on.
        let _ = swarm.ask_settled(swarm::Close).await;
        let _ = scaler.ask_settled(scaler::Close).await;
        let until = clock.now() + patience.executions;
        // An actor that is starting over has interrupted its runs already.
        let _ = exec.ask_settled(exec::Close { until }).await;
        let until = clock.now() + patience.sandboxes;
        let (left, closed) = join(serving.leave(), pool.ask_settled(pool::Close { until })).await;
        // A pool that fails now leaves its sandboxes to the next start of the node.
        let sandboxes_left = closed.unwrap_or(usize::MAX);
        tree.stop(patience.actors).await;
        Drained { requests_cut: left.cut, sandboxes_left }
    }
}
