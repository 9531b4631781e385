//! The sections of the configuration. In the file the unit is in the name, in Rust the type
//! carries it; meaning and extremes of each setting stand in `default.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::clouds::ProviderConfig;
use crate::units::{kib, mib, millis, seconds, unless_empty};

/// The whole configuration, valid.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[data]`.
    pub data: DataConfig,
    /// `[bus]`.
    pub bus: BusConfig,
    /// `[gate]`.
    pub gate: GateConfig,
    /// `[supervise]`.
    pub supervise: SuperviseConfig,
    /// `[pool]`.
    pub pool: PoolConfig,
    /// `[exec]`.
    pub exec: ExecConfig,
    /// `[cache]`.
    pub cache: CacheConfig,
    /// `[reaper]`.
    pub reaper: ReaperConfig,
    /// `[scaler]`.
    pub scaler: ScalerConfig,
    /// `[market]`.
    pub market: MarketConfig,
    /// `[paper]`.
    pub paper: PaperConfig,
    /// `[agent]`.
    pub agent: AgentConfig,
    /// `[provider]`.
    pub provider: ProviderConfig,
    /// `[template.<name>]`.
    pub template: BTreeMap<String, TemplateConfig>,
    /// `[telemetry]`.
    pub telemetry: TelemetryConfig,
    /// `[http]`.
    pub http: HttpConfig,
    /// `[e2b]`.
    pub e2b: E2bConfig,
    /// `[drain]`.
    pub drain: DrainConfig,
}

/// Where things are kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Without it the platform's usual place.
    #[serde(deserialize_with = "unless_empty")]
    pub directory: Option<PathBuf>,
}

/// The way to others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusConfig {
    /// Servers to join; without it one of our own is started.
    #[serde(deserialize_with = "unless_empty")]
    pub url: Option<String>,
    /// The nats-server to start; without it the first that is found.
    #[serde(deserialize_with = "unless_empty")]
    pub server_path: Option<PathBuf>,
    /// Whether plain text may leave this machine.
    pub allow_plaintext: bool,
    /// Longest wait for the first connection.
    #[serde(rename = "connect_max_s", deserialize_with = "seconds")]
    pub connect_max: Duration,
    /// Longest wait for room on the connection.
    #[serde(rename = "enqueue_max_ms", deserialize_with = "millis")]
    pub enqueue_max: Duration,
    /// Messages that may wait for the connection.
    pub client_capacity: usize,
}

/// The way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// Requests being answered at once.
    pub inflight_max: usize,
    /// Requests waiting for a place.
    pub queue_max: usize,
    /// Longest wait for a place.
    #[serde(rename = "queue_wait_max_ms", deserialize_with = "millis")]
    pub queue_wait_max: Duration,
}

/// How much failing is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuperviseConfig {
    /// Failures within the window after which one more ends the node.
    pub restarts_max: usize,
    /// The window.
    #[serde(rename = "window_s", deserialize_with = "seconds")]
    pub window: Duration,
    /// Pause before the second restart.
    #[serde(rename = "pause_min_ms", deserialize_with = "millis")]
    pub pause_min: Duration,
    /// Longest pause before a restart.
    #[serde(rename = "pause_max_ms", deserialize_with = "millis")]
    pub pause_max: Duration,
}

/// Warm sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Sandboxes alive or booting at once.
    pub total_max: usize,
    /// Sandboxes being made at once.
    pub create_concurrency: usize,
    /// Callers waiting.
    pub waiting_max: usize,
    /// Longest wait of a caller.
    #[serde(rename = "wait_max_s", deserialize_with = "seconds")]
    pub wait_max: Duration,
    /// Age at which a ready sandbox is replaced.
    #[serde(rename = "idle_max_s", deserialize_with = "seconds")]
    pub idle_max: Duration,
    /// Longest life of a sandbox.
    #[serde(rename = "lifetime_max_s", deserialize_with = "seconds")]
    pub lifetime_max: Duration,
    /// Pause after the provider failed.
    #[serde(rename = "retry_pause_s", deserialize_with = "seconds")]
    pub retry_pause: Duration,
    /// Pause before a broken template is tried again.
    #[serde(rename = "broken_pause_s", deserialize_with = "seconds")]
    pub broken_pause: Duration,
    /// Longest boot.
    #[serde(rename = "boot_max_s", deserialize_with = "seconds")]
    pub boot_max: Duration,
    /// Longest destruction before it is asked for again.
    #[serde(rename = "destroy_max_s", deserialize_with = "seconds")]
    pub destroy_max: Duration,
    /// For how long the end of a sandbox is remembered.
    #[serde(rename = "ended_kept_s", deserialize_with = "seconds")]
    pub ended_kept: Duration,
    /// How many ends are remembered.
    pub ended_max: usize,
}

/// Executions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// Callers with an execution under way or waiting for one.
    pub callers_max: usize,
}

/// Results that answer for equal runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Age at which a result is forgotten.
    #[serde(rename = "age_max_s", deserialize_with = "seconds")]
    pub age_max: Duration,
    /// Results held.
    pub entries_max: usize,
    /// Bytes of results held.
    #[serde(rename = "size_max_mib", deserialize_with = "mib")]
    pub size_max: u64,
    /// Bytes of output of one result.
    #[serde(rename = "output_max_kib", deserialize_with = "kib")]
    pub output_max: u64,
}

/// What nobody owns goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReaperConfig {
    /// From one sweep to the next.
    #[serde(rename = "sweep_s", deserialize_with = "seconds")]
    pub sweep: Duration,
}

/// Deployments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalerConfig {
    /// Most instances of all deployments of one tenant.
    pub instances_max: usize,
    /// Most deployments.
    pub deployments_max: usize,
    /// What runs in an instance that leaves may take so long to end.
    #[serde(rename = "drain_max_s", deserialize_with = "seconds")]
    pub drain_max: Duration,
}

/// Market data.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarketConfig {
    /// A file of daily prices; without it the node has none.
    #[serde(deserialize_with = "unless_empty")]
    pub prices: Option<PathBuf>,
    /// Where they are from; without it the file is named.
    #[serde(deserialize_with = "unless_empty")]
    pub source: Option<String>,
}

/// What paper accounts begin with and what trading costs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperConfig {
    /// Whole dollars.
    pub capital_usd: u32,
    /// Of each trade's value.
    pub commission_bps: u32,
    /// Of each trade's price.
    pub slippage_bps: u32,
    /// Of the value sold short, a year.
    pub borrow_bps: u32,
}

/// Agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// At work at once.
    pub agents_max: usize,
    /// Longest a program may take over one bar.
    #[serde(rename = "bar_max_s", deserialize_with = "seconds")]
    pub bar_max: Duration,
    /// Lost programs begun again in one run.
    pub restarts_max: u32,
    /// For how long one that ended can be looked at.
    #[serde(rename = "ended_kept_s", deserialize_with = "seconds")]
    pub ended_kept: Duration,
}

/// The embedded engine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalConfig {
    /// The interpreter; without it the best on `PATH`.
    #[serde(deserialize_with = "unless_empty")]
    pub python: Option<PathBuf>,
    /// First of 65,536 user ids.
    pub uid_base: u32,
    /// Whether control groups are used.
    pub cgroup: Cgroup,
    /// Skeletons kept per template.
    pub spare_skeletons: usize,
    /// Sandboxes at once.
    pub sandboxes_max: usize,
    /// Forks after which a zygote is replaced.
    pub rotate_forks: u32,
    /// Age at which a zygote is replaced.
    #[serde(rename = "rotate_age_s", deserialize_with = "seconds")]
    pub rotate_age: Duration,
    /// Whether malloc may use huge pages.
    pub huge_pages: bool,
    /// Processes and threads in one sandbox.
    pub pids_max: u32,
    /// Bytes in `/home/user`.
    #[serde(rename = "home_mib", deserialize_with = "mib")]
    pub home: u64,
    /// Bytes in `/tmp`.
    #[serde(rename = "tmp_mib", deserialize_with = "mib")]
    pub tmp: u64,
    /// Bytes in `/dev/shm`.
    #[serde(rename = "shm_mib", deserialize_with = "mib")]
    pub shm: u64,
    /// Bytes of one file.
    #[serde(rename = "file_mib", deserialize_with = "mib")]
    pub file: u64,
    /// Files open in one process.
    pub open_files_max: u32,
    /// Bytes of each output stream that are kept.
    #[serde(rename = "output_kept_kib", deserialize_with = "kib")]
    pub output_kept: u64,
    /// Bytes of output after which an execution is killed.
    #[serde(rename = "output_max_mib", deserialize_with = "mib")]
    pub output_max: u64,
    /// Executions waiting in one sandbox.
    pub queued_max: usize,
    /// From the interrupt to the kill.
    #[serde(rename = "grace_ms", deserialize_with = "millis")]
    pub grace: Duration,
    /// Longest teardown.
    #[serde(rename = "destroy_max_s", deserialize_with = "seconds")]
    pub destroy_max: Duration,
    /// Templates kept that callers asked for.
    pub layers_max: usize,
    /// Where their packages are; without it, at the index.
    #[serde(deserialize_with = "unless_empty")]
    pub layer_wheels: Option<PathBuf>,
    /// Longest setup command.
    #[serde(rename = "setup_max_s", deserialize_with = "seconds")]
    pub setup_max: Duration,
    /// Bytes of `/home/user` in an archive.
    #[serde(rename = "export_max_mib", deserialize_with = "mib")]
    pub export_max: u64,
    /// Bytes of an archive from elsewhere.
    #[serde(rename = "import_max_mib", deserialize_with = "mib")]
    pub import_max: u64,
}

/// Whether control groups are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cgroup {
    /// Where they can be written.
    Auto,
    /// Never.
    None,
}

/// What sandboxes are made from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    /// Its packages.
    pub requirements: Requirements,
    /// Packages beside those.
    pub packages: Vec<String>,
    /// What runs once after the imports.
    pub warmup: Requirements,
    /// Folders its sandboxes read at `/data/<name>`.
    pub data: Vec<Folder>,
    /// A program that its sandboxes need.
    #[serde(deserialize_with = "unless_empty")]
    pub program: Option<String>,
    /// Mebibytes of memory.
    pub memory_mb: u32,
    /// Processors.
    pub cpu_count: u32,
    /// Sandboxes kept ready.
    pub warm_target: usize,
}

/// A file that makes a template what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirements {
    /// Nothing.
    Nothing,
    /// What comes with sandpit.
    Builtin,
    /// The operator's own.
    File(PathBuf),
}

impl<'de> Deserialize<'de> for Requirements {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(from)?.as_str() {
            "" => Self::Nothing,
            "builtin" => Self::Builtin,
            path => Self::File(PathBuf::from(path)),
        })
    }
}

/// A folder of the host under the name sandboxes know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// `a-z`, `0-9`, `_` and `-`, at most 32 characters.
    pub name: String,
    /// Absolute.
    pub path: PathBuf,
}

impl Folder {
    /// Reads `name=/path`.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (name, path) = text.split_once('=')?;
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let named = (1..=32).contains(&name.len()) && name.bytes().all(letter);
        (named && path.starts_with('/'))
            .then(|| Self { name: name.to_owned(), path: PathBuf::from(path) })
    }
}

impl<'de> Deserialize<'de> for Folder {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::read(&text).ok_or_else(|| de::Error::custom("not a name and a folder"))
    }
}

/// How the node is watched.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Where traces go; without it the environment says.
    #[serde(deserialize_with = "unless_empty")]
    pub otlp_endpoint: Option<String>,
    /// Share of traces begun here that are kept.
    pub ratio: f64,
    /// What is logged.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// The HTTP face.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// A file whose first line is the token of whoever may use `/mcp`.
    #[serde(deserialize_with = "unless_empty")]
    pub token_file: Option<PathBuf>,
}

/// The face for E2B's SDKs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct E2bConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The domain of its sandboxes; without it `sandpit.localhost` with the port.
    #[serde(deserialize_with = "unless_empty")]
    pub domain: Option<String>,
    /// Longest life of a sandbox.
    #[serde(rename = "max_lifetime_s", deserialize_with = "seconds")]
    pub max_lifetime: Duration,
    /// How long a paused one is kept.
    #[serde(rename = "paused_retention_s", deserialize_with = "seconds")]
    pub paused_retention: Duration,
}

/// How a node leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainConfig {
    /// What executions get.
    #[serde(rename = "executions_max_s", deserialize_with = "seconds")]
    pub executions_max: Duration,
}
