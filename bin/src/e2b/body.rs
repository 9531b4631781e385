//! Bodies: read whole within a bound, and written piece by piece.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::Request;
use futures_util::{StreamExt, stream};
use hyper::body::{Frame, SizeHint};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::answer::Plain;

/// Most bytes of a body on the control plane and of a unary call.
pub(super) const BODY_MAX: usize = 4 << 20;

/// Pieces of an answer that wait for a slow reader. Beyond these whatever writes them waits, too.
pub(super) const PIECES_MAX: usize = 16;

/// Most bytes read of a body that nobody wants, before its answer is sent.
const UNREAD_MAX: usize = BODY_MAX;

/// Longest wait for such bytes.
const UNREAD_WAIT_MAX: Duration = Duration::from_millis(500);

/// The body of a request that is answered. Whoever drops it before its end gives back the rest.
struct Lent {
    body: Body,
    back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take().filter(|_| !self.body.is_end_stream()) {
            // Nobody waits for it once the answer is on its way.
            back.send(std::mem::take(&mut self.body)).ok();
        }
    }
}

/// What an answer left unread of its request.
pub(super) struct Unread {
    rest: oneshot::Receiver<Body>,
}

/// Lends out the body of a request.
pub(super) fn lend(request: Request) -> (Request, Unread) {
    let (back, rest) = oneshot::channel();
    (request.map(|body| Body::new(Lent { body, back: Some(back) })), Unread { rest })
}

impl Unread {
    /// Reads the rest, within bounds, if nobody does any more. A server that answers before it has
    /// read closes the connection, and a client that is still sending sees a broken pipe in place
    /// of why it was refused.
    pub(super) async fn discard(mut self) {
        let Ok(body) = self.rest.try_recv() else { return };
        let mut pieces = body.into_data_stream();
        let discarding = async {
            let mut bytes = 0;
            while let Some(Ok(piece)) = pieces.next().await {
                bytes += piece.len();
                if bytes > UNREAD_MAX {
                    return;
                }
            }
        };
        // Whoever is slower than that is told as soon as it can hear.
        tokio::time::timeout(UNREAD_WAIT_MAX, discarding).await.ok();
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of these pieces, and how many of them were read.
    fn counted(pieces: usize) -> (Body, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
        let read = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = std::sync::Arc::clone(&read);
        let pieces = stream::iter(0..pieces).map(move |_| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, Infallible>(Bytes::from(vec![0; 1 << 20]))
        });
        (Body::from_stream(pieces), read)
    }

    #[tokio::test]
    async fn what_an_answer_leaves_unread_is_read_within_a_bound() {
        for (pieces, expected) in [(3, 3), (100, 5)] {
            let (body, read) = counted(pieces);
            let (request, unread) = lend(Request::new(body));
            drop(request);
            unread.discard().await;
            assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), expected);
        }
    }

    #[tokio::test]
    async fn a_body_that_is_still_being_read_is_left_to_its_reader() {
        let (body, read) = counted(3);
        let (request, unread) = lend(Request::new(body));
        unread.discard().await;
        assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), 0);
        let whole = whole(request, BODY_MAX).await;
        assert_eq!(whole.map(|bytes| bytes.len()).ok(), Some(3 << 20));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_client_that_sends_nothing() {
        let (request, unread) =
            lend(Request::new(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())));
        drop(request);
        unread.discard().await;
    }
}
