//! Real servers on loopback.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod bus;
mod embed;
mod faults;
mod proxy;
mod support;
