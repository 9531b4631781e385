//! Where sandboxes exist in the simulation: what is true, whatever the policies believe.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::time::Moment;

/// How far back a list can show.
const PAST_KEPT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Cloud {
    pub(crate) alive: BTreeSet<SandboxId>,
    /// Given to a holder once. A second time would hand on what is dirty.
    pub(crate) adopted: BTreeSet<SandboxId>,
    /// Stands still.
    pub(crate) paused: BTreeSet<SandboxId>,
    /// Executions under way, and where.
    pub(crate) runs: BTreeMap<ExecId, SandboxId>,
    /// What was alive when, oldest first.
    past: VecDeque<(Moment, BTreeSet<SandboxId>)>,
}

impl Cloud {
    /// Changes what is alive, and remembers what was.
    pub(crate) fn change(&mut self, now: Moment, change: impl FnOnce(&mut BTreeSet<SandboxId>)) {
        self.past.push_back((now, self.alive.clone()));
        while self.past.front().is_some_and(|(at, _)| *at + PAST_KEPT <= now) {
            self.past.pop_front();
        }
        change(&mut self.alive);
    }

    /// What was alive `lag` ago.
    pub(crate) fn list(&self, now: Moment, lag: Duration) -> Vec<SandboxId> {
        // Of the changes since, the first one knows what was before it.
        let since = self.past.iter().find(|(at, _)| now < *at + lag);
        since.map_or(&self.alive, |(_, before)| before).iter().copied().collect()
    }
}
