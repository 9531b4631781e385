//! When progress is told: often enough that nobody thinks it stuck, seldom enough that nobody has
//! to throw it away. Decides and does nothing.

use std::time::Duration;

use sandpit_messages::time::Moment;

/// Shortest time between two reports: four a second are as many as a person reads.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest silence.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// What a report is further than the one before if nothing was counted meanwhile: the protocol
/// wants every report to be further.
const STEP_MIN: f64 = 0.001;

/// How far it is, and what was told of it.
#[derive(Debug)]
pub(super) struct Pace {
    begun: Moment,
    told: Option<(Moment, f64)>,
    now: Report,
    is_new: bool,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    pub(super) progress: f64,
    pub(super) total: Option<f64>,
    pub(super) message: String,
}

impl Pace {
    pub(super) fn new(now: Moment, message: &str) -> Self {
        let first = Report { message: message.to_owned(), ..Report::default() };
        Self { begun: now, told: None, now: first, is_new: true }
    }

    /// It is so far now.
    pub(super) fn reached(&mut self, report: Report) {
        self.is_new |= report != self.now;
        self.now = report;
    }

    /// How far it is, as it was last heard.
    pub(super) fn last(&self) -> &Report {
        &self.now
    }

    /// When there may be something to tell.
    pub(super) fn next(&self) -> Moment {
        match self.told {
            None => self.begun,
            Some((at, _)) if self.is_new => at + PAUSE_MIN,
            Some((at, _)) => at + SILENCE_MAX,
        }
    }

    /// What to tell now, if anything.
    pub(super) fn due(&mut self, now: Moment) -> Option<Report> {
        (now >= self.next()).then(|| self.tell(now))
    }

    /// What to tell last.
    pub(super) fn tell(&mut self, now: Moment) -> Report {
        let least = self.told.map_or(0.0, |(_, told)| told + STEP_MIN);
        let progress = self.now.progress.max(least);
        let waited = now.since(self.begun).as_secs();
        let message = match self.is_new {
            true => self.now.message.clone(),
            false => format!("{}, {waited} s", self.now.message),
        };
        self.told = Some((now, progress));
        self.is_new = false;
        // A total that was passed would say that it is done.
        let total = self.now.total.filter(|total| *total >= progress);
        Report { progress, total, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::START + Duration::from_millis(ms)
    }

    fn lines(count: u32) -> Report {
        let message = format!("{count} lines");
        Report { progress: count.into(), message, ..Report::default() }
    }

    #[test]
    fn reports_come_at_once_then_at_most_four_a_second_and_at_least_every_two_seconds() {
        let mut pace = Pace::new(at(0), "started");
        assert_eq!(pace.due(at(0)).map(|report| report.message), Some("started".to_owned()));
        assert_eq!(pace.due(at(100)), None);
        pace.reached(lines(3));
        assert_eq!(pace.due(at(200)), None);
        assert_eq!(pace.due(at(250)), Some(lines(3)));
        assert_eq!(pace.due(at(2_249)), None);
        let beat = pace.due(at(2_250)).unwrap();
        assert!(beat.progress > 3.0, "{beat:?}");
        assert_eq!(beat.message, "3 lines, 2 s");
    }

    #[test]
    fn every_report_is_further_than_the_one_before() {
        let mut pace = Pace::new(at(0), "started");
        let mut before = -1.0;
        for step in 0..50 {
            if step % 7 == 0 {
                pace.reached(lines(step / 7));
            }
            let told = pace.tell(at(u64::from(step) * 1_000));
            assert!(told.progress > before, "{told:?} after {before}");
            before = told.progress;
        }
    }
}
