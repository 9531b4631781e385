//! The load rule (F8) in its simplest form: so many instances that the busy ones are 70 of 100.
//!
//! Numbers after Kubernetes' horizontal autoscaler: tolerance, steps up and the stabilization of
//! steps down.

use std::collections::VecDeque;
use std::time::Duration;

use sandpit_messages::time::Moment;

/// How often the rule decides.
const TICK: Duration = Duration::from_secs(15);

/// No step down while a larger size was wanted within this time, nor so soon after a step up.
const STABLE: Duration = Duration::from_secs(300);

/// How often it steps down at most.
const DOWN_PAUSE: Duration = Duration::from_secs(60);

/// A change of less than one in so many is none.
const TOLERANCE: usize = 10;

/// The least a step up may be.
const UP_MIN: usize = 4;

/// A step down is one in so many, and at least one.
const DOWN_SHARE: usize = 4;

/// What was seen of one deployment since the last decision, and what was wanted before.
#[derive(Debug)]
pub(super) struct Load {
    next: Moment,
    /// Instances seen, and how many of them were busy.
    seen: usize,
    busy: usize,
    wishes: VecDeque<(Moment, usize)>,
    up: Option<Moment>,
    down: Option<Moment>,
}

impl Load {
    pub(super) fn new(now: Moment) -> Self {
        Self { next: now + TICK, seen: 0, busy: 0, wishes: VecDeque::new(), up: None, down: None }
    }

    /// When it decides next.
    pub(super) fn next(&self) -> Moment {
        self.next
    }

    /// So many are up, so many of them busy.
    pub(super) fn observe(&mut self, up: usize, busy: usize) {
        self.seen += up;
        self.busy += busy;
    }

    /// How many there should be; `size` if it has no reason to change that.
    pub(super) fn decide(&mut self, now: Moment, size: usize, floor: usize, top: usize) -> usize {
        self.next = now + TICK;
        let (seen, busy) = (std::mem::take(&mut self.seen), std::mem::take(&mut self.busy));
        if seen == 0 {
            return size;
        }
        // The size times the busy share, over 0.7.
        let wish = (10 * size * busy).div_ceil(7 * seen).clamp(floor, top.max(floor));
        self.wishes.push_back((now, wish));
        while self.wishes.front().is_some_and(|(at, _)| *at + STABLE <= now) {
            self.wishes.pop_front();
        }
        if wish.abs_diff(size) * TOLERANCE <= size {
            return size;
        }
        if wish > size {
            self.up = Some(now);
            return wish.min(size + size.max(UP_MIN));
        }
        let wish = self.wishes.iter().map(|(_, wish)| *wish).max().unwrap_or(wish);
        let since = |at: Option<Moment>, pause| at.is_none_or(|at| at + pause <= now);
        if wish >= size || !since(self.up, STABLE) || !since(self.down, DOWN_PAUSE) {
            return size;
        }
        self.down = Some(now);
        wish.max(size - (size / DOWN_SHARE).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes after each tick, for so many busy out of `size` at each.
    fn play(load: &mut Load, from: u64, size: &mut usize, busy: &[usize]) -> Vec<usize> {
        let ticks = busy.iter().zip(from..);
        let sizes = ticks.map(|(busy, tick)| {
            load.observe(*size, (*busy).min(*size));
            let now = Moment::START + u32::try_from(tick).unwrap() * TICK;
            *size = load.decide(now, *size, 2, 20);
            *size
        });
        sizes.collect()
    }

    #[test]
    fn a_step_in_load_is_followed_at_once_and_by_steps() {
        let (mut load, mut size) = (Load::new(Moment::START), 2);
        assert_eq!(play(&mut load, 1, &mut size, &[2, 3, 5, 7, 7]), [3, 5, 8, 10, 10]);
    }

    #[test]
    fn what_falls_is_believed_after_five_minutes_and_then_in_quarters() {
        let (mut load, mut size) = (Load::new(Moment::START), 8);
        let sizes = play(&mut load, 1, &mut size, &[6; 4]);
        assert_eq!(sizes, [9; 4], "within the tolerance nothing more changes");
        let sizes = play(&mut load, 5, &mut size, &[0; 20]);
        assert!(sizes.iter().all(|size| *size >= 7), "{sizes:?}");
        let sizes = play(&mut load, 25, &mut size, &[0; 40]);
        assert_eq!(sizes.last(), Some(&2), "{sizes:?}");
        assert!(sizes.windows(2).all(|pair| pair[0] - pair[1] <= 2), "{sizes:?}");
    }

    #[test]
    fn noise_changes_the_size_less_than_twice_in_ten_minutes() {
        let (mut load, mut size) = (Load::new(Moment::START), 10);
        let noise = [7, 6, 7, 8, 7, 6, 8, 7, 7, 6].repeat(4);
        let sizes = play(&mut load, 1, &mut size, &noise);
        let changes = sizes.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes < 2, "{sizes:?}");
    }

    #[test]
    fn what_was_not_seen_changes_nothing() {
        let mut load = Load::new(Moment::START);
        assert_eq!(load.decide(Moment::START + TICK, 5, 2, 20), 5);
    }
}
