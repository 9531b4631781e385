//! The embedded engine: Linux namespaces, Landlock, seccomp, rlimits and control groups around
//! warm Python workers.

pub mod cgroup;
pub mod lockdown;
pub mod mode;
pub mod options;
pub mod template;

mod control;
mod entry;
mod guardian;
mod init;
mod keeper;
mod launcher;
mod mounts;
mod plan;
mod sys;

pub use entry::entry;
