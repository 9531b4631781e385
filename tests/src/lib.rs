//! What several programs of tests share: promises that fakes and real things keep alike.

pub mod contract;
