//! What stands between us and a provider that may fail: retries within a budget, a circuit
//! breaker, rates, places, second questions, other endpoints.
//!
//! Each guard is a pure policy: the time and chance come in as arguments.

pub mod breaker;
pub mod budget;
pub mod bulkhead;
mod create;
pub mod decision;
pub mod dice;
mod faces;
mod gate;
mod guarded;
pub mod hedge;
pub mod pace;
pub mod places;
pub mod retry;
pub mod routes;
mod tend;
mod terms;

use std::fmt;
use std::sync::Arc;

use sandpit_messages::time::Moment;

pub use gate::Limits;
pub use guarded::{Endpoint, Guarded};
pub use terms::Terms;

/// Reads the time. Whoever builds a provider says where from.
#[derive(Clone)]
pub struct Time(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Time {
    /// By this clock.
    pub fn new(read: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Now.
    pub fn now(&self) -> Moment {
        (self.0)()
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
