//! One body of tests for the thing itself and for what stands in for it.
#![expect(clippy::unwrap_used, reason = "a broken promise ends the test that runs it")]

pub mod bus;
mod faces;
pub mod provider;
