//! Processes and files of a sandbox: who may ask, and which path asks for what.

mod files;
mod filesystem;
mod process;
mod stream;
pub(super) mod watchers;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandpit_actors::entry::Held;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::e2b::wire::fault::{Code, ConnectError};
use sandpit_sandbox::e2b::wire::header::ACCESS_TOKEN;
use sandpit_sandbox::e2b::wire::signature::{Operation, Signed};
use sandpit_sandbox::e2b::wire::{CONNECT_JSON, JSON, filesystem as fs, process as ps};
use serde_json::json;

use super::answer::{self, Plain};
use super::{Shared, is_secret, metrics, route, text, word};

/// The one user of a sandbox.
const USER: &str = "user";

/// Most sandboxes among which the one of a signed URL is looked for.
const SIGNED_AMONG_MAX: usize = 10_000;

/// A call on a sandbox.
struct Call {
    shared: Arc<Shared>,
    held: Held,
}

impl Call {
    fn sandbox(&self) -> SandboxId {
        self.held.sandbox
    }
}

/// Answers a request to a sandbox that runs.
pub(super) async fn answer(shared: &Arc<Shared>, held: Held, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if path == "/health" && request.method() == Method::GET {
        return answer::nothing();
    }
    let call = Call { shared: Arc::clone(shared), held };
    let expected = shared.tokens.access(call.sandbox());
    let is_known = is_secret(request.headers(), ACCESS_TOKEN, &expected);
    let rpc = path.strip_prefix(ps::SERVICE).or_else(|| path.strip_prefix(fs::SERVICE));
    if let Some(method) = rpc {
        let user = user(&request);
        if !is_known {
            let message = "the access token of this sandbox is needed";
            return answer::unary(&ConnectError::new(Code::Unauthenticated, message));
        }
        if let Err(why) = user {
            return answer::unary(&ConnectError::new(Code::Unauthenticated, why));
        }
        let is_process = path.starts_with(ps::SERVICE);
        return remote(call, is_process, method, request).await;
    }
    let signature = route::query(request.uri().query().unwrap_or_default(), "signature");
    let is_plain_file = path == "/files";
    // A token, if there is one, decides alone.
    let allowed = match (word(request.headers(), ACCESS_TOKEN), signature) {
        (None, Some(signature)) if is_plain_file => {
            signed_by(shared, call.sandbox(), &request, &signature)
        }
        _ if is_known => Ok(()),
        _ => Err(Plain::unauthorized("the access token of this sandbox is needed")),
    };
    let answered = match allowed {
        Ok(()) => plain(call, &path, request).await,
        Err(refused) => Err(refused),
    };
    answered.unwrap_or_else(Response::from)
}

/// Answers a request for a file by a signed URL, which names no sandbox: it is the one whose token
/// made the signature.
pub(super) async fn signed(shared: &Arc<Shared>, request: Request) -> Response {
    match signed_file(shared, request).await {
        Ok(response) => response,
        Err(refused) => refused.into(),
    }
}

async fn signed_file(shared: &Arc<Shared>, request: Request) -> Result<Response, Plain> {
    let signature = route::query(request.uri().query().unwrap_or_default(), "signature");
    let signature = signature.unwrap_or_default();
    let mut found = None;
    for tenant in shared.table.tenants() {
        let held = shared.direct.list(&tenant).await?;
        if held.len() > SIGNED_AMONG_MAX {
            let message = "too many sandboxes to find the one of this URL; use its own host";
            return Err(Plain::missing(message));
        }
        // All of them, so that how long it takes tells nothing.
        let running = held.iter().filter(|held| !held.paused);
        let fits = running.filter(|held| is_signed(shared, held.sandbox, &request, &signature));
        found = fits.last().map(|held| held.sandbox).or(found);
    }
    let sandbox = found.ok_or_else(|| Plain::unauthorized("no sandbox made this signature"))?;
    signed_by(shared, sandbox, &request, &signature)?;
    let held = shared.enter(sandbox).await?;
    plain(Call { shared: Arc::clone(shared), held }, "/files", request).await
}

fn is_signed(shared: &Shared, sandbox: SandboxId, request: &Request, signature: &str) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let value = |key: &str| route::query(query, key);
    let (path, username) = (value("path").unwrap_or_default(), value("username"));
    let expiration = value("signature_expiration").and_then(|text| text.parse().ok());
    let operation =
        if request.method() == Method::GET { Operation::Read } else { Operation::Write };
    let username = username.unwrap_or_default();
    let signed = Signed { path: &path, operation, username: &username, expiration };
    signed.is_by(&shared.tokens.access(sandbox), signature)
}

fn signed_by(
    shared: &Shared,
    sandbox: SandboxId,
    request: &Request,
    signature: &str,
) -> Result<(), Plain> {
    if !is_signed(shared, sandbox, request, signature) {
        return Err(Plain::unauthorized(
            "the signature is not of this sandbox, path and operation",
        ));
    }
    let query = request.uri().query().unwrap_or_default();
    let expiration = route::query(query, "signature_expiration");
    let is_over =
        |text: String| text.parse().is_ok_and(|until: u64| until < shared.now().seconds());
    match expiration.is_some_and(is_over) {
        true => Err(Plain::unauthorized("the signature has expired")),
        false => Ok(()),
    }
}

/// As whom a request asks: there is one user, and whoever names another learns that.
fn user(request: &Request) -> Result<(), String> {
    let Some(given) = text(request.headers(), header::AUTHORIZATION) else { return Ok(()) };
    let decoded = given.strip_prefix("Basic ").and_then(|text| STANDARD.decode(text.trim()).ok());
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    known_user(decoded.split(':').next().unwrap_or_default())
}

fn known_user(name: &str) -> Result<(), String> {
    if name.is_empty() || name == USER {
        return Ok(());
    }
    let name: String = name.chars().take(64).collect();
    Err(format!("there is no user `{name}` here: sandboxes have the user `{USER}`"))
}

/// Plain paths.
async fn plain(call: Call, path: &str, request: Request) -> Result<Response, Plain> {
    match (request.method().as_str(), path) {
        ("GET", "/files") => files::read(&call, request).await,
        ("POST", "/files") => files::write(&call, request).await,
        (_, "/files/compose") => {
            Err(Plain::missing("not supported here: composing files; write them whole"))
        }
        ("GET", "/envs") => Ok(answer::json(StatusCode::OK, &call.held.env)),
        ("GET", "/metrics") => sampled(&call).await,
        _ => Err(Plain::not_found("there is no such path")),
    }
}

/// What the sandbox uses now.
async fn sampled(call: &Call) -> Result<Response, Plain> {
    let Call { shared, held } = call;
    let sample = shared.provider().sample(held.sandbox).await?;
    let now = shared.direct.clock().now();
    // Since it was given to its holder: one look alone knows no other span.
    let cores = f64::from(held.limits.cpu_count.max(1));
    let elapsed = now.since(held.granted).as_secs_f64() * cores;
    let share = if elapsed > 0.0 { (sample.cpu.as_secs_f64() / elapsed).min(1.0) } else { 0.0 };
    let told = metrics::metric(held, shared.disk, shared.time(now), &sample, share);
    let body = json!({
        "ts": told.timestamp_unix,
        "cpu_count": told.cpu_count,
        "cpu_used_pct": told.cpu_used_pct,
        "mem_total": told.mem_total,
        "mem_used": told.mem_used,
        "mem_cache": told.mem_cache,
        "disk_used": told.disk_used,
        "disk_total": told.disk_total,
    });
    Ok(answer::json(StatusCode::OK, &body))
}

/// Calls to processes and files.
async fn remote(call: Call, is_process: bool, method: &str, request: Request) -> Response {
    let kind = text(request.headers(), header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != JSON && kind != CONNECT_JSON {
        let message = format!("only {JSON} and {CONNECT_JSON} are understood");
        return answer::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    }
    match (is_process, method) {
        (true, "Start") => process::start(call, request).await,
        (true, "Connect") => process::connect(call, request).await,
        (true, "StreamInput") => process::stream_input(call, request).await,
        (false, "WatchDir") => filesystem::watch(call, request).await,
        (true, method) => unary(process::unary(&call, method, request).await),
        (false, method) => unary(filesystem::unary(&call, method, request).await),
    }
}

fn unary(answered: Result<serde_json::Value, ConnectError>) -> Response {
    match answered {
        Ok(value) => answer::json(StatusCode::OK, &value),
        Err(error) if error == answer::not_found() => {
            let gone = sandpit_sandbox::e2b::wire::fault::ProxyError::not_found("");
            answer::unreachable(&gone)
        }
        Err(error) => answer::unary(&error),
    }
}

/// The body of a unary call.
async fn asked<T: serde::de::DeserializeOwned>(request: Request) -> Result<T, ConnectError> {
    let body = super::body::json(request).await;
    body.map_err(|plain| ConnectError::new(Code::InvalidArgument, plain.message))
}

/// The answer of a unary call.
fn told(value: &impl serde::Serialize) -> Result<serde_json::Value, ConnectError> {
    serde_json::to_value(value)
        .map_err(|error| ConnectError::new(Code::Internal, error.to_string()))
}

/// There is no such method.
fn unknown(method: &str) -> ConnectError {
    let method: String = method.chars().take(64).collect();
    ConnectError::new(Code::Unimplemented, format!("not supported here: method {method}"))
}
