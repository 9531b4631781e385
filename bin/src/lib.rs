//! Wiring only: reads the configuration, builds ports, starts actors, waits.
#![forbid(unsafe_code)]

mod bench;
pub mod cli;
pub mod client;
pub mod demo;
pub mod e2b;
pub mod http;
pub mod limits;
pub mod market;
pub mod mcp;
pub mod node;
pub mod session;
pub mod settings;
pub mod telemetry;

use std::ffi::OsString;
use std::process::ExitCode;

/// `sandpit`, with these arguments. Does not return to its caller where this process was started
/// to become one of the program's inner processes.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    sandpit_sandbox::local::entry();
    if let Some(code) = sandpit_actors::embed::entry() {
        return code;
    }
    cli::run(arguments).into()
}
