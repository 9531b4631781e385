//! Clients that nobody here wrote, using only what the README and `docs/protocol.md` say.

use std::process::Command;

use serde_json::Value;

use crate::node::Node;
use crate::venv;

/// What the README shows.
const QUICKSTART: &str = include_str!("../../docs/examples/quickstart.py");

/// Asks `$SRV.INFO` and prints the answer.
const INFO: &str = r#"
import asyncio, os, nats
async def main():
    bus = await nats.connect(
        os.environ["NATS_URL"], user=os.environ["NATS_USER"], password=os.environ["NATS_PASSWORD"])
    print((await bus.request("$SRV.INFO", b"", timeout=10)).data.decode())
    await bus.drain()
asyncio.run(main())
"#;

fn python(node: &Node, program: &str) -> String {
    let place = venv::with_our_client();
    let output = node.run(&["--json", "env"]);
    let variables: Value = serde_json::from_slice(&output.stdout).expect("a document");
    let mut python = Command::new(place.join("python"));
    python.args(["-c", program]);
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD"] {
        python.env(name, variables[name].as_str().expect("text"));
    }
    venv::run(&mut python)
}

#[test]
fn nats_py_creates_runs_streams_and_ends() {
    let node = Node::start(&[]);
    let said = python(&node, QUICKSTART);
    for line in [
        "result: [0.01, -0.0198, 0.0505]",
        "[stdout] daily returns",
        "[stdout] done",
        "exit code: 3",
        "sandbox: terminated",
    ] {
        assert!(said.contains(line), "no `{line}` in:\n{said}");
    }
    let left = node.run(&["--json", "sandbox", "list"]);
    let left: Value = serde_json::from_slice(&left.stdout).expect("a document");
    let running = left["sandboxes"].as_array().expect("a list").iter();
    assert_eq!(running.filter(|sandbox| sandbox["status"] != "stopped").count(), 0);
    assert!(node.leave().success());
}

#[test]
fn discovery_lists_every_verb_with_schemas_that_resolve() {
    let node = Node::start(&[]);
    let info: Value = serde_json::from_str(&python(&node, INFO)).expect("JSON");
    assert_eq!(info["type"], "io.nats.micro.v1.info_response");
    let endpoints = info["endpoints"].as_array().expect("a list");
    for verb in ["create", "exec", "cancel", "list", "status", "terminate", "pool"] {
        let endpoint = endpoints.iter().find(|endpoint| endpoint["name"] == verb);
        let endpoint = endpoint.unwrap_or_else(|| panic!("no `{verb}` in {info}"));
        assert_eq!(endpoint["subject"], format!("sandpit.v1.req.{verb}"));
        for schema in ["request_schema", "response_schema"] {
            let text = endpoint["metadata"][schema].as_str().expect("text");
            let schema: Value = serde_json::from_str(text).expect("JSON Schema");
            assert_eq!(schema["type"], "object", "{verb}: {schema}");
            assert!(!text.contains("$ref"), "{verb}: a schema is complete in itself");
        }
    }
    assert!(node.leave().success());
}

#[test]
fn the_readme_shows_the_program_that_is_tested() {
    let readme = include_str!("../../README.md");
    let shown = QUICKSTART.split_once("async def main").expect("a program").1;
    assert!(readme.contains(shown), "README.md and docs/examples/quickstart.py differ");
}
