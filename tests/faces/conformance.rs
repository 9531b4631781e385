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
/// Calls for an agent until its template is built. Each takes a second, or as long as it may wait.
const BUILD_ASKS: u32 = 60;

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
fn the_inspector_lists_and_calls_every_tool() {
    let node = crate::tools::node();
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
            let answer = inspect(server, &words);
            println!("{tool} {arguments:?}\n  {answer}");
            answer
        };
        let created = expect(&call("create_e2b_sandbox", &["name=inspected"]));
        let sandbox = format!("sandbox_id={}", text(&created, "sandbox_id"));
        let ran = expect(&call("execute_e2b_process", &[&sandbox, "code=6 * 7"]));
        assert_eq!(ran["result"], json!("42"), "{ran}");
        if server.len() == 1 {
            call_the_others(&call, &sandbox);
        }
        let ended = expect(&call("terminate_e2b_sandbox", &[&sandbox]));
        assert_eq!(ended["status"], json!("terminated"), "{ended}");
    }
    assert!(node.leave().success());
}

/// The result of a call that went well.
fn expect(answer: &Value) -> Value {
    assert_eq!(answer["isError"], json!(false), "{answer}");
    answer["structuredContent"].clone()
}

fn text<'a>(result: &'a Value, field: &str) -> &'a str {
    result[field].as_str().unwrap_or_else(|| panic!("no {field}: {result}"))
}

/// Every tool but the three that a sandbox begins and ends with.
fn call_the_others(call: &dyn Fn(&str, &[&str]) -> Value, sandbox: &str) {
    let listed = expect(&call("list_e2b_sandboxes", &["status_filter=running"]));
    assert_eq!(listed["total_count"], json!(1), "{listed}");
    let status = expect(&call("get_e2b_sandbox_status", &[sandbox]));
    assert_eq!(text(&status, "status"), "running");
    let exported = expect(&call("export_e2b_template", &[sandbox, "template_name=inspected"]));
    assert_eq!(text(&exported, "template_name"), "inspected");
    let agent = ["agent_type=monitor", "symbols=KO", "wait=120"];
    let agent = expect(&call("run_e2b_agent", &[&[sandbox][..], &agent].concat()));
    assert_eq!(text(&agent, "status"), "completed", "{agent}");
    assert!(agent["results"]["data"]["rows"].as_u64() > Some(100), "{agent}");

    let configuration = r#"configuration={"template":"base","instances":2}"#;
    let deploy = ["template_name=inspected", "category=custom", configuration];
    let deployed = expect(&call("deploy_e2b_template", &deploy));
    let deployment = format!("deployment_id={}", text(&deployed, "deployment_id"));
    let scaled = expect(&call("scale_e2b_deployment", &[&deployment, "instance_count=1"]));
    assert_eq!(scaled["total_instances"], json!(1), "{scaled}");
    let health = expect(&call("monitor_e2b_health", &[]));
    assert!(health["total_sandboxes"].as_u64() >= Some(2), "{health}");

    let begun = expect(&call("init_e2b_swarm", &["topology=mesh", "maxAgents=4"]));
    let swarm = format!("swarm_id={}", text(&begun, "swarm_id"));
    let member = [swarm.as_str(), "agent_type=analyzer", "symbols=KO,JPM"];
    // The first of a template waits until it is built; a refusal says when to ask again.
    let added = (0..BUILD_ASKS).find_map(|_| {
        let answer = call("deploy_trading_agent", &member);
        (answer["isError"] == json!(false)).then(|| answer["structuredContent"].clone())
    });
    assert!(added.expect("it is built in the end")["sandbox_id"].is_string());
    let status = expect(&call("get_swarm_status", &[&swarm]));
    assert_eq!(status["agent_count"], json!(1), "{status}");
    let scaled = ["target_agents=2", "scale_mode=immediate"];
    let scaled = expect(&call("scale_swarm", &[&[swarm.as_str()][..], &scaled].concat()));
    assert_eq!(scaled["target_agents"], json!(2), "{scaled}");
    let run = ["strategy=analyzer", "timeout=120"];
    let ran = expect(&call("execute_swarm_strategy", &[&[swarm.as_str()][..], &run].concat()));
    assert!(ran["execution_id"].is_string(), "{ran}");
    let health = expect(&call("monitor_swarm_health", &[&swarm]));
    assert!(health["health_status"].is_string(), "{health}");
    let metrics = expect(&call("get_swarm_metrics", &[&swarm, "time_range=1h"]));
    assert_eq!(text(&metrics, "time_range"), "1h");
    let stopped = expect(&call("shutdown_swarm", &[&swarm, "force=true"]));
    assert_eq!(text(&stopped, "status"), "stopped", "{stopped}");
}
