//! What others ask the pool, and what it answers.

use std::sync::Arc;

use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::provider::TemplateInfo;

use super::policy::{
    Allowed, Ask, Cause, Ended, Facts, Granted, Held, Order, Owned, StockView, Swept,
};
use crate::supervise::Question;

/// Asks for a sandbox, and waits for it until `until`.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// What is wanted.
    pub order: Arc<Order>,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Acquire {
    type Answer = Result<Granted, Refusal>;
}

/// Asks what a template is, and has it prepared if need be.
#[derive(Clone, Debug)]
pub struct Describe {
    /// Which.
    pub template: String,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Describe {
    type Answer = Result<TemplateInfo, Refusal>;
}

/// Says that a template can be made sandboxes of, which nobody may have known when the pool began.
#[derive(Clone, Debug)]
pub struct Learn {
    /// Which.
    pub template: String,
}

impl Question for Learn {
    type Answer = ();
}

/// Asks for leave to run something in a sandbox that the tenant holds.
#[derive(Clone, Debug)]
pub struct Use {
    /// Whose run it is.
    pub tenant: Tenant,
    /// Where.
    pub sandbox: SandboxId,
    /// The run.
    pub exec: ExecId,
    /// By when it is over, whatever happens.
    pub until: Moment,
}

impl Question for Use {
    type Answer = Result<Allowed, Refusal>;
}

/// Asks something of a lease that the tenant holds: to reach its sandbox, to end later or sooner, to
/// stand still, to go on. While a sandbox is on the way between running and paused, the question
/// waits for the outcome until `until`.
#[derive(Clone, Debug)]
pub struct AskLease {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub sandbox: SandboxId,
    /// What.
    pub ask: Ask,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for AskLease {
    type Answer = Result<Facts, Refusal>;
}

/// Says that a run is over.
#[derive(Clone, Debug)]
pub struct Used {
    /// Where it ran.
    pub sandbox: SandboxId,
    /// The run.
    pub exec: ExecId,
    /// Whether the sandbox can be used again.
    pub sandbox_usable: bool,
}

impl Question for Used {
    type Answer = ();
}

/// Ends a sandbox that the tenant holds, and waits until it is gone.
#[derive(Clone, Debug)]
pub struct Terminate {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub sandbox: SandboxId,
    /// How long the caller is ready to wait.
    pub until: Moment,
}

impl Question for Terminate {
    type Answer = Result<Ended, Refusal>;
}

/// Ends a sandbox that the tenant holds once what runs in it is over, and waits until it is gone.
/// Nothing new begins in it meanwhile.
#[derive(Clone, Debug)]
pub struct Retire {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub sandbox: SandboxId,
    /// What still runs then is ended.
    pub drained: Moment,
}

impl Question for Retire {
    type Answer = Result<Ended, Refusal>;
}

/// Gives a sandbox back without waiting for its end.
#[derive(Clone, Debug)]
pub struct Release {
    /// Which.
    pub sandbox: SandboxId,
    /// Why.
    pub cause: Cause,
}

impl Question for Release {
    type Answer = ();
}

/// Says that a sandbox should have ended. The pool looks for itself.
#[derive(Clone, Debug)]
pub struct Reap {
    /// Which.
    pub sandbox: SandboxId,
    /// Why.
    pub cause: Cause,
}

impl Question for Reap {
    type Answer = ();
}

/// Asks what a tenant may know of one sandbox.
#[derive(Clone, Debug)]
pub struct GetFacts {
    /// Who asks.
    pub tenant: Tenant,
    /// Which.
    pub sandbox: SandboxId,
}

impl Question for GetFacts {
    type Answer = Result<Facts, Refusal>;
}

/// Asks what a tenant has, and had within the last hour.
#[derive(Clone, Debug)]
pub struct ListFacts(pub Tenant);

impl Question for ListFacts {
    type Answer = Vec<Facts>;
}

/// Asks for everything the pool answers for.
#[derive(Clone, Debug)]
pub struct Inventory;

impl Question for Inventory {
    type Answer = Vec<Owned>;
}

/// Asks for everything that is leased.
#[derive(Clone, Debug)]
pub struct GetHeld;

impl Question for GetHeld {
    type Answer = Vec<Held>;
}

/// Asks what is ready.
#[derive(Clone, Debug)]
pub struct GetStocks;

impl Question for GetStocks {
    type Answer = View;
}

/// The pool, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// By template.
    pub stocks: Vec<StockView>,
    /// Being destroyed.
    pub ending: usize,
    /// Most sandboxes at once.
    pub total_max: usize,
    /// Leases that time alone ended.
    pub swept: Swept,
}

/// Ends every sandbox and makes no more; answers how many are left at `until`.
#[derive(Clone, Debug)]
pub struct Close {
    /// Until when the caller waits.
    pub until: Moment,
}

impl Question for Close {
    type Answer = usize;
}
