//! What happens to a sandbox between its making and its end.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use sandpit_actors::entry::Held;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::SandboxId;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::e2b::wire::control::{PauseBody, RefreshBody, TIMEOUT_DEFAULT_S, TimeoutBody};

use super::super::answer::{self, Plain};
use super::super::{Shared, body, route};
use super::create::lifetime;
use super::{detail, no_sandbox, told};

/// Least seconds that a refresh gives.
const REFRESH_MIN_S: i64 = 15;

pub(super) async fn info(
    shared: &Shared,
    tenant: &Tenant,
    sandbox: SandboxId,
) -> Result<Response, Plain> {
    let held = found(sandbox, shared.direct.look(tenant, sandbox).await)?;
    let mut detail = detail(shared, &held);
    detail.envd_access_token = Some(shared.tokens.access(sandbox));
    Ok(answer::json(StatusCode::OK, &detail))
}

pub(super) async fn kill(
    shared: &Shared,
    tenant: &Tenant,
    sandbox: SandboxId,
) -> Result<Response, Plain> {
    found(sandbox, shared.direct.end(tenant, sandbox).await)?;
    shared.table.remove(sandbox);
    Ok(answer::nothing())
}

/// Reaches a sandbox from another program: one that runs only ever ends later for it, one that is
/// paused goes on.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    tenant: &Tenant,
    sandbox: SandboxId,
    request: Request,
) -> Result<Response, Plain> {
    let ask: TimeoutBody = body::json(request).await?;
    let time = lifetime(ask.timeout.unwrap_or(TIMEOUT_DEFAULT_S), shared.lifetime_max)?;
    let held = found(sandbox, shared.direct.look(tenant, sandbox).await)?;
    if held.paused && ask.memory == Some(false) {
        return Err(without_memory());
    }
    outlived(shared, &held)?;
    let resumed = shared.direct.resume(tenant, sandbox, within(shared, &held, time)).await;
    let after = found(sandbox, resumed)?;
    let status = if held.paused { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer::json(status, &told(shared, sandbox, &after.template)))
}

pub(super) async fn resume(
    shared: &Arc<Shared>,
    tenant: &Tenant,
    sandbox: SandboxId,
    request: Request,
) -> Result<Response, Plain> {
    let ask: TimeoutBody = body::json(request).await?;
    let time = lifetime(ask.timeout.unwrap_or(TIMEOUT_DEFAULT_S), shared.lifetime_max)?;
    let held = found(sandbox, shared.direct.look(tenant, sandbox).await)?;
    if !held.paused {
        return Err(Plain::new(StatusCode::CONFLICT, format!("sandbox {sandbox} is running")));
    }
    outlived(shared, &held)?;
    let resumed = shared.direct.resume(tenant, sandbox, within(shared, &held, time)).await;
    let held = found(sandbox, resumed)?;
    Ok(answer::json(StatusCode::CREATED, &told(shared, sandbox, &held.template)))
}

/// Another end, counted from now; one that has come already is now.
pub(super) async fn timeout(
    shared: &Shared,
    tenant: &Tenant,
    sandbox: SandboxId,
    request: Request,
) -> Result<Response, Plain> {
    let ask: TimeoutBody = body::json(request).await?;
    let seconds = ask.timeout.ok_or_else(|| Plain::bad("timeout is missing"))?;
    let held = found(sandbox, shared.direct.look(tenant, sandbox).await)?;
    outlived(shared, &held)?;
    let time = match seconds {
        ..=0 => Duration::ZERO,
        seconds => lifetime(seconds, shared.lifetime_max)?,
    };
    let at = shared.direct.clock().now() + time;
    let at = at.min(latest(shared, &held));
    found(sandbox, shared.direct.end_at(tenant, sandbox, at).await)?;
    Ok(answer::nothing())
}

/// A later end, counted from now.
pub(super) async fn refresh(
    shared: &Shared,
    tenant: &Tenant,
    sandbox: SandboxId,
    request: Request,
) -> Result<Response, Plain> {
    let ask: RefreshBody = body::json(request).await?;
    let seconds = ask.duration.unwrap_or(REFRESH_MIN_S).max(REFRESH_MIN_S);
    let time = lifetime(seconds, shared.lifetime_max.max(Duration::from_secs(15)))?;
    let held = found(sandbox, shared.direct.look(tenant, sandbox).await)?;
    outlived(shared, &held)?;
    let at = (shared.direct.clock().now() + time).min(latest(shared, &held));
    found(sandbox, shared.direct.extend(tenant, sandbox, at).await)?;
    Ok(answer::nothing())
}

pub(super) async fn pause(
    shared: &Shared,
    tenant: &Tenant,
    sandbox: SandboxId,
    request: Request,
) -> Result<Response, Plain> {
    let ask: PauseBody = body::json(request).await?;
    if ask.memory == Some(false) {
        return Err(without_memory());
    }
    let held = found(sandbox, shared.direct.look(tenant, sandbox).await)?;
    if !held.paused {
        // A provider that cannot is asked first, so that what it says is about pausing.
        shared.provider().pausing().map_err(|_| {
            Plain::missing("not supported here: pause; this provider cannot stop a sandbox")
        })?;
    }
    found(sandbox, shared.direct.pause(tenant, sandbox).await)?;
    Ok(answer::nothing())
}

/// What it used, from one second to another.
pub(super) async fn metrics(
    shared: &Shared,
    tenant: &Tenant,
    sandbox: SandboxId,
    uri: &Uri,
) -> Result<Response, Plain> {
    found(sandbox, shared.direct.look(tenant, sandbox).await)?;
    let query = uri.query().unwrap_or_default();
    let second = |key: &str, otherwise: u64| match route::query(query, key) {
        None => Ok(otherwise),
        Some(text) => {
            text.parse().map_err(|_| Plain::bad(format!("{key} is {text}; expected Unix seconds")))
        }
    };
    let (start, end) = (second("start", 0)?, second("end", u64::MAX)?);
    Ok(answer::json(StatusCode::OK, &shared.metrics.between(sandbox, start, end)))
}

/// One that is not there is not found, however that came.
fn found<T>(sandbox: SandboxId, answer: Result<T, Refusal>) -> Result<T, Plain> {
    answer.map_err(|refusal| match refusal {
        Refusal::NoSuchSandbox { .. } | Refusal::Gone { .. } | Refusal::Leaving { .. } => {
            no_sandbox(sandbox.as_str())
        }
        refusal => refusal.into(),
    })
}

/// When it ends at the latest, whoever wants it longer.
fn latest(shared: &Shared, held: &Held) -> Moment {
    held.granted + shared.lifetime_max
}

fn outlived(shared: &Shared, held: &Held) -> Result<(), Plain> {
    if shared.direct.clock().now() < latest(shared, held) {
        return Ok(());
    }
    let max = shared.lifetime_max.as_secs();
    Err(Plain::bad(format!("sandbox {} has had its {max} seconds", held.sandbox)))
}

/// A lifetime from now on that does not go beyond the longest.
fn within(shared: &Shared, held: &Held, time: Duration) -> Duration {
    time.min(latest(shared, held).since(shared.direct.clock().now()))
}

fn without_memory() -> Plain {
    Plain::missing("not supported here: memory=false; a pause keeps the memory of a sandbox")
}
