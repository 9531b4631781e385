//! Whether what was written down in an earlier life is known again. Until it is, nothing is changed
//! and nothing is told: what is not known yet is not what is not there.

use std::time::Duration;

use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;

/// How far the reading of records is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Restoring {
    /// Of what, in words.
    what: &'static str,
    stage: Stage,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Waiting for what was written down.
    Asked,
    /// That failed; to be asked again.
    After(Moment),
    Done,
}

impl Restoring {
    /// The records have been asked for.
    pub(crate) fn asked(what: &'static str) -> Self {
        Self { what, stage: Stage::Asked }
    }

    /// They were read. Whether that is news.
    pub(crate) fn restored(&mut self) -> bool {
        std::mem::replace(&mut self.stage, Stage::Done) != Stage::Done
    }

    /// They could not be read, and are asked for again after a pause.
    pub(crate) fn not_restored(&mut self, now: Moment, pause: Duration) {
        if self.stage == Stage::Asked {
            self.stage = Stage::After(now + pause);
        }
    }

    /// Whether they are to be asked for again now. Says so once.
    pub(crate) fn asks_again(&mut self, now: Moment) -> bool {
        let due = matches!(self.stage, Stage::After(at) if at <= now);
        if due {
            self.stage = Stage::Asked;
        }
        due
    }

    /// When they are asked for again, if they are.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        match self.stage {
            Stage::After(at) => Some(at),
            Stage::Asked | Stage::Done => None,
        }
    }

    /// Whether they were read.
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// The same for a caller.
    ///
    /// # Errors
    /// [`Refusal::Unsettled`] until they were.
    pub(crate) fn done(&self) -> Result<(), Refusal> {
        if self.is_done() { Ok(()) } else { Err(Refusal::Unsettled { what: self.what }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_cannot_be_read_is_asked_for_again_after_a_pause_and_once() {
        let mut records = Restoring::asked("the records");
        assert_eq!(records.done(), Err(Refusal::Unsettled { what: "the records" }));
        assert_eq!(records.deadline(), None, "nothing but an answer changes anything");
        let start = Moment::START;
        records.not_restored(start, SECOND);
        assert_eq!(records.deadline(), Some(start + SECOND));
        assert!(!records.asks_again(start));
        assert!(records.asks_again(start + SECOND));
        assert!(!records.asks_again(start + SECOND), "the answer is under way");
    }

    #[test]
    fn what_was_read_is_news_once_and_no_late_failure_takes_it_back() {
        let mut records = Restoring::asked("the records");
        assert!(records.restored());
        assert!(!records.restored());
        records.not_restored(Moment::START, SECOND);
        assert_eq!(records.done(), Ok(()));
    }
}
