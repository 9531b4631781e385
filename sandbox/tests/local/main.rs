//! The local engine with real sandboxes: what cells and commands do, how they are stopped, and
//! what is left when something dies. Every test runs for root and for an ordinary user.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod cells;
mod commands;
mod contexts;
mod files;
mod pause;
mod ports;
mod processes;
mod shown;
mod support;
mod tree;
mod unprivileged;
mod watches;
