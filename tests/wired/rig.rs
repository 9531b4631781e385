//! A node in a glass: everything real but time, the network and the sandboxes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandpit_actors::bus::memory::MemoryBus;
use sandpit_actors::bus::{AskError, Bus, Headers, Kv, Message};
use sandpit_actors::clock::Clock;
use sandpit_actors::crew;
use sandpit_actors::entry;
use sandpit_actors::market::Prices;
use sandpit_actors::node::{self, Limits, Node, Ports};
use sandpit_messages::codec::Codec;
use sandpit_messages::exec::Exec;
use sandpit_messages::id::{NodeId, SandboxId};
use sandpit_messages::pool::{GetPool, PoolStatus};
use sandpit_messages::problem::Problem;
use sandpit_messages::sandbox::Create;
use sandpit_messages::subject::Request;
use sandpit_sandbox::fake::{Fake, Script};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Runs a test the way a node runs its actors: all on one thread.
pub(crate) async fn on_one_thread(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

/// A node and a client of it.
pub(crate) struct Rig {
    pub(crate) node: Node,
    pub(crate) fake: Arc<Fake>,
    pub(crate) client: MemoryBus,
    /// The connection of the node.
    pub(crate) bus: MemoryBus,
    pub(crate) keys: Arc<dyn Kv>,
    pub(crate) clock: Clock,
}

/// Two sandboxes kept ready, four at most.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.pool.targets = BTreeMap::from([("base".to_owned(), 2)]);
    limits.pool.total_max = 4;
    limits
}

impl Rig {
    /// A node that has had a second to get ready.
    pub(crate) async fn start(limits: Limits, script: Script) -> Self {
        let clock = Clock::start();
        let bus = MemoryBus::new(clock, 7);
        let (client, fake) = (bus.connect(), Arc::new(Fake::new(script)));
        let keys = bus.kv(entry::bucket()).await.expect("a bucket");
        let rig = Box::pin(Self::on(clock, bus, client, keys, fake, limits, 1)).await;
        tokio::time::sleep(SECOND).await;
        rig
    }

    /// The `run`th process of a node on a bus and a provider that are there already.
    pub(crate) async fn on(
        clock: Clock,
        bus: MemoryBus,
        client: MemoryBus,
        keys: Arc<dyn Kv>,
        fake: Arc<Fake>,
        limits: Limits,
        run: u64,
    ) -> Self {
        let records = bus.kv(crew::bucket()).await.expect("a bucket");
        let ports = Ports {
            bus: Arc::new(bus.clone()),
            provider: Arc::clone(&fake) as _,
            keys: Some(Arc::clone(&keys)),
            prices: Some(prices()),
            records: Some(Arc::clone(&records)),
            clock,
            node: NodeId::of_bits(7),
            run,
        };
        let node = Box::pin(node::start(ports, limits)).await.expect("it serves");
        Self { node, fake, client, bus, keys, clock }
    }

    /// Asks as a client does.
    pub(crate) async fn ask<R: Request>(&self, ask: &R) -> Result<R::Reply, Problem> {
        self.ask_at(&R::VERB.subject(), ask, Headers::new(), 70 * SECOND).await
    }

    /// Asks with an idempotency key.
    pub(crate) async fn ask_keyed<R: Request>(
        &self,
        ask: &R,
        key: &str,
    ) -> Result<R::Reply, Problem> {
        let headers = Headers::new().with("Sandpit-Idempotency-Key", key);
        self.ask_at(&R::VERB.subject(), ask, headers, 70 * SECOND).await
    }

    /// Asks on a subject, and listens for so long.
    pub(crate) async fn ask_at<R: Request>(
        &self,
        subject: &str,
        ask: &R,
        headers: Headers,
        patience: Duration,
    ) -> Result<R::Reply, Problem> {
        let body = Codec::MessagePack.encode(ask);
        let answer = Box::pin(self.send(subject, headers, body, patience)).await?;
        Ok(Codec::MessagePack.decode(&answer.body).expect("a reply in the codec of the question"))
    }

    /// Sends bytes and returns whatever answer comes.
    pub(crate) async fn send(
        &self,
        subject: &str,
        headers: Headers,
        body: impl Into<Bytes>,
        patience: Duration,
    ) -> Result<Message, Problem> {
        let message = Message { subject: subject.to_owned(), headers, body: body.into() };
        match self.client.ask(message, self.clock.now() + patience).await {
            Ok(answer) => Ok(answer),
            Err(AskError::Refused(problem)) => Err(*problem),
            Err(error) => panic!("no answer at all: {error}"),
        }
    }

    /// A sandbox of one's own.
    pub(crate) async fn create(&self) -> SandboxId {
        self.ask(&Create::default()).await.expect("a sandbox").sandbox_id
    }

    pub(crate) async fn pool(&self) -> PoolStatus {
        self.ask(&GetPool::default()).await.expect("the pool answers")
    }
}

/// A hundred days of one instrument that gains a dollar a day.
fn prices() -> Arc<Prices> {
    let days =
        (0..100).map(|at| format!("2022-{:02}-{:02},{}\n", 1 + at / 28, 1 + at % 28, 50 + at));
    let text: String = ["Date,KO\n".to_owned()].into_iter().chain(days).collect();
    Arc::new(Prices::read(&text, "a test".to_owned()).expect("prices"))
}

/// Code in a fresh sandbox.
pub(crate) fn fresh(code: &str) -> Exec {
    let (code, template) = (Some(code.to_owned()), Some("base".to_owned()));
    Exec { code, template, ..Exec::default() }
}

/// Code in a sandbox of one's own.
pub(crate) fn cell(sandbox: SandboxId, code: &str) -> Exec {
    Exec { code: Some(code.to_owned()), sandbox_id: Some(sandbox), ..Exec::default() }
}
