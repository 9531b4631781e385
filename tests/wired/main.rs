//! Real actors on one thread, the bus in memory, the fake provider and a paused clock: is
//! everything connected? Decides nothing about policies; those have their own tests.

mod agents;
mod bus;
mod contract;
mod deployments;
mod execs;
mod faults;
mod health;
mod keys;
mod requests;
mod rig;
mod supervision;
mod swarms;
mod templates;
mod trace;
