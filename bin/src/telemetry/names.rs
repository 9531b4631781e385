//! The one table of metrics. What each means, and what to do when it looks wrong, stands in
//! `docs/operations.md`, which a test holds to this table.

/// How a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Times, in buckets.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// As OpenTelemetry names it.
    pub name: &'static str,
    /// How it counts.
    pub kind: Kind,
    /// In the Unified Code for Units of Measure.
    pub unit: &'static str,
    /// Each has few values; none is an id.
    pub labels: &'static [&'static str],
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
) -> Metric {
    Metric { name, kind, unit, labels }
}

/// Every metric of a node.
pub const METRICS: &[Metric] = &[
    metric("sandpit.acquire.duration", Kind::Histogram, "s", &["template", "result"]),
    metric("sandpit.pool.ready", Kind::Gauge, "{sandbox}", &["template"]),
    metric("sandpit.pool.target", Kind::Gauge, "{sandbox}", &["template"]),
    metric("sandpit.pool.booting", Kind::Gauge, "{sandbox}", &["template"]),
    metric("sandpit.pool.claims", Kind::Counter, "{claim}", &["template", "result"]),
    metric(
        "sandpit.pool.replenish.duration",
        Kind::Histogram,
        "s",
        &["template", "provider", "result"],
    ),
    metric("sandpit.sandbox.live", Kind::Gauge, "{sandbox}", &["state"]),
    metric("sandpit.sandbox.created", Kind::Counter, "{sandbox}", &["provider", "result"]),
    metric("sandpit.sandbox.destroyed", Kind::Counter, "{sandbox}", &["provider", "reason"]),
    metric("sandpit.exec.duration", Kind::Histogram, "s", &["template", "result"]),
    metric("sandpit.exec.queue.duration", Kind::Histogram, "s", &["template", "result"]),
    metric("sandpit.exec.output", Kind::Counter, "By", &["template"]),
    metric("sandpit.exec.output.dropped", Kind::Counter, "By", &["template"]),
    metric("sandpit.cache.requests", Kind::Counter, "{request}", &["result"]),
    metric("sandpit.cache.size", Kind::Gauge, "By", &[]),
    metric("sandpit.reaper.reaped", Kind::Counter, "{sandbox}", &["reason"]),
    metric("sandpit.reaper.orphans", Kind::Gauge, "{sandbox}", &[]),
    metric("sandpit.actor.restarts", Kind::Counter, "{restart}", &["actor"]),
    metric("sandpit.actor.hangs", Kind::Counter, "{hang}", &["actor"]),
    metric("sandpit.provider.attempts", Kind::Counter, "{attempt}", &["endpoint", "class"]),
    metric("sandpit.provider.duration", Kind::Histogram, "s", &["endpoint", "class"]),
    metric("sandpit.retry.budget", Kind::Gauge, "{token}", &["endpoint"]),
    metric("sandpit.retry.refused", Kind::Counter, "{retry}", &["endpoint", "reason"]),
    metric("sandpit.breaker.state", Kind::Gauge, "1", &["endpoint"]),
    metric("sandpit.breaker.transitions", Kind::Counter, "{transition}", &["endpoint", "state"]),
    metric("sandpit.failover.switches", Kind::Counter, "{switch}", &["endpoint"]),
    metric("sandpit.hedge.sent", Kind::Counter, "{call}", &["endpoint"]),
    metric("sandpit.hedge.won", Kind::Counter, "{call}", &["endpoint"]),
    metric("sandpit.throttled", Kind::Counter, "{call}", &["endpoint"]),
    metric("sandpit.bulkhead.refused", Kind::Counter, "{call}", &["endpoint"]),
    metric("sandpit.bulkhead.in_use", Kind::Gauge, "{call}", &["endpoint"]),
    metric("sandpit.bulkhead.waiting", Kind::Gauge, "{call}", &["endpoint"]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn read(path: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        std::fs::read_to_string(root.join(path)).unwrap()
    }

    #[test]
    fn the_operators_table_is_this_one() {
        let page = read("docs/operations.md");
        let rows = page.lines().filter(|line| line.starts_with("| `sandpit."));
        let told: Vec<_> = rows
            .map(|row| {
                let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
                cells[..3].join(" / ")
            })
            .collect();
        let known: Vec<_> = METRICS
            .iter()
            .map(|metric| {
                let kind = format!("{:?}", metric.kind).to_lowercase();
                let labels = match metric.labels {
                    [] => "-".to_owned(),
                    labels => labels.join(", "),
                };
                format!("`{}` / {kind}, {} / {labels}", metric.name, metric.unit)
            })
            .collect();
        assert_eq!(told, known);
    }

    #[test]
    fn the_actors_count_under_these_names_and_no_others() {
        let source = read("actors/src/metrics.rs");
        let counted: BTreeSet<_> = source
            .split('"')
            .filter(|text| text.starts_with("sandpit.") && !text.contains(char::is_whitespace))
            .collect();
        assert_eq!(counted, METRICS.iter().map(|metric| metric.name).collect());
    }

    #[test]
    fn no_label_names_a_sandbox_an_execution_or_an_agent() {
        let allowed = [
            "template", "provider", "endpoint", "class", "actor", "verb", "result", "reason",
            "state",
        ];
        for metric in METRICS {
            for label in metric.labels {
                assert!(allowed.contains(label), "{}: {label}", metric.name);
            }
        }
    }
}
