//! How long things took, in buckets whose bounds grow by an eighth of an octave: percentiles are
//! right within 9 %, in whatever order and over however many buckets of time they are added up.

use std::collections::BTreeMap;
use std::time::Duration;

/// Buckets of one octave.
const PER_OCTAVE: f64 = 8.0;

/// Durations that were counted. Grows with how different they are, not with how many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    buckets: BTreeMap<u16, u64>,
    count: u64,
    sum: Duration,
    min: Duration,
    max: Duration,
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        *self.buckets.entry(bucket(took)).or_default() += 1;
        self.min = if self.count == 0 { took } else { self.min.min(took) };
        self.max = self.max.max(took);
        self.count += 1;
        self.sum += took;
    }

    /// All of another.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The average, in milliseconds; `None` of nothing.
    pub fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum.as_secs_f64() * 1e3 / self.count as f64)
    }

    /// The shortest, in milliseconds; `None` of nothing.
    pub fn min_ms(&self) -> Option<f64> {
        (self.count > 0).then_some(self.min.as_secs_f64() * 1e3)
    }

    /// The longest, in milliseconds; `None` of nothing.
    pub fn max_ms(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max.as_secs_f64() * 1e3)
    }

    /// What `percent` of 100 took at most, in milliseconds; `None` of nothing.
    pub fn percentile_ms(&self, percent: u64) -> Option<f64> {
        let wanted = (self.count * percent).div_ceil(100);
        let mut counted = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            counted += **count;
            counted >= wanted
        });
        let (bucket, _) = found?;
        // The bucket's upper bound, and never more than was seen.
        let micros = (f64::from(*bucket + 1) / PER_OCTAVE).exp2();
        Some((micros / 1e3).min(self.max.as_secs_f64() * 1e3))
    }
}

/// Which bucket: eighths of an octave above a microsecond.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 600")]
fn bucket(took: Duration) -> u16 {
    let micros = took.as_secs_f64() * 1e6;
    (micros.max(1.0).log2() * PER_OCTAVE) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_a_bucket() {
        let mut all = Histogram::default();
        for millis in 1..=1_000 {
            all.add(Duration::from_millis(millis));
        }
        for (percent, exact) in [(50, 500.0), (95, 950.0), (99, 990.0)] {
            let shown = all.percentile_ms(percent).unwrap();
            assert!((exact..exact * 1.1).contains(&shown), "{percent}: {shown}");
        }
        assert_eq!((all.min_ms(), all.max_ms()), (Some(1.0), Some(1_000.0)));
        assert_eq!(all.mean_ms(), Some(500.5));
    }

    #[test]
    fn nothing_has_no_figures() {
        let none = Histogram::default();
        assert_eq!((none.mean_ms(), none.percentile_ms(50), none.min_ms()), (None, None, None));
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let (mut odd, mut even, mut all) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for millis in 1..100 {
            let took = Duration::from_millis(millis);
            if millis % 2 == 0 {
                even.add(took)
            } else {
                odd.add(took)
            }
            all.add(took);
        }
        odd.merge(&even);
        odd.merge(&Histogram::default());
        assert_eq!(odd, all);
    }
}
