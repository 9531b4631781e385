//! Watches sandboxes and executions: the shell around [`policy::Health`].

pub mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_stream;
use actix::prelude::*;
use futures_util::future::join_all;
use futures_util::stream;
use policy::{Effect, Event, Figures, Health, Limits, Overall, Use};
use sandpit_messages::id::SandboxId;
use sandpit_messages::time::Moment;
use sandpit_sandbox::Provider;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::clock::Clock;
use crate::exec::RanIn;
use crate::pool::{GetHeld, PoolActor};
use crate::shell::{Core, Shell};
use crate::supervise::{ActorRef, Asked, Life, Question, Signal, heed};

/// Longest one look at a sandbox may take.
const SAMPLE_MAX: Duration = Duration::from_secs(1);

/// Looks at once: each is a question to the engine, which has other things to do.
const AT_ONCE: usize = 16;

/// Asks what is known of sandboxes.
#[derive(Clone, Debug)]
pub struct GetFigures(pub Vec<SandboxId>);

impl Question for GetFigures {
    type Answer = Known;
}

/// What is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Of each sandbox that was asked about.
    pub sandboxes: BTreeMap<SandboxId, Figures>,
    /// Of all executions.
    pub overall: Overall,
    /// How long this has been watched.
    pub watched: Duration,
}

/// What health needs of its node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// What sandboxes use.
    pub provider: Arc<dyn Provider>,
    /// Which are leased.
    pub pool: ActorRef<PoolActor>,
    /// Executions that ended.
    pub ran: broadcast::Sender<RanIn>,
}

/// The actor.
#[derive(Debug)]
pub struct HealthActor {
    core: Core,
    health: Health,
    ports: Ports,
}

impl HealthActor {
    /// The next incarnation.
    pub fn new(life: Life, limits: Limits, ports: Ports) -> Self {
        let health = Health::recover(limits, ports.clock.now());
        Self { core: Core::new(life, ports.clock), health, ports }
    }

    fn sample(&self, ctx: &mut Context<Self>) {
        let sampling = tokio::task::spawn_local(sample(self.ports.clone()));
        let done = sampling.into_actor(self).map(|uses, actor: &mut Self, ctx| {
            let event = match uses {
                Ok(Some(uses)) => Event::Sampled { uses },
                // What could not be looked at has no figures, which is what is told.
                Ok(None) | Err(_) => Event::NotSampled,
            };
            actor.step(event, ctx);
        });
        ctx.spawn(done);
    }
}

async fn sample(ports: Ports) -> Option<Vec<Use>> {
    let Ports { provider, pool, .. } = ports;
    let held = pool.ask_settled(GetHeld).await.ok()?;
    let mut uses = Vec::new();
    for some in held.chunks(AT_ONCE) {
        let looks = some.iter().map(|one| {
            let looking = tokio::time::timeout(SAMPLE_MAX, provider.sample(one.sandbox));
            async move {
                let sample = looking.await.ok()?.ok()?;
                let (sandbox, cpu_count) = (one.sandbox, one.limits.cpu_count);
                Some(Use { sandbox, cpu: sample.cpu, memory: sample.memory, cpu_count })
            }
        });
        uses.extend(join_all(looks).await.into_iter().flatten());
    }
    Some(uses)
}

impl Shell for HealthActor {
    const NAME: &'static str = "health";
    const TICK: Event = Event::Tick;
    type Event = Event;
    type Effect = Effect;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn decide(&mut self, event: Event) -> Vec<Effect> {
        self.health.step(self.core.clock.now(), event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.health.next_deadline()
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Sample => self.sample(ctx),
        }
    }
}

impl Actor for HealthActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let ran = stream::unfold(self.ports.ran.subscribe(), |mut ran| async move {
            match ran.recv().await {
                Ok(RanIn { sandbox, took, failed, .. }) => {
                    Some((Event::Ran { sandbox, took, failed }, ran))
                }
                Err(RecvError::Lagged(runs)) => Some((Event::Missed { runs }, ran)),
                Err(RecvError::Closed) => None,
            }
        });
        let heard = wrap_stream(ran).map(|event, actor: &mut Self, ctx: &mut Context<Self>| {
            actor.step(event, ctx);
        });
        ctx.spawn(heard.finish());
        self.step(Event::Tick, ctx);
    }
}

impl Handler<Asked<GetFigures>> for HealthActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetFigures>, _: &mut Context<Self>) {
        let (GetFigures(wanted), caller) = asked.open();
        let now = self.ports.clock.now();
        let figures = wanted.into_iter().map(|one| (one, self.health.figures(now, one)));
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(Known {
            sandboxes: figures.collect(),
            overall: self.health.overall(now),
            watched: self.health.watched(now),
        });
    }
}

impl Handler<Signal> for HealthActor {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}
