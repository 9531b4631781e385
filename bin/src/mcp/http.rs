//! The face over HTTP: one path of the node's HTTP face, and who may use it.
//!
//! Whoever knows the token may. Where none is set, only programs of this machine may, and no page
//! that a browser shows: a name in `Host` or `Origin` that is not this machine's is refused.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};

use crate::http::names_this_machine;

/// Where it is.
pub const PATH: &str = "/mcp";
/// Bytes of one message: a call holds at most 256 KiB of code, written as JSON.
const BODY_MAX: usize = 1024 * 1024;

/// Who may use it.
#[derive(Clone)]
pub enum Door {
    /// Who knows this token.
    Token(Arc<str>),
    /// Programs of this machine; the listener is on loopback.
    ThisMachine,
    /// Nobody: it would be open to the network.
    Closed,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::ThisMachine => "ThisMachine",
            Self::Closed => "Closed",
        })
    }
}

impl Door {
    /// For a listener, with the token if one is set.
    pub fn of(loopback: bool, token: Option<&str>) -> Self {
        match (token, loopback) {
            (Some(token), _) => Self::Token(token.into()),
            (None, true) => Self::ThisMachine,
            (None, false) => Self::Closed,
        }
    }

    /// Why not, if not.
    fn refuses(&self, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        match self {
            Self::Token(token) => {
                let given = headers.get(header::AUTHORIZATION).and_then(|text| text.to_str().ok());
                let given = given.and_then(|text| {
                    let (scheme, token) = text.split_once(' ')?;
                    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
                });
                let fits = given.is_some_and(|given| equal(given.as_bytes(), token.as_bytes()));
                (!fits).then_some((StatusCode::UNAUTHORIZED, "a bearer token is needed\n"))
            }
            Self::ThisMachine => {
                let origin = headers.get(header::ORIGIN)?;
                let is_ours = origin.to_str().is_ok_and(is_this_machine);
                (!is_ours).then_some((StatusCode::FORBIDDEN, "this origin may not ask here\n"))
            }
            Self::Closed => {
                let why = "http.listen is not on loopback: set http.token_file\n";
                Some((StatusCode::FORBIDDEN, why))
            }
        }
    }
}

/// Takes as long for every text of a length: how much of a guess was right is not to be measured.
fn equal(given: &[u8], expected: &[u8]) -> bool {
    let differing = given.iter().zip(expected).fold(0, |differing, (a, b)| differing | (a ^ b));
    given.len() == expected.len() && differing == 0
}

/// Whether an origin, as in `http://localhost:3000`, is of this machine.
fn is_this_machine(origin: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, host)| names_this_machine(host))
}

/// The routes of the face that `make` makes, one for every session or request.
pub fn routes<H>(door: Door, make: impl Fn() -> H + Send + Sync + 'static) -> Router
where
    H: ServerHandler,
{
    let config = StreamableHttpServerConfig::default().with_max_request_body_bytes(BODY_MAX);
    // Who knows the token may ask under any name; without one only this machine's names count.
    let config = match door {
        Door::Token(_) => config.disable_allowed_hosts(),
        Door::ThisMachine | Door::Closed => config,
    };
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(make()), sessions, config);
    Router::new().route_service(PATH, service).layer(middleware::from_fn_with_state(door, admit))
}

async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.refuses(request.headers()) {
        None => next.run(request).await,
        Some((StatusCode::UNAUTHORIZED, why)) => {
            let how = [(header::WWW_AUTHENTICATE, "Bearer realm=\"sandpit\"")];
            (StatusCode::UNAUTHORIZED, how, why).into_response()
        }
        Some(refused) => refused.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(door: &Door, name: header::HeaderName, value: &str) -> Option<u16> {
        let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
        door.refuses(&headers).map(|(status, _)| status.as_u16())
    }

    #[test]
    fn a_token_opens_and_nothing_else_does() {
        let door = Door::of(false, Some("secret"));
        assert_eq!(refused(&door, header::AUTHORIZATION, "Bearer secret"), None);
        assert_eq!(refused(&door, header::AUTHORIZATION, "bearer  secret"), None);
        for wrong in ["Bearer secre", "Bearer secrets", "Basic secret", "secret", "Bearer"] {
            assert_eq!(refused(&door, header::AUTHORIZATION, wrong), Some(401), "{wrong}");
        }
        assert_eq!(refused(&door, header::ORIGIN, "http://localhost"), Some(401));
    }

    #[test]
    fn without_a_token_only_this_machine_may_ask() {
        let door = Door::of(true, None);
        assert_eq!(door.refuses(&HeaderMap::new()), None);
        for fine in ["http://localhost:6274", "http://127.0.0.1", "https://[::1]:1"] {
            assert_eq!(refused(&door, header::ORIGIN, fine), None, "{fine}");
        }
        for foreign in ["http://evil.example", "http://localhost.evil.example", "null"] {
            assert_eq!(refused(&door, header::ORIGIN, foreign), Some(403), "{foreign}");
        }
        let open = Door::of(false, None);
        assert_eq!(open.refuses(&HeaderMap::new()).map(|(status, _)| status.as_u16()), Some(403));
    }
}
