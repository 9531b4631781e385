//! The bus over a nats-server, and the only place that names its client library.
//!
//! The library has traps, each answered here: it remembers unanswered requests for ever, sends
//! what was published while disconnected after the reconnect, may wait without end for room, and
//! forgets a subscription before the server has.

mod connect;
mod kv;
mod mux;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::traits::Publisher;
use async_nats::connection::State;
use async_nats::message::OutboundMessage;
use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, Subject};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use rand::RngExt;
use sandpit_messages::envelope;
use sandpit_messages::problem::{Detail, Problem, Ran};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use super::gate;
use super::service::{self, Wire};
use super::{
    AskError, Bucket, Bus, BusError, BusState, Feed, Handler, Headers, Kv, KvError, Message,
    SendError, Service, Serving, answer, question, trace,
};
use crate::clock::Clock;
pub use connect::{ConnectError, Credentials, Options, SERVER_MIN};
use mux::{Mux, Outcome};

/// The status a server answers with when nobody listens.
const NO_RESPONDERS: u16 = 503;
/// Longest wait for an echo.
const BARRIER_MAX: Duration = Duration::from_secs(5);

/// One connection. A node has two: what is asked and answered must not wait behind what is
/// watched, nor the other way round. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct NatsBus {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    clock: Clock,
    mux: Arc<Mux>,
    state: watch::Receiver<BusState>,
    enqueue_max: Duration,
    payload_max: usize,
    /// How often it was connected; tells subscriptions of different connections apart.
    connections: watch::Receiver<u64>,
    /// Ends with the bus.
    _watching: tokio::task::JoinSet<()>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsBus").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

/// What a bus has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions waiting for their answers.
    pub pending: usize,
    /// Answers that came after their questions had ended.
    pub late: u64,
}

impl NatsBus {
    /// Connects, checks the server's version, and waits until the server has acted on everything
    /// that was sent. Call it on the thread that shall own the connection.
    ///
    /// # Errors
    /// [`ConnectError`], naming what was found and what to do.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        connect::connect(options).await.map(|inner| Self { inner: Arc::new(inner) })
    }

    /// What it has seen.
    pub fn counts(&self) -> Counts {
        self.inner.mux.counts()
    }

    /// The library's client, for what only a test does: raw messages beside ours.
    pub fn client(&self) -> Client {
        self.inner.client.clone()
    }
}

impl Inner {
    /// Whether to send at all. What is sent while disconnected would be delivered stale.
    fn connected(&self) -> Result<(), SendError> {
        let caught_up = matches!(*self.state.borrow(), BusState::Connected { .. });
        // The library's own word is newer than ours by as long as its event takes to reach us.
        if caught_up && self.client.connection_state() == State::Connected {
            Ok(())
        } else {
            Err(SendError::NotConnected)
        }
    }

    /// Hands a message to the library, and waits for its room no longer than `until`.
    async fn enqueue(
        &self,
        subject: Subject,
        reply: Option<Subject>,
        (headers, body): (Headers, Bytes),
        until: Moment,
    ) -> Result<(), SendError> {
        self.connected()?;
        self.hand_over(subject, reply, (headers, body), until).await
    }

    /// The same for an answer: whoever asked has come back before us, so it does not wait until
    /// we have caught up.
    async fn answer(&self, message: Message, until: Moment) -> Result<(), SendError> {
        if self.client.connection_state() != State::Connected {
            return Err(SendError::NotConnected);
        }
        let Message { subject, headers, body } = message;
        self.hand_over(subject.into(), None, (headers, body), until).await
    }

    async fn hand_over(
        &self,
        subject: Subject,
        reply: Option<Subject>,
        (headers, body): (Headers, Bytes),
        until: Moment,
    ) -> Result<(), SendError> {
        writable(&subject)?;
        if body.len() > self.payload_max {
            return Err(SendError::TooLarge { bytes: body.len(), max: self.payload_max });
        }
        let headers = (!headers.is_empty()).then(|| header_map(&headers)).transpose()?;
        let until = until.min(self.clock.now() + self.enqueue_max);
        let message = OutboundMessage { subject, reply, payload: body, headers };
        let sent = self.client.publish_message(message);
        match tokio::time::timeout_at(self.clock.instant(until), sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match error.kind() {
                async_nats::PublishErrorKind::MaxPayloadExceeded => {
                    SendError::Malformed { what: error.to_string() }
                }
                async_nats::PublishErrorKind::InvalidSubject => {
                    SendError::Malformed { what: error.to_string() }
                }
                async_nats::PublishErrorKind::Send => SendError::NotConnected,
            }),
            Err(_) => Err(SendError::Saturated),
        }
    }

    async fn ask(&self, mut message: Message, until: Moment) -> Result<Message, AskError> {
        let now = self.clock.both();
        question::stamp(&mut message, now, until, self.random());
        let Message { subject, headers, body } = message;
        let subject = Subject::from(subject);
        let Some(pending) = self.mux.register(subject.clone()) else {
            return Err(AskError::NotSent(SendError::Saturated));
        };
        let sent = self.enqueue(subject.clone(), Some(pending.inbox()), (headers, body), until);
        sent.await.map_err(AskError::NotSent)?;
        let ended = tokio::time::timeout_at(self.clock.instant(until), pending.outcome()).await;
        let ended = ended.map_err(|_| AskError::TimedOut(until.since(now.moment)))?;
        let answer = match ended.ok_or(AskError::Interrupted)? {
            Outcome::Answered(answer) => answer,
            Outcome::Forbidden => return Err(AskError::Refused(Box::new(forbidden(&subject)))),
        };
        if answer.status.is_some_and(|status| status.as_u16() == NO_RESPONDERS) {
            return Err(AskError::NoResponders(subject.into_string()));
        }
        let (message, fault) = taken(answer);
        match fault {
            Some(refusal) => Err(AskError::Undecodable(refusal.to_string())),
            None => answer::read(message),
        }
    }

    /// Has the server echo a word: it has then acted on all that this connection sent before.
    async fn barrier(&self) -> Result<(), BusError> {
        let echo = mux::echo(&self.mux, &self.client);
        let until = self.clock.now() + BARRIER_MAX;
        match tokio::time::timeout_at(self.clock.instant(until), echo).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(BusError::NotConnected),
            Err(_) => {
                Err(BusError::Unusable(format!("the server echoed nothing in {BARRIER_MAX:?}")))
            }
        }
    }

    async fn listen(&self, subject: &str, room: usize) -> Result<Feed, BusError> {
        let mut inflow = self.subscriber(subject, None).await?;
        let (tell, messages) = mpsc::channel(room.max(1));
        let (count, dropped) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let came = tokio::select! {
                    came = inflow.next() => came,
                    () = tell.closed() => return,
                };
                let Some(came) = came else { return };
                let (message, fault) = taken(came);
                if fault.is_some() || tell.try_send(message).is_err() {
                    count.send_modify(|count| *count += 1);
                }
            }
        });
        Ok(Feed { messages, dropped })
    }

    async fn subscriber(
        &self,
        subject: &str,
        group: Option<&str>,
    ) -> Result<async_nats::Subscriber, BusError> {
        self.connected().map_err(|_| BusError::NotConnected)?;
        let subscribe = async {
            match group {
                Some(group) => {
                    self.client.queue_subscribe(subject.to_owned(), group.to_owned()).await
                }
                None => self.client.subscribe(subject.to_owned()).await,
            }
        };
        let until = self.clock.instant(self.clock.now() + self.enqueue_max);
        match tokio::time::timeout_at(until, subscribe).await {
            Ok(Ok(subscriber)) => Ok(subscriber),
            Ok(Err(error)) => Err(BusError::Unusable(format!("cannot hear {subject}: {error}"))),
            Err(_) => Err(BusError::Unusable("the connection is saturated".to_owned())),
        }
    }
}

impl Bus for NatsBus {
    fn state(&self) -> BusState {
        match self.inner.connected() {
            Ok(()) => self.inner.state.borrow().clone(),
            Err(_) => BusState::Down,
        }
    }

    fn changes(&self) -> watch::Receiver<BusState> {
        self.inner.state.clone()
    }

    fn publish(&self, mut message: Message) -> BoxFuture<'_, Result<(), SendError>> {
        let span = trace::publishing(&message.subject);
        trace::inject(&span, &mut message.headers);
        let Message { subject, headers, body } = message;
        let until = self.inner.clock.now() + self.inner.enqueue_max;
        self.inner.enqueue(subject.into(), None, (headers, body), until).instrument(span).boxed()
    }

    fn ask(&self, mut message: Message, until: Moment) -> BoxFuture<'_, Result<Message, AskError>> {
        let span = trace::asking(&message.subject);
        trace::inject(&span, &mut message.headers);
        async move {
            let answer = self.inner.ask(message, until).instrument(span.clone()).await;
            if let Err(error) = &answer {
                trace::failed(&span, error.kind());
            }
            answer
        }
        .boxed()
    }

    fn listen(&self, subject: &str, room: usize) -> BoxFuture<'_, Result<Feed, BusError>> {
        let subject = subject.to_owned();
        async move { self.inner.listen(&subject, room).await }.boxed()
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
        let inner = Arc::clone(&self.inner);
        async move { kv::open(inner, bucket).await }.boxed()
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), BusError>> {
        async move {
            self.inner.connected().map_err(|_| BusError::NotConnected)?;
            self.inner.barrier().await
        }
        .boxed()
    }
}

impl Inner {
    fn random(&self) -> u128 {
        rand::rng().random()
    }
}

/// A subject that holds nothing which would end it on the wire.
fn writable(subject: &str) -> Result<(), SendError> {
    let ends = |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control();
    if subject.is_empty() || subject.bytes().any(ends) {
        let subject: String = subject.chars().take(64).collect();
        return Err(SendError::Malformed { what: format!("subject {subject:?}") });
    }
    Ok(())
}

/// As it would be answered by somebody who hears it.
fn forbidden(subject: &str) -> Problem {
    Problem {
        kind: "forbidden".to_owned(),
        code: 403,
        message: format!("this user may not ask on {subject}"),
        ran: Ran::No,
        retry_after_ms: None,
        detail: Detail::default(),
        trace_id: None,
    }
}

fn header_map(headers: &Headers) -> Result<HeaderMap, SendError> {
    let mut map = HeaderMap::new();
    for (number, (name, value)) in headers.iter().enumerate() {
        let wrong = || SendError::Malformed { what: format!("header {name:?}: {value:?}") };
        let known: Option<HeaderName> = header_name(name);
        let key = match known {
            Some(known) => known,
            None => name.parse().map_err(|_| wrong())?,
        };
        let value: HeaderValue = value.parse().map_err(|_| wrong())?;
        // Of two values the first one is read; that is rarely to be decided.
        let repeated = headers.iter().take(number).any(|(before, _)| before == name);
        if repeated { map.append(key, value) } else { map.insert(key, value) }
    }
    Ok(map)
}

/// The names every message has, so that none of them is allocated again.
fn header_name(name: &str) -> Option<HeaderName> {
    const NAMES: [&str; 8] = [
        envelope::TRACEPARENT,
        envelope::CONTENT_TYPE,
        envelope::DEADLINE,
        envelope::REQUEST,
        envelope::ACCEPT,
        envelope::IDEMPOTENCY_KEY,
        envelope::SEQ,
        envelope::END,
    ];
    let found = NAMES.iter().find(|known| **known == name);
    found.map(|known| HeaderName::from_static(known))
}

/// A message as ours, and what about it is not to be borne.
fn taken(message: async_nats::Message) -> (Message, Option<Refusal>) {
    let mut headers = Headers::new();
    let mut fault = None;
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        for value in values {
            let (name, value): (&str, &str) = (name.as_ref(), value.as_str());
            let bytes = name.len() + value.len();
            if headers.len() == envelope::HEADERS_MAX {
                let at = format!("more than {} headers", envelope::HEADERS_MAX);
                fault = Some(Refusal::Malformed { at });
            } else if bytes > envelope::HEADER_MAX {
                fault =
                    Some(Refusal::TooLarge { what: "header", bytes, max: envelope::HEADER_MAX });
            } else {
                headers.push(name, value);
            }
        }
    }
    let subject = message.subject.into_string();
    (Message { subject, headers, body: message.payload }, fault)
}
