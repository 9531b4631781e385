//! A process that tests may kill: `sandpit` itself, and parts of it alone.

use std::path::PathBuf;
use std::process::ExitCode;

use sandpit_actors::clock::Clock;
use sandpit_actors::embed::{self, DataLock, Embedded};

mod engine;

fn main() -> ExitCode {
    sandpit_sandbox::local::entry();
    if let Some(code) = embed::entry() {
        return code;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["embed", data, cache] => run_embedded(data.into(), cache.into()),
        ["lock", data] => hold(data.into()),
        ["hold-sandboxes", store, node] => engine::hold_sandboxes(store, node),
        ["say-mode", uid_base] => engine::say_mode(uid_base),
        _ => sandpit::run(std::env::args_os()),
    }
}

/// Starts a server as a node does, says so, and stays until it is killed.
fn run_embedded(data: PathBuf, cache: PathBuf) -> ExitCode {
    let search_path = std::env::var_os("PATH");
    let options = embed::Options { search_path, cache: Some(cache), ..embed::Options::new(data) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        match Embedded::start(options, Clock::start()).await {
            Ok(server) => {
                println!("ready {}", server.pid().unwrap_or_default());
                std::future::pending::<()>().await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("{error}");
                ExitCode::from(69)
            }
        }
    })
}

fn hold(data: PathBuf) -> ExitCode {
    match DataLock::take(&data) {
        Ok(_lock) => {
            println!("held");
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            println!("{error}");
            ExitCode::from(75)
        }
    }
}
