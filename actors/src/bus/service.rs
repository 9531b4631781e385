//! Answers requests as a service: discovery, the gate, deadlines, one span and exactly one answer
//! per request. The same code over every bus.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sandpit_messages::codec::{BODY_MAX, Codec};
use sandpit_messages::envelope::{self, DEADLINE};
use sandpit_messages::problem::{Detail, Problem, Ran};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::subject::{self, PAD, Patience};
use sandpit_messages::time::Moment;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{Instrument, Span};

use super::discovery::{self, About, Counted};
use super::gate::{self, Effect, Event, Gate, Ticket};
use super::{
    Arrived, BusError, Handler, Headers, Left, Message, Reply, SendError, Service, Serving, answer,
    trace,
};
use crate::clock::Clock;

/// What a request leaves of its deadline for the way of its answer.
const WAY_BACK: Duration = Duration::from_millis(5);
/// Messages that a leaving subscription takes beyond those it has seen: more than are ever on the
/// way between the server and us.
const AHEAD: u64 = 512;
/// Longest leaving of one subscription.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// Silence after which a leaving subscription is sent more padding: members of its group took
/// theirs.
const PAD_AGAIN: Duration = Duration::from_millis(10);
/// Longest wait of a leaving service for what it is still answering.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// A message as a subscription delivers it.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) message: Message,
    /// Where the answer goes.
    pub(super) reply: Option<String>,
    /// Its headers were not to be borne.
    pub(super) fault: Option<Refusal>,
}

/// What a service needs of a bus.
pub(super) trait Wire: fmt::Debug + Send + Sync + 'static {
    fn clock(&self) -> Clock;
    /// Random, for ids.
    fn random(&self) -> u128;
    /// Random, for jitter.
    fn seed(&self) -> u64;
    fn send(&self, message: Message) -> BoxFuture<'_, Result<(), SendError>>;
    fn subscribe<'a>(
        &'a self,
        subject: &'a str,
        group: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Box<dyn Inflow>, BusError>>;
    fn settle(&self) -> BoxFuture<'_, Result<(), BusError>>;
}

/// One subscription. Dropping it ends it at once, with what is on the way.
pub(super) trait Inflow: Send {
    /// The next message; `None` when it has ended.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivered>>;
    /// Asks the server to stop after `ahead` more messages, or as soon as it loses none.
    fn leave(&mut self, ahead: u64) -> BoxFuture<'_, Leaving>;
}

/// How a subscription ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// When so many more messages have come; they have to be sent.
    ByCount,
    /// By itself.
    BySelf,
}

/// Starts a service.
pub(super) async fn serve(
    wire: Arc<dyn Wire>,
    service: Service,
    limits: gate::Limits,
    handler: Arc<dyn Handler>,
) -> Result<Serving, BusError> {
    let clock = wire.clock();
    let mut endpoints = Vec::new();
    for endpoint in &service.endpoints {
        endpoints.push(wire.subscribe(&endpoint.subject, endpoint.group.as_deref()).await?);
    }
    let id = sandpit_messages::id::RequestId::minted(wire.random()).to_string();
    let mut discoveries = Vec::new();
    for about in About::ALL {
        for subject in subject::discovery(about.word(), &service.name, &id) {
            discoveries.push((about, wire.subscribe(&subject, None).await?));
        }
    }
    wire.settle().await?;
    let row = |endpoint: &super::Endpoint| vec![Counted::default(); endpoint.verbs.len()];
    let seed = wire.seed();
    let core = Core {
        gate: Gate::recover(limits, seed),
        tickets: 0,
        waiting: BTreeMap::new(),
        running: Running::default(),
        counted: service.endpoints.iter().map(row).collect(),
    };
    let shared = Arc::new(Shared {
        clock,
        id,
        started: clock.both().wall.rfc3339(),
        service,
        handler,
        core: Mutex::new(core),
        alarm: Notify::new(),
        idle: Notify::new(),
        wire,
    });
    let (leave, asked) = mpsc::channel(1);
    tokio::spawn(keep(shared, endpoints, discoveries, asked));
    Ok(Serving { leave })
}

impl Serving {
    /// Leaves: takes no more requests, loses none that are on the way, and waits for those being
    /// answered, at most ten seconds.
    pub async fn leave(self) -> Left {
        let (told, left) = oneshot::channel();
        if self.leave.send(told).await.is_err() {
            return Left { cut: 0 };
        }
        left.await.unwrap_or(Left { cut: 0 })
    }
}

struct Shared {
    clock: Clock,
    id: String,
    started: String,
    service: Service,
    handler: Arc<dyn Handler>,
    core: Mutex<Core>,
    /// The gate's deadline is another one now.
    alarm: Notify,
    /// Nothing is being answered.
    idle: Notify,
    wire: Arc<dyn Wire>,
}

struct Core {
    gate: Gate,
    tickets: u64,
    /// Boxed, because a tree moves its values about.
    waiting: BTreeMap<Ticket, Box<Job>>,
    running: Running,
    counted: Vec<Vec<Counted>>,
}

/// The tasks that answer. Places are used again, so that a request costs no memory of its own.
#[derive(Default)]
struct Running {
    tasks: Vec<Option<AbortHandle>>,
    free: Vec<usize>,
}

impl Running {
    /// A place for a task that is about to start.
    fn place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            self.tasks.len() - 1
        })
    }

    fn end(&mut self, place: usize) {
        self.tasks[place] = None;
        self.free.push(place);
    }
}

/// A request between its arrival and its answer.
struct Job {
    arrived: Arrived,
    open: Open,
}

/// Owes one answer. Dropped without one, as when a task ends early, it says so by itself.
struct Open {
    shared: Arc<Shared>,
    endpoint: usize,
    verb: usize,
    reply: String,
    codec: Codec,
    /// Trace headers of the question, for its answer.
    asked: Headers,
    at: Moment,
    /// When the gate let it in, and the place of its task.
    began: Option<(Moment, usize)>,
    span: Span,
    owed: bool,
}

async fn keep(
    shared: Arc<Shared>,
    endpoints: Vec<Box<dyn Inflow>>,
    discoveries: Vec<(About, Box<dyn Inflow>)>,
    mut asked: mpsc::Receiver<oneshot::Sender<Left>>,
) {
    let (leave, leaving) = watch::channel(false);
    let mut ingress = JoinSet::new();
    for (endpoint, inflow) in endpoints.into_iter().enumerate() {
        ingress.spawn(listen(Arc::clone(&shared), endpoint, inflow, leaving.clone()));
    }
    let mut others = JoinSet::new();
    for (about, inflow) in discoveries {
        others.spawn(discover(Arc::clone(&shared), about, inflow));
    }
    others.spawn(wake(Arc::clone(&shared)));
    // Dropping the sets ends their tasks.
    let Some(told) = asked.recv().await else { return };
    leave.send_replace(true);
    while ingress.join_next().await.is_some() {}
    let drained = tokio::time::timeout(DRAIN_MAX, shared.until_idle()).await;
    let cut = if drained.is_ok() { 0 } else { shared.cut() };
    told.send(Left { cut }).ok();
}

async fn next(inflow: &mut dyn Inflow) -> Option<Delivered> {
    poll_fn(|cx| inflow.poll_next(cx)).await
}

/// Moves requests of one subscription to the gate, and does nothing else, so that nobody waits
/// unseen.
async fn listen(
    shared: Arc<Shared>,
    endpoint: usize,
    mut inflow: Box<dyn Inflow>,
    mut leaving: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            delivered = next(&mut *inflow) => match delivered {
                Some(delivered) => shared.arrived(endpoint, delivered),
                None => return,
            },
            left = leaving.wait_for(|leaving| *leaving) => match left {
                Ok(_) => break,
                Err(_) => return,
            },
        }
    }
    let ahead = AHEAD + 2 * shared.core().gate.inflight() as u64;
    let pad = subject::pad(&shared.service.endpoints[endpoint].subject);
    // Without a subject for padding the count would never be reached.
    let ahead = if pad.is_some() { ahead } else { 0 };
    let leave = async {
        let leaving = inflow.leave(ahead).await;
        loop {
            if let (Leaving::ByCount, Some(pad)) = (leaving, &pad) {
                shared.pad(pad, ahead).await;
            }
            loop {
                match tokio::time::timeout(PAD_AGAIN, next(&mut *inflow)).await {
                    Ok(Some(delivered)) => shared.arrived(endpoint, delivered),
                    Ok(None) => return,
                    Err(_) => break,
                }
            }
        }
    };
    if tokio::time::timeout(LEAVE_MAX, leave).await.is_err() {
        let subject = &shared.service.endpoints[endpoint].subject;
        tracing::warn!(subject, "a subscription did not end by count; ending it now");
    }
}

async fn discover(shared: Arc<Shared>, about: About, mut inflow: Box<dyn Inflow>) {
    while let Some(Delivered { reply, .. }) = next(&mut *inflow).await {
        let Some(subject) = reply else { continue };
        let body = {
            let core = shared.core();
            discovery::answer(about, &shared.service, &shared.id, &shared.started, &core.counted)
        };
        let message = Message { subject, headers: Headers::new(), body: body.into() };
        if let Err(error) = shared.wire.send(message).await {
            tracing::debug!(%error, "a discovery was not answered");
        }
    }
}

/// Ticks the gate at its deadlines.
async fn wake(shared: Arc<Shared>) {
    loop {
        let deadline = shared.core().gate.next_deadline();
        match deadline {
            None => shared.alarm.notified().await,
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(shared.clock.instant(at)) => {
                    shared.step(Event::Tick);
                }
                () = shared.alarm.notified() => (),
            },
        }
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        // Whoever panicked here did so between two whole steps.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(self: &Arc<Self>, endpoint: usize, delivered: Delivered) {
        let Delivered { message, reply, fault } = delivered;
        let spec = &self.service.endpoints[endpoint];
        let word = message.subject.rsplit('.').next().unwrap_or_default();
        // Nobody waits for it, so there is nothing to answer; padding is sent like that.
        let Some(reply) = reply else { return };
        if word == PAD {
            return;
        }
        let codec = answer::codec_of(&message);
        let span = trace::processing(&message.subject, spec.group.as_deref(), &message.headers);
        let verb = spec.verbs.iter().position(|verb| verb.name == word);
        let now = self.clock.now();
        let mut asked = Headers::new();
        for name in [envelope::TRACEPARENT, envelope::TRACESTATE] {
            if let Some(value) = message.headers.get(name) {
                asked.set(name, value);
            }
        }
        let open = Open {
            shared: Arc::clone(self),
            endpoint,
            verb: verb.unwrap_or(usize::MAX),
            reply,
            codec,
            asked,
            at: now,
            began: None,
            span: span.clone(),
            owed: true,
        };
        let until = match fault.map_or_else(|| self.accept(endpoint, verb, now, &message), Err) {
            Ok(until) => until,
            Err(refusal) => return open.refuse(&refusal),
        };
        let arrived = Arrived { message, at: now, until, span };
        self.weigh(now, Box::new(Job { arrived, open }));
    }

    /// Brings a request before the gate.
    fn weigh(self: &Arc<Self>, now: Moment, job: Box<Job>) {
        let mut core = self.core();
        core.tickets += 1;
        let ticket = Ticket(core.tickets);
        let until = job.arrived.until;
        core.waiting.insert(ticket, job);
        self.step_in(core, now, Event::Arrived { ticket, until });
    }

    /// Until when the caller listens, or why the request is not even weighed.
    fn accept(
        &self,
        endpoint: usize,
        verb: Option<usize>,
        now: Moment,
        message: &Message,
    ) -> Result<Moment, Refusal> {
        let Some(verb) = verb else {
            let word = message.subject.rsplit('.').next().unwrap_or_default();
            return Err(Refusal::UnknownVerb { verb: word.chars().take(64).collect() });
        };
        if message.body.len() > BODY_MAX {
            let bytes = message.body.len();
            return Err(Refusal::TooLarge { what: "body", bytes, max: BODY_MAX });
        }
        let verb = &self.service.endpoints[endpoint].verbs[verb];
        let patience = Patience { default: verb.patience_default, max: verb.patience_max };
        let left = match message.headers.get(DEADLINE) {
            None => patience.default,
            Some(text) => {
                let deadline = envelope::deadline(text);
                let deadline =
                    deadline.map_err(|error| Refusal::Malformed { at: error.to_string() })?;
                let wall = self.clock.both().wall;
                if deadline <= wall {
                    return Err(Refusal::TooLate { late: wall.since(deadline) });
                }
                deadline.since(wall).min(patience.max)
            }
        };
        Ok(now + left.saturating_sub(WAY_BACK.min(left / 4)))
    }

    fn step(self: &Arc<Self>, event: Event) {
        self.step_in(self.core(), self.clock.now(), event);
    }

    fn step_in(self: &Arc<Self>, mut core: MutexGuard<'_, Core>, now: Moment, event: Event) {
        let before = core.gate.next_deadline();
        let effects = core.gate.step(now, event);
        if core.gate.next_deadline() != before {
            self.alarm.notify_one();
        }
        let mut refused = Vec::new();
        for effect in effects {
            match effect {
                Effect::Begin { ticket } => {
                    let Some(mut job) = core.waiting.remove(&ticket) else { continue };
                    let place = core.running.place();
                    job.open.began = Some((now, place));
                    let task = tokio::spawn(run(Arc::clone(&self.handler), job));
                    core.running.tasks[place] = Some(task.abort_handle());
                }
                Effect::Refuse { ticket, refusal } => {
                    refused.extend(core.waiting.remove(&ticket).map(|job| (job, refusal)));
                }
            }
        }
        let idle = core.gate.inflight() + core.gate.queued() == 0;
        drop(core);
        if idle {
            self.idle.notify_waiters();
        }
        for (job, refusal) in refused {
            job.open.refuse(&refusal);
        }
    }

    async fn until_idle(&self) {
        loop {
            let idle = self.idle.notified();
            {
                let core = self.core();
                if core.gate.inflight() + core.gate.queued() == 0 {
                    return;
                }
            }
            idle.await;
        }
    }

    /// Ends what is still being answered. Each says so to its caller.
    fn cut(self: &Arc<Self>) -> usize {
        self.step(Event::Drain);
        let core = self.core();
        let running = core.running.tasks.iter().flatten();
        running.inspect(|task| task.abort()).count()
    }

    async fn pad(&self, subject: &str, times: u64) {
        for _ in 0..times {
            let message = Message { subject: subject.to_owned(), ..Message::default() };
            if self.wire.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// Has one request answered, whatever its handler does.
async fn run(handler: Arc<dyn Handler>, job: Box<Job>) {
    let Job { arrived, open } = *job;
    let until = open.shared.clock.instant(arrived.until);
    let span = open.span.clone();
    // Also a panic before there is a future is the handler's.
    let answered = AssertUnwindSafe(async move { handler.handle(arrived).await }).catch_unwind();
    let answered = tokio::time::timeout_at(until, answered).instrument(span).await;
    let reply = answered.map_err(|_| Refusal::Unfinished).and_then(|answered| {
        answered.map_err(|_| {
            tracing::error!(parent: &open.span, "a handler panicked");
            Refusal::Fault
        })
    });
    let reply = reply.unwrap_or_else(|refusal| open.refusal(&refusal));
    open.answer(reply).await;
}

impl Open {
    /// Answers, and only then counts it as ended.
    async fn answer(mut self, reply: Reply) {
        let (message, error) = self.settle(reply);
        let Some(error) = self.send(message).await else { return self.close(error) };
        // What cannot be sent cannot be sent again; that it cannot can.
        let problem = Problem {
            kind: "internal".to_owned(),
            code: 500,
            message: format!("the answer cannot be sent: {error}"),
            ran: Ran::Yes,
            retry_after_ms: None,
            detail: Detail::default(),
            trace_id: None,
        };
        let (message, counted) = self.settle(Reply::problem(self.codec, problem));
        self.send(message).await;
        self.close(counted);
    }

    fn refusal(&self, refusal: &Refusal) -> Reply {
        self.span.in_scope(|| Reply::refused(self.codec, refusal))
    }

    /// Answers with a no, from where nothing can wait.
    fn refuse(self, refusal: &Refusal) {
        let reply = self.refusal(refusal);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.answer(reply));
        }
    }

    fn settle(&mut self, reply: Reply) -> (Message, Option<String>) {
        self.owed = false;
        if reply.error.is_some() {
            trace::failed(&self.span, &reply_kind(&reply));
        }
        let error = reply.error.clone();
        (answer::message(self.reply.clone(), &self.asked, &self.span, reply), error)
    }

    async fn send(&self, message: Message) -> Option<SendError> {
        match self.shared.wire.send(message).await {
            Ok(()) => None,
            Err(error @ (SendError::TooLarge { .. } | SendError::Malformed { .. })) => Some(error),
            Err(error) => {
                tracing::warn!(%error, "an answer was not sent; its caller sees its deadline pass");
                None
            }
        }
    }

    fn close(&self, error: Option<String>) {
        let now = self.shared.clock.now();
        let mut core = self.shared.core();
        if let Some(counted) = core.counted[self.endpoint].get_mut(self.verb) {
            counted.add(now.since(self.at), error);
        }
        if let Some((began, place)) = self.began {
            core.running.end(place);
            self.shared.step_in(core, now, Event::Ended { began });
        }
    }
}

fn reply_kind(reply: &Reply) -> String {
    reply.headers.get(envelope::ERROR_KIND).unwrap_or("internal").to_owned()
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.owed {
            return;
        }
        self.owed = false;
        let heir = Self {
            shared: Arc::clone(&self.shared),
            reply: std::mem::take(&mut self.reply),
            asked: std::mem::take(&mut self.asked),
            span: self.span.clone(),
            ..*self
        };
        heir.refuse(&Refusal::Fault);
    }
}
