//! What a process gives up before it runs foreign code: capabilities, resources, files, system
//! calls. In this order, because each step needs what the next one takes away.
//!
//! Filters and values are computed once by the engine. What is applied between fork and exec
//! allocates nothing and takes no lock.

mod calls;
pub mod caps;
pub mod landlock;
pub mod rlimits;
pub mod seccomp;

#[cfg(test)]
mod tests;
