//! When a process that lives on its own has to end: decides, and does nothing.

use std::time::Duration;

use sandpit_messages::time::Moment;

/// From the request to end to the end of whoever did not heed it.
const GRACE: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask its group to end.
    Ask,
    /// Kill all of its session.
    Kill,
}

/// How far one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It may run until then.
    Running(Option<Moment>),
    /// It was asked, and is killed then.
    Asked(Moment),
    /// It was killed.
    Killed,
}

/// The time that one process has.
#[derive(Clone, Debug)]
pub(super) struct Lifetime(Stage);

impl Lifetime {
    /// Of one that started now. Without `time_max` it may live as long as its sandbox.
    pub(super) fn new(now: Moment, time_max: Option<Duration>) -> Self {
        Self(Stage::Running(time_max.map(|time| now + time)))
    }

    /// When it has to be looked at again, if ever.
    pub(super) fn next(&self) -> Option<Moment> {
        match self.0 {
            Stage::Running(at) => at,
            Stage::Asked(at) => Some(at),
            Stage::Killed => None,
        }
    }

    /// What is to be done now.
    pub(super) fn step(&mut self, now: Moment) -> Option<Effect> {
        match self.0 {
            Stage::Running(Some(at)) if at <= now => {
                self.0 = Stage::Asked(now + GRACE);
                Some(Effect::Ask)
            }
            Stage::Asked(at) if at <= now => {
                self.0 = Stage::Killed;
                Some(Effect::Kill)
            }
            Stage::Running(_) | Stage::Asked(_) | Stage::Killed => None,
        }
    }

    /// Whether its time was over before it ended.
    pub(super) fn is_over(&self) -> bool {
        !matches!(self.0, Stage::Running(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn one_over_its_time_is_asked_and_killed_two_seconds_later() {
        let mut lifetime = Lifetime::new(at(10), Some(Duration::from_secs(5)));
        assert_eq!((lifetime.step(at(14)), lifetime.is_over()), (None, false));
        assert_eq!((lifetime.step(at(15)), lifetime.is_over()), (Some(Effect::Ask), true));
        assert_eq!(lifetime.step(at(16)), None);
        assert_eq!(lifetime.next(), Some(at(17)));
        assert_eq!(lifetime.step(at(17)), Some(Effect::Kill));
        assert_eq!((lifetime.step(at(99)), lifetime.next()), (None, None));
    }

    #[test]
    fn one_without_a_time_is_left_alone() {
        let mut lifetime = Lifetime::new(at(10), None);
        assert_eq!((lifetime.next(), lifetime.step(at(1_000_000))), (None, None));
    }

    #[test]
    fn two_seconds_count_from_when_it_was_asked() {
        let mut lifetime = Lifetime::new(at(10), Some(Duration::from_secs(1)));
        assert_eq!(lifetime.step(at(60)), Some(Effect::Ask));
        assert_eq!(lifetime.next(), Some(at(62)));
    }
}
