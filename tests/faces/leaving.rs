//! How a node leaves: nothing that runs is cut while it has time, and nothing new begins.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal};

use crate::node::{Node, said};

/// Something that runs, as far as saying that it has begun.
fn begun(node: &Node, line: &str) -> (Child, BufReader<ChildStdout>) {
    let mut exec = node.command(&["exec", "--shell", line]);
    let mut exec = exec.stdout(Stdio::piped()).spawn().expect("a command");
    let mut out = BufReader::new(exec.stdout.take().expect("a pipe"));
    let mut first = String::new();
    out.read_line(&mut first).expect("a line");
    assert_eq!(first, "begun\n");
    (exec, out)
}

/// Waits until the node has heard that it is to leave.
fn until_draining(node: &Node) {
    while node.get("/healthz").0 == 200 {
        std::thread::yield_now();
    }
}

#[test]
fn ctrl_c_lets_what_runs_end_and_begins_nothing_new() {
    let node = Node::start(&[]);
    let (mut exec, mut out) = begun(&node, "echo begun; sleep 2; echo done");
    node.press_ctrl_c();
    until_draining(&node);
    assert_eq!(node.get("/healthz"), (503, "draining\n".to_owned()));
    let refused = node.run(&["sandbox", "create"]);
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert_eq!((rest.as_str(), exec.wait().expect("an end").code()), ("done\n", Some(0)));
    assert_eq!(node.left().code(), Some(0));
}

#[test]
fn a_second_ctrl_c_ends_what_runs_at_once() {
    let node = Node::start(&[]);
    let (mut exec, _out) = begun(&node, "echo begun; sleep 600");
    node.press_ctrl_c();
    until_draining(&node);
    node.press_ctrl_c();
    assert_ne!(exec.wait().expect("an end").code(), Some(0));
    assert_eq!(node.left().code(), Some(0));
}

/// The server of a node, which is its child.
fn server_of(node: &Node) -> Option<Pid> {
    let parent = node.ready["pid"].as_u64().expect("a process");
    let entries = std::fs::read_dir("/proc").expect("a list").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_server = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        field("PPid:") == parent.to_string()
            && field("Name:").starts_with("nats-server")
            && !field("State:").starts_with('Z')
    };
    pids.into_iter().find(is_server).and_then(Pid::from_raw)
}

/// Kills the server that is not one of these, which may not be quite gone yet.
fn kill_server(node: &Node, before: &mut Vec<Pid>) {
    let server = loop {
        match server_of(node).filter(|server| !before.contains(server)) {
            Some(server) => break server,
            None => std::thread::yield_now(),
        }
    };
    rustix::process::kill_process(server, Signal::KILL).expect("a signal");
    before.push(server);
}

#[test]
fn a_server_that_is_killed_comes_back_and_sandboxes_keep_their_state() {
    let node = Node::start(&[]);
    let created = node.run(&["--quiet", "sandbox", "create"]);
    let id = said(&created).trim().to_owned();
    assert_eq!(node.run(&["exec", "--sandbox", &id, "--code", "x = 41"]).status.code(), Some(0));
    kill_server(&node, &mut Vec::new());
    let again = || node.run(&["exec", "--sandbox", &id, "--code", "x + 1"]);
    // Refused, not lost, until the server is back.
    let ran = (0..200).map(|_| again()).find(|ran| ran.status.success());
    assert_eq!(ran.map(|ran| said(&ran)).as_deref(), Some("42\n"));
    assert!(node.leave().success());
}

#[test]
fn a_server_that_dies_again_and_again_ends_the_node_with_code_70() {
    let node = Node::start(&[]);
    let restarts = 5;
    let mut killed = Vec::new();
    (0..=restarts).for_each(|_| kill_server(&node, &mut killed));
    assert_eq!(node.left().code(), Some(70));
}
