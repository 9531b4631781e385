//! A refusal as it travels: one flat record that a client of any language reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Was what was asked for done?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Ran {
    /// No.
    No,
    /// Yes.
    Yes,
    /// Perhaps.
    Unknown,
}

impl Ran {
    /// As it is written in the header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Unknown => "unknown",
        }
    }
}

/// Why the answer is no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// One word for programs.
    pub kind: String,
    /// A number after HTTP's, also in the service-error header.
    pub code: u16,
    /// One sentence for people.
    pub message: String,
    /// Whether it was done.
    pub ran: Ran,
    /// When to ask again, in milliseconds; absent if that cannot help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Detail::is_empty")]
    pub detail: Detail,
    /// The trace it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// What a problem is about; each part is there only where it says something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Detail {
    /// The argument at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What would have been accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The sandbox, template or other handle it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Which bound, key or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// What was tried before giving up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
    /// What the caller can do: commands, or one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

impl Detail {
    /// Nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
