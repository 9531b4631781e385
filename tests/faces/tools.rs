//! The tools as assistants use them: third-party clients of the Model Context Protocol ask, and
//! other faces show what it did.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::agents::prices;
use crate::node::{Node, PROGRAM};
use crate::venv;

/// The official SDK, a NATS client to look through, and a second opinion on schemas.
const PACKAGES: &[&str] = &["mcp==2.3.0", "nats-py==2.16.0", "jsonschema==4.26.0"];

/// A script of `tests/faces/tools` with what it needs to know of a node. What it says is the
/// transcript of its run.
fn script(node: &Node, name: &str, words: &[&str]) -> String {
    run(node, venv::with(PACKAGES), name, words)
}

/// Instruments that the node has prices of.
fn symbols() -> Vec<String> {
    let fetched = prices();
    let symbols = fetched["market"]["symbols"].as_array().expect("a list").iter();
    symbols.map(|symbol| symbol.as_str().expect("text").to_owned()).collect()
}

/// A node with real prices, for agents to trade on.
pub(crate) fn node() -> Node {
    let fetched = prices();
    let file = fetched["prices"].as_str().expect("a path");
    let market = &fetched["market"];
    let source = format!("{} {}", market["source"], market["version"]);
    Node::start(&[("SANDPIT_MARKET_PRICES", file), ("SANDPIT_MARKET_SOURCE", &source)])
}

fn run(node: &Node, place: PathBuf, name: &str, words: &[&str]) -> String {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("faces/tools");
    let mut python = Command::new(place.join("python"));
    python.arg(scripts.join(name)).args(words);
    let output = node.run(&["--json", "env"]);
    let variables: Value = serde_json::from_slice(&output.stdout).expect("a document");
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD"] {
        python.env(name, variables[name].as_str().expect("text"));
    }
    let data = node.data().display().to_string();
    let address = node.ready["http"].as_str().expect("an address");
    python.env("FACE_CLI", json!([PROGRAM, "--data", data]).to_string());
    python.env("FACE_STDIO", json!([PROGRAM, "--data", data, "mcp"]).to_string());
    python.env("FACE_URL", format!("http://{address}/mcp"));
    python.env("FACE_SYMBOLS", symbols().join(","));
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    venv::run(&mut python)
}

#[test]
fn the_sdk_lists_and_calls_every_tool_over_stdio_and_other_faces_see_it() {
    let node = node();
    println!("{}", script(&node, "tour.py", &["stdio"]));
    assert!(node.leave().success());
}

#[test]
fn the_sdk_lists_and_calls_every_tool_over_http_and_other_faces_see_it() {
    let node = node();
    println!("{}", script(&node, "tour.py", &["http"]));
    assert!(node.leave().success());
}

#[test]
fn long_calls_tell_how_far_they_are_and_end_when_they_are_given_up() {
    let node = node();
    for face in ["stdio", "http"] {
        println!("{}", script(&node, "long.py", &[face]));
    }
    assert!(node.leave().success());
}

#[test]
fn every_row_of_the_truth_table_holds_over_mcp_and_over_nats() {
    let node = node();
    for face in ["nats", "stdio", "http"] {
        println!("{}", script(&node, "truth.py", &[face]));
    }
    assert!(node.leave().success());
}

#[test]
fn the_python_client_runs_streams_and_keeps_files_with_and_without_async() {
    let node = node();
    println!("{}", run(&node, venv::with_our_client(), "client.py", &[]));
    assert!(node.leave().success());
}
