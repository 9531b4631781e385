//! A typed client of a node: what the command line, the benches and the demo ask with.

pub mod retry;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sandpit_actors::bus::{AskError, Bus, BusError, Feed, Headers, Message, SendError};
use sandpit_actors::clock::Clock;
use sandpit_messages::codec::Codec;
use sandpit_messages::envelope::{self, IdempotencyKey};
use sandpit_messages::exec::{Exec, Executed};
use sandpit_messages::id::{ExecId, NodeId, RequestId, SandboxId};
use sandpit_messages::subject::{self, Replay, Request, Stream, Verb};
use sandpit_messages::time::Moment;
use sandpit_messages::tool;
use serde_json::Value;

use retry::{Budget, Repeatable};

/// Added to an execution's own time limit for the way there and back, and the wait for a sandbox.
const WAY: Duration = Duration::from_secs(10);
/// Chunks of output waiting to be shown. Each is at most 32 KiB, so this is at most 32 MiB.
const CHUNKS_MAX: usize = 1_024;
/// How long the last chunks of an execution may come after its answer.
const TRAILING_MAX: Duration = Duration::from_secs(1);

/// Asks nodes. Clone it freely.
#[derive(Clone, Debug)]
pub struct Client {
    bus: Arc<dyn Bus>,
    clock: Clock,
    codec: Codec,
    budget: Arc<Mutex<Budget>>,
}

/// What one request asks for beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// How long to wait for the answer; without it, as long as the verb says.
    pub patience: Option<Duration>,
    /// What makes repeating it safe.
    pub key: Key,
    /// Goes straight to the owner of this sandbox.
    pub owner_of: Option<SandboxId>,
    /// Goes straight to this node.
    pub node: Option<NodeId>,
}

/// A request that is handed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// What is asked.
    pub verb: Verb,
    /// What to do when the answer is lost.
    pub replay: Replay,
    /// How long to wait for the answer.
    pub patience: Duration,
    /// What makes repeating it safe, if its caller named it beside the arguments.
    pub key: Option<IdempotencyKey>,
    /// For logs and progress.
    pub request: RequestId,
}

/// The idempotency key of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// One is made for the verbs that need one.
    #[default]
    Made,
    /// The caller's own, so that it may repeat the request itself.
    Given(IdempotencyKey),
    /// None: a lost answer is a failure.
    Without,
}

impl Client {
    /// Asks over `bus`, in MessagePack.
    pub fn new(bus: Arc<dyn Bus>, clock: Clock) -> Self {
        let budget = Arc::new(Mutex::new(Budget::full(clock.now())));
        Self { bus, clock, codec: Codec::MessagePack, budget }
    }

    /// The same in another codec.
    #[must_use]
    pub fn speaking(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// What it asks over.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// What it measures with.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Asks, and asks again where that is safe and of use.
    ///
    /// # Errors
    /// [`AskError`] of the last attempt.
    pub async fn request<R: Request>(&self, request: &R, call: Call) -> Result<R::Reply, AskError> {
        let patience = call.patience.unwrap_or(R::PATIENCE.default).min(R::PATIENCE.max);
        let until = self.clock.now() + patience;
        let question = self.question(request, &call, patience);
        let answer = self.attempts(R::REPLAY, question, until).await?;
        read(&answer)
    }

    /// Runs something in one sandbox and hears its output while it runs. `hear` gets every chunk
    /// once, in the order of its stream.
    ///
    /// # Errors
    /// As [`Self::request`]. Output that was heard by then was heard.
    pub async fn stream(
        &self,
        sandbox: SandboxId,
        request: Exec,
        call: Call,
        hear: &mut (dyn FnMut(Stream, Bytes) + Send),
    ) -> Result<Executed, AskError> {
        let request = Exec { sandbox_id: Some(sandbox), stream: true, ..request };
        let patience = call.patience.unwrap_or_else(|| patience_of(&request));
        let heard = self.bus.listen(&subject::outputs(sandbox), CHUNKS_MAX).await;
        let feed = heard.map_err(|error| match error {
            BusError::NotConnected => AskError::NotSent(SendError::NotConnected),
            BusError::Unusable(why) => AskError::Undecodable(why),
        })?;
        let mut output = Output { feed, of: None, next: BTreeMap::new(), ended: 0 };
        let call = Call { patience: Some(patience), ..call };
        let mut ask = std::pin::pin!(self.request(&request, call));
        let executed = loop {
            tokio::select! {
                answer = &mut ask => break answer?,
                () = output.next(hear), if !output.is_over() => (),
            }
        };
        output.of = Some(executed.execution_id);
        if !executed.cached {
            let rest = async {
                while !output.is_over() {
                    output.next(hear).await;
                }
            };
            // What is lost here is in the answer as well, up to its bound.
            drop(tokio::time::timeout(TRAILING_MAX, rest).await);
        }
        Ok(executed)
    }

    /// Asks what somebody else wrote, in JSON, and hands the answer on as it came.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn relay(&self, asked: Relayed, arguments: &Value) -> Result<Value, AskError> {
        let Relayed { verb, replay, patience, key, request } = asked;
        let until = self.clock.now() + patience;
        let mut headers = self.headers(Codec::Json, request, patience);
        // A key of the caller's own among the arguments is lifted where they are read.
        let key = key.or_else(|| {
            let has_own = arguments.get(tool::KEY).is_some();
            (replay == Replay::WithKey && !has_own).then(random_key)
        });
        if let Some(key) = key {
            headers.set(envelope::IDEMPOTENCY_KEY, key.as_str());
        }
        let body = Bytes::from(Codec::Json.encode(arguments));
        let question = Message { subject: verb.subject(), headers, body };
        let answer = self.attempts(replay, question, until).await?;
        read(&answer)
    }

    fn headers(&self, codec: Codec, request: RequestId, patience: Duration) -> Headers {
        let deadline = self.clock.both().wall.plus(patience);
        Headers::new()
            .with(envelope::CONTENT_TYPE, codec.content_type())
            .with(envelope::REQUEST, request.as_str())
            .with(envelope::DEADLINE, deadline.0.to_string())
    }

    fn question<R: Request>(&self, request: &R, call: &Call, patience: Duration) -> Message {
        let request_id = RequestId::minted(rand::random());
        let mut headers = self.headers(self.codec, request_id, patience);
        let key = match &call.key {
            Key::Made => (R::REPLAY == Replay::WithKey).then(random_key),
            Key::Given(key) => Some(key.clone()),
            Key::Without => None,
        };
        if let Some(key) = key {
            headers.set(envelope::IDEMPOTENCY_KEY, key.as_str());
        }
        let subject = match (call.owner_of, call.node) {
            (Some(sandbox), _) => R::VERB.of_sandbox(sandbox),
            (None, Some(node)) => R::VERB.of_node(node),
            (None, None) => R::VERB.subject(),
        };
        Message { subject, headers, body: Bytes::from(self.codec.encode(request)) }
    }

    async fn attempts(
        &self,
        replay: Replay,
        question: Message,
        until: Moment,
    ) -> Result<Message, AskError> {
        let keyed = question.headers.get(envelope::IDEMPOTENCY_KEY).is_some();
        let repeatable = Repeatable::of(replay, keyed);
        self.budget().earn(self.clock.now());
        let mut made = 0;
        loop {
            made += 1;
            let asked = self.bus.ask(question.clone(), until).await;
            let Err(error) = asked else { return asked };
            let pause = retry::pause(&error, made, repeatable, rand::random());
            let Some(pause) = pause.filter(|pause| self.clock.now() + *pause < until) else {
                return Err(error);
            };
            if !self.budget().spend() {
                return Err(error);
            }
            tracing::debug!(%error, made, ?pause, "asking again");
            tokio::time::sleep(pause).await;
        }
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, Budget> {
        // A number is as good after a panic as before.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the answer to an execution may take: its own limit, and the way.
pub fn patience_of(request: &Exec) -> Duration {
    let limit = request.timeout.map_or(Duration::from_secs(60), |s| Duration::from_secs(s.into()));
    (limit + WAY).min(Exec::PATIENCE.max)
}

/// A key nobody used before: 128 random bits.
pub fn random_key() -> IdempotencyKey {
    let key = format!("{:032x}", rand::random::<u128>());
    key.parse().expect("32 characters of 0-9 and a-f")
}

fn read<T: serde::de::DeserializeOwned>(answer: &Message) -> Result<T, AskError> {
    let content_type = answer.headers.get(envelope::CONTENT_TYPE);
    Codec::of(content_type, &answer.body)
        .and_then(|codec| codec.decode(&answer.body))
        .map_err(|refusal| AskError::Undecodable(refusal.to_string()))
}

/// The output of one execution as it comes.
#[derive(Debug)]
struct Output {
    feed: Feed,
    /// Which execution; the first that speaks until the answer says which.
    of: Option<ExecId>,
    /// The next chunk of each stream: chunks that come twice are heard once.
    next: BTreeMap<Stream, u64>,
    /// Streams that ended.
    ended: u8,
}

impl Output {
    fn is_over(&self) -> bool {
        self.ended == 2
    }

    /// Passes one message on. May be dropped while it waits.
    async fn next(&mut self, hear: &mut (dyn FnMut(Stream, Bytes) + Send)) {
        let Some(chunk) = self.feed.messages.recv().await else {
            // The subscription ended; the answer still comes.
            self.ended = 2;
            return;
        };
        let Some((_, exec, stream)) = subject::read_output(&chunk.subject) else { return };
        if *self.of.get_or_insert(exec) != exec {
            return;
        }
        let number = chunk.headers.get(envelope::SEQ).and_then(|text| text.parse().ok());
        let next = self.next.entry(stream).or_default();
        let number: u64 = number.unwrap_or(*next);
        if number < *next {
            return;
        }
        *next = number + 1;
        if !chunk.body.is_empty() {
            hear(stream, chunk.body);
        }
        if chunk.headers.get(envelope::END).is_some() {
            self.ended += 1;
        }
    }
}
