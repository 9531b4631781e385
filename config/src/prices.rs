//! What sandboxes cost elsewhere, as published: `prices.toml`, and the arithmetic on it.
//!
//! Rates are billionths of a dollar for a unit and a second, times are whole milliseconds, memory is
//! whole MiB, so that products are exact; the one rounding is at the end.

use std::time::Duration;

use serde::Deserialize;

/// The book that comes with this version.
const BOOK: &str = include_str!("../prices.toml");

/// Published prices and times, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceBook {
    compute: Vec<ComputePrice>,
    cold_start: Vec<ColdStart>,
}

/// What running a sandbox costs at one provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputePrice {
    /// Whose price it is.
    pub provider: String,
    /// The day from which it holds, as far as the source says.
    pub effective_from: String,
    /// The day somebody looked.
    pub read_on: String,
    /// Where it is published.
    pub source: String,
    /// The page.
    pub url: String,
    /// Billionths of a dollar for one processor and one second.
    pub vcpu_second_nanousd: u32,
    /// Billionths of a dollar for one GiB of memory and one second.
    pub gib_second_nanousd: u32,
    /// Milliseconds to whose multiple a running interval is rounded up; at least 1.
    pub quantum_ms: u32,
}

/// How long a sandbox takes to start at one provider, as published by somebody.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColdStart {
    /// Whose sandboxes.
    pub provider: String,
    /// The day somebody looked.
    pub read_on: String,
    /// Who measured, how and when.
    pub source: String,
    /// Milliseconds, median.
    pub median_ms: u32,
    /// Milliseconds, 99th percentile.
    pub p99_ms: u32,
}

/// The price book has no entry for a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prices.toml has no {what} of `{provider}`")]
pub struct Unpriced {
    what: &'static str,
    provider: String,
}

/// Processors and memory that are billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Processors.
    pub cpu_count: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
}

impl PriceBook {
    /// The book that comes with this version.
    ///
    /// # Panics
    /// Never: a test reads it.
    pub fn builtin() -> Self {
        toml::from_str(BOOK).expect("prices.toml is read by a test")
    }

    /// What running a sandbox costs at `provider`: its newest entry.
    ///
    /// # Errors
    /// [`Unpriced`] if there is none.
    pub fn compute(&self, provider: &str) -> Result<&ComputePrice, Unpriced> {
        self.compute
            .iter()
            .rev()
            .find(|entry| entry.provider == provider)
            .ok_or_else(|| Unpriced { what: "compute price", provider: provider.to_owned() })
    }

    /// How long a sandbox takes to start at `provider`: its newest entry.
    ///
    /// # Errors
    /// [`Unpriced`] if there is none.
    pub fn cold_start(&self, provider: &str) -> Result<&ColdStart, Unpriced> {
        self.cold_start
            .iter()
            .rev()
            .find(|entry| entry.provider == provider)
            .ok_or_else(|| Unpriced { what: "cold start time", provider: provider.to_owned() })
    }
}

impl ComputePrice {
    /// Billionths of a dollar for one interval of running: from readiness to the end or a pause,
    /// rounded up to whole quanta.
    pub fn interval(&self, shape: Shape, running: Duration) -> u128 {
        let quantum = u128::from(self.quantum_ms.max(1)) * NANOS_PER_MILLI;
        self.exact(shape, running.as_nanos().div_ceil(quantum) * quantum)
    }

    /// Billionths of a dollar for this much running time as part of a longer interval: no quantum.
    pub fn share(&self, shape: Shape, running: Duration) -> u128 {
        self.exact(shape, running.as_nanos())
    }

    /// Rounded up to the next billionth.
    fn exact(&self, shape: Shape, nanos: u128) -> u128 {
        let cpus = u128::from(self.vcpu_second_nanousd) * u128::from(shape.cpu_count);
        let memory = u128::from(self.gib_second_nanousd) * u128::from(shape.memory_mb);
        (nanos * (cpus * MIB_PER_GIB + memory)).div_ceil(NANOS_PER_SECOND * MIB_PER_GIB)
    }
}

const NANOS_PER_MILLI: u128 = 1_000_000;
const NANOS_PER_SECOND: u128 = 1_000_000_000;
const MIB_PER_GIB: u128 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    /// The default size of the provider.
    const USUAL: Shape = Shape { cpu_count: 2, memory_mb: 512 };

    #[test]
    fn the_book_holds_the_published_prices() {
        let book = PriceBook::builtin();
        let e2b = book.compute("e2b").unwrap();
        assert_eq!((e2b.vcpu_second_nanousd, e2b.gib_second_nanousd), (14_000, 4_500));
        // "a sandbox with 8 vCPU and 4 GB RAM costs $0.468 per hour", says their billing page.
        let large = Shape { cpu_count: 8, memory_mb: 4_096 };
        assert_eq!(e2b.interval(large, Duration::from_secs(3_600)), 468_000_000);
        assert_eq!(e2b.interval(USUAL, Duration::from_secs(1)), 30_250);
        assert_eq!(book.cold_start("e2b").unwrap().median_ms, 440);
    }

    #[test]
    fn a_started_second_is_billed_whole_and_once() {
        let book = PriceBook::builtin();
        let e2b = book.compute("e2b").unwrap();
        let second = e2b.interval(USUAL, Duration::from_secs(1));
        assert_eq!(e2b.interval(USUAL, Duration::from_nanos(1)), second);
        assert_eq!(e2b.interval(USUAL, Duration::from_millis(1_001)), 2 * second);
        assert_eq!(e2b.interval(USUAL, Duration::ZERO), 0);
        assert_eq!(e2b.share(USUAL, Duration::from_millis(500)), second / 2);
    }

    #[test]
    fn who_publishes_no_price_is_unpriced() {
        let book = PriceBook::builtin();
        let refusal = book.compute("local").unwrap_err();
        assert_eq!(refusal.to_string(), "prices.toml has no compute price of `local`");
    }
}
