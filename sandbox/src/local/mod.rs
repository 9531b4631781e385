//! The embedded engine: Linux namespaces, Landlock, seccomp, rlimits and control groups around
//! warm Python workers.

pub mod cgroup;
pub mod doctor;
pub mod lockdown;
pub mod mode;
pub mod options;
pub mod probe;
pub mod template;

mod control;
mod engine;
mod entry;
mod guardian;
mod host;
mod init;
mod job;
mod keeper;
mod launcher;
mod mounts;
mod packet;
mod plan;
mod state;
mod sys;
mod wire;

pub use engine::{LocalProvider, StartError};
pub use entry::entry;
pub use host::Launcher;
