//! Replays prices as feeds on the bus: the shell around [`policy::Replays`].

pub mod policy;
mod prices;

use std::sync::Arc;

use actix::prelude::*;
use policy::{Effect, Event, Limits, Replays};
use sandpit_messages::codec::Codec;
use sandpit_messages::envelope::CONTENT_TYPE;
use sandpit_messages::id::NodeId;
use sandpit_messages::market::{Bars, GetBars, ReplayStarted, StartReplay};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::subject;
use sandpit_messages::time::Moment;

pub(crate) use prices::is_day;
pub use prices::{NotPrices, Prices};

use crate::bus::{Bus, Headers, Message};
use crate::clock::Clock;
use crate::shell::{Core, Shell};
use crate::supervise::{Asked, Life, Question, Signal, heed};

impl Question for StartReplay {
    type Answer = Result<ReplayStarted, Refusal>;
}

impl Question for GetBars {
    type Answer = Result<Bars, Refusal>;
}

/// What replays need of their node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// This node.
    pub node: NodeId,
    /// Where bars are published.
    pub bus: Arc<dyn Bus>,
    /// What is replayed; `None` on a node without prices.
    pub prices: Option<Arc<Prices>>,
}

/// The actor.
#[derive(Debug)]
pub struct MarketActor {
    core: Core,
    replays: Replays,
    ports: Ports,
}

impl MarketActor {
    /// The next incarnation.
    pub fn new(life: Life, limits: Limits, ports: Ports) -> Self {
        let replays = Replays::recover(limits, ports.node, ports.prices.clone());
        Self { core: Core::new(life, ports.clock), replays, ports }
    }
}

impl Shell for MarketActor {
    const NAME: &'static str = "market";
    const TICK: Event = Event::Tick;
    type Event = Event;
    type Effect = Effect;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn decide(&mut self, event: Event) -> Vec<Effect> {
        self.replays.step(self.core.clock.now(), event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.replays.next_deadline()
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let Effect::Publish { feed, bar } = effect;
        let headers = Headers::new().with(CONTENT_TYPE, Codec::Json.content_type());
        let body = Codec::Json.encode(&*bar).into();
        let message = Message { subject: subject::market(&feed), headers, body };
        let bus = Arc::clone(&self.ports.bus);
        let publishing = tokio::task::spawn_local(async move { bus.publish(message).await });
        ctx.spawn(publishing.into_actor(self).map(|joined, actor: &mut Self, ctx| {
            let event = match joined {
                Ok(Ok(())) => Event::Published { feed },
                Ok(Err(error)) => {
                    tracing::debug!(%feed, %error, "a bar was not published");
                    Event::NotPublished { feed }
                }
                Err(panic) => {
                    tracing::error!(%feed, %panic, "the bus panicked");
                    Event::NotPublished { feed }
                }
            };
            actor.step(event, ctx);
        }));
    }
}

impl Actor for MarketActor {
    type Context = Context<Self>;
}

impl Handler<Asked<StartReplay>> for MarketActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<StartReplay>, ctx: &mut Context<Self>) {
        let (ask, caller) = asked.open();
        let started = self.replays.start(self.ports.clock.now(), ask);
        // Whoever hung up can hear it on the bus.
        let _ = caller.answer(started);
        self.carry_out_all(Vec::new(), ctx);
    }
}

impl Handler<Asked<GetBars>> for MarketActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetBars>, _: &mut Context<Self>) {
        let (ask, caller) = asked.open();
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(self.replays.bars(&ask));
    }
}

impl Handler<Signal> for MarketActor {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}
