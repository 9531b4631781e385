//! What a node tells about itself, as programs that are not ours receive it: traces by the
//! collector rotel over OTLP, metrics by whoever reads Prometheus' text.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use sandpit::telemetry::names::{Kind, METRICS};

use crate::node::{Node, said};
use crate::venv;

/// Longest wait for the collector.
const COLLECTOR_MAX: Duration = Duration::from_secs(30);

/// A span as the collector printed it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: String,
}

/// The collector, killed when this is dropped.
struct Collector {
    process: Child,
    port: u16,
    lines: Receiver<String>,
}

impl Collector {
    fn start() -> Self {
        // It takes no port 0, and another program may take a port that was free a moment ago.
        (0..5).find_map(|_| Self::try_start()).expect("the collector listens")
    }

    #[expect(clippy::disallowed_methods, reason = "a test waits for a program that is not ours")]
    fn try_start() -> Option<Self> {
        let place = venv::with(&["rotel==0.0.1a15"]);
        let find = "import pathlib, rotel; print(pathlib.Path(rotel.__file__).parent)";
        let package = venv::run(Command::new(place.join("python")).args(["-c", find]));
        let mut rotel = Command::new(format!("{}/rotel-agent", package.trim()));
        let [port, other] = [free_port(), free_port()];
        rotel.args(["start", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]);
        rotel.args(["--exporter", "blackhole"]);
        rotel.args(["--otlp-http-endpoint", &format!("127.0.0.1:{port}")]);
        rotel.args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{other}")]);
        let mut process = rotel.stdout(Stdio::piped()).spawn().expect("rotel");
        let out = BufReader::new(process.stdout.take().expect("a pipe"));
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| told.send(line).ok())
        });
        let until = Instant::now() + COLLECTOR_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until || process.try_wait().is_ok_and(|ended| ended.is_some()) {
                process.kill().ok();
                process.wait().ok();
                return None;
            }
            std::thread::yield_now();
        }
        Some(Self { process, port, lines })
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The trace that holds a span called `name`, once it holds all these paths as well.
    fn trace_with(&self, name: &str, paths: &[&str]) -> Trace {
        let mut all: Vec<Span> = Vec::new();
        loop {
            let line = self.lines.recv_timeout(COLLECTOR_MAX);
            let line = line.unwrap_or_else(|_| panic!("{paths:?} are not all in {all:#?}"));
            if line.starts_with("Span #") {
                all.push(Span::default());
            }
            let (Some(span), Some((key, value))) = (all.last_mut(), line.split_once(':')) else {
                continue;
            };
            let value = value.trim().to_owned();
            match key.trim() {
                "Trace ID" => span.trace = value,
                "Parent ID" => span.parent = value,
                "ID" => span.id = value,
                "Name" => span.name = value,
                "Kind" => {
                    // The last of these lines of a span.
                    span.kind = value;
                    let trace = Trace::of(name, &all);
                    let complete = |trace: &Trace| {
                        paths.iter().all(|path| trace.paths.iter().any(|known| known == path))
                    };
                    if let Some(trace) = trace.filter(complete) {
                        return trace;
                    }
                }
                _ => {}
            }
        }
    }
}

/// One trace.
struct Trace {
    spans: Vec<Span>,
    /// Of each span its name after those of all above it, sorted.
    paths: Vec<String>,
}

impl Trace {
    fn of(name: &str, all: &[Span]) -> Option<Self> {
        let id = &all.iter().find(|span| span.name == name)?.trace;
        let spans: Vec<_> = all.iter().filter(|span| &span.trace == id).cloned().collect();
        let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
        let path = |span: &Span| {
            let mut names = vec![span.name.clone()];
            let mut parent = span.parent.as_str();
            while let Some(span) = by_id.get(parent) {
                names.push(span.name.clone());
                parent = &span.parent;
            }
            names.reverse();
            names.join(" > ")
        };
        let mut paths: Vec<_> = spans.iter().map(path).collect();
        paths.sort();
        Some(Self { spans, paths })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn a_request_is_one_trace_from_the_command_line_into_the_sandbox() {
    let collector = Collector::start();
    let endpoint = collector.endpoint();
    let environment =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("SANDPIT_TELEMETRY_RATIO", "1")];
    let node = Node::start(&environment);
    let ran = node.run(&["exec", "--code", "1+1"]);
    assert_eq!(said(&ran), "2\n", "{ran:?}");
    assert!(node.leave().success());

    let paths = [
        "cli exec > request sandpit.v1.req.create > process sandpit.v1.req.create > pool.acquire",
        "cli exec > request sandpit.v1.req.exec > process sandpit.v1.req.exec > exec.run > \
         provider.attempt",
        "cli exec > request sandpit.v1.req.terminate > process sandpit.v1.req.terminate",
    ];
    let trace = collector.trace_with("cli exec", &paths);
    let id = &trace.spans[0].trace;
    println!("as rotel printed it, trace {id}:\n  {}", trace.paths.join("\n  "));
    assert!(trace.spans.len() >= 5);
    let kind = |name: &str| {
        let span = trace.spans.iter().find(|span| span.name == name).expect("a span");
        span.kind.clone()
    };
    assert_eq!(kind("request sandpit.v1.req.exec"), "SPAN_KIND_CLIENT");
    assert_eq!(kind("process sandpit.v1.req.exec"), "SPAN_KIND_CONSUMER");
    let roots = trace.spans.iter().filter(|span| span.parent.is_empty());
    assert_eq!(roots.map(|span| span.name.as_str()).collect::<Vec<_>>(), ["cli exec"]);
}

#[test]
fn a_collector_that_is_down_costs_no_request_and_no_exit_code() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let environment =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("SANDPIT_TELEMETRY_RATIO", "1")];
    let node = Node::start(&environment);
    let ran = node.run(&["exec", "--code", "1+1"]);
    assert_eq!((said(&ran).as_str(), ran.status.code()), ("2\n", Some(0)), "{ran:?}");
    assert!(node.leave().success());
}

#[test]
fn metrics_are_those_of_the_table_and_health_is_told() {
    let node = Node::start(&[]);
    assert_eq!(said(&node.run(&["exec", "--code", "1+1"])), "2\n");
    assert_eq!(node.get("/healthz"), (200, "serving\n".to_owned()));
    let (status, text) = node.get("/metrics");
    assert_eq!(status, 200);
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families: Vec<_> =
        families.map(|family| family.split(' ').next().expect("a name").to_owned()).collect();
    let known: Vec<_> = METRICS
        .iter()
        .map(|metric| {
            let unit = match metric.unit {
                "s" => "_seconds",
                "By" => "_bytes",
                _ => "",
            };
            let end = if metric.kind == Kind::Counter { "_total" } else { "" };
            format!("{}{unit}{end}", metric.name.replace('.', "_"))
        })
        .collect();
    for family in &families {
        let about_the_exporter = ["target_info", "otel_scope_info"].contains(&family.as_str());
        assert!(about_the_exporter || known.contains(family), "{family} is in no table");
    }
    for name in ["sandpit_pool_ready", "sandpit_exec_duration_seconds"] {
        assert!(families.iter().any(|family| family == name), "no {name} in {families:?}");
    }
    assert!(node.leave().success());
}

/// The asynchronous client, enabled by anybody, wins over the blocking one, and the exporter's own
/// thread then panics for want of a runtime.
#[test]
fn nobody_enables_the_exporters_asynchronous_client() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--offline", "-e", "features", "-i", "opentelemetry-otlp"]);
    let tree = venv::run(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
    assert!(tree.contains("feature \"reqwest-blocking-client\""), "{tree}");
    assert!(!tree.contains("feature \"reqwest-client\""), "{tree}");
}
