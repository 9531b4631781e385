//! Wiring only: reads the configuration, builds ports, starts actors, waits.
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod demo;
pub mod http;
pub mod session;
pub mod settings;
pub mod telemetry;

use std::ffi::OsString;
use std::process::ExitCode;

/// `sandpit`, with these arguments.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    cli::run(arguments).into()
}
