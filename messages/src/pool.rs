//! The conversation about what is kept ready.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::subject::{Patience, Replay, Request, Verb};

/// "What is ready?"
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GetPool {}

/// The stock of one template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Stock {
    /// The template.
    pub template: String,
    /// What its stock answers to: changes when the template's contents do.
    pub digest: String,
    /// Kept ready beyond those leased.
    pub target: u32,
    /// Ready now.
    pub ready: u32,
    /// Being made.
    pub booting: u32,
    /// In use.
    pub leased: u32,
    /// Being destroyed.
    pub ending: u32,
    /// Callers waiting.
    pub waiting: u32,
    /// Acquires that found one ready.
    pub hits: u64,
    /// Acquires that had to wait for a boot.
    pub misses: u64,
    /// Acquires that were refused.
    pub refused: u64,
    /// Boots that failed.
    pub boot_failures: u64,
    /// Why it cannot be had, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// The results that answer for equal runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct CacheStock {
    /// Results held.
    pub entries: u32,
    /// Their size in bytes.
    pub bytes: u64,
    /// Runs answered from it.
    pub hits: u64,
    /// Runs that joined an equal one under way.
    pub joined: u64,
    /// Cacheable runs that had to run.
    pub misses: u64,
}

/// What the reaper did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Reaped {
    /// Sweeps so far.
    pub sweeps: u64,
    /// Ended because their time was over.
    pub expired: u64,
    /// Ended because nothing ran in them for too long.
    pub idle: u64,
    /// Ended because nobody owned them.
    pub orphaned: u64,
}

/// An endpoint where sandboxes are made, and what guards it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EndpointStock {
    /// Its name.
    pub endpoint: String,
    /// `closed`: every call is let through; `half-open`: one at a time; `open`: none.
    pub breaker: String,
    /// Whether new sandboxes go there.
    pub current: bool,
    /// Whether it said that it has no room.
    pub full: bool,
    /// Whether it does not accept our key.
    pub locked: bool,
    /// Sandboxes there that are known.
    pub sandboxes: u32,
    /// Sandboxes that may be there after an answer was lost, and are being destroyed.
    pub doubtful: u32,
    /// Creations under way.
    pub creating: u32,
    /// Creations that wait for a place.
    pub waiting: u32,
    /// Retries that its budget still allows.
    pub budget_left: u64,
    /// Calls, however often each was made.
    pub calls: u64,
    /// Attempts of all calls.
    pub attempts: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that repeated another one.
    pub retries: u64,
    /// Retries that the budget did not allow.
    pub retries_refused: u64,
    /// Second questions beside a slow first one.
    pub hedges: u64,
    /// Attempts refused for coming too often.
    pub throttled: u64,
    /// Times that its breaker opened.
    pub openings: u64,
}

/// What is ready, and what is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolStatus {
    /// The node that answered.
    pub node: NodeId,
    /// By template.
    pub templates: Vec<Stock>,
    /// Most sandboxes alive or booting at once on this node.
    pub total_max: u32,
    /// The result cache.
    pub cache: CacheStock,
    /// The reaper.
    pub reaper: Reaped,
    /// The endpoints where sandboxes are made, in order; none where they are made on the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointStock>,
}

impl Request for GetPool {
    type Reply = PoolStatus;
    const VERB: Verb = Verb::new("pool");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}
