//! What travels between an E2B SDK and a server that speaks its language. Pure: bytes and text in,
//! values out, and back.
//!
//! Both of our ends use it, so a mistake here cannot be seen between them. Its tests therefore
//! read bytes that the official SDKs and a logging server exchanged, never our own.

pub mod control;
pub mod envelope;
pub mod fault;
pub mod filesystem;
pub mod interpreter;
pub mod multipart;
pub mod ndjson;
pub mod process;
mod proto;
pub mod signature;
#[cfg(test)]
mod tests;
mod time;
pub mod words;

pub use proto::Base64;
pub use time::{NotATime, Timestamp};

/// Names of headers, as HTTP/2 would write them: HTTP/1.1 does not mind.
pub mod header {
    /// The key that says which tenant asks; control plane.
    pub const API_KEY: &str = "x-api-key";
    /// The token of one sandbox; data plane.
    pub const ACCESS_TOKEN: &str = "x-access-token";
    /// The token that strangers need to reach a sandbox's ports.
    pub const TRAFFIC_TOKEN: &str = "e2b-traffic-access-token";
    /// Which sandbox a request is for.
    pub const SANDBOX_ID: &str = "e2b-sandbox-id";
    /// Which port of it.
    pub const SANDBOX_PORT: &str = "e2b-sandbox-port";
    /// Makes a repeated create the same create.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// `true` or `false`: whether the same request may succeed later.
    pub const SHOULD_RETRY: &str = "should-retry";
    /// Milliseconds that a call, and the process it starts, may take.
    pub const TIMEOUT_MS: &str = "connect-timeout-ms";
    /// Seconds of silence after which a stream says that it lives.
    pub const KEEPALIVE_S: &str = "keepalive-ping-interval";
    /// The version of the protocol of unary calls and streams.
    pub const PROTOCOL: &str = "connect-protocol-version";
    /// Where the next page of a list begins; absent on the last.
    pub const NEXT_TOKEN: &str = "x-next-token";
    /// How many running sandboxes a list would have on all its pages.
    pub const TOTAL_RUNNING: &str = "x-total-running";
    /// What a file's writer says about it: `x-metadata-<key>`.
    pub const METADATA_PREFIX: &str = "x-metadata-";
}

/// The port that stands for processes and files of a sandbox. A label, not a listener.
pub const ENVD_PORT: u16 = 49_983;

/// The port that stands for its code interpreter.
pub const INTERPRETER_PORT: u16 = 49_999;

/// Media type of unary calls and of the control plane.
pub const JSON: &str = "application/json";

/// Media type of streams.
pub const CONNECT_JSON: &str = "application/connect+json";

/// Media type of files.
pub const OCTETS: &str = "application/octet-stream";
