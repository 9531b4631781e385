//! No desk looks ahead, and every figure follows from its fills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sandpit::demo::books::{Books, Statement};
use sandpit::demo::plan::Kind;
use sandpit::demo::told::Record;
use serde::Deserialize;

/// What `prove.py` prints.
#[derive(Debug, Deserialize)]
struct Facts {
    capital: i64,
    kinds: BTreeMap<String, Vec<Variant>>,
    spy: Spy,
    market: Prices,
    limits: Vec<f64>,
    known_metrics: Metrics,
}

#[derive(Debug, Deserialize)]
struct Variant {
    whole: Run,
    in_parts: Run,
    to_the_cut: Run,
    without_a_future: Run,
    with_another_future: Run,
}

#[derive(Debug, Deserialize)]
struct Run {
    statements: Vec<Statement>,
    record: Record,
    equity: Vec<i64>,
    /// Row to be filled on, instrument, shares: decided and not filled yet.
    orders: Vec<(usize, usize, i64)>,
}

#[derive(Debug, Deserialize)]
struct Spy {
    first: usize,
    seen: Vec<usize>,
    statement: Statement,
}

#[derive(Debug, Deserialize)]
struct Prices {
    days: Vec<String>,
    symbols: Vec<String>,
    mills: Vec<Vec<i64>>,
}

#[derive(Debug, Deserialize)]
struct Metrics {
    #[serde(rename = "return")]
    gain: f64,
    sharpe: f64,
    max_drawdown: f64,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs to its end; what it wrote to standard output.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{said}", output.status);
    output.stdout
}

/// An interpreter with the packages of the `trading` template.
fn python() -> PathBuf {
    let requirements = repository().join("sandbox/python/trading.txt");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("strategies");
    let (python, complete) = (folder.join("bin/python"), folder.join("complete.txt"));
    let wanted = std::fs::read(&requirements).unwrap();
    if std::fs::read(&complete).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--only-binary=:all:", "--require-hashes", "--requirement"])
        .arg(&requirements));
    std::fs::write(&complete, wanted).unwrap();
    python
}

/// All tests judge one run.
fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| {
        let proof = repository().join("tests/demo/prove.py");
        let strategies = repository().join("actors/strategies");
        let mut command = Command::new(python());
        command.arg("-B").arg(proof).arg(strategies);
        serde_json::from_slice(&run(&mut command)).unwrap()
    })
}

/// Every variant of every kind, by name.
fn variants() -> impl Iterator<Item = (String, &'static Variant)> {
    facts().kinds.iter().flat_map(|(kind, variants)| {
        variants.iter().enumerate().map(move |(at, variant)| (format!("{kind} {at}"), variant))
    })
}

#[test]
fn taking_the_future_away_changes_nothing_in_the_past() {
    for (name, variant) in variants() {
        let (one, other) = (&variant.to_the_cut, &variant.without_a_future);
        assert_eq!((&one.statements, &one.orders), (&other.statements, &other.orders), "{name}");
    }
}

#[test]
fn another_future_changes_nothing_in_the_past() {
    for (name, variant) in variants() {
        let (one, other) = (&variant.to_the_cut, &variant.with_another_future);
        assert_eq!((&one.statements, &one.orders), (&other.statements, &other.orders), "{name}");
    }
}

#[test]
fn a_strategy_sees_the_past_alone_and_is_filled_at_the_next_close() {
    let Facts { spy, market, .. } = facts();
    // One more day each time it is asked, and never one too many.
    let expected: Vec<usize> = (spy.first..=market.days.len()).collect();
    assert_eq!(spy.seen, expected);
    let first = spy.statement.blotter.iter().find(|fill| !fill.1.is_empty()).unwrap();
    assert_eq!(first.0, market.days[spy.first], "decided a day before");
    for fill in spy.statement.blotter.iter().filter(|fill| !fill.1.is_empty()) {
        let row = market.days.binary_search(&fill.0).unwrap();
        let column = market.symbols.binary_search(&fill.1).unwrap();
        assert_eq!(fill.3, market.mills[row][column], "{fill:?} is not at that day's close");
    }
}

#[test]
fn every_figure_follows_from_the_fills_to_the_last_digit() {
    let mut fills = 0;
    for (name, variant) in variants() {
        for run in [&variant.whole, &variant.in_parts] {
            let mut books = Books::open(facts().capital);
            for statement in &run.statements {
                books.check(statement).unwrap_or_else(|mismatch| panic!("{name}: {mismatch}"));
                fills += statement.blotter.len();
            }
            let equity = run.statements.last().unwrap().equity;
            books.agrees(&run.record, equity).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
    }
    assert!(fills > 1_000, "{fills} fills prove little");
}

#[test]
fn a_desk_that_is_run_in_parts_trades_as_one_that_is_run_at_once() {
    for (name, variant) in variants() {
        let parts: Vec<_> =
            variant.in_parts.statements.iter().flat_map(|part| part.blotter.clone()).collect();
        assert_eq!(variant.whole.statements[0].blotter, parts, "{name}");
        assert_eq!(variant.whole.equity, variant.in_parts.equity, "{name}");
    }
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "amounts are far below 2^53")]
fn metrics_are_what_their_formulas_give() {
    for (name, variant) in variants() {
        let Run { record, equity, .. } = &variant.whole;
        let daily: Vec<f64> =
            equity.windows(2).map(|days| days[1] as f64 / days[0] as f64 - 1.0).collect();
        let n = daily.len() as f64;
        let mean = daily.iter().sum::<f64>() / n;
        let variance = daily.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let sharpe = if variance > 0.0 { mean / variance.sqrt() * 252_f64.sqrt() } else { 0.0 };
        let mut highest = 0.0_f64;
        let fall = equity.iter().fold(0.0_f64, |deepest, day| {
            highest = highest.max(*day as f64);
            deepest.max(1.0 - *day as f64 / highest)
        });
        let close = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert!(close(record.sharpe, sharpe), "{name}: {record:?} {sharpe}");
        assert!(close(record.max_drawdown, fall), "{name}: {record:?} {fall}");
    }
    let known = &facts().known_metrics;
    assert!((known.gain - 0.089).abs() < 1e-12 && (known.max_drawdown - 0.1).abs() < 1e-12);
    // Daily returns of 10, -10 and 10 percent: mean 1/30, deviation root of 1/75.
    assert!((known.sharpe - (1.0 / 30.0) / (1.0_f64 / 75.0).sqrt() * 252_f64.sqrt()).abs() < 1e-9);
}

#[test]
fn a_desk_that_wants_too_much_gets_what_it_may_hold() {
    let limits = &facts().limits;
    assert_eq!(limits, &[0.2, -0.2, 0.1, 0.0]);
    let Facts { spy, capital, .. } = facts();
    let mut books = Books::open(*capital);
    assert_eq!(books.check(&spy.statement), Ok(()));
    assert!(spy.statement.blotter.iter().any(|fill| fill.1.is_empty()), "shorts pay a fee");
}

#[test]
fn agents_try_every_variant_that_a_strategy_has() {
    for kind in Kind::ALL {
        assert_eq!(facts().kinds[kind.as_str()].len(), kind.variants(), "{kind:?}");
    }
}

#[test]
fn every_strategy_trades_when_there_is_something_to_trade() {
    for (name, variant) in variants() {
        assert!(variant.whole.record.trades > 0, "{name} never traded");
    }
}
