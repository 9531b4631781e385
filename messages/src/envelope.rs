//! The headers of a message: who asks, until when, under which key, as part of which trace.

use crate::time::WallTime;

/// W3C trace context, lower case.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace state; never sent empty.
pub const TRACESTATE: &str = "tracestate";
/// Codec of the body.
pub const CONTENT_TYPE: &str = "Content-Type";
/// Codec wanted for the answer; without it, that of the question.
pub const ACCEPT: &str = "Accept";
/// Id of the request, for logs.
pub const REQUEST: &str = "Sandpit-Request";
/// Unix milliseconds after which the caller has stopped listening.
pub const DEADLINE: &str = "Sandpit-Deadline";
/// Makes a repeated request safe: see [`IdempotencyKey`].
pub const IDEMPOTENCY_KEY: &str = "Sandpit-Idempotency-Key";
/// Times a request was forwarded: 0 or 1.
pub const HOPS: &str = "Sandpit-Hops";
/// Number of an output chunk, from 0, without gaps.
pub const SEQ: &str = "Sandpit-Seq";
/// Marks the last chunk of a stream; its value is the number of bytes that were dropped.
pub const END: &str = "Sandpit-End";
/// One sentence about what went wrong (ADR-32).
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// Code after HTTP's (ADR-32).
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// The kind of a problem, one word for programs.
pub const ERROR_KIND: &str = "Sandpit-Error-Kind";
/// Was it done: `no`, `yes`, `unknown`.
pub const RAN: &str = "Sandpit-Ran";
/// Milliseconds after which asking again may help.
pub const RETRY_AFTER_MS: &str = "Sandpit-Retry-After-Ms";

/// Most headers of one message.
pub const HEADERS_MAX: usize = 64;
/// Most bytes of one header's value.
pub const HEADER_MAX: usize = 1_024;

/// Reads the `Sandpit-Deadline` header: Unix milliseconds in decimal.
///
/// # Errors
/// [`NotADeadline`] for anything else.
pub fn deadline(text: &str) -> Result<WallTime, NotADeadline> {
    text.parse().map(WallTime).map_err(|_| NotADeadline(text.chars().take(32).collect()))
}

/// The header holds no deadline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{DEADLINE}: {0}` is not a number of Unix milliseconds")]
pub struct NotADeadline(String);

/// Says that two requests are one: 16 to 64 of `A-Z a-z 0-9 _ -`, chosen by the caller, scoped by
/// its tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(String);

/// The text is not an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 16 to 64 characters of A-Z, a-z, 0-9, `_` and `-`")]
pub struct NotAKey;

impl IdempotencyKey {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for IdempotencyKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let length = (16..=64).contains(&text.len());
        if length && text.bytes().all(fine) { Ok(Self(text.to_owned())) } else { Err(NotAKey) }
    }
}

/// Whose request it is: `a-z`, `0-9` and `-`, at most 24 characters. Read from the subject the
/// server vouches for, never from what a client wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(String);

impl Tenant {
    /// Everybody, on a node without accounts.
    pub fn local() -> Self {
        Self("local".to_owned())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not the name of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant is 1 to 24 characters of a-z, 0-9 and `-`")]
pub struct NotATenant;

impl std::str::FromStr for Tenant {
    type Err = NotATenant;

    fn from_str(text: &str) -> Result<Self, NotATenant> {
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let length = (1..=24).contains(&text.len());
        if length && text.bytes().all(fine) { Ok(Self(text.to_owned())) } else { Err(NotATenant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_length_and_their_letters() {
        assert!("0123456789abcdef".parse::<IdempotencyKey>().is_ok());
        for bad in ["short", "0123456789abcde/", &"x".repeat(65)] {
            assert_eq!(bad.parse::<IdempotencyKey>(), Err(NotAKey), "{bad}");
        }
    }

    #[test]
    fn a_tenant_is_a_word_of_a_subject() {
        assert_eq!("local".parse(), Ok(Tenant::local()));
        for bad in ["", "A", "a.b", "a*", &"x".repeat(25)] {
            assert_eq!(bad.parse::<Tenant>(), Err(NotATenant), "{bad}");
        }
    }

    #[test]
    fn a_deadline_is_a_number() {
        assert_eq!(deadline("17"), Ok(WallTime(17)));
        assert!(deadline("tomorrow").is_err());
        assert!(deadline("-1").is_err());
    }
}
