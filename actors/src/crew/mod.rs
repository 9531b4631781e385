//! What deployments and swarms have in common. A member of either is a leased sandbox, what was
//! set up in it and, if one is wanted, an agent that runs there. Here is how one is made and how
//! it leaves; when, is decided by the policies of those who keep them.

pub mod agents;
pub mod guard;
mod records;
mod restoring;
mod work;

use std::collections::BTreeMap;
use std::time::Duration;

use sandpit_messages::envelope::Tenant;
use serde_json::{Map, Value};

pub(crate) use records::Records;
pub use records::bucket;
pub(crate) use restoring::Restoring;
pub(crate) use work::{Placing, furnish, place, retire};

/// A key of a sandbox's metadata that begins so is written by the node alone.
pub const RESERVED: &str = "sandpit.";

/// What a member is made of. Valid already.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Whose it is.
    pub tenant: Tenant,
    /// The template of its sandbox.
    pub template: String,
    /// Memory in MiB; without it, the template's.
    pub memory_mb: Option<u32>,
    /// Processors; without it, the template's.
    pub cpu_count: Option<u32>,
    /// How long its sandbox lives. Nothing else ends it for lack of use: whoever keeps it says
    /// when it is not needed.
    pub lifetime: Duration,
    /// Environment of what runs in it.
    pub env: BTreeMap<String, String>,
    /// Files written before anything runs, below `/home/user`.
    pub files: BTreeMap<String, String>,
    /// Lines for `/bin/sh -c`, run before the agent.
    pub setup: Vec<String>,
    /// The program that runs in it.
    pub agent: Option<AgentPlan>,
}

/// The agent of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentPlan {
    /// Which program.
    pub agent_type: String,
    /// What it looks at or trades.
    pub symbols: Vec<String>,
    /// What the program takes.
    pub params: Map<String, Value>,
}
