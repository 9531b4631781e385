//! The HTTP face: whether the node serves, its metrics, and the tools for assistants. On a thread and a runtime of its own,
//! so that whoever scrapes never waits for, or holds up, a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::telemetry::Metrics;

/// Says whether the node serves: `serving`, or what it is doing instead.
pub type Health = Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

/// A listener that answers until it is dropped.
#[derive(Debug)]
pub struct Http {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on http.listen, which is {address}")]
pub struct NotListening {
    /// Where.
    pub address: SocketAddr,
    /// What the system says.
    pub source: std::io::Error,
}

/// Whether a host, with or without a port, as a request names it, can be of this machine alone. A
/// name that a page's owner makes lead here is not.
pub(crate) fn names_this_machine(host: &str) -> bool {
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split([':', '/']).next(),
    };
    matches!(host, Some("localhost" | "127.0.0.1" | "::1"))
}

#[derive(Clone)]
struct Faces {
    health: Health,
    metrics: Metrics,
}

impl Http {
    /// Listens on `address`; port 0 takes a free one. `more` are routes beside its own.
    ///
    /// # Errors
    /// [`NotListening`] if it cannot.
    pub async fn listen(
        address: SocketAddr,
        health: Health,
        metrics: Metrics,
        more: Router,
    ) -> Result<Self, NotListening> {
        let refused = |source| NotListening { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let routes = Router::new()
            .route("/healthz", get(healthz))
            .route("/metrics", get(scrape))
            .with_state(Faces { health, metrics })
            .merge(more);
        let (stop, stopped) = oneshot::channel();
        let serve = move || serve(listener, routes, stopped);
        thread::Builder::new().name("http".to_owned()).spawn(serve).map_err(refused)?;
        Ok(Self { address: bound, _stop: stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(listener: std::net::TcpListener, routes: Router, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| {
        runtime.block_on(async {
            // An answer of two small packets must not wait 40 ms for the first to be acknowledged.
            let listener = TcpListener::from_std(listener)?.tap_io(|connection| {
                if let Err(error) = connection.set_nodelay(true) {
                    tracing::debug!(%error, "answers on this connection may be late");
                }
            });
            let served = axum::serve(listener, routes);
            tokio::select! {
                ended = served.into_future() => ended,
                // Dropped with what it belongs to.
                _ = stopped => Ok(()),
            }
        })
    });
    if let Err(error) = ended {
        tracing::error!(%error, "the HTTP face ended");
    }
}

async fn healthz(State(faces): State<Faces>) -> Response {
    match (faces.health)() {
        Ok(()) => (StatusCode::OK, "serving\n").into_response(),
        Err(instead) => (StatusCode::SERVICE_UNAVAILABLE, format!("{instead}\n")).into_response(),
    }
}

async fn scrape(State(faces): State<Faces>) -> Response {
    match faces.metrics.text() {
        Ok(text) => {
            let format = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, format)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
