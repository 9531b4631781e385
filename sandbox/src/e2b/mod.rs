//! The E2B API: what travels, read and written the same by the provider and by the facade.

pub mod wire;
