//! Answers as they travel: the body in the codec of the question, and what is wrong also in the
//! headers, because a client of any language reads one of the two.

use std::borrow::Cow;

use sandpit_messages::codec::Codec;
use sandpit_messages::envelope::{
    ACCEPT, CONTENT_TYPE, ERROR_KIND, RAN, RETRY_AFTER_MS, SERVICE_ERROR, SERVICE_ERROR_CODE,
    TRACEPARENT, TRACESTATE,
};
use sandpit_messages::problem::{Detail, Problem, Ran};
use sandpit_messages::refusal::Refusal;
use serde::Serialize;

use super::{AskError, Headers, Message, Reply, trace};

impl Reply {
    /// A yes.
    pub fn granted<T: Serialize>(codec: Codec, value: &T) -> Self {
        let headers = Headers::new().with(CONTENT_TYPE, codec.content_type());
        Self { headers, body: codec.encode(value).into(), error: None }
    }

    /// A no.
    pub fn refused(codec: Codec, refusal: &Refusal) -> Self {
        Self::problem(codec, refusal.problem())
    }

    /// A no that is a record already.
    pub fn problem(codec: Codec, mut problem: Problem) -> Self {
        if problem.trace_id.is_none() {
            problem.trace_id = trace::current_trace();
        }
        let mut headers = Headers::new()
            .with(CONTENT_TYPE, codec.content_type())
            .with(SERVICE_ERROR, line(&problem.message))
            .with(SERVICE_ERROR_CODE, problem.code.to_string())
            .with(ERROR_KIND, problem.kind.as_str())
            .with(RAN, problem.ran.as_str());
        if let Some(after) = problem.retry_after_ms {
            headers.set(RETRY_AFTER_MS, after.to_string());
        }
        let error = Some(format!("{}:{}", problem.code, line(&problem.message)));
        Self { headers, body: codec.encode(&problem).into(), error }
    }
}

/// The codec in which a request is to be answered: the one it accepts, or else its own, or else,
/// where that cannot be told, the one that people read.
pub fn codec_of(message: &Message) -> Codec {
    let accepted = message.headers.get(ACCEPT).and_then(|text| Codec::of(Some(text), b"").ok());
    accepted.unwrap_or_else(|| {
        Codec::of(message.headers.get(CONTENT_TYPE), &message.body).unwrap_or(Codec::Json)
    })
}

/// A yes as it came, or the no that it is.
pub(super) fn read(answer: Message) -> Result<Message, AskError> {
    let Some(code) = answer.headers.get(SERVICE_ERROR_CODE) else { return Ok(answer) };
    let codec = Codec::of(answer.headers.get(CONTENT_TYPE), &answer.body);
    let told = codec.and_then(|codec| codec.decode::<Problem>(&answer.body));
    // A service of another make may send no body of ours; its headers are enough.
    let problem = told.unwrap_or_else(|_| Problem {
        kind: answer.headers.get(ERROR_KIND).unwrap_or("internal").to_owned(),
        code: code.trim().parse().unwrap_or(500),
        message: answer.headers.get(SERVICE_ERROR).unwrap_or_default().to_owned(),
        ran: match answer.headers.get(RAN) {
            Some("no") => Ran::No,
            Some("yes") => Ran::Yes,
            _ => Ran::Unknown,
        },
        retry_after_ms: answer.headers.get(RETRY_AFTER_MS).and_then(|text| text.parse().ok()),
        detail: Detail::default(),
        trace_id: None,
    });
    Err(AskError::Refused(Box::new(problem)))
}

/// The answer to `request` as a message for whoever waits for it. Its trace is that of the
/// processing span, or the request's own where nobody collects traces.
pub(super) fn message(
    to: String,
    request: &Headers,
    span: &tracing::Span,
    reply: Reply,
) -> Message {
    let Reply { mut headers, body, .. } = reply;
    trace::inject(span, &mut headers);
    if headers.get(TRACEPARENT).is_none() {
        for name in [TRACEPARENT, TRACESTATE] {
            if let Some(value) = request.get(name) {
                headers.set(name, value);
            }
        }
    }
    Message { subject: to, headers, body }
}

/// One line: a header's value ends at its line.
fn line(text: &str) -> Cow<'_, str> {
    if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], " ").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_no_reads_back_from_its_body_and_from_its_headers_alone() {
        let refusal = Refusal::Busy { waiting: 3, retry_after: Duration::from_millis(40) };
        for codec in [Codec::Json, Codec::MessagePack] {
            let Reply { headers, body, error } = Reply::refused(codec, &refusal);
            assert_eq!(error.as_deref(), Some("503:3 requests are waiting already"));
            let whole = Message { headers: headers.clone(), body, ..Message::default() };
            assert_eq!(read(whole), Err(AskError::Refused(Box::new(refusal.problem()))));
            let bare = Message { headers, ..Message::default() };
            let Err(AskError::Refused(problem)) = read(bare) else { panic!("a no") };
            let told = (problem.kind.as_str(), problem.code, problem.ran, problem.retry_after_ms);
            assert_eq!(told, ("busy", 503, Ran::No, Some(40)));
        }
    }

    #[test]
    fn the_answer_speaks_as_the_question_did() {
        let check = |headers: Headers, body: &'static [u8], expected| {
            let body = Bytes::from_static(body);
            assert_eq!(codec_of(&Message { headers, body, ..Message::default() }), expected);
        };
        check(Headers::new(), b"{}", Codec::Json);
        check(Headers::new(), b"\x80", Codec::MessagePack);
        check(Headers::new().with(ACCEPT, "application/json"), b"\x80", Codec::Json);
        check(Headers::new().with(CONTENT_TYPE, "text/plain"), b"\x80", Codec::Json);
    }
}
