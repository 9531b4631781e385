//! What travels on the bus: ids, amounts, times, subjects, and one file per conversation.
//!
//! This is what a client in another language re-implements. Nothing here decides or waits.
#![forbid(unsafe_code)]

pub mod id;
pub mod money;
pub mod time;

pub mod codec;
pub mod envelope;
pub mod problem;
pub mod progress;
pub mod refusal;
pub mod schema;
pub mod subject;
pub mod tool;

pub mod agent;
pub mod deployment;
pub mod exec;
pub mod health;
pub mod market;
pub mod pool;
pub mod sandbox;
pub mod swarm;
pub mod template;
