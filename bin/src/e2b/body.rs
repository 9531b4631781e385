//! Bodies: read whole within a bound, and written piece by piece.

use std::convert::Infallible;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use futures_util::stream;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::answer::Plain;

/// Most bytes of a body on the control plane and of a unary call.
pub(super) const BODY_MAX: usize = 4 << 20;

/// Pieces of an answer that wait for a slow reader. Beyond these whatever writes them waits, too.
pub(super) const PIECES_MAX: usize = 16;

/// All of a body.
pub(super) async fn whole(request: Request, max: usize) -> Result<Bytes, Plain> {
    to_bytes(request.into_body(), max)
        .await
        .map_err(|error| Plain::bad(format!("the body cannot be read: {error}")))
}

/// A body in JSON; an empty one is an empty object.
pub(super) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, Plain> {
    let bytes = whole(request, BODY_MAX).await?;
    let text: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text)
        .map_err(|error| Plain::bad(format!("the body is not what is expected: {error}")))
}

/// A body of the pieces that come through a channel; it is whole when the channel ends.
pub(super) fn of_pieces(pieces: mpsc::Receiver<Bytes>) -> Body {
    Body::from_stream(stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    }))
}

/// The same; a piece that is an error cuts the answer short, so that its reader notices.
pub(super) fn of_pieces_or_cut<E>(pieces: mpsc::Receiver<Result<Bytes, E>>) -> Body
where
    E: std::error::Error + Send + Sync + 'static,
{
    Body::from_stream(stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.recv().await?;
        Some((piece, pieces))
    }))
}
