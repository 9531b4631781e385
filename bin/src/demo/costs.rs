//! What the swarm's sandboxes would have cost at published prices, next to a sandbox booted for
//! every request. A model with its assumptions in sight: nothing here was billed.

use std::time::Duration;

use sandpit_config::prices::{ComputePrice, PriceBook, Shape, Unpriced};
use serde::Serialize;

/// Whose prices.
pub const PROVIDER: &str = "e2b";

/// What was used, as it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// What one sandbox is made of.
    pub shape: Shape,
    /// How long each leased sandbox was somebody's.
    pub leases: Vec<Duration>,
    /// How long each one-shot run that really ran took.
    pub one_shots: Vec<Duration>,
    /// How long each run would have taken that another one answered for.
    pub answered: Vec<Duration>,
    /// How long each run took in each leased sandbox, in order.
    pub cells: Vec<Vec<Duration>>,
    /// Time that ready sandboxes waited for somebody, all added up.
    pub stock: Duration,
}

/// One line of the estimate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CostLine {
    /// Sandboxes.
    pub sandboxes: usize,
    /// Seconds they ran, all added up, before rounding.
    pub seconds: f64,
    /// Millionths of a dollar.
    pub microusd: i64,
}

/// What it would have cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CostReport {
    /// How to read the figures.
    pub basis: &'static str,
    /// The price book's entry: whose price.
    pub provider: String,
    /// Where it is published.
    pub source: String,
    /// The page.
    pub url: String,
    /// From when it holds.
    pub effective_from: String,
    /// When it was read.
    pub read_on: String,
    /// Billionths of a dollar for one processor and one second.
    pub vcpu_second_nanousd: u32,
    /// Billionths of a dollar for one GiB and one second.
    pub gib_second_nanousd: u32,
    /// Milliseconds to whose multiple each sandbox is rounded up.
    pub quantum_ms: u32,
    /// Processors of a sandbox.
    pub cpu_count: u32,
    /// Memory of a sandbox in MiB.
    pub memory_mb: u32,
    /// What ran, from leases to ready sandboxes waiting.
    pub as_run: AsRun,
    /// A sandbox booted for every request.
    pub cold_per_request: Cold,
    /// The difference; below zero if booting one for each would have been cheaper.
    pub saved_microusd: i64,
}

/// What ran.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AsRun {
    /// All of it, in millionths of a dollar.
    pub microusd: i64,
    /// Sandboxes that agents held.
    pub leased: CostLine,
    /// Sandboxes of one run each.
    pub one_shot: CostLine,
    /// Ready sandboxes waiting to be asked for; `sandboxes` is not counted for them.
    pub stock: CostLine,
}

/// A sandbox booted for every request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cold {
    /// What it assumes.
    pub assumes: &'static str,
    /// Millionths of a dollar.
    pub microusd: i64,
    /// Sandboxes: one for every execution that was asked for.
    pub sandboxes: usize,
    /// Seconds they would have run.
    pub seconds: f64,
    /// Seconds of waiting for boots at the published median, all added up.
    pub boot_wait_s: f64,
    /// The published median start in milliseconds.
    pub boot_median_ms: u32,
    /// Who measured that.
    pub boot_source: String,
}

const BASIS: &str = "estimated from published prices for the sandbox-seconds of this run; this machine itself is unpriced and nothing was billed";
const COLD_ASSUMES: &str = "a new sandbox for every execution, also where a cache or a lease served it; it runs as long as the program ran here and, for a cell, as the cells before it in the same lease, whose state it has to rebuild; boots and imports are not billed";

/// Estimates.
///
/// # Errors
/// [`Unpriced`] if the book lacks the provider.
pub fn estimate(book: &PriceBook, usage: &Usage) -> Result<CostReport, Unpriced> {
    let price = book.compute(PROVIDER)?;
    let start = book.cold_start(PROVIDER)?;
    let Usage { shape, leases, one_shots, answered, cells, stock } = usage;
    let leased = each(price, *shape, leases);
    let one_shot = each(price, *shape, one_shots);
    let waited = CostLine {
        sandboxes: 0,
        seconds: stock.as_secs_f64(),
        microusd: micros(price.share(*shape, *stock)),
    };
    let as_run = AsRun {
        microusd: leased.microusd + one_shot.microusd + waited.microusd,
        leased,
        one_shot,
        stock: waited,
    };
    let requests: Vec<Duration> = one_shots
        .iter()
        .chain(answered)
        .copied()
        .chain(cells.iter().flat_map(|cells| rebuilt(cells)))
        .collect();
    let cold = each(price, *shape, &requests);
    let boots = u32::try_from(requests.len()).unwrap_or(u32::MAX);
    let boot = Duration::from_millis(start.median_ms.into());
    Ok(CostReport {
        basis: BASIS,
        provider: price.provider.clone(),
        source: price.source.clone(),
        url: price.url.clone(),
        effective_from: price.effective_from.clone(),
        read_on: price.read_on.clone(),
        vcpu_second_nanousd: price.vcpu_second_nanousd,
        gib_second_nanousd: price.gib_second_nanousd,
        quantum_ms: price.quantum_ms,
        cpu_count: shape.cpu_count,
        memory_mb: shape.memory_mb,
        as_run,
        saved_microusd: cold.microusd - as_run.microusd,
        cold_per_request: Cold {
            assumes: COLD_ASSUMES,
            microusd: cold.microusd,
            sandboxes: cold.sandboxes,
            seconds: cold.seconds,
            boot_wait_s: (boot * boots).as_secs_f64(),
            boot_median_ms: start.median_ms,
            boot_source: start.source.clone(),
        },
    })
}

/// Each cell with those before it.
fn rebuilt(cells: &[Duration]) -> impl Iterator<Item = Duration> {
    cells.iter().scan(Duration::ZERO, |before, cell| {
        *before += *cell;
        Some(*before)
    })
}

/// One sandbox for each of these times.
fn each(price: &ComputePrice, shape: Shape, times: &[Duration]) -> CostLine {
    CostLine {
        sandboxes: times.len(),
        seconds: times.iter().sum::<Duration>().as_secs_f64(),
        microusd: micros(times.iter().map(|time| price.interval(shape, *time)).sum()),
    }
}

/// Billionths become millionths, rounded up: an estimate that errs errs against us.
fn micros(nanos: u128) -> i64 {
    i64::try_from(nanos.div_ceil(1_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_estimate_is_what_a_pencil_gives() {
        let usage = Usage {
            shape: Shape { cpu_count: 1, memory_mb: 512 },
            leases: vec![SECOND * 3 / 2, SECOND * 4],
            one_shots: vec![SECOND / 10; 3],
            answered: vec![SECOND / 10; 5],
            cells: vec![vec![SECOND / 5; 10]],
            stock: SECOND * 20,
        };
        let report = estimate(&PriceBook::builtin(), &usage).unwrap();
        // 14,000 + 4,500 / 2 = 16,250 billionths a second.
        let AsRun { microusd, leased, one_shot, stock } = report.as_run;
        assert_eq!(leased.microusd, 98); // 2 + 4 seconds: 97,500 billionths
        assert_eq!(one_shot.microusd, 49); // 3 started seconds: 48,750
        assert_eq!(stock.microusd, 325); // 20 seconds
        assert_eq!(microusd, 98 + 49 + 325);
        let cold = report.cold_per_request;
        // 8 started seconds, and cells of 0.2, 0.4, .. 2.0 seconds: five of one, five of two.
        assert_eq!((cold.sandboxes, cold.microusd), (18, 374)); // 23 seconds: 373,750
        assert_eq!(cold.boot_wait_s, 7.92); // 18 at the published median
        assert_eq!(report.saved_microusd, 374 - microusd);
    }
}
