//! What members need of whoever runs agents.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::{Moment, WallTime};
use serde_json::{Map, Value};

use super::AgentPlan;

/// Runs agent programs in sandboxes that others keep.
pub trait Agents: fmt::Debug + Send + Sync + 'static {
    /// Starts a program. Answers once it runs, or says why it does not.
    fn launch(&self, launch: Launch) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Ends a program and waits for its end, until `until`. Ending what is not there is nothing.
    fn halt(&self, agent: AgentId, until: Moment) -> BoxFuture<'_, ()>;

    /// How these are, of those that are known.
    fn look(&self, agents: Vec<AgentId>) -> BoxFuture<'_, Vec<(AgentId, AgentView)>>;
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
    /// What its program found, once it has ended.
    pub results: Option<Map<String, Value>>,
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
