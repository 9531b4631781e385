//! `sandpit bench e2b`: calls of E2B's own Python SDK on a node, next to the same calls on a server
//! that does nothing: the SDK's own time, below which nobody comes. And a rush of creates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::routing::{delete, post};
use axum::serve::ListenerExt;
use sandpit_sandbox::e2b::wire::control::{ENVD_VERSION, Sandbox};
use sandpit_sandbox::e2b::wire::filesystem::Written as File;
use sandpit_sandbox::e2b::wire::interpreter::{Line, Shown};
use sandpit_sandbox::e2b::wire::process::{End, Event, StreamResponse};
use sandpit_sandbox::e2b::wire::{CONNECT_JSON, JSON, envelope, ndjson};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::oneshot;

use super::node::failed;
use super::peers;
use super::stats::{Row, Times};
use super::{Bench, BenchError, Plan};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::e2b::keys::Written;
use crate::node::{self, Node};

/// The SDK, as the tests pin it.
const PACKAGES: [&str; 2] = ["e2b==2.63.0", "e2b-code-interpreter==2.11.5"];
/// Runs the SDK.
const DRIVER: &str = include_str!("e2b.py");
/// What is created.
const TEMPLATE: &str = "python";
/// Kept ready of it.
const STOCK: usize = 16;
/// Rounds of one turn: five turns are the three hundred that the budget is over.
const TURN: u32 = 60;
/// Creates at once.
const RUSH: usize = 100;
/// Longest all of it may take.
const TIME_MAX: Duration = Duration::from_secs(900);
/// The calls, and the milliseconds within which half of them are to be done.
const BUDGETS: [(&str, f64); 5] = [
    ("create", 10.0),
    ("commands.run", 10.0),
    ("run_code", 5.0),
    ("files.write", 5.0),
    ("kill", 5.0),
];

/// What came of it.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) rows: Vec<Row>,
    pub(super) rush: Rush,
    pub(super) notes: Vec<String>,
}

/// Many creates at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rush {
    made: usize,
    failed: Vec<String>,
    ns: u64,
}

/// One line of the driver.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Said {
    Time { side: String, call: String, ns: u64 },
    Rush(Rush),
    Warm {},
}

pub(super) fn run(bench: &Bench, plan: Plan) -> Result<Measured, Failure> {
    let mut config = super::node::config(bench, 0).map_err(|error| failed(&error))?;
    // Room for the rush, what is kept ready, and what is being destroyed.
    config.pool.total_max = config.pool.total_max.max(3 * RUSH);
    let local = &mut config.provider.local;
    local.sandboxes_max = local.sandboxes_max.max(4 * RUSH);
    if let Some(template) = config.template.get_mut(TEMPLATE) {
        template.warm_target = STOCK;
    }
    let mut measured = None;
    node::with(config, &bench.stages, async |node| {
        let prepared = node.provider().prepare(TEMPLATE, bench.stages.hearing()).await;
        prepared.map_err(|error| failed(&error))?;
        measured = Some(measure(bench, plan, node).await.map_err(|error| failed(&error))?);
        Ok(Exit::Done)
    })?;
    measured.ok_or_else(|| failed(&BenchError::new("it was interrupted")))
}

async fn measure(bench: &Bench, plan: Plan, node: &Node) -> Result<Measured, BenchError> {
    let python = sdk(bench).await?;
    let floor = Floor::start()?;
    let written = Written::of(node.data());
    let Written { url, key } = written.ok_or_else(|| BenchError::new("the node has no address"))?;
    bench.stages.step("calls of the SDK in turns", None);
    let mut driver = Command::new(python);
    driver.args(["-c", DRIVER, &url, &key, &format!("http://{}", floor.address)]);
    driver.args([plan.rounds.to_string(), TURN.to_string(), RUSH.to_string()]);
    driver.env("NO_PROXY", "127.0.0.1,localhost").env_remove("E2B_DEBUG");
    driver.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(TIME_MAX, driver.output()).await;
    let output = ended.map_err(|_| BenchError::new(format!("no end within {TIME_MAX:?}")))?;
    let output = output.map_err(|error| BenchError::of("the SDK", &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("nothing");
        return Err(BenchError::new(format!("the SDK said: {last}")));
    }
    told(&String::from_utf8_lossy(&output.stdout))
}

fn told(lines: &str) -> Result<Measured, BenchError> {
    let mut times: BTreeMap<(String, String), Times> = BTreeMap::new();
    let mut rush = None;
    for line in lines.lines() {
        let said = serde_json::from_str(line);
        match said.map_err(|error| BenchError::of(&format!("the SDK said `{line}`"), &error))? {
            Said::Time { side, call, ns } => {
                times.entry((side, call)).or_insert_with(Times::new).add(Duration::from_nanos(ns));
            }
            Said::Rush(seen) => rush = Some(seen),
            Said::Warm {} => {}
        }
    }
    let of = |side: &str, call: &str| {
        let found = times.get(&(side.to_owned(), call.to_owned()));
        found.ok_or_else(|| BenchError::new(format!("{call} on the {side} was not measured")))
    };
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for (call, budget) in BUDGETS {
        let floor = Row::peer(&format!("{call}, floor"), of("floor", call)?);
        let ours = Row::ours(call, of("node", call)?);
        let kept = if ours.p50_ms <= budget { "within" } else { "ABOVE" };
        notes.push(format!("{call}: p50 {:.2} ms, {kept} the budget of {budget} ms", ours.p50_ms));
        rows.extend([ours.against(&floor), floor]);
    }
    let rush = rush.ok_or_else(|| BenchError::new("the rush was not measured"))?;
    let took = Duration::from_nanos(rush.ns);
    rows.push(Row::ours(&format!("create, {RUSH} at once"), of("node", "rush")?).over(took));
    let Rush { made, failed, .. } = &rush;
    notes.push(format!("{made} of {RUSH} creates at once succeeded in {took:.1?}"));
    notes.extend(failed.iter().take(3).map(|why| format!("one did not: {why}")));
    notes.push(
        "The first cycles of a Python process, which import and connect, are not counted.".into(),
    );
    Ok(Measured { rows, rush, notes })
}

/// A Python with the SDK, made once.
async fn sdk(bench: &Bench) -> Result<PathBuf, BenchError> {
    let place = bench.folder("e2b")?;
    peers::python_with(bench, &place, &PACKAGES).await
}

/// A server that does nothing: fixed answers, nothing started.
struct Floor {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Floor {
    fn start() -> Result<Self, BenchError> {
        let at = |error: std::io::Error| BenchError::of("the floor", &error);
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(at)?;
        listener.set_nonblocking(true).map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let listener = listener.tap_io(|connection| {
                    // One that cannot is a little slower, to our disadvantage.
                    connection.set_nodelay(true).ok();
                });
                tokio::select! {
                    ended = axum::serve(listener, answers()).into_future() => ended,
                    _ = stopped => Ok(()),
                }
            })
        };
        std::thread::Builder::new().name("floor".to_owned()).spawn(serve).map_err(at)?;
        Ok(Self { address, _stop: stop })
    }
}

fn answers() -> Router {
    let made = Sandbox {
        sandbox_id: "i0".to_owned(),
        template_id: TEMPLATE.to_owned(),
        client_id: "floor".to_owned(),
        envd_version: ENVD_VERSION.to_owned(),
        alias: None,
        envd_access_token: Some("t".to_owned()),
        traffic_access_token: None,
        domain: Some("floor.localhost".to_owned()),
    };
    let event = |event| envelope::message(&StreamResponse { event });
    let ran =
        [event(Event::Start { pid: 1 }), event(Event::End(End::exit(0))), envelope::end(None)]
            .concat();
    let shown = Shown { is_main_result: true, text: Some("2".to_owned()), ..Shown::default() };
    let lines = [
        Line::NumberOfExecutions { execution_count: 1 },
        Line::Result(Box::new(shown)),
        Line::EndOfExecution,
    ];
    let lines: Vec<u8> = lines.iter().flat_map(ndjson::line).collect();
    let file = File {
        path: "/home/user/q".to_owned(),
        name: "q".to_owned(),
        kind: "file".to_owned(),
        metadata: None,
    };
    let json = |value: serde_json::Result<Vec<u8>>| Bytes::from(value.unwrap_or_default());
    let (made, file) = (json(serde_json::to_vec(&made)), json(serde_json::to_vec(&[file])));
    let fixed = |status: StatusCode, kind: &'static str, body: Bytes| {
        // The body is read: a client may mind if it is not.
        post(async move |_: Bytes| (status, [(header::CONTENT_TYPE, kind)], body))
    };
    Router::new()
        .route("/v2/sandboxes", fixed(StatusCode::CREATED, JSON, made))
        .route("/process.Process/Start", fixed(StatusCode::OK, CONNECT_JSON, ran.into()))
        .route("/execute", fixed(StatusCode::OK, JSON, lines.into()))
        .route("/files", fixed(StatusCode::OK, JSON, file))
        .route("/sandboxes/{id}", delete(async || StatusCode::NO_CONTENT))
}
