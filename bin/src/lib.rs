//! Wiring only: reads the configuration, builds ports, starts actors, waits.
#![forbid(unsafe_code)]

pub mod client;
