//! Who decides. Each folder is an actor: `mod.rs` does and never decides, `policy.rs` decides and
//! never does.
#![forbid(unsafe_code)]

pub mod agent;
pub mod bus;
pub mod clock;
pub mod crew;
pub mod embed;
pub mod entry;
pub mod exec;
pub mod health;
pub mod histogram;
pub mod layers;
pub mod market;
mod metrics;
pub mod node;
pub mod pool;
pub mod reaper;
pub mod scaler;
pub mod shell;
pub mod supervise;
pub mod swarm;

pub use metrics::of_guards;
