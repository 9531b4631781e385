//! The face for E2B's SDKs: their API over the provider of this node, on one plain HTTP/1.1 port.
//!
//! A thin adapter. The life of sandboxes goes through the actors, as it does from every other face;
//! files, processes and cells go straight to the provider once the pool has said that the sandbox is
//! the caller's and runs. What the provider cannot do is answered with 501, never imitated.

mod answer;
mod body;
mod control;
mod envd;
mod interpreter;
pub(crate) mod keys;
mod metrics;
mod proxy;
mod route;
mod table;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::serve::ListenerExt;
use sandpit_actors::entry::{Direct, Held};
use sandpit_config::Config;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{RequestId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::{Moment, Now};
use sandpit_sandbox::Provider;
use sandpit_sandbox::e2b::wire::fault::ProxyError;
use sandpit_sandbox::e2b::wire::{ENVD_PORT, INTERPRETER_PORT, Timestamp, header as names};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::http::names_this_machine;
use answer::Plain;
use keys::{Keys, Note, Tokens};
use metrics::Metrics;
use route::{Target, Way};
use table::Table;

/// Least lifetime that a call to a paused sandbox gives it.
const RESUMED_MIN: Duration = Duration::from_secs(300);

/// Where a proxy says for whom it asks.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A listener that answers SDKs until it is dropped.
#[derive(Debug)]
pub struct Facade {
    address: SocketAddr,
    _note: Note,
    _stop: oneshot::Sender<()>,
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on e2b.listen, which is {address}")]
pub struct NotListening {
    /// Where.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

/// What every answer needs.
struct Shared {
    direct: Direct,
    keys: Keys,
    tokens: Tokens,
    table: Table,
    metrics: Metrics,
    /// Both clocks at one moment, so that a moment is always told as the same time.
    anchor: Now,
    domain: String,
    /// Whether only programs of this machine reach the listener.
    is_private: bool,
    lifetime_max: Duration,
    paused_retention: Duration,
    /// Bytes that a sandbox has for its files.
    disk: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Facade {
    /// Listens on `e2b.listen`; port 0 takes a free one. Keys are kept in `data`.
    ///
    /// # Errors
    /// [`NotListening`] if it cannot, or if the keys cannot be read.
    pub async fn listen(
        config: &Config,
        data: &Path,
        direct: Direct,
    ) -> Result<Self, NotListening> {
        let address = config.e2b.listen;
        let refused = |source| NotListening { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let keys = Keys::of(data).map_err(refused)?;
        let host = if bound.ip().is_unspecified() { [127, 0, 0, 1].into() } else { bound.ip() };
        let url = format!("http://{}", SocketAddr::new(host, bound.port()));
        let note = keys.write(data, url).map_err(refused)?;
        let domain = config.e2b.domain.clone();
        let shared = Arc::new(Shared {
            keys,
            tokens: Tokens::new(),
            table: Table::default(),
            metrics: Metrics::default(),
            anchor: direct.clock().both(),
            domain: domain.unwrap_or_else(|| format!("sandpit.localhost:{}", bound.port())),
            is_private: bound.ip().is_loopback(),
            lifetime_max: config.e2b.max_lifetime.min(config.pool.lifetime_max),
            paused_retention: config.e2b.paused_retention,
            disk: config.provider.local.home,
            direct,
        });
        let (stop, stopped) = oneshot::channel();
        let serve = move || serve(listener, shared, stopped);
        thread::Builder::new().name("e2b".to_owned()).spawn(serve).map_err(refused)?;
        Ok(Self { address: bound, _note: note, _stop: stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| {
        runtime.block_on(async {
            // Answers come in small pieces, and none of them may wait for another.
            let listener = TcpListener::from_std(listener)?.tap_io(|connection| {
                if let Err(error) = connection.set_nodelay(true) {
                    tracing::debug!(%error, "answers on this connection may be late");
                }
            });
            let keeping = metrics::keep(Arc::clone(&shared));
            let routes = Router::new().fallback(answer).with_state(shared);
            let served = axum::serve(listener, routes);
            tokio::select! {
                ended = served.into_future() => ended,
                () = keeping => Ok(()),
                // Dropped with what it belongs to.
                _ = stopped => Ok(()),
            }
        })
    });
    if let Err(error) = ended {
        tracing::error!(%error, "the face for E2B's SDKs ended");
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let target = Way {
        host: text(request.headers(), header::HOST).or_else(|| request.uri().host()),
        sandbox: word(request.headers(), names::SANDBOX_ID),
        port: word(request.headers(), names::SANDBOX_PORT),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
    }
    .target();
    // Whoever waits for leave to send its body does so until it is wanted.
    let waits = request.headers().contains_key(header::EXPECT);
    let (request, unread) = body::lend(request);
    let mut response = match target {
        Ok(Target::Control) => control::answer(&shared, request).await,
        Ok(Target::Signed) => envd::signed(&shared, request).await,
        Ok(Target::Sandbox { id, port }) => shared.sandbox(&id, port, request).await,
        Err(why) => answer::text(StatusCode::BAD_REQUEST, why),
    };
    if !waits {
        unread.discard().await;
    }
    let id = RequestId::minted(rand::random());
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static("x-sandpit-request-id"), id.clone());
        headers.insert(HeaderName::from_static("x-e2b-trace-id"), id);
    }
    response
}

/// Whether a request comes from a program that knows it asks this machine.
fn is_direct(headers: &HeaderMap) -> bool {
    let relayed = [header::ORIGIN, header::FORWARDED, header::VIA, FORWARDED_FOR];
    text(headers, header::HOST).is_none_or(names_this_machine)
        && !relayed.iter().any(|name| headers.contains_key(name))
}

impl Shared {
    fn provider(&self) -> &Arc<dyn Provider> {
        self.direct.provider()
    }

    /// What hour it was, or will be, at a moment of this node.
    fn time(&self, at: Moment) -> Timestamp {
        let origin = Timestamp::from(self.anchor.wall);
        let ahead = at.since(self.anchor.moment);
        let behind = self.anchor.moment.since(at);
        let behind = u64::try_from(behind.as_micros()).unwrap_or(u64::MAX);
        Timestamp(origin.plus(ahead).0.saturating_sub(behind))
    }

    fn now(&self) -> Timestamp {
        self.time(self.direct.clock().now())
    }

    /// Whose the key of a request is. Without one, only programs of this machine may ask: no page
    /// that a browser shows, whatever name led it here, and nobody through a proxy.
    fn tenant(&self, headers: &HeaderMap) -> Result<Tenant, Plain> {
        match word(headers, names::API_KEY) {
            Some(key) => match self.keys.tenant(key) {
                Some(tenant) => Ok(tenant.clone()),
                None => Err(Plain::unauthorized("this API key is not known here")),
            },
            None if self.is_private && is_direct(headers) => Ok(Tenant::local()),
            None => Err(Plain::unauthorized("an API key is needed, in the header X-API-KEY")),
        }
    }

    /// Leave to reach a sandbox: it runs, or goes on running for it.
    async fn enter(&self, sandbox: SandboxId) -> Result<Held, Refusal> {
        let tenant = self.table.tenant(sandbox);
        match self.direct.enter(&tenant, sandbox).await {
            Err(Refusal::Paused { .. }) if self.table.of(sandbox).auto_resume => {
                let held = self.direct.look(&tenant, sandbox).await?;
                let left = (held.granted + self.lifetime_max).since(self.direct.clock().now());
                if left.is_zero() {
                    return Err(Refusal::Paused { sandbox });
                }
                let lifetime = held.lifetime.max(RESUMED_MIN).min(left);
                self.direct.resume(&tenant, sandbox, lifetime).await
            }
            entered => entered,
        }
    }

    /// A request to a port of a sandbox.
    async fn sandbox(self: &Arc<Self>, id: &str, port: u16, request: Request) -> Response {
        let held = match id.parse() {
            Ok(sandbox) => self.enter(sandbox).await,
            Err(_) => return answer::unreachable(&ProxyError::not_found(id)),
        };
        let held = match held {
            Ok(held) => held,
            Err(refusal @ (Refusal::Fault | Refusal::Busy { .. } | Refusal::Interrupted)) => {
                return Plain::from(refusal).into();
            }
            // Whatever became of it, nothing reaches it.
            Err(_) => return answer::unreachable(&ProxyError::not_found(id)),
        };
        match port {
            ENVD_PORT => envd::answer(self, held, request).await,
            INTERPRETER_PORT => match self.admits(&held, request.headers()) {
                Ok(()) => interpreter::answer(self, held, request).await,
                Err(refused) => refused.into(),
            },
            port => match self.admits(&held, request.headers()) {
                Ok(()) => proxy::pass(self, &held, port, request).await,
                Err(refused) => refused.into(),
            },
        }
    }

    /// Whether a stranger may reach a sandbox's ports.
    fn admits(&self, held: &Held, headers: &HeaderMap) -> Result<(), Plain> {
        if !self.table.of(held.sandbox).is_closed {
            return Ok(());
        }
        let expected = self.tokens.traffic(held.sandbox);
        if is_secret(headers, names::TRAFFIC_TOKEN, &expected) {
            return Ok(());
        }
        let message = format!("this sandbox wants its token in {}", names::TRAFFIC_TOKEN);
        Err(Plain::new(StatusCode::FORBIDDEN, message))
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn word<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    text(headers, HeaderName::from_static(name))
}

/// Whether a header holds a secret.
fn is_secret(headers: &HeaderMap, name: &'static str, expected: &str) -> bool {
    let given = word(headers, name).unwrap_or_default();
    sandpit_sandbox::e2b::wire::signature::same(given, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_under_another_name_or_through_another_is_not_of_this_machine() {
        let asks = |name: HeaderName, value: &'static str| {
            is_direct(&HeaderMap::from_iter([(name, HeaderValue::from_static(value))]))
        };
        for name in ["localhost", "localhost:3000", "127.0.0.1:49980", "[::1]:49980"] {
            assert!(asks(header::HOST, name), "{name}");
        }
        for name in ["evil.example", "localhost.evil.example:49980", "127.0.0.1.evil.example"] {
            assert!(!asks(header::HOST, name), "{name}");
        }
        assert!(!asks(header::ORIGIN, "http://localhost"));
        assert!(!asks(FORWARDED_FOR, "203.0.113.7"));
        assert!(!asks(header::FORWARDED, "for=203.0.113.7"));
        assert!(!asks(header::VIA, "1.1 gate"));
    }
}
