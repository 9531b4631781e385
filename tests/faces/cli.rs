//! The command line, as scripts depend on it: exit codes, documents, errors.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::node::{Node, PROGRAM, said};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A command that needs no node.
fn alone(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).stdin(Stdio::null()).output().expect("a command")
}

#[test]
fn exec_ends_as_the_program_ended() {
    let node = Node::start(&[]);
    let check = |words: &[&str], expected: i32, out: &str| {
        let ran = node.run(&[&["exec"], words].concat());
        assert_eq!((code(&ran), said(&ran).as_str()), (Some(expected), out), "{words:?}: {ran:?}");
    };
    check(&["--code", "print('one'); 1 + 1"], 0, "one\n2\n");
    check(&["--code", "raise ValueError('no')"], 1, "");
    check(&["--shell", "echo out; echo err >&2; exit 3"], 3, "out\n");
    check(&["--", "echo", "-n", "two words"], 0, "two words");
    check(&["--timeout", "1", "--code", "while True: pass"], 124, "");
    check(&["--shell", "kill -9 $$"], 137, "");
    check(&["--params", "{\"n\": 20}", "--code", "params['n'] + 1"], 0, "21\n");
    check(&["--env", "WHO=you", "--", "sh", "-c", "echo $WHO"], 0, "you\n");
    check(&["--sandbox", "i00000000000000000000000042", "--code", "1"], 125, "");
    check(&["--template", "none", "--code", "1"], 125, "");
    let listed = document(&node.run(&["--json", "sandbox", "list"]));
    assert_eq!(listed["sandboxes"].as_array().map(Vec::len), Some(0), "a run left its sandbox");
    assert!(node.leave().success());
}

#[test]
fn a_sandbox_is_created_used_looked_at_and_ended() {
    let node = Node::start(&[]);
    let created = document(&node.run(&["--json", "sandbox", "create", "--name", "mine"]));
    assert_eq!(created["schema"], "sandpit.sandbox.create/1");
    let id = created["sandbox_id"].as_str().expect("an id").to_owned();
    for (code, result) in [("x = 41", None), ("x + 1", Some("42"))] {
        let ran = document(&node.run(&["--json", "exec", "--sandbox", &id, "--code", code]));
        assert_eq!(
            (ran["schema"].as_str(), ran["result"].as_str()),
            (Some("sandpit.exec.run/1"), result)
        );
    }
    let quiet = node.run(&["--quiet", "sandbox", "list"]);
    assert_eq!(said(&quiet), format!("{id}\n"));
    let status = document(&node.run(&["--json", "sandbox", "status", &id]));
    assert_eq!(
        (status["name"].as_str(), status["execution_count"].as_u64()),
        (Some("mine"), Some(2))
    );
    assert_eq!(code(&node.run(&["sandbox", "kill", &id])), Some(0));
    let gone = node.run(&["--json", "exec", "--sandbox", &id, "--code", "1"]);
    let told: Value = serde_json::from_str(complained(&gone).trim()).expect("one document");
    assert_eq!((code(&gone), told["kind"].as_str()), (Some(125), Some("gone")), "{told}");
    assert_eq!(code(&node.run(&["sandbox", "status", "i00000000000000000000000042"])), Some(3));
    assert!(node.leave().success());
}

#[test]
fn equal_runs_are_answered_once_where_that_was_asked_for() {
    let node = Node::start(&[]);
    let run = || {
        let code = "import random; random.random()";
        document(&node.run(&["--json", "exec", "--cache", "60", "--code", code]))
    };
    let (first, second) = (run(), run());
    assert_eq!((&first["cached"], &second["cached"]), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!(first["result"], second["result"]);
    let pool = document(&node.run(&["--json", "pool"]));
    assert_eq!(
        (pool["schema"].as_str(), pool["cache"]["hits"].as_u64()),
        (Some("sandpit.pool.show/1"), Some(1))
    );
    assert!(node.leave().success());
}

#[test]
fn without_a_node_the_way_to_one_is_named() {
    let data = std::env::temp_dir().join(format!("sandpit-none-{:016x}", rand::random::<u64>()));
    let data = data.to_str().expect("a name").to_owned();
    let pool = alone(&["--data", &data, "pool"]);
    assert_eq!(code(&pool), Some(7));
    let text = complained(&pool);
    assert!(text.starts_with("error[no_node]: ") && text.contains("next:  sandpit up"), "{text}");
    assert_eq!(code(&alone(&["--data", &data, "probe"])), Some(9));
}

#[test]
fn a_data_directory_has_one_node() {
    let node = Node::start(&[]);
    let second = node.run(&["up"]);
    assert_eq!(code(&second), Some(75), "{}", complained(&second));
    assert!(complained(&second).contains("in use by process"), "{}", complained(&second));
    assert_eq!(code(&node.run(&["probe"])), Some(0));
    assert!(node.leave().success());
}

#[test]
fn what_keeps_a_node_from_starting_is_named_with_its_own_code() {
    let all = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let data = all.join(format!("start-{:016x}", rand::random::<u64>()));
    let folder = data.to_str().expect("a name");
    let check = |set: &str, expected: i32, named: &str| {
        let ended = alone(&["--data", folder, "up", "--set", set]);
        let text = complained(&ended);
        assert_eq!(code(&ended), Some(expected), "{set}: {text}");
        assert!(text.contains(named), "{set}: {text}");
    };
    check("pool.total_max=0", 2, "expected a whole number, 1 to 10000");
    check("pool.totl_max=1", 2, "did you mean `pool.total_max`?");
    check("bus.server_path=/nowhere/nats-server", 69, "bus.server_path");
    check("bus.url=nats://127.0.0.1:1", 7, "nats://127.0.0.1:1");
    check("bus.url=nats://nats.example:4222", 2, "bus.allow_plaintext");
    check("provider.local.python=/nowhere/python", 1, "/nowhere/python");
    check("template.base.requirements=/nowhere/r.txt", 2, "template.base.requirements");
    std::fs::remove_dir_all(data).ok();
}

#[test]
fn settings_are_shown_with_where_they_were_set() {
    let shown = alone(&["--json", "config", "show", "--changed", "--set", "pool.total_max=20"]);
    let shown = document(&shown);
    assert_eq!(
        shown["settings"],
        serde_json::json!([
            { "setting": "pool.total_max", "value": "20", "source": "--set pool.total_max" }
        ])
    );
    assert_eq!(code(&alone(&["config", "check"])), Some(0));
}

#[test]
fn help_documents_the_exit_codes_and_completions_are_scripts() {
    let help = alone(&["--help"]);
    assert!(said(&help).contains("Exit codes:") && said(&help).contains("75   "), "{help:?}");
    for (shell, marks) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        assert!(said(&alone(&["completions", shell])).contains(marks), "{shell}");
    }
}

#[test]
fn a_full_disk_is_named_with_the_way_out() {
    let folder = std::env::temp_dir().join(format!("sandpit-full-{:016x}", rand::random::<u64>()));
    std::fs::create_dir_all(&folder).expect("a folder");
    // One page, which the lock takes; gone with the namespace.
    let up = format!(
        "mount -t tmpfs -o size=4k tmpfs {0} && exec {PROGRAM} --data {0} up",
        folder.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", &up]);
    let ended = unshare.stdin(Stdio::null()).output().expect("unshare");
    std::fs::remove_dir_all(folder).ok();
    let text = complained(&ended);
    assert_eq!(code(&ended), Some(1), "{text}");
    assert!(text.contains("No space left on device") && text.contains("--data FOLDER"), "{text}");
}
