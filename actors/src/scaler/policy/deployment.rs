//! What is known about one deployment, and about each of its instances.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sandpit_messages::deployment::{Category, Configuration, InstanceStatus};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, DeploymentId, SandboxId, SwarmId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::{Moment, WallTime};

use super::Asked;
use super::load::Load;
use crate::crew::Plan;
use crate::crew::guard::{Guard, Held};
use crate::shell::Ticket;

/// What is to be deployed. Valid already.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// What it is called.
    pub template_name: String,
    /// What it is for.
    pub category: Category,
    /// As it was asked for, with its preset: from it the plan is made again after a restart.
    pub configuration: Configuration,
    /// What each instance is made of.
    pub plan: Arc<Plan>,
    /// How many at first.
    pub instances: usize,
    /// Set for the agent of a swarm, which is a deployment of one.
    pub seat: Option<Seat>,
}

/// Whose place in which swarm a deployment of one keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The swarm.
    pub swarm: SwarmId,
    /// The agent. It stays the same when its sandbox is replaced.
    pub agent: AgentId,
}

/// What survives a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was asked for.
    pub order: Arc<Order>,
    /// When.
    pub created: WallTime,
    /// How many instances there are to be, or at least if the load rules have a say.
    pub desired: usize,
    /// Whether the load rules have a say.
    pub auto_scale: bool,
}

impl Record {
    pub(super) fn new(order: Arc<Order>, created: WallTime) -> Self {
        Self { desired: order.instances, order, created, auto_scale: false }
    }
}

/// One instance, from the wish for it until it has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// Numbered by one life of the scaler.
    pub number: u64,
}

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Without a sandbox; it gets one from then on.
    Vacant {
        /// When.
        after: Moment,
    },
    /// Its sandbox is being leased.
    Placing,
    /// The same, and nobody needs it any more.
    Unwanted,
    /// It is being set up.
    Furnishing {
        /// Its sandbox.
        sandbox: SandboxId,
    },
    /// It is what it should be.
    Up {
        /// Its sandbox.
        sandbox: SandboxId,
        /// Since when.
        since: Moment,
        /// The last look that began before.
        look: u64,
    },
    /// On its way out.
    Leaving {
        /// Its sandbox.
        sandbox: SandboxId,
    },
}

/// An instance's place in its deployment.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) stage: Stage,
    /// Who works there. It stays the same when the sandbox is replaced.
    pub(super) agent: Option<AgentId>,
    /// Failures in a row.
    pub(super) failures: u32,
}

/// What came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instances that came up.
    pub started: u64,
    /// Instances that left.
    pub stopped: u64,
    /// Instances replaced because their sandbox or agent died.
    pub healed: u64,
}

impl Counts {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            started: self.started - before.started,
            stopped: self.stopped - before.stopped,
            healed: self.healed - before.healed,
        }
    }
}

/// A leased sandbox, as a look found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub sandbox: SandboxId,
    /// Whose.
    pub tenant: Tenant,
    /// When something was last known to run in it.
    pub last_activity: Moment,
    /// Executions that run in it now.
    pub running: usize,
    /// Whether an earlier life of the scaler made it.
    pub stray: bool,
}

/// One deployment, as it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Which.
    pub id: DeploymentId,
    /// What was asked for.
    pub record: Record,
    /// How many instances there are to be now.
    pub desired: usize,
    /// Those that have a sandbox, oldest first.
    pub instances: Vec<(SandboxId, InstanceStatus, Option<AgentId>)>,
    /// What came and went.
    pub counts: Counts,
    /// The last failures, newest last.
    pub failures: Vec<(Option<SandboxId>, Refusal)>,
    /// The part of a wish that waits for an operator.
    pub held: Option<Held>,
    /// Whether it is on its way out.
    pub ending: bool,
}

impl View {
    /// Instances that are up or coming up.
    pub fn staying(&self) -> usize {
        let stays = |status: &InstanceStatus| *status != InstanceStatus::Draining;
        self.instances.iter().filter(|(_, status, _)| stays(status)).count()
    }

    /// Whether there are as many as wanted, all up, and none is leaving.
    pub fn is_settled(&self) -> bool {
        let running = |status: &InstanceStatus| *status == InstanceStatus::Running;
        self.instances.len() == self.desired
            && self.instances.iter().all(|(_, status, _)| running(status))
    }
}

/// What is being written down.
#[derive(Clone, Debug)]
pub(super) enum Writing {
    Deploy,
    Scale { record: Record, asked: Asked },
    Remove,
}

/// A caller who waits for another size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaling {
    pub(super) asked: Asked,
    pub(super) previous: usize,
    pub(super) before: Counts,
}

#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) record: Record,
    pub(super) desired: usize,
    pub(super) guard: Guard,
    pub(super) load: Load,
    pub(super) slots: BTreeMap<Member, Slot>,
    pub(super) writing: Option<Writing>,
    /// Who asked for it, until it is answered.
    pub(super) deploying: Option<Asked>,
    pub(super) scaling: Option<Scaling>,
    pub(super) undeploy: Vec<Ticket>,
    /// How long what runs in it may take to end when all of it ends.
    pub(super) grace: Option<Duration>,
    /// Not wanted any more: it lasts until its instances have left.
    pub(super) doomed: bool,
    /// Whether nothing of it is written down any more.
    pub(super) removed: bool,
    /// When that is tried next.
    pub(super) remove_after: Moment,
    /// When this life began to care for it.
    pub(super) began: Moment,
    pub(super) counts: Counts,
    pub(super) failures: VecDeque<(Option<SandboxId>, Refusal)>,
    /// The look after which it is known who is idle.
    pub(super) shrinks_after: Option<u64>,
}

impl Deployment {
    pub(super) fn new(now: Moment, record: Record, asked: Asked) -> Self {
        let deploying = Some(asked);
        Self { writing: Some(Writing::Deploy), deploying, ..Self::restored(now, record) }
    }

    pub(super) fn restored(now: Moment, record: Record) -> Self {
        Self {
            desired: record.desired,
            guard: Guard::new(now, record.desired.max(record.order.instances)),
            load: Load::new(now),
            slots: BTreeMap::new(),
            writing: None,
            deploying: None,
            scaling: None,
            undeploy: Vec::new(),
            grace: None,
            doomed: false,
            removed: false,
            remove_after: now,
            began: now,
            counts: Counts::default(),
            failures: VecDeque::new(),
            shrinks_after: None,
            record,
        }
    }

    /// Whether its size may be changed now.
    pub(super) fn changeable(&self) -> Result<(), Refusal> {
        let why = match (&self.writing, self.deploying) {
            _ if self.doomed || !self.undeploy.is_empty() => "it is being ended",
            (_, Some(_)) => "it is being deployed",
            (Some(_), None) => "another change of it is being written down",
            (None, None) => return Ok(()),
        };
        Err(Refusal::Conflict { scope: "deployment", why: why.to_owned() })
    }

    /// Instances that are wanted, or may be once a wish is written down.
    pub(super) fn wanted(&self) -> usize {
        match &self.writing {
            _ if self.doomed => 0,
            Some(Writing::Scale { record, .. }) => self.desired.max(record.desired),
            Some(Writing::Deploy | Writing::Remove) | None => self.desired,
        }
    }

    pub(super) fn view(&self, now: Moment, id: DeploymentId) -> View {
        let instances = self.slots.values().filter_map(|slot| {
            let (sandbox, status) = match slot.stage {
                Stage::Vacant { .. } | Stage::Placing | Stage::Unwanted => return None,
                Stage::Furnishing { sandbox } => (sandbox, InstanceStatus::Starting),
                Stage::Up { sandbox, .. } => (sandbox, InstanceStatus::Running),
                Stage::Leaving { sandbox } => (sandbox, InstanceStatus::Draining),
            };
            Some((sandbox, status, slot.agent))
        });
        View {
            id,
            record: self.record.clone(),
            desired: self.desired,
            instances: instances.collect(),
            counts: self.counts,
            failures: self.failures.iter().cloned().collect(),
            held: self.guard.held(now),
            ending: self.doomed || !self.undeploy.is_empty(),
        }
    }

    /// Instances that count towards the wish.
    pub(super) fn staying(&self) -> usize {
        let stays = |slot: &&Slot| !matches!(slot.stage, Stage::Unwanted | Stage::Leaving { .. });
        self.slots.values().filter(stays).count()
    }

    /// Instances on their way up.
    pub(super) fn starting(&self) -> usize {
        let starts = |slot: &&Slot| {
            matches!(slot.stage, Stage::Placing | Stage::Unwanted | Stage::Furnishing { .. })
        };
        self.slots.values().filter(starts).count()
    }

    pub(super) fn up(&self) -> usize {
        self.slots.values().filter(|slot| matches!(slot.stage, Stage::Up { .. })).count()
    }

    /// Whether everything that is missing was tried, and failed.
    pub(super) fn is_exhausted(&self) -> bool {
        let tried = |slot: &Slot| match slot.stage {
            Stage::Vacant { .. } => slot.failures > 0,
            Stage::Up { .. } => true,
            Stage::Placing | Stage::Unwanted | Stage::Furnishing { .. } => false,
            Stage::Leaving { .. } => true,
        };
        self.staying() == self.desired && self.slots.values().all(tried)
    }
}
