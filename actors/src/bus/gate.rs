//! Which requests are let in, which wait a moment, and which are refused at once.

use std::time::Duration;

/// How much is let in. One gate per service and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests being answered at once.
    pub inflight_max: usize,
    /// Requests waiting for a place.
    pub queue_max: usize,
    /// Longest wait for a place. An answer that had to queue longer would come too late to trade
    /// on.
    pub queue_wait_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { inflight_max: 1_024, queue_max: 2_048, queue_wait_max: Duration::from_millis(250) }
    }
}
