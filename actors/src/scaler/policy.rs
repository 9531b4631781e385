//! How many instances a deployment has, and which of them leave.
//!
//! The rule it keeps: what is wanted is written down before it is done, and from then on there are
//! as many instances as wanted, whatever dies; what leaves is idle if any is, and takes nothing new
//! until what runs in it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, ApprovalId, DeploymentId, SandboxId};
use sandpit_messages::problem::Ran;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::{Moment, Now};

use crate::crew::Restoring;
use crate::shell::Ticket;
pub use deployment::{Counts, Member, Order, Record, Seat, Seen, Stage, View};
use deployment::{Deployment, Slot, Writing};

mod answers;
mod deployment;
mod follow;
mod load;
#[cfg(test)]
mod tests;

/// What the scaler may do. Valid already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most instances of all deployments of one tenant.
    pub instances_max: usize,
    /// Most deployments of this node.
    pub deployments_max: usize,
    /// Most instances being made at once: more would only make each of them slower.
    pub starting_max: usize,
    /// An instance whose sandbox was not leased by then is tried again.
    pub place_max: Duration,
    /// An instance that lived so long did not fail for a reason that is still there.
    pub proven: Duration,
    /// Pause after an instance could not be made, the first time.
    pub pause_min: Duration,
    /// The same after many times; it doubles.
    pub pause_max: Duration,
    /// How long what runs in an instance that leaves may take to end.
    pub drain_max: Duration,
    /// How often what is there is compared with what should be.
    pub look_period: Duration,
    /// When a record that could not be read is tried again.
    pub retry_pause: Duration,
    /// Failures that are remembered of one deployment.
    pub failures_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instances_max: 10,
            deployments_max: 64,
            starting_max: 8,
            place_max: Duration::from_secs(30),
            proven: Duration::from_secs(60),
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(60),
            drain_max: Duration::from_secs(60),
            look_period: Duration::from_secs(1),
            retry_pause: Duration::from_millis(500),
            failures_max: 8,
        }
    }
}

/// Everything that can happen to the scaler.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A caller wants a deployment and listens until `until`.
    Deploy { ticket: Ticket, order: Arc<Order>, until: Moment },
    /// A caller wants another size and listens until `until`.
    Scale {
        ticket: Ticket,
        tenant: Tenant,
        deployment: DeploymentId,
        count: usize,
        auto_scale: bool,
        until: Moment,
    },
    /// A caller wants no more of it.
    Undeploy {
        ticket: Ticket,
        tenant: Tenant,
        deployment: DeploymentId,
        /// How long what runs in it may take to end; without it, as long as ever.
        grace: Option<Duration>,
    },
    /// Answers [`Effect::Restore`].
    Restored { records: Vec<(DeploymentId, Record)> },
    /// Answers [`Effect::Restore`].
    NotRestored,
    /// Answers [`Effect::Write`].
    Written { deployment: DeploymentId },
    /// Answers [`Effect::Write`].
    NotWritten { deployment: DeploymentId, refusal: Refusal },
    /// Answers [`Effect::Place`].
    Placed { member: Member, sandbox: SandboxId },
    /// Answers [`Effect::Place`].
    NotPlaced { member: Member, refusal: Refusal },
    /// Answers [`Effect::Furnish`].
    Furnished { member: Member },
    /// Answers [`Effect::Furnish`].
    NotFurnished { member: Member, refusal: Refusal },
    /// Answers [`Effect::Retire`].
    Left { member: Member },
    /// A sandbox ended by itself.
    Died { sandbox: SandboxId },
    /// An agent's program failed.
    AgentFailed { agent: AgentId, why: String },
    /// Answers [`Effect::Look`].
    Looked { look: u64, seen: Vec<Seen> },
    /// Answers [`Effect::Look`].
    NotLooked { look: u64 },
    /// The node is leaving: nothing new.
    Close,
    /// The deadline is here.
    Tick,
}

/// Everything the scaler can want done.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read what was written down.
    Restore,
    /// Write down what is wanted, or that nothing is any more.
    Write { deployment: DeploymentId, record: Option<Arc<Record>> },
    /// Lease the sandbox of an instance.
    Place { member: Member, order: Arc<Order>, until: Moment },
    /// Set it up, and start its agent.
    Furnish { member: Member, sandbox: SandboxId, agent: Option<AgentId>, order: Arc<Order> },
    /// Let it go: ended once it is idle, at `drained` at the latest. An agent that is named is
    /// halted first.
    Retire {
        member: Member,
        sandbox: SandboxId,
        agent: Option<AgentId>,
        order: Arc<Order>,
        drained: Moment,
    },
    /// The same for a sandbox that an earlier life of this actor made.
    Dismiss { tenant: Tenant, sandbox: SandboxId, drained: Moment },
    /// Find out what is leased, and what runs in it.
    Look { look: u64 },
    /// Answer a caller.
    Answer { ticket: Ticket, answer: Answer },
    /// Refuse a caller.
    Refuse { ticket: Ticket, refusal: Refusal },
}

/// The answer when it is yes.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Event::Deploy`].
    Deployed(View),
    /// To [`Event::Scale`].
    Scaled {
        /// As it is now.
        view: View,
        /// How many it was to have before.
        previous: usize,
        /// How many came and went since.
        since: Counts,
        /// Whether another change was asked for meanwhile.
        superseded: bool,
    },
    /// To [`Event::Undeploy`].
    Undeployed {
        /// Instances whose end began with this.
        stopped: usize,
    },
}

/// The scaler's state.
#[derive(Debug)]
pub struct Scaler {
    limits: Limits,
    draw: ChaCha8Rng,
    records: Restoring,
    deployments: BTreeMap<DeploymentId, Deployment>,
    members: u64,
    looks: Looks,
    closing: bool,
}

/// Comparisons of what is there with what should be.
#[derive(Debug)]
struct Looks {
    /// Begun so far.
    begun: u64,
    /// Whether the last one is under way.
    under_way: bool,
    /// When the next begins at the latest.
    next: Moment,
    /// Whether what an earlier life made was dismissed.
    dismissed: bool,
}

impl Scaler {
    /// The only way to begin, the first time and after every restart: asking what was wanted.
    /// `seed` must differ from life to life: ids are drawn from it.
    pub fn recover(limits: Limits, now: Moment, seed: [u8; 32]) -> (Self, Vec<Effect>) {
        let looks = Looks { begun: 0, under_way: false, next: now, dismissed: false };
        let scaler = Self {
            limits,
            draw: ChaCha8Rng::from_seed(seed),
            records: Restoring::asked("the record of deployments"),
            deployments: BTreeMap::new(),
            members: 0,
            looks,
            closing: false,
        };
        (scaler, vec![Effect::Restore])
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take_in(now, event, &mut effects);
        self.follow_up(now.moment, &mut effects);
        effects
    }

    fn take_in(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let at = now.moment;
        match event {
            Event::Deploy { ticket, order, until } => {
                if let Err(refusal) = self.deploy(now, ticket, order, until, effects) {
                    effects.push(Effect::Refuse { ticket, refusal });
                }
            }
            Event::Scale { ticket, tenant, deployment, count, auto_scale, until } => {
                let asked = Asked { ticket, until };
                let scaled = self.scale(at, asked, &tenant, deployment, count, auto_scale, effects);
                if let Err(refusal) = scaled {
                    effects.push(Effect::Refuse { ticket, refusal });
                }
            }
            Event::Undeploy { ticket, tenant, deployment, grace } => {
                match self.mine(&tenant, deployment) {
                    Ok(deployment) => {
                        deployment.undeploy.push(ticket);
                        deployment.grace = grace;
                    }
                    Err(refusal) => effects.push(Effect::Refuse { ticket, refusal }),
                }
            }
            Event::Restored { records } => {
                if self.records.restored() {
                    for (id, record) in records {
                        self.deployments.insert(id, Deployment::restored(at, record));
                    }
                }
            }
            Event::NotRestored => self.records.not_restored(at, self.limits.retry_pause),
            Event::Written { deployment } => self.written(at, deployment, effects),
            Event::NotWritten { deployment, refusal } => {
                self.not_written(at, deployment, &refusal, effects);
            }
            Event::Placed { member, sandbox } => self.placed(at, member, sandbox, effects),
            Event::NotPlaced { member, refusal } => self.not_placed(at, member, refusal),
            Event::Furnished { member } => self.furnished(at, member),
            Event::NotFurnished { member, refusal } => {
                self.not_furnished(at, member, refusal, effects);
            }
            Event::Left { member } => self.left(member),
            Event::Died { sandbox } => self.died(at, sandbox),
            Event::AgentFailed { agent, why } => self.agent_failed(at, agent, why, effects),
            Event::Looked { look, seen } => self.looked(at, look, &seen, effects),
            Event::NotLooked { look } => {
                if look == self.looks.begun {
                    self.looks.under_way = false;
                    self.looks.next = at + self.limits.retry_pause;
                }
            }
            Event::Close => self.closing = true,
            Event::Tick => (),
        }
    }

    fn deploy(
        &mut self,
        now: Now,
        ticket: Ticket,
        order: Arc<Order>,
        until: Moment,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.open()?;
        let Limits { deployments_max, .. } = self.limits;
        let plain = self.deployments.values().filter(|one| one.record.order.seat.is_none()).count();
        // A swarm bounds its own.
        if order.seat.is_none() && plain >= deployments_max {
            let setting = "scaler.deployments_max";
            let (scope, wanted) = ("deployments", plain + 1);
            return Err(Refusal::OverQuota { scope, wanted, max: deployments_max, setting });
        }
        let same = |other: &Deployment| {
            let theirs = &other.record.order;
            let same = theirs.template_name == order.template_name;
            let plain = order.seat.is_none() && theirs.seat.is_none();
            other.deploying.is_some() && plain && same && theirs.plan.tenant == order.plan.tenant
        };
        if self.deployments.values().any(same) {
            let why = format!("`{}` is being deployed already", order.template_name);
            return Err(Refusal::Conflict { scope: "deployment", why });
        }
        if order.seat.is_none() {
            self.within_quota(&order.plan.tenant, None, order.instances)?;
        }
        let id = DeploymentId::minted(self.draw.random());
        let record = Record::new(order, now.wall);
        effects.push(Effect::Write { deployment: id, record: Some(Arc::new(record.clone())) });
        let asked = Asked { ticket, until };
        self.deployments.insert(id, Deployment::new(now.moment, record, asked));
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what a caller asks for, as it came")]
    fn scale(
        &mut self,
        now: Moment,
        asked: Asked,
        tenant: &Tenant,
        id: DeploymentId,
        count: usize,
        auto_scale: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.open()?;
        self.mine(tenant, id)?.changeable()?;
        self.within_quota(tenant, Some(id), count)?;
        let approval = ApprovalId::minted(self.draw.random());
        let deployment = self.mine(tenant, id)?;
        let allowed = deployment.guard.judge(now, count, approval);
        let record = Record { desired: allowed, auto_scale, ..deployment.record.clone() };
        effects.push(Effect::Write { deployment: id, record: Some(Arc::new(record.clone())) });
        deployment.writing = Some(Writing::Scale { record, asked });
        Ok(())
    }

    /// Whether a tenant may have so many in this deployment.
    fn within_quota(
        &self,
        tenant: &Tenant,
        but: Option<DeploymentId>,
        count: usize,
    ) -> Result<(), Refusal> {
        let others = self.deployments.iter();
        let others = others.filter(|(id, deployment)| {
            let order = &deployment.record.order;
            Some(**id) != but && order.seat.is_none() && order.plan.tenant == *tenant
        });
        let others: usize = others.map(|(_, deployment)| deployment.wanted()).sum();
        let (wanted, max) = (others + count, self.limits.instances_max);
        if wanted <= max {
            return Ok(());
        }
        let setting = "scaler.instances_max";
        Err(Refusal::OverQuota { scope: "instances", wanted, max, setting })
    }

    /// Whether anything may be changed.
    fn open(&self) -> Result<(), Refusal> {
        if self.closing { Err(Refusal::Draining) } else { self.records.done() }
    }

    fn mine(&mut self, tenant: &Tenant, id: DeploymentId) -> Result<&mut Deployment, Refusal> {
        self.open()?;
        let found = self.deployments.get_mut(&id);
        let found = found.filter(|deployment| deployment.record.order.plan.tenant == *tenant);
        found.ok_or_else(|| Refusal::NoSuch { what: "deployment", name: id.to_string() })
    }

    fn slot(&mut self, member: Member) -> Option<(&mut Deployment, Slot)> {
        let deployment = self.deployments.get_mut(&member.deployment)?;
        let slot = deployment.slots.get(&member).cloned()?;
        Some((deployment, slot))
    }

    /// Whose agents are to be looked at.
    pub fn tenants_with_agents(&self) -> BTreeSet<Tenant> {
        let deployments = self.deployments.values().map(|deployment| &deployment.record.order.plan);
        let with = deployments.filter(|plan| plan.agent.is_some());
        with.map(|plan| plan.tenant.clone()).collect()
    }

    /// One deployment, or all, as the tenant may see them.
    ///
    /// # Errors
    /// [`Refusal::NoSuch`], and [`Refusal::Unsettled`] before the records were read.
    pub fn views(
        &self,
        now: Moment,
        tenant: &Tenant,
        wanted: Option<DeploymentId>,
    ) -> Result<Vec<View>, Refusal> {
        self.records.done()?;
        let theirs = self.deployments.iter();
        let theirs = theirs.filter(|(id, deployment)| {
            let order = &deployment.record.order;
            let plain = order.seat.is_none();
            plain && order.plan.tenant == *tenant && wanted.is_none_or(|wanted| wanted == **id)
        });
        let views: Vec<_> = theirs.map(|(id, deployment)| deployment.view(now, *id)).collect();
        match wanted {
            Some(id) if views.is_empty() => {
                Err(Refusal::NoSuch { what: "deployment", name: id.to_string() })
            }
            _ => Ok(views),
        }
    }

    /// The agents of all swarms, each a deployment of one.
    ///
    /// # Errors
    /// [`Refusal::Unsettled`] before the records were read.
    pub fn seats(&self, now: Moment) -> Result<Vec<View>, Refusal> {
        self.records.done()?;
        let seats = self.deployments.iter();
        let seats = seats.filter(|(_, deployment)| deployment.record.order.seat.is_some());
        Ok(seats.map(|(id, deployment)| deployment.view(now, *id)).collect())
    }
}

/// Who asked, and how long they listen.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: Ticket,
    until: Moment,
}
