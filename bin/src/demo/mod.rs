//! The demonstration.

pub mod agent;
pub mod books;
pub mod costs;
pub mod crew;
pub mod leftovers;
pub mod live;
pub mod plan;
pub mod process;
pub mod programs;
pub mod report;
pub mod run;
pub mod swarm;
pub mod tables;
pub mod told;
