//! What should not exist any more, found by comparing what is with what is owned.
//!
//! The rule it keeps: nothing is destroyed on one look. What nobody owned in two looks, far enough
//! apart for a slow list and for a creation under way, belongs to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sandpit_messages::id::SandboxId;
use sandpit_messages::time::Moment;

use crate::pool::policy::{Cause, Owned, OwnedStage};

#[cfg(test)]
mod tests;

/// How the reaper looks. Valid already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From one look to the next, when nobody asks for one.
    pub period: Duration,
    /// Least time between two looks, however often somebody asks.
    pub pause: Duration,
    /// Time between two looks at the same contradiction before it is believed.
    pub grace: Duration,
    /// A look that took longer has failed.
    pub look_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(30),
            pause: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            look_max: Duration::from_secs(10),
        }
    }
}

/// Everything that can happen to the reaper.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody thinks that there is something to find.
    Nudged,
    /// Answers [`Effect::Look`] with the same number: what the provider has, and what the pool
    /// answered *after* that was known.
    Seen { look: u64, existing: Vec<SandboxId>, owned: Vec<Owned> },
    /// Answers [`Effect::Look`].
    NotSeen { look: u64 },
    /// The deadline is here.
    Tick,
}

/// Everything the reaper can want done.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out what exists, then what is owned.
    Look { look: u64 },
    /// Destroy what nobody owns.
    Destroy { sandbox: SandboxId },
    /// Tell the pool that one of its own should have ended.
    Reap { sandbox: SandboxId, cause: Cause },
}

/// The reaper's state: what it has seen once.
#[derive(Debug)]
pub struct Reaper {
    limits: Limits,
    stage: Stage,
    /// Ordinal of the last look.
    looks: u64,
    /// Exist and are not owned, since when.
    orphans: BTreeMap<SandboxId, Moment>,
    /// Are owned and do not exist, since when.
    missing: BTreeMap<SandboxId, Moment>,
    counts: Counts,
}

/// What the reaper did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Looks that ended.
    pub sweeps: u64,
    /// Destroyed because nobody owned them.
    pub orphaned: u64,
    /// Found to be over their time by then.
    pub overdue: u64,
    /// Owned, but not there any more.
    pub lost: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Waiting for the answer, until then.
    Looking { until: Moment },
    /// The last look ended then, and the next comes at the latest by its period.
    Waiting { since: Moment, nudged: bool },
}

impl Reaper {
    /// Begins with a look, knowing nothing: what was seen once before a restart is seen again.
    pub fn recover(limits: Limits, now: Moment) -> (Self, Vec<Effect>) {
        let reaper = Self {
            limits,
            stage: Stage::Looking { until: now + limits.look_max },
            looks: 1,
            orphans: BTreeMap::new(),
            missing: BTreeMap::new(),
            counts: Counts::default(),
        };
        (reaper, vec![Effect::Look { look: 1 }])
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Nudged => {
                if let Stage::Waiting { nudged, .. } = &mut self.stage {
                    *nudged = true;
                }
            }
            Event::Seen { look, existing, owned } if self.is_awaited(look) => {
                self.counts.sweeps += 1;
                self.compare(now, &existing, &owned, &mut effects);
                self.stage = Stage::Waiting { since: now, nudged: false };
            }
            Event::NotSeen { look } if self.is_awaited(look) => {
                self.stage = Stage::Waiting { since: now, nudged: false };
            }
            // Of a look that was given up; of a moment that is past.
            Event::Seen { .. } | Event::NotSeen { .. } | Event::Tick => (),
        }
        if self.next_deadline().is_some_and(|at| at <= now) {
            self.looks += 1;
            self.stage = Stage::Looking { until: now + self.limits.look_max };
            effects.push(Effect::Look { look: self.looks });
        }
        effects
    }

    /// The next moment at which time alone changes a decision.
    pub fn next_deadline(&self) -> Option<Moment> {
        let Limits { period, pause, grace, .. } = self.limits;
        Some(match self.stage {
            Stage::Looking { until } => until,
            Stage::Waiting { since, nudged: true } => since + pause,
            // A contradiction is looked at again as soon as that can settle it.
            Stage::Waiting { since, nudged: false } => {
                let seen = self.orphans.values().chain(self.missing.values());
                let settles = seen.map(|at| (*at + grace).max(since + pause)).min();
                settles.unwrap_or(since + period).min(since + period)
            }
        })
    }

    /// What the reaper did so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Sandboxes that exist and that nobody owned at the last look.
    pub fn orphans(&self) -> usize {
        self.orphans.len()
    }

    fn is_awaited(&self, look: u64) -> bool {
        self.looks == look && matches!(self.stage, Stage::Looking { .. })
    }

    fn compare(
        &mut self,
        now: Moment,
        existing: &[SandboxId],
        owned: &[Owned],
        effects: &mut Vec<Effect>,
    ) {
        let exist: BTreeSet<_> = existing.iter().copied().collect();
        let are_owned: BTreeSet<_> = owned.iter().map(|one| one.sandbox).collect();
        let grace = self.limits.grace;

        let unowned = exist.difference(&are_owned);
        keep_watch(&mut self.orphans, unowned.copied().collect(), now);
        for (sandbox, since) in &self.orphans {
            if *since + grace <= now {
                self.counts.orphaned += 1;
                effects.push(Effect::Destroy { sandbox: *sandbox });
            }
        }

        let should_exist = owned.iter().filter(|one| match one.stage {
            OwnedStage::Ready | OwnedStage::Leased { .. } => true,
            OwnedStage::Coming | OwnedStage::Going => false,
        });
        let absent = should_exist.map(|one| one.sandbox).filter(|one| !exist.contains(one));
        keep_watch(&mut self.missing, absent.collect(), now);
        for (sandbox, since) in &self.missing {
            if *since + grace <= now {
                self.counts.lost += 1;
                effects.push(Effect::Reap { sandbox: *sandbox, cause: Cause::Lost });
            }
        }

        for one in owned {
            if let OwnedStage::Leased { due } = one.stage
                && due <= now
            {
                self.counts.overdue += 1;
                effects.push(Effect::Reap { sandbox: one.sandbox, cause: Cause::Expired });
            }
        }
    }
}

/// Forgets what is settled and remembers what is new.
fn keep_watch(watched: &mut BTreeMap<SandboxId, Moment>, seen: BTreeSet<SandboxId>, now: Moment) {
    watched.retain(|sandbox, _| seen.contains(sandbox));
    for sandbox in seen {
        watched.entry(sandbox).or_insert(now);
    }
}
