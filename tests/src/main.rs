//! A process that tests may kill: `sandpit` itself, and parts of it alone.
#![expect(clippy::print_stdout, reason = "whoever started it reads what it says")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sandpit_actors::bus::nats::{Credentials, NatsBus, Options};
use sandpit_actors::bus::{AskError, Bus, Message};
use sandpit_actors::clock::Clock;
use sandpit_actors::embed::{self, DataLock, Embedded};

mod engine;
mod fixtures;

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
        ["build-layer", store, wheels] => engine::build_layer(store, wheels),
        ["say-mode", uid_base] => engine::say_mode(uid_base),
        ["mcp-fixtures", data] => serve_fixtures(Path::new(data)),
        ["timeouts", endpoint, count, subject] => {
            time_out(endpoint, count.parse().expect("a number"), subject)
        }
        _ => sandpit::run(std::env::args_os()),
    }
}

/// Starts a server as a node does, says so, and stays until it is killed.
fn run_embedded(data: PathBuf, cache: PathBuf) -> ExitCode {
    let search_path = std::env::var_os("PATH");
    let options = embed::Options { search_path, cache: Some(cache), ..embed::Options::new(data) };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    runtime().block_on(async {
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

/// Serves what the conformance suite wants to meet before the face of a running node, says where,
/// and stays until it is killed.
fn serve_fixtures(data: &Path) -> ExitCode {
    let endpoint = sandpit::session::Endpoint::of_node(data).expect("a node");
    let config = sandpit_config::Layers::default().read().expect("the defaults").config;
    let fixtures = fixtures::Fixtures(sandpit::mcp::Face::new(endpoint, config.bus));
    let door = sandpit::mcp::http::Door::of(true, None);
    let routes = sandpit::mcp::http::routes(door, move || fixtures.clone());
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        axum::serve(listener, routes).await.expect("it serves until it is killed");
    });
    ExitCode::SUCCESS
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// Asks what nobody answers, and says what is left of it.
fn time_out(endpoint: &str, count: u32, subject: &str) -> ExitCode {
    let text = std::fs::read(endpoint).expect("an endpoint");
    let endpoint: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let word = |name: &str| endpoint[name].as_str().expect("text").to_owned();
    let credentials = Credentials { user: word("user"), password: word("password") };
    let clock = Clock::start();
    let options = Options::new(vec![word("url")], Some(credentials), clock);
    runtime().block_on(async {
        let bus = Arc::new(NatsBus::connect(options).await.expect("a connection"));
        // Until somebody hears it.
        let ask = async || {
            let message = Message { subject: subject.to_owned(), ..Message::default() };
            bus.ask(message, clock.now() + Duration::from_millis(5)).await
        };
        while !matches!(ask().await, Err(AskError::TimedOut(_))) {}
        let (mut timed_out, mut before) = (0, 0);
        // A tenth to warm up, whose memory stays.
        for round in 0..count / 100 * 11 / 10 {
            if round == count / 1_000 {
                (timed_out, before) = (0, resident_kib());
            }
            let answers = futures_util::future::join_all((0..100).map(|_| ask())).await;
            let late = |answer: &&Result<_, _>| matches!(answer, Err(AskError::TimedOut(_)));
            timed_out += answers.iter().filter(late).count();
        }
        let grown_kib = resident_kib() - before;
        let pending = bus.counts().pending;
        let told = serde_json::json!({
            "timed_out": timed_out, "pending": pending, "grown_kib": grown_kib,
        });
        println!("{told}");
    });
    ExitCode::SUCCESS
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
