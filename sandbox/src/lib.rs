//! Where code runs. Knows nothing of actors or of the bus.

pub mod fake;
pub mod provider;

pub use provider::{Provider, ProviderError};
