//! What a guard decides, for whoever counts, and how an endpoint stands, for whoever asks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::Position;
use super::retry::Why;
use crate::provider::Class;

/// One thing that was decided about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is named after what it says")]
pub enum Decision {
    /// An attempt ended: well, or with an error of this class.
    Attempted { class: Option<Class>, took: Duration },
    /// A call is made again after this pause.
    Retried { pause: Duration },
    /// A call is not made again here.
    GivenUp { why: Why },
    /// The breaker went to another position.
    Breaker { position: Position },
    /// New sandboxes go to this endpoint from now on.
    Switched,
    /// A second question was sent beside the first.
    Hedged,
    /// The second question was answered first.
    HedgeWon,
    /// A call waited so long for its turn.
    Paced { waited: Duration },
    /// Too many wait for a place already.
    Crowded,
    /// How things stand after an attempt.
    Levels { budget_left: u64, in_use: usize, waiting: usize },
}

/// The class of an error in a word.
pub const fn class_name(class: Option<Class>) -> &'static str {
    match class {
        None => "ok",
        Some(Class::Transient) => "transient",
        Some(Class::Throttled(_)) => "throttled",
        Some(Class::Quota) => "quota",
        Some(Class::Permanent) => "permanent",
        Some(Class::Unsupported) => "unsupported",
        Some(Class::Denied) => "denied",
        Some(Class::Gone) => "gone",
    }
}

impl Why {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hopeless => "hopeless",
            Self::InDoubt => "in-doubt",
            Self::Spent => "spent",
            Self::Budget => "budget",
            Self::Late => "late",
            Self::NotHere => "not-here",
        }
    }
}

/// Hears what is decided, with the name of the endpoint.
#[derive(Clone)]
pub struct Hear(Arc<Listener>);

type Listener = dyn Fn(&str, Decision) + Send + Sync;

impl Hear {
    /// Calls `hear` at each decision. It must not wait.
    pub fn new(hear: impl Fn(&str, Decision) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Nobody listens.
    pub fn silent() -> Self {
        Self::new(|_, _| ())
    }

    pub(super) fn tell(&self, endpoint: &str, decision: Decision) {
        (self.0)(endpoint, decision);
    }
}

impl fmt::Debug for Hear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hear")
    }
}

/// How an endpoint stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Its name.
    pub name: String,
    /// `closed`, `half-open` or `open`.
    pub breaker: &'static str,
    /// Whether new sandboxes go there.
    pub is_current: bool,
    /// Whether it said that it has no room.
    pub is_full: bool,
    /// Whether it does not accept our key.
    pub is_locked: bool,
    /// Sandboxes there that we know of.
    pub sandboxes: usize,
    /// Sandboxes that may be there and should not.
    pub doubtful: usize,
    /// Creations under way.
    pub in_use: usize,
    /// Creations that wait.
    pub waiting: usize,
    /// Retries that the budget still allows.
    pub budget_left: u64,
    /// What was counted since the start.
    pub counts: Counts,
}

/// What was counted at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls, however often each was made.
    pub calls: u64,
    /// Attempts of all calls.
    pub attempts: u64,
    /// Attempts that failed, of any class.
    pub failed: u64,
    /// Attempts that were another one's repetition.
    pub retries: u64,
    /// Retries that the budget did not allow.
    pub refused: u64,
    /// Second questions.
    pub hedges: u64,
    /// Attempts that the endpoint refused for coming too often.
    pub throttled: u64,
    /// Times that its breaker opened.
    pub openings: u64,
}
