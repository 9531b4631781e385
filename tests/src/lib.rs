//! What several programs of tests share: promises that fakes and real things keep alike, and a
//! cloud that can be as flaky as a test needs it.

pub mod cloud;
pub mod contract;
