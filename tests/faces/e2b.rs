//! E2B's own SDKs, unmodified, against a node: every call that the design names, in both languages,
//! in both of Python's clients, in the newest and in older releases.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::node::{Node, said};
use crate::npm::Programs;
use crate::venv;

/// The SDKs as the design pins them.
const PYTHON: &[&str] = &["e2b==2.63.0", "e2b-code-interpreter==2.11.5"];
const PYTHON_OLD: &[&str] = &["e2b==2.45.1", "e2b-code-interpreter==2.10.0"];
const NPM: &[&str] = &["e2b@2.51.0", "@e2b/code-interpreter@2.8.0"];
const NPM_OLD: &[&str] = &["e2b@2.45.0", "@e2b/code-interpreter@2.7.0"];

/// The template that the SDKs use unless they name one; making it may take longer than they wait.
const TEMPLATE: &str = "code-interpreter-v1";

/// How often it is asked for, ten seconds each time.
const TEMPLATE_TRIES: usize = 30;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("faces/e2b").join(name)
}

/// What `sandpit env` says of a node, as it is meant to be used.
fn variables(node: &Node) -> Vec<(String, String)> {
    let text = said(&node.run(&["--json", "env"]));
    let document: Value = serde_json::from_str(&text).expect("a document");
    let names = ["E2B_API_URL", "E2B_SANDBOX_URL", "E2B_API_KEY", "NO_PROXY"];
    let value = |name: &str| document[name].as_str().expect("a variable").to_owned();
    names.iter().map(|name| ((*name).to_owned(), value(name))).collect()
}

fn python(packages: &[&str], name: &str) -> Command {
    let mut command = Command::new(venv::with(packages).join("python"));
    command.arg(script(name));
    command
}

fn javascript(packages: &[&str]) -> Command {
    let mut command = Programs::with(packages).node();
    command.arg(script("suite.mjs"));
    command
}

/// Runs a suite, and prints what came of each of its rows: past the test runner, which would keep it
/// to itself as long as all is well.
fn rows(title: &str, command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap_or_else(|error| panic!("{title}: {error}"));
    let mut failed = Vec::new();
    let mut count = 0;
    for line in said(&output).lines() {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{title}: {line}"));
        let (name, seconds) = (row["row"].as_str().expect("a name"), &row["s"]);
        count += 1;
        if row["ok"] == true {
            tell(&format!("pass  {title:24} {name}  ({seconds} s)"));
        } else {
            let why = format!("{title}: {name}: {} (line {})", row["why"], row["line"]);
            tell(&format!("FAIL  {why}"));
            failed.push(why);
        }
    }
    if !output.status.success() || count == 0 {
        let error = String::from_utf8_lossy(&output.stderr);
        failed.push(format!("{title}: {} after {count} rows: {error}", output.status));
    }
    failed
}

fn tell(line: &str) {
    writeln!(io::stdout().lock(), "{line}").expect("somebody reads it");
}

/// A node on which that template can be used.
fn with_template() -> Node {
    let node = Node::start(&[]);
    for _ in 0..TEMPLATE_TRIES {
        // Each waits for a while for a sandbox, and says that there was none.
        let tried = node.run(&["exec", "--template", TEMPLATE, "--code", "1"]);
        if tried.status.success() {
            return node;
        }
    }
    panic!("the template {TEMPLATE} cannot be used");
}

#[test]
fn a_program_written_for_e2b_runs_unchanged() {
    let node = with_template();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/e2b_quickstart.py");
    let folder = node.data().join("quickstart");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut python = Command::new(venv::with(PYTHON).join("python"));
    python.arg(program.canonicalize().expect("a program")).current_dir(&folder);
    let output = venv::run(python.envs(variables(&node)));
    for line in
        ["printed 108.4 and answered 104.2", "hello from inside", "['notes.txt']", "killed True"]
    {
        assert!(output.contains(line), "{line} is not in {output}");
    }
    let chart = std::fs::read(folder.join("chart.png")).expect("a chart");
    let side =
        |at: usize| chart[at..at + 4].iter().fold(0, |sum, byte| sum * 256 + u32::from(*byte));
    assert!(chart.starts_with(b"\x89PNG\r\n\x1a\n"), "it is no picture");
    // A figure of six by four inches, cut to what is drawn.
    assert!((400..700).contains(&side(16)) && (300..500).contains(&side(20)), "a strange size");
}

#[test]
fn every_call_of_the_official_sdks_works() {
    let node = with_template();
    let variables = variables(&node);
    let mut suites = [
        ("traps on the wire", python(PYTHON, "traps.py")),
        ("python sync", python(PYTHON, "suite.py")),
        ("python async", python(PYTHON, "suite.py")),
        ("python sync, older", python(PYTHON_OLD, "suite.py")),
        ("python async, older", python(PYTHON_OLD, "suite.py")),
        ("javascript", javascript(NPM)),
        ("javascript, older", javascript(NPM_OLD)),
    ];
    let failed: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = suites
            .iter_mut()
            .map(|(title, command)| {
                if title.starts_with("python") {
                    command.arg(if title.contains("async") { "async" } else { "sync" });
                }
                if title.contains("older") {
                    command.arg("old");
                }
                command.envs(variables.clone());
                scope.spawn(move || rows(title, command))
            })
            .collect();
        running.into_iter().flat_map(|suite| suite.join().expect("a suite")).collect()
    });
    assert!(failed.is_empty(), "{} rows failed:\n{}", failed.len(), failed.join("\n"));
}

/// A server that always says no in the same words, twice or for ever, and then makes a sandbox.
struct Refusing {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Refusing {
    fn start(headers: &'static str, message: &'static str, times: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        // It ends with the test program.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a deadline");
                // One answer for each connection: the client is told that it ends.
                let mut bytes = [0; 65_536];
                while stream.read(&mut bytes).is_ok_and(|read| read > 0 && !whole(&bytes[..read])) {
                }
                let body = match count.fetch_add(1, Ordering::SeqCst) < times {
                    true => ("429 Too Many Requests", headers, format!("{{\"code\":429,\"message\":\"{message}\"}}")),
                    false => ("201 Created", "", r#"{"sandboxID":"i0","templateID":"t","clientID":"c","envdVersion":"0.6.13","envdAccessToken":"t","domain":"d"}"#.to_owned()),
                };
                let (status, headers, body) = body;
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).ok();
            }
        });
        Self { address, asked }
    }

    /// What came of a create, and how often it was asked for.
    fn create(&self, mut command: Command) -> (Output, usize) {
        let url = format!("http://{}", self.address);
        command.env("E2B_API_URL", &url).env("E2B_SANDBOX_URL", &url);
        command.env("E2B_API_KEY", format!("e2b_{}", "0".repeat(40)));
        command.env("NO_PROXY", "127.0.0.1,localhost");
        let output = command.output().expect("a program");
        (output, self.asked.load(Ordering::SeqCst))
    }
}

/// Whether a request has come whole: its last bytes end a chunked body or an object.
fn whole(bytes: &[u8]) -> bool {
    bytes.ends_with(b"0\r\n\r\n") || bytes.ends_with(b"}")
}

fn creators() -> [(&'static str, Command); 2] {
    let mut python = Command::new(venv::with(PYTHON).join("python"));
    python.args(["-c", "import e2b; print(e2b.Sandbox.create().sandbox_id)"]);
    let mut node = Programs::with(NPM).node();
    let create = "require('e2b').Sandbox.create().then(s => console.log(s.sandboxId))";
    node.args(["-e", create]);
    [("python", python), ("javascript", node)]
}

#[test]
fn e2b_trap_25_a_create_that_is_to_come_back_does_and_one_over_quota_does_not() {
    for (language, create) in creators() {
        let server = Refusing::start("Retry-After: 1\r\n", "Rate limit exceeded", 2);
        let (output, asked) = server.create(create);
        assert_eq!((said(&output).trim(), asked), ("i0", 3), "{language}: {output:?}");
    }
    for (language, create) in creators() {
        let message = "the maximum number of concurrent sandboxes is reached: 20";
        let server = Refusing::start("Should-Retry: false\r\n", message, usize::MAX);
        let (output, asked) = server.create(create);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("RateLimit"), "{language}: {error}");
        assert_eq!(asked, 1, "{language}");
    }
}

#[test]
fn a_node_that_dies_under_a_stream_is_an_error_and_not_a_hang() {
    let node = Node::start(&[]);
    let program = "import e2b\n\
                   s = e2b.Sandbox.create('base')\n\
                   s.commands.run('echo begun; sleep 60', on_stdout=lambda t: print(t, flush=True))\n";
    let mut python = Command::new(venv::with(PYTHON).join("python"));
    python.args(["-c", program]).envs(variables(&node));
    let mut running =
        python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program");
    let mut out = BufReader::new(running.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "begun");
    drop(node);
    // Its own request timeout is a minute: sooner than that it noticed.
    let output = running.wait_with_output().expect("an end");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("Exception"), "{error}");
}
