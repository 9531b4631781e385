//! Swarms and their agents: the shell around [`policy::Swarms`]. Each agent is a deployment of
//! one, so the scaler keeps it alive and lets it go.

pub mod policy;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_stream;
use actix::prelude::*;
use futures_util::stream;
use policy::history::Covered;
use policy::{Answer, Effect, Event, Limits, Member, Order, Record, Scaled, Swarms};
use sandpit_messages::deployment::{AgentConfiguration, Category, Configuration, InstanceStatus};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, NodeId, SwarmId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::swarm::{AgentStatus, ScaleMode};
use sandpit_messages::time::Moment;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::bus::Kv;
use crate::clock::Clock;
use crate::crew::agents::{AgentStage, AgentView, Agents};
use crate::crew::{Plan, Records};
use crate::exec::RanIn;
use crate::scaler::policy::{Order as DeploymentOrder, Seat, View as DeploymentView};
use crate::scaler::{Deploy, GetSeats, ScalerActor, Undeploy};
use crate::shell::{Answering, Askers, Core, Shell, Ticket};
use crate::supervise::{ActorRef, Asked, Caller, Life, Question, Signal, heed};

/// How often it is tried to let an agent go, and the pause between.
const DISMISS_TRIES: usize = 20;
const DISMISS_PAUSE: Duration = Duration::from_millis(500);

/// Asks for a swarm.
#[derive(Clone, Debug)]
pub struct Init(pub Arc<Order>);

impl Question for Init {
    type Answer = Result<(SwarmId, Record), Refusal>;
}

/// Asks for an agent; answered when it runs.
#[derive(Clone, Debug)]
pub struct Join {
    /// In which swarm.
    pub swarm: SwarmId,
    /// What it is made of.
    pub plan: Arc<Plan>,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Join {
    type Answer = Result<Member, Refusal>;
}

/// Asks for another size; answered when it is reached, or as it stands after a while.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub swarm: SwarmId,
    /// How many agents.
    pub target: usize,
    /// How fast.
    pub mode: ScaleMode,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Scale {
    type Answer = Result<Scaled, Refusal>;
}

/// Asks for an end; answered when nothing is left, or as it stands at `until`.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub swarm: SwarmId,
    /// How long what its agents run may take to end.
    pub grace: Duration,
    /// Whether their last state is kept.
    pub save: bool,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Stop {
    type Answer = Result<(Record, bool), Refusal>;
}

/// Asks how a swarm is.
#[derive(Clone, Debug)]
pub struct Look {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub swarm: SwarmId,
    /// How far back its executions are counted.
    pub range: Duration,
}

impl Question for Look {
    type Answer = Result<Looked, Refusal>;
}

/// How a swarm is.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What was asked for, and how it ended.
    pub record: Record,
    /// Its agents, those that are leaving included.
    pub members: Vec<Member>,
    /// Its executions.
    pub covered: Covered,
    /// Share of each agent's executions that did not fail.
    pub success: BTreeMap<AgentId, f64>,
}

/// Changes nothing from here on: the node is leaving.
#[derive(Clone, Debug)]
pub struct Close;

impl Question for Close {
    type Answer = ();
}

/// What swarms need of their node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// This node.
    pub node: NodeId,
    /// Who keeps agents alive.
    pub scaler: ActorRef<ScalerActor>,
    /// Who runs them.
    pub agents: Arc<dyn Agents>,
    /// Executions that ended.
    pub ran: broadcast::Sender<RanIn>,
    /// Where swarms are written down; without it, they end with the process.
    pub records: Option<Arc<dyn Kv>>,
}

#[derive(Debug)]
pub(crate) enum Asker {
    Init(Caller<Result<(SwarmId, Record), Refusal>>),
    Join(Caller<Result<Member, Refusal>>),
    Scale(Caller<Result<Scaled, Refusal>>),
    Stop(Caller<Result<(Record, bool), Refusal>>),
}

/// The actor.
#[derive(Debug)]
pub struct SwarmActor {
    core: Core,
    swarms: Swarms,
    /// Effects of the recovery, until the actor has started.
    first: Vec<Effect>,
    ports: Ports,
    records: Records,
    askers: Askers<Asker>,
}

impl SwarmActor {
    /// The next incarnation. `seed` must differ from life to life.
    pub fn new(life: Life, limits: Limits, ports: Ports, seed: [u8; 32]) -> Self {
        let (swarms, first) = Swarms::recover(limits, ports.clock.now(), seed);
        let records = Records::new(ports.records.clone(), ports.node, "swarm");
        let core = Core::new(life, ports.clock);
        Self { core, swarms, first, ports, records, askers: Askers::default() }
    }

    /// Does `work` on a task of its own, and takes what came of it as an event; `None` if it
    /// panicked, which is a failed call and not a dead actor.
    fn spawn<T: 'static>(
        &self,
        work: impl Future<Output = T> + 'static,
        ctx: &mut Context<Self>,
        event: impl FnOnce(Option<T>) -> Event + 'static,
    ) {
        let work = tokio::task::spawn_local(work);
        let done = work.into_actor(self).map(|joined, actor: &mut Self, ctx| {
            if let Err(panic) = &joined {
                tracing::error!(%panic, "a task of swarms panicked");
            }
            actor.step(event(joined.ok()), ctx);
        });
        ctx.spawn(done);
    }

    // What was changed stays changed, whether anybody waits to hear it or not.
    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        match (self.askers.take(ticket), answer) {
            (Some(Asker::Init(caller)), Answer::Made(id, record)) => {
                drop(caller.answer(Ok((id, record))));
            }
            (Some(Asker::Join(caller)), Answer::Joined(member)) => {
                drop(caller.answer(Ok(*member)));
            }
            (Some(Asker::Scale(caller)), Answer::Scaled(scaled)) => {
                drop(caller.answer(Ok(scaled)));
            }
            (Some(Asker::Stop(caller)), Answer::Stopped { record, gone }) => {
                drop(caller.answer(Ok((record, gone))));
            }
            (asker, answer) => tracing::error!(?asker, ?answer, "an answer to another question"),
        }
    }
}

/// What became of work that panicked.
const FAULT: Result<(), Refusal> = Err(Refusal::Fault);

/// The deployment of one that keeps an agent.
fn order(swarm: SwarmId, agent: AgentId, plan: &Arc<Plan>) -> Arc<DeploymentOrder> {
    let of = plan.agent.as_ref().map(|agent| AgentConfiguration {
        agent_type: agent.agent_type.clone(),
        symbols: agent.symbols.clone(),
        strategy_params: agent.params.clone(),
    });
    let configuration = Configuration {
        template: Some(plan.template.clone()),
        memory_mb: plan.memory_mb,
        cpu_count: plan.cpu_count,
        agent: of,
        ..Configuration::default()
    };
    Arc::new(DeploymentOrder {
        template_name: "agent".to_owned(),
        category: Category::Trading,
        configuration,
        plan: Arc::clone(plan),
        instances: 1,
        seat: Some(Seat { swarm, agent }),
    })
}

/// How all agents of all swarms are; `None` if that cannot be known now.
async fn look(
    scaler: ActorRef<ScalerActor>,
    agents: Arc<dyn Agents>,
) -> Option<BTreeMap<SwarmId, Vec<Member>>> {
    let seats = scaler.ask_settled(GetSeats).await.ok()?.ok()?;
    let mut known: BTreeMap<Tenant, BTreeMap<AgentId, AgentView>> = BTreeMap::new();
    let mut members: BTreeMap<SwarmId, Vec<Member>> = BTreeMap::new();
    for seat in seats {
        let tenant = &seat.record.order.plan.tenant;
        if !known.contains_key(tenant) {
            let all = agents.look(tenant.clone()).await;
            known.insert(tenant.clone(), all.into_iter().collect());
        }
        let agent = seat.record.order.seat.map(|seat| seat.agent);
        let view = agent.and_then(|agent| known[tenant].get(&agent));
        if let Some((swarm, member)) = member(&seat, view) {
            members.entry(swarm).or_default().push(member);
        }
    }
    Some(members)
}

/// An agent, from what the scaler and whoever runs it know.
fn member(seat: &DeploymentView, view: Option<&AgentView>) -> Option<(SwarmId, Member)> {
    let Seat { swarm, agent } = seat.record.order.seat?;
    let place = seat.instances.iter().find(|(_, status, _)| *status != InstanceStatus::Draining);
    let (status, failed) = match (place, view.map(|view| &view.stage)) {
        _ if seat.ending => (AgentStatus::Draining, None),
        (Some((_, InstanceStatus::Running, _)), Some(AgentStage::Failed { why })) => {
            (AgentStatus::Error, Some(why.clone()))
        }
        (Some((_, InstanceStatus::Running, _)), Some(AgentStage::Completed)) => {
            (AgentStatus::Completed, None)
        }
        (Some((_, InstanceStatus::Running, _)), _) => (AgentStatus::Running, None),
        (Some(_), _) => (AgentStatus::Deploying, None),
        (None, _) if seat.failures.is_empty() => (AgentStatus::Deploying, None),
        (None, _) => (AgentStatus::Error, None),
    };
    let last = seat.failures.last().map(|(_, refusal)| refusal.to_string());
    let member = Member {
        agent,
        deployment: seat.id,
        plan: Arc::clone(&seat.record.order.plan),
        status,
        sandbox: place.map(|(sandbox, ..)| *sandbox),
        deployed: seat.record.created,
        trades: view.and_then(|view| view.trades),
        pnl: view.and_then(|view| view.pnl),
        heartbeat: view.and_then(|view| view.last_heartbeat),
        error: failed.or(last),
    };
    Some((swarm, member))
}

impl Shell for SwarmActor {
    const NAME: &'static str = "swarm";
    const TICK: Event = Event::Tick;
    type Event = Event;
    type Effect = Effect;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn decide(&mut self, event: Event) -> Vec<Effect> {
        self.swarms.step(self.core.clock.both(), event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.swarms.next_deadline()
    }

    fn asks(event: &Event) -> Option<Ticket> {
        match event {
            Event::Init { ticket, .. }
            | Event::Join { ticket, .. }
            | Event::Scale { ticket, .. }
            | Event::Stop { ticket, .. } => Some(*ticket),
            _ => None,
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let (records, scaler) = (self.records.clone(), self.ports.scaler.clone());
        match effect {
            Effect::Restore => {
                let reading = async move { record::read(&records).await };
                self.spawn(reading, ctx, |read| match read {
                    Some(Ok(records)) => Event::Restored { records },
                    Some(Err(_)) | None => Event::NotRestored,
                });
            }
            Effect::Write { swarm, record } => {
                let writing = async move { record::write(&records, swarm, &record).await };
                self.spawn(writing, ctx, move |written| match written.unwrap_or(FAULT) {
                    Ok(()) => Event::Written { swarm },
                    Err(refusal) => Event::NotWritten { swarm, refusal },
                });
            }
            Effect::Forget { swarm } => {
                // One that stays is forgotten after the next restart.
                let removing = async move { records.remove(swarm.as_str()).await };
                tokio::task::spawn_local(removing);
            }
            Effect::Enlist { swarm, agent, plan, ticket, until } => {
                let order = order(swarm, agent, &plan);
                let making = async move { scaler.ask_settled(Deploy { order, until }).await };
                self.spawn(making, ctx, move |made| {
                    let fault = Err(Refusal::Fault);
                    let made = made.map_or(fault, |made| made.map_err(Refusal::from).flatten());
                    match made.map(|view| member(&view, None)) {
                        Ok(Some((_, member))) => {
                            Event::Enlisted { swarm, ticket, member: Box::new(member) }
                        }
                        Ok(None) => Event::NotEnlisted { swarm, ticket, refusal: Refusal::Fault },
                        Err(refusal) => Event::NotEnlisted { swarm, ticket, refusal },
                    }
                });
            }
            Effect::Dismiss { tenant, deployment, grace } => {
                let question = Undeploy { tenant, deployment, grace: Some(grace) };
                // Looking tells when it is gone.
                tokio::task::spawn_local(async move {
                    for _ in 0..DISMISS_TRIES {
                        match scaler.ask_settled(question.clone()).await {
                            Ok(Ok(_) | Err(Refusal::NoSuch { .. } | Refusal::Draining)) => return,
                            Ok(Err(_)) | Err(_) => tokio::time::sleep(DISMISS_PAUSE).await,
                        }
                    }
                });
            }
            Effect::Look => {
                let agents = Arc::clone(&self.ports.agents);
                self.spawn(look(scaler, agents), ctx, |seen| match seen.flatten() {
                    Some(members) => Event::Seen { members },
                    None => Event::NotSeen,
                });
            }
            Effect::Answer { ticket, answer } => self.answer(ticket, answer),
            Effect::Refuse { ticket, refusal } => self.refuse(ticket, refusal),
        }
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        match self.askers.take(ticket) {
            Some(Asker::Init(caller)) => drop(caller.answer(Err(refusal))),
            Some(Asker::Join(caller)) => drop(caller.answer(Err(refusal))),
            Some(Asker::Scale(caller)) => drop(caller.answer(Err(refusal))),
            Some(Asker::Stop(caller)) => drop(caller.answer(Err(refusal))),
            None => (),
        }
    }
}

impl Answering for SwarmActor {
    type Asker = Asker;

    fn askers(&mut self) -> &mut Askers<Asker> {
        &mut self.askers
    }
}

impl Actor for SwarmActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let ran = stream::unfold(self.ports.ran.subscribe(), |mut ran| async move {
            loop {
                match ran.recv().await {
                    Ok(one) => return Some((one, ran)),
                    // What was missed is missing in the counts, which say what they cover.
                    Err(RecvError::Lagged(_)) => (),
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let heard = wrap_stream(ran).map(|one: RanIn, actor: &mut Self, ctx| {
            let RanIn { sandbox, took, failed, .. } = one;
            actor.step(Event::Ran { sandbox, took, failed }, ctx);
        });
        ctx.spawn(heard.finish());
        let first = std::mem::take(&mut self.first);
        self.carry_out_all(first, ctx);
    }
}

impl Handler<Asked<Init>> for SwarmActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Init>, ctx: &mut Context<Self>) {
        let (Init(order), caller) = asked.open();
        let span = caller.span().clone();
        self.ask(Asker::Init(caller), &span, ctx, |ticket| Event::Init { ticket, order });
    }
}

impl Handler<Asked<Join>> for SwarmActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Join>, ctx: &mut Context<Self>) {
        let (Join { swarm, plan, until }, caller) = asked.open();
        let event = |ticket| Event::Join { ticket, swarm, plan, until };
        let span = caller.span().clone();
        self.ask(Asker::Join(caller), &span, ctx, event);
    }
}

impl Handler<Asked<Scale>> for SwarmActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Scale>, ctx: &mut Context<Self>) {
        let (Scale { tenant, swarm, target, mode, until }, caller) = asked.open();
        let event = |ticket| Event::Scale { ticket, tenant, swarm, target, mode, until };
        let span = caller.span().clone();
        self.ask(Asker::Scale(caller), &span, ctx, event);
    }
}

impl Handler<Asked<Stop>> for SwarmActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Stop>, ctx: &mut Context<Self>) {
        let (Stop { tenant, swarm, grace, save, until }, caller) = asked.open();
        let event = |ticket| Event::Stop { ticket, tenant, swarm, grace, save, until };
        let span = caller.span().clone();
        self.ask(Asker::Stop(caller), &span, ctx, event);
    }
}

impl Handler<Asked<Look>> for SwarmActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Look>, _: &mut Context<Self>) {
        let (Look { tenant, swarm, range }, caller) = asked.open();
        let now = self.ports.clock.now();
        let looked = self.swarms.view(&tenant, swarm).map(|view| Looked {
            record: view.record.clone(),
            members: view.members.to_vec(),
            covered: view.history.covered(now, range),
            success: view
                .members
                .iter()
                .filter_map(|one| Some((one.agent, view.history.success_rate(one.agent)?)))
                .collect(),
        });
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(looked);
    }
}

impl Handler<Asked<Close>> for SwarmActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Close>, ctx: &mut Context<Self>) {
        let (Close, caller) = asked.open();
        self.step(Event::Close, ctx);
        // The node ends without it too.
        let _ = caller.answer(());
    }
}

impl Handler<Signal> for SwarmActor {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}
