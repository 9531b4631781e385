//! Requests and answers, and what a failure of either means.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response};
use rustls::{ClientConfig, RootCertStore};
use sandpit_messages::id::SandboxId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::options::Options;
use super::wire::fault::{ConnectError, PlainError, ProxyError, QUOTA};
use super::wire::header;
use crate::ProviderError;

/// Bytes of an answer that is read whole: a page of a list has a tenth of it.
const ANSWER_MAX: usize = 16 << 20;

/// Characters of a cloud's own words that go into an error.
const SAID_MAX: usize = 300;

/// How long a connection that nobody uses is kept.
const IDLE_MAX: Duration = Duration::from_secs(55);

/// A client for one endpoint. HTTP/1.1 only: closing a connection is how a cell is interrupted.
pub(super) fn client(options: &Options) -> Result<Client, ProviderError> {
    let refused = |why: String| ProviderError::Refused { why };
    let urls = std::iter::once(&options.api_url).chain(&options.sandbox_url);
    let (mut secure, mut loopback) = (options.sandbox_url.is_none(), true);
    for url in urls {
        let parsed = reqwest::Url::parse(url);
        let parsed = parsed.map_err(|error| refused(format!("{url} is no address: {error}")))?;
        secure |= parsed.scheme() == "https";
        let host = parsed.host_str().unwrap_or_default();
        loopback &= host == "localhost" || host.starts_with("127.") || host == "[::1]";
    }
    let tls = tls(secure).map_err(|error| refused(error.to_string()))?;
    let builder = Client::builder()
        .user_agent(concat!("sandpit/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(options.connect_max)
        .pool_idle_timeout(IDLE_MAX);
    // A proxy of the environment is for what is beyond this machine.
    let builder = if loopback { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| refused(chain(&error)))
}

/// TLS as the bus has it: ring, and the certificates of this machine.
fn tls(wanted: bool) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    if wanted {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
    }
    let ring = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// An answer that was read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends a request and waits for the head of its answer.
pub(super) async fn send(request: RequestBuilder) -> Result<Response, ProviderError> {
    request.send().await.map_err(|error| broken(&error))
}

/// Sends a request and reads its answer.
pub(super) async fn ask(request: RequestBuilder) -> Result<Answer, ProviderError> {
    whole(send(request).await?).await
}

/// Reads an answer whole.
pub(super) async fn whole(mut response: Response) -> Result<Answer, ProviderError> {
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + piece.len() > ANSWER_MAX {
            return Err(garbled(format!("an answer of more than {ANSWER_MAX} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, body: body.freeze() })
}

/// A request with a JSON body.
pub(super) fn json(request: RequestBuilder, body: &impl Serialize) -> RequestBuilder {
    let text = serde_json::to_vec(body).expect("text and numbers can be written");
    request.header(reqwest::header::CONTENT_TYPE, super::wire::JSON).body(text)
}

impl Answer {
    pub(super) const fn is_success(&self) -> bool {
        matches!(self.status, 200..300)
    }

    /// Its body.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ProviderError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| garbled(format!("its answer cannot be read: {error}")))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The kind of a failed call to processes or files.
    pub(super) fn connect_error(&self) -> Option<ConnectError> {
        serde_json::from_slice(&self.body).ok()
    }

    fn said(&self) -> String {
        let plain = serde_json::from_slice::<PlainError>(&self.body).map(|plain| plain.message);
        let text = plain
            .ok()
            .or_else(|| self.connect_error().map(|error| error.message))
            .unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned());
        let line = text.trim().replace(['\n', '\r'], " ");
        line.chars().take(SAID_MAX).collect()
    }

    /// What an answer means that is not the one that was hoped for. The table of failures.
    pub(super) fn fault(&self, sandbox: Option<SandboxId>) -> ProviderError {
        let said = self.said();
        let why = || format!("HTTP {}: {said}", self.status);
        let after = self.header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
        let after = after.map(Duration::from_secs);
        let again = self.header(header::SHOULD_RETRY);
        match (self.status, after) {
            (429, Some(after)) if again != Some("false") && !said.contains(QUOTA) => {
                ProviderError::Throttled { after }
            }
            (429, _) => ProviderError::Quota { what: format!("what the cloud allows: {said}") },
            (409, after) if again == Some("true") => {
                ProviderError::Throttled { after: after.unwrap_or(Duration::from_secs(1)) }
            }
            (503, Some(after)) => ProviderError::Throttled { after },
            (401 | 403, _) => ProviderError::Denied { why: why() },
            (501, _) => ProviderError::unsupported(said),
            (502, _) if self.is_gone() => match sandbox {
                Some(sandbox) => ProviderError::Gone(sandbox),
                None => ProviderError::Failed { why: why(), maybe_done: true },
            },
            (500.., _) => ProviderError::Failed { why: why(), maybe_done: true },
            _ => ProviderError::Refused { why: why() },
        }
    }

    fn is_gone(&self) -> bool {
        serde_json::from_slice::<ProxyError>(&self.body).is_ok_and(|error| error.is_not_found())
    }
}

/// What is not what it should be. It came back, so it was done.
pub(super) fn garbled(why: String) -> ProviderError {
    ProviderError::Failed { why, maybe_done: true }
}

/// A request or an answer that broke off.
pub(super) fn broken(error: &reqwest::Error) -> ProviderError {
    // Without a connection nothing was sent.
    let maybe_done = !error.is_connect();
    if error.is_builder() {
        return ProviderError::Refused { why: chain(error) };
    }
    if error.is_timeout() {
        return ProviderError::Timeout { maybe_done };
    }
    ProviderError::Failed { why: chain(error), maybe_done }
}

/// An error and its causes in one line.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text.chars().take(SAID_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Class;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &'static str) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        Answer { status, headers: headers.collect(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn each_status_means_what_the_table_says() {
        let sandbox = Some(SandboxId::numbered(1));
        let class = |answer: Answer| answer.fault(sandbox).class();
        let limit = r#"{"code":429,"message":"Rate limit exceeded"}"#;
        let after = [("retry-after", "2")];
        assert_eq!(class(answer(429, &after, limit)), Class::Throttled(Duration::from_secs(2)),);
        assert_eq!(class(answer(429, &[], limit)), Class::Quota);
        let never = [("retry-after", "2"), ("should-retry", "false")];
        assert_eq!(class(answer(429, &never, limit)), Class::Quota);
        let full = r#"{"code":429,"message":"maximum number of concurrent sandboxes (20)"}"#;
        assert_eq!(class(answer(429, &after, full)), Class::Quota);
        for status in [401, 403] {
            assert_eq!(class(answer(status, &[], "")), Class::Denied);
        }
        for status in [400, 404, 409, 422] {
            assert_eq!(class(answer(status, &[], "")), Class::Permanent);
        }
        for status in [500, 502, 503, 504] {
            assert_eq!(class(answer(status, &[], "")), Class::Transient);
        }
        assert_eq!(class(answer(501, &[], "")), Class::Unsupported);
        // As captured from an official SDK's conversation.
        let gone = r#"{"sandboxId": "isb00000000000000001", "message": "The sandbox was not found", "code": 502}"#;
        assert_eq!(class(answer(502, &[], gone)), Class::Gone);
    }

    #[test]
    fn a_cloud_that_talks_much_is_cut_short() {
        let long: &'static str = "x".repeat(10_000).leak();
        assert!(answer(500, &[], long).fault(None).to_string().len() < 400);
    }
}
