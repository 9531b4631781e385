//! How much of what an endpoint is asked may be asked again.
//!
//! Without such a bound an endpoint that is in trouble gets several times its usual load, and
//! stays in trouble. After Finagle's `RetryBudget`: a share of the calls of the last seconds, and
//! a floor for whoever calls seldom.

use std::collections::VecDeque;
use std::time::Duration;

use sandpit_messages::time::Moment;

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of a hundred calls within the window so many may be made again.
    pub percent: u32,
    /// So many more per second of the window, however few calls there are.
    pub floor: u32,
    /// The window.
    pub window: Duration,
}

impl Default for Limits {
    /// For a cloud, whose published limits are one to five creations a second.
    fn default() -> Self {
        Self { percent: 20, floor: 1, window: Duration::from_secs(10) }
    }
}

/// What is left of the budget of one endpoint.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    /// What happened in each tenth of the window, oldest first.
    slices: VecDeque<Slice>,
}

#[derive(Debug)]
struct Slice {
    since: Moment,
    calls: u64,
    spent: u64,
}

/// The window moves in so many steps.
const SLICES: u32 = 10;

impl Budget {
    /// All of it.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, slices: VecDeque::new() }
    }

    /// A call is made for the first time.
    pub fn call(&mut self, now: Moment) {
        self.slice(now).calls += 1;
    }

    /// Takes one token for a retry or a hedge. `false` if there is none.
    pub fn spend(&mut self, now: Moment) -> bool {
        if self.left(now) == 0 {
            return false;
        }
        self.slice(now).spent += 1;
        true
    }

    /// Tokens left now.
    pub fn left(&mut self, now: Moment) -> u64 {
        self.forget(now);
        let calls: u64 = self.slices.iter().map(|slice| slice.calls).sum();
        let spent: u64 = self.slices.iter().map(|slice| slice.spent).sum();
        let share = calls.saturating_mul(u64::from(self.limits.percent)) / 100;
        let seconds = self.limits.window.as_millis() * u128::from(self.limits.floor) / 1_000;
        let floor = u64::try_from(seconds).unwrap_or(u64::MAX);
        share.saturating_add(floor).saturating_sub(spent)
    }

    fn forget(&mut self, now: Moment) {
        let window = self.limits.window;
        while self.slices.pop_front_if(|slice| now.since(slice.since) >= window).is_some() {}
    }

    fn slice(&mut self, now: Moment) -> &mut Slice {
        self.forget(now);
        let width = self.limits.window / SLICES;
        let fits = self.slices.back().is_some_and(|slice| now.since(slice.since) < width);
        if !fits {
            self.slices.push_back(Slice { since: now, calls: 0, spent: 0 });
        }
        self.slices.back_mut().expect("one was just put there")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::START + Duration::from_millis(millis)
    }

    #[test]
    fn a_fifth_of_the_calls_and_the_floor_may_be_made_again() {
        let mut budget = Budget::new(Limits::default());
        (0..100).for_each(|_| budget.call(at(0)));
        let granted = (0..100).filter(|_| budget.spend(at(1))).count();
        assert_eq!(granted, 20 + 10);
    }

    #[test]
    fn what_is_spent_comes_back_after_the_window() {
        let mut budget = Budget::new(Limits::default());
        while budget.spend(at(0)) {}
        assert!(!budget.spend(at(9_999)));
        assert!(budget.spend(at(10_000)));
    }

    proptest! {
        /// However calls and retries fall, no window of time sees more retries than its share and
        /// twice the floor (a window that is looked at may lie across two of the budget's).
        #[test]
        fn an_endpoint_in_trouble_gets_little_more_than_it_is_asked(
            steps in prop::collection::vec((0_u64..400, any::<bool>()), 1..400),
        ) {
            let limits = Limits::default();
            let mut budget = Budget::new(limits);
            let (mut now, mut calls, mut spent) = (0, Vec::new(), Vec::new());
            for (pause, retry) in steps {
                now += pause;
                if !retry {
                    budget.call(at(now));
                    calls.push(now);
                } else if budget.spend(at(now)) {
                    spent.push(now);
                }
            }
            for begin in &spent {
                let within = |times: &[u64], from: u64| {
                    times.iter().filter(|at| (from..begin + 10_000).contains(at)).count()
                };
                let asked = within(&calls, begin.saturating_sub(10_000));
                prop_assert!(within(&spent, *begin) <= asked / 5 + 2 * 10);
            }
        }
    }
}
