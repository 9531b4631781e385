//! How a node leaves: nothing that runs is cut while it has time, and nothing new begins.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use crate::node::Node;

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
