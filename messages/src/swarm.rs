//! The conversation about swarms: agents that work together under one name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::deployment::{Approval, Failure};
use crate::id::{AgentId, ExecId, SandboxId, SwarmId};
use crate::subject::{Patience, Replay, Request, Verb};

mod look;

pub use look::{
    AgentHealth, AgentMetrics, Aggregation, Alert, Alerts, Covers, Figures, GetSwarmHealth,
    GetSwarmMetrics, GetSwarmStatus, HealthMetrics, Metric, Severity, StatusMetrics, SwarmAgent,
    SwarmHealth, SwarmLevel, SwarmMetrics, SwarmState, SwarmStatus, TimeRange, Totals,
};

/// Who of a swarm may talk to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Topology {
    /// Everybody to everybody.
    Mesh,
    /// A parent and its children, four at most.
    Hierarchical,
    /// Each to the next.
    Ring,
    /// All to the first, and the first to all.
    Star,
}

/// Which agent gets a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Strategy {
    /// The least busy.
    #[default]
    Balanced,
    /// The first that is free.
    Aggressive,
    /// The least busy.
    Conservative,
    /// The least busy, until there are scores to choose by.
    Adaptive,
}

/// "Let there be a swarm." No agent is started by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InitSwarm {
    /// Who may talk to whom.
    pub topology: Topology,
    /// Most agents it may have, 1 to 50.
    #[serde(rename = "maxAgents", alias = "max_agents", default = "agents_max_default")]
    #[schemars(range(min = 1, max = 50))]
    pub max_agents: i64,
    /// Which agent gets a task.
    #[serde(default)]
    pub strategy: Strategy,
    /// Whether its agents are to share memory.
    #[serde(rename = "sharedMemory", alias = "shared_memory", default = "yes")]
    pub shared_memory: bool,
    /// Whether the load rules may change how many agents it has.
    #[serde(rename = "autoScale", alias = "auto_scale", default)]
    pub auto_scale: bool,
    /// What it is called, 1 to 128 characters; without it, its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where its orders go. There is only `paper`.
    #[serde(default = "paper")]
    pub network: String,
}

fn agents_max_default() -> i64 {
    5
}

fn yes() -> bool {
    true
}

fn paper() -> String {
    "paper".to_owned()
}

/// The swarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmMade {
    /// Its id.
    pub swarm_id: SwarmId,
    /// What it is called.
    pub name: String,
    /// Who may talk to whom.
    pub topology: Topology,
    /// Most agents it may have.
    pub max_agents: u32,
    /// Always `active`: the record is there.
    pub status: MadeStatus,
    /// When, RFC 3339.
    pub created_at: String,
    /// What a full swarm could decide together.
    pub decision: Decision,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How far a swarm is in being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum MadeStatus {
    /// Its record is written.
    Active,
}

/// What so many agents can decide together when each signs its vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Decision {
    /// Agents.
    pub n: u32,
    /// Liars among them that change no decision: (n - 1) / 3, rounded down.
    pub f: u32,
    /// Equal votes a decision takes: (n + f) / 2, rounded down, and one more.
    pub quorum: u32,
    /// Whether a liar is tolerated at all.
    pub byzantine_tolerant: bool,
}

impl Decision {
    /// Of `n` agents. Two quorums share at least one agent that does not lie: Malkhi and Reiter,
    /// "Byzantine quorum systems", 1998.
    pub const fn of(n: u32) -> Self {
        let f = n.saturating_sub(1) / 3;
        Self { n, f, quorum: (n + f) / 2 + 1, byzantine_tolerant: f > 0 }
    }
}

impl Request for InitSwarm {
    type Reply = SwarmMade;
    const VERB: Verb = Verb::new("swarm-init");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::CHANGE;
}

/// "Give it an agent."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployAgent {
    /// Which swarm.
    pub swarm_id: SwarmId,
    /// Which program, as for `run_e2b_agent`.
    pub agent_type: String,
    /// What it looks at or trades, 1 to 50 symbols.
    pub symbols: Vec<String>,
    /// What its program takes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub strategy_params: Map<String, Value>,
    /// What its sandbox may use.
    #[serde(default)]
    pub resources: AgentResources,
}

/// What the sandbox of an agent may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(inline)]
pub struct AgentResources {
    /// Memory in MiB, 256 to 4096.
    pub memory_mb: u32,
    /// Processors, 1 to 4.
    pub cpu_count: u32,
    /// Whether it needs a GPU, which only a provider that has one grants.
    pub gpu_enabled: bool,
}

impl Default for AgentResources {
    fn default() -> Self {
        Self { memory_mb: 512, cpu_count: 1, gpu_enabled: false }
    }
}

/// An agent of a swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentDeployed {
    /// Its id. It keeps it when its sandbox is replaced.
    pub agent_id: AgentId,
    /// Its swarm.
    pub swarm_id: SwarmId,
    /// Which program, as it was asked for.
    pub agent_type: String,
    /// The sandbox it runs in.
    pub sandbox_id: SandboxId,
    /// What it is doing.
    pub status: AgentStatus,
    /// When, RFC 3339.
    pub deployed_at: String,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What an agent of a swarm is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AgentStatus {
    /// Its sandbox or its program is on the way.
    Deploying,
    /// Its program runs.
    Running,
    /// Its program ran to its end.
    Completed,
    /// Its program failed; it is started again after a pause.
    Error,
    /// It is leaving.
    Draining,
}

impl Request for DeployAgent {
    type Reply = AgentDeployed;
    const VERB: Verb = Verb::new("swarm-deploy");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::FLEET;
}

/// How fast a swarm changes its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ScaleMode {
    /// All at once.
    Immediate,
    /// Two at a time, 5 s apart.
    #[default]
    Gradual,
    /// As gradual, and no further while more than 5 of 100 executions fail.
    Adaptive,
}

/// "Let it have so many agents."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScaleSwarm {
    /// Which swarm.
    pub swarm_id: SwarmId,
    /// How many agents it is to have.
    #[schemars(range(min = 1, max = 50))]
    pub target_agents: i64,
    /// How fast.
    #[serde(default)]
    pub scale_mode: ScaleMode,
    /// Whether the state of agents that leave is kept for the next of their type.
    #[serde(default = "yes")]
    pub preserve_state: bool,
}

/// How a swarm changes its size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmScaled {
    /// The swarm.
    pub swarm_id: SwarmId,
    /// Agents it had.
    pub previous_agents: u32,
    /// Agents it is to have.
    pub target_agents: u32,
    /// Agents it has, without those that are leaving.
    pub current_agents: u32,
    /// How far it is.
    pub status: crate::deployment::ScaleStatus,
    /// When the last step is due, RFC 3339; absent once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion: Option<String>,
    /// Agents that could not be started yet, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// The part of the wish that waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Request for ScaleSwarm {
    type Reply = SwarmScaled;
    const VERB: Verb = Verb::new("swarm-scale");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::FLEET;
}

/// How the agents of a swarm take part in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Coordination {
    /// All at once.
    #[default]
    Parallel,
    /// One after the other, each with what those before it found.
    Sequential,
    /// All at once, and the rest stopped when a decision is certain or impossible. Without a
    /// decision, as `parallel`.
    Adaptive,
}

/// "Let all agents run this once."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSwarm {
    /// Which swarm.
    pub swarm_id: SwarmId,
    /// Which program, as for `run_e2b_agent`.
    pub strategy: String,
    /// What it takes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// How the agents take part.
    #[serde(default)]
    pub coordination: Coordination,
    /// Seconds it may take, 1 to 3600.
    #[serde(default = "run_timeout_default")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout: i64,
    /// Whether the signals are to become one decision.
    #[serde(default = "yes")]
    pub decide: bool,
}

fn run_timeout_default() -> i64 {
    300
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmRan {
    /// This run.
    pub execution_id: ExecId,
    /// The swarm.
    pub swarm_id: SwarmId,
    /// Which program.
    pub strategy: String,
    /// How it ended.
    pub status: RunStatus,
    /// Agents that ran it to its end.
    pub agents_executed: u32,
    /// Trades of it on the paper accounts; absent if no program reported any figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_trades: Option<u64>,
    /// Profit and loss on the paper accounts, in dollars after fees; absent likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_pnl: Option<f64>,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// Each agent's part.
    pub per_agent: Vec<AgentRan>,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How a run of a swarm ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RunStatus {
    /// At least one agent ran it to its end.
    Completed,
    /// None did.
    Failed,
    /// Its time was over before any did.
    Timeout,
}

/// One agent's part in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct AgentRan {
    /// Which agent.
    pub agent_id: AgentId,
    /// How its part ended.
    pub status: RunStatus,
    /// What its program found: `signals`, `metrics` and `data` as for `run_e2b_agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Map<String, Value>>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Request for RunSwarm {
    type Reply = SwarmRan;
    const VERB: Verb = Verb::new("swarm-run");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::RUN;
}

/// "End it."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StopSwarm {
    /// Which swarm.
    pub swarm_id: SwarmId,
    /// Seconds its agents may take to end by themselves, 0 to 3600.
    #[serde(default = "grace_default")]
    #[schemars(range(min = 0, max = 3600))]
    pub grace_period: i64,
    /// Whether the last state of each agent is kept.
    #[serde(default = "yes")]
    pub save_state: bool,
    /// Waits for nothing.
    #[serde(default)]
    pub force: bool,
}

fn grace_default() -> i64 {
    60
}

/// The end of a swarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmStopped {
    /// Which.
    pub swarm_id: SwarmId,
    /// `stopped` only when every sandbox of it is verified to be gone.
    pub status: StopStatus,
    /// Agents that were stopped.
    pub agents_stopped: u32,
    /// Whether the last state of each agent was written to the record.
    pub state_saved: bool,
    /// When it was shut down, RFC 3339.
    pub shutdown_at: String,
    /// What it did in its life.
    pub final_metrics: Totals,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How far the end of a swarm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum StopStatus {
    /// Agents are leaving, or their sandboxes are not verified to be gone.
    ShuttingDown,
    /// Nothing of it runs.
    Stopped,
}

impl Request for StopSwarm {
    type Reply = SwarmStopped;
    const VERB: Verb = Verb::new("swarm-stop");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::FLEET;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_four_agents_tolerate_a_liar() {
        let quorum = |n| {
            let Decision { f, quorum, byzantine_tolerant, .. } = Decision::of(n);
            (f, quorum, byzantine_tolerant)
        };
        assert_eq!(quorum(0), (0, 1, false));
        assert_eq!(quorum(3), (0, 2, false));
        assert_eq!(quorum(4), (1, 3, true));
        assert_eq!(quorum(6), (1, 4, true));
        assert_eq!(quorum(7), (2, 5, true));
    }

    #[test]
    fn both_spellings_of_an_argument_are_read() {
        let camel = r#"{"topology": "mesh", "maxAgents": 3, "sharedMemory": false}"#;
        let snake = r#"{"topology": "mesh", "max_agents": 3, "shared_memory": false}"#;
        let [camel, snake]: [InitSwarm; 2] =
            [camel, snake].map(|text| serde_json::from_str(text).unwrap());
        assert_eq!(camel, snake);
        assert_eq!((camel.max_agents, camel.network.as_str()), (3, "paper"));
    }
}
