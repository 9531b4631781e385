//! How far a request is that takes long. Told on `sandpit.v1.out.progress.<request>` while it runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One report; each is further than the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// How much is done.
    pub progress: f64,
    /// Of how much, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    /// A few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
