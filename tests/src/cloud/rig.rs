//! Endpoints of a test, and what is asked of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{KEY, TEMPLATE};
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

/// Whose sandboxes they are.
pub fn node() -> NodeId {
    NodeId::of_bits(7)
}

/// The time of this machine.
pub fn time() -> Time {
    let clock = Clock::start();
    Time::new(move || clock.now())
}

/// How the endpoint behind this address is spoken to.
///
/// # Panics
/// Never: the key is one.
pub fn options(name: &str, url: &str) -> Options {
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

/// The endpoint behind this address.
///
/// # Panics
/// If it cannot be spoken to over HTTP.
pub fn endpoint(name: &str, url: &str) -> E2b {
    E2b::new(options(name, url)).expect("an endpoint")
}

/// The same account, used by another node.
///
/// # Panics
/// If it cannot be spoken to over HTTP.
pub fn foreign(url: &str) -> E2b {
    let options = Options { cluster: NodeId::of_bits(8), ..options("eu", url) };
    E2b::new(options).expect("an endpoint")
}

/// The sandbox with this number.
pub fn sandbox(number: u128) -> SandboxId {
    SandboxId::minted(node(), number)
}

/// Asks for it.
pub fn create(number: u128) -> CreateRequest {
    CreateRequest { sandbox: sandbox(number), template: "python".to_owned() }
}

/// Asks for an execution.
pub fn run(number: u128, work: Work) -> ExecRequest {
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

/// Asks for one of Python.
pub fn cell(number: u128, code: &str) -> ExecRequest {
    let work = Work::Cell { code: code.to_owned(), params: None, context: None };
    run(number, work)
}

/// All that an execution said, and how it ended.
///
/// # Panics
/// If it does not say how.
pub async fn end_of(mut stream: ExecStream) -> (Vec<ExecEvent>, Done) {
    let mut events = Vec::new();
    loop {
        match stream.next().await.expect("it ends with its end") {
            ExecEvent::Done(done) => return (events, done),
            event => events.push(event),
        }
    }
}

/// What is there.
///
/// # Panics
/// If that cannot be listed.
pub async fn listed(provider: &dyn Provider) -> Vec<SandboxId> {
    let found = provider.list().await.expect("a list");
    found.into_iter().map(|info| info.sandbox).collect()
}
