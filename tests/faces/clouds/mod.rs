//! One sandpit as the cloud of another: the provider `e2b` against the facade of a node.

mod faults;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_sandbox::Provider;
use sandpit_sandbox::e2b::{ApiKey, E2b, Options, Template};
use sandpit_sandbox::provider::{CreateRequest, ExecEvent, ExecRequest, Limits, Work};
use sandpit_tests::cloud::proxy::{Proxy, Weather};
use sandpit_tests::cloud::rig;
use sandpit_tests::contract;
use serde_json::Value;

use crate::node::{Node, said};

/// Longest wait for what is bound to happen: two looks of the reaper, ten seconds apart, on a
/// machine that also compiles.
const WAIT_MAX: Duration = Duration::from_secs(90);

/// What a cloud of ours is spoken to with.
struct Account {
    address: SocketAddr,
    key: String,
}

impl Account {
    fn of(cloud: &Node) -> Self {
        let address = cloud.ready["e2b"].as_str().expect("an address").parse();
        let told = cloud.run(&["--json", "env"]);
        let told: Value = serde_json::from_str(&said(&told)).expect("JSON");
        let key = told["E2B_API_KEY"].as_str().expect("a key").to_owned();
        Self { address: address.expect("an address"), key }
    }

    /// Everything there, as the API lists it.
    fn listed(&self) -> Vec<Value> {
        let Self { address, key } = self;
        let mut stream = TcpStream::connect(address).expect("it listens");
        let ask = format!(
            "GET /v2/sandboxes HTTP/1.1\r\nHost: {address}\r\nX-API-KEY: {key}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        serde_json::from_str(body).unwrap_or_else(|_| panic!("a list: {answer}"))
    }

    /// The endpoint that this is, if `url` is a way there.
    fn options(&self, name: &str, url: &str) -> Options {
        let limits = Limits { memory_mb: 512, cpu_count: 1 };
        let template = |theirs: &str| Template { theirs: theirs.to_owned(), limits };
        let known = [("base", template("base")), ("refused", template("no-such-template"))];
        Options {
            key: ApiKey::read(&self.key).expect("a key"),
            domain: "sandpit.localhost".to_owned(),
            templates: known.map(|(ours, theirs)| (ours.to_owned(), theirs)).into(),
            ..rig::options(name, url)
        }
    }

    /// Our ids of what is there.
    fn leases(&self) -> Vec<String> {
        let lease = |one: &Value| Some(one["metadata"]["sandpit-lease"].as_str()?.to_owned());
        self.listed().iter().filter_map(lease).collect()
    }
}

/// Waits until `holds`.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let waited = tokio::time::timeout(WAIT_MAX, waiting).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sandpit_keeps_the_promises_of_a_provider() {
    let cloud = Node::start(&[]);
    let account = Account::of(&cloud);
    let url = format!("http://{}", account.address);
    let provider = E2b::new(account.options("sandpit", &url)).expect("an endpoint");
    contract::provider::provider(&provider, "base").await;
    assert_eq!(account.leases(), Vec::<String>::new(), "nothing is left there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_at_once_in_one_sandbox_see_their_own_params() {
    let cloud = Node::start(&[]);
    let account = Account::of(&cloud);
    let url = format!("http://{}", account.address);
    let provider = E2b::new(account.options("sandpit", &url)).expect("an endpoint");
    let sandbox = SandboxId::minted(NodeId::of_bits(7), 1);
    let create = CreateRequest { sandbox, template: "base".to_owned() };
    provider.create(create).await.expect("a sandbox");
    let code = "import time\nbefore = params\ntime.sleep(0.1)\nprint(before, params)";
    let seen = futures_util::future::join_all((0..6).map(async |number| {
        let (code, params) = (code.to_owned(), Some(number.to_string()));
        let request = ExecRequest {
            exec: ExecId::minted(number),
            work: Work::Cell { code, params, context: None },
            files: BTreeMap::new(),
            env: BTreeMap::new(),
            cwd: None,
            stdin: Bytes::new(),
            time_max: WAIT_MAX,
        };
        let mut stream = provider.exec(sandbox, request).await.expect("it begins");
        let mut stdout = String::new();
        while let Some(event) = stream.next().await {
            if let ExecEvent::Stdout(bytes) = event {
                stdout += &String::from_utf8_lossy(&bytes);
            }
        }
        stdout
    }));
    for (number, seen) in seen.await.into_iter().enumerate() {
        assert_eq!(seen, format!("{number} {number}\n"));
    }
    provider.destroy(sandbox).await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_between_a_creation_and_its_answer_leaves_nothing_at_the_cloud() {
    let cloud = Node::start(&[("SANDPIT_TEMPLATE_BASE_WARM_TARGET", "2")]);
    let account = Account::of(&cloud);
    let holding = Weather::Holding("POST /v2/sandboxes HTTP".to_owned());
    let way = Proxy::start(account.address, holding, Duration::ZERO, 1).await;
    let url = way.url();
    let node = Node::start(&[
        ("SANDPIT_PROVIDER_KIND", "e2b"),
        ("SANDPIT_PROVIDER_ENDPOINT_E2B_API_URL", &url),
        ("SANDPIT_PROVIDER_ENDPOINT_E2B_SANDBOX_URL", &url),
        ("SANDPIT_PROVIDER_ENDPOINT_E2B_TEMPLATE_MAP", "base=base"),
        ("SANDPIT_TEMPLATE_BASE_WARM_TARGET", "1"),
        ("E2B_API_KEY", &account.key),
    ]);
    until("a creation whose answer is awaited", || way.seen().held >= 1).await;
    let before = account.leases();
    assert_eq!(before.len(), 1, "the cloud has made it");

    way.change(Weather::Fair);
    let node = node.killed_and_started_again(&[]);
    let pool =
        || -> Value { serde_json::from_str(&said(&node.run(&["--json", "pool"]))).expect("JSON") };
    // What the node has now, and what the cloud has: the same, and the one from before is either
    // known or gone.
    until("agreement of node and cloud", || {
        let pool = pool();
        let stocks = pool["templates"].as_array().expect("a list");
        let base = stocks.iter().find(|stock| stock["template"] == "base").expect("a stock");
        let known = base["ready"].as_u64().expect("a number");
        let there = account.leases();
        known == 1 && there.len() == 1
    })
    .await;
    let (pool, after) = (pool(), account.leases());
    println!("before {before:?}, after {after:?}");
    println!("endpoints {}", pool["endpoints"]);
    assert_eq!(pool["endpoints"][0]["sandboxes"], 1);

    let ran = node.run(&["exec", "--template", "base", "--code", "6 * 7"]);
    assert_eq!(said(&ran).trim(), "42", "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(node.leave().success(), "it leaves in order");
    assert_eq!(account.leases(), Vec::<String>::new(), "and nothing is left there");
}
