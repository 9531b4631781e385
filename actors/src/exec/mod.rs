//! Runs code in sandboxes: the shell around [`policy::Execs`].

pub mod cache;
mod output;
pub mod policy;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use actix::prelude::*;
use cache::Key;
use policy::{Counts, Effect, Event, Execs, Lent, Limits, Order, Place, Source};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::exec::Executed;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::provider::Work;
use sandpit_sandbox::{Provider, ProviderError};
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;
use tokio::task::{AbortHandle, JoinError, JoinHandle};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use crate::bus::Bus;
use crate::clock::Clock;
use crate::metrics::metrics;
use crate::pool::policy::{AtExpiry, Cause, Order as PoolOrder};
use crate::pool::{Acquire, Describe, PoolActor, Release, Use, Used};
use crate::shell::{Answering, Askers, Core, Shell, Ticket};
use crate::supervise::{ActorRef, Asked, Caller, Life, NotAnswered, Question, Signal, heed};

/// Asks for something to be run; answered when it ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// What and where.
    pub order: Arc<Order>,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Run {
    type Answer = Result<Arc<Executed>, Refusal>;
}

/// Stops a run. Answers whether it was running.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// Whose.
    pub tenant: Tenant,
    /// Where it runs.
    pub sandbox: SandboxId,
    /// The run.
    pub exec: ExecId,
}

impl Question for Cancel {
    type Answer = bool;
}

/// Takes nothing new, and answers when nothing runs any more; what does at `until` is stopped.
#[derive(Clone, Debug)]
pub struct Close {
    /// Until when runs may end by themselves.
    pub until: Moment,
}

impl Question for Close {
    type Answer = ();
}

/// Asks about the result cache.
#[derive(Clone, Debug)]
pub struct GetCache;

impl Question for GetCache {
    type Answer = CacheView;
}

/// Told to whoever listens when a run came to its end. Who lags behind misses some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RanIn {
    /// Where.
    pub sandbox: SandboxId,
    /// When it ended.
    pub at: Moment,
    /// How long it ran.
    pub took: Duration,
    /// Whether its limits, the loss of its sandbox or the provider ended it. A program that fails
    /// by itself is a result.
    pub failed: bool,
}

/// The result cache, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheView {
    /// Results held.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How often they answered.
    pub counts: Counts,
}

#[derive(Debug)]
pub(crate) enum Asker {
    Run { caller: Caller<Result<Arc<Executed>, Refusal>>, template: String, since: Moment },
    Cancel(Caller<bool>),
    Close(Caller<()>),
}

/// A task that ends with whoever waits for it.
#[derive(Debug)]
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A run that has begun.
#[derive(Debug)]
struct Begun {
    stop: AbortHandle,
}

/// A fresh sandbox outlives its run's time limit by this much, in case its end is not heard.
const FRESH_SLACK: Duration = Duration::from_secs(60);

/// What executions need of their node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// Where code runs.
    pub provider: Arc<dyn Provider>,
    /// Where output is published.
    pub bus: Arc<dyn Bus>,
    /// Who has the sandboxes.
    pub pool: ActorRef<PoolActor>,
    /// Hears of every run that ended.
    pub ran: broadcast::Sender<RanIn>,
}

/// The actor.
#[derive(Debug)]
pub struct ExecActor {
    core: Core,
    execs: Execs,
    ports: Ports,
    /// The provider's kind, for spans.
    kind: &'static str,
    askers: Askers<(Asker, Span)>,
    begun: BTreeMap<ExecId, Begun>,
}

impl ExecActor {
    /// The next incarnation. `seed` must differ from life to life.
    pub fn new(life: Life, limits: Limits, ports: Ports, seed: [u8; 32]) -> Self {
        Self {
            core: Core::new(life, ports.clock),
            execs: Execs::recover(limits, seed),
            kind: ports.provider.descriptor().kind,
            ports,
            askers: Askers::default(),
            begun: BTreeMap::new(),
        }
    }

    fn start(
        &mut self,
        exec: ExecId,
        ticket: Ticket,
        sandbox: SandboxId,
        order: Arc<Order>,
        ctx: &mut Context<Self>,
    ) {
        let (provider, bus) = (Arc::clone(&self.ports.provider), Arc::clone(&self.ports.bus));
        let (now, whole) = (self.core.clock.now(), self.span_of(ticket));
        whole.record("sandpit.exec.id", exec.as_str());
        whole.record("sandpit.sandbox.id", sandbox.as_str());
        let span = info_span!(
            parent: &whole,
            "provider.attempt",
            sandpit.endpoint = self.kind,
            sandpit.operation = "exec",
            sandpit.sandbox.id = %sandbox,
        );
        let asker = self.askers.get(ticket).map(|(asker, _)| asker);
        let (template, queued) = match asker {
            Some(Asker::Run { template, since, .. }) => (template.clone(), now.since(*since)),
            _ => (String::new(), Duration::ZERO),
        };
        let running = output::run(provider, bus, exec, sandbox, order);
        let (told, clock) = (self.ports.ran.clone(), self.ports.clock);
        let tell = move |took, failed| {
            // Nobody has to listen.
            let _ = told.send(RanIn { sandbox, at: clock.now(), took, failed });
        };
        let stop = self.spawn_run(running, span, ctx, move |ran| match ran {
            Ok(ran) => {
                let Executed { lost, timed_out, oom_killed, .. } = ran.result;
                tell(ran.wall, lost || timed_out || oom_killed);
                metrics().ran(&template, label(&ran.result), ran.wall, queued);
                metrics().wrote(&template, ran.written, ran.dropped);
                whole.record("process.exit.code", ran.result.exit_code);
                whole.record("sandpit.output.bytes", ran.written);
                let (result, sandbox_usable) = (Arc::new(ran.result), ran.sandbox_usable);
                Event::Ended { exec, result, sandbox_usable }
            }
            Err(error) => {
                tell(Duration::ZERO, true);
                metrics().ran(&template, "refused", Duration::ZERO, queued);
                Event::Failed { exec, error }
            }
        });
        self.begun.insert(exec, Begun { stop });
    }

    fn spawn_run(
        &self,
        work: impl Future<Output = Result<output::Ran, ProviderError>> + 'static,
        span: Span,
        ctx: &mut Context<Self>,
        event: impl FnOnce(Result<output::Ran, ProviderError>) -> Event + 'static,
    ) -> AbortHandle {
        let work = tokio::task::spawn_local(work.instrument(span));
        let stop = work.abort_handle();
        let done = work.into_actor(self).map(move |joined, actor: &mut Self, ctx| {
            // What was stopped was settled when it was stopped.
            if joined.as_ref().is_err_and(JoinError::is_cancelled) {
                return;
            }
            let event = event(crate::shell::outcome(joined));
            if let Event::Ended { exec, .. } | Event::Failed { exec, .. } = event {
                actor.begun.remove(&exec);
            }
            actor.step(event, ctx);
        });
        ctx.spawn(done);
        stop
    }

    /// Asks on a task of its own, so that a panic on the way is no dead actor.
    fn spawn<T: 'static>(
        &self,
        work: impl Future<Output = Result<T, NotAnswered>> + 'static,
        span: Span,
        ctx: &mut Context<Self>,
        event: impl FnOnce(Result<T, NotAnswered>) -> Event + 'static,
    ) {
        let work = tokio::task::spawn_local(work.instrument(span));
        // With the actor its questions end, so that a grant to it comes back.
        let work = AbortOnDrop(work);
        let done = work.into_actor(self).map(|joined, actor: &mut Self, ctx| {
            let event = event(joined.unwrap_or(Err(NotAnswered::Interrupted)));
            actor.step(event, ctx);
        });
        ctx.spawn(done);
    }

    fn answer(&mut self, ticket: Ticket, result: Arc<Executed>, source: Source) {
        let Some((Asker::Run { caller, .. }, span)) = self.askers.take(ticket) else { return };
        let word = match source {
            Source::Ran => "off",
            Source::Missed => "miss",
            Source::Joined => "joined",
            Source::Cached => "hit",
        };
        metrics().cached(word);
        if source == Source::Missed {
            metrics().cache_holds(self.execs.results().1);
        }
        span.record("sandpit.cache", word);
        if matches!(source, Source::Joined | Source::Cached) {
            span.record("sandpit.exec.id", result.execution_id.as_str());
            span.record("process.exit.code", result.exit_code);
        }
        // Whoever hung up wanted no more of it; what it cost is spent.
        let _ = caller.answer(Ok(result));
    }

    fn span_of(&self, ticket: Ticket) -> Span {
        self.askers.get(ticket).map_or_else(Span::none, |(_, span)| span.clone())
    }
}

/// What came of a question to the pool. It runs nothing for us, so a pool that starts over has
/// done nothing that lasts.
fn settled<T>(answer: Result<Result<T, Refusal>, NotAnswered>) -> Result<T, Refusal> {
    match answer {
        Ok(answer) => answer,
        Err(NotAnswered::Interrupted) => Err(Refusal::Restarting),
        Err(other) => Err(other.into()),
    }
}

/// How long a full pool is given before a message to it is tried again, and how often.
const TELL_PAUSE: Duration = Duration::from_millis(50);
const TELL_TRIES: u32 = 100;

/// Tells the pool something that must not be lost because it is busy. A pool that starts over
/// has forgotten what it is about; one that stays full leaves it to the reaper.
fn tell<Q>(pool: ActorRef<PoolActor>, question: Q)
where
    Q: Question<Answer = ()> + Clone,
    PoolActor: Handler<Asked<Q>>,
{
    let telling = async move {
        for _ in 0..TELL_TRIES {
            match pool.ask(question.clone()).await {
                Err(NotAnswered::Busy { .. }) => tokio::time::sleep(TELL_PAUSE).await,
                Ok(()) | Err(NotAnswered::NotBegun | NotAnswered::Interrupted) => return,
            }
        }
        tracing::warn!(?question, "the pool stayed full");
    };
    tokio::task::spawn_local(telling.in_current_span());
}

fn label(result: &Executed) -> &'static str {
    match result {
        Executed { lost: true, .. } => "lost",
        Executed { timed_out: true, .. } => "timed_out",
        Executed { oom_killed: true, .. } | Executed { signal: Some(_), .. } => "killed",
        Executed { exit_code: 0, .. } => "ok",
        _ => "failed",
    }
}

impl Shell for ExecActor {
    const NAME: &'static str = "exec";
    const TICK: Event = Event::Tick;
    type Event = Event;
    type Effect = Effect;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn decide(&mut self, event: Event) -> Vec<Effect> {
        self.execs.step(self.core.clock.now(), event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.execs.next_deadline()
    }

    fn asks(event: &Event) -> Option<Ticket> {
        match event {
            Event::Run { ticket, .. }
            | Event::Cancel { ticket, .. }
            | Event::Close { ticket, .. } => Some(*ticket),
            _ => None,
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let pool = self.ports.pool.clone();
        match effect {
            Effect::Describe { ticket, order, template, until } => {
                let question = Describe { template: template.clone(), until };
                let describing = async move { pool.ask_settled(question).await };
                self.spawn(describing, self.span_of(ticket), ctx, move |described| {
                    match settled(described) {
                        Ok(info) => {
                            let key = Key::of(&order, &template, &info.digest);
                            Event::Described { ticket, key }
                        }
                        Err(refusal) => Event::NotDescribed { ticket, refusal },
                    }
                });
            }
            Effect::Use { exec, ticket, tenant, sandbox, until } => {
                let question = Use { tenant, sandbox, exec, until };
                let asking = async move { pool.ask_settled(question).await };
                self.spawn(asking, self.span_of(ticket), ctx, move |allowed| {
                    match settled(allowed) {
                        Ok(_) => Event::Given { exec, sandbox, lent: Lent::Held },
                        Err(refusal) => Event::NotGiven { exec, refusal },
                    }
                });
            }
            Effect::Acquire { exec, ticket, tenant, template, time_max, until } => {
                let time_max = time_max + FRESH_SLACK;
                let order = Arc::new(PoolOrder {
                    tenant,
                    template,
                    name: Some(exec.to_string()),
                    memory_mb: None,
                    cpu_count: None,
                    lifetime: time_max,
                    idle_timeout: time_max,
                    env: BTreeMap::new(),
                    metadata: BTreeMap::new(),
                    at_expiry: AtExpiry::End,
                });
                let asking = async move { pool.ask_settled(Acquire { order, until }).await };
                self.spawn(asking, self.span_of(ticket), ctx, move |granted| {
                    match settled(granted) {
                        Ok(granted) => {
                            let sandbox = granted.sandbox;
                            Event::Given { exec, sandbox, lent: Lent::Fresh }
                        }
                        Err(refusal) => Event::NotGiven { exec, refusal },
                    }
                });
            }
            Effect::Start { exec, ticket, sandbox, order } => {
                self.start(exec, ticket, sandbox, order, ctx);
            }
            Effect::Stop { exec } => {
                if let Some(begun) = self.begun.remove(&exec) {
                    begun.stop.abort();
                }
            }
            Effect::Used { exec, sandbox, sandbox_usable } => {
                let question = Used { sandbox, exec, sandbox_usable };
                tell(pool, question);
            }
            Effect::Release { sandbox } => tell(pool, Release { sandbox, cause: Cause::Finished }),
            Effect::Answer { ticket, result, source } => self.answer(ticket, result, source),
            Effect::Cancelled { ticket, was_running } => {
                if let Some((Asker::Cancel(caller), _)) = self.askers.take(ticket) {
                    // It is stopped, whether anybody waits to hear it or not.
                    let _ = caller.answer(was_running);
                }
            }
            Effect::Closed { ticket } => {
                if let Some((Asker::Close(caller), _)) = self.askers.take(ticket) {
                    // The node ends without it too.
                    let _ = caller.answer(());
                }
            }
            Effect::Refuse { ticket, refusal } => self.refuse(ticket, refusal),
        }
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        let Some((asker, span)) = self.askers.take(ticket) else { return };
        span.record("sandpit.outcome", tracing::field::display(&refusal));
        if let Asker::Run { caller, since, .. } = asker {
            tracing::debug!(parent: &span, waited = ?self.core.clock.now().since(since), %refusal, "refused");
            // Whoever hung up needs no refusal.
            let _ = caller.answer(Err(refusal));
        }
    }
}

impl Answering for ExecActor {
    type Asker = (Asker, Span);

    fn askers(&mut self) -> &mut Askers<(Asker, Span)> {
        &mut self.askers
    }
}

impl Actor for ExecActor {
    type Context = Context<Self>;
}

impl Drop for ExecActor {
    fn drop(&mut self) {
        // Their callers are told by the kernel; what nobody waits for does not run.
        for begun in self.begun.values() {
            begun.stop.abort();
        }
    }
}

impl Handler<Asked<Run>> for ExecActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Run>, ctx: &mut Context<Self>) {
        let (Run { order, until }, caller) = asked.open();
        let span = info_span!(
            parent: caller.span(),
            "exec.run",
            sandpit.tenant = order.tenant.as_str(),
            sandpit.template = Empty,
            sandpit.exec.id = Empty,
            sandpit.sandbox.id = Empty,
            process.exit.code = Empty,
            sandpit.code.sha256 = Empty,
            sandpit.cache = Empty,
            sandpit.output.bytes = Empty,
            sandpit.outcome = Empty,
        );
        if !span.is_disabled()
            && let Work::Cell { code, .. } = &order.work
        {
            let digest: [u8; 32] = Sha256::digest(code.as_bytes()).into();
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            span.record("sandpit.code.sha256", hex);
        }
        let template = match &order.place {
            Place::Fresh(template) => template.clone(),
            Place::Held(_) => String::new(),
        };
        span.record("sandpit.template", template.as_str());
        let asker = Asker::Run { caller, template, since: self.ports.clock.now() };
        self.ask((asker, span.clone()), &span, ctx, |ticket| Event::Run { ticket, order, until });
    }
}

impl Handler<Asked<Cancel>> for ExecActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Cancel>, ctx: &mut Context<Self>) {
        let (Cancel { tenant, sandbox, exec }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Cancel { ticket, tenant, sandbox, exec };
        self.ask((Asker::Cancel(caller), span.clone()), &span, ctx, event);
    }
}

impl Handler<Asked<Close>> for ExecActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Close>, ctx: &mut Context<Self>) {
        let (Close { until }, caller) = asked.open();
        let span = caller.span().clone();
        self.ask((Asker::Close(caller), span.clone()), &span, ctx, |ticket| Event::Close {
            ticket,
            until,
        });
    }
}

impl Handler<Asked<GetCache>> for ExecActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetCache>, _: &mut Context<Self>) {
        let (GetCache, caller) = asked.open();
        let (entries, bytes) = self.execs.results();
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(CacheView { entries, bytes, counts: self.execs.counts() });
    }
}

impl Handler<Signal> for ExecActor {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}
