//! Ends what should have ended: the shell around [`policy::Reaper`].

pub mod policy;

use std::sync::Arc;

use actix::fut::wrap_stream;
use actix::prelude::*;
use futures_util::stream;
use policy::{Counts, Effect, Event, Limits, Reaper};
use sandpit_messages::id::SandboxId;
use sandpit_messages::time::Moment;
use sandpit_sandbox::{Provider, ProviderError};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tracing::{Instrument, info_span};

use crate::clock::Clock;
use crate::metrics::metrics;
use crate::pool::policy::{Cause, Owned};
use crate::pool::{Inventory, PoolActor, Reap};
use crate::shell::{Core, Shell, outcome};
use crate::supervise::{ActorRef, Asked, Life, Question, Signal, heed};

/// Asks what the reaper did.
#[derive(Clone, Debug)]
pub struct GetReaped;

impl Question for GetReaped {
    type Answer = Counts;
}

/// What the reaper needs of its node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// What exists.
    pub provider: Arc<dyn Provider>,
    /// What is owned.
    pub pool: ActorRef<PoolActor>,
    /// Wakes it.
    pub nudge: Arc<Notify>,
}

/// The actor.
#[derive(Debug)]
pub struct ReaperActor {
    core: Core,
    reaper: Reaper,
    /// Effects of the recovery, until the actor has started.
    first: Vec<Effect>,
    ports: Ports,
}

impl ReaperActor {
    /// The next incarnation.
    pub fn new(life: Life, limits: Limits, ports: Ports) -> Self {
        let (reaper, first) = Reaper::recover(limits, ports.clock.now());
        Self { core: Core::new(life, ports.clock), reaper, first, ports }
    }

    fn look(&mut self, look: u64, ctx: &mut Context<Self>) {
        let Ports { provider, pool, .. } = self.ports.clone();
        let looking = async move {
            let existing = provider.list().await?;
            // Asked for second: what is made in between is owned by then.
            let owned = pool.ask_settled(Inventory).await;
            let owned = owned.map_err(|error| ProviderError::Failed {
                why: error.to_string(),
                maybe_done: false,
            })?;
            let existing = existing.into_iter().map(|info| info.sandbox).collect();
            Ok::<(Vec<SandboxId>, Vec<Owned>), ProviderError>((existing, owned))
        };
        let span = info_span!(parent: None, "reap.sweep", sandpit.decision.id = look);
        let looking = tokio::task::spawn_local(looking.instrument(span));
        let done = looking.into_actor(self).map(move |joined, actor: &mut Self, ctx| {
            let event = match outcome(joined) {
                Ok((existing, owned)) => Event::Seen { look, existing, owned },
                Err(_) => Event::NotSeen { look },
            };
            actor.step(event, ctx);
        });
        ctx.spawn(done);
    }

    /// Nobody waits for it: the next look tells whether it is gone.
    fn destroy(&self, sandbox: SandboxId) {
        tracing::warn!(%sandbox, "destroying a sandbox that nobody owns");
        metrics().reaped("orphaned");
        let provider = Arc::clone(&self.ports.provider);
        let span = info_span!(parent: None, "sandbox.destroy", sandpit.sandbox.id = %sandbox);
        let destroying = async move { outcome(Ok(provider.destroy(sandbox).await)).map(drop) };
        tokio::task::spawn_local(destroying.instrument(span));
    }

    /// The pool looks for itself, and the next look tells what it did.
    fn reap(&self, sandbox: SandboxId, cause: Cause) {
        metrics().reaped(cause.as_str());
        let pool = self.ports.pool.clone();
        tokio::task::spawn_local(async move { pool.ask_settled(Reap { sandbox, cause }).await });
    }
}

impl Shell for ReaperActor {
    const NAME: &'static str = "reaper";
    const TICK: Event = Event::Tick;
    type Event = Event;
    type Effect = Effect;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn decide(&mut self, event: Event) -> Vec<Effect> {
        self.reaper.step(self.core.clock.now(), event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.reaper.next_deadline()
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Look { look } => self.look(look, ctx),
            Effect::Destroy { sandbox } => self.destroy(sandbox),
            Effect::Reap { sandbox, cause } => self.reap(sandbox, cause),
        }
    }

    fn stepped(&mut self) {
        metrics().orphans(self.reaper.orphans());
    }
}

impl Actor for ReaperActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let nudges = stream::unfold(Arc::clone(&self.ports.nudge), |nudge| async move {
            nudge.notified().await;
            Some(((), nudge))
        });
        let endings = stream::unfold(self.ports.provider.endings(), |mut endings| async move {
            match endings.recv().await {
                // What was missed is found by looking, too.
                Ok(_) | Err(RecvError::Lagged(_)) => Some(((), endings)),
                Err(RecvError::Closed) => None,
            }
        });
        let nudged = |(), actor: &mut Self, ctx: &mut Context<Self>| {
            actor.step(Event::Nudged, ctx);
        };
        ctx.spawn(wrap_stream(nudges).map(nudged).finish());
        ctx.spawn(wrap_stream(endings).map(nudged).finish());
        let first = std::mem::take(&mut self.first);
        self.carry_out_all(first, ctx);
    }
}

impl Handler<Asked<GetReaped>> for ReaperActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetReaped>, _: &mut Context<Self>) {
        let (GetReaped, caller) = asked.open();
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(self.reaper.counts());
    }
}

impl Handler<Signal> for ReaperActor {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}
