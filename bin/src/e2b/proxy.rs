//! Any other port of a sandbox: HTTP and WebSockets, passed on to whoever listens there.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{StatusCode, Version, header};
use axum::response::Response;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sandpit_actors::entry::Held;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::e2b::wire::fault::ProxyError;
use sandpit_sandbox::e2b::wire::header as names;

use super::Shared;
use super::answer::{self, Plain};

/// Passes a request on.
pub(super) async fn pass(
    shared: &Arc<Shared>,
    held: &Held,
    port: u16,
    request: Request,
) -> Response {
    let closed = || answer::unreachable(&ProxyError::port_closed(held.sandbox.as_str(), port));
    // A provider that cannot reach ports has none open.
    let Ok(ports) = shared.provider().ports() else { return closed() };
    let dialed = match ports.dial(held.sandbox, port).await {
        Ok(Some(dialed)) => dialed,
        Ok(None) | Err(ProviderError::Unsupported { .. }) => return closed(),
        Err(ProviderError::Gone(_) | ProviderError::Paused(_)) => {
            return answer::unreachable(&ProxyError::not_found(held.sandbox.as_str()));
        }
        Err(error) => return Plain::from(error).into(),
    };
    match passed(TokioIo::new(dialed), port, request).await {
        Ok(response) => response,
        Err(error) => {
            let message = format!("what listens on port {port} did not answer: {error}");
            answer::text(StatusCode::BAD_GATEWAY, message)
        }
    }
}

async fn passed<T>(
    io: TokioIo<T>,
    port: u16,
    mut request: Request,
) -> Result<Response, hyper::Error>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(io).await?;
    // Ends with the answer, or with the WebSocket that it became.
    tokio::spawn(connection.with_upgrades());
    let ours = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    // What opens the account or the sandbox is not for what runs inside.
    for name in [
        names::API_KEY,
        names::SANDBOX_ID,
        names::SANDBOX_PORT,
        names::TRAFFIC_TOKEN,
        names::ACCESS_TOKEN,
    ] {
        head.headers.remove(name);
    }
    let path = head.uri.path_and_query().cloned();
    head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    head.version = Version::HTTP_11;
    if let Ok(host) = format!("localhost:{port}").parse() {
        head.headers.insert(header::HOST, host);
    }
    let mut response = sender.send_request(Request::from_parts(head, body)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(ours), Ok(theirs)) = (ours.await, theirs.await) {
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                // Either end may leave as it likes.
                tokio::io::copy_bidirectional(&mut ours, &mut theirs).await.ok();
            }
        });
    }
    Ok(response.map(Body::new))
}
