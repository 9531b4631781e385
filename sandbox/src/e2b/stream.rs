//! Streams of processes and files: messages in envelopes, read as they come.

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Response};
use sandpit_messages::id::SandboxId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cloud;
use super::http::{Answer, ask, broken, garbled, json, send, whole};
use super::known::Remote;
use super::wire::envelope::{self, Envelope};
use super::wire::fault::{Code, ConnectError};
use super::wire::{CONNECT_JSON, ENVD_PORT, header};
use crate::ProviderError;

/// Seconds of silence after which the other side says that it lives.
const KEEPALIVE_S: &str = "50";

/// An open stream of messages.
#[derive(Debug)]
pub(super) struct Messages {
    response: Response,
    decoder: envelope::Decoder,
    sandbox: SandboxId,
}

/// How a stream went on.
#[derive(Debug)]
pub(super) enum Piece<T> {
    Message(T),
    /// It ended, with what the other side says went wrong.
    End(Option<ConnectError>),
}

impl Messages {
    /// The next message.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Piece<T>, ProviderError> {
        loop {
            match self.decoder.pull().map_err(|error| garbled(error.to_string()))? {
                Some(Envelope::Message(text)) => {
                    let read = serde_json::from_slice(&text);
                    let read = read.map_err(|error| garbled(error.to_string()))?;
                    return Ok(Piece::Message(read));
                }
                Some(Envelope::End(error)) => return Ok(Piece::End(error)),
                None => match self.response.chunk().await.map_err(|error| broken(&error))? {
                    Some(bytes) => self.decoder.push(&bytes),
                    None => return Err(garbled("the stream broke off".to_owned())),
                },
            }
        }
    }

    /// Whose it is.
    pub(super) const fn sandbox(&self) -> SandboxId {
        self.sandbox
    }
}

/// What the end of a stream, or the answer of a call, means.
pub(super) fn fault_of(error: &ConnectError, sandbox: SandboxId) -> ProviderError {
    let why = error.message.clone();
    match error.code {
        Code::Unavailable if why.contains(super::wire::fault::NOT_FOUND) => {
            ProviderError::Gone(sandbox)
        }
        Code::Unauthenticated | Code::PermissionDenied => ProviderError::Denied { why },
        Code::Unimplemented => ProviderError::unsupported(why),
        Code::ResourceExhausted => ProviderError::Quota { what: why },
        Code::DeadlineExceeded => ProviderError::Timeout { maybe_done: true },
        Code::Canceled
        | Code::Unknown
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Aborted => ProviderError::Failed { why, maybe_done: true },
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => ProviderError::Refused { why },
    }
}

impl Cloud {
    /// A call to processes or files with one answer. The answer may be a failure, which whoever
    /// called knows best what it means.
    pub(super) async fn unary(
        &self,
        remote: &Remote,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer, ProviderError> {
        let request = self.data(remote, ENVD_PORT, Method::POST, path);
        ask(json(request.header(header::PROTOCOL, "1"), body)).await
    }

    /// What a failed call means where it means nothing special.
    pub(super) fn unary_fault(&self, sandbox: SandboxId, answer: &Answer) -> ProviderError {
        let said = answer.connect_error().filter(|error| error.code != Code::Unknown);
        let fault = match said {
            Some(error) if answer.status != 502 => fault_of(&error, sandbox),
            _ => answer.fault(Some(sandbox)),
        };
        self.noted(sandbox, fault)
    }

    /// Opens a stream. `lives` is how long what it starts may live.
    pub(super) async fn stream(
        &self,
        sandbox: SandboxId,
        remote: &Remote,
        path: &str,
        body: &impl Serialize,
        lives: Option<std::time::Duration>,
    ) -> Result<Messages, ProviderError> {
        let request = self.data(remote, ENVD_PORT, Method::POST, path);
        let request = timed(request, lives)
            .header(header::PROTOCOL, "1")
            .header(header::KEEPALIVE_S, KEEPALIVE_S)
            .header(CONTENT_TYPE, CONNECT_JSON);
        let body: Bytes = envelope::message(body);
        let response = send(request.body(body)).await?;
        if !response.status().is_success() {
            let answer = whole(response).await?;
            return Err(self.unary_fault(sandbox, &answer));
        }
        Ok(Messages { response, decoder: envelope::Decoder::default(), sandbox })
    }
}

fn timed(request: RequestBuilder, lives: Option<std::time::Duration>) -> RequestBuilder {
    match lives {
        Some(lives) => request.header(header::TIMEOUT_MS, lives.as_millis().max(1).to_string()),
        None => request,
    }
}
