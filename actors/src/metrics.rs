//! What the actors count and time, under the names of `docs/operations.md`. The exporter is
//! installed by the program, before the first actor starts; without one nothing is kept.

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, global};
use sandpit_sandbox::guard::breaker::Position;
use sandpit_sandbox::guard::decision::{Decision, Hear, class_name};

/// All instruments. Labels have few values: never an id.
#[derive(Debug)]
pub(crate) struct Metrics {
    acquire_duration: Histogram<f64>,
    pool_ready: Gauge<u64>,
    pool_target: Gauge<u64>,
    pool_booting: Gauge<u64>,
    pool_claims: Counter<u64>,
    replenish_duration: Histogram<f64>,
    sandbox_live: Gauge<u64>,
    sandbox_created: Counter<u64>,
    sandbox_destroyed: Counter<u64>,
    exec_duration: Histogram<f64>,
    exec_queue_duration: Histogram<f64>,
    exec_output: Counter<u64>,
    exec_output_dropped: Counter<u64>,
    cache_requests: Counter<u64>,
    cache_size: Gauge<u64>,
    reaper_reaped: Counter<u64>,
    reaper_orphans: Gauge<u64>,
    actor_restarts: Counter<u64>,
    actor_hangs: Counter<u64>,
    provider_attempts: Counter<u64>,
    provider_duration: Histogram<f64>,
    retry_budget: Gauge<u64>,
    retry_refused: Counter<u64>,
    breaker_state: Gauge<u64>,
    breaker_transitions: Counter<u64>,
    failover_switches: Counter<u64>,
    hedge_sent: Counter<u64>,
    hedge_won: Counter<u64>,
    throttled: Counter<u64>,
    bulkhead_refused: Counter<u64>,
    bulkhead_in_use: Gauge<u64>,
    bulkhead_waiting: Gauge<u64>,
}

/// Upper bounds in seconds: local answers are below five milliseconds.
const FAST: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0,
];

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::of(&global::meter("sandpit")));

/// The instruments of this process.
pub(crate) fn metrics() -> &'static Metrics {
    &METRICS
}

/// Counts what the guards of endpoints decide.
pub fn of_guards() -> Hear {
    Hear::new(|endpoint, decision| metrics().decided(endpoint, decision))
}

fn label(key: &'static str, value: impl Into<String>) -> KeyValue {
    KeyValue::new(key, value.into())
}

impl Metrics {
    fn of(meter: &Meter) -> Self {
        let seconds = |name: &'static str| {
            meter.f64_histogram(name).with_unit("s").with_boundaries(FAST.to_vec()).build()
        };
        let count = |name: &'static str, unit: &'static str| {
            meter.u64_counter(name).with_unit(unit).build()
        };
        let level =
            |name: &'static str, unit: &'static str| meter.u64_gauge(name).with_unit(unit).build();
        Self {
            acquire_duration: seconds("sandpit.acquire.duration"),
            pool_ready: level("sandpit.pool.ready", "{sandbox}"),
            pool_target: level("sandpit.pool.target", "{sandbox}"),
            pool_booting: level("sandpit.pool.booting", "{sandbox}"),
            pool_claims: count("sandpit.pool.claims", "{claim}"),
            replenish_duration: seconds("sandpit.pool.replenish.duration"),
            sandbox_live: level("sandpit.sandbox.live", "{sandbox}"),
            sandbox_created: count("sandpit.sandbox.created", "{sandbox}"),
            sandbox_destroyed: count("sandpit.sandbox.destroyed", "{sandbox}"),
            exec_duration: seconds("sandpit.exec.duration"),
            exec_queue_duration: seconds("sandpit.exec.queue.duration"),
            exec_output: count("sandpit.exec.output", "By"),
            exec_output_dropped: count("sandpit.exec.output.dropped", "By"),
            cache_requests: count("sandpit.cache.requests", "{request}"),
            cache_size: level("sandpit.cache.size", "By"),
            reaper_reaped: count("sandpit.reaper.reaped", "{sandbox}"),
            reaper_orphans: level("sandpit.reaper.orphans", "{sandbox}"),
            actor_restarts: count("sandpit.actor.restarts", "{restart}"),
            actor_hangs: count("sandpit.actor.hangs", "{hang}"),
            provider_attempts: count("sandpit.provider.attempts", "{attempt}"),
            provider_duration: seconds("sandpit.provider.duration"),
            retry_budget: level("sandpit.retry.budget", "{token}"),
            retry_refused: count("sandpit.retry.refused", "{retry}"),
            breaker_state: level("sandpit.breaker.state", "1"),
            breaker_transitions: count("sandpit.breaker.transitions", "{transition}"),
            failover_switches: count("sandpit.failover.switches", "{switch}"),
            hedge_sent: count("sandpit.hedge.sent", "{call}"),
            hedge_won: count("sandpit.hedge.won", "{call}"),
            throttled: count("sandpit.throttled", "{call}"),
            bulkhead_refused: count("sandpit.bulkhead.refused", "{call}"),
            bulkhead_in_use: level("sandpit.bulkhead.in_use", "{call}"),
            bulkhead_waiting: level("sandpit.bulkhead.waiting", "{call}"),
        }
    }

    /// A caller asked for a sandbox. `result` is `hit`, `miss` or `refused`.
    pub(crate) fn claimed(&self, template: &str, result: &'static str, took: Duration) {
        let labels = [label("template", template), label("result", result)];
        self.pool_claims.add(1, &labels);
        self.acquire_duration.record(took.as_secs_f64(), &labels);
    }

    /// How much of a template there is.
    pub(crate) fn stock(&self, template: &str, ready: usize, target: usize, booting: usize) {
        let labels = [label("template", template)];
        self.pool_ready.record(ready as u64, &labels);
        self.pool_target.record(target as u64, &labels);
        self.pool_booting.record(booting as u64, &labels);
    }

    /// How many sandboxes there are in a state.
    pub(crate) fn live(&self, state: &'static str, sandboxes: usize) {
        self.sandbox_live.record(sandboxes as u64, &[label("state", state)]);
    }

    /// A boot ended. `result` is `ok` or `failed`.
    pub(crate) fn booted(
        &self,
        template: &str,
        provider: &'static str,
        result: &'static str,
        took: Duration,
    ) {
        let result = label("result", result);
        self.sandbox_created.add(1, &[label("provider", provider), result.clone()]);
        let labels = [label("template", template), label("provider", provider), result];
        self.replenish_duration.record(took.as_secs_f64(), &labels);
    }

    /// A sandbox is verified to be gone.
    pub(crate) fn destroyed(&self, provider: &'static str, reason: &'static str) {
        self.sandbox_destroyed.add(1, &[label("provider", provider), label("reason", reason)]);
    }

    /// An execution ended. `result` is `ok`, `failed`, `timed_out`, `killed`, `lost` or `refused`.
    pub(crate) fn ran(
        &self,
        template: &str,
        result: &'static str,
        took: Duration,
        queued: Duration,
    ) {
        let labels = [label("template", template), label("result", result)];
        self.exec_duration.record(took.as_secs_f64(), &labels);
        self.exec_queue_duration.record(queued.as_secs_f64(), &labels);
    }

    /// What an execution wrote, and how much of it nobody got.
    pub(crate) fn wrote(&self, template: &str, bytes: u64, dropped: u64) {
        let labels = [label("template", template)];
        self.exec_output.add(bytes, &labels);
        if dropped > 0 {
            self.exec_output_dropped.add(dropped, &labels);
        }
    }

    /// The result cache was asked. `result` is `hit`, `miss`, `joined` or `off`.
    pub(crate) fn cached(&self, result: &'static str) {
        self.cache_requests.add(1, &[label("result", result)]);
    }

    /// Bytes in the result cache.
    pub(crate) fn cache_holds(&self, bytes: u64) {
        self.cache_size.record(bytes, &[]);
    }

    /// The reaper ended a sandbox.
    pub(crate) fn reaped(&self, reason: &'static str) {
        self.reaper_reaped.add(1, &[label("reason", reason)]);
    }

    /// Sandboxes that exist and that nobody owns.
    pub(crate) fn orphans(&self, orphans: usize) {
        self.reaper_orphans.record(orphans as u64, &[]);
    }

    /// An actor was built again.
    pub(crate) fn restarted(&self, actor: &'static str) {
        self.actor_restarts.add(1, &[label("actor", actor)]);
    }

    /// What a guard decided about an endpoint.
    fn decided(&self, endpoint: &str, decision: Decision) {
        let of_endpoint = || label("endpoint", endpoint);
        match decision {
            Decision::Attempted { class, took } => {
                let labels = [of_endpoint(), label("class", class_name(class))];
                self.provider_attempts.add(1, &labels);
                self.provider_duration.record(took.as_secs_f64(), &labels);
            }
            Decision::GivenUp { why } => {
                let labels = [of_endpoint(), label("reason", why.as_str())];
                self.retry_refused.add(1, &labels);
            }
            Decision::Breaker { position } => {
                let state = match position {
                    Position::Closed => 0,
                    Position::HalfOpen => 1,
                    Position::Open => 2,
                };
                self.breaker_state.record(state, &[of_endpoint()]);
                let labels = [of_endpoint(), label("state", position.as_str())];
                self.breaker_transitions.add(1, &labels);
            }
            Decision::Switched => self.failover_switches.add(1, &[of_endpoint()]),
            Decision::Hedged => self.hedge_sent.add(1, &[of_endpoint()]),
            Decision::HedgeWon => self.hedge_won.add(1, &[of_endpoint()]),
            Decision::Paced { .. } => self.throttled.add(1, &[of_endpoint()]),
            Decision::Crowded => self.bulkhead_refused.add(1, &[of_endpoint()]),
            Decision::Levels { budget_left, in_use, waiting } => {
                self.retry_budget.record(budget_left, &[of_endpoint()]);
                self.bulkhead_in_use.record(in_use as u64, &[of_endpoint()]);
                self.bulkhead_waiting.record(waiting as u64, &[of_endpoint()]);
            }
            // Counted as the attempt that it becomes.
            Decision::Retried { .. } => (),
        }
    }

    /// An actor did not answer a ping.
    pub(crate) fn hung(&self, actor: &'static str) {
        self.actor_hangs.add(1, &[label("actor", actor)]);
    }
}
