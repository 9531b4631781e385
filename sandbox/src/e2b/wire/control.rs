//! Objects of the control plane: the life of sandboxes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::time::Timestamp;

/// The version of process and file API that the facade says it speaks. The SDKs decide by it what
/// they dare to use.
pub const ENVD_VERSION: &str = "0.6.13";

/// Seconds a sandbox made by the newer route lives unless asked otherwise.
pub const TIMEOUT_DEFAULT_S: i64 = 300;

/// Seconds a sandbox made by the older route lives unless asked otherwise.
pub const TIMEOUT_DEFAULT_OLD_S: i64 = 15;

/// A sandbox that is wanted: `POST /v2/sandboxes`, and `POST /sandboxes` of older SDKs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSandbox {
    /// `[namespace/]name[:tag]`.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Seconds to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// What its maker wants to find it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Environment of everything that runs in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Pause it at the end of its time instead of killing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_pause: Option<bool>,
    /// Whether that pause keeps its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_pause_memory: Option<bool>,
    /// Whether a call to it resumes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<AutoResume>,
    /// Whether it may reach the internet. The one key that is not written in camel case.
    #[serde(default, rename = "allow_internet_access", skip_serializing_if = "Option::is_none")]
    pub allow_internet_access: Option<bool>,
    /// What it may reach, and who may reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Whether its data plane needs a token; older SDKs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
    /// Servers of the model context protocol inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<Value>,
    /// An identity at a cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam: Option<Value>,
    /// Disks to mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Value>,
}

/// Whether a call to a paused sandbox resumes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoResume {
    /// Whether it does.
    #[serde(default)]
    pub enabled: bool,
}

/// What a sandbox may reach, and who may reach it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Addresses and names it may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_out: Option<Value>,
    /// Addresses it may not reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny_out: Option<Value>,
    /// Whether its ports are open to whoever knows their address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_public_traffic: Option<bool>,
    /// Everything else that is asked of the network.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// A sandbox as whoever made it or connected to it needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Its id. Without `-`: hosts are split there.
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    /// Its template.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// A constant of the server.
    #[serde(rename = "clientID", default)]
    pub client_id: String,
    /// What its process and file API can do.
    pub envd_version: String,
    /// The name its template was asked for by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// What its data plane wants to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    /// What its other ports want to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_access_token: Option<String>,
    /// Its hosts are `<port>-<id>.<domain>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// A sandbox with what is known of it, as asked for by id and as listed. A list has no token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDetail {
    /// Its id.
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    /// Its template.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// A constant of the server.
    #[serde(rename = "clientID", default)]
    pub client_id: String,
    /// What its process and file API can do.
    pub envd_version: String,
    /// When it was ready.
    pub started_at: Timestamp,
    /// When its time is over.
    pub end_at: Timestamp,
    /// Processors.
    #[serde(default)]
    pub cpu_count: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMB", default)]
    pub memory_mb: u32,
    /// Disk in MiB.
    #[serde(rename = "diskSizeMB", default)]
    pub disk_size_mb: u64,
    /// Whether it runs.
    pub state: SandboxState,
    /// What its maker said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// The name its template was asked for by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Its hosts are `<port>-<id>.<domain>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What its data plane wants to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    /// Whether it may reach the internet: what holds, not what was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_internet_access: Option<bool>,
    /// What happens at the end of its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
}

/// Whether a sandbox runs. The SDKs know no third state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// It does.
    Running,
    /// It is paused.
    Paused,
}

/// What happens to a sandbox by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Whether a call to it resumes it.
    pub auto_resume: bool,
    /// At the end of its time.
    pub on_timeout: OnTimeout,
}

/// What happens to a sandbox at the end of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// It is killed.
    Kill,
    /// It is paused.
    Pause,
}

/// What a sandbox used at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxMetric {
    /// When.
    pub timestamp: Timestamp,
    /// The same in seconds since the Unix epoch.
    pub timestamp_unix: u64,
    /// Processors it has.
    pub cpu_count: u32,
    /// 0 to 100 over all of them.
    pub cpu_used_pct: f64,
    /// Memory it used, in bytes.
    pub mem_used: u64,
    /// Memory it may use, in bytes.
    pub mem_total: u64,
    /// Memory that holds files, in bytes.
    #[serde(default)]
    pub mem_cache: u64,
    /// Disk it used, in bytes.
    pub disk_used: u64,
    /// Disk it may use, in bytes.
    pub disk_total: u64,
}

/// Body of `connect`, `resume` and `timeout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutBody {
    /// Seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Of a paused sandbox: whether its memory is wanted back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
}

/// Body of `refreshes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshBody {
    /// Seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<i64>,
}

/// Body of `pause`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseBody {
    /// Whether its memory is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
}

/// Answer of `GET /templates/aliases/{alias}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateAlias {
    /// The template behind the name.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Whether others may use it.
    #[serde(default)]
    pub public: bool,
}
