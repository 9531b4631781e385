//! The report for people: tables that fit a hundred columns.

use std::ops::Range;

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use super::costs::CostReport;
use super::report::{AgentReport, Ended, Latency, Report};
use super::told::Outcome;
use crate::cli::out;

/// Columns the report never exceeds.
const WIDTH: u16 = 100;

/// All of it, ready to be printed. `styled` adds color and weight, for a terminal.
pub fn render(report: &Report, styled: bool) -> String {
    let sections = [
        verdict(report, styled),
        trading(report, styled),
        node(report, styled),
        cost(&report.cost, styled),
        provenance(report),
    ];
    sections.join("\n\n")
}

fn verdict(report: &Report, styled: bool) -> String {
    let Report { agents, strategies, instruments, executions, failed, leaked, .. } = report;
    let how = match report.ended {
        Ended::Ok => "done",
        Ended::Failed => "failed",
        Ended::Leaked => "done, but something was left behind",
    };
    let mut lines = vec![format!(
        "{how}: {agents} agents, {strategies} strategies, {instruments} instruments, {executions} executions; {failed} failed, {leaked} left behind"
    )];
    if styled {
        let color = if report.ended == Ended::Ok { "32" } else { "31" };
        lines[0] = format!("\u{1b}[1;{color}m{}\u{1b}[0m", lines[0]);
    }
    for agent in &report.per_agent {
        if let Some(why) = &agent.failed {
            lines.push(format!("  {} gave up: {why}", agent.name));
        }
    }
    let left = &report.left_behind;
    let groups = [
        ("process", &left.processes),
        ("mount", &left.mounts),
        ("control group", &left.cgroups),
        ("network namespace", &left.network_namespaces),
        ("sandbox", &left.sandboxes),
    ];
    for (what, names) in groups {
        lines.extend(names.iter().map(|name| format!("  left behind: {what} {name}")));
    }
    lines.join("\n")
}

fn trading(report: &Report, styled: bool) -> String {
    let header =
        ["agent", "chose", "research", "return", "Sharpe", "fall", "trades", "stress", "hold"];
    let mut table = empty(&header, styled);
    for agent in &report.per_agent {
        match &agent.outcome {
            Some(outcome) => table.add_row(row(agent, outcome, styled)),
            None => table.add_row(vec![Cell::new(&agent.name), Cell::new("gave up")]),
        };
    }
    align(&mut table, 2..header.len());
    let mut text = format!(
        "Trading {} to {}, chosen on {} to {} alone\n{}",
        report.test.from,
        report.test.to,
        report.research.from,
        report.research.to,
        table.trim_fmt()
    );
    if let Some(terms) = report.terms {
        text.push('\n');
        text.push_str(&wrapped(&format!(
            "Each desk begins with {}, sees closes up to a day and is filled at the close {} trading day later, pays {} bp of what it trades and {} bp a year for shorts, and holds at most {} in one name, {} in all. research: Sharpe of choosing this way in windows it had not seen, walk-forward. Sharpe: mean over deviation of daily returns, times the root of 252, at a risk-free rate of 0. fall: deepest, from the highest close before. stress: Sharpe when filled a day later still, at twice the costs. hold: buying the same instruments once instead.",
            dollars(terms.capital),
            terms.fill_after,
            terms.cost_bps,
            terms.borrow_bps,
            percent(terms.weight_max),
            percent(terms.gross_max),
        )));
    }
    text
}

fn row(agent: &AgentReport, outcome: &Outcome, styled: bool) -> Vec<Cell> {
    let gain = Cell::new(signed(outcome.test.gain));
    let gain = match (styled, outcome.test.gain < 0.0) {
        (true, true) => gain.fg(Color::Red),
        (true, false) => gain.fg(Color::Green),
        (false, _) => gain,
    };
    vec![
        Cell::new(&agent.name),
        Cell::new(&outcome.parameters),
        Cell::new(format!("{:.2}", outcome.walk_forward_sharpe)),
        gain,
        Cell::new(format!("{:.2}", outcome.test.sharpe)),
        Cell::new(percent(outcome.test.max_drawdown)),
        Cell::new(outcome.test.trades),
        Cell::new(format!("{:.2}", outcome.stressed.sharpe)),
        Cell::new(signed(outcome.hold.gain)),
    ]
}

fn node(report: &Report, styled: bool) -> String {
    let mut table = empty(&["sandboxes", "p50", "p99", "n"], styled);
    let latencies = [
        ("acquire, over NATS", report.acquire_ms),
        ("execution, over NATS, with its program", report.exec_ms),
        ("  without its program, in a held sandbox", report.exec_overhead_ms),
        ("execution, where an equal one answered", report.cached_ms),
    ];
    for (what, Latency { p50, p99, n }) in latencies {
        table.add_row(vec![what.to_owned(), out::millis(p50), out::millis(p99), n.to_string()]);
    }
    align(&mut table, 1..4);
    let (pool, cache, wall) = (report.pool, report.cache, report.wall);
    format!(
        "{}\npool: {} of {} acquires found one ready ({}), target {}; isolation: {}\ncache: {} hits, {} joined a run under way, {} had to run\nleft behind: {} of {} processes and {} network namespaces that were seen\ntime: prices {}, node {}, swarm {}, teardown {}; {} in all",
        table.trim_fmt(),
        pool.hits,
        pool.hits + pool.misses,
        percent(pool.hit_rate),
        pool.target,
        report.isolation,
        cache.hits,
        cache.joined,
        cache.misses,
        report.leaked,
        report.watched.processes,
        report.watched.network_namespaces,
        span(wall.data_ms),
        span(wall.node_ms),
        span(wall.swarm_ms),
        span(wall.teardown_ms),
        span(wall.total_ms),
    )
}

fn cost(cost: &CostReport, styled: bool) -> String {
    let mut table = empty(&["cost, a model", "sandboxes", "seconds", "microdollars"], styled);
    let (as_run, cold) = (&cost.as_run, &cost.cold_per_request);
    let lines = [
        ("as run: held by agents", as_run.leased),
        ("as run: one run each", as_run.one_shot),
        ("as run: ready and waiting", as_run.stock),
    ];
    for (what, line) in lines {
        let sandboxes =
            if line.sandboxes == 0 { "-".to_owned() } else { line.sandboxes.to_string() };
        let seconds = format!("{:.1}", line.seconds);
        table.add_row(vec![what.to_owned(), sandboxes, seconds, line.microusd.to_string()]);
    }
    table.add_row(vec![
        "as run, together".to_owned(),
        String::new(),
        String::new(),
        as_run.microusd.to_string(),
    ]);
    table.add_row(vec![
        "a cold sandbox per execution".to_owned(),
        cold.sandboxes.to_string(),
        format!("{:.1}", cold.seconds),
        cold.microusd.to_string(),
    ]);
    align(&mut table, 1..4);
    let text = format!(
        "{} vCPU and {} MiB at {}'s published price ({}, read {}): {}. Cold: {}; {} boots at the published median of {} ms ({}) are {:.0} s of waiting on top.",
        cost.cpu_count,
        cost.memory_mb,
        cost.provider,
        cost.source,
        cost.read_on,
        cost.basis,
        cold.assumes,
        cold.sandboxes,
        cold.boot_median_ms,
        cold.boot_source,
        cold.boot_wait_s,
    );
    format!("{}\n{}", table.trim_fmt(), wrapped(&text))
}

fn provenance(report: &Report) -> String {
    let data = &report.data;
    wrapped(&format!(
        "Prices: {} {} ({}), {}: {}; {} days from {} to {}. Instruments that survived are in it and others are not, which flatters every figure above, those of holding included.",
        data.source,
        data.version,
        data.license,
        data.file,
        data.caution,
        data.rows,
        data.from,
        data.to,
    ))
}

fn empty(header: &[&str], styled: bool) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    let cells = header.iter().map(|name| {
        let cell = Cell::new(name);
        if styled { cell.add_attribute(Attribute::Bold) } else { cell }
    });
    if styled {
        table.enforce_styling();
    }
    table.set_header(cells.collect::<Vec<_>>());
    table
}

/// Figures stand right, and columns one space apart.
fn align(table: &mut Table, figures: Range<usize>) {
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if figures.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Breaks text between words.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always one");
        if line.chars().count() + 1 + word.chars().count() > usize::from(WIDTH) {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// `$1,234` from micro-dollars.
pub(super) fn dollars(micros: i64) -> String {
    let digits = (micros / 1_000_000).unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{}${text}", if micros < 0 { "-" } else { "" })
}

pub(super) fn signed(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn span(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_with_commas() {
        let check = |micros, text: &str| assert_eq!(dollars(micros), text);
        check(0, "$0");
        check(999_999_999, "$999");
        check(1_234_567_000_000, "$1,234,567");
        check(-100_000_000_000, "-$100,000");
    }

    #[test]
    fn no_line_is_longer_than_the_page() {
        let text = wrapped(&"words of several lengths and more ".repeat(20));
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(WIDTH)));
    }
}
