//! The local engine with real sandboxes: what cells and commands do, how they are stopped, and
//! what is left when something dies. Every test runs for root and for an ordinary user.
#![cfg(target_os = "linux")]

mod cells;
mod commands;
mod support;
mod tree;
mod unprivileged;
