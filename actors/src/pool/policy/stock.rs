//! One template: whether it can be used, what is ready of it, and who waits for it.

use std::collections::VecDeque;
use std::sync::Arc;

use sandpit_messages::id::SandboxId;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::provider::TemplateInfo;

use super::Order;
use crate::shell::Ticket;

#[derive(Debug)]
pub(super) struct Stock {
    /// Kept ready beyond those leased.
    pub(super) target: usize,
    pub(super) state: State,
    /// Ready, oldest first.
    pub(super) warm: VecDeque<(Moment, SandboxId)>,
    /// First come, first served; those sent back stand in front again.
    pub(super) waiting: VecDeque<Waiting>,
    /// Those who only want to know what it is.
    pub(super) asking: Vec<Asking>,
    pub(super) booting: usize,
    pub(super) boot_after: Moment,
    /// Why the last boot failed, if no later one succeeded.
    pub(super) last_failure: Option<String>,
    pub(super) counts: Counts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody needed it yet.
    Unprepared,
    Preparing,
    /// That failed for now; to be asked again.
    PrepareAfter(Moment),
    Usable(TemplateInfo),
    /// It cannot be used. Whoever asks after that moment has it tried again.
    Broken {
        refusal: Refusal,
        until: Moment,
    },
}

/// What happened to callers and boots since the pool began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Found one ready.
    pub hits: u64,
    /// Got one that had to be made.
    pub misses: u64,
    /// Got none.
    pub refused: u64,
    /// Boots that failed.
    pub boot_failures: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) order: Arc<Order>,
    pub(super) since: Moment,
    pub(super) until: Moment,
    /// Sandboxes that could not be given to this caller.
    pub(super) failures: u32,
    /// Whether one was ready when it asked.
    pub(super) hit: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub(super) ticket: Ticket,
    pub(super) since: Moment,
    pub(super) until: Moment,
}

impl Stock {
    pub(super) fn new(target: usize) -> Self {
        Self {
            target,
            state: State::Unprepared,
            warm: VecDeque::new(),
            waiting: VecDeque::new(),
            asking: Vec::new(),
            booting: 0,
            boot_after: Moment::START,
            last_failure: None,
            counts: Counts::default(),
        }
    }

    /// Whether anybody or anything wants it.
    pub(super) fn is_wanted(&self) -> bool {
        self.target > 0 || !self.waiting.is_empty() || !self.asking.is_empty()
    }

    pub(super) const fn is_usable(&self) -> bool {
        matches!(self.state, State::Usable(_))
    }

    /// Boots that are wanted for callers who wait.
    pub(super) fn missing_for_callers(&self) -> usize {
        if self.is_usable() { self.waiting.len().saturating_sub(self.booting) } else { 0 }
    }

    /// Boots that are wanted in all.
    pub(super) fn missing(&self) -> usize {
        let wanted = self.target + self.waiting.len();
        if self.is_usable() { wanted.saturating_sub(self.warm.len() + self.booting) } else { 0 }
    }
}
