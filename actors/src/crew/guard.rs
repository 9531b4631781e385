//! The runaway guard: an unscheduled rise beyond `max(2 x base, base + 4)` is held there until an
//! operator approves it. What a loop of wishes made of the size does not raise the base: only what
//! has lasted, or was approved, does.

use std::collections::VecDeque;
use std::time::Duration;

use sandpit_messages::id::ApprovalId;
use sandpit_messages::time::Moment;

/// A wish lapses after this long, and a size that has lasted so long is a base.
pub const LASTS: Duration = Duration::from_secs(15 * 60);

/// Changes of size that are remembered. When there are more, the oldest counts on as the least:
/// who changes its mind that often is not given more for it.
const CHANGES_MAX: usize = 256;

/// A rise that waits for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub id: ApprovalId,
    /// How many were wanted.
    pub wanted: usize,
    /// How many there may be.
    pub held_at: usize,
    /// When the wish lapses.
    pub expires: Moment,
}

/// Watches the size of one deployment or swarm.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The largest size that whoever owns it asked for by name.
    approved: usize,
    /// Sizes, and since when.
    sizes: VecDeque<(Moment, usize)>,
    held: Option<Held>,
}

impl Guard {
    /// A guard of something that was made with this size, which is thereby approved.
    pub fn new(now: Moment, size: usize) -> Self {
        Self { approved: size, sizes: VecDeque::from([(now, size)]), held: None }
    }

    /// What was approved, for the record.
    pub fn approved(&self) -> usize {
        self.approved
    }

    /// This size was asked for one by one, which is as good as an approval.
    pub fn approve(&mut self, size: usize) {
        self.approved = self.approved.max(size);
    }

    /// How many of `wanted` there may be now. What is over is held under `id`.
    pub fn judge(&mut self, now: Moment, wanted: usize, id: ApprovalId) -> usize {
        let size = self.sizes.back().map_or(0, |(_, size)| *size);
        let base = self.least(now).max(self.approved);
        let bound = (2 * base).max(base + 4).max(size);
        if wanted <= bound {
            self.held = None;
            return wanted;
        }
        self.held = Some(Held { id, wanted, held_at: bound, expires: now + LASTS });
        bound
    }

    /// The size is this from now on.
    pub fn note(&mut self, now: Moment, size: usize) {
        if self.sizes.back().is_some_and(|(_, last)| *last == size) {
            return;
        }
        if self.sizes.len() == CHANGES_MAX {
            let least = self.sizes.iter().take(2).map(|(_, size)| *size).min();
            self.sizes.pop_front();
            if let (Some(first), Some(least)) = (self.sizes.front_mut(), least) {
                first.1 = least;
            }
        }
        self.sizes.push_back((now, size));
    }

    /// The rise that waits, if it has not lapsed.
    pub fn held(&self, now: Moment) -> Option<Held> {
        self.held.filter(|held| now < held.expires)
    }

    /// The least size of the last [`LASTS`].
    fn least(&mut self, now: Moment) -> usize {
        // Each lasted until the next.
        while self.sizes.get(1).is_some_and(|(until, _)| *until + LASTS <= now) {
            self.sizes.pop_front();
        }
        self.sizes.iter().map(|(_, size)| *size).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ApprovalId = ApprovalId::numbered(1);

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_small_rise_is_granted_and_a_large_one_held_at_the_larger_bound() {
        let mut guard = Guard::new(at(0), 1);
        assert_eq!(guard.judge(at(1), 5, ID), 5);
        assert_eq!(guard.held(at(1)), None);
        assert_eq!(guard.judge(at(1), 6, ID), 5);
        let held = Held { id: ID, wanted: 6, held_at: 5, expires: at(901) };
        assert_eq!(guard.held(at(900)), Some(held));
        assert_eq!(guard.held(at(901)), None, "it lapsed");
        let mut guard = Guard::new(at(0), 10);
        assert_eq!(guard.judge(at(1), 21, ID), 20);
    }

    #[test]
    fn a_loop_of_wishes_stays_held() {
        let mut guard = Guard::new(at(0), 1);
        for second in 0..899 {
            let size = guard.judge(at(second), 100, ID);
            assert_eq!(size, 5, "at {second}");
            guard.note(at(second), size);
        }
        assert_eq!(guard.judge(at(900), 100, ID), 10, "what has lasted is a base");
    }

    #[test]
    fn going_down_and_back_up_asks_nobody() {
        let mut guard = Guard::new(at(0), 10);
        guard.note(at(1), 2);
        assert_eq!(guard.judge(at(1_000), 10, ID), 10);
    }

    #[test]
    fn changing_ones_mind_often_gains_nothing() {
        let mut guard = Guard::new(at(0), 1);
        for change in 0..1_000 {
            guard.note(at(1), 1 + change % 5);
        }
        assert_eq!(guard.judge(at(2), 100, ID), 5);
    }
}
