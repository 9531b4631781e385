//! The embedded engine: Linux namespaces, Landlock, seccomp, rlimits and control groups around
//! warm Python workers.

pub mod cgroup;
pub mod lockdown;
pub mod options;
