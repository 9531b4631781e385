//! What is known about a sandbox that has, or had, a holder.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::time::Moment;
use sandpit_sandbox::provider;

use super::stance::Stance;
use crate::shell::Ticket;

/// What a caller wants. Valid already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Who asks.
    pub tenant: Tenant,
    /// The template.
    pub template: String,
    /// What it is called; without one, its id.
    pub name: Option<String>,
    /// Memory in MiB; without it, the template's.
    pub memory_mb: Option<u32>,
    /// Processors; without it, the template's.
    pub cpu_count: Option<u32>,
    /// Lifetime from the grant.
    pub lifetime: Duration,
    /// Time without an execution after which it ends.
    pub idle_timeout: Duration,
    /// Environment of what runs in it.
    pub env: BTreeMap<String, String>,
    /// What the holder wants to find again.
    pub metadata: BTreeMap<String, String>,
    /// What becomes of it when its lifetime is over.
    pub at_expiry: AtExpiry,
}

/// What becomes of a sandbox whose lifetime is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtExpiry {
    /// It ends.
    #[default]
    End,
    /// It is paused, and ends when nobody wanted it for long.
    Pause,
}

/// A sandbox given to a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Which.
    pub sandbox: SandboxId,
    /// What it is called.
    pub name: String,
    /// Its template.
    pub template: String,
    /// What it may use.
    pub limits: provider::Limits,
    /// When it became the caller's.
    pub at: Moment,
    /// When it ends at the latest.
    pub expires: Moment,
    /// Whether it was ready before it was asked for.
    pub from_pool: bool,
    /// How long the caller waited.
    pub waited: Duration,
}

/// Leave to run something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The sandbox's template.
    pub template: String,
}

/// Why a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its holder said so.
    Terminated,
    /// What it was made for is done.
    Finished,
    /// Its holder had hung up before the grant reached it.
    Abandoned,
    /// Its time was over.
    Expired,
    /// Nothing ran in it for too long.
    Idle,
    /// It ended by itself.
    Lost,
    /// It could not be given to its holder.
    NotAdopted,
    /// It was ready for long, and nobody wanted it.
    Unused,
    /// Another template needed its place.
    Displaced,
    /// Its making did not end in time, or ended in doubt.
    NotBooted,
    /// It outlived the pool that knew its holder.
    Survived,
    /// The node is leaving.
    Closing,
}

impl Cause {
    /// As clients and metrics see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminated => "terminated",
            Self::Finished => "finished",
            Self::Abandoned => "abandoned",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Lost => "lost",
            Self::NotAdopted => "not_adopted",
            Self::Unused => "unused",
            Self::Displaced => "displaced",
            Self::NotBooted => "not_booted",
            Self::Survived => "restarted",
            Self::Closing => "draining",
        }
    }
}

/// A sandbox in its holder's hands.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) order: Arc<Order>,
    pub(super) limits: provider::Limits,
    pub(super) granted: Moment,
    pub(super) expires: Moment,
    pub(super) last_activity: Moment,
    pub(super) executions: u64,
    /// What runs in it, and by when each is over, whatever becomes of those who started it.
    pub(super) running: BTreeMap<ExecId, Moment>,
    /// Whether it runs.
    pub(super) stance: Stance,
    /// Set once nothing new may begin in it.
    pub(super) retiring: Option<Retiring>,
    /// When it is looked at next; its place in the pool's list of such moments.
    pub(super) check: Moment,
}

/// A lease that ends with the last run in it.
#[derive(Clone, Debug)]
pub(super) struct Retiring {
    /// What still runs then is ended.
    pub(super) until: Moment,
    /// Callers who wait until the sandbox is gone.
    pub(super) waiting: Vec<Ticket>,
}

impl Lease {
    /// When time alone ends it, as things are.
    pub(super) fn due(&self) -> Moment {
        let due = match &self.stance {
            Stance::Running => self.expires.min(self.idle_since() + self.order.idle_timeout),
            // Nothing runs in it that could be idle.
            Stance::Paused { .. } => self.expires,
            turning @ Stance::Turning { .. } => return turning.due().unwrap_or(self.expires),
        };
        self.retiring.as_ref().map_or(due, |retiring| due.min(retiring.until))
    }

    /// Since when nothing has run, or from when nothing can be running any more.
    pub(super) fn idle_since(&self) -> Moment {
        self.running.values().copied().fold(self.last_activity, Moment::max)
    }

    pub(super) fn name(&self, sandbox: SandboxId) -> String {
        self.order.name.clone().unwrap_or_else(|| sandbox.to_string())
    }
}

/// What the holder of a sandbox may know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which.
    pub sandbox: SandboxId,
    /// What it is called.
    pub name: String,
    /// Its template.
    pub template: String,
    /// What it may use.
    pub limits: provider::Limits,
    /// When it became its holder's.
    pub granted: Moment,
    /// When it ends at the latest.
    pub expires: Moment,
    /// When something was last known to run in it.
    pub last_activity: Moment,
    /// Executions so far.
    pub executions: u64,
    /// Whether it stands still.
    pub paused: bool,
    /// What its holder wrote there.
    pub metadata: BTreeMap<String, String>,
    /// As it was asked for.
    pub order: Arc<Order>,
    /// How and when it ended, if it did.
    pub ended: Option<(Cause, Moment)>,
}

impl Facts {
    pub(super) fn of(sandbox: SandboxId, lease: &Lease, ended: Option<(Cause, Moment)>) -> Self {
        Self {
            sandbox,
            name: lease.name(sandbox),
            template: lease.order.template.clone(),
            limits: lease.limits,
            granted: lease.granted,
            expires: lease.expires,
            last_activity: lease.last_activity,
            executions: lease.executions,
            paused: lease.stance.is_paused(),
            metadata: lease.order.metadata.clone(),
            order: Arc::clone(&lease.order),
            ended,
        }
    }
}

/// A leased sandbox, as those see it who keep many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub sandbox: SandboxId,
    /// When it became its holder's.
    pub granted: Moment,
    /// When something was last known to run in it.
    pub last_activity: Moment,
    /// Executions so far.
    pub executions: u64,
    /// Executions that run in it now.
    pub running: usize,
    /// What it may use.
    pub limits: provider::Limits,
    /// What its holder asked for.
    pub order: Arc<Order>,
}

/// The end of a sandbox, as its holder is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub sandbox: SandboxId,
    /// Why.
    pub cause: Cause,
    /// When it was verified to be gone; when its end began, as long as it is not.
    pub at: Moment,
    /// How long it was its holder's.
    pub held: Duration,
    /// Whether nothing of it is left.
    pub verified: bool,
}

/// What the reaper compares with what exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Which.
    pub sandbox: SandboxId,
    /// What the pool believes.
    pub stage: OwnedStage,
}

/// What the pool believes about one of its sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnedStage {
    /// Being made, or on the way to a caller: it may exist or not.
    Coming,
    /// Being destroyed: it may exist or not.
    Going,
    /// It exists, and nobody holds it.
    Ready,
    /// It exists, is held, and time alone ends it then.
    Leased {
        /// When.
        due: Moment,
    },
}
