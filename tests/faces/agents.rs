//! Agents trade a replayed year on paper, and a program that shares nothing with them but the bus
//! recomputes what they earned.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::node::{Node, PROGRAM};
use crate::venv;

/// Asks for the agents and writes down what is published.
const DRIVE: &str = include_str!("agents_drive.py");
/// Agents that cannot work, and those that something happens to.
const EDGES: &str = include_str!("agents_edges.py");
/// Judges what was written down, with the standard library alone.
const JUDGE: &str = include_str!("agents_judge.py");

/// Real prices, fetched as a person does it: they are no part of this repository.
pub(crate) fn prices() -> Value {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prices");
    let mut fetch = Command::new(PROGRAM);
    fetch.arg("--data").arg(data).args(["--json", "market", "fetch"]);
    serde_json::from_str(&venv::run(&mut fetch)).expect("a document")
}

/// A program that nobody here wrote a client library for.
fn client(node: &Node, program: &str) -> Command {
    let output = node.run(&["--json", "env"]);
    let variables: Value = serde_json::from_slice(&output.stdout).expect("a document");
    let mut python = Command::new(venv::with(&["nats-py==2.16.0"]).join("python"));
    python.args(["-c", program]);
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD"] {
        python.env(name, variables[name].as_str().expect("text"));
    }
    python
}

#[test]
fn agents_say_why_they_failed_and_lose_nothing_to_a_killed_worker() {
    let fetched = prices();
    let file = fetched["prices"].as_str().expect("a path");
    let node = Node::start(&[("SANDPIT_MARKET_PRICES", file), ("SANDPIT_AGENT_BAR_MAX_S", "2")]);
    println!("{}", venv::run(&mut client(&node, EDGES)));
    assert!(node.leave().success());
}

#[test]
fn four_agents_trade_a_year_and_their_fills_alone_tell_what_they_earned() {
    let fetched = prices();
    let file = fetched["prices"].as_str().expect("a path");
    let market = &fetched["market"];
    let source = format!("{} {}", market["source"], market["version"]);
    let symbols: Vec<_> = market["symbols"].as_array().expect("a list").iter().collect();
    let symbols: Vec<_> = symbols.iter().filter_map(|symbol| symbol.as_str()).collect();
    let node = Node::start(&[("SANDPIT_MARKET_PRICES", file), ("SANDPIT_MARKET_SOURCE", &source)]);
    let recorded = venv::run(client(&node, DRIVE).env("SYMBOLS", symbols.join(",")));

    let mut judge = Command::new("python3");
    judge.args(["-I", "-c", JUDGE]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut judging = judge.spawn().expect("python3");
    let mut stdin = judging.stdin.take().expect("a pipe");
    stdin.write_all(recorded.as_bytes()).expect("it reads");
    drop(stdin);
    let judged = judging.wait_with_output().expect("an end");
    println!("{}", String::from_utf8_lossy(&judged.stdout));
    assert!(judged.status.success(), "the figures are not the same");
    assert!(node.leave().success());
}
