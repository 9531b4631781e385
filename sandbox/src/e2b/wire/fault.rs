//! How failures look: one shape for each plane, and the words that SDKs look for.

use serde::{Deserialize, Serialize};

/// In the body of a 502: the sandbox is not there, whatever became of it.
pub const NOT_FOUND: &str = "was not found";

/// In the body of a 502: the sandbox is there, and nobody listens.
pub const PORT_CLOSED: &str = "port is not open";

/// In the body of a 429: asking again does not help until a sandbox ends.
pub const QUOTA: &str = "maximum number of concurrent";

/// A failure on the control plane and on plain paths of the data plane. `code` is a number, the
/// same as the HTTP status: one SDK reads this, the other that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainError {
    /// The HTTP status.
    pub code: u16,
    /// What happened.
    #[serde(default)]
    pub message: String,
    /// The same for machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

/// A failure of a call to processes or files. `code` is a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectError {
    /// Which kind.
    #[serde(default)]
    pub code: Code,
    /// What happened.
    #[serde(default)]
    pub message: String,
}

impl ConnectError {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Kinds of failure of the Connect protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words are the protocol's own")]
pub enum Code {
    Canceled,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
    #[default]
    #[serde(other)]
    Unknown,
}

impl Code {
    /// The HTTP status of a unary call that failed so.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Canceled => 499,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::DeadlineExceeded => 504,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::PermissionDenied => 403,
            Self::ResourceExhausted => 429,
            Self::Unimplemented => 501,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
            Self::Unavailable => 503,
            Self::Unauthenticated => 401,
        }
    }
}

/// A sandbox cannot be reached; HTTP status 502.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyError {
    /// Which.
    #[serde(default)]
    pub sandbox_id: String,
    /// One of two sentences.
    #[serde(default)]
    pub message: String,
    /// Which port of it, where that is the matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 502.
    #[serde(default)]
    pub code: u16,
}

impl ProxyError {
    /// It does not run: killed, expired, paused, or never there.
    pub fn not_found(sandbox: impl Into<String>) -> Self {
        let message = format!("The sandbox {NOT_FOUND}");
        Self { sandbox_id: sandbox.into(), message, port: None, code: 502 }
    }

    /// It runs, and nobody listens there.
    pub fn port_closed(sandbox: impl Into<String>, port: u16) -> Self {
        let message = format!("The sandbox is running but {PORT_CLOSED}");
        Self { sandbox_id: sandbox.into(), message, port: Some(port), code: 502 }
    }

    /// Whether it says that the sandbox does not run.
    pub fn is_not_found(&self) -> bool {
        self.message.contains(NOT_FOUND)
    }
}
