//! Time as a sandbox has it: it stands still while the sandbox is paused.

use std::time::Duration;

use sandpit_messages::time::Moment;

/// How long a sandbox was paused in all, and whether it is now. Its moments are compared with each
/// other and with nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Pauses {
    /// All pauses that are over.
    lost: Duration,
    /// When the one began that is not.
    since: Option<Moment>,
}

impl Pauses {
    /// What time it is there.
    pub(in super::super) fn time(&self, now: Moment) -> Moment {
        let passed = self.since.unwrap_or(now).since(Moment::START);
        Moment::START + passed.saturating_sub(self.lost)
    }

    /// Whether it is paused.
    pub(in super::super) fn is_paused(&self) -> bool {
        self.since.is_some()
    }

    /// A pause begins. One that has begun goes on.
    pub(in super::super) fn begin(&mut self, now: Moment) {
        self.since.get_or_insert(now);
    }

    /// It is over.
    pub(in super::super) fn end(&mut self, now: Moment) {
        if let Some(since) = self.since.take() {
            self.lost += now.since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn time_stands_still_in_a_pause_and_goes_on_from_there() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.time(at(5)), at(5));
        pauses.begin(at(10));
        assert_eq!((pauses.time(at(10)), pauses.time(at(900))), (at(10), at(10)));
        pauses.begin(at(500));
        pauses.end(at(1_000));
        assert_eq!((pauses.time(at(1_000)), pauses.time(at(1_007))), (at(10), at(17)));
        pauses.end(at(1_100));
        assert!(!pauses.is_paused());
        pauses.begin(at(2_000));
        pauses.end(at(2_001));
        assert_eq!(pauses.time(at(2_001)), at(1_010));
    }
}
