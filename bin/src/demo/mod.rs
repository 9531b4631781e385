//! The demonstration.

pub mod agent;
pub mod books;
pub mod costs;
pub mod leftovers;
pub mod live;
pub mod market;
pub mod plan;
pub mod programs;
pub mod report;
pub mod tables;
pub mod told;
