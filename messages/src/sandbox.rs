//! The conversation about sandboxes: create, list, status, terminate.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::agent::AgentRun;
use crate::id::{ExecId, NodeId, SandboxId};
use crate::subject::{Patience, Replay, Request, Verb};

/// "Give me a sandbox of my own."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Create {
    /// What people call it, 1 to 128 characters; without one, its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which template it is made from: `base`, `python`, `trading`, one that was configured, or
    /// one that was deployed, exported or imported.
    pub template: String,
    /// Memory in MiB, 256 to 4096; without it, the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// Processors, 1 to 4; without it, the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u32>,
    /// Lifetime in seconds from readiness, 1 to 86400.
    pub timeout: u32,
    /// Seconds without an execution after which it is reaped, 1 to 86400.
    pub idle_timeout: u32,
    /// Environment of what runs in it: 64 entries, 32 KiB in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Anything the caller wants to find again with `list`: 64 entries, 8 KiB in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Packages beside the template's own, at most 32 requirements as in `scipy==1.15.2`. Built
    /// once, for all who ask for the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub install_packages: Vec<String>,
    /// Whether it may reach the internet. No sandbox of this node may, so true is refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_internet: bool,
    /// Where it must run; without it, anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Which provider must make it, as in `local`; without it, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What makes repeating it safe: 16 to 64 of `A-Z a-z 0-9 _ -`. The header of that name wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Milliseconds the caller is ready to wait for one; without it, until the deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u32>,
}

impl Default for Create {
    fn default() -> Self {
        Self {
            name: None,
            template: "base".to_owned(),
            memory_mb: None,
            cpu_count: None,
            timeout: 300,
            idle_timeout: 3_600,
            env_vars: BTreeMap::new(),
            metadata: BTreeMap::new(),
            install_packages: Vec::new(),
            allow_internet: false,
            region: None,
            provider: None,
            idempotency_key: None,
            wait_ms: None,
        }
    }
}

/// How the parts of a sandbox are held to their limits: `cgroup`, `rlimit`, `tmpfs`, `nice`,
/// `rlimit+watchdog`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct LimitsEnforced {
    /// Memory.
    pub memory: String,
    /// Processor time.
    pub cpu: String,
    /// Processes and threads.
    pub pids: String,
    /// Files.
    pub disk: String,
}

/// What a sandbox may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Resources {
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Processors.
    pub cpu_count: u32,
}

/// What a sandbox is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Status {
    /// Being made.
    Creating,
    /// Ready to run code.
    Running,
    /// Ended within the last hour.
    Stopped,
}

/// The sandbox. It has answered a probe and is the caller's alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Created {
    /// Its id.
    pub sandbox_id: SandboxId,
    /// What it is called.
    pub name: String,
    /// Always `running`.
    pub status: Status,
    /// Which template it was made from.
    pub template: String,
    /// What it may use.
    pub resources: Resources,
    /// When it became the caller's, RFC 3339.
    pub created_at: String,
    /// When it is reaped at the latest, RFC 3339.
    pub expires_at: String,
    /// Where to reach it: `nats:` and the subject of its owner, to which a verb is added.
    pub endpoint: String,
    /// The node that owns it.
    pub node: NodeId,
    /// Where it runs: `local`, ..
    pub provider: String,
    /// In which region; absent on a node that is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What an hour of it costs, in millionths of a dollar; absent where nothing has a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_hour_microusd: Option<u64>,
    /// Whether it was ready before it was asked for.
    pub from_pool: bool,
    /// Milliseconds from the arrival of the request to the grant.
    pub acquire_ms: f64,
    /// What held it apart: `privileged`, `unprivileged`, `container`, `weak`.
    pub isolation: String,
    /// How its limits hold.
    pub limits_enforced: LimitsEnforced,
    /// What a reader should know, as why a field is absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Request for Create {
    type Reply = Created;
    const VERB: Verb = Verb::new("create");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::CHANGE;
}

/// Which sandboxes to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum StatusFilter {
    /// Those that run.
    Running,
    /// Those that ended within the last hour.
    Stopped,
    /// Both.
    #[default]
    All,
}

/// "What do I have?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct List {
    /// Only these.
    pub status_filter: StatusFilter,
    /// Only those of this template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Only those whose name begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_prefix: Option<String>,
    /// Most sandboxes in the answer, 1 to 1000.
    pub limit: u32,
    /// `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<SandboxId>,
}

impl Default for List {
    fn default() -> Self {
        Self {
            status_filter: StatusFilter::All,
            template: None,
            name_prefix: None,
            limit: 100,
            cursor: None,
        }
    }
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Listed {
    /// Its id.
    pub sandbox_id: SandboxId,
    /// What it is called.
    pub name: String,
    /// What it is doing.
    pub status: Status,
    /// Which template it was made from.
    pub template: String,
    /// When it became its holder's, RFC 3339.
    pub created_at: String,
    /// When it is reaped at the latest, RFC 3339; absent once it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When something last ran in it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<String>,
    /// The node that owns it.
    pub node: NodeId,
    /// What its holder wrote there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// The caller's sandboxes, by id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Listing {
    /// One page of them.
    pub sandboxes: Vec<Listed>,
    /// All that match, not only this page.
    pub total_count: u32,
    /// Ask for the next page with it; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<SandboxId>,
}

impl Request for List {
    type Reply = Listing;
    const VERB: Verb = Verb::new("list");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

/// "How is it?" One of `sandbox_id` and `execution_id`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GetStatus {
    /// Which sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<SandboxId>,
    /// Which run of an agent: the answer is about its sandbox, and `execution` about the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecId>,
}

impl GetStatus {
    /// Of a sandbox.
    pub fn of(sandbox: SandboxId) -> Self {
        Self { sandbox_id: Some(sandbox), execution_id: None }
    }

    /// Of a run of an agent.
    pub fn of_run(exec: ExecId) -> Self {
        Self { sandbox_id: None, execution_id: Some(exec) }
    }
}

/// What a sandbox uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct ResourceUsage {
    /// Processor time over its whole life, in milliseconds.
    pub cpu_ms: f64,
    /// Memory in MiB.
    pub memory_mb: f64,
    /// Files in MiB.
    pub disk_mb: f64,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Ended {
    /// When, RFC 3339.
    pub at: String,
    /// Why: `terminated`, `expired`, `idle`, `lost`, ..
    pub reason: String,
}

/// How a sandbox is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxStatus {
    /// Its id.
    pub sandbox_id: SandboxId,
    /// What it is called.
    pub name: String,
    /// What it is doing.
    pub status: Status,
    /// Which template it was made from.
    pub template: String,
    /// Seconds since it became its holder's.
    pub uptime: f64,
    /// What it uses; absent once it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_usage: Option<ResourceUsage>,
    /// Where those figures come from: `cgroup` or `proc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_source: Option<String>,
    /// Processes alive in it.
    pub processes_running: u32,
    /// What it may use.
    pub resources: Resources,
    /// Executions so far.
    pub execution_count: u64,
    /// Seconds since something last ran in it.
    pub idle_seconds: f64,
    /// When it is reaped at the latest, RFC 3339; absent once it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// How it ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// What holds it apart.
    pub isolation: String,
    /// How its limits hold.
    pub limits_enforced: LimitsEnforced,
    /// The run that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<AgentRun>,
}

impl Request for GetStatus {
    type Reply = SandboxStatus;
    const VERB: Verb = Verb::new("status");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

/// "I am done with it."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Terminate {
    /// Which sandbox.
    pub sandbox_id: SandboxId,
    /// Changes nothing: whatever runs in a sandbox that ends is killed at once either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

impl Terminate {
    /// Of this sandbox.
    pub const fn of(sandbox_id: SandboxId) -> Self {
        Self { sandbox_id, force: None }
    }
}

/// The end of a sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Terminated {
    /// Its id.
    pub sandbox_id: SandboxId,
    /// `terminated` when no process, mount and group is left; `terminating` while the reaper
    /// still works on it.
    pub status: Termination,
    /// One sentence.
    pub message: String,
    /// When, RFC 3339.
    pub terminated_at: String,
    /// Seconds it was its holder's.
    pub runtime_seconds: f64,
}

/// Whether a sandbox is verified to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Termination {
    /// Nothing of it is left.
    Terminated,
    /// Refused to everybody, not yet verified gone.
    Terminating,
}

impl Request for Terminate {
    type Reply = Terminated;
    const VERB: Verb = Verb::new("terminate");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::CHANGE;
}
