//! Real servers on loopback.

mod bus;
mod support;
