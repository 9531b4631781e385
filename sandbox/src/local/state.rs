//! What is decided about an execution and about what keeps dying. Pure: time comes in, decisions
//! come out, others carry them out.

use std::collections::VecDeque;
use std::time::Duration;

use sandpit_messages::time::Moment;

use crate::provider::{KilledBy, Outcome};

mod pauses;

pub(super) use pauses::Pauses;

/// Longest a killed process may stay unreaped. Past this its sandbox is destroyed.
const REAP_MAX: Duration = Duration::from_millis(500);

/// How an execution is stopped: asked first, killed after a pause, and if even that does not end
/// it, its sandbox is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stopping {
    phase: Phase,
    grace: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running { until: Moment },
    Asked { why: Why, until: Moment },
    Killed { by: KilledBy, until: Moment },
    Abandoned { by: KilledBy },
}

/// Why it was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Time,
    Interrupt,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A deadline may have passed.
    Tick,
    /// Somebody wants it stopped, or nobody wants its result.
    Interrupted,
    /// It wrote more than is ever read.
    Flooded,
    /// It sent what no worker sends.
    Garbled,
    /// Its context begins anew.
    Restarted,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask it to stop: `SIGINT`.
    Ask,
    /// `SIGKILL` to it and its session.
    Kill,
    /// Destroy the sandbox.
    Destroy,
}

impl Stopping {
    /// An execution that begins now.
    pub(super) fn new(now: Moment, time_max: Duration, grace: Duration) -> Self {
        Self { phase: Phase::Running { until: now + time_max }, grace }
    }

    /// When to look again; `None` once nothing more can be done.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        match self.phase {
            Phase::Running { until } | Phase::Asked { until, .. } | Phase::Killed { until, .. } => {
                Some(until)
            }
            Phase::Abandoned { .. } => None,
        }
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub(super) fn step(&mut self, now: Moment, event: Event) -> Option<Effect> {
        match (self.phase, event) {
            (Phase::Running { until }, Event::Tick) if until <= now => {
                Some(self.ask(now, Why::Time))
            }
            (Phase::Running { .. }, Event::Interrupted) => Some(self.ask(now, Why::Interrupt)),
            (Phase::Asked { why, until }, Event::Tick) if until <= now => {
                let by = match why {
                    Why::Time => KilledBy::Timeout,
                    Why::Interrupt => KilledBy::Interrupt,
                };
                Some(self.kill(now, by))
            }
            (Phase::Running { .. } | Phase::Asked { .. }, Event::Flooded) => {
                Some(self.kill(now, KilledBy::Output))
            }
            (Phase::Running { .. } | Phase::Asked { .. }, Event::Garbled) => {
                Some(self.kill(now, KilledBy::Protocol))
            }
            (Phase::Running { .. } | Phase::Asked { .. }, Event::Restarted) => {
                Some(self.kill(now, KilledBy::Restart))
            }
            (Phase::Killed { by, until }, Event::Tick) if until <= now => {
                self.phase = Phase::Abandoned { by };
                Some(Effect::Destroy)
            }
            // Deadlines that have not passed; and nothing stops what was killed more than that.
            (_, Event::Tick)
            | (Phase::Asked { .. }, Event::Interrupted)
            | (Phase::Killed { .. } | Phase::Abandoned { .. }, _) => None,
        }
    }

    fn ask(&mut self, now: Moment, why: Why) -> Effect {
        self.phase = Phase::Asked { why, until: now + self.grace };
        Effect::Ask
    }

    fn kill(&mut self, now: Moment, by: KilledBy) -> Effect {
        self.phase = Phase::Killed { by, until: now + REAP_MAX };
        Effect::Kill
    }

    /// How it ended, when this is how it would have ended without us.
    pub(super) fn outcome(&self, by_itself: Outcome) -> Outcome {
        match self.phase {
            Phase::Running { .. } => by_itself,
            Phase::Asked { why, .. } => Outcome::Interrupted { timed_out: why == Why::Time },
            Phase::Killed { by, .. } | Phase::Abandoned { by } => Outcome::Killed(by),
        }
    }

    /// Whether it was killed by us.
    pub(super) fn killed(&self) -> bool {
        matches!(self.phase, Phase::Killed { .. } | Phase::Abandoned { .. })
    }
}

/// How a process ended, from what `wait` says.
pub(super) fn ended(status: i32) -> Outcome {
    let signal = status & 0x7f;
    if signal == 0 { Outcome::Exit((status >> 8) & 0xff) } else { Outcome::Signal(signal) }
}

/// Whether what died may be started again: so often in so long, and not once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Restarts {
    deaths: VecDeque<Moment>,
}

impl Restarts {
    /// Deaths in [`Self::WINDOW`] after which it is given up.
    const DEATHS_MAX: usize = 5;
    const WINDOW: Duration = Duration::from_secs(60);

    /// Nothing died yet.
    pub(super) const fn new() -> Self {
        Self { deaths: VecDeque::new() }
    }

    /// It died now; whether it may be started again.
    #[must_use = "the answer is the point"]
    pub(super) fn again(&mut self, now: Moment) -> bool {
        while self.deaths.pop_front_if(|at| *at + Self::WINDOW <= now).is_some() {}
        self.deaths.push_back(now);
        self.deaths.len() <= Self::DEATHS_MAX
    }
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
