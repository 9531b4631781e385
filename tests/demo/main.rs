//! The demonstration: its strategies are honest, and its report is true.
//!
//! The strategies run here in a virtual environment of the packages that the `trading` template has,
//! built once in the target folder; what they claim is computed a second time in Rust.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod scene;
mod strategies;
mod whole;
