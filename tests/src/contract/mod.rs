//! One body of tests for the thing itself and for what stands in for it.

pub mod bus;
pub mod provider;
