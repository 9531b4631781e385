//! Where code runs. Knows nothing of actors or of the bus.

pub mod e2b;
pub mod fake;
pub mod fetch;
pub mod guard;
#[cfg(target_os = "linux")]
pub mod local;
pub mod provider;

pub use provider::{Provider, ProviderError};
