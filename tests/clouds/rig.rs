//! Endpoints of a test.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sandpit_actors::clock::Clock;
use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_sandbox::Provider;
use sandpit_sandbox::e2b::plan::Plan;
use sandpit_sandbox::e2b::{ApiKey, E2b, Options, Template};
use sandpit_sandbox::guard::Time;
use sandpit_sandbox::provider::{
    CreateRequest, Done, ExecEvent, ExecRequest, ExecStream, Limits, Work,
};
use sandpit_tests::cloud::{KEY, TEMPLATE};

/// Whose sandboxes they are.
pub(crate) fn node() -> NodeId {
    NodeId::of_bits(7)
}

/// The time of this machine.
pub(crate) fn time() -> Time {
    let clock = Clock::start();
    Time::new(move || clock.now())
}

/// An endpoint behind this address.
pub(crate) fn options(name: &str, url: &str) -> Options {
    let limits = Limits { memory_mb: 512, cpu_count: 2 };
    let template = |theirs: &str| Template { theirs: theirs.to_owned(), limits };
    let templates = [("python", template(TEMPLATE)), ("refused", template("refused"))];
    Options {
        name: name.to_owned(),
        api_url: url.to_owned(),
        sandbox_url: Some(url.to_owned()),
        domain: "cloud.invalid".to_owned(),
        key: ApiKey::read(KEY).expect("a key"),
        cluster: node(),
        templates: templates.map(|(ours, theirs)| (ours.to_owned(), theirs)).into(),
        lifetime: Duration::from_secs(300),
        park: false,
        internet: false,
        connect_max: Duration::from_secs(2),
        time: time(),
        plan: Plan::Custom,
    }
}

pub(crate) fn endpoint(name: &str, url: &str) -> E2b {
    E2b::new(options(name, url)).expect("an endpoint")
}

/// The same account, used by another node.
pub(crate) fn foreign(url: &str) -> E2b {
    let options = Options { cluster: NodeId::of_bits(8), ..options("eu", url) };
    E2b::new(options).expect("an endpoint")
}

pub(crate) fn sandbox(number: u128) -> SandboxId {
    SandboxId::minted(node(), number)
}

pub(crate) fn create(number: u128) -> CreateRequest {
    CreateRequest { sandbox: sandbox(number), template: "python".to_owned() }
}

pub(crate) fn run(number: u128, work: Work) -> ExecRequest {
    ExecRequest {
        exec: ExecId::minted(number),
        work,
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        cwd: None,
        stdin: Bytes::new(),
        time_max: Duration::from_secs(30),
    }
}

pub(crate) fn cell(number: u128, code: &str) -> ExecRequest {
    let work = Work::Cell { code: code.to_owned(), params: None, context: None };
    run(number, work)
}

/// All that an execution said, and how it ended.
pub(crate) async fn end_of(mut stream: ExecStream) -> (Vec<ExecEvent>, Done) {
    let mut events = Vec::new();
    loop {
        match stream.next().await.expect("it ends with its end") {
            ExecEvent::Done(done) => return (events, done),
            event => events.push(event),
        }
    }
}

pub(crate) async fn listed(provider: &dyn Provider) -> Vec<SandboxId> {
    let found = provider.list().await.expect("a list");
    found.into_iter().map(|info| info.sandbox).collect()
}
