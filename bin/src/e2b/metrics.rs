//! What sandboxes used: one sample of each every five seconds, kept for an hour.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use sandpit_actors::entry::Held;
use sandpit_messages::id::SandboxId;
use sandpit_messages::time::Moment;
use sandpit_sandbox::e2b::wire::Timestamp;
use sandpit_sandbox::e2b::wire::control::SandboxMetric;
use sandpit_sandbox::provider::Sample;

use super::Shared;

/// How often, as E2B documents it.
const EVERY: Duration = Duration::from_secs(5);

/// Samples of one sandbox: an hour of them.
const KEPT_MAX: usize = 720;

/// Samples taken at once.
const AT_ONCE: usize = 8;

/// Longest wait for one sample.
const SAMPLE_MAX: Duration = Duration::from_secs(1);

/// Samples by sandbox.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<BTreeMap<SandboxId, Series>>);

#[derive(Debug, Default)]
struct Series {
    kept: VecDeque<SandboxMetric>,
    /// When the last one was taken, and the processor time so far.
    last: Option<(Moment, Duration)>,
}

impl Metrics {
    fn series(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Series>> {
        // Whoever panicked here did so between two whole steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a sandbox from one second to another, both of them included.
    pub(super) fn between(&self, sandbox: SandboxId, from: u64, to: u64) -> Vec<SandboxMetric> {
        let series = self.series();
        let Some(series) = series.get(&sandbox) else { return Vec::new() };
        let wanted = |metric: &&SandboxMetric| (from..=to).contains(&metric.timestamp_unix);
        series.kept.iter().filter(wanted).copied().collect()
    }

    fn take_in(&self, held: &Held, at: (Moment, Timestamp), sample: &Sample) {
        let (moment, timestamp) = at;
        let mut all = self.series();
        let series = all.entry(held.sandbox).or_default();
        let last = series.last.replace((moment, sample.cpu));
        // A share needs two looks; the first counts from the grant.
        let (since, before) = last.unwrap_or((held.granted, Duration::ZERO));
        let cores = f64::from(sample.cpu_count.max(1));
        let elapsed = moment.since(since).as_secs_f64() * cores;
        let used = sample.cpu.saturating_sub(before).as_secs_f64();
        let share = if elapsed > 0.0 { (used / elapsed).min(1.0) } else { 0.0 };
        if series.kept.len() == KEPT_MAX {
            series.kept.pop_front();
        }
        series.kept.push_back(metric(timestamp, sample, share));
    }
}

/// One sample as it is told. `share` is that of all its processors, 0 to 1.
pub(super) fn metric(timestamp: Timestamp, sample: &Sample, share: f64) -> SandboxMetric {
    SandboxMetric {
        timestamp,
        timestamp_unix: timestamp.seconds(),
        cpu_count: sample.cpu_count,
        cpu_used_pct: (share * 10_000.0).round() / 100.0,
        mem_used: sample.memory,
        mem_total: sample.memory_max,
        mem_cache: sample.memory_cache,
        disk_used: sample.disk,
        disk_total: sample.disk_max,
    }
}

/// Takes samples until it is dropped, and forgets what has ended.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // What is made meanwhile is in no list, and not to be forgotten for that.
        let known = shared.table.known();
        let mut alive = BTreeMap::new();
        let mut complete = true;
        for tenant in shared.table.tenants() {
            match shared.direct.list(&tenant).await {
                Ok(held) => alive.extend(held.into_iter().map(|held| (held.sandbox, held))),
                Err(_) => complete = false,
            }
        }
        if complete {
            let ended = known.into_iter().filter(|sandbox| !alive.contains_key(sandbox));
            ended.for_each(|sandbox| shared.table.remove(sandbox));
            shared.metrics.series().retain(|sandbox, _| alive.contains_key(sandbox));
        }
        let running = alive.into_values().filter(|held| !held.paused);
        stream::iter(running).for_each_concurrent(AT_ONCE, |held| look(&shared, held)).await;
    }
}

async fn look(shared: &Shared, held: Held) {
    let sampling = tokio::time::timeout(SAMPLE_MAX, shared.provider().sample(held.sandbox));
    // One that cannot be looked at now is looked at in five seconds, or has ended.
    let Ok(Ok(sample)) = sampling.await else { return };
    let moment = shared.direct.clock().now();
    shared.metrics.take_in(&held, (moment, shared.time(moment)), &sample);
}
