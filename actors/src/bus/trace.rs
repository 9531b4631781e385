//! One trace from whoever asked to whoever answered: W3C context in the headers, both ways.
//!
//! Works the same when nobody collects traces: then nothing is made up, and a context that came
//! with a request goes back with its answer.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use sandpit_messages::envelope::{TRACEPARENT, TRACESTATE};
use sandpit_messages::subject;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::Headers;

/// The length of a version 00 `traceparent`.
const TRACEPARENT_LENGTH: usize = 55;

/// The span of a question, from sending it to having its answer.
pub fn asking(subject: &str) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = tracing::field::Empty,
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        messaging.system = "nats",
        messaging.operation.name = "request",
        messaging.operation.r#type = "send",
        messaging.destination.template = tracing::field::Empty,
        messaging.destination.name = subject,
        error.r#type = tracing::field::Empty,
    );
    name(&span, "request", subject);
    span
}

/// The span of sending one message that nobody answers.
pub fn publishing(subject: &str) -> Span {
    let span = tracing::info_span!(
        "publish",
        otel.name = tracing::field::Empty,
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "publish",
        messaging.operation.r#type = "send",
        messaging.destination.template = tracing::field::Empty,
        messaging.destination.name = subject,
    );
    name(&span, "publish", subject);
    span
}

/// The span of answering a request: a child of its sender's and linked to it, because the
/// messaging convention wants the link and a reader wants one tree.
pub fn processing(subject: &str, group: Option<&str>, headers: &Headers) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "process",
        otel.name = tracing::field::Empty,
        otel.kind = "consumer",
        otel.status_code = tracing::field::Empty,
        messaging.system = "nats",
        messaging.operation.name = "process",
        messaging.operation.r#type = "process",
        messaging.destination.template = tracing::field::Empty,
        messaging.destination.name = subject,
        messaging.consumer.group.name = group,
        error.r#type = tracing::field::Empty,
        trace_id = tracing::field::Empty,
        span_id = tracing::field::Empty,
    );
    if span.is_disabled() {
        return span;
    }
    name(&span, "process", subject);
    if let Some(sender) = extract(headers) {
        let parent = Context::new().with_remote_span_context(sender.clone());
        // It fails where no layer collects traces; the link then goes nowhere, too.
        if span.set_parent(parent).is_ok() {
            span.add_link(sender);
        }
    }
    let own = span.context().span().span_context().clone();
    if own.is_valid() {
        span.record("trace_id", tracing::field::display(own.trace_id()));
        span.record("span_id", tracing::field::display(own.span_id()));
    }
    span
}

fn name(span: &Span, what: &str, subject: &str) {
    if !span.is_disabled() {
        let template = subject::template(subject);
        span.record("otel.name", format!("{what} {template}"));
        span.record("messaging.destination.template", &*template);
    }
}

/// Marks the span as failed, with one word for programs.
pub fn failed(span: &Span, kind: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", kind);
}

/// Writes the span's context into what is sent. A span nobody collects leaves the headers as they
/// are, so that a context passes through.
pub fn inject(span: &Span, headers: &mut Headers) {
    if span.is_disabled() {
        return;
    }
    let context = span.context();
    let of_span = context.span();
    let own = of_span.span_context();
    if !own.is_valid() {
        return;
    }
    let (trace, id, flags) = (own.trace_id(), own.span_id(), own.trace_flags().to_u8());
    headers.set(TRACEPARENT, format!("00-{trace}-{id}-{flags:02x}"));
    let state = own.trace_state().header();
    if !state.is_empty() {
        headers.set(TRACESTATE, state);
    }
}

/// Where the sender of these headers stood, if they say so in the form of W3C.
pub fn extract(headers: &Headers) -> Option<SpanContext> {
    let text = headers.get(TRACEPARENT)?;
    let (trace, span, flags) = parts(text)?;
    let state = headers.get(TRACESTATE).and_then(|text| text.parse::<TraceState>().ok());
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let context = SpanContext::new(trace, span, flags, true, state.unwrap_or_default());
    context.is_valid().then_some(context)
}

/// The trace of the current span, for a [`sandpit_messages::problem::Problem`]; `None` where
/// nobody collects traces.
pub fn current_trace() -> Option<String> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    own.is_valid().then(|| own.trace_id().to_string())
}

/// Trace, span and flags of a `traceparent`. Lower case only. A later version may go on after
/// the flags; version 00 may not.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let known = text.get(..TRACEPARENT_LENGTH)?;
    let rest = &text[TRACEPARENT_LENGTH..];
    let mut words = known.split('-');
    let (version, trace, span, flags) =
        (words.next()?, words.next()?, words.next()?, words.next()?);
    let lengths = [version.len(), trace.len(), span.len(), flags.len()] == [2, 32, 16, 2];
    let rest_fits =
        if version == "00" { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
    let fits = words.next().is_none() && lengths && version != "ff" && rest_fits;
    (fits && [version, trace, span, flags].into_iter().all(hex)).then_some((trace, span, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(text: &str) -> Option<SpanContext> {
        extract(&Headers::new().with(TRACEPARENT, text))
    }

    #[test]
    fn a_context_is_read_as_it_was_written() {
        let context = read(PARENT).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
    }

    #[test]
    fn what_is_no_context_is_no_context() {
        for text in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0é",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(read(later).is_some(), "a later version may say more");
    }

    #[test]
    fn without_anybody_collecting_a_context_passes_through() {
        let mut headers = Headers::new().with(TRACEPARENT, PARENT);
        inject(&asking("shop.req.create"), &mut headers);
        assert_eq!(headers.get(TRACEPARENT), Some(PARENT));
        let mut none = Headers::new();
        inject(&asking("shop.req.create"), &mut none);
        assert!(none.is_empty());
    }
}
