//! Whether a call that failed is made again, here or elsewhere, and when.
//!
//! The rule it keeps: what cannot succeed is tried once, and what may have been done already is
//! not done twice.

use std::time::Duration;

use sandpit_messages::time::Moment;

use super::budget::Budget;
use crate::ProviderError;
use crate::provider::Class;

/// How one endpoint is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Times a call is made again at one endpoint while there is another one to go to.
    pub retries_max: u32,
    /// Attempts of one call over all endpoints, the first one included.
    pub attempts_max: u32,
    /// The first pause is drawn from up to this; it doubles with each further one.
    pub base: Duration,
    /// No pause is drawn from more than this.
    pub cap: Duration,
}

impl Default for Limits {
    /// For a cloud.
    fn default() -> Self {
        Self {
            retries_max: 3,
            attempts_max: 6,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(8),
        }
    }
}

/// What doing it twice would mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The same as doing it once.
    Harmless,
    /// Two of what was asked for: only what certainly was not done is done again.
    Doubles,
}

/// What becomes of a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is made again at the same endpoint, after this time.
    Again(Duration),
    /// Another endpoint gets it, if there is one.
    Elsewhere(Why),
    /// Whoever asked gets the error.
    Stop(Why),
}

/// Why a call was not made again where it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It cannot succeed.
    Hopeless,
    /// Nobody knows whether it was done.
    InDoubt,
    /// It was tried as often as it may be.
    Spent,
    /// Too many others were made again already.
    Budget,
    /// There is no time left for it.
    Late,
    /// This endpoint has no room, or does not let us in.
    NotHere,
}

/// The attempts of one call so far.
#[derive(Clone, Debug)]
pub struct Attempts {
    limits: Limits,
    repeat: Repeat,
    deadline: Moment,
    in_all: u32,
    here: u32,
    can_move: bool,
}

impl Attempts {
    /// None so far. `can_move` says whether other endpoints could take the call.
    pub const fn new(limits: Limits, repeat: Repeat, deadline: Moment, can_move: bool) -> Self {
        Self { limits, repeat, deadline, in_all: 0, here: 0, can_move }
    }

    /// Attempts so far.
    pub const fn in_all(&self) -> u32 {
        self.in_all
    }

    /// Another endpoint has its turn. `can_move` says whether there is one more after it.
    pub const fn moved(&mut self, can_move: bool) {
        self.here = 0;
        self.can_move = can_move;
    }

    /// One attempt failed with `error`. `share` is drawn from 0 to 1, `usual` is what an attempt
    /// usually takes there.
    pub fn failed(
        &mut self,
        now: Moment,
        error: &ProviderError,
        budget: &mut Budget,
        share: f64,
        usual: Duration,
    ) -> Next {
        self.in_all += 1;
        self.here += 1;
        if error.maybe_done() && self.repeat == Repeat::Doubles {
            return Next::Stop(Why::InDoubt);
        }
        let left = self.deadline.since(now);
        let pause = match error.class() {
            Class::Permanent | Class::Gone => return Next::Stop(Why::Hopeless),
            Class::Unsupported | Class::Quota | Class::Denied => {
                return self.elsewhere(Why::NotHere);
            }
            Class::Throttled(after) if after > left / 2 => return self.elsewhere(Why::NotHere),
            // As long as it says and a little more, so that not everybody comes back at once.
            Class::Throttled(after) => after + after.mul_f64(share / 10.0),
            Class::Transient => self.limits.pause(self.here - 1, share),
        };
        if self.in_all >= self.limits.attempts_max {
            return Next::Stop(Why::Spent);
        }
        if self.can_move && self.here > self.limits.retries_max {
            return Next::Elsewhere(Why::Spent);
        }
        if left < pause + usual {
            return self.elsewhere(Why::Late);
        }
        if !budget.spend(now) {
            return self.elsewhere(Why::Budget);
        }
        Next::Again(pause)
    }

    const fn elsewhere(&self, why: Why) -> Next {
        if self.can_move && self.in_all < self.limits.attempts_max {
            Next::Elsewhere(why)
        } else {
            Next::Stop(why)
        }
    }
}

impl Limits {
    /// Full jitter: anything from nothing to a bound that doubles. `before` counts the retries
    /// already made. After Brooker, "Exponential Backoff And Jitter" (AWS, 2015).
    pub fn pause(&self, before: u32, share: f64) -> Duration {
        let doubled = 1_u32.checked_shl(before).and_then(|times| self.base.checked_mul(times));
        doubled.unwrap_or(self.cap).min(self.cap).mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::guard::budget;
    use crate::guard::dice::Dice;

    fn failed(maybe_done: bool) -> ProviderError {
        ProviderError::Failed { why: "reset".to_owned(), maybe_done }
    }

    fn first(error: &ProviderError, repeat: Repeat) -> Next {
        let mut budget = Budget::new(budget::Limits::default());
        let deadline = Moment::START + Duration::from_secs(30);
        let mut attempts = Attempts::new(Limits::default(), repeat, deadline, true);
        attempts.failed(Moment::START, error, &mut budget, 0.5, Duration::ZERO)
    }

    #[test]
    fn a_permanent_error_is_never_retried() {
        let refused = ProviderError::Refused { why: "no".to_owned() };
        for repeat in [Repeat::Harmless, Repeat::Doubles] {
            assert_eq!(first(&refused, repeat), Next::Stop(Why::Hopeless));
        }
    }

    #[test]
    fn what_may_have_been_done_is_not_done_twice() {
        assert_eq!(first(&failed(true), Repeat::Doubles), Next::Stop(Why::InDoubt));
        assert_eq!(first(&failed(false), Repeat::Doubles), Next::Again(Duration::from_millis(500)));
        assert_eq!(first(&failed(true), Repeat::Harmless), Next::Again(Duration::from_millis(500)));
    }

    #[test]
    fn a_full_or_locked_endpoint_is_left_at_once() {
        let full = ProviderError::Quota { what: "sandboxes".to_owned() };
        let locked = ProviderError::Denied { why: "key".to_owned() };
        for error in [full, locked, ProviderError::unsupported("template")] {
            assert_eq!(first(&error, Repeat::Harmless), Next::Elsewhere(Why::NotHere));
        }
    }

    #[test]
    fn a_throttled_call_comes_back_when_it_was_told_to_or_goes_elsewhere() {
        let after = |seconds| ProviderError::Throttled { after: Duration::from_secs(seconds) };
        assert_eq!(first(&after(2), Repeat::Harmless), Next::Again(Duration::from_millis(2_100)));
        assert_eq!(first(&after(16), Repeat::Harmless), Next::Elsewhere(Why::NotHere));
    }

    #[test]
    fn a_thousand_callers_come_back_spread_over_time() {
        let (limits, mut dice) = (Limits::default(), Dice::new(3));
        let mut bins = [0_u32; 10];
        for _ in 0..1_000 {
            let pause = limits.pause(0, dice.share());
            bins[usize::try_from(pause.as_millis() / 100).unwrap()] += 1;
        }
        assert!(bins.iter().all(|count| *count <= 150), "{bins:?}");
    }

    proptest! {
        #[test]
        fn attempts_stay_within_their_bound_and_pauses_below_their_cap(
            retries_max in 0_u32..10,
            attempts_max in 1_u32..10,
            errors in prop::collection::vec((any::<bool>(), 0_u64..20), 1..40),
            share in 0.0..1.0_f64,
        ) {
            let limits = Limits { retries_max, attempts_max, ..Limits::default() };
            let mut budget = Budget::new(budget::Limits { floor: 1_000, ..Default::default() });
            let deadline = Moment::START + Duration::from_hours(1);
            let mut attempts = Attempts::new(limits, Repeat::Harmless, deadline, true);
            let mut now = Moment::START;
            for (throttled, after) in errors {
                let error = if throttled {
                    ProviderError::Throttled { after: Duration::from_secs(after) }
                } else {
                    failed(true)
                };
                match attempts.failed(now, &error, &mut budget, share, Duration::ZERO) {
                    Next::Again(pause) => {
                        let longest = Duration::from_secs(after).mul_f64(1.1).max(limits.cap);
                        prop_assert!(pause <= longest);
                        now = now + pause;
                    }
                    Next::Elsewhere(_) => attempts.moved(true),
                    Next::Stop(_) => break,
                }
            }
            prop_assert!(attempts.in_all() <= attempts_max);
        }
    }
}
