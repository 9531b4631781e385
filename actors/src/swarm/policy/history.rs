//! Executions of a swarm's agents, kept as histograms: 10 s apart for a day, a minute for a week,
//! ten minutes for a month.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sandpit_messages::id::AgentId;
use sandpit_messages::time::{Moment, WallTime};

use crate::histogram::Histogram;

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;

/// How wide the slots of each tier are, and for how long they are kept.
const TIERS: [(Duration, Duration); 3] = [
    (Duration::from_secs(10), Duration::from_secs(DAY)),
    (Duration::from_secs(MINUTE), Duration::from_secs(7 * DAY)),
    (Duration::from_secs(10 * MINUTE), Duration::from_secs(30 * DAY)),
];

/// Everything that was counted.
#[derive(Debug, Default)]
pub struct History {
    tiers: [VecDeque<Slot>; 3],
    agents: BTreeMap<AgentId, (u64, u64)>,
}

/// Executions of one stretch of time.
#[derive(Clone, Debug)]
struct Slot {
    began: Moment,
    wall: WallTime,
    runs: Runs,
}

/// Executions, and how many of them failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runs {
    /// How long they took.
    pub times: Histogram,
    /// How many failed.
    pub failed: u64,
}

impl Runs {
    /// Share of them that failed; `None` of nothing.
    pub fn error_rate(&self) -> Option<f64> {
        let count = self.times.count();
        (count > 0).then(|| self.failed as f64 / count as f64)
    }

    fn merge(&mut self, other: &Self) {
        self.times.merge(&other.times);
        self.failed += other.failed;
    }
}

/// What a stretch of time holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Covered {
    /// All of it.
    pub runs: Runs,
    /// By slot: how many a second, and the share that failed.
    pub slots: Vec<(f64, f64)>,
    /// The first and the last slot.
    pub span: Option<(WallTime, WallTime)>,
}

impl History {
    /// One more execution.
    pub fn add(&mut self, now: Moment, wall: WallTime, agent: AgentId, took: Duration, bad: bool) {
        let (runs, failed) = self.agents.entry(agent).or_default();
        *runs += 1;
        *failed += u64::from(bad);
        for (tier, (width, kept)) in self.tiers.iter_mut().zip(TIERS) {
            if tier.back().is_none_or(|slot| slot.began + width <= now) {
                tier.push_back(Slot { began: now, wall, runs: Runs::default() });
                while tier.front().is_some_and(|slot| slot.began + kept <= now) {
                    tier.pop_front();
                }
            }
            if let Some(slot) = tier.back_mut() {
                slot.runs.times.add(took);
                slot.runs.failed += u64::from(bad);
            }
        }
    }

    /// What the last `range` holds, from the finest slots that reach so far back.
    pub fn covered(&self, now: Moment, range: Duration) -> Covered {
        let fits = TIERS.iter().position(|(_, kept)| range <= *kept);
        let at = fits.unwrap_or(TIERS.len() - 1);
        let width = TIERS[at].0.as_secs_f64();
        let mut covered = Covered::default();
        for slot in self.tiers[at].iter().filter(|slot| now < slot.began + range) {
            covered.runs.merge(&slot.runs);
            let rate = slot.runs.error_rate().unwrap_or_default();
            covered.slots.push((slot.runs.times.count() as f64 / width, rate));
            let first = covered.span.map_or(slot.wall, |(first, _)| first);
            covered.span = Some((first, slot.wall));
        }
        covered
    }

    /// Share of an agent's executions that did not fail; `None` before the first.
    pub fn success_rate(&self, agent: AgentId) -> Option<f64> {
        let (runs, failed) = self.agents.get(&agent)?;
        Some((runs - failed) as f64 / *runs as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(history: &mut History, second: u64, millis: u64, bad: bool) {
        let now = Moment::START + Duration::from_secs(second);
        let (agent, took) = (AgentId::numbered(1), Duration::from_millis(millis));
        history.add(now, WallTime(second * 1_000), agent, took, bad);
    }

    #[test]
    fn a_range_holds_what_happened_in_it() {
        let mut history = History::default();
        for second in 0..7_200 {
            add(&mut history, second, 100, second % 10 == 0);
        }
        let now = Moment::START + Duration::from_secs(7_200);
        let hour = history.covered(now, Duration::from_secs(3_600));
        assert!((3_590..=3_600).contains(&hour.runs.times.count()));
        assert_eq!(hour.runs.error_rate(), Some(0.1));
        assert!(hour.slots.iter().all(|(rate, _)| (rate - 1.0).abs() < 0.01));
        let month = history.covered(now, Duration::from_secs(30 * DAY));
        assert_eq!(month.runs.times.count(), 7_200);
        assert_eq!(history.success_rate(AgentId::numbered(1)), Some(0.9));
        assert_eq!(history.success_rate(AgentId::numbered(2)), None);
    }

    #[test]
    fn a_day_of_executions_is_kept_in_so_many_slots_and_no_more() {
        let mut history = History::default();
        for second in (0..3 * DAY).step_by(5) {
            add(&mut history, second, 10, false);
        }
        assert_eq!(history.tiers[0].len() as u64, DAY / 10);
        assert!(history.tiers[1].len() as u64 <= 3 * DAY / MINUTE);
    }
}
