//! The program. See [`sandpit::run`].
use std::process::ExitCode;

fn main() -> ExitCode {
    sandpit::run(std::env::args_os())
}
