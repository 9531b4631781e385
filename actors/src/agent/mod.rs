//! Agents: programs that trade on paper in sandboxes that others hold.

pub mod account;
pub mod order;
pub mod policy;
pub mod programs;
mod questions;

pub use order::{Code, Feed, Order};
pub use questions::{AgentEnded, Await, Halt, Launch, Launched, Look, LookAll, ReadFills};
