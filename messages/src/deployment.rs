//! The conversation about deployments: so many equal sandboxes, each with its agent, kept running.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{AgentId, ApprovalId, DeploymentId, SandboxId};
use crate::subject::{Patience, Replay, Request, Verb};

/// "Keep so many of these running."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Deploy {
    /// What it is called, 1 to 63 characters of `a-z`, `0-9` and `-`. `momentum-trading`,
    /// `mean-reversion` and `pairs-trading` bring a configuration of their own, which
    /// `configuration` changes key by key.
    pub template_name: String,
    /// What it is for.
    pub category: Category,
    /// What each instance is and does.
    pub configuration: Configuration,
}

/// What a deployment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Category {
    /// It trades.
    Trading,
    /// It looks at what happened.
    Analytics,
    /// It learns.
    Ml,
    /// Anything else.
    Custom,
}

/// What each instance of a deployment is and does. Other keys are kept and given to its agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(inline)]
pub struct Configuration {
    /// The template of its sandboxes; without one the preset's, else `base`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Packages of the template's language to be installed before anything runs, at most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Environment of what runs in it: 64 entries, 32 KiB in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Memory of one instance in MiB, 256 to 4096; without it, the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// Processors of one instance, 1 to 4; without it, the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u32>,
    /// Seconds an instance lives, 1 to 86400, before a fresh one takes its place; without it,
    /// 86400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// Files written below `/home/user` before `setup`, name to text: 64 files, 256 KiB in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Lines for `/bin/sh -c`, run one after the other in each instance before its agent, at most
    /// 32. One that fails fails the instance, and says so with its standard error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<String>,
    /// How many at first, 1 to 100; without it 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<i64>,
    /// The program that runs in each; without one, an instance is a ready sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentConfiguration>,
    /// Given to the agent beside its `strategy_params`.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// The agent that runs in each instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct AgentConfiguration {
    /// Which program, as for `run_e2b_agent`.
    pub agent_type: String,
    /// What it looks at or trades, 1 to 50 symbols.
    #[serde(default)]
    pub symbols: Vec<String>,
    /// What its program takes.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub strategy_params: serde_json::Map<String, Value>,
}

/// What became of a deployment that was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Deployed {
    /// Its id.
    pub deployment_id: DeploymentId,
    /// Its first instance.
    pub sandbox_id: SandboxId,
    /// The template of its sandboxes.
    pub template: String,
    /// Whether all of it runs.
    pub status: DeployStatus,
    /// All instances that run.
    pub sandboxes: Vec<Instance>,
    /// Instances that could not be started yet, and why. They are tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Whether all instances that were asked for run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DeployStatus {
    /// All.
    Deployed,
    /// At least one, not all.
    Partial,
}

/// One instance of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Instance {
    /// Its sandbox.
    pub sandbox_id: SandboxId,
    /// What it is doing.
    pub status: InstanceStatus,
    /// The agent in it, if the deployment has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum InstanceStatus {
    /// It has its sandbox; setup and agent are on their way.
    Starting,
    /// It is up.
    Running,
    /// It takes nothing new and ends once what runs in it has ended, after 60 s at the latest.
    Draining,
}

/// Something that was tried and failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Failure {
    /// One word for programs, as in a refusal.
    pub kind: String,
    /// One sentence for people.
    pub message: String,
    /// The sandbox it happened in, if it got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<SandboxId>,
}

impl Request for Deploy {
    type Reply = Deployed;
    const VERB: Verb = Verb::new("deploy");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::FLEET;
}

/// "Let there be so many of them."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scale {
    /// Which deployment.
    pub deployment_id: DeploymentId,
    /// How many instances it is to have.
    #[schemars(range(min = 1, max = 100))]
    pub instance_count: i64,
    /// Hands the number to the load rules from here on, with `instance_count` as the least.
    #[serde(default)]
    pub auto_scale: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scaled {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its instances, those that are leaving included.
    pub instances: Vec<Instance>,
    /// How many of them stay.
    pub total_instances: u32,
    /// Whether that is as many as wanted and none is leaving any more.
    pub status: ScaleStatus,
    /// How many it was to have before.
    pub previous: u32,
    /// How many were started for this answer.
    pub started: u32,
    /// How many ended for this answer.
    pub stopped: u32,
    /// Instances that could not be started yet, and why. They are tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// Whether the load rules have a say.
    pub auto_scale: bool,
    /// The part of the wish that waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What this answer cannot say, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How far a change of size is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ScaleStatus {
    /// Still starting or draining some.
    Scaling,
    /// As many as wanted.
    Completed,
    /// None of those wanted could be started.
    Failed,
}

/// A rise that is held until an operator approves it: the runaway guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// How many were wanted.
    pub wanted: u32,
    /// How many there may be without approval.
    pub held_at: u32,
    /// When the wish lapses, RFC 3339.
    pub expires_at: String,
}

impl Request for Scale {
    type Reply = Scaled;
    const VERB: Verb = Verb::new("scale");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::FLEET;
}

/// "Which deployments do I have?"
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GetDeployments {
    /// Only this one; unknown, it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<DeploymentId>,
}

/// The caller's deployments, by id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Deployments {
    /// Each.
    pub deployments: Vec<DeploymentView>,
}

/// One deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct DeploymentView {
    /// Its id.
    pub deployment_id: DeploymentId,
    /// What it is called.
    pub template_name: String,
    /// What it is for.
    pub category: Category,
    /// The template of its sandboxes.
    pub template: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// How many instances it is to have.
    pub desired: u32,
    /// The least it is to have, whatever the load rules say.
    pub floor: u32,
    /// Whether the load rules have a say.
    pub auto_scale: bool,
    /// Its instances, those that are leaving included.
    pub instances: Vec<Instance>,
    /// Instances replaced because their sandbox or agent died.
    pub healed: u64,
    /// The last failures, newest last, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// The part of a wish that waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

impl Request for GetDeployments {
    type Reply = Deployments;
    const VERB: Verb = Verb::new("deployments");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

/// "End all of it."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Undeploy {
    /// Which deployment.
    pub deployment_id: DeploymentId,
}

/// The end of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Undeployed {
    /// Which.
    pub deployment_id: DeploymentId,
    /// Instances whose end began with this.
    pub stopped: u32,
}

impl Request for Undeploy {
    type Reply = Undeployed;
    const VERB: Verb = Verb::new("undeploy");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::CHANGE;
}
