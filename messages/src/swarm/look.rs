//! Questions about a swarm that change nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AgentStatus, Decision, Topology};
use crate::id::{AgentId, SandboxId, SwarmId};
use crate::subject::{Patience, Replay, Request, Verb};

fn yes() -> bool {
    true
}

/// "How is it?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetSwarmStatus {
    /// Which swarm.
    pub swarm_id: SwarmId,
    /// With figures.
    #[serde(default = "yes")]
    pub include_metrics: bool,
    /// With each agent.
    #[serde(default = "yes")]
    pub include_agents: bool,
}

/// How a swarm is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmStatus {
    /// Which.
    pub swarm_id: SwarmId,
    /// What it is called.
    pub name: String,
    /// In one word.
    pub status: SwarmState,
    /// Who may talk to whom.
    pub topology: Topology,
    /// Agents it has.
    pub agent_count: u32,
    /// Those of them whose program runs.
    pub active_agents: u32,
    /// Trades on the paper accounts; absent if no agent reported any figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_trades: Option<u64>,
    /// Seconds since it was made, until it was shut down.
    pub uptime_seconds: f64,
    /// Each agent, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<SwarmAgent>>,
    /// Figures, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<StatusMetrics>,
    /// What its agents could decide together.
    pub decision: Decision,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How a swarm is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum SwarmState {
    /// As many agents are active as a decision takes.
    Active,
    /// Fewer are.
    Degraded,
    /// It was shut down.
    Stopped,
}

/// One agent of a swarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct SwarmAgent {
    /// Which.
    pub agent_id: AgentId,
    /// Which program, as it was asked for.
    pub agent_type: String,
    /// What it is doing.
    pub status: AgentStatus,
    /// The sandbox it runs in, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<SandboxId>,
    /// Trades on its paper account; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trades: Option<u64>,
    /// Profit and loss on its paper account, in dollars after fees; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pnl: Option<f64>,
    /// Why it failed last, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Figures of a swarm over the last hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct StatusMetrics {
    /// How long its runs took on average, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avg_latency_ms: Option<f64>,
    /// Share of its runs that did not fail, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<f64>,
    /// Profit and loss on the paper accounts, in dollars after fees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_pnl: Option<f64>,
}

impl Request for GetSwarmStatus {
    type Reply = SwarmStatus;
    const VERB: Verb = Verb::new("swarm-status");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

/// "What is wrong with it?"
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GetSwarmHealth {
    /// Which swarm.
    pub swarm_id: SwarmId,
    /// Seconds that rates are taken over, 10 to 86400. Nothing waits for it.
    #[serde(default = "interval_default")]
    #[schemars(range(min = 10, max = 86400))]
    pub interval: i64,
    /// What is worth an alert.
    #[serde(default)]
    pub alerts: Alerts,
    /// With processor time and memory.
    #[serde(default = "yes")]
    pub include_system_metrics: bool,
}

fn interval_default() -> i64 {
    60
}

/// What is worth an alert.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(inline)]
pub struct Alerts {
    /// Share of agents that failed, 0 to 1; reaching it is critical.
    pub failure_threshold: f64,
    /// How long runs take on average, in milliseconds.
    pub latency_threshold: f64,
    /// Share of runs that fail, 0 to 1.
    pub error_rate_threshold: f64,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { failure_threshold: 0.2, latency_threshold: 1_000.0, error_rate_threshold: 0.05 }
    }
}

/// What is wrong with a swarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmHealth {
    /// Which.
    pub swarm_id: SwarmId,
    /// In one word.
    pub health_status: SwarmLevel,
    /// When this was seen, RFC 3339.
    pub timestamp: String,
    /// Figures. What has no data is absent.
    pub metrics: HealthMetrics,
    /// One for each threshold that was passed.
    pub alerts: Vec<Alert>,
    /// Each agent.
    pub agent_health: Vec<AgentHealth>,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How a swarm is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum SwarmLevel {
    /// No threshold is passed.
    Healthy,
    /// One is.
    Degraded,
    /// Too few agents for a decision, or too many failed.
    Critical,
}

/// Figures of a swarm over the interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct HealthMetrics {
    /// Processor time of its sandboxes in percent of one core each, on average, since the look
    /// before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usage: Option<f64>,
    /// Memory of its sandboxes in MiB, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_usage: Option<f64>,
    /// How long its runs took on average from asking to answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_latency_ms: Option<f64>,
    /// Share of its runs that failed, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// Seconds since it was made, until it was shut down.
    pub uptime_seconds: f64,
}

/// A threshold that was passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Alert {
    /// How bad.
    pub severity: Severity,
    /// What was observed, and its limit.
    pub message: String,
    /// When, RFC 3339.
    pub timestamp: String,
}

/// How bad an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Severity {
    /// The swarm is degraded.
    Warning,
    /// The swarm is critical.
    Critical,
}

/// One agent's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct AgentHealth {
    /// Which.
    pub agent_id: AgentId,
    /// What it is doing.
    pub status: AgentStatus,
    /// When its program was last heard, RFC 3339; absent before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<String>,
}

impl Request for GetSwarmHealth {
    type Reply = SwarmHealth;
    const VERB: Verb = Verb::new("swarm-health");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

/// How far back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TimeRange {
    /// One hour.
    #[serde(rename = "1h")]
    Hour,
    /// Six hours.
    #[serde(rename = "6h")]
    SixHours,
    /// One day.
    #[default]
    #[serde(rename = "24h")]
    Day,
    /// Seven days.
    #[serde(rename = "7d")]
    Week,
    /// Thirty days.
    #[serde(rename = "30d")]
    Month,
}

/// One figure, or all.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Metric {
    /// How long runs took.
    Latency,
    /// Runs a second.
    Throughput,
    /// Share of runs that failed.
    ErrorRate,
    /// Share of runs that did not.
    SuccessRate,
    /// Profit and loss on the paper accounts.
    Pnl,
    /// Trades on the paper accounts.
    Trades,
    /// All of these.
    All,
}

/// How samples become one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Aggregation {
    /// The average.
    #[default]
    Avg,
    /// The least.
    Min,
    /// The most.
    Max,
    /// The sum, of what can be added up: trades and profit.
    Sum,
    /// Half are no more.
    P50,
    /// 95 of 100 are no more.
    P95,
    /// 99 of 100 are no more.
    P99,
}

/// "What did it do?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetSwarmMetrics {
    /// Which swarm.
    pub swarm_id: SwarmId,
    /// How far back.
    #[serde(default)]
    pub time_range: TimeRange,
    /// Which figures.
    #[serde(default = "all_metrics")]
    pub metrics: Vec<Metric>,
    /// How samples become one figure. Percentiles come from histograms; they and the sum mean
    /// something only for some figures, and for others they are refused.
    #[serde(default)]
    pub aggregation: Aggregation,
}

fn all_metrics() -> Vec<Metric> {
    vec![Metric::All]
}

/// What a swarm did. What has no data is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmMetrics {
    /// Which.
    pub swarm_id: SwarmId,
    /// How far back.
    pub time_range: TimeRange,
    /// The figures.
    pub metrics: Figures,
    /// The same by agent.
    pub per_agent_metrics: Vec<AgentMetrics>,
    /// What the figures are made of; absent without a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers: Option<Covers>,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Figures of a swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Figures {
    /// How long runs took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Runs a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput_tps: Option<f64>,
    /// Share of runs that failed, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// Share of runs that did not, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<f64>,
    /// Profit and loss on the paper accounts, in dollars after fees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_pnl: Option<f64>,
    /// Trades on the paper accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_trades: Option<u64>,
}

/// Figures of one agent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct AgentMetrics {
    /// Which.
    pub agent_id: AgentId,
    /// Trades on its paper account; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trades: Option<u64>,
    /// Profit and loss on its paper account, in dollars after fees; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pnl: Option<f64>,
    /// Share of its runs that did not fail, 0 to 1; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<f64>,
}

/// What figures are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Covers {
    /// The oldest sample, RFC 3339.
    pub from: String,
    /// The newest, RFC 3339.
    pub to: String,
    /// How many runs.
    pub samples: u64,
}

/// What a swarm did in its life.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Totals {
    /// Seconds from its making to its end.
    pub total_runtime_seconds: f64,
    /// Trades on the paper accounts; absent if no agent reported any figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_trades: Option<u64>,
    /// Profit and loss on the paper accounts, in dollars after fees; absent likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_pnl: Option<f64>,
}

impl Request for GetSwarmMetrics {
    type Reply = SwarmMetrics;
    const VERB: Verb = Verb::new("swarm-metrics");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}
