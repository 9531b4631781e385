//! Runs agents in sandboxes that others hold: the shell around [`policy::Agents`].
//!
//! An agent is a program with a paper account. The node hears a feed on the bus, shows each bar to
//! the program in a cell of its sandbox, and keeps the account; the program has neither network
//! nor books.

pub mod account;
mod cell;
mod feed;
pub mod order;
pub mod policy;
pub mod programs;
mod questions;

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::fut;
use actix::prelude::*;
use policy::{Agents, Effect, Event, Limits};
use sandpit_messages::id::{AgentId, ExecId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use tokio::sync::{broadcast, mpsc};

use crate::bus::{Bus, Message};
use crate::clock::Clock;
use crate::exec::{self, ExecActor};
use crate::market::MarketActor;
use crate::shell::{Answering, Askers, Core, Shell, Ticket};
use crate::supervise::{ActorRef, Asked, Caller, Life, NotAnswered, Signal, heed};

pub use order::{Code, Feed, Order};
pub use policy::AgentState;
pub use questions::{AgentEnded, Await, Halt, Launch, Launched, Look, LookAll, ReadFills};

/// What agents need of their node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// Where feeds are heard and fills are published.
    pub bus: Arc<dyn Bus>,
    /// Who runs code in sandboxes.
    pub exec: ActorRef<ExecActor>,
    /// Who replays prices.
    pub market: ActorRef<MarketActor>,
    /// Who wants to know when a run ends.
    pub ended: broadcast::Sender<AgentEnded>,
}

/// Ends of runs that a listener may be behind before it must ask.
pub const ENDED_ROOM: usize = 1_024;

/// Messages on their way out, in order. When so many wait, the bus is as good as lost, and what is
/// on top can be read with `fills`.
const TOLD_MAX: usize = 8_192;

#[derive(Debug)]
pub(crate) enum Asker {
    Launch(Caller<Result<Launched, Refusal>>),
    Halt(Caller<Result<AgentState, Refusal>>),
    Await(Caller<Result<sandpit_messages::agent::AgentRun, Refusal>>),
}

/// The actor.
#[derive(Debug)]
pub struct AgentActor {
    core: Core,
    agents: Agents,
    limits: Limits,
    ports: Ports,
    askers: Askers<Asker>,
    /// What hears the feed of each run.
    ears: BTreeMap<ExecId, SpawnHandle>,
    tell: mpsc::Sender<Message>,
    /// Until the actor has started.
    told: Option<mpsc::Receiver<Message>>,
}

impl AgentActor {
    /// The next incarnation. `seed` must differ from life to life.
    pub fn new(life: Life, limits: Limits, ports: Ports, seed: [u8; 32]) -> Self {
        let (tell, told) = mpsc::channel(TOLD_MAX);
        Self {
            core: Core::new(life, ports.clock),
            agents: Agents::recover(limits, seed),
            limits,
            ports,
            askers: Askers::default(),
            ears: BTreeMap::new(),
            tell,
            told: Some(told),
        }
    }

    /// Does I/O on a task of its own, so that a panic on the way is no dead actor.
    fn spawn<T: 'static>(
        ctx: &mut Context<Self>,
        work: impl Future<Output = T> + 'static,
        event: impl FnOnce(Result<T, tokio::task::JoinError>, &mut Self, &mut Context<Self>) -> Event
        + 'static,
    ) {
        let work = tokio::task::spawn_local(work);
        let done = fut::wrap_future(work).map(|joined, actor: &mut Self, ctx| {
            let event = event(joined, actor, ctx);
            actor.step(event, ctx);
        });
        ctx.spawn(done);
    }

    fn hear(&mut self, exec: ExecId, heard: crate::bus::Feed, ctx: &mut Context<Self>) {
        let bars = fut::wrap_stream(feed::bars(heard));
        let hearing = bars.map(move |bar, actor: &mut Self, ctx: &mut Context<Self>| {
            actor.step(Event::Heard { exec, bar }, ctx);
        });
        let ear = ctx.spawn(hearing.finish());
        self.ears.insert(exec, ear);
    }

    fn run(
        &self,
        exec: ExecId,
        cell: u64,
        order: &Order,
        work: &policy::Work,
        ctx: &mut Context<Self>,
    ) {
        let time_max = self.limits.bar_max;
        let order = Arc::new(cell::of(order, work, time_max));
        // Behind other executions of the same sandbox it waits as long again.
        let until = self.ports.clock.now() + time_max + time_max;
        let running = self.ports.exec.clone();
        let running = async move { running.ask_settled(exec::Run { order, until }).await };
        Self::spawn(ctx, running, move |ran, _, _| {
            let ran = match ran.unwrap_or(Err(NotAnswered::Interrupted)) {
                Ok(answer) => answer,
                Err(error) => Err(error.into()),
            };
            Event::Answered { exec, cell, answer: cell::answer(ran, time_max) }
        });
    }

    fn publish(&self, message: Message) {
        if self.tell.try_send(message).is_err() {
            tracing::warn!("the bus takes no more of what agents have to tell");
        }
    }

    fn tell_end(&self, agent: AgentId) {
        let Some(run) = self.agents.run_of(self.ports.clock.both(), agent) else { return };
        tracing::info!(%agent, exec = %run.execution_id, status = ?run.status, "an agent ended");
        self.publish(feed::ended(&run));
        if let Some((tenant, state)) = self.agents.tenant_of(agent).zip(self.agents.state_of(agent))
        {
            // Nobody needs to listen.
            let _ = self.ports.ended.send(AgentEnded { tenant, state });
        }
    }

    fn show(&mut self, ticket: Ticket, agent: AgentId) {
        let gone = || Refusal::NoSuch { what: "agent", name: agent.to_string() };
        match self.askers.take(ticket) {
            Some(Asker::Halt(caller)) => {
                // It is halted, whether anybody waits to hear it or not.
                let _ = caller.answer(self.agents.state_of(agent).ok_or_else(gone));
            }
            Some(Asker::Await(caller)) => {
                let now = self.ports.clock.both();
                // A question that changes nothing loses nothing with its answer.
                let _ = caller.answer(self.agents.run_of(now, agent).ok_or_else(gone));
            }
            Some(Asker::Launch(_)) | None => {}
        }
    }
}

impl Shell for AgentActor {
    const NAME: &'static str = "agent";
    const TICK: Event = Event::Tick;
    type Event = Event;
    type Effect = Effect;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn decide(&mut self, event: Event) -> Vec<Effect> {
        self.agents.step(self.core.clock.now(), event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.agents.next_deadline()
    }

    fn asks(event: &Event) -> Option<Ticket> {
        match event {
            Event::Launch { ticket, .. }
            | Event::Halt { ticket, .. }
            | Event::Await { ticket, .. } => Some(*ticket),
            _ => None,
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Listen { exec, feed } => {
                let bus = Arc::clone(&self.ports.bus);
                Self::spawn(ctx, feed::listen(bus, feed), move |heard, actor, ctx| match heard {
                    Ok(Ok(heard)) => {
                        actor.hear(exec, heard, ctx);
                        Event::Listening { exec }
                    }
                    Ok(Err(error)) => Event::NotListening { exec, why: error.to_string() },
                    Err(panic) => Event::NotListening { exec, why: panic.to_string() },
                });
            }
            Effect::Replay { exec, ask } => {
                let market = self.ports.market.clone();
                let asking = async move { market.ask_settled(ask).await };
                Self::spawn(ctx, asking, move |started, _, _| {
                    match started.unwrap_or(Err(NotAnswered::Interrupted)) {
                        Ok(Ok(started)) => Event::Replaying { exec, started: Box::new(started) },
                        Ok(Err(refusal)) => Event::NotReplaying { exec, refusal },
                        // Asked again, it is the same replay.
                        Err(_) => Event::NotReplaying { exec, refusal: Refusal::Restarting },
                    }
                });
            }
            Effect::Fetch { exec, feed, node, after, symbols } => {
                let (bus, clock) = (Arc::clone(&self.ports.bus), self.ports.clock);
                let fetching = feed::fetch(bus, clock, feed, node, after, symbols);
                Self::spawn(ctx, fetching, move |fetched, _, _| match fetched {
                    Ok(Ok(bars)) => Event::Fetched { exec, bars: Box::new(bars) },
                    Ok(Err(why)) => Event::NotFetched { exec, why },
                    Err(_) => Event::NotFetched { exec, why: policy::NoBars::Later },
                });
            }
            Effect::Cell { exec, cell, order, work } => self.run(exec, cell, &order, &work, ctx),
            Effect::Leave { exec } => {
                if let Some(ear) = self.ears.remove(&exec) {
                    ctx.cancel_future(ear);
                }
            }
            Effect::Tell { fills } => {
                for fill in fills {
                    self.publish(feed::filled(&fill));
                }
            }
            Effect::Ended { agent } => self.tell_end(agent),
            Effect::Launched { ticket, exec } => {
                if let Some(Asker::Launch(caller)) = self.askers.take(ticket) {
                    // It works on, whether anybody waits to hear it or not.
                    let _ = caller.answer(Ok(Launched { exec }));
                }
            }
            Effect::Show { ticket, agent } => self.show(ticket, agent),
            Effect::Refuse { ticket, refusal } => self.refuse(ticket, refusal),
        }
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        // Whoever hung up needs no refusal.
        match self.askers.take(ticket) {
            Some(Asker::Launch(caller)) => drop(caller.answer(Err(refusal))),
            Some(Asker::Halt(caller)) => drop(caller.answer(Err(refusal))),
            Some(Asker::Await(caller)) => drop(caller.answer(Err(refusal))),
            None => {}
        }
    }
}

impl Answering for AgentActor {
    type Asker = Asker;

    fn askers(&mut self) -> &mut Askers<Asker> {
        &mut self.askers
    }
}

impl Actor for AgentActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(told) = self.told.take() {
            let telling = feed::tell(Arc::clone(&self.ports.bus), told);
            ctx.spawn(fut::wrap_future(telling));
        }
    }
}

impl Handler<Asked<Launch>> for AgentActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Launch>, ctx: &mut Context<Self>) {
        let (Launch { order }, caller) = asked.open();
        let span = caller.span().clone();
        self.ask(Asker::Launch(caller), &span, ctx, |ticket| Event::Launch { ticket, order });
    }
}

impl Handler<Asked<Halt>> for AgentActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Halt>, ctx: &mut Context<Self>) {
        let (Halt { tenant, agent }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Halt { ticket, tenant, agent };
        self.ask(Asker::Halt(caller), &span, ctx, event);
    }
}

impl Handler<Asked<Await>> for AgentActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Await>, ctx: &mut Context<Self>) {
        let (Await { tenant, exec, until }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Await { ticket, tenant, exec, until };
        self.ask(Asker::Await(caller), &span, ctx, event);
    }
}

impl Handler<Asked<Look>> for AgentActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Look>, _: &mut Context<Self>) {
        let (Look { tenant, agent }, caller) = asked.open();
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(self.agents.look(&tenant, agent));
    }
}

impl Handler<Asked<LookAll>> for AgentActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<LookAll>, _: &mut Context<Self>) {
        let (LookAll(tenant), caller) = asked.open();
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(self.agents.look_all(&tenant));
    }
}

impl Handler<Asked<ReadFills>> for AgentActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<ReadFills>, _: &mut Context<Self>) {
        let (ReadFills { tenant, agent, from, limit }, caller) = asked.open();
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(self.agents.fills(&tenant, agent, from, limit));
    }
}

impl Handler<Signal> for AgentActor {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}
