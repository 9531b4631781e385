//! A bus in memory, for tests: it keeps the promises of the real one and imitates what hurts.
//!
//! Messages take time and are lost, doubled or overtaken as its links say; a group's member is
//! chosen at random from a seed; what was sent while a broken connection was not noticed yet is
//! delivered, stale, after it came back. Everything waits on tokio's clock, so that time can be
//! paused.

mod kv;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::RngExt;
use sandpit_messages::time::Moment;
use tokio::sync::{mpsc, watch};

use super::gate;
use super::service::{self, Delivered, Inflow, Leaving, Wire};
use super::{
    AskError, Bucket, Bus, BusError, BusState, Feed, Handler, Kv, KvError, Message, SendError,
    Service, Serving, answer, question, trace,
};
use crate::clock::Clock;
pub use kv::KvFaults;
pub use world::Link;
use world::{Ear, Heard, Hub};

/// Most bytes of one body, as on the real one.
const PAYLOAD_MAX: usize = sandpit_messages::codec::BODY_MAX;
/// Messages of one subscription of a service that wait, as on the real one.
const INCOMING_MAX: usize = 16_384;
/// The version it says it has.
const SERVER: &str = "2.15.1-memory";

/// One connection to a bus in memory.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hub: Arc<Hub>,
    connection: usize,
    state: watch::Receiver<BusState>,
    late: AtomicU64,
}

impl MemoryBus {
    /// A bus of its own with one connection. Call it within a runtime. `seed` decides whatever is
    /// left to chance.
    pub fn new(clock: Clock, seed: u64) -> Self {
        Self::join(&Hub::new(clock, seed))
    }

    /// Another connection to the same bus.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self::join(&self.inner.hub)
    }

    fn join(hub: &Arc<Hub>) -> Self {
        let (connection, state) = hub.join();
        let hub = Arc::clone(hub);
        Self { inner: Arc::new(Inner { hub, connection, state, late: AtomicU64::new(0) }) }
    }

    /// How messages travel over this connection from now on.
    pub fn set_link(&self, link: Link) {
        self.inner.hub.set_link(self.inner.connection, link);
    }

    /// How buckets fail for everybody from now on.
    pub fn set_kv_faults(&self, faults: KvFaults) {
        self.inner.hub.world().kv_faults = faults;
    }

    /// Breaks the connection. It is noticed a moment later; what is sent until then is kept and
    /// delivered after [`Self::heal`].
    pub fn cut(&self) {
        self.inner.hub.cut(self.inner.connection);
    }

    /// Makes the connection again.
    pub fn heal(&self) {
        self.inner.hub.heal(self.inner.connection);
    }

    /// Answers that came after their questions had ended.
    pub fn late(&self) -> u64 {
        self.inner.late.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn usable(&self) -> Result<(), SendError> {
        match *self.state.borrow() {
            BusState::Connected { .. } => Ok(()),
            BusState::Down | BusState::Draining => Err(SendError::NotConnected),
        }
    }

    fn post(&self, message: Message, reply: Option<String>) -> Result<(), SendError> {
        self.usable()?;
        if message.body.len() > PAYLOAD_MAX {
            return Err(SendError::TooLarge { bytes: message.body.len(), max: PAYLOAD_MAX });
        }
        writable(&message)?;
        self.hub.post(self.connection, Delivered { message, reply, fault: None })
    }

    async fn ask(&self, mut message: Message, until: Moment) -> Result<Message, AskError> {
        let now = self.hub.clock.both();
        question::stamp(&mut message, now, until, self.hub.random());
        let subject = message.subject.clone();
        let (inbox, waiting) = self.hub.inbox(self.connection);
        let _guard = InboxGuard { inner: self, inbox: inbox.clone() };
        self.post(message, Some(inbox)).map_err(AskError::NotSent)?;
        match tokio::time::timeout_at(self.hub.clock.instant(until), waiting).await {
            Ok(Ok(Heard::Answer(message))) => answer::read(message),
            Ok(Ok(Heard::NoResponders)) => Err(AskError::NoResponders(subject)),
            Ok(Err(_)) => Err(AskError::Interrupted),
            Err(_) => Err(AskError::TimedOut(until.since(now.moment))),
        }
    }

    fn subscribe(&self, subject: &str, group: Option<&str>, ear: Ear) -> Result<u64, BusError> {
        self.usable().map_err(|_| BusError::NotConnected)?;
        Ok(self.hub.subscribe(self.connection, subject, group, ear))
    }
}

impl Wire for Inner {
    fn clock(&self) -> Clock {
        self.hub.clock
    }

    fn random(&self) -> u128 {
        self.hub.random()
    }

    fn seed(&self) -> u64 {
        self.hub.world().random.random()
    }

    fn send(&self, message: Message) -> BoxFuture<'_, Result<(), SendError>> {
        let sent = self.post(message, None);
        async move { sent }.boxed()
    }

    fn subscribe<'a>(
        &'a self,
        subject: &'a str,
        group: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Box<dyn Inflow>, BusError>> {
        let (tell, delivered) = mpsc::channel(INCOMING_MAX);
        let heard = Self::subscribe(self, subject, group, Ear::Service(tell));
        let hub = Arc::clone(&self.hub);
        async move {
            let id = heard?;
            Ok(Box::new(Subscribed { hub, id, delivered }) as Box<dyn Inflow>)
        }
        .boxed()
    }

    /// There and back: by then the hub has acted on all that was sent before.
    fn settle(&self) -> BoxFuture<'_, Result<(), BusError>> {
        let usable = self.usable().map_err(|_| BusError::NotConnected);
        let way = self.hub.way(self.connection);
        async move {
            usable?;
            tokio::time::sleep(2 * way).await;
            self.usable().map_err(|_| BusError::NotConnected)
        }
        .boxed()
    }
}

struct Subscribed {
    hub: Arc<Hub>,
    id: u64,
    delivered: mpsc::Receiver<Delivered>,
}

impl Inflow for Subscribed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivered>> {
        self.delivered.poll_recv(cx)
    }

    /// What is on the way holds the stream open until it is here.
    fn leave(&mut self, _ahead: u64) -> BoxFuture<'_, Leaving> {
        self.hub.unsubscribe(self.id);
        async { Leaving::BySelf }.boxed()
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.hub.unsubscribe(self.id);
    }
}

/// Frees the inbox of a question that ended, however it ended.
struct InboxGuard<'a> {
    inner: &'a Inner,
    inbox: String,
}

impl Drop for InboxGuard<'_> {
    fn drop(&mut self) {
        self.inner.hub.world().inboxes.remove(&self.inbox);
    }
}

/// A subject and headers that the real one could write.
fn writable(message: &Message) -> Result<(), SendError> {
    let ends = |c: char| c.is_ascii_whitespace() || c.is_ascii_control();
    if message.subject.is_empty() || message.subject.contains(ends) {
        let subject: String = message.subject.chars().take(64).collect();
        return Err(SendError::Malformed { what: format!("subject {subject:?}") });
    }
    let broken = |(name, value): &(&str, &str)| {
        name.is_empty() || name.contains([':', ' ', '\r', '\n']) || value.contains(['\r', '\n'])
    };
    match message.headers.iter().find(broken) {
        Some((name, value)) => {
            Err(SendError::Malformed { what: format!("header {name:?}: {value:?}") })
        }
        None => Ok(()),
    }
}

impl Bus for MemoryBus {
    fn state(&self) -> BusState {
        self.inner.state.borrow().clone()
    }

    fn changes(&self) -> watch::Receiver<BusState> {
        self.inner.state.clone()
    }

    fn publish(&self, mut message: Message) -> BoxFuture<'_, Result<(), SendError>> {
        let span = trace::publishing(&message.subject);
        trace::inject(&span, &mut message.headers);
        async move { self.inner.post(message, None) }.boxed()
    }

    fn ask(&self, mut message: Message, until: Moment) -> BoxFuture<'_, Result<Message, AskError>> {
        let span = trace::asking(&message.subject);
        trace::inject(&span, &mut message.headers);
        async move {
            let answer = self.inner.ask(message, until).await;
            if let Err(error) = &answer {
                trace::failed(&span, error.kind());
            }
            answer
        }
        .boxed()
    }

    fn listen(&self, subject: &str, room: usize) -> BoxFuture<'_, Result<Feed, BusError>> {
        let (tell, messages) = mpsc::channel(room.max(1));
        let (count, dropped) = watch::channel(0);
        let heard = self.inner.subscribe(subject, None, Ear::Feed { tell, count });
        async move { heard.map(|_| Feed { messages, dropped }) }.boxed()
    }

    fn serve(
        &self,
        service: Service,
        gate: gate::Limits,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'_, Result<Serving, BusError>> {
        let wire: Arc<dyn Wire> = Arc::clone(&self.inner) as Arc<dyn Wire>;
        service::serve(wire, service, gate, handler).boxed()
    }

    fn kv(&self, bucket: Bucket) -> BoxFuture<'_, Result<Arc<dyn Kv>, KvError>> {
        let opened = kv::open(&self.inner, bucket);
        async move { opened }.boxed()
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), BusError>> {
        self.inner.settle()
    }
}
