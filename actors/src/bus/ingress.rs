//! The one way in. Whatever arrives, whatever goes wrong, the caller gets an answer.

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use sandpit_messages::codec::Codec;
use sandpit_messages::envelope::{CONTENT_TYPE, HEADER_MAX, HEADERS_MAX};
use sandpit_messages::id::SandboxId;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::subject::{Asked, Request};
use sandpit_messages::time::Moment;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Message;
use super::quarantine::{Fingerprint, Quarantine};

/// What a request asks and of which sandbox, by its subject.
///
/// # Errors
/// [`Refusal::Malformed`] for a subject of another version or of none.
pub fn asked(message: &Message) -> Result<Asked<'_>, Refusal> {
    Asked::read(&message.subject).ok_or_else(|| {
        let subject: String = message.subject.chars().take(64).collect();
        Refusal::Malformed { at: format!("subject `{subject}` is not one of this version") }
    })
}

/// Arguments of a request as they were read.
#[derive(Debug, PartialEq)]
pub enum Arguments<R> {
    /// Written as our types have them.
    Plain(R),
    /// Readable, and not what the type takes, or more than that: to be looked at closely.
    Other(Map<String, Value>),
}

/// Reads a request. What the subject says about the sandbox stands for what the body leaves out;
/// where both speak they must agree.
///
/// # Errors
/// [`Refusal::Malformed`], [`Refusal::TooLarge`] and [`Refusal::Invalid`].
pub fn read<R: DeserializeOwned>(
    message: &Message,
    sandbox: Option<SandboxId>,
) -> Result<Arguments<R>, Refusal> {
    let headers = &message.headers;
    if headers.len() > HEADERS_MAX {
        return Err(Refusal::TooLarge {
            what: "number of headers",
            bytes: headers.len(),
            max: HEADERS_MAX,
        });
    }
    if let Some((_, value)) = headers.iter().find(|(_, value)| value.len() > HEADER_MAX) {
        return Err(Refusal::TooLarge { what: "header", bytes: value.len(), max: HEADER_MAX });
    }
    let codec = Codec::of(headers.get(CONTENT_TYPE), &message.body)?;
    let Some(sandbox) = sandbox else {
        // Nearly always it is what it should be, and then this is all there is to do.
        return match codec.decode_whole(&message.body) {
            Ok((ask, None)) => Ok(Arguments::Plain(ask)),
            Ok((_, Some(_))) | Err(Refusal::Malformed { .. }) => {
                codec.decode(&message.body).map(Arguments::Other)
            }
            Err(refusal) => Err(refusal),
        };
    };
    let mut fields: Map<String, Value> = codec.decode(&message.body)?;
    match fields.get("sandbox_id") {
        None | Some(Value::Null) => {
            fields.insert("sandbox_id".to_owned(), Value::String(sandbox.to_string()));
        }
        Some(Value::String(told)) if told == sandbox.as_str() => (),
        Some(other) => {
            let came = other.to_string().chars().take(64).collect();
            let expected = format!("{sandbox}, as in the subject");
            return Err(Refusal::Invalid { field: "sandbox_id", came, expected });
        }
    }
    let mut is_whole = true;
    let read = serde_ignored::deserialize(&fields, |_| is_whole = false);
    Ok(match read {
        Ok(ask) if is_whole => Arguments::Plain(ask),
        _ => Arguments::Other(fields),
    })
}

/// Has a request answered by `work`, unless one like it met a fault before. A panic on the way is
/// a fault of ours: the caller is told so, and the request is remembered.
///
/// # Errors
/// Those of `work`, and [`Refusal::Fault`].
pub async fn guarded<R: Request>(
    quarantine: &Mutex<Quarantine>,
    clock: impl Fn() -> Moment,
    message: &Message,
    work: impl Future<Output = Result<R::Reply, Refusal>>,
) -> Result<R::Reply, Refusal> {
    let met = || quarantine.lock().unwrap_or_else(PoisonError::into_inner);
    let is_known = {
        let mut met = met();
        !met.is_empty() && met.holds(clock(), &fingerprint::<R>(message))
    };
    if is_known {
        return Err(Refusal::Fault);
    }
    let answer = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(verb = R::VERB.as_str(), "answering a request panicked");
        Err(Refusal::Fault)
    });
    if matches!(answer, Err(Refusal::Fault)) {
        met().put(clock(), fingerprint::<R>(message));
    }
    answer
}

fn fingerprint<R: Request>(message: &Message) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update(R::VERB.as_str());
    hash.update([0]);
    hash.update(&message.body);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sandpit_messages::sandbox::{Create, GetStatus, List};

    use super::*;
    use crate::bus::Headers;

    fn message(body: &'static [u8]) -> Message {
        Message { body: body.into(), ..Message::default() }
    }

    #[test]
    fn the_subject_stands_for_what_the_body_leaves_out() {
        let sandbox = SandboxId::numbered(7);
        let status = GetStatus { sandbox_id: Some(sandbox), execution_id: None };
        let expected = Ok(Arguments::Plain(status));
        assert_eq!(read(&message(b""), Some(sandbox)), expected);
        assert_eq!(read(&message(b"\x80"), Some(sandbox)), expected);
        let body = br#"{"sandbox_id":"i00000000000000000000000007"}"#;
        assert_eq!(read(&message(body), Some(sandbox)), expected);
        let other = read::<GetStatus>(&message(body), Some(SandboxId::numbered(8)));
        assert!(matches!(other, Err(Refusal::Invalid { field: "sandbox_id", .. })), "{other:?}");
    }

    #[test]
    fn what_is_not_understood_says_where() {
        for body in [&b"{not json"[..], b"{\"limit\":", b"\xc1", b"[1]"] {
            let read = read::<List>(&message(body), None);
            assert!(matches!(read, Err(Refusal::Malformed { .. })), "{read:?}");
        }
        for body in [&b"{\"limit\":-1}"[..], b"{\"Limit\":1}"] {
            let read = read::<List>(&message(body), None);
            assert!(matches!(read, Ok(Arguments::Other(_))), "{read:?}");
        }
        let headers = Headers::new().with(CONTENT_TYPE, "text/html");
        let typed = Message { headers, ..message(b"{}") };
        assert!(matches!(read::<List>(&typed, None), Err(Refusal::Malformed { .. })));
        let headers = Headers::new().with("X", "x".repeat(HEADER_MAX + 1));
        let large = Message { headers, ..message(b"{}") };
        assert!(matches!(read::<List>(&large, None), Err(Refusal::TooLarge { .. })));
        let foreign = Message { subject: "sandpit.v2.req.list".to_owned(), ..message(b"") };
        assert!(matches!(asked(&foreign), Err(Refusal::Malformed { .. })));
    }

    #[tokio::test]
    async fn what_met_a_fault_meets_it_once_in_ten_minutes() {
        let quarantine = Mutex::default();
        let at = |seconds| move || Moment::START + Duration::from_secs(seconds);
        let poison = message(br#"{"template":"poison"}"#);
        let broken = guarded::<Create>(&quarantine, at(0), &poison, async { panic!("a bug") });
        assert_eq!(broken.await, Err(Refusal::Fault));
        let never = async { panic!("it is not asked again") };
        let again = guarded::<Create>(&quarantine, at(599), &poison, never).await;
        assert_eq!(again, Err(Refusal::Fault));
        let fine = async { Err(Refusal::Draining) };
        let later = guarded::<Create>(&quarantine, at(600), &poison, fine).await;
        assert_eq!(later, Err(Refusal::Draining));
    }
}
