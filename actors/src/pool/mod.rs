//! Ready sandboxes, and who holds which: the shell around [`policy::Pool`].

pub mod policy;
mod questions;

use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_stream;
use actix::prelude::*;
use futures_util::stream;
use policy::{Allowed, Answer, Cause, Effect, Ended, Event, Facts, Granted, Limits, Pool, Turn};
pub use questions::{
    Acquire, AskLease, Close, Describe, GetFacts, GetHeld, GetStocks, Inventory, Learn, ListFacts,
    Reap, Release, Retire, Terminate, Use, Used, View,
};
use sandpit_messages::id::{NodeId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::guard::Terms;
use sandpit_sandbox::guard::bulkhead::Urgency;
use sandpit_sandbox::provider::{CreateRequest, Progress, TemplateInfo};
use sandpit_sandbox::{Provider, ProviderError};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tracing::{Instrument, Span, info_span};

use crate::clock::Clock;
use crate::metrics::metrics;
use crate::shell::{Answering, Askers, Core, Shell, Ticket, outcome, outcome_here};
use crate::supervise::{Asked, Caller, Life, Signal, heed};

/// A grant that found nobody waiting for it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Untaken(SandboxId);

/// Whoever waits, by what was asked.
#[derive(Debug)]
pub(crate) enum Asker {
    Acquire { caller: Caller<Result<Granted, Refusal>>, template: String, since: Moment },
    Describe(Caller<Result<TemplateInfo, Refusal>>),
    Use(Caller<Result<Allowed, Refusal>>),
    Lease(Caller<Result<Facts, Refusal>>),
    Terminate(Caller<Result<Ended, Refusal>>),
    Close(Caller<usize>),
}

/// How often the levels of the pool are recorded, at most.
const GAUGE_PAUSE: Duration = Duration::from_millis(250);

/// How long a sandbox for the stock is put off: making one keeps this thread for a fraction of a
/// millisecond, and whoever just got the last one should have the answer first.
const REFILL_PAUSE: Duration = Duration::from_millis(1);

/// What the pool needs of its node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// Who owns the sandboxes.
    pub node: NodeId,
    /// Where sandboxes are made.
    pub provider: Arc<dyn Provider>,
    /// Wakes the reaper.
    pub nudge: Arc<Notify>,
}

/// The actor.
#[derive(Debug)]
pub struct PoolActor {
    core: Core,
    pool: Pool,
    /// Effects of the recovery, until the actor has started.
    first: Vec<Effect>,
    ports: Ports,
    /// The provider's kind, for spans and metrics.
    kind: &'static str,
    askers: Askers<(Asker, Span)>,
    gauged: Option<Moment>,
}

impl PoolActor {
    /// The next incarnation. `seed` must differ from life to life.
    pub fn new(life: Life, limits: Limits, ports: Ports, seed: [u8; 32]) -> Self {
        let templates = ports.provider.templates();
        let (pool, first) = Pool::recover(limits, ports.node, templates, seed);
        Self {
            core: Core::new(life, ports.clock),
            pool,
            first,
            kind: ports.provider.descriptor().kind,
            ports,
            askers: Askers::default(),
            gauged: None,
        }
    }

    fn prepare(&mut self, template: String, ctx: &mut Context<Self>) {
        let provider = Arc::clone(&self.ports.provider);
        let name = template.clone();
        let progress = Progress::new(move |step| {
            tracing::info!(template = name, stage = step.stage, share = step.share, "preparing");
        });
        let wanted = template.clone();
        let preparing = async move { provider.prepare(&wanted, progress).await };
        self.spawn(preparing, Span::none(), ctx, move |prepared, _| match prepared {
            Ok(info) => Event::Prepared { template, info },
            Err(error) => Event::PrepareFailed { template, error },
        });
    }

    fn boot(
        &mut self,
        sandbox: SandboxId,
        template: String,
        for_caller: Option<Ticket>,
        ctx: &mut Context<Self>,
    ) {
        let provider = Arc::clone(&self.ports.provider);
        let kind = self.kind;
        let span = info_span!(
            parent: self.span_of(for_caller),
            "sandbox.create",
            sandpit.sandbox.id = %sandbox,
            sandpit.template = template,
            sandpit.provider = kind,
        );
        let since = self.ports.clock.now();
        let request = CreateRequest { sandbox, template: template.clone() };
        let urgency = if for_caller.is_none() { Urgency::Ahead } else { Urgency::Interactive };
        let terms = Terms { urgency, ..Terms::default() };
        let booting = async move {
            if for_caller.is_none() {
                tokio::time::sleep(REFILL_PAUSE).await;
            }
            terms.over(provider.create(request)).await
        };
        self.spawn(booting, span, ctx, move |booted, actor| {
            let took = actor.ports.clock.now().since(since);
            let result = if booted.is_ok() { "ok" } else { "failed" };
            metrics().booted(&template, kind, result, took);
            match booted {
                Ok(_) => Event::Booted { sandbox },
                Err(error) => Event::BootFailed { sandbox, error },
            }
        });
    }

    fn turn(&mut self, sandbox: SandboxId, turn: Turn, round: u64, ctx: &mut Context<Self>) {
        let provider = Arc::clone(&self.ports.provider);
        let turning = async move {
            match turn {
                Turn::Pause => provider.pausing()?.pause(sandbox).await,
                Turn::Resume { .. } => provider.pausing()?.resume(sandbox).await,
            }
        };
        let span = info_span!("sandbox.turn", sandpit.sandbox.id = %sandbox, ?turn);
        self.spawn(turning, span, ctx, move |outcome, _| Event::Turned { sandbox, round, outcome });
    }

    fn destroy(&mut self, sandbox: SandboxId, cause: Cause, ctx: &mut Context<Self>) {
        let provider = Arc::clone(&self.ports.provider);
        let kind = self.kind;
        let span = info_span!(
            "sandbox.destroy",
            sandpit.sandbox.id = %sandbox,
            sandpit.provider = kind,
            sandpit.outcome = cause.as_str(),
        );
        let destroying = async move { provider.destroy(sandbox).await };
        self.spawn(destroying, span, ctx, move |destroyed, actor| match destroyed {
            Ok(_) => {
                metrics().destroyed(kind, cause.as_str());
                Event::Destroyed { sandbox }
            }
            Err(_) => {
                actor.ports.nudge.notify_one();
                Event::DestroyFailed { sandbox }
            }
        });
    }

    /// Runs I/O on a task of its own, so that a panic in it is a failed call and not a dead actor.
    fn spawn<T: 'static>(
        &self,
        work: impl Future<Output = Result<T, ProviderError>> + 'static,
        span: Span,
        ctx: &mut Context<Self>,
        event: impl FnOnce(Result<T, ProviderError>, &mut Self) -> Event + 'static,
    ) {
        let work = tokio::task::spawn_local(work.instrument(span));
        let done = work.into_actor(self).map(|joined, actor: &mut Self, ctx| {
            let event = event(outcome(joined), actor);
            actor.step(event, ctx);
        });
        ctx.spawn(done);
    }

    /// The same within the actor, for what is nearly always done at once: no task and no way
    /// around the scheduler between a caller and its answer. It ends with the actor.
    fn do_here<T: 'static>(
        &self,
        work: impl Future<Output = Result<T, ProviderError>> + 'static,
        span: Span,
        ctx: &mut Context<Self>,
        event: impl FnOnce(Result<T, ProviderError>) -> Event + 'static,
    ) {
        let work = outcome_here(work.instrument(span)).into_actor(self);
        let done = work.map(|outcome, actor: &mut Self, ctx| actor.step(event(outcome), ctx));
        ctx.spawn(done);
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer, ctx: &mut Context<Self>) {
        let Some((asker, span)) = self.askers.take(ticket) else { return };
        match (asker, answer) {
            (Asker::Acquire { caller, template, .. }, Answer::Granted(granted)) => {
                let (result, source) =
                    if granted.from_pool { ("hit", "ready") } else { ("miss", "cold") };
                metrics().claimed(&template, result, granted.waited);
                span.record("sandpit.source", source);
                span.record("sandpit.wait_ms", granted.waited.as_secs_f64() * 1e3);
                span.record("sandpit.sandbox.id", granted.sandbox.as_str());
                let sandbox = granted.sandbox;
                if caller.answer(Ok(granted)).is_err() {
                    // Back through the mailbox, like any event: a step is never inside another.
                    ctx.notify(Untaken(sandbox));
                }
            }
            // For all others nothing is lost with an answer that nobody waits for.
            (Asker::Describe(caller), Answer::Described(info)) => drop(caller.answer(Ok(info))),
            (Asker::Use(caller), Answer::Allowed(allowed)) => drop(caller.answer(Ok(allowed))),
            (Asker::Lease(caller), Answer::Facts(facts)) => drop(caller.answer(Ok(facts))),
            (Asker::Terminate(caller), Answer::Ended(ended)) => drop(caller.answer(Ok(ended))),
            (Asker::Close(caller), Answer::Closed { left }) => drop(caller.answer(left)),
            (asker, answer) => {
                tracing::error!(?asker, ?answer, "an answer to another question");
            }
        }
    }

    fn span_of(&self, ticket: Option<Ticket>) -> Span {
        let asker = ticket.and_then(|ticket| self.askers.get(ticket));
        asker.map_or_else(Span::none, |(_, span)| span.clone())
    }

    fn record_levels(&mut self, now: Moment) {
        if self.gauged.is_some_and(|at| now < at + GAUGE_PAUSE) {
            return;
        }
        self.gauged = Some(now);
        let mut leased = 0;
        for stock in self.pool.stocks() {
            metrics().stock(&stock.template, stock.ready, stock.target, stock.booting);
            leased += stock.leased;
        }
        metrics().live("leased", leased);
        metrics().live("ready", self.pool.alive() - leased);
        metrics().live("booting", self.pool.booting());
        metrics().live("ending", self.pool.ending());
    }
}

impl Shell for PoolActor {
    const NAME: &'static str = "pool";
    const TICK: Event = Event::Tick;
    type Event = Event;
    type Effect = Effect;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn decide(&mut self, event: Event) -> Vec<Effect> {
        self.pool.step(self.core.clock.now(), event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.pool.next_deadline()
    }

    fn asks(event: &Event) -> Option<Ticket> {
        match event {
            Event::Acquire { ticket, .. }
            | Event::Describe { ticket, .. }
            | Event::Use { ticket, .. }
            | Event::Ask { ticket, .. }
            | Event::Terminate { ticket, .. }
            | Event::Retire { ticket, .. }
            | Event::Close { ticket, .. } => Some(*ticket),
            _ => None,
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let provider = Arc::clone(&self.ports.provider);
        match effect {
            Effect::List => {
                let listing = async move { provider.list().await };
                self.spawn(listing, Span::none(), ctx, |listed, _| match listed {
                    Ok(found) => {
                        let survivors = found.into_iter().map(|info| info.sandbox).collect();
                        Event::Listed { survivors }
                    }
                    Err(_) => Event::ListFailed,
                });
            }
            Effect::Prepare { template } => self.prepare(template, ctx),
            Effect::Boot { sandbox, template, for_caller } => {
                self.boot(sandbox, template, for_caller, ctx);
            }
            Effect::Adopt { sandbox, ticket, lease } => {
                let lease = Arc::unwrap_or_clone(lease);
                let span = info_span!(
                    parent: self.span_of(Some(ticket)),
                    "provider.attempt",
                    sandpit.endpoint = self.kind,
                    sandpit.operation = "adopt",
                    sandpit.sandbox.id = %sandbox,
                );
                let adopting = async move { provider.adopt(sandbox, lease).await };
                self.do_here(adopting, span, ctx, move |adopted| match adopted {
                    Ok(()) => Event::Adopted { sandbox },
                    Err(error) => Event::AdoptFailed { sandbox, error },
                });
            }
            Effect::Turn { sandbox, turn, round } => self.turn(sandbox, turn, round, ctx),
            Effect::Destroy { sandbox, cause } => self.destroy(sandbox, cause, ctx),
            Effect::Answer { ticket, answer } => self.answer(ticket, answer, ctx),
            Effect::Refuse { ticket, refusal } => self.refuse(ticket, refusal),
        }
    }

    fn stepped(&mut self) {
        self.record_levels(self.core.clock.now());
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        let Some((asker, span)) = self.askers.take(ticket) else { return };
        span.record("sandpit.outcome", tracing::field::display(&refusal));
        match asker {
            Asker::Acquire { caller, template, since } => {
                let waited = self.ports.clock.now().since(since);
                metrics().claimed(&template, "refused", waited);
                drop(caller.answer(Err(refusal)));
            }
            Asker::Describe(caller) => drop(caller.answer(Err(refusal))),
            Asker::Use(caller) => drop(caller.answer(Err(refusal))),
            Asker::Lease(caller) => drop(caller.answer(Err(refusal))),
            Asker::Terminate(caller) => drop(caller.answer(Err(refusal))),
            // Dropped, it says by itself that the pool failed.
            Asker::Close(_) => (),
        }
    }
}

impl Answering for PoolActor {
    type Asker = (Asker, Span);

    fn askers(&mut self) -> &mut Askers<(Asker, Span)> {
        &mut self.askers
    }
}

impl Actor for PoolActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let endings = self.ports.provider.endings();
        let died = stream::unfold(endings, |mut endings| async move {
            loop {
                match endings.recv().await {
                    Ok(ending) => return Some((ending, endings)),
                    // What was missed, the reaper finds by comparing.
                    Err(RecvError::Lagged(_)) => (),
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let heard = wrap_stream(died).map(|ending, actor: &mut Self, ctx| {
            tracing::warn!(sandbox = %ending.sandbox, why = ending.why, "a sandbox ended by itself");
            actor.step(Event::Died { sandbox: ending.sandbox }, ctx);
        });
        ctx.spawn(heard.finish());
        let first = std::mem::take(&mut self.first);
        self.carry_out_all(first, ctx);
    }
}

impl Handler<Asked<Acquire>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Acquire>, ctx: &mut Context<Self>) {
        let (Acquire { order, until }, caller) = asked.open();
        let span = info_span!(
            parent: caller.span(),
            "pool.acquire",
            sandpit.template = order.template,
            sandpit.tenant = order.tenant.as_str(),
            sandpit.source = tracing::field::Empty,
            sandpit.wait_ms = tracing::field::Empty,
            sandpit.sandbox.id = tracing::field::Empty,
            sandpit.outcome = tracing::field::Empty,
        );
        let (template, since) = (order.template.clone(), self.ports.clock.now());
        let asker = Asker::Acquire { caller, template, since };
        self.ask((asker, span.clone()), &span, ctx, |ticket| Event::Acquire {
            ticket,
            order,
            until,
        });
    }
}

impl Handler<Asked<Describe>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Describe>, ctx: &mut Context<Self>) {
        let (Describe { template, until }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Describe { ticket, template, until };
        self.ask((Asker::Describe(caller), span.clone()), &span, ctx, event);
    }
}

impl Handler<Asked<Use>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Use>, ctx: &mut Context<Self>) {
        let (Use { tenant, sandbox, exec, until }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Use { ticket, tenant, sandbox, exec, until };
        self.ask((Asker::Use(caller), span.clone()), &span, ctx, event);
    }
}

impl Handler<Asked<AskLease>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<AskLease>, ctx: &mut Context<Self>) {
        let (AskLease { tenant, sandbox, ask, until }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Ask { ticket, tenant, sandbox, ask, until };
        self.ask((Asker::Lease(caller), span.clone()), &span, ctx, event);
    }
}

impl Handler<Asked<Used>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Used>, ctx: &mut Context<Self>) {
        let (Used { sandbox, exec, sandbox_usable }, caller) = asked.open();
        let span = caller.span().clone();
        span.in_scope(|| self.step(Event::Used { sandbox, exec, sandbox_usable }, ctx));
        // Whoever ran it may have gone already.
        let _ = caller.answer(());
    }
}

impl Handler<Asked<Terminate>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Terminate>, ctx: &mut Context<Self>) {
        let (Terminate { tenant, sandbox, until }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Terminate { ticket, tenant, sandbox, until };
        self.ask((Asker::Terminate(caller), span.clone()), &span, ctx, event);
    }
}

impl Handler<Asked<Retire>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Retire>, ctx: &mut Context<Self>) {
        let (Retire { tenant, sandbox, drained }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Retire { ticket, tenant, sandbox, drained };
        self.ask((Asker::Terminate(caller), span.clone()), &span, ctx, event);
    }
}

impl Handler<Asked<Release>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Release>, ctx: &mut Context<Self>) {
        let (Release { sandbox, cause }, caller) = asked.open();
        let span = caller.span().clone();
        span.in_scope(|| self.step(Event::Release { sandbox, cause }, ctx));
        // Whoever gave it back may have gone already.
        let _ = caller.answer(());
    }
}

impl Handler<Asked<Reap>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Reap>, ctx: &mut Context<Self>) {
        let (Reap { sandbox, cause }, caller) = asked.open();
        let span = caller.span().clone();
        span.in_scope(|| self.step(Event::Reap { sandbox, cause }, ctx));
        // The reaper looks again in its next round, whether it heard this or not.
        let _ = caller.answer(());
    }
}

impl Handler<Asked<Learn>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Learn>, ctx: &mut Context<Self>) {
        let (Learn { template }, caller) = asked.open();
        self.step(Event::Learn { template }, ctx);
        // What is known stays known whether or not its teller waits.
        let _ = caller.answer(());
    }
}

impl Handler<Asked<Close>> for PoolActor {
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

impl Handler<Asked<GetFacts>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetFacts>, _: &mut Context<Self>) {
        let (GetFacts { tenant, sandbox }, caller) = asked.open();
        // A question that changes nothing loses nothing with its answer; so with the next three.
        let _ = caller.answer(self.pool.fact(self.ports.clock.now(), &tenant, sandbox));
    }
}

impl Handler<Asked<ListFacts>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<ListFacts>, _: &mut Context<Self>) {
        let (ListFacts(tenant), caller) = asked.open();
        let _ = caller.answer(self.pool.facts(self.ports.clock.now(), &tenant));
    }
}

impl Handler<Asked<Inventory>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Inventory>, _: &mut Context<Self>) {
        let (Inventory, caller) = asked.open();
        self.record_levels(self.ports.clock.now());
        let _ = caller.answer(self.pool.owned());
    }
}

impl Handler<Asked<GetHeld>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetHeld>, _: &mut Context<Self>) {
        let (GetHeld, caller) = asked.open();
        let _ = caller.answer(self.pool.held());
    }
}

impl Handler<Asked<GetStocks>> for PoolActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetStocks>, _: &mut Context<Self>) {
        let (GetStocks, caller) = asked.open();
        let _ = caller.answer(View {
            stocks: self.pool.stocks(),
            ending: self.pool.ending(),
            total_max: self.pool.total_max(),
            swept: self.pool.swept(),
        });
    }
}

impl Handler<Untaken> for PoolActor {
    type Result = ();

    fn handle(&mut self, Untaken(sandbox): Untaken, ctx: &mut Context<Self>) {
        self.step(Event::Release { sandbox, cause: Cause::Abandoned }, ctx);
    }
}

impl Handler<Signal> for PoolActor {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}
