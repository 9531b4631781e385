//! The demonstration.

pub mod agent;
pub mod books;
pub mod costs;
pub mod leftovers;
pub mod market;
pub mod plan;
pub mod programs;
pub mod told;
