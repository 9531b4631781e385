//! What others ask about agents, and what they are told.

use std::sync::Arc;

use sandpit_messages::agent::{AgentRun, Fills};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, ExecId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;

use super::order::Order;
use super::policy::AgentState;
use crate::supervise::Question;

/// Starts an agent in a sandbox that its tenant holds. Answered when it listens to its feed, so
/// that it misses no bar published from then on.
///
/// An agent that has ended may be launched again under its id, in another sandbox: it goes on with
/// its account, its feed and its history.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What is wanted; see [`Order::check`].
    pub order: Arc<Order>,
}

impl Question for Launch {
    type Answer = Result<Launched, Refusal>;
}

/// An agent at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// This run of it.
    pub exec: ExecId,
}

/// Stops an agent. Its account stays as it is, its positions open; the sandbox stays its holder's.
#[derive(Clone, Debug)]
pub struct Halt {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub agent: AgentId,
}

impl Question for Halt {
    type Answer = Result<AgentState, Refusal>;
}

/// Asks how an agent is.
#[derive(Clone, Debug)]
pub struct Look {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub agent: AgentId,
}

impl Question for Look {
    type Answer = Result<AgentState, Refusal>;
}

/// Asks for all agents of a tenant: those that run, and those that ended and are remembered.
#[derive(Clone, Debug)]
pub struct LookAll(pub Tenant);

impl Question for LookAll {
    type Answer = Vec<AgentState>;
}

/// Asks what came of a run, as clients are told; waits for its end until `until`.
#[derive(Clone, Debug)]
pub struct Await {
    /// Whose.
    pub tenant: Tenant,
    /// Which run.
    pub exec: ExecId,
    /// How long the caller is ready to wait; a moment that has passed asks how it is now.
    pub until: Moment,
}

impl Question for Await {
    type Answer = Result<AgentRun, Refusal>;
}

/// Asks what an agent traded.
#[derive(Clone, Debug)]
pub struct ReadFills {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub agent: AgentId,
    /// Only fills with this number or a higher one.
    pub from: u64,
    /// Most fills in the answer.
    pub limit: usize,
}

impl Question for ReadFills {
    type Answer = Result<Fills, Refusal>;
}

/// Told to whoever listens ([`crate::node::Node::agents_ended`]) when a run came to its end. Who
/// lags behind asks with [`LookAll`].
#[derive(Clone, Debug, PartialEq)]
pub struct AgentEnded {
    /// Whose.
    pub tenant: Tenant,
    /// How it is now.
    pub state: AgentState,
}
