//! How sandboxes and executions are, from what was seen of them.
//!
//! The rule it keeps: every level follows from figures that were measured, and what was not
//! measured has no figure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sandpit_messages::health::Level;
use sandpit_messages::id::SandboxId;
use sandpit_messages::time::Moment;

use crate::histogram::Histogram;

/// What is kept. Valid already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How often sandboxes are looked at.
    pub sample_period: Duration,
    /// A figure older than this is none.
    pub sample_max: Duration,
    /// Executions of one sandbox that its level follows from.
    pub runs_max: usize,
    /// Executions of all sandboxes count for so long.
    pub window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sample_period: Duration::from_secs(5),
            sample_max: Duration::from_secs(15),
            runs_max: 50,
            window: Duration::from_secs(300),
        }
    }
}

/// Executions of so long go into one histogram.
const SLOT: Duration = Duration::from_secs(10);

/// Shares of executions that failed, and average times, from which on something is not well.
const ERRORS: (f64, f64) = (0.05, 0.10);
const LATENCY_MS: (f64, f64) = (2_000.0, 5_000.0);
/// Sandboxes that are not well, from which on the whole is not.
const SICK: (usize, usize) = (5, 3);
/// A sandbox that was idle for longer is degraded.
const IDLE_MAX: Duration = Duration::from_secs(3_600);

/// What one sandbox was found to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Which.
    pub sandbox: SandboxId,
    /// Processor time over its whole life.
    pub cpu: Duration,
    /// Memory in bytes.
    pub memory: u64,
    /// Processors it may use.
    pub cpu_count: u32,
}

/// Everything that can happen.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An execution ended.
    Ran { sandbox: SandboxId, took: Duration, failed: bool },
    /// So many were not heard of.
    Missed { runs: u64 },
    /// Answers [`Effect::Sample`]: all that are leased.
    Sampled { uses: Vec<Use> },
    /// Answers [`Effect::Sample`].
    NotSampled,
    /// The deadline is here.
    Tick,
}

/// Everything that can be wanted done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out what every leased sandbox uses.
    Sample,
}

/// What is known.
#[derive(Debug)]
pub struct Health {
    limits: Limits,
    began: Moment,
    sandboxes: BTreeMap<SandboxId, Known>,
    slots: VecDeque<Slot>,
    missed: u64,
    sampling: bool,
    next: Moment,
}

#[derive(Debug, Default)]
struct Known {
    runs: VecDeque<(Duration, bool)>,
    /// The last look, and the processor share since the one before.
    last: Option<(Moment, Use)>,
    cpu: Option<f64>,
}

#[derive(Debug)]
struct Slot {
    began: Moment,
    times: Histogram,
    failed: u64,
}

/// The figures of one sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Processor time since the look before, in percent of one core.
    pub cpu_percent: Option<f64>,
    /// The same in percent of what it may use.
    pub cpu_share: Option<f64>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Share of its last executions that failed.
    pub error_rate: Option<f64>,
    /// How long they took on average, in milliseconds.
    pub latency_ms: Option<f64>,
}

/// Executions of the last window.
#[derive(Clone, Debug, PartialEq)]
pub struct Overall {
    /// How long those took that ran.
    pub times: Histogram,
    /// How many failed, those that did not run included.
    pub failed: u64,
    /// How long the window is by now.
    pub window: Duration,
    /// Executions that were not heard of since the start.
    pub missed: u64,
}

impl Overall {
    /// Share of executions that failed; `None` of nothing.
    pub fn error_rate(&self) -> Option<f64> {
        share(self.failed, self.times.count())
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Health {
    /// The only way to begin: knowing nothing.
    pub fn recover(limits: Limits, now: Moment) -> Self {
        Self {
            limits,
            began: now,
            sandboxes: BTreeMap::new(),
            slots: VecDeque::new(),
            missed: 0,
            sampling: false,
            next: now,
        }
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        match event {
            Event::Ran { sandbox, took, failed } => self.ran(now, sandbox, took, failed),
            Event::Missed { runs } => self.missed += runs,
            Event::Sampled { uses } => self.sampled(now, &uses),
            Event::NotSampled => self.sampling = false,
            Event::Tick => (),
        }
        let mut effects = Vec::new();
        if !self.sampling && self.next <= now {
            self.sampling = true;
            self.next = now + self.limits.sample_period;
            effects.push(Effect::Sample);
        }
        effects
    }

    /// When it looks next.
    pub fn next_deadline(&self) -> Option<Moment> {
        (!self.sampling).then_some(self.next)
    }

    fn ran(&mut self, now: Moment, sandbox: SandboxId, took: Duration, failed: bool) {
        let known = self.sandboxes.entry(sandbox).or_default();
        if known.runs.len() >= self.limits.runs_max {
            known.runs.pop_front();
        }
        known.runs.push_back((took, failed));
        if self.slots.back().is_none_or(|slot| slot.began + SLOT <= now) {
            let fresh = Slot { began: now, times: Histogram::default(), failed: 0 };
            self.slots.push_back(fresh);
            let window = self.limits.window;
            while self.slots.front().is_some_and(|slot| slot.began + window <= now) {
                self.slots.pop_front();
            }
        }
        if let Some(slot) = self.slots.back_mut() {
            slot.times.add(took);
            slot.failed += u64::from(failed);
        }
    }

    fn sampled(&mut self, now: Moment, uses: &[Use]) {
        self.sampling = false;
        let there: BTreeMap<SandboxId, Use> = uses.iter().map(|one| (one.sandbox, *one)).collect();
        // A sandbox is not looked at before it is leased, nor after.
        self.sandboxes.retain(|sandbox, _| there.contains_key(sandbox));
        for (sandbox, used) in there {
            let known = self.sandboxes.entry(sandbox).or_default();
            known.cpu = known.last.and_then(|(at, before)| {
                let passed = now.since(at).as_secs_f64();
                let worked = used.cpu.checked_sub(before.cpu)?.as_secs_f64();
                (passed > 0.0).then(|| 100.0 * worked / passed)
            });
            known.last = Some((now, used));
        }
    }

    /// What is known of one sandbox.
    pub fn figures(&self, now: Moment, sandbox: SandboxId) -> Figures {
        let Some(known) = self.sandboxes.get(&sandbox) else { return Figures::default() };
        let fresh = |(at, _): &(Moment, Use)| now.since(*at) <= self.limits.sample_max;
        let last = known.last.filter(fresh).map(|(_, used)| used);
        let runs = known.runs.len() as u64;
        let failed = known.runs.iter().filter(|(_, failed)| *failed).count() as u64;
        let took: Duration = known.runs.iter().map(|(took, _)| *took).sum();
        let cpu_percent = last.and(known.cpu);
        Figures {
            cpu_percent,
            cpu_share: cpu_percent.zip(last).map(|(cpu, used)| cpu / f64::from(used.cpu_count)),
            memory: last.map(|used| used.memory),
            error_rate: share(failed, runs),
            latency_ms: (runs > 0).then(|| took.as_secs_f64() * 1e3 / runs as f64),
        }
    }

    /// Executions of the last window, or since the start if that is shorter.
    pub fn overall(&self, now: Moment) -> Overall {
        let (mut times, mut failed) = (Histogram::default(), 0);
        let window = self.limits.window;
        for slot in self.slots.iter().filter(|slot| now < slot.began + window) {
            times.merge(&slot.times);
            failed += slot.failed;
        }
        Overall { times, failed, window: window.min(now.since(self.began)), missed: self.missed }
    }

    /// Since when this has been watched.
    pub fn watched(&self, now: Moment) -> Duration {
        now.since(self.began)
    }
}

/// How one sandbox is.
pub fn level(figures: &Figures, idle: Duration) -> Level {
    if figures.error_rate.is_some_and(|rate| rate > ERRORS.1) {
        Level::Unhealthy
    } else if figures.latency_ms.is_some_and(|ms| ms > LATENCY_MS.0) || idle > IDLE_MAX {
        Level::Degraded
    } else {
        Level::Healthy
    }
}

/// How everything is, and what is wrong, one sentence each.
pub fn judge(
    overall: &Overall,
    degraded: usize,
    unhealthy: usize,
    broken: &[String],
    usable: bool,
) -> (Level, Vec<String>) {
    let mut issues: Vec<(Level, String)> = Vec::new();
    if let Some(rate) = overall.error_rate() {
        let percent = 100.0 * rate;
        let said = |limit: f64| {
            format!(
                "{percent:.1} % of executions failed; more than {:.0} % is not well",
                100.0 * limit
            )
        };
        match rate {
            rate if rate > ERRORS.1 => issues.push((Level::Unhealthy, said(ERRORS.1))),
            rate if rate > ERRORS.0 => issues.push((Level::Degraded, said(ERRORS.0))),
            _ => (),
        }
    }
    if let Some(ms) = overall.times.mean_ms() {
        let said = |limit: f64| {
            format!("executions take {ms:.0} ms on average; more than {limit:.0} ms is slow")
        };
        match ms {
            ms if ms > LATENCY_MS.1 => issues.push((Level::Unhealthy, said(LATENCY_MS.1))),
            ms if ms > LATENCY_MS.0 => issues.push((Level::Degraded, said(LATENCY_MS.0))),
            _ => (),
        }
    }
    if unhealthy >= SICK.1 {
        issues.push((
            Level::Unhealthy,
            format!("{unhealthy} sandboxes are unhealthy; {} are many", SICK.1),
        ));
    }
    if degraded >= SICK.0 {
        issues.push((
            Level::Degraded,
            format!("{degraded} sandboxes are degraded; {} are many", SICK.0),
        ));
    }
    issues.extend(broken.iter().map(|why| (Level::Degraded, why.clone())));
    if !usable {
        issues.push((
            Level::Unhealthy,
            "no template can be used, so no sandbox can be made".to_owned(),
        ));
    }
    let worst = issues.iter().map(|(level, _)| *level).max().unwrap_or(Level::Healthy);
    (worst, issues.into_iter().map(|(_, issue)| issue).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    fn sandbox(number: u64) -> SandboxId {
        SandboxId::numbered(number)
    }

    fn ran(health: &mut Health, second: u64, millis: u64, failed: bool) {
        let took = Duration::from_millis(millis);
        let event = Event::Ran { sandbox: sandbox(1), took, failed };
        let _ = health.step(at(second), event);
    }

    #[test]
    fn what_was_not_measured_has_no_figure() {
        let health = Health::recover(Limits::default(), at(0));
        assert_eq!(health.figures(at(1), sandbox(1)), Figures::default());
        let overall = health.overall(at(1));
        assert_eq!((overall.error_rate(), overall.times.mean_ms()), (None, None));
        assert_eq!(judge(&overall, 0, 0, &[], true), (Level::Healthy, vec![]));
    }

    #[test]
    fn levels_follow_from_rates_and_times() {
        let check = |failed: u64, millis, expected| {
            let mut health = Health::recover(Limits::default(), at(0));
            for run in 0..100 {
                ran(&mut health, 1, millis, run < failed);
            }
            let (level, issues) = judge(&health.overall(at(2)), 0, 0, &[], true);
            assert_eq!(level, expected, "{failed} failed, {millis} ms: {issues:?}");
            assert_eq!(issues.is_empty(), level == Level::Healthy);
        };
        check(5, 10, Level::Healthy);
        check(6, 10, Level::Degraded);
        check(11, 10, Level::Unhealthy);
        check(0, 2_001, Level::Degraded);
        check(0, 5_001, Level::Unhealthy);
        let none = Health::recover(Limits::default(), at(0)).overall(at(1));
        assert_eq!(judge(&none, 5, 2, &[], true).0, Level::Degraded);
        assert_eq!(judge(&none, 0, 3, &[], true).0, Level::Unhealthy);
        assert_eq!(judge(&none, 0, 0, &[], false).0, Level::Unhealthy);
        assert_eq!(judge(&none, 0, 0, &["`x` cannot be used".to_owned()], true).0, Level::Degraded);
    }

    #[test]
    fn a_sandbox_is_judged_by_its_last_fifty_runs() {
        let mut health = Health::recover(Limits::default(), at(0));
        for run in 0..100 {
            ran(&mut health, 1, 10, run < 50);
        }
        let figures = health.figures(at(1), sandbox(1));
        assert_eq!(figures.error_rate, Some(0.0));
        ran(&mut health, 1, 10, true);
        for _ in 0..5 {
            ran(&mut health, 1, 10, true);
        }
        let figures = health.figures(at(1), sandbox(1));
        assert_eq!(level(&figures, Duration::ZERO), Level::Unhealthy);
        assert_eq!(level(&Figures::default(), IDLE_MAX * 2), Level::Degraded);
    }

    #[test]
    fn what_is_long_past_does_not_count() {
        let mut health = Health::recover(Limits::default(), at(0));
        ran(&mut health, 1, 10, true);
        assert_eq!(health.overall(at(300)).error_rate(), Some(1.0));
        assert_eq!(health.overall(at(301)).error_rate(), None);
    }

    #[test]
    fn processor_time_is_taken_between_two_looks_and_memory_from_the_last() {
        let mut health = Health::recover(Limits::default(), at(0));
        assert_eq!(health.step(at(0), Event::Tick), [Effect::Sample]);
        assert_eq!(health.next_deadline(), None, "one look at a time");
        let look = |cpu| Use {
            sandbox: sandbox(1),
            cpu: Duration::from_secs(cpu),
            memory: 7,
            cpu_count: 2,
        };
        let _ = health.step(at(1), Event::Sampled { uses: vec![look(1)] });
        assert_eq!(health.figures(at(1), sandbox(1)).cpu_percent, None);
        let _ = health.step(at(6), Event::Sampled { uses: vec![look(6)] });
        let figures = health.figures(at(6), sandbox(1));
        assert_eq!((figures.cpu_percent, figures.cpu_share), (Some(100.0), Some(50.0)));
        assert_eq!(figures.memory, Some(7));
        assert_eq!(health.figures(at(60), sandbox(1)).memory, None, "too old");
        let _ = health.step(at(61), Event::Sampled { uses: vec![] });
        assert_eq!(health.figures(at(61), sandbox(1)), Figures::default());
    }
}
