//! What becomes of each agent.

use sandpit_messages::agent::{AgentSignal, RunStatus};
use sandpit_messages::id::{AgentId, ExecId, SandboxId};
use sandpit_messages::time::Moment;

/// How an agent is.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentState {
    /// Who it is.
    pub agent: AgentId,
    /// The run of it that is under way, or was the last.
    pub exec: ExecId,
    /// Where that ran.
    pub sandbox: SandboxId,
    /// As it was asked for.
    pub agent_type: String,
    /// How it is.
    pub status: RunStatus,
    /// Whether it was halted.
    pub halted: bool,
    /// When the run began.
    pub started: Moment,
    /// When it ended.
    pub ended: Option<Moment>,
    /// When its program last answered.
    pub last_heartbeat: Option<Moment>,
    /// Cells run in its sandbox.
    pub executions: u64,
    /// Trades filled, in all its runs.
    pub trades: u64,
    /// Profit and loss on paper in micro-dollars, after all costs; `None` before the first bar.
    pub pnl_microusd: Option<i64>,
    /// What its program said last.
    pub signals: Vec<AgentSignal>,
    /// Why it failed.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {}
