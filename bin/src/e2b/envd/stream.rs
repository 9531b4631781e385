//! Streams of the Connect protocol: what is read of them, and how they are written.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::BytesMut;
use futures_util::StreamExt as _;
use sandpit_sandbox::e2b::wire::envelope::{self, Decoder, Envelope};
use sandpit_sandbox::e2b::wire::fault::{Code, ConnectError};
use sandpit_sandbox::e2b::wire::{CONNECT_JSON, header as names};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::super::{answer, body, word};

/// Silence after which a stream says that it lives, unless its reader wants to hear it sooner.
const KEEPALIVE: Duration = Duration::from_secs(90);

/// A stream that is answered, envelope by envelope.
pub(super) struct Answering {
    pieces: mpsc::Sender<Bytes>,
    waiting: BytesMut,
}

/// Whoever read is gone.
#[derive(Debug)]
pub(super) struct HungUp;

impl Answering {
    /// An answer, and what writes it.
    pub(super) fn begin() -> (Self, Response) {
        let (pieces, read) = mpsc::channel(body::PIECES_MAX);
        let response = answer::with_type(StatusCode::OK, CONNECT_JSON, body::of_pieces(read));
        (Self { pieces, waiting: BytesMut::new() }, response)
    }

    /// Another way to write the same answer.
    pub(super) fn also(&self) -> Self {
        Self { pieces: self.pieces.clone(), waiting: BytesMut::new() }
    }

    /// Adds a message to those that go out together.
    pub(super) fn add(&mut self, message: &impl Serialize) {
        self.waiting.extend_from_slice(&envelope::message(message));
    }

    /// Returns once whoever read is gone.
    pub(super) async fn hung_up(&self) {
        self.pieces.closed().await;
    }

    /// How many bytes wait to go out.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sends what waits, at once.
    pub(super) async fn flush(&mut self) -> Result<(), HungUp> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let piece = self.waiting.split().freeze();
        self.pieces.send(piece).await.map_err(|_| HungUp)
    }

    /// Sends one message, at once.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<(), HungUp> {
        self.add(message);
        self.flush().await
    }

    /// Ends the stream.
    pub(super) async fn end(mut self, error: Option<ConnectError>) {
        self.waiting.extend_from_slice(&envelope::end(error));
        // Whoever is gone needs no end.
        self.flush().await.ok();
    }
}

/// A stream that failed before it began: still an answer of 200, with the failure at its end.
pub(super) fn failed(error: ConnectError) -> Response {
    answer::with_type(StatusCode::OK, CONNECT_JSON, Body::from(envelope::end(Some(error))))
}

/// The one message of a request.
pub(super) async fn one<T: DeserializeOwned>(request: Request) -> Result<T, ConnectError> {
    let bytes = body::whole(request, body::BODY_MAX).await;
    let bytes = bytes.map_err(|plain| invalid(plain.message))?;
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    match decoder.pull() {
        Ok(Some(Envelope::Message(json))) => read(&json),
        Ok(_) => Err(invalid("a message in an envelope is expected")),
        Err(error) => Err(bad(&error)),
    }
}

/// Messages of a request as they come.
pub(super) struct Asking {
    body: axum::body::BodyDataStream,
    decoder: Decoder,
}

impl Asking {
    pub(super) fn of(request: Request) -> Self {
        Self { body: request.into_body().into_data_stream(), decoder: Decoder::default() }
    }

    /// The next message; `None` when there are no more.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ConnectError> {
        loop {
            match self.decoder.pull().map_err(|error| bad(&error))? {
                Some(Envelope::Message(json)) => return read(&json).map(Some),
                Some(Envelope::End(_)) => return Ok(None),
                None => {}
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.decoder.push(&bytes),
                Some(Err(error)) => return Err(invalid(error.to_string())),
                None if self.decoder.is_between() => return Ok(None),
                None => return Err(invalid("the stream broke off")),
            }
        }
    }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, ConnectError> {
    serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))
}

fn invalid(why: impl Into<String>) -> ConnectError {
    ConnectError::new(Code::InvalidArgument, why)
}

fn bad(error: &envelope::BadEnvelope) -> ConnectError {
    let code = match error {
        envelope::BadEnvelope::Compressed => Code::Unimplemented,
        _ => Code::InvalidArgument,
    };
    ConnectError::new(code, error.to_string())
}

/// After how much silence a stream says that it lives.
pub(super) fn keepalive(headers: &HeaderMap) -> Duration {
    let asked = word(headers, names::KEEPALIVE_S).and_then(|text| text.parse().ok());
    asked.filter(|seconds| *seconds > 0).map_or(KEEPALIVE, Duration::from_secs)
}

/// How long a call may take, if it says so.
pub(super) fn time_max(headers: &HeaderMap) -> Option<Duration> {
    let asked = word(headers, names::TIMEOUT_MS)?.parse().ok()?;
    (asked > 0).then(|| Duration::from_millis(asked))
}
