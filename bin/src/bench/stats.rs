//! What was measured: histograms, and how they are told.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::out;

/// Longest time that is told apart from a longer one.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Digits that are kept: a thousandth is far below what two runs differ by.
const DIGITS: u8 = 3;

/// Times of one thing.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub(crate) fn new() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_max(longest, DIGITS).expect("three digits and an hour"))
    }

    /// One more.
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// All of another.
    pub(crate) fn take(&mut self, other: &Self) {
        self.0.add(&other.0).expect("of the same bounds");
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share of them did not exceed, in milliseconds.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        millis(self.0.value_at_quantile(share))
    }

    /// The longest, in milliseconds.
    pub(crate) fn max_ms(&self) -> f64 {
        millis(self.0.max())
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of at most an hour")]
fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// Whether it is what we compare ourselves with.
    pub(crate) peer: bool,
    /// How often.
    pub(crate) n: u64,
    /// Half of them took no longer.
    pub(crate) p50_ms: f64,
    /// Nine in ten.
    pub(crate) p90_ms: f64,
    /// Ninety-nine in a hundred.
    pub(crate) p99_ms: f64,
    /// The longest.
    pub(crate) max_ms: f64,
    /// Done a second, where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<f64>,
    /// What it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compared: Option<Compared>,
}

/// A comparison with another row, which was measured in turns with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Compared {
    /// What that row measured.
    pub(crate) with: String,
    /// This median over that one.
    pub(crate) p50_ratio: f64,
}

impl Row {
    /// Ours.
    pub(crate) fn ours(what: &str, times: &Times) -> Self {
        Self {
            what: what.to_owned(),
            peer: false,
            n: times.count(),
            p50_ms: times.quantile_ms(0.5),
            p90_ms: times.quantile_ms(0.9),
            p99_ms: times.quantile_ms(0.99),
            max_ms: times.max_ms(),
            per_second: None,
            compared: None,
        }
    }

    /// A peer's.
    pub(crate) fn peer(what: &str, times: &Times) -> Self {
        Self { peer: true, ..Self::ours(what, times) }
    }

    /// With what was done a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
    pub(crate) fn over(mut self, time: Duration) -> Self {
        self.per_second = Some(self.n as f64 / time.as_secs_f64().max(f64::EPSILON));
        self
    }

    /// Compared with another row.
    #[must_use]
    pub(crate) fn against(mut self, other: &Self) -> Self {
        let p50_ratio = self.p50_ms / other.p50_ms.max(f64::EPSILON);
        self.compared = Some(Compared { with: other.what.clone(), p50_ratio });
        self
    }
}

/// The rows as a table.
pub(crate) fn print(rows: &[Row]) {
    let cells = rows.iter().map(|row| {
        let compared = row.compared.as_ref();
        [
            row.what.clone(),
            row.n.to_string(),
            out::millis(row.p50_ms),
            out::millis(row.p90_ms),
            out::millis(row.p99_ms),
            out::millis(row.max_ms),
            row.per_second.map(|rate| format!("{rate:.0}")).unwrap_or_default(),
            compared.map(|it| format!("{:.2} x {}", it.p50_ratio, it.with)).unwrap_or_default(),
        ]
    });
    out::table(["what", "n", "p50", "p90", "p99", "max", "per s", "p50 ratio"], cells);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let mut times = Times::new();
        (1..=100).for_each(|ms| times.add(Duration::from_millis(ms)));
        let row = Row::ours("x", &times);
        assert_eq!(row.n, 100);
        let near = |value: f64, expected: f64| (value - expected).abs() < expected / 500.0;
        assert!(near(row.p50_ms, 50.0) && near(row.p99_ms, 99.0) && near(row.max_ms, 100.0));
        let mut half = Times::new();
        half.add(Duration::from_millis(25));
        let compared = row.against(&Row::peer("y", &half)).compared.unwrap();
        assert!(near(compared.p50_ratio, 2.0), "{compared:?}");
    }
}
