//! Whether an endpoint is asked at all.
//!
//! One that fails most calls is left alone for a while; then a few calls, one at a time, find out
//! whether it is well again.
//!
//! Two signs tell illness from chance. Ten failures in a row: an endpoint that fails one call of
//! three has them once in some 90,000 calls, one that is out at once. And a share of many calls,
//! for an endpoint that answers now and then. ADR 011 has the figures.

use std::collections::VecDeque;
use std::time::Duration;

use sandpit_messages::time::Moment;

/// When it opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// It opens when so many calls in a row failed.
    pub in_a_row: usize,
    /// So many of the last calls are looked at for their share. At least `in_a_row`.
    pub calls: usize,
    /// And none that is older.
    pub age_max: Duration,
    /// Of fewer calls no share is taken.
    pub calls_min: usize,
    /// It opens too when more than this share of them failed, in percent.
    pub failed_percent: usize,
    /// How long it stays open at first; doubled while the endpoint stays ill.
    pub open_min: Duration,
    /// How long at most.
    pub open_max: Duration,
    /// So many calls in a row must succeed to close it.
    pub probes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_a_row: 10,
            calls: 100,
            age_max: Duration::from_secs(60),
            calls_min: 20,
            failed_percent: 50,
            open_min: Duration::from_secs(30),
            open_max: Duration::from_secs(120),
            probes: 3,
        }
    }
}

/// What it lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Every call.
    Closed,
    /// One at a time, to find out.
    HalfOpen,
    /// None.
    Open,
}

impl Position {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// The right to make one call. What became of it is told to [`Breaker::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the breaker waits for the end of what it let through"]
pub struct Pass {
    /// Which opening or closing it was given after.
    round: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint is well.
    Well,
    /// It failed, or was far too slow.
    Ill,
    /// Nobody knows: whoever asked went away.
    Unknown,
}

/// The breaker of one endpoint.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
    round: u64,
    closed_since: Moment,
}

#[derive(Debug)]
enum State {
    /// When each of the last calls ended, and whether it failed.
    Closed { ended: VecDeque<(Moment, bool)> },
    /// Until then. The pause is without its jitter.
    Open { until: Moment, pause: Duration },
    /// After a pause of this length.
    HalfOpen { asking: bool, succeeded: u32, pause: Duration },
}

impl Breaker {
    /// Closed.
    pub const fn new(limits: Limits, now: Moment) -> Self {
        let state = State::Closed { ended: VecDeque::new() };
        Self { limits, state, round: 0, closed_since: now }
    }

    /// Asks for one call. `None`: not now.
    pub fn admit(&mut self, now: Moment) -> Option<Pass> {
        let pass = Pass { round: self.round };
        match &mut self.state {
            State::Closed { .. } => Some(pass),
            State::Open { until, pause } if *until <= now => {
                self.round += 1;
                self.state = State::HalfOpen { asking: true, succeeded: 0, pause: *pause };
                Some(Pass { round: self.round })
            }
            State::HalfOpen { asking: asking @ false, .. } => {
                *asking = true;
                Some(pass)
            }
            State::Open { .. } | State::HalfOpen { asking: true, .. } => None,
        }
    }

    /// A call that was let through has ended. `share` is drawn from 0 to 1. Says whether the
    /// position changed.
    pub fn ended(&mut self, now: Moment, pass: Pass, verdict: Verdict, share: f64) -> bool {
        if pass.round != self.round {
            // Let through before it opened or closed: of a time that is past.
            return false;
        }
        let limits = self.limits;
        match (&mut self.state, verdict) {
            (State::Closed { ended }, Verdict::Well | Verdict::Ill) => {
                ended.push_back((now, verdict == Verdict::Ill));
                let old = |at: Moment| now.since(at) > limits.age_max;
                while ended.len() > limits.calls || ended.front().is_some_and(|(at, _)| old(*at)) {
                    ended.pop_front();
                }
                let failed = ended.iter().filter(|(_, failed)| *failed).count();
                let many = failed * 100 > ended.len() * limits.failed_percent;
                let row = ended.iter().rev().take_while(|(_, failed)| *failed).count();
                let opens = row >= limits.in_a_row || (ended.len() >= limits.calls_min && many);
                if opens {
                    self.open(now, limits.open_min, share);
                }
                opens
            }
            (State::HalfOpen { asking, succeeded, .. }, Verdict::Well) => {
                *asking = false;
                *succeeded += 1;
                let closes = *succeeded >= limits.probes;
                if closes {
                    self.round += 1;
                    self.closed_since = now;
                    self.state = State::Closed { ended: VecDeque::new() };
                }
                closes
            }
            (State::HalfOpen { pause, .. }, Verdict::Ill) => {
                let pause = (*pause * 2).min(limits.open_max);
                self.open(now, pause, share);
                true
            }
            (State::HalfOpen { asking, .. }, Verdict::Unknown) => {
                *asking = false;
                false
            }
            // Nothing is let through while it is open.
            (State::Closed { .. }, Verdict::Unknown) | (State::Open { .. }, _) => false,
        }
    }

    /// Opens it. A fifth more or less, so that nodes do not come back together.
    fn open(&mut self, now: Moment, pause: Duration, share: f64) {
        self.round += 1;
        let until = now + pause.mul_f64(0.8 + 0.4 * share);
        self.state = State::Open { until, pause };
    }

    /// What it lets through now. One whose pause is over counts as half-open.
    pub fn position(&self, now: Moment) -> Position {
        match self.state {
            State::Closed { .. } => Position::Closed,
            State::Open { until, .. } if until > now => Position::Open,
            State::Open { .. } | State::HalfOpen { .. } => Position::HalfOpen,
        }
    }

    /// Since when it has been closed, if it is.
    pub const fn closed_since(&self) -> Option<Moment> {
        match self.state {
            State::Closed { .. } => Some(self.closed_since),
            State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// When somebody should try it, if it is not closed and nobody is trying it.
    pub const fn next_try(&self) -> Option<Moment> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::HalfOpen { asking: false, .. } => Some(Moment::START),
            State::Closed { .. } | State::HalfOpen { asking: true, .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::guard::dice::Dice;

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(Limits::default(), at(0));
        for _ in 0..10 {
            let pass = breaker.admit(at(1)).expect("it is closed");
            breaker.ended(at(1), pass, Verdict::Ill, 0.5);
        }
        breaker
    }

    fn call(breaker: &mut Breaker, now: Moment, verdict: Verdict) {
        let pass = breaker.admit(now).expect("it lets one through");
        breaker.ended(now, pass, verdict, 0.5);
    }

    #[test]
    fn it_opens_when_most_calls_fail_and_lets_none_through_until_its_pause_is_over() {
        let mut breaker = opened();
        assert_eq!(breaker.position(at(1)), Position::Open);
        assert_eq!(breaker.admit(at(30)), None);
        assert_eq!(breaker.next_try(), Some(at(31)));
        assert!(breaker.admit(at(31)).is_some());
        assert_eq!(breaker.admit(at(31)), None, "one at a time");
    }

    #[test]
    fn many_calls_that_went_well_do_not_hide_that_it_is_out() {
        let mut breaker = Breaker::new(Limits::default(), at(0));
        for _ in 0..200 {
            call(&mut breaker, at(1), Verdict::Well);
        }
        for failed in 1..=10 {
            assert_eq!(breaker.position(at(1)), Position::Closed, "after {failed} failures");
            call(&mut breaker, at(1), Verdict::Ill);
        }
        assert_eq!(breaker.position(at(1)), Position::Open);
    }

    #[test]
    fn one_that_answers_now_and_then_is_left_alone_for_its_share() {
        let mut breaker = Breaker::new(Limits::default(), at(0));
        let mut calls = 0;
        while breaker.position(at(1)) == Position::Closed {
            calls += 1;
            call(&mut breaker, at(1), if calls % 4 == 0 { Verdict::Well } else { Verdict::Ill });
        }
        assert_eq!(calls, 20, "three of four fail: as soon as a share is taken");
    }

    #[test]
    fn an_endpoint_that_fails_one_call_of_three_is_not_left_alone_by_chance() {
        let mut opened = 0;
        for seed in 0..100 {
            let mut breaker = Breaker::new(Limits::default(), at(0));
            let mut dice = Dice::new(seed);
            for tenth in 0..1_000 {
                let now = Moment::START + Duration::from_millis(100 * tenth);
                if breaker.position(now) == Position::Closed {
                    let fails = dice.bits().is_multiple_of(3);
                    call(&mut breaker, now, if fails { Verdict::Ill } else { Verdict::Well });
                }
            }
            opened += u32::from(breaker.round > 0);
        }
        // With the last twenty calls alone it is all of them.
        assert!(opened <= 20, "{opened} of 100 opened");
    }

    #[test]
    fn half_of_the_calls_may_fail() {
        let mut breaker = Breaker::new(Limits::default(), at(0));
        for n in 0..100 {
            call(&mut breaker, at(1), if n % 2 == 0 { Verdict::Well } else { Verdict::Ill });
        }
        assert_eq!(breaker.position(at(1)), Position::Closed);
    }

    #[test]
    fn calls_that_succeed_one_after_the_other_close_it() {
        let mut breaker = opened();
        for n in 0..3 {
            assert_eq!(breaker.closed_since(), None);
            call(&mut breaker, at(40 + n), Verdict::Well);
        }
        assert_eq!(breaker.closed_since(), Some(at(42)));
    }

    #[test]
    fn its_pause_doubles_while_the_endpoint_stays_ill() {
        let mut breaker = opened();
        let mut now = at(1);
        for pause in [30, 60, 120, 120] {
            let until = breaker.next_try().expect("it is open");
            assert_eq!(until.since(now), Duration::from_secs(pause));
            now = until;
            call(&mut breaker, now, Verdict::Ill);
        }
    }

    #[test]
    fn a_probe_whose_asker_went_away_gives_its_place_back() {
        let mut breaker = opened();
        call(&mut breaker, at(31), Verdict::Unknown);
        assert!(breaker.admit(at(31)).is_some());
    }

    #[test]
    fn an_answer_from_before_it_opened_changes_nothing() {
        let mut breaker = Breaker::new(Limits::default(), at(0));
        let late = breaker.admit(at(0)).expect("it is closed");
        for _ in 0..10 {
            call(&mut breaker, at(1), Verdict::Ill);
        }
        assert!(!breaker.ended(at(2), late, Verdict::Well, 0.5));
        assert_eq!(breaker.position(at(2)), Position::Open);
    }

    proptest! {
        #[test]
        fn nothing_passes_while_it_is_open_and_one_at_a_time_after(
            steps in prop::collection::vec((0_u64..20, any::<bool>(), 0_usize..3), 1..400),
        ) {
            let mut breaker = Breaker::new(Limits::default(), at(0));
            let (mut now, mut under_way) = (at(0), Vec::new());
            let mut probing = 0;
            for (pause, ends, verdict) in steps {
                now = now + Duration::from_secs(pause);
                let before = breaker.position(now);
                if let Some(pass) = breaker.admit(now) {
                    prop_assert_ne!(before, Position::Open);
                    if before == Position::HalfOpen {
                        prop_assert_eq!(probing, 0);
                        probing = 1;
                    }
                    under_way.push(pass);
                }
                if ends && let Some(pass) = under_way.pop() {
                    let verdict = [Verdict::Well, Verdict::Ill, Verdict::Unknown][verdict];
                    if pass.round == breaker.round {
                        probing = 0;
                    }
                    breaker.ended(now, pass, verdict, 0.5);
                }
            }
        }
    }
}
