//! Which agents a swarm has, and how it comes to have more or fewer.
//!
//! The rule it keeps: a swarm never has more agents than it was made for, and once it is shut down
//! it is told to be gone only when every sandbox of it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, ApprovalId, DeploymentId, SandboxId, SwarmId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::swarm::{AgentStatus, ScaleMode, Strategy, Topology};
use sandpit_messages::time::{Moment, Now, WallTime};

use crate::crew::guard::{Guard, Held};
use crate::crew::{Plan, Restoring};
use crate::shell::Ticket;
use history::History;
use size::{Scaling, Stopping};

pub mod history;
mod size;
#[cfg(test)]
mod tests;

/// What swarms may be. Valid already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most swarms that are not shut down.
    pub swarms_max: usize,
    /// Swarms that were shut down and are remembered.
    pub stopped_max: usize,
    /// Agents of one step of a gradual change of size.
    pub step: usize,
    /// From one such step to the next.
    pub step_pause: Duration,
    /// Who waits for another size is told after this long how things stand.
    pub told_after: Duration,
    /// How often it is looked how the agents are.
    pub look_period: Duration,
    /// When something that failed is tried again.
    pub retry_pause: Duration,
    /// An adaptive change of size goes no further while more of 100 executions fail.
    pub errors_max_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            swarms_max: 16,
            stopped_max: 64,
            step: 2,
            step_pause: Duration::from_secs(5),
            told_after: Duration::from_secs(10),
            look_period: Duration::from_secs(1),
            retry_pause: Duration::from_millis(500),
            errors_max_percent: 5,
        }
    }
}

/// What an adaptive change of size judges by.
const ERRORS_OVER: Duration = Duration::from_secs(60);

/// A swarm that is wanted. Valid already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whose.
    pub tenant: Tenant,
    /// What it is called; without it, its id.
    pub name: Option<String>,
    /// Who may talk to whom.
    pub topology: Topology,
    /// Which agent gets a task.
    pub strategy: Strategy,
    /// Most agents.
    pub max_agents: usize,
    /// Whether they are to share memory.
    pub shared_memory: bool,
    /// Whether the load rules may change its size.
    pub auto_scale: bool,
}

/// What survives a restart. Its agents are deployments of one, which have records of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was asked for.
    pub order: Arc<Order>,
    /// When.
    pub created: WallTime,
    /// How it was shut down, if it was.
    pub stopped: Option<Stopped>,
}

/// The end of a swarm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stopped {
    /// When.
    pub at: WallTime,
    /// Agents that it had.
    pub agents: usize,
    /// Whether their last state is below.
    pub saved: bool,
    /// Trades on their paper accounts; `None` if none had one.
    pub trades: Option<u64>,
    /// Profit and loss on those, in dollars.
    pub pnl: Option<f64>,
}

/// An agent of a swarm, as it was last seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Who.
    pub agent: AgentId,
    /// The deployment of one that keeps it.
    pub deployment: DeploymentId,
    /// What it is made of.
    pub plan: Arc<Plan>,
    /// What it is doing.
    pub status: AgentStatus,
    /// Where, while it has a place.
    pub sandbox: Option<SandboxId>,
    /// Since when it belongs to the swarm.
    pub deployed: WallTime,
    /// Trades on its paper account; `None` if it has none.
    pub trades: Option<u64>,
    /// Profit and loss on that, in dollars after fees.
    pub pnl: Option<f64>,
    /// When its program was last heard.
    pub heartbeat: Option<WallTime>,
    /// Why it failed last.
    pub error: Option<String>,
}

impl Member {
    /// Which program, as it was asked for.
    pub fn agent_type(&self) -> &str {
        self.plan.agent.as_ref().map_or("", |agent| &agent.agent_type)
    }

    fn stays(&self) -> bool {
        self.status != AgentStatus::Draining
    }
}

/// Everything that can happen to swarms.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A caller wants a swarm.
    Init { ticket: Ticket, order: Arc<Order> },
    /// A caller wants an agent in it.
    Join { ticket: Ticket, swarm: SwarmId, plan: Arc<Plan>, until: Moment },
    /// A caller wants another size.
    Scale {
        ticket: Ticket,
        tenant: Tenant,
        swarm: SwarmId,
        target: usize,
        mode: ScaleMode,
        until: Moment,
    },
    /// A caller wants an end to it.
    Stop {
        ticket: Ticket,
        tenant: Tenant,
        swarm: SwarmId,
        grace: Duration,
        save: bool,
        until: Moment,
    },
    /// Answers [`Effect::Restore`].
    Restored { records: Vec<(SwarmId, Record)> },
    /// Answers [`Effect::Restore`].
    NotRestored,
    /// Answers [`Effect::Write`].
    Written { swarm: SwarmId },
    /// Answers [`Effect::Write`].
    NotWritten { swarm: SwarmId, refusal: Refusal },
    /// Answers [`Effect::Enlist`].
    Enlisted { swarm: SwarmId, ticket: Option<Ticket>, member: Box<Member> },
    /// Answers [`Effect::Enlist`].
    NotEnlisted { swarm: SwarmId, ticket: Option<Ticket>, refusal: Refusal },
    /// How all agents of all swarms are; answers [`Effect::Look`].
    Seen { members: BTreeMap<SwarmId, Vec<Member>> },
    /// Answers [`Effect::Look`].
    NotSeen,
    /// An execution ended somewhere.
    Ran { sandbox: SandboxId, took: Duration, failed: bool },
    /// The node is leaving.
    Close,
    /// The deadline is here.
    Tick,
}

/// Everything that can be wanted done.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read what was written down.
    Restore,
    /// Write it down.
    Write { swarm: SwarmId, record: Record },
    /// Take back what was written down.
    Forget { swarm: SwarmId },
    /// Have an agent made; for a caller, or for a change of size.
    Enlist {
        swarm: SwarmId,
        agent: AgentId,
        plan: Arc<Plan>,
        ticket: Option<Ticket>,
        until: Moment,
    },
    /// Have an agent leave. What it runs may end for so long.
    Dismiss { tenant: Tenant, deployment: DeploymentId, grace: Duration },
    /// Find out how all agents are.
    Look,
    /// Answer a caller.
    Answer { ticket: Ticket, answer: Answer },
    /// Refuse a caller.
    Refuse { ticket: Ticket, refusal: Refusal },
}

/// The answer when it is yes.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Event::Init`].
    Made(SwarmId, Record),
    /// To [`Event::Join`].
    Joined(Box<Member>),
    /// To [`Event::Scale`].
    Scaled(Scaled),
    /// To [`Event::Stop`].
    Stopped {
        /// As it is recorded.
        record: Record,
        /// Whether nothing of it is left.
        gone: bool,
    },
}

/// How a change of size stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaled {
    /// Agents it had.
    pub previous: usize,
    /// Agents it is to have.
    pub target: usize,
    /// Agents it has.
    pub current: usize,
    /// Whether that is done.
    pub done: bool,
    /// When the last step is due, if it is not.
    pub estimated: Option<Moment>,
    /// Why agents could not be made.
    pub failures: Vec<Refusal>,
    /// The part of the wish that waits for an operator.
    pub held: Option<Held>,
}

#[derive(Debug)]
struct Swarm {
    record: Record,
    /// Who asked for it, until its record is written.
    asked: Option<Ticket>,
    /// Whether its record is being written.
    writing: bool,
    members: Vec<Member>,
    /// Agents on their way in.
    pending: usize,
    /// Those that came while this look was under way: it may not know them.
    fresh: BTreeMap<AgentId, u64>,
    /// Those that were told to leave, whatever a look says that began before.
    leaving: BTreeSet<AgentId>,
    guard: Guard,
    scaling: Option<Scaling>,
    stopping: Option<Stopping>,
    history: History,
}

/// All swarms of this node.
#[derive(Debug)]
pub struct Swarms {
    limits: Limits,
    draw: ChaCha8Rng,
    records: Restoring,
    swarms: BTreeMap<SwarmId, Swarm>,
    looking: bool,
    looks: u64,
    next_look: Moment,
    closing: bool,
}

/// One swarm, as those see it who only look.
#[derive(Debug)]
pub struct View<'a> {
    /// What was asked for.
    pub record: &'a Record,
    /// Its agents, those that are leaving included.
    pub members: &'a [Member],
    /// Executions in their sandboxes.
    pub history: &'a History,
}

impl Swarms {
    /// The only way to begin: asking what was wanted. `seed` must differ from life to life.
    pub fn recover(limits: Limits, now: Moment, seed: [u8; 32]) -> (Self, Vec<Effect>) {
        let swarms = Self {
            limits,
            draw: ChaCha8Rng::from_seed(seed),
            records: Restoring::asked("the record of swarms"),
            swarms: BTreeMap::new(),
            looking: false,
            looks: 0,
            next_look: now,
            closing: false,
        };
        (swarms, vec![Effect::Restore])
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take_in(now, event, &mut effects);
        self.follow_up(now, &mut effects);
        effects
    }

    fn take_in(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let at = now.moment;
        match event {
            Event::Init { ticket, order } => {
                if let Err(refusal) = self.init(now, ticket, order, effects) {
                    effects.push(Effect::Refuse { ticket, refusal });
                }
            }
            Event::Join { ticket, swarm, plan, until } => {
                if let Err(refusal) = self.join(ticket, swarm, plan, until, effects) {
                    effects.push(Effect::Refuse { ticket, refusal });
                }
            }
            Event::Scale { ticket, tenant, swarm, target, mode, until } => {
                let asked = (ticket, until);
                if let Err(refusal) = self.scale(at, asked, &tenant, swarm, target, mode, effects) {
                    effects.push(Effect::Refuse { ticket, refusal });
                }
            }
            Event::Stop { ticket, tenant, swarm, grace, save, until } => {
                let asked = (ticket, until);
                if let Err(refusal) = self.stop(now, asked, &tenant, swarm, grace, save, effects) {
                    effects.push(Effect::Refuse { ticket, refusal });
                }
            }
            Event::Restored { records } => {
                if self.records.restored() {
                    for (id, record) in records {
                        self.swarms.insert(id, Swarm::new(at, record));
                    }
                }
            }
            Event::NotRestored => self.records.not_restored(at, self.limits.retry_pause),
            Event::Written { swarm: id } => self.written(id, effects),
            Event::NotWritten { swarm: id, refusal } => self.not_written(id, &refusal, effects),
            Event::Enlisted { swarm: id, ticket, member } => {
                let Some(swarm) = self.swarms.get_mut(&id) else { return };
                swarm.pending = swarm.pending.saturating_sub(1);
                // A look may have seen it before its answer came.
                if !swarm.members.iter().any(|known| known.agent == member.agent) {
                    swarm.members.push((*member).clone());
                }
                swarm.fresh.insert(member.agent, self.looks);
                swarm.note_size(at, ticket.is_some());
                if let Some(ticket) = ticket {
                    effects.push(Effect::Answer { ticket, answer: Answer::Joined(member) });
                }
            }
            Event::NotEnlisted { swarm: id, ticket, refusal } => {
                let Some(swarm) = self.swarms.get_mut(&id) else { return };
                swarm.pending = swarm.pending.saturating_sub(1);
                match (ticket, &mut swarm.scaling) {
                    (Some(ticket), _) => effects.push(Effect::Refuse { ticket, refusal }),
                    (None, Some(scaling)) => scaling.failures.push(refusal),
                    (None, None) => (),
                }
            }
            Event::Seen { members } => self.seen(at, members),
            Event::NotSeen => {
                self.looking = false;
                self.next_look = at + self.limits.retry_pause;
            }
            Event::Ran { sandbox, took, failed } => self.ran(now, sandbox, took, failed),
            Event::Close => self.closing = true,
            Event::Tick => (),
        }
    }

    fn init(
        &mut self,
        now: Now,
        ticket: Ticket,
        order: Arc<Order>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.open()?;
        let living = self.swarms.values().filter(|swarm| swarm.record.stopped.is_none()).count();
        if living >= self.limits.swarms_max {
            let (scope, setting) = ("swarms", "swarm.swarms_max");
            let (wanted, max) = (living + 1, self.limits.swarms_max);
            return Err(Refusal::OverQuota { scope, wanted, max, setting });
        }
        let id = SwarmId::minted(self.draw.random());
        let record = Record { order, created: now.wall, stopped: None };
        let mut swarm = Swarm::new(now.moment, record.clone());
        (swarm.asked, swarm.writing) = (Some(ticket), true);
        self.swarms.insert(id, swarm);
        effects.push(Effect::Write { swarm: id, record });
        Ok(())
    }

    fn join(
        &mut self,
        ticket: Ticket,
        id: SwarmId,
        plan: Arc<Plan>,
        until: Moment,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let agent = AgentId::minted(self.draw.random());
        let swarm = self.living(&plan.tenant, id)?;
        let max = swarm.record.order.max_agents;
        if swarm.size() >= max {
            let why = format!("the swarm is full: it has {max} agents, the most it was made for");
            return Err(Refusal::Conflict { scope: "swarm", why });
        }
        swarm.pending += 1;
        let ticket = Some(ticket);
        effects.push(Effect::Enlist { swarm: id, agent, plan, ticket, until });
        Ok(())
    }

    fn written(&mut self, id: SwarmId, effects: &mut Vec<Effect>) {
        let Some(swarm) = self.swarms.get_mut(&id) else { return };
        swarm.writing = false;
        if let Some(ticket) = swarm.asked.take() {
            let answer = Answer::Made(id, swarm.record.clone());
            effects.push(Effect::Answer { ticket, answer });
        }
    }

    fn not_written(&mut self, id: SwarmId, refusal: &Refusal, effects: &mut Vec<Effect>) {
        let Some(swarm) = self.swarms.get_mut(&id) else { return };
        swarm.writing = false;
        let refuse = |ticket| Effect::Refuse { ticket, refusal: refusal.clone() };
        if let Some(ticket) = swarm.asked.take() {
            effects.push(refuse(ticket));
            self.swarms.remove(&id);
            // Perhaps it was written all the same.
            effects.push(Effect::Forget { swarm: id });
        } else if let Some(stopping) = swarm.stopping.take() {
            // What is not written down is not done.
            swarm.record.stopped = None;
            effects.extend(stopping.asked.into_iter().map(|(ticket, _)| refuse(ticket)));
        }
    }

    fn seen(&mut self, now: Moment, mut members: BTreeMap<SwarmId, Vec<Member>>) {
        self.looking = false;
        self.next_look = now + self.limits.look_period;
        for (id, swarm) in &mut self.swarms {
            let before = std::mem::take(&mut swarm.members);
            swarm.members = members.remove(id).unwrap_or_default();
            let known: BTreeSet<_> = swarm.members.iter().map(|member| member.agent).collect();
            let looks = self.looks;
            swarm.fresh.retain(|agent, look| *look == looks && !known.contains(agent));
            let missed = before.into_iter().filter(|one| swarm.fresh.contains_key(&one.agent));
            swarm.members.extend(missed);
            swarm.leaving.retain(|agent| known.contains(agent));
            for member in &mut swarm.members {
                if swarm.leaving.contains(&member.agent) {
                    member.status = AgentStatus::Draining;
                }
            }
            swarm.note_size(now, false);
        }
    }

    fn ran(&mut self, now: Now, sandbox: SandboxId, took: Duration, failed: bool) {
        for swarm in self.swarms.values_mut() {
            let there = swarm.members.iter().find(|member| member.sandbox == Some(sandbox));
            if let Some(agent) = there.map(|member| member.agent) {
                return swarm.history.add(now.moment, now.wall, agent, took, failed);
            }
        }
    }

    fn open(&self) -> Result<(), Refusal> {
        if self.closing { Err(Refusal::Draining) } else { self.records.done() }
    }

    fn mine(&mut self, tenant: &Tenant, id: SwarmId) -> Result<&mut Swarm, Refusal> {
        self.open()?;
        let found = self.swarms.get_mut(&id);
        let found = found.filter(|swarm| swarm.record.order.tenant == *tenant);
        let found = found.filter(|swarm| swarm.asked.is_none());
        found.ok_or_else(|| Refusal::NoSuch { what: "swarm", name: id.to_string() })
    }

    fn living(&mut self, tenant: &Tenant, id: SwarmId) -> Result<&mut Swarm, Refusal> {
        let swarm = self.mine(tenant, id)?;
        if swarm.record.stopped.is_none() {
            return Ok(swarm);
        }
        Err(Refusal::Conflict { scope: "swarm", why: "the swarm was shut down".to_owned() })
    }

    /// One swarm, for those who only look.
    ///
    /// # Errors
    /// [`Refusal::NoSuch`], and [`Refusal::Unsettled`] before the records were read.
    pub fn view(&self, tenant: &Tenant, id: SwarmId) -> Result<View<'_>, Refusal> {
        self.records.done()?;
        let found = self.swarms.get(&id).filter(|swarm| swarm.record.order.tenant == *tenant);
        let swarm = found.ok_or_else(|| Refusal::NoSuch { what: "swarm", name: id.to_string() })?;
        let Swarm { record, members, history, .. } = swarm;
        Ok(View { record, members, history })
    }
}

impl Swarm {
    fn new(now: Moment, record: Record) -> Self {
        Self {
            record,
            asked: None,
            writing: false,
            members: Vec::new(),
            pending: 0,
            fresh: BTreeMap::new(),
            leaving: BTreeSet::new(),
            guard: Guard::new(now, 0),
            scaling: None,
            stopping: None,
            history: History::default(),
        }
    }

    /// Agents that stay, and those on their way in.
    fn size(&self) -> usize {
        self.staying() + self.pending
    }

    fn staying(&self) -> usize {
        self.members.iter().filter(|member| member.stays()).count()
    }

    fn note_size(&mut self, now: Moment, asked_for_by_name: bool) {
        let size = self.staying();
        self.guard.note(now, size);
        if asked_for_by_name {
            self.guard.approve(size);
        }
    }
}
