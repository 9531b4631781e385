//! What members need of whoever runs agents.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sandpit_messages::agent::{AgentRun, AgentSignal, RunAgent, RunStatus};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::{Moment, Now, WallTime};

use super::AgentPlan;
use crate::agent::policy::AgentState;
use crate::agent::{self, AgentActor, Await, LookAll, Order};
use crate::clock::Clock;
use crate::supervise::ActorRef;

/// Runs agent programs in sandboxes that others keep.
pub trait Agents: fmt::Debug + Send + Sync + 'static {
    /// Starts a program. Answers once it runs, or says why it does not.
    fn launch(&self, launch: Launch) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Starts a program and waits for its end. At `until` it is halted, and what came of it by then
    /// is the answer.
    fn run(&self, launch: Launch, until: Moment) -> BoxFuture<'_, Result<AgentRun, Refusal>>;

    /// Ends a program and waits for its end, until `until`. Ending what is not there is nothing.
    fn halt(&self, tenant: Tenant, agent: AgentId, until: Moment) -> BoxFuture<'_, ()>;

    /// How all agents of a tenant are that are known.
    fn look(&self, tenant: Tenant) -> BoxFuture<'_, Vec<(AgentId, AgentView)>>;
}

/// The node's own.
#[derive(Clone, Debug)]
pub struct Desk {
    clock: Clock,
    agents: ActorRef<AgentActor>,
}

impl Desk {
    /// In front of this actor.
    pub fn new(clock: Clock, agents: ActorRef<AgentActor>) -> Self {
        Self { clock, agents }
    }
}

/// What is asked of whoever runs agents, checked as it is for a client.
///
/// # Errors
/// [`Refusal::Invalid`], naming the field and what is accepted, and [`Refusal::Unsupported`].
pub fn order(launch: Launch) -> Result<Arc<Order>, Refusal> {
    let Launch { agent, sandbox, tenant, plan } = launch;
    let ask = RunAgent {
        agent_id: None,
        sandbox_id: sandbox,
        agent_type: plan.agent_type.clone(),
        symbols: plan.symbols.clone(),
        strategy_params: plan.params.clone(),
        use_gpu: false,
        wait: None,
        strategy_id: None,
    };
    Order::check(agent, tenant, ask)
}

impl Agents for Desk {
    fn launch(&self, launch: Launch) -> BoxFuture<'_, Result<(), Refusal>> {
        let agents = self.agents.clone();
        async move { agents.ask_settled(agent::Launch { order: order(launch)? }).await?.map(drop) }
            .boxed()
    }

    fn run(&self, launch: Launch, until: Moment) -> BoxFuture<'_, Result<AgentRun, Refusal>> {
        let agents = self.agents.clone();
        let (tenant, agent) = (launch.tenant.clone(), launch.agent);
        async move {
            let order = order(launch)?;
            let exec = agents.ask_settled(agent::Launch { order }).await??.exec;
            let question = Await { tenant: tenant.clone(), exec, until };
            let run = agents.ask_settled(question).await??;
            if run.status == RunStatus::Running {
                // It is told as it was; that it cannot be halted now changes nothing about that.
                let _ = agents.ask_settled(agent::Halt { tenant, agent }).await;
            }
            Ok(run)
        }
        .boxed()
    }

    fn halt(&self, tenant: Tenant, agent: AgentId, until: Moment) -> BoxFuture<'_, ()> {
        let (agents, until) = (self.agents.clone(), self.clock.instant(until));
        let halting = async move { agents.ask_settled(agent::Halt { tenant, agent }).await };
        // What does not end by then ends with its sandbox.
        async move { drop(tokio::time::timeout_at(until, halting).await) }.boxed()
    }

    fn look(&self, tenant: Tenant) -> BoxFuture<'_, Vec<(AgentId, AgentView)>> {
        let (agents, clock) = (self.agents.clone(), self.clock);
        async move {
            let states = agents.ask_settled(LookAll(tenant)).await.unwrap_or_default();
            let now = clock.both();
            states.into_iter().map(|state| (state.agent, view(now, state))).collect()
        }
        .boxed()
    }
}

fn view(now: Now, state: AgentState) -> AgentView {
    const MICROS: f64 = 1e6;
    let stage = match state.status {
        RunStatus::Running => AgentStage::Running,
        RunStatus::Completed => AgentStage::Completed,
        RunStatus::Failed => {
            let why = state.error.unwrap_or_else(|| "its program failed".to_owned());
            AgentStage::Failed { why }
        }
    };
    // Before the first bar nothing was traded because nothing could be.
    let lived = state.pnl_microusd.is_some();
    let heard = state.last_heartbeat;
    AgentView {
        stage,
        trades: lived.then_some(state.trades),
        pnl: state.pnl_microusd.map(|micros| micros as f64 / MICROS),
        last_heartbeat: heard.map(|at| told(now, at)),
        signals: state.signals,
    }
}

/// What hour it was at a moment of this node.
fn told(now: Now, at: Moment) -> WallTime {
    let ago = u64::try_from(now.moment.since(at).as_millis()).unwrap_or(u64::MAX);
    WallTime(now.wall.0.saturating_sub(ago))
}

/// A program that is to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Who it will be.
    pub agent: AgentId,
    /// Where it runs.
    pub sandbox: SandboxId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Which program, and what it takes.
    pub plan: Arc<AgentPlan>,
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentView {
    /// Whether it runs.
    pub stage: AgentStage,
    /// Trades on its paper account; `None` if it has none.
    pub trades: Option<u64>,
    /// Profit and loss on its paper account, in dollars after fees; `None` if it has none.
    pub pnl: Option<f64>,
    /// When its program was last heard.
    pub last_heartbeat: Option<WallTime>,
    /// What its program said last.
    pub signals: Vec<AgentSignal>,
}

/// Whether an agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentStage {
    /// It does.
    Running,
    /// Its program ran to its end.
    Completed,
    /// Its program failed, or could not be run.
    Failed {
        /// Why, in one line.
        why: String,
    },
}
