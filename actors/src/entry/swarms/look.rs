//! Requests about swarms that change nothing.

use std::time::Duration;

use sandpit_messages::refusal::Refusal;
use sandpit_messages::swarm::{
    AgentHealth, AgentMetrics, AgentStatus, Aggregation, Alert, Covers, Decision, Figures,
    GetSwarmHealth, GetSwarmMetrics, GetSwarmStatus, HealthMetrics, Metric, Severity,
    StatusMetrics, SwarmAgent, SwarmHealth, SwarmLevel, SwarmMetrics, SwarmState, SwarmStatus,
    TimeRange,
};

use super::name;
use crate::entry::checks::invalid;
use crate::entry::health::average;
use crate::entry::{Call, Entry, MIB, count};
use crate::health::GetFigures;
use crate::swarm::Looked;
use crate::swarm::policy::Member;
use crate::swarm::policy::history::Covered;

const HOUR: Duration = Duration::from_secs(3_600);

impl Entry {
    pub(super) async fn swarm_status(
        &self,
        call: &Call,
        ask: GetSwarmStatus,
    ) -> Result<SwarmStatus, Refusal> {
        let looked = self.look(call, ask.swarm_id, HOUR).await?;
        let Looked { record, members, covered, .. } = &looked;
        let agents = staying(members);
        let active = agents.iter().filter(|one| one.status == AgentStatus::Running).count();
        let decision = Decision::of(count(agents.len()));
        let status = match record.stopped {
            Some(_) => SwarmState::Stopped,
            // A swarm without agents has nobody who could decide.
            None if active < decision.quorum as usize => SwarmState::Degraded,
            None => SwarmState::Active,
        };
        let (trades, pnl) = totals(&looked);
        let mut notes = Vec::new();
        if !decision.byzantine_tolerant {
            notes.push(format!("{} agents tolerate no liar: it takes four", agents.len()));
        }
        if pnl.is_none() {
            notes.push("no agent has a paper account with a bar in it".to_owned());
        }
        if covered.runs.times.count() == 0 && ask.include_metrics {
            notes.push("nothing ran in its sandboxes in the last hour".to_owned());
        }
        Ok(SwarmStatus {
            swarm_id: ask.swarm_id,
            name: name(ask.swarm_id, record),
            status,
            topology: record.order.topology,
            agent_count: count(agents.len()),
            active_agents: count(active),
            total_trades: trades,
            uptime_seconds: self.uptime(&looked),
            agents: ask.include_agents.then(|| members.iter().map(shown).collect()),
            metrics: ask.include_metrics.then(|| StatusMetrics {
                avg_latency_ms: covered.runs.times.mean_ms(),
                success_rate: covered.runs.error_rate().map(|rate| 1.0 - rate),
                total_pnl: pnl,
            }),
            decision,
            notes,
        })
    }

    pub(super) async fn swarm_health(
        &self,
        call: &Call,
        ask: GetSwarmHealth,
    ) -> Result<SwarmHealth, Refusal> {
        let seconds = u64::try_from(ask.interval).ok();
        let Some(seconds) = seconds.filter(|seconds| (10..=86_400).contains(seconds)) else {
            return Err(invalid("interval", ask.interval, "10 to 86400"));
        };
        let looked = self.look(call, ask.swarm_id, Duration::from_secs(seconds)).await?;
        let sandboxes: Vec<_> = looked.members.iter().filter_map(|one| one.sandbox).collect();
        let (mut cpu_usage, mut memory_usage) = (None, None);
        if ask.include_system_metrics {
            let known = self.ports.health.ask_settled(GetFigures(sandboxes)).await?;
            let figures = known.sandboxes.values();
            cpu_usage = average(figures.clone().map(|figures| figures.cpu_percent));
            memory_usage = average(figures.map(|figures| Some(figures.memory? as f64 / MIB)));
        }
        let runs = &looked.covered.runs;
        let metrics = HealthMetrics {
            cpu_usage,
            memory_usage,
            network_latency_ms: runs.times.mean_ms(),
            error_rate: runs.error_rate(),
            uptime_seconds: self.uptime(&looked),
        };
        let now = self.ports.clock.both().wall.rfc3339();
        let (health_status, alerts) = judge(&ask, &looked, &metrics, &now);
        let mut notes = Vec::new();
        if runs.times.count() == 0 {
            notes.push(format!("nothing ran in its sandboxes in the last {seconds} s"));
        }
        notes.push(
            "no decision protocol runs on this node, so nobody was silent or lied".to_owned(),
        );
        let health = |one: &Member| AgentHealth {
            agent_id: one.agent,
            status: one.status,
            last_heartbeat: one.heartbeat.map(|at| at.rfc3339()),
        };
        Ok(SwarmHealth {
            swarm_id: ask.swarm_id,
            health_status,
            timestamp: now,
            metrics,
            alerts,
            agent_health: looked.members.iter().map(health).collect(),
            notes,
        })
    }

    pub(super) async fn swarm_metrics(
        &self,
        call: &Call,
        ask: GetSwarmMetrics,
    ) -> Result<SwarmMetrics, Refusal> {
        meaningful(&ask)?;
        let looked = self.look(call, ask.swarm_id, range(ask.time_range)).await?;
        let mut notes = vec![
            "avg_trade_size and win_rate need the fills of each agent: see `fills`".to_owned(),
        ];
        if looked.covered.span.is_none() {
            notes.push(
                "nothing ran in its sandboxes in that time, as far as this node knows".to_owned(),
            );
        }
        let of = |one: &Member| AgentMetrics {
            agent_id: one.agent,
            trades: one.trades,
            pnl: one.pnl,
            success_rate: looked.success.get(&one.agent).copied(),
        };
        Ok(SwarmMetrics {
            swarm_id: ask.swarm_id,
            time_range: ask.time_range,
            metrics: figures(&ask, &looked),
            per_agent_metrics: looked.members.iter().map(of).collect(),
            covers: looked.covered.span.map(|(from, to)| Covers {
                from: from.rfc3339(),
                to: to.rfc3339(),
                samples: looked.covered.runs.times.count(),
            }),
            notes,
        })
    }

    /// Seconds since it was made, until it was shut down.
    fn uptime(&self, looked: &Looked) -> f64 {
        let until = looked.record.stopped.map(|stopped| stopped.at);
        let until = until.unwrap_or_else(|| self.ports.clock.both().wall);
        until.since(looked.record.created).as_secs_f64()
    }
}

fn staying(members: &[Member]) -> Vec<&Member> {
    members.iter().filter(|one| one.status != AgentStatus::Draining).collect()
}

/// Trades and profit of all agents that have an account; as recorded once it was shut down.
fn totals(looked: &Looked) -> (Option<u64>, Option<f64>) {
    if let Some(stopped) = looked.record.stopped {
        return (stopped.trades, stopped.pnl);
    }
    let trades: Vec<u64> = looked.members.iter().filter_map(|one| one.trades).collect();
    let pnl: Vec<f64> = looked.members.iter().filter_map(|one| one.pnl).collect();
    let some = |empty: bool| (!empty).then_some(());
    let trades_sum = some(trades.is_empty()).map(|()| trades.iter().sum());
    (trades_sum, some(pnl.is_empty()).map(|()| pnl.iter().sum()))
}

fn shown(one: &Member) -> SwarmAgent {
    SwarmAgent {
        agent_id: one.agent,
        agent_type: one.agent_type().to_owned(),
        status: one.status,
        sandbox_id: one.sandbox,
        trades: one.trades,
        pnl: one.pnl,
        error: one.error.clone(),
    }
}

/// How it is, and one alert for each threshold that was passed.
fn judge(
    ask: &GetSwarmHealth,
    looked: &Looked,
    metrics: &HealthMetrics,
    now: &str,
) -> (SwarmLevel, Vec<Alert>) {
    let agents = staying(&looked.members);
    let how_many = |wanted| agents.iter().filter(|one| one.status == wanted).count();
    let (active, failed) = (how_many(AgentStatus::Running), how_many(AgentStatus::Error));
    let quorum = Decision::of(count(agents.len())).quorum as usize;
    let limits = ask.alerts;
    let mut passed = Vec::new();
    if active < quorum && !agents.is_empty() {
        let why = format!("{active} agents are active; a decision takes {quorum}");
        passed.push((Severity::Critical, why));
    }
    let share = failed as f64 / agents.len().max(1) as f64;
    if failed > 0 && share >= limits.failure_threshold {
        let limit = limits.failure_threshold;
        let why = format!("{share:.2} of the agents failed; the limit is {limit:.2}");
        passed.push((Severity::Critical, why));
    }
    if let Some(ms) = metrics.network_latency_ms.filter(|ms| *ms > limits.latency_threshold) {
        let limit = limits.latency_threshold;
        passed
            .push((Severity::Warning, format!("runs take {ms:.0} ms; the limit is {limit:.0} ms")));
    }
    if let Some(rate) = metrics.error_rate.filter(|rate| *rate > limits.error_rate_threshold) {
        let limit = limits.error_rate_threshold;
        passed.push((
            Severity::Warning,
            format!("{rate:.3} of the runs failed; the limit is {limit:.3}"),
        ));
    }
    let level = match passed.iter().any(|(severity, _)| *severity == Severity::Critical) {
        true => SwarmLevel::Critical,
        false if passed.is_empty() => SwarmLevel::Healthy,
        false => SwarmLevel::Degraded,
    };
    let alert = |(severity, message)| Alert { severity, message, timestamp: now.to_owned() };
    (level, passed.into_iter().map(alert).collect())
}

fn range(asked: TimeRange) -> Duration {
    let hours = match asked {
        TimeRange::Hour => 1,
        TimeRange::SixHours => 6,
        TimeRange::Day => 24,
        TimeRange::Week => 7 * 24,
        TimeRange::Month => 30 * 24,
    };
    hours * HOUR
}

/// Whether an aggregation says something of a figure.
fn fits(metric: Metric, aggregation: Aggregation) -> bool {
    use Aggregation::{Avg, Max, Min, P50, P95, P99, Sum};
    match metric {
        Metric::Latency => aggregation != Sum,
        Metric::Throughput | Metric::ErrorRate | Metric::SuccessRate => {
            matches!(aggregation, Avg | Min | Max)
        }
        // There is one total; an average over the whole range is that.
        Metric::Pnl | Metric::Trades => !matches!(aggregation, Min | Max | P50 | P95 | P99),
        Metric::All => true,
    }
}

/// A figure that was asked for by name must mean something; of `all`, those do that are told.
fn meaningful(ask: &GetSwarmMetrics) -> Result<(), Refusal> {
    let odd = ask.metrics.iter().find(|metric| !fits(**metric, ask.aggregation));
    match odd {
        None => Ok(()),
        Some(metric) => {
            let word = |value: serde_json::Result<serde_json::Value>| {
                value.ok().and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_default()
            };
            let (of, by) =
                (word(serde_json::to_value(metric)), word(serde_json::to_value(ask.aggregation)));
            Err(invalid(
                "aggregation",
                format!("{by} of {of}"),
                format!("one that means something for {of}"),
            ))
        }
    }
}

fn figures(ask: &GetSwarmMetrics, looked: &Looked) -> Figures {
    let by = ask.aggregation;
    let wants = |metric| {
        let asked = ask.metrics.iter().any(|one| *one == metric || *one == Metric::All);
        asked && fits(metric, by)
    };
    let Covered { runs, slots, .. } = &looked.covered;
    let times = &runs.times;
    let latency = match by {
        Aggregation::Avg | Aggregation::Sum => times.mean_ms(),
        Aggregation::Min => times.min_ms(),
        Aggregation::Max => times.max_ms(),
        Aggregation::P50 => times.percentile_ms(50),
        Aggregation::P95 => times.percentile_ms(95),
        Aggregation::P99 => times.percentile_ms(99),
    };
    let over = |of: fn(&(f64, f64)) -> f64| {
        let values = slots.iter().map(of);
        match by {
            Aggregation::Min => values.reduce(f64::min),
            Aggregation::Max => values.reduce(f64::max),
            _ => average(values.map(Some)),
        }
    };
    let errors = match by {
        Aggregation::Avg => runs.error_rate(),
        _ => over(|(_, rate)| *rate),
    };
    let success = match by {
        Aggregation::Avg => runs.error_rate().map(|rate| 1.0 - rate),
        _ => over(|(_, rate)| 1.0 - *rate),
    };
    let (trades, pnl) = totals(looked);
    let if_wanted = |metric, value: Option<f64>| value.filter(|_| wants(metric));
    Figures {
        latency_ms: if_wanted(Metric::Latency, latency),
        throughput_tps: if_wanted(Metric::Throughput, over(|(rate, _)| *rate)),
        error_rate: if_wanted(Metric::ErrorRate, errors),
        success_rate: if_wanted(Metric::SuccessRate, success),
        total_pnl: if_wanted(Metric::Pnl, pnl),
        total_trades: trades.filter(|_| wants(Metric::Trades)),
    }
}
