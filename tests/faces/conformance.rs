//! The protocol as others read it: its own conformance suite and its inspector, from npm.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::node::{Node, PROGRAM};
use crate::npm::Programs;
use crate::venv;

const INSPECTOR: &[&str] = &["@modelcontextprotocol/inspector@2.12.0"];
const SUITE: &[&str] = &["@modelcontextprotocol/conformance@0.2.0-alpha.12"];
/// The latest revision that our SDK crate speaks.
const REVISION: &str = "2026-07-28";

/// The fixtures before the face of a node, killed when this is dropped.
struct Fixtures {
    process: Child,
    url: String,
}

impl Fixtures {
    fn start(node: &Node) -> Self {
        let mut serve = Command::new(PROGRAM);
        serve.arg("mcp-fixtures").arg(node.data()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = serve.spawn().expect("the fixtures");
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().expect("a pipe"));
        out.read_line(&mut line).expect("a line");
        Self { process, url: format!("http://{}/mcp", line.trim()) }
    }
}

impl Drop for Fixtures {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn every_scenario_that_the_latest_revision_requires_passes() {
    let node = Node::start(&[]);
    let fixtures = Fixtures::start(&node);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("faces/tools");
    let mut suite = Programs::with(SUITE).command("conformance");
    suite.args(["server", "--url", &fixtures.url, "--requirements", REVISION]);
    suite.arg("--expected-failures").arg(folder.join("expected-failures.yml"));
    let said = venv::run(&mut suite);
    let summary = said.split("=== SUMMARY ===").nth(1).unwrap_or_else(|| panic!("{said}"));
    println!("{summary}");
    // The suite has ended well, so these are just those that are expected to fail.
    let expected = std::fs::read_to_string(folder.join("expected-failures.yml")).expect("a list");
    let expected: BTreeSet<_> =
        expected.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    let named = |mark: char| -> BTreeSet<_> {
        let lines = summary.lines().filter_map(|line| line.strip_prefix(mark));
        lines.filter_map(|line| line.trim().split(':').next()).collect()
    };
    assert_eq!(named('✗'), expected, "{summary}");
    let passed = named('✓').len();
    assert!(passed >= 37, "{passed} scenarios passed:\n{summary}");
    drop(fixtures);
    assert!(node.leave().success());
}

#[test]
fn the_inspector_lists_and_calls_tools_over_stdio_and_http() {
    let node = Node::start(&[]);
    let programs = Programs::with(INSPECTOR);
    let url = format!("http://{}/mcp", node.ready["http"].as_str().expect("an address"));
    let stdio = [PROGRAM, "--data", node.data().to_str().expect("a name"), "mcp"];
    let inspect = |server: &[&str], words: &[&str]| -> Value {
        let mut inspector = programs.command("mcp-inspector");
        inspector.arg("--cli").args(server).args(words).stdin(Stdio::null());
        let said = venv::run(&mut inspector);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    for server in [&[url.as_str()][..], &stdio] {
        let listed = inspect(server, &["--method", "tools/list"]);
        let tools = listed["tools"].as_array().expect("a list");
        assert_eq!(tools.len(), 18, "{listed}");
        for tool in tools {
            for schema in ["inputSchema", "outputSchema"] {
                assert_eq!(tool[schema]["type"], "object", "{}: {schema}", tool["name"]);
                assert!(!tool[schema].to_string().contains("$ref"), "{}", tool["name"]);
            }
        }
        let call = |tool: &str, arguments: &[&str]| {
            let mut words = vec!["--method", "tools/call", "--tool-name", tool];
            arguments.iter().for_each(|argument| words.extend(["--tool-arg", argument]));
            inspect(server, &words)
        };
        let created = call("create_e2b_sandbox", &["name=inspected"]);
        assert_eq!(created["isError"], json!(false), "{created}");
        let id = created["structuredContent"]["sandbox_id"].as_str().expect("an id").to_owned();
        let sandbox = format!("sandbox_id={id}");
        let ran = call("execute_e2b_process", &[&sandbox, "code=6 * 7"]);
        assert_eq!(ran["structuredContent"]["result"], json!("42"), "{ran}");
        let ended = call("terminate_e2b_sandbox", &[&sandbox]);
        assert_eq!(ended["structuredContent"]["status"], json!("terminated"), "{ended}");
        println!("{created}\n{ran}\n{ended}");
    }
    assert!(node.leave().success());
}
