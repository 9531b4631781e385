//! Requests about how everything is.

use std::time::Duration;

use sandpit_messages::health::{
    GetHealth, Health, Infrastructure, Level, Performance, PoolHealth, Reliability, SandboxHealth,
};
use sandpit_messages::refusal::Refusal;

use super::{Call, Entry, MIB, count, status_of};
use crate::health::GetFigures;
use crate::health::policy::{Figures, Overall, judge, level};
use crate::pool::policy::{Facts, StockView};
use crate::pool::{GetStocks, ListFacts};

impl Entry {
    pub(super) async fn health(&self, call: &Call, ask: GetHealth) -> Result<Health, Refusal> {
        let ports = &self.ports;
        let facts = ports.pool.ask_settled(ListFacts(call.tenant.clone())).await?;
        let facts: Vec<_> = facts.into_iter().filter(|fact| fact.ended.is_none()).collect();
        let wanted = facts.iter().map(|fact| fact.sandbox).collect();
        let known = ports.health.ask_settled(GetFigures(wanted)).await?;
        let stocks = ports.pool.ask_settled(GetStocks).await?.stocks;
        let now = ports.clock.now();
        let none = Figures::default();
        let each: Vec<_> = facts
            .iter()
            .map(|fact| {
                let figures = known.sandboxes.get(&fact.sandbox).copied().unwrap_or(none);
                let idle = now.since(fact.last_activity);
                (fact, figures, level(&figures, idle), idle)
            })
            .collect();
        let how_many = |wanted| each.iter().filter(|(_, _, level, _)| *level == wanted).count();
        let infrastructure = Infrastructure {
            healthy: count(how_many(Level::Healthy)),
            degraded: count(how_many(Level::Degraded)),
            unhealthy: count(how_many(Level::Unhealthy)),
        };
        let broken: Vec<_> = stocks
            .iter()
            .filter_map(|stock| {
                let why = stock.broken.as_ref()?;
                Some(format!("template `{}` cannot be used: {why}", stock.template))
            })
            .collect();
        let usable = stocks.is_empty() || stocks.iter().any(|stock| stock.broken.is_none());
        let (degraded, unhealthy) = (how_many(Level::Degraded), how_many(Level::Unhealthy));
        let (overall_health, issues) = judge(&known.overall, degraded, unhealthy, &broken, usable);
        let mut notes = Vec::new();
        if each.is_empty() {
            notes.push("there are no sandboxes, so there is nothing to average".to_owned());
        }
        let average_cpu = average(each.iter().map(|(_, figures, ..)| figures.cpu_share));
        if average_cpu.is_none() && !each.is_empty() {
            notes.push("no processor time yet: it takes two looks, 5 s apart".to_owned());
        }
        if known.overall.times.count() == 0 {
            notes.push("no execution ended in the last 300 s, so there are no rates".to_owned());
        }
        if known.overall.missed > 0 {
            notes.push(format!("{} executions were not counted", known.overall.missed));
        }
        let memory = each.iter().map(|(_, figures, ..)| figures.memory.map(mib));
        let shown = ask.include_all_sandboxes.then(|| {
            each.iter()
                .map(|(fact, figures, level, idle)| shown(fact, figures, *level, *idle))
                .collect()
        });
        Ok(Health {
            overall_health,
            total_sandboxes: count(each.len()),
            running_sandboxes: count(each.len()),
            average_cpu,
            average_memory: average(memory),
            issues,
            sandboxes: shown,
            infrastructure,
            performance: performance(&known.overall),
            reliability: known.overall.error_rate().map(|error_rate| Reliability {
                error_rate,
                executions: known.overall.times.count(),
                uptime: known.watched.as_secs_f64(),
            }),
            pool: pool(&stocks),
            nodes: vec![ports.node],
            notes,
        })
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

pub(super) fn average(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.flatten().collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn shown(fact: &Facts, figures: &Figures, health: Level, idle: Duration) -> SandboxHealth {
    SandboxHealth {
        sandbox_id: fact.sandbox,
        name: fact.name.clone(),
        status: status_of(fact),
        health,
        cpu_percent: figures.cpu_share,
        memory_mb: figures.memory.map(mib),
        error_rate: figures.error_rate,
        avg_latency_ms: figures.latency_ms,
        idle_seconds: idle.as_secs_f64(),
    }
}

fn performance(overall: &Overall) -> Option<Performance> {
    let times = &overall.times;
    let window = overall.window.as_secs_f64();
    Some(Performance {
        avg_latency_ms: times.mean_ms()?,
        p50_ms: times.percentile_ms(50)?,
        p95_ms: times.percentile_ms(95)?,
        p99_ms: times.percentile_ms(99)?,
        throughput: if window > 0.0 { times.count() as f64 / window } else { return None },
    })
}

fn pool(stocks: &[StockView]) -> PoolHealth {
    let sum = |of: fn(&StockView) -> usize| count(stocks.iter().map(of).sum());
    let hits: u64 = stocks.iter().map(|stock| stock.counts.hits).sum();
    let misses: u64 = stocks.iter().map(|stock| stock.counts.misses).sum();
    let asked = hits + misses;
    PoolHealth {
        target: sum(|stock| stock.target),
        ready: sum(|stock| stock.ready),
        hit_rate: (asked > 0).then(|| hits as f64 / asked as f64),
    }
}
