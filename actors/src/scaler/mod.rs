//! Keeps deployments at their size: the shell around [`policy::Scaler`].

pub mod policy;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_stream;
use actix::prelude::*;
use futures_util::stream;
use policy::{Answer, Effect, Event, Limits, Order, Scaler, Seen, View};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{DeploymentId, NodeId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::Provider;
use tokio::sync::broadcast::error::RecvError;
use tracing::{Instrument, info_span};

use crate::bus::Kv;
use crate::clock::Clock;
use crate::crew::agents::{AgentStage, Agents};
use crate::crew::{Placing, Records, furnish, place, retire};
use crate::exec::ExecActor;
use crate::pool::policy::Held;
use crate::pool::{GetHeld, PoolActor, Retire};
use crate::shell::{Answering, Askers, Core, Shell, Ticket};
use crate::supervise::{ActorRef, Asked, Caller, Life, Question, Signal, heed};
pub use record::{LIFETIME_MAX, plan};

/// What a sandbox of a deployment carries in its metadata: the deployment's id.
const LABEL: &str = "sandpit.deployment";

/// And the life of the scaler that made it.
const LIFE: &str = "sandpit.scaler";

/// Asks for a deployment; answered when it is up, when it cannot be, or as it stands at `until`.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// What is wanted.
    pub order: Arc<Order>,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Deploy {
    type Answer = Result<View, Refusal>;
}

/// Asks for another size; answered when it is reached, or as it stands at `until`.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub deployment: DeploymentId,
    /// How many instances.
    pub count: usize,
    /// Whether the load rules have a say from here on.
    pub auto_scale: bool,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Scale {
    type Answer = Result<Answer, Refusal>;
}

/// Asks for the end of a deployment; answers how many instances begin to leave.
#[derive(Clone, Debug)]
pub struct Undeploy {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub deployment: DeploymentId,
    /// How long what runs in it may take to end; without it, as long as ever.
    pub grace: Option<Duration>,
}

impl Question for Undeploy {
    type Answer = Result<usize, Refusal>;
}

/// Asks how deployments are.
#[derive(Clone, Debug)]
pub struct GetViews {
    /// Whose.
    pub tenant: Tenant,
    /// Which; without it, all.
    pub deployment: Option<DeploymentId>,
}

impl Question for GetViews {
    type Answer = Result<Vec<View>, Refusal>;
}

/// Asks how the agents of all swarms are.
#[derive(Clone, Debug)]
pub struct GetSeats;

impl Question for GetSeats {
    type Answer = Result<Vec<View>, Refusal>;
}

/// Changes nothing from here on: the node is leaving.
#[derive(Clone, Debug)]
pub struct Close;

impl Question for Close {
    type Answer = ();
}

/// What the scaler needs of its node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// This node.
    pub node: NodeId,
    /// Who has the sandboxes.
    pub pool: ActorRef<PoolActor>,
    /// Who runs what sets them up.
    pub exec: ActorRef<ExecActor>,
    /// Who runs agents; without it, no deployment has one.
    pub agents: Option<Arc<dyn Agents>>,
    /// Says which sandboxes ended by themselves.
    pub provider: Arc<dyn Provider>,
    /// Where deployments are written down (see [`crate::crew::bucket`]); without it, they end with
    /// the process.
    pub records: Option<Arc<dyn Kv>>,
}

#[derive(Debug)]
pub(crate) enum Asker {
    Deploy(Caller<Result<View, Refusal>>),
    Scale(Caller<Result<Answer, Refusal>>),
    Undeploy(Caller<Result<usize, Refusal>>),
}

/// The actor.
#[derive(Debug)]
pub struct ScalerActor {
    core: Core,
    scaler: Scaler,
    /// Effects of the recovery, until the actor has started.
    first: Vec<Effect>,
    ports: Ports,
    placing: Placing,
    records: Records,
    askers: Askers<Asker>,
}

impl ScalerActor {
    /// The next incarnation. `seed` must differ from life to life.
    pub fn new(life: Life, limits: Limits, ports: Ports, seed: [u8; 32]) -> Self {
        let (scaler, first) = Scaler::recover(limits, ports.clock.now(), seed);
        let Ports { clock, pool, exec, agents, .. } = ports.clone();
        Self {
            core: Core::new(life, ports.clock),
            scaler,
            first,
            placing: Placing { clock, pool, exec, agents },
            records: Records::new(ports.records.clone(), ports.node, "deployment"),
            ports,
            askers: Askers::default(),
        }
    }

    fn life(&self) -> String {
        format!("{:?}", self.core.life.incarnation())
    }

    /// Agents that failed are found where it is looked whether sandboxes are there.
    fn look_at_agents(&self, ctx: &mut Context<Self>) {
        let Some(agents) = self.ports.agents.clone() else { return };
        for tenant in self.scaler.tenants_with_agents() {
            let agents = Arc::clone(&agents);
            let looking = tokio::task::spawn_local(async move { agents.look(tenant).await });
            let done = looking.into_actor(self).map(|seen, actor: &mut Self, ctx| {
                for (agent, view) in seen.unwrap_or_default() {
                    if let AgentStage::Failed { why } = view.stage {
                        actor.step(Event::AgentFailed { agent, why }, ctx);
                    }
                }
            });
            ctx.spawn(done);
        }
    }

    /// Does `work` on a task of its own, and takes what came of it as an event.
    fn spawn<T: 'static>(
        &self,
        work: impl Future<Output = T> + 'static,
        name: &'static str,
        ctx: &mut Context<Self>,
        event: impl FnOnce(Result<T, Refusal>) -> Event + 'static,
    ) {
        let span = info_span!(parent: None, "scaler", sandpit.operation = name);
        let work = tokio::task::spawn_local(work.instrument(span));
        let done = work.into_actor(self).map(|joined, actor: &mut Self, ctx| {
            // A panic in it is a failed call and not a dead actor.
            let outcome = joined.map_err(|panic| {
                tracing::error!(%panic, "a task of the scaler panicked");
                Refusal::Fault
            });
            actor.step(event(outcome), ctx);
        });
        ctx.spawn(done);
    }

    // What was changed stays changed, whether anybody waits to hear it or not.
    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        match (self.askers.take(ticket), answer) {
            (Some(Asker::Deploy(caller)), Answer::Deployed(view)) => {
                drop(caller.answer(Ok(view)));
            }
            (Some(Asker::Scale(caller)), answer @ Answer::Scaled { .. }) => {
                drop(caller.answer(Ok(answer)));
            }
            (Some(Asker::Undeploy(caller)), Answer::Undeployed { stopped }) => {
                drop(caller.answer(Ok(stopped)));
            }
            (asker, answer) => tracing::error!(?asker, ?answer, "an answer to another question"),
        }
    }
}

fn flat<T>(outcome: Result<Result<T, Refusal>, Refusal>) -> Result<T, Refusal> {
    outcome.and_then(|inner| inner)
}

fn seen(held: Held, life: &str) -> Seen {
    Seen {
        sandbox: held.sandbox,
        tenant: held.order.tenant.clone(),
        last_activity: held.last_activity,
        running: held.running,
        stray: held.order.metadata.get(LIFE).is_some_and(|made_by| made_by != life),
    }
}

impl Shell for ScalerActor {
    const NAME: &'static str = "scaler";
    const TICK: Event = Event::Tick;
    type Event = Event;
    type Effect = Effect;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn decide(&mut self, event: Event) -> Vec<Effect> {
        self.scaler.step(self.core.clock.both(), event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.scaler.next_deadline()
    }

    fn asks(event: &Event) -> Option<Ticket> {
        match event {
            Event::Deploy { ticket, .. }
            | Event::Scale { ticket, .. }
            | Event::Undeploy { ticket, .. } => Some(*ticket),
            _ => None,
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let (placing, records) = (self.placing.clone(), self.records.clone());
        match effect {
            Effect::Restore => {
                let reading = async move { record::read(&records).await };
                self.spawn(reading, "scaler.restore", ctx, |read| match read {
                    Ok(Ok(records)) => Event::Restored { records },
                    Ok(Err(_)) | Err(_) => Event::NotRestored,
                });
            }
            Effect::Write { deployment, record } => {
                let writing = async move {
                    match record {
                        Some(record) => record::write(&records, deployment, &record).await,
                        None => records.remove(deployment.as_str()).await,
                    }
                };
                self.spawn(writing, "scaler.write", ctx, move |written| match flat(written) {
                    Ok(()) => Event::Written { deployment },
                    Err(refusal) => Event::NotWritten { deployment, refusal },
                });
            }
            Effect::Place { member, order, until } => {
                let name = format!("{}-{}", order.template_name, member.number);
                let label = (LABEL.to_owned(), member.deployment.to_string());
                let metadata = BTreeMap::from([label, (LIFE.to_owned(), self.life())]);
                let placing =
                    async move { place(&placing, &order.plan, name, metadata, until).await };
                self.spawn(placing, "scaler.place", ctx, move |placed| match flat(placed) {
                    Ok(granted) => Event::Placed { member, sandbox: granted.sandbox },
                    Err(refusal) => Event::NotPlaced { member, refusal },
                });
            }
            Effect::Furnish { member, sandbox, agent, order } => {
                let furnishing =
                    async move { furnish(&placing, &order.plan, sandbox, agent).await };
                self.spawn(furnishing, "scaler.furnish", ctx, move |done| match flat(done) {
                    Ok(()) => Event::Furnished { member },
                    Err(refusal) => Event::NotFurnished { member, refusal },
                });
            }
            Effect::Retire { member, sandbox, agent, order, drained } => {
                let leaving = async move {
                    let tenant = order.plan.tenant.clone();
                    retire(&placing, tenant, sandbox, agent, drained).await
                };
                self.spawn(leaving, "scaler.retire", ctx, move |gone| {
                    if !matches!(gone, Ok(true)) {
                        tracing::warn!(%sandbox, "not verified to be gone; the reaper goes on");
                    }
                    Event::Left { member }
                });
            }
            Effect::Dismiss { tenant, sandbox, drained } => {
                tracing::warn!(%sandbox, "left over from an earlier life of the scaler");
                let pool = self.ports.pool.clone();
                let question = Retire { tenant, sandbox, drained };
                // Nobody waits for it: it leaves in its own time.
                tokio::task::spawn_local(async move { pool.ask_settled(question).await });
            }
            Effect::Look { look } => {
                let pool = self.ports.pool.clone();
                let looking = async move { pool.ask_settled(GetHeld).await };
                let life = self.life();
                self.spawn(looking, "scaler.look", ctx, move |held| match held {
                    Ok(Ok(held)) => {
                        let seen = held.into_iter().map(|held| seen(held, &life)).collect();
                        Event::Looked { look, seen }
                    }
                    Ok(Err(_)) | Err(_) => Event::NotLooked { look },
                });
                self.look_at_agents(ctx);
            }
            Effect::Answer { ticket, answer } => self.answer(ticket, answer),
            Effect::Refuse { ticket, refusal } => self.refuse(ticket, refusal),
        }
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        match self.askers.take(ticket) {
            Some(Asker::Deploy(caller)) => drop(caller.answer(Err(refusal))),
            Some(Asker::Scale(caller)) => drop(caller.answer(Err(refusal))),
            Some(Asker::Undeploy(caller)) => drop(caller.answer(Err(refusal))),
            None => (),
        }
    }
}

impl Answering for ScalerActor {
    type Asker = Asker;

    fn askers(&mut self) -> &mut Askers<Asker> {
        &mut self.askers
    }
}

impl Actor for ScalerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let endings = stream::unfold(self.ports.provider.endings(), |mut endings| async move {
            loop {
                match endings.recv().await {
                    Ok(ending) => return Some((ending.sandbox, endings)),
                    // What was missed is found by looking.
                    Err(RecvError::Lagged(_)) => (),
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let heard = wrap_stream(endings).map(|sandbox: SandboxId, actor: &mut Self, ctx| {
            actor.step(Event::Died { sandbox }, ctx);
        });
        ctx.spawn(heard.finish());
        let first = std::mem::take(&mut self.first);
        self.carry_out_all(first, ctx);
    }
}

impl Handler<Asked<Deploy>> for ScalerActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Deploy>, ctx: &mut Context<Self>) {
        let (Deploy { order, until }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Deploy { ticket, order, until };
        self.ask(Asker::Deploy(caller), &span, ctx, event);
    }
}

impl Handler<Asked<Scale>> for ScalerActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Scale>, ctx: &mut Context<Self>) {
        let (Scale { tenant, deployment, count, auto_scale, until }, caller) = asked.open();
        let span = caller.span().clone();
        self.ask(Asker::Scale(caller), &span, ctx, |ticket| Event::Scale {
            ticket,
            tenant,
            deployment,
            count,
            auto_scale,
            until,
        });
    }
}

impl Handler<Asked<Undeploy>> for ScalerActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Undeploy>, ctx: &mut Context<Self>) {
        let (Undeploy { tenant, deployment, grace }, caller) = asked.open();
        let span = caller.span().clone();
        let event = |ticket| Event::Undeploy { ticket, tenant, deployment, grace };
        self.ask(Asker::Undeploy(caller), &span, ctx, event);
    }
}

impl Handler<Asked<GetViews>> for ScalerActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetViews>, _: &mut Context<Self>) {
        let (GetViews { tenant, deployment }, caller) = asked.open();
        // A question that changes nothing loses nothing with its answer.
        let _ = caller.answer(self.scaler.views(self.ports.clock.now(), &tenant, deployment));
    }
}

impl Handler<Asked<GetSeats>> for ScalerActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<GetSeats>, _: &mut Context<Self>) {
        let (GetSeats, caller) = asked.open();
        let _ = caller.answer(self.scaler.seats(self.ports.clock.now()));
    }
}

impl Handler<Asked<Close>> for ScalerActor {
    type Result = ();

    fn handle(&mut self, asked: Asked<Close>, ctx: &mut Context<Self>) {
        let (Close, caller) = asked.open();
        self.step(Event::Close, ctx);
        // The node ends without it too.
        let _ = caller.answer(());
    }
}

impl Handler<Signal> for ScalerActor {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}
