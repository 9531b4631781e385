//! What stands between us and a provider that may fail: retries within a budget, a circuit
//! breaker, rates, places, second questions, other endpoints.
//!
//! Each guard is a pure policy: the time and chance come in as arguments.

pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod dice;
pub mod hedge;
pub mod pace;
pub mod retry;
pub mod routes;
