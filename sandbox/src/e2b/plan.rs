//! What E2B publishes about its plans: limits and prices. Read 2026-11 from E2B's documentation
//! ("Rate limits", "Billing & limits", the FAQ on the price of a sandbox).

use std::time::Duration;

use crate::guard::pace::Rate;
use crate::provider::Limits;

/// What an account may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    /// E2B's free plan.
    Hobby,
    /// E2B's paid plan, without add-ons.
    Pro,
    /// Nothing is known: no rate is held on our side.
    #[default]
    Custom,
}

impl Plan {
    /// Creations.
    pub const fn creations(self) -> Option<Rate> {
        let per = Duration::from_secs(1);
        match self {
            Self::Hobby => Some(Rate { calls: 1, per, burst: 1 }),
            Self::Pro => Some(Rate { calls: 5, per, burst: 5 }),
            Self::Custom => None,
        }
    }

    /// Calls about the life of sandboxes.
    pub const fn lifecycle(self) -> Option<Rate> {
        let per = Duration::from_secs(30);
        match self {
            Self::Hobby | Self::Pro => Some(Rate { calls: 20_000, per, burst: 1_000 }),
            Self::Custom => None,
        }
    }

    /// Calls to sandboxes.
    pub const fn operations(self) -> Option<Rate> {
        let per = Duration::from_secs(60);
        match self {
            Self::Hobby | Self::Pro => Some(Rate { calls: 40_000, per, burst: 1_000 }),
            Self::Custom => None,
        }
    }

    /// Sandboxes running at once.
    pub const fn sandboxes_max(self) -> Option<usize> {
        match self {
            Self::Hobby => Some(20),
            Self::Pro => Some(100),
            Self::Custom => None,
        }
    }

    /// Longest life of a sandbox between two pauses.
    pub const fn lifetime_max(self) -> Duration {
        match self {
            Self::Hobby => Duration::from_hours(1),
            Self::Pro | Self::Custom => Duration::from_hours(24),
        }
    }
}

/// A published price: what allocated size costs while a sandbox runs. A paused one costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Billionths of a dollar per processor and second.
    pub cpu_nanos: u64,
    /// Billionths of a dollar per GiB of memory and second.
    pub memory_nanos: u64,
    /// Year and month in which it was read.
    pub read: (u16, u8),
}

/// E2B's own price.
pub const E2B: Price = Price { cpu_nanos: 14_000, memory_nanos: 4_500, read: (2026, 11) };

impl Price {
    /// Billionths of a dollar for a sandbox of this size; begun seconds count, which is our
    /// assumption. An estimate from published prices, not a bill.
    pub fn estimate(&self, size: Limits, ran: Duration) -> u64 {
        const MIB_PER_GIB: u64 = 1_024;
        let seconds = ran.as_secs() + u64::from(ran.subsec_nanos() > 0);
        let cpu = self.cpu_nanos * u64::from(size.cpu_count);
        let memory = (self.memory_nanos * u64::from(size.memory_mb)).div_ceil(MIB_PER_GIB);
        seconds.saturating_mul(cpu + memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_costs_what_the_documentation_says() {
        let hour = Duration::from_hours(1);
        let large = Limits { memory_mb: 4_096, cpu_count: 8 };
        assert_eq!(E2B.estimate(large, hour), 468_000_000);
        let default = Limits { memory_mb: 512, cpu_count: 2 };
        assert_eq!(E2B.estimate(default, hour), 108_900_000);
        assert_eq!(E2B.estimate(default, Duration::from_millis(1)), 30_250);
    }
}
