//! The conversation about how the node is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{NodeId, SandboxId};
use crate::sandbox::Status;
use crate::subject::{Patience, Replay, Request, Verb};

/// "How is everything?"
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GetHealth {
    /// Also names each sandbox.
    pub include_all_sandboxes: bool,
}

/// One of three words.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Level {
    /// All is well.
    Healthy,
    /// It works, and somebody should look.
    Degraded,
    /// It does not do what it is there for.
    Unhealthy,
}

/// How everything is. What has no data yet is absent, and `notes` says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The worst of what follows.
    pub overall_health: Level,
    /// The caller's sandboxes that exist.
    pub total_sandboxes: u32,
    /// Those of them that can run code.
    pub running_sandboxes: u32,
    /// Processor time used, in percent of what they may use; since the look before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_cpu: Option<f64>,
    /// Memory used, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_memory: Option<f64>,
    /// What is wrong, one sentence each, with the figure and its limit.
    pub issues: Vec<String>,
    /// Each sandbox, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandboxes: Option<Vec<SandboxHealth>>,
    /// How many sandboxes are how.
    pub infrastructure: Infrastructure,
    /// How fast executions were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance: Option<Performance>,
    /// How often executions failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reliability: Option<Reliability>,
    /// What is kept ready.
    pub pool: PoolHealth,
    /// The nodes that were heard.
    pub nodes: Vec<NodeId>,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How one sandbox is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct SandboxHealth {
    /// Which.
    pub sandbox_id: SandboxId,
    /// What it is called.
    pub name: String,
    /// What it is doing.
    pub status: Status,
    /// How it is.
    pub health: Level,
    /// Processor time used, in percent of what it may use; since the look before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Memory used, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<f64>,
    /// Share of its last 50 executions that failed, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// How long those took on average, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avg_latency_ms: Option<f64>,
    /// Seconds since something last ran in it.
    pub idle_seconds: f64,
}

/// How many sandboxes are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Infrastructure {
    /// Well.
    pub healthy: u32,
    /// Slow, or idle for over an hour.
    pub degraded: u32,
    /// More than one of ten of the last 50 executions failed.
    pub unhealthy: u32,
}

/// Executions of the last 300 s, from histograms whose buckets are 12 % wide.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Performance {
    /// On average, in milliseconds.
    pub avg_latency_ms: f64,
    /// Half took no longer.
    pub p50_ms: f64,
    /// 95 of 100 took no longer.
    pub p95_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// Executions a second.
    pub throughput: f64,
}

/// Executions of the last 300 s that failed: those that the time limit, the memory limit or the
/// loss of the sandbox ended, and those that could not be run at all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Reliability {
    /// Share of them, 0 to 1.
    pub error_rate: f64,
    /// Executions it is the share of.
    pub executions: u64,
    /// Seconds since the node started.
    pub uptime: f64,
}

/// What is kept ready, over all templates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct PoolHealth {
    /// Kept ready beyond those leased.
    pub target: u32,
    /// Ready now.
    pub ready: u32,
    /// Share of those who asked that found one ready, 0 to 1; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hit_rate: Option<f64>,
}

impl Request for GetHealth {
    type Reply = Health;
    const VERB: Verb = Verb::new("health");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}
