//! Promises that fakes and real things keep alike.

pub mod contract;
