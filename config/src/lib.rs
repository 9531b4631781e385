//! What may be set. A value that got past this crate is valid; nobody checks it again.
//!
//! Reads no file and no environment: whoever starts the program hands over their text as
//! [`Layers`].
#![forbid(unsafe_code)]

mod clouds;
mod fault;
mod layers;
pub mod prices;
mod rules;
mod sections;
mod units;

pub use clouds::{
    EndpointConfig, GuardConfig, PauseReady, PlanConfig, ProviderConfig, ProviderKind, Renamed,
};
pub use fault::{Fault, Rejected, Source};
pub use layers::{DEFAULT, Layers, Loaded, Setting};
pub use sections::{
    AgentConfig, BusConfig, CacheConfig, Cgroup, Config, DataConfig, DrainConfig, E2bConfig,
    ExecConfig, Folder, GateConfig, HttpConfig, LocalConfig, LogFormat, MarketConfig, PaperConfig,
    PoolConfig, ReaperConfig, Requirements, ScalerConfig, SuperviseConfig, TelemetryConfig,
    TemplateConfig,
};
