//! Between bytes on the bus and questions to actors. Names no type of any client library.

mod answer;
mod discovery;
pub mod gate;
pub mod headers;
pub mod idempotency;
pub mod ingress;
#[cfg(feature = "memory-bus")]
pub mod memory;
pub mod nats;
pub mod quarantine;
mod question;
mod service;
pub mod trace;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sandpit_messages::problem::{Problem, Ran};
use sandpit_messages::time::Moment;
use tokio::sync::{mpsc, watch};

pub use answer::codec_of;
pub use headers::Headers;

/// A message as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it goes, or came.
    pub subject: String,
    /// What stands beside the body.
    pub headers: Headers,
    /// The body, at most [`sandpit_messages::codec::BODY_MAX`] bytes.
    pub body: Bytes,
}

/// Whether the bus can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusState {
    /// Connected and caught up.
    Connected {
        /// The server's version.
        server: String,
    },
    /// The connection is lost and being made again.
    Down,
    /// Leaving.
    Draining,
}

/// Subjects, questions, services. One real implementation over nats-server, one in memory that
/// imitates what hurts; both pass the same tests.
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// How it is now, without waiting.
    fn state(&self) -> BusState;

    /// Every later change of [`Self::state`].
    fn changes(&self) -> watch::Receiver<BusState>;

    /// Sends, to whoever listens. Refuses at once while not connected: what is buffered now would
    /// be delivered stale later.
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), SendError>>;

    /// Asks once and waits for the answer until `until`. An answer with error headers is
    /// [`AskError::Refused`].
    fn ask(&self, message: Message, until: Moment) -> BoxFuture<'_, Result<Message, AskError>>;

    /// Hears a subject, wildcards allowed. At most `room` messages wait; what comes on top is
    /// dropped and counted.
    fn listen(&self, subject: &str, room: usize) -> BoxFuture<'_, Result<Feed, BusError>>;

    /// Answers requests, as a service that any NATS tool discovers (ADR-32: `$SRV.PING`, `INFO`,
    /// `STATS`). Every request accepted is answered exactly once, whatever the handler does.
    fn serve(
        &self,
        service: Service,
        gate: gate::Limits,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'_, Result<Serving, BusError>>;

    /// Opens a bucket, and creates it if it is not there.
    fn kv(&self, bucket: Bucket) -> BoxFuture<'_, Result<Arc<dyn Kv>, KvError>>;

    /// Waits until the server has acted on everything sent before.
    fn barrier(&self) -> BoxFuture<'_, Result<(), BusError>>;
}

/// Answers the requests of a service.
pub trait Handler: fmt::Debug + Send + Sync + 'static {
    /// Answers one. A panic, or a future that is dropped, is answered for it as `internal`.
    fn handle(&self, request: Arrived) -> BoxFuture<'static, Reply>;
}

/// A request past the gate.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The request.
    pub message: Message,
    /// When it came.
    pub at: Moment,
    /// Until when its caller listens. Always set: what named none got its verb's default.
    pub until: Moment,
    /// The span of its processing.
    pub span: tracing::Span,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Headers of its own: the codec and, if the answer is no, the service-error headers.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
    /// Whether it counts as an error in the service's statistics: the sentence for it.
    pub error: Option<String>,
}

/// A service and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name for discovery: `A-Z a-z 0-9 - _`.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// One sentence.
    pub description: String,
    /// For discovery.
    pub metadata: BTreeMap<String, String>,
    /// What it answers, one subscription each.
    pub endpoints: Vec<Endpoint>,
}

/// One subscription of a service, and the verbs asked on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What it listens to, wildcards allowed.
    pub subject: String,
    /// The queue group, if only one member is to answer.
    pub group: Option<String>,
    /// The verbs it knows, as discovery shows them: each appears as an endpoint of its own.
    pub verbs: Vec<VerbInfo>,
}

/// One verb, for discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerbInfo {
    /// The verb.
    pub name: String,
    /// The subject it is asked on.
    pub subject: String,
    /// JSON Schema of the request.
    pub request_schema: String,
    /// JSON Schema of the reply.
    pub response_schema: String,
    /// What a request without a deadline gets.
    pub patience_default: Duration,
    /// The most a request may ask for.
    pub patience_max: Duration,
}

/// Messages of one subscription.
#[derive(Debug)]
pub struct Feed {
    /// What came, in order.
    pub messages: mpsc::Receiver<Message>,
    /// How many were dropped because nobody took them.
    pub dropped: watch::Receiver<u64>,
}

/// A running service. Dropping it stops the service without waiting.
#[derive(Debug)]
pub struct Serving {
    /// Asks it to leave; see `Serving::leave`.
    pub(crate) leave: mpsc::Sender<tokio::sync::oneshot::Sender<Left>>,
}

/// How a service left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Requests still being answered when its time was over. They got `draining` or nothing.
    pub cut: usize,
}

/// A bucket of keys, for what more than one node must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name: `a-z`, `0-9` and `_`.
    pub name: String,
    /// Entries older than this vanish; zero keeps them for ever.
    pub age_max: Duration,
    /// Most bytes of all entries; at the bound a write is refused.
    pub bytes_max: i64,
}

/// Number of a write; grows with every write to its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Which write it was.
    pub revision: Revision,
}

/// Compare-and-set on a bucket. There is no blind put: every key has one writer, or is written at
/// the revision its writer saw.
pub trait Kv: fmt::Debug + Send + Sync + 'static {
    /// Writes a key that is not there.
    fn create(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>>;
    /// Writes a key that is at `at`.
    fn update(
        &self,
        key: &str,
        value: Bytes,
        at: Revision,
    ) -> BoxFuture<'_, Result<Revision, KvError>>;
    /// Removes a key that is at `at`.
    fn delete(&self, key: &str, at: Revision) -> BoxFuture<'_, Result<(), KvError>>;
    /// The keys that begin with `prefix`, as of a moment ago, in their order.
    fn keys(&self, prefix: &str) -> BoxFuture<'_, Result<Vec<String>, KvError>>;
    /// Reads. May be stale: only the outcome of a write decides.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, KvError>>;
}

/// Why something was not sent. Nothing of it reached anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not connected.
    #[error("not connected to the bus")]
    NotConnected,
    /// The way out is full.
    #[error("the connection to the bus is saturated")]
    Saturated,
    /// A subject or header that cannot be written.
    #[error("it cannot be written: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// Over the bound of the bus.
    #[error("a body of {bytes} bytes, more than {max}")]
    TooLarge {
        /// How many.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The answer was no.
    #[error("{}", .0.message)]
    Refused(Box<Problem>),
    /// Nobody listens there.
    #[error("nobody listens on {0}")]
    NoResponders(String),
    /// It was not sent.
    #[error("the question was not sent")]
    NotSent(#[source] SendError),
    /// The connection broke while waiting.
    #[error("the connection to the bus broke while waiting for the answer")]
    Interrupted,
    /// No answer came in time.
    #[error("no answer came within {0:?}")]
    TimedOut(Duration),
    /// The answer made no sense.
    #[error("the answer was not understood: {0}")]
    Undecodable(String),
}

impl AskError {
    /// One word for programs.
    pub fn kind(&self) -> &str {
        match self {
            Self::Refused(problem) => &problem.kind,
            Self::NoResponders(_) => "no_responders",
            Self::NotSent(_) => "not_sent",
            Self::Interrupted => "interrupted",
            Self::TimedOut(_) => "timeout",
            Self::Undecodable(_) => "undecodable",
        }
    }

    /// Was what was asked for done?
    pub const fn ran(&self) -> Ran {
        match self {
            Self::Refused(problem) => problem.ran,
            Self::NoResponders(_) | Self::NotSent(_) => Ran::No,
            Self::Interrupted | Self::TimedOut(_) => Ran::Unknown,
            Self::Undecodable(_) => Ran::Yes,
        }
    }
}

/// Why the bus does not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The connection is lost.
    #[error("not connected to the bus")]
    NotConnected,
    /// The server speaks, but not as needed.
    #[error("{0}")]
    Unusable(String),
}

/// Why a bucket did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The key is there already.
    #[error("the key exists")]
    Exists,
    /// The key is at another revision.
    #[error("the key was changed by somebody else")]
    Stale,
    /// Nobody knows whether it was written. Only reading tells.
    #[error("the outcome of the write is unknown")]
    Unknown,
    /// It was not done.
    #[error("the bucket cannot be used: {0}")]
    Unusable(String),
}
