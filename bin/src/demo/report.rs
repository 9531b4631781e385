//! The report of a demonstration: one document, schema `sandpit.demo.run/1`, made from what agents
//! told, what the node counted and what the machine looked like. `docs/guide/demo.md` says what
//! every field means.

use std::collections::BTreeSet;
use std::time::Duration;

use sandpit_config::prices::Shape;
use sandpit_messages::pool::{CacheStock, Stock};
use serde::Serialize;

use super::costs::{CostReport, Usage};
use super::leftovers::{Leftovers, Seen};
use super::plan::{self, Kind, Part, Period, Temper};
use super::told::{Lease, Line, Outcome, Ran, Record, Terms, Where};
use crate::market::Market;

/// The name and version of the document. Taking a field away or giving it another type makes it 2.
pub const SCHEMA: &str = "sandpit.demo.run/1";

/// What one agent told so far.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its part.
    pub part: Part,
    /// Executions that were answered.
    pub ran: Vec<Ran>,
    /// Sandboxes it got.
    pub leases: Vec<Lease>,
    /// How long the cells in each of them ran, in order.
    pub cells: Vec<Vec<Duration>>,
    /// Seconds it held each that it gave back.
    pub lived_s: Vec<f64>,
    /// What came of it.
    pub outcome: Option<Outcome>,
    /// Why it gave up.
    pub failed: Option<String>,
}

impl Worker {
    /// Nothing yet.
    pub fn new(part: Part) -> Self {
        let (ran, leases, cells, lived_s) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { part, ran, leases, cells, lived_s, outcome: None, failed: None }
    }

    /// Takes in a line.
    pub fn hear(&mut self, line: Line) {
        match line {
            Line::Ran(ran) => {
                if let (Where::Leased, Some(cells)) = (ran.place, self.cells.last_mut()) {
                    cells.push(seconds(ran.run_ms / 1_000.0));
                }
                self.ran.push(ran);
            }
            Line::Leased(lease) => {
                self.leases.push(lease);
                self.cells.push(Vec::new());
            }
            Line::Returned { lived_s } => self.lived_s.push(lived_s),
            Line::Finished(outcome) => self.outcome = Some(*outcome),
            Line::Failed { why } => self.failed = Some(why),
            // For the live view.
            Line::Ready | Line::Chose { .. } | Line::Year { .. } => {}
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Every agent finished and nothing was left.
    Ok,
    /// Some agent did not finish.
    Failed,
    /// Everything was done, and something was left.
    Leaked,
}

/// Milliseconds of something that happened many times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50: f64,
    /// 99 of 100 took no longer; with fewer than 100, the longest.
    pub p99: f64,
    /// How many.
    pub n: usize,
}

impl Latency {
    /// Of these, by nearest rank. All zero for none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
            values.get(at).map_or(0.0, |value| rounded(*value, 1_000.0))
        };
        Self { p50: rank(50), p99: rank(99), n: values.len() }
    }
}

/// The warm pool, as the node counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PoolReport {
    /// Kept ready.
    pub target: u32,
    /// Acquires that found one ready, leases and one-shot runs together.
    pub hits: u64,
    /// Acquires that waited for a boot.
    pub misses: u64,
    /// Acquires that were refused.
    pub refused: u64,
    /// Hits of hits and misses; 0 without any.
    pub hit_rate: f64,
}

/// The result cache, as the node counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CacheReport {
    /// Runs answered from it.
    pub hits: u64,
    /// Runs that joined an equal one under way.
    pub joined: u64,
    /// Cacheable runs that had to run.
    pub misses: u64,
}

/// How long each part took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Walls {
    /// Milliseconds to have prices on disk.
    pub data_ms: u64,
    /// Milliseconds until the node answered: bus, template, first stock.
    pub node_ms: u64,
    /// Milliseconds from the first agent's start to the last one's end.
    pub swarm_ms: u64,
    /// Milliseconds until the node had left.
    pub teardown_ms: u64,
    /// Milliseconds of all of it.
    pub total_ms: u64,
}

/// One agent's line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentReport {
    /// What it is called.
    pub name: String,
    /// How its desk traded.
    pub strategy: Kind,
    /// How it chose.
    pub temper: Temper,
    /// Executions that were answered for it.
    pub executions: usize,
    /// Those another run answered.
    pub cached: usize,
    /// What came of it; absent if it gave up.
    #[serde(flatten)]
    pub outcome: Option<Outcome>,
    /// Why it gave up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// What the draws began with: the same seed gives the same figures of trading.
    pub seed: u64,
    /// Agents that were started.
    pub agents: usize,
    /// Kinds of strategies among them.
    pub strategies: usize,
    /// Instruments that some desk looked at.
    pub instruments: usize,
    /// Executions that were answered.
    pub executions: usize,
    /// Agents that gave up.
    pub failed: usize,
    /// Things left behind.
    pub leaked: usize,
    /// What holds sandboxes apart on this machine.
    pub isolation: String,
    /// The prices.
    pub data: Market,
    /// What agents learned from.
    pub research: Period,
    /// What nobody had seen.
    pub test: Period,
    /// From asking for a sandbox to having it, as agents saw it.
    pub acquire_ms: Latency,
    /// From asking for a run to its answer, for runs that ran.
    pub exec_ms: Latency,
    /// The part of that which was not the program running.
    pub exec_overhead_ms: Latency,
    /// From asking for a run to its answer, where another run answered.
    pub cached_ms: Latency,
    /// The warm pool.
    pub pool: PoolReport,
    /// The result cache.
    pub cache: CacheReport,
    /// What it would have cost.
    pub cost: CostReport,
    /// Under what desks traded; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    /// Every agent.
    pub per_agent: Vec<AgentReport>,
    /// What was looked at for leaks.
    pub watched: Seen,
    /// What was left behind.
    pub left_behind: Leftovers,
    /// How long it took.
    pub wall: Walls,
}

/// What agents told, added up.
#[derive(Debug)]
pub struct Swarm<'a>(pub &'a [Worker]);

impl Swarm<'_> {
    fn ran(&self) -> impl Iterator<Item = &Ran> {
        self.0.iter().flat_map(|worker| &worker.ran)
    }

    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.0.iter().flat_map(|worker| &worker.leases)
    }

    /// What its sandboxes were used for; `stock` is how long ready ones waited.
    pub fn usage(&self, stock: Duration) -> Usage {
        let one_shots = |cached: bool| {
            let fitting = move |ran: &&Ran| ran.place == Where::OneShot && ran.cached == cached;
            self.ran().filter(fitting).map(|ran| seconds(ran.run_ms / 1_000.0)).collect()
        };
        let lived = self.0.iter().flat_map(|worker| &worker.lived_s);
        Usage {
            shape: self.leases().next().map_or(Shape { cpu_count: 1, memory_mb: 512 }, |lease| {
                Shape { cpu_count: lease.cpu_count, memory_mb: lease.memory_mb }
            }),
            leases: lived.map(|lived_s| seconds(*lived_s)).collect(),
            one_shots: one_shots(false),
            answered: one_shots(true),
            cells: self.0.iter().flat_map(|worker| worker.cells.clone()).collect(),
            stock,
        }
    }

    /// The document, before anybody has looked for leaks.
    pub fn report(
        &self,
        seed: u64,
        data: Market,
        stock: &Stock,
        cache: CacheStock,
        cost: CostReport,
    ) -> Report {
        let outcomes = || self.0.iter().filter_map(|worker| worker.outcome.as_ref());
        let kinds: BTreeSet<Kind> = self.0.iter().map(|worker| worker.part.kind).collect();
        let instruments: BTreeSet<&String> =
            outcomes().flat_map(|outcome| &outcome.instruments).collect();
        let failed = self.0.iter().filter(|worker| worker.outcome.is_none()).count();
        let fresh = || self.ran().filter(|ran| !ran.cached);
        Report {
            ended: if failed == 0 { Ended::Ok } else { Ended::Failed },
            seed,
            agents: self.0.len(),
            strategies: kinds.len(),
            instruments: instruments.len(),
            executions: self.ran().count(),
            failed,
            leaked: 0,
            isolation: self.leases().next().map_or_else(String::new, |one| one.isolation.clone()),
            data,
            research: plan::RESEARCH,
            test: plan::TEST,
            acquire_ms: Latency::of(self.leases().map(|lease| lease.took_ms)),
            exec_ms: Latency::of(fresh().map(|ran| ran.took_ms)),
            exec_overhead_ms: Latency::of(
                // A one-shot run waits for a sandbox as well; a cell in a lease is the bare way.
                fresh()
                    .filter(|ran| ran.place == Where::Leased)
                    .map(|ran| (ran.took_ms - ran.run_ms).max(0.0)),
            ),
            cached_ms: Latency::of(self.ran().filter(|ran| ran.cached).map(|ran| ran.took_ms)),
            pool: pool(stock),
            cache: CacheReport { hits: cache.hits, joined: cache.joined, misses: cache.misses },
            cost,
            terms: outcomes().next().map(|outcome| outcome.terms),
            per_agent: self.0.iter().map(line).collect(),
            watched: Seen::default(),
            left_behind: Leftovers::default(),
            wall: Walls::default(),
        }
    }
}

impl Report {
    /// Adds what was found when everything was over.
    #[must_use]
    pub fn closed(self, left_behind: Leftovers, watched: Seen, wall: Walls) -> Self {
        let leaked = left_behind.count();
        let ended = match self.ended {
            Ended::Ok if leaked > 0 => Ended::Leaked,
            ended => ended,
        };
        Self { ended, leaked, left_behind, watched, wall, ..self }
    }
}

fn pool(stock: &Stock) -> PoolReport {
    let (hits, misses) = (stock.hits, stock.misses);
    PoolReport {
        target: stock.target,
        hits,
        misses,
        refused: stock.refused,
        hit_rate: rounded(share(hits, hits + misses), 10_000.0),
    }
}

fn line(worker: &Worker) -> AgentReport {
    let vanished = || "its process ended without a word".to_owned();
    let failed = worker.outcome.is_none().then(|| worker.failed.clone().unwrap_or_else(vanished));
    AgentReport {
        name: worker.part.name.clone(),
        strategy: worker.part.kind,
        temper: worker.part.temper,
        executions: worker.ran.len(),
        cached: worker.ran.iter().filter(|ran| ran.cached).count(),
        outcome: worker.outcome.as_ref().map(tidy),
        failed,
    }
}

/// Ratios to six digits after the point: more would be noise.
fn tidy(outcome: &Outcome) -> Outcome {
    let figure = |value: f64| rounded(value, 1_000_000.0);
    let record = |record: Record| Record {
        gain: figure(record.gain),
        sharpe: figure(record.sharpe),
        max_drawdown: figure(record.max_drawdown),
        ..record
    };
    Outcome {
        walk_forward_sharpe: figure(outcome.walk_forward_sharpe),
        test: record(outcome.test),
        stressed: record(outcome.stressed),
        hold: record(outcome.hold),
        ..outcome.clone()
    }
}

/// Nothing of nothing is nothing.
#[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds are far below 2^53")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// What a program says of itself may be no time at all.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use sandpit_config::prices::PriceBook;
    use serde_json::Value;

    use super::super::costs;
    use super::*;

    /// What every field means.
    const GUIDE: &str = include_str!("../../../docs/guide/demo.md");

    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.insert(name.clone());
                    names(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }

    fn outcome() -> Outcome {
        let record = Record::default();
        Outcome {
            instruments: vec!["KO".to_owned()],
            parameters: "days 5".to_owned(),
            variants: 6,
            walk_forward_sharpe: 0.123_456_789,
            terms: Terms {
                capital: 1,
                cost_bps: 5,
                borrow_bps: 50,
                fill_after: 1,
                weight_max: 0.2,
                gross_max: 0.98,
            },
            test: record,
            stressed: record,
            hold: record,
            equity: 1,
            fills_sha256: String::new(),
        }
    }

    fn stock() -> Stock {
        let text = r#"{"template":"trading","digest":"","target":10,"ready":10,"booting":0,"leased":0,
            "ending":0,"waiting":0,"hits":3,"misses":1,"refused":0,"boot_failures":0}"#;
        serde_json::from_str(text).unwrap()
    }

    fn market() -> Market {
        Market {
            folder: PathBuf::new(),
            source: String::new(),
            version: String::new(),
            file: String::new(),
            license: String::new(),
            caution: String::new(),
            sha256: String::new(),
            prices_sha256: String::new(),
            fetched: false,
            from: String::new(),
            to: String::new(),
            rows: 0,
            symbols: Vec::new(),
        }
    }

    /// Two agents, one of which gave up.
    fn report() -> Report {
        let mut workers: Vec<Worker> = plan::parts(8, 1).into_iter().map(Worker::new).collect();
        workers.truncate(2);
        workers[0].hear(Line::Finished(Box::new(outcome())));
        workers[1].hear(Line::Failed { why: "a reason".to_owned() });
        let swarm = Swarm(&workers);
        let cost = costs::estimate(&PriceBook::builtin(), &swarm.usage(Duration::ZERO)).unwrap();
        swarm.report(1, market(), &stock(), CacheStock::default(), cost)
    }

    #[test]
    fn every_field_of_the_document_is_explained() {
        let mut found = BTreeSet::new();
        names(&serde_json::to_value(report()).unwrap(), &mut found);
        let unexplained: Vec<&String> =
            found.iter().filter(|name| !GUIDE.contains(&format!("`{name}`"))).collect();
        assert!(unexplained.is_empty(), "docs/guide/demo.md does not explain {unexplained:?}");
    }

    #[test]
    fn an_agent_that_gave_up_fails_the_run_and_a_leak_fails_one_without() {
        let failed = report();
        assert_eq!((failed.ended, failed.failed, failed.agents), (Ended::Failed, 1, 2));
        assert_eq!((failed.pool.hit_rate, failed.instruments), (0.75, 1));
        let left = Leftovers { mounts: vec!["x".to_owned()], ..Leftovers::default() };
        let good = Report { ended: Ended::Ok, ..report() };
        let leaked = good.clone().closed(left.clone(), Seen::default(), Walls::default());
        assert_eq!((leaked.ended, leaked.leaked), (Ended::Leaked, 1));
        let both = failed.closed(left, Seen::default(), Walls::default());
        assert_eq!((both.ended, both.leaked), (Ended::Failed, 1));
        let clean = good.closed(Leftovers::default(), Seen::default(), Walls::default());
        assert_eq!((clean.ended, clean.leaked), (Ended::Ok, 0));
    }

    #[test]
    fn percentiles_are_values_that_happened() {
        assert_eq!(Latency::of([]), Latency::default());
        assert_eq!(Latency::of([3.0, 1.0, 2.0]), Latency { p50: 2.0, p99: 3.0, n: 3 });
        let hundred = (1..=200).map(f64::from);
        assert_eq!(Latency::of(hundred), Latency { p50: 100.0, p99: 198.0, n: 200 });
    }

    #[test]
    fn an_agent_that_vanished_is_a_failure_with_a_reason() {
        let worker = Worker::new(plan::parts(8, 1).remove(0));
        let line = line(&worker);
        assert_eq!(line.failed.as_deref(), Some("its process ended without a word"));
    }

    #[test]
    fn usage_tells_apart_what_ran_what_was_answered_and_what_was_held() {
        let mut worker = Worker::new(plan::parts(8, 1).remove(0));
        let ran = |place, cached, run_ms| {
            Line::Ran(Ran { step: "x".to_owned(), place, took_ms: run_ms, run_ms, cached })
        };
        worker.hear(ran(Where::OneShot, false, 100.0));
        worker.hear(ran(Where::OneShot, true, 200.0));
        worker.hear(Line::Leased(Lease {
            took_ms: 1.0,
            from_pool: true,
            cpu_count: 2,
            memory_mb: 1_024,
            isolation: String::new(),
        }));
        worker.hear(ran(Where::Leased, false, 300.0));
        worker.hear(Line::Returned { lived_s: 1.5 });
        let usage = Swarm(&[worker]).usage(Duration::from_secs(9));
        let ms = |ms| vec![Duration::from_millis(ms)];
        assert_eq!((usage.one_shots, usage.answered), (ms(100), ms(200)));
        assert_eq!(usage.shape, Shape { cpu_count: 2, memory_mb: 1_024 });
        assert_eq!(
            (usage.cells, usage.leases, usage.stock),
            (vec![ms(300)], ms(1_500), Duration::from_secs(9))
        );
    }
}
