//! When a read that takes unusually long is asked a second time beside the first.
//!
//! After Dean and Barroso, "The Tail at Scale" (2013): past the 95th percentile, for a few
//! percent of the calls. Only for reads; never for what changes or runs anything.

use std::collections::VecDeque;
use std::time::Duration;

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// So many of the last durations are remembered.
    pub kept: usize,
    /// Fewer say nothing about what is usual.
    pub kept_min: usize,
    /// Second questions per hundred calls, at most.
    pub percent: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { kept: 100, kept_min: 20, percent: 5 }
    }
}

/// What calls took so far.
#[derive(Debug)]
pub struct Hedge {
    limits: Limits,
    took: VecDeque<Duration>,
    calls: u64,
    sent: u64,
}

impl Hedge {
    /// Nothing is known.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, took: VecDeque::new(), calls: 0, sent: 0 }
    }

    /// A call begins. Says after how long a second one may be sent; `None` if none may.
    pub fn begin(&mut self) -> Option<Duration> {
        self.calls += 1;
        self.may_send().then(|| self.percentile(95)).flatten()
    }

    /// The time has come: whether a second call may still be sent.
    pub const fn send(&mut self) -> bool {
        let may = self.may_send();
        if may {
            self.sent += 1;
        }
        may
    }

    /// A call succeeded after this time.
    pub fn took(&mut self, took: Duration) {
        self.took.push_back(took);
        if self.took.len() > self.limits.kept {
            self.took.pop_front();
        }
    }

    /// What a call usually takes; zero while nobody knows.
    pub fn usual(&self) -> Duration {
        self.percentile(50).unwrap_or_default()
    }

    const fn may_send(&self) -> bool {
        self.sent * 100 < self.calls * self.limits.percent
    }

    fn percentile(&self, percent: usize) -> Option<Duration> {
        if self.took.len() < self.limits.kept_min {
            return None;
        }
        let mut sorted: Vec<_> = self.took.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent).div_ceil(100) - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_sent_twice_before_it_is_known_what_is_usual() {
        let mut hedge = Hedge::new(Limits::default());
        for millis in 1..=19 {
            hedge.took(Duration::from_millis(millis));
            assert_eq!(hedge.begin(), None);
        }
        hedge.took(Duration::from_millis(20));
        assert_eq!(hedge.begin(), Some(Duration::from_millis(19)));
        assert_eq!(hedge.usual(), Duration::from_millis(10));
    }

    proptest! {
        #[test]
        fn few_calls_are_sent_twice(slow in prop::collection::vec(any::<bool>(), 1..500)) {
            let mut hedge = Hedge::new(Limits { kept_min: 1, ..Limits::default() });
            hedge.took(Duration::from_millis(1));
            let mut sent = 0;
            for slow in &slow {
                if hedge.begin().is_some() && *slow && hedge.send() {
                    sent += 1;
                }
            }
            prop_assert!(sent * 100 <= slow.len() * 5 + 100);
        }
    }
}
