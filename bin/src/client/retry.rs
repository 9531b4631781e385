//! When a question that got no answer is asked again. Decides and does nothing.

use std::time::Duration;

use sandpit_actors::bus::AskError;
use sandpit_messages::problem::Ran;
use sandpit_messages::subject::Replay;
use sandpit_messages::time::Moment;

/// Times one question is asked in all. Whoever is not reached in three is down, not busy.
pub const ATTEMPTS_MAX: u32 = 3;
/// The first pause is drawn from zero to this, and each further one from twice as much.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Thousandths of a retry that every request pays for: a fifth. More would turn an overload into
/// an avalanche.
const EARNED_PER_REQUEST: u64 = 200;
/// Thousandths that every millisecond pays for: ten retries a second, so that a quiet client may
/// still repeat.
const EARNED_PER_MILLI: u64 = 10;
/// Thousandths that one retry costs.
const COST: u64 = 1_000;
/// Thousandths that can be saved up: what a second pays for.
const SAVED_MAX: u64 = 10_000;

/// Retries a client may still make.
#[derive(Debug)]
pub struct Budget {
    /// In thousandths.
    saved: u64,
    at: Moment,
}

impl Budget {
    /// Full.
    pub fn full(now: Moment) -> Self {
        Self { saved: SAVED_MAX, at: now }
    }

    /// A request was made.
    pub fn earn(&mut self, now: Moment) {
        let millis = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.at = now;
        let passed = millis.saturating_mul(EARNED_PER_MILLI);
        self.saved = passed.saturating_add(self.saved + EARNED_PER_REQUEST).min(SAVED_MAX);
    }

    /// Takes one retry, if there is one.
    pub fn spend(&mut self) -> bool {
        let left = self.saved.checked_sub(COST);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

/// Whether a request may be sent twice at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// Doing it twice is the same as doing it once.
    Always,
    /// Only if it is certain that it was not done.
    IfNotDone,
}

impl Repeatable {
    /// From what the verb allows and whether the request carries a key.
    pub const fn of(replay: Replay, keyed: bool) -> Self {
        match (replay, keyed) {
            (Replay::Safe, _) | (Replay::WithKey, true) => Self::Always,
            (Replay::WithKey, false) | (Replay::Never, _) => Self::IfNotDone,
        }
    }
}

/// The pause before attempt number `made` + 1; `None` if asking again is no use or not allowed.
/// `draw` is a random number from 0 to 1.
pub fn pause(error: &AskError, made: u32, repeatable: Repeatable, draw: f64) -> Option<Duration> {
    if made >= ATTEMPTS_MAX {
        return None;
    }
    let allowed = error.ran() == Ran::No || repeatable == Repeatable::Always;
    let least = match error {
        // The caller's own fault, final answers, and what was answered: once more is the same.
        AskError::Undecodable(_) | AskError::TimedOut(_) => return None,
        AskError::Refused(problem) => match (problem.code, problem.retry_after_ms) {
            (503 | 429, Some(after)) => Duration::from_millis(after.into()),
            (500 | 502 | 503, _) => Duration::ZERO,
            _ => return None,
        },
        AskError::NoResponders(_) | AskError::NotSent(_) | AskError::Interrupted => Duration::ZERO,
    };
    let doubled = PAUSE_FIRST * 2_u32.saturating_pow(made.saturating_sub(1));
    allowed.then(|| least + doubled.min(PAUSE_MAX).mul_f64(draw.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use sandpit_messages::refusal::Refusal;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn refused(refusal: &Refusal) -> AskError {
        AskError::Refused(Box::new(refusal.problem()))
    }

    #[test]
    fn what_was_not_done_is_asked_again_after_the_time_it_was_told() {
        let busy = refused(&Refusal::Busy { waiting: 1, retry_after: 40 * MS });
        assert_eq!(pause(&busy, 1, Repeatable::IfNotDone, 0.0), Some(40 * MS));
        assert_eq!(pause(&busy, 2, Repeatable::IfNotDone, 1.0), Some(140 * MS));
        assert_eq!(pause(&busy, 3, Repeatable::Always, 0.0), None);
    }

    #[test]
    fn what_may_have_been_done_is_asked_again_only_where_twice_is_as_once() {
        for error in [AskError::Interrupted, refused(&Refusal::Interrupted)] {
            assert_eq!(pause(&error, 1, Repeatable::of(Replay::WithKey, false), 0.0), None);
            assert!(pause(&error, 1, Repeatable::of(Replay::WithKey, true), 0.0).is_some());
            assert!(pause(&error, 1, Repeatable::of(Replay::Safe, false), 0.0).is_some());
            assert_eq!(pause(&error, 1, Repeatable::of(Replay::Never, true), 0.0), None);
        }
    }

    #[test]
    fn a_final_answer_is_final() {
        let quota = Refusal::Quota { max: 1, setting: "pool.total_max" };
        let unknown = Refusal::UnknownVerb { verb: "dance".to_owned() };
        for refusal in [quota, unknown, Refusal::KeyReused, Refusal::Cancelled] {
            assert_eq!(pause(&refused(&refusal), 1, Repeatable::Always, 0.0), None, "{refusal}");
        }
    }

    #[test]
    fn retries_are_a_fifth_of_the_requests_and_ten_a_second() {
        let mut budget = Budget::full(Moment::START);
        assert_eq!((0..20).filter(|_| budget.spend()).count(), 10);
        (0..10).for_each(|_| budget.earn(Moment::START));
        assert_eq!((0..20).filter(|_| budget.spend()).count(), 2);
        budget.earn(Moment::START + Duration::from_millis(500));
        assert_eq!((0..20).filter(|_| budget.spend()).count(), 5);
    }
}
