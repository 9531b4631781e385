//! The control plane: which request asks for what.

mod create;
mod life;
mod list;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use sandpit_actors::entry::Held;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::e2b::wire::control::{
    ENVD_VERSION, Lifecycle, OnTimeout, Sandbox, SandboxDetail, SandboxState, TemplateAlias,
};
use serde_json::json;

use super::Shared;
use super::answer::{self, Plain};

/// What E2B calls the machine that a sandbox is on; SDKs want to read it and use it for nothing.
const CLIENT: &str = "sandpit";

/// Answers a request.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request) -> Response {
    // Written down: the request goes on its way, and what it asks for is looked at here.
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let words: Vec<_> = path.split('/').skip(1).collect();
    if words == ["health"] && method == Method::GET {
        return match shared.direct.is_draining() {
            false => answer::json(StatusCode::OK, &json!({})),
            true => Plain::from(sandpit_messages::refusal::Refusal::Draining).into(),
        };
    }
    let tenant = match shared.tenant(request.headers()) {
        Ok(tenant) => tenant,
        Err(refused) => return refused.into(),
    };
    match ask(shared, &tenant, &method, &words, request).await {
        Ok(response) => response,
        Err(refused) => refused.into(),
    }
}

async fn ask(
    shared: &Arc<Shared>,
    tenant: &Tenant,
    method: &Method,
    words: &[&str],
    request: Request,
) -> Result<Response, Plain> {
    let verb = method.as_str();
    // Newer SDKs put a version in front of some paths, older ones in front of none.
    let (newer, words) = match words {
        [version @ ("v2" | "v3"), rest @ ..] => (Some(*version), rest),
        words => (None, words),
    };
    match (verb, words) {
        ("POST", ["sandboxes"]) => create::create(shared, tenant, newer.is_some(), request).await,
        ("GET", ["sandboxes"]) => list::list(shared, tenant, newer.is_some(), request.uri()).await,
        ("GET", ["sandboxes", id]) => life::info(shared, tenant, sandbox(id)?).await,
        ("DELETE", ["sandboxes", id]) => life::kill(shared, tenant, sandbox(id)?).await,
        ("POST", ["sandboxes", id, "connect"]) => {
            life::connect(shared, tenant, sandbox(id)?, request).await
        }
        ("POST", ["sandboxes", id, "resume"]) => {
            life::resume(shared, tenant, sandbox(id)?, request).await
        }
        ("POST", ["sandboxes", id, "timeout"]) => {
            life::timeout(shared, tenant, sandbox(id)?, request).await
        }
        ("POST", ["sandboxes", id, "refreshes"]) => {
            life::refresh(shared, tenant, sandbox(id)?, request).await
        }
        ("POST", ["sandboxes", id, "pause"]) => {
            life::pause(shared, tenant, sandbox(id)?, request).await
        }
        ("GET", ["sandboxes", id, "metrics"]) => {
            life::metrics(shared, tenant, sandbox(id)?, request.uri()).await
        }
        ("GET", ["templates", "aliases", name]) => alias(shared, name),
        (_, words) => Err(missing(words)),
    }
}

/// What is known and not there, by name and with what to use instead; everything else is unknown.
fn missing(words: &[&str]) -> Plain {
    let feature = match words {
        ["sandboxes", _, "fork"] => "fork: sandboxes cannot be forked here; create another one",
        ["sandboxes", _, "snapshots"] | ["snapshots", ..] => {
            "snapshots: write a sandbox down with `export_template`, and create from that"
        }
        ["sandboxes", _, "network"] => {
            "network update: what a sandbox may reach is settled when it is made"
        }
        ["sandboxes", _, "logs"] => "logs of sandboxes: read the streams of its processes",
        ["templates", ..] => {
            "template build: templates are built with `deploy_e2b_template` or from the settings"
        }
        ["sandboxes", "metrics"] => "metrics of several sandboxes: ask for each of them",
        ["secrets", ..] => "secrets: hand variables over when the sandbox is made",
        ["volumes", ..] => "volumes: write files into the sandbox, or configure `data` folders",
        ["teams", ..] | ["access-tokens", ..] | ["api-keys", ..] => {
            "teams and keys: keys are kept by the node, see `sandpit env`"
        }
        _ => return Plain::not_found("there is no such path"),
    };
    Plain::missing(format!("not supported here: {feature}"))
}

/// The id in a path, with whatever a client id behind it says.
fn sandbox(text: &str) -> Result<SandboxId, Plain> {
    let mut words = text.split('-');
    let id = words.next().unwrap_or_default();
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fine = !id.is_empty() && id.bytes().all(letter) && words.count() <= 1;
    if !fine {
        return Err(Plain::bad("this is not the id of a sandbox: a-z and 0-9"));
    }
    id.parse().map_err(|_| no_sandbox(id))
}

fn no_sandbox(id: &str) -> Plain {
    Plain::not_found(format!("sandbox {id} not found"))
}

/// The template behind a name as SDKs write them, `[namespace/]name[:tag]`.
fn template(shared: &Shared, asked: &str) -> Result<String, Plain> {
    let name = asked.rsplit_once('/').map_or(asked, |(_, name)| name);
    let (name, tag) = name.split_once(':').unwrap_or((name, "default"));
    let unknown = || Plain::not_found(format!("template '{asked}' not found"));
    if tag != "default" || name.is_empty() {
        return Err(unknown());
    }
    let known = |name: &str| shared.provider().resolve(name);
    // The SDKs' own default: where nobody configured one, plain Python serves cells as well.
    let fallback = || (name == "code-interpreter-v1").then(|| known("python")).flatten();
    known(name).or_else(fallback).ok_or_else(unknown)
}

fn alias(shared: &Shared, name: &str) -> Result<Response, Plain> {
    let name = template(shared, &super::route::decoded(name))?;
    let template_id = shared.provider().title(&name);
    Ok(answer::json(StatusCode::OK, &TemplateAlias { template_id, public: false }))
}

/// A sandbox as whoever made it needs it.
fn told(shared: &Shared, sandbox: SandboxId, template: &str) -> Sandbox {
    let facts = shared.table.of(sandbox);
    Sandbox {
        sandbox_id: sandbox.to_string(),
        template_id: template.to_owned(),
        client_id: CLIENT.to_owned(),
        envd_version: ENVD_VERSION.to_owned(),
        alias: facts.alias,
        envd_access_token: Some(shared.tokens.access(sandbox)),
        traffic_access_token: facts.is_closed.then(|| shared.tokens.traffic(sandbox)),
        domain: Some(shared.domain.clone()),
    }
}

/// A sandbox as it is asked for and listed; without its token.
fn detail(shared: &Shared, held: &Held) -> SandboxDetail {
    let facts = shared.table.of(held.sandbox);
    let on_timeout = if held.pause_at_end { OnTimeout::Pause } else { OnTimeout::Kill };
    SandboxDetail {
        sandbox_id: held.sandbox.to_string(),
        template_id: held.template.clone(),
        client_id: CLIENT.to_owned(),
        envd_version: ENVD_VERSION.to_owned(),
        started_at: shared.time(held.granted),
        end_at: shared.time(held.expires),
        cpu_count: held.limits.cpu_count,
        memory_mb: held.limits.memory_mb,
        disk_size_mb: shared.disk >> 20,
        state: if held.paused { SandboxState::Paused } else { SandboxState::Running },
        metadata: Some(held.metadata.clone()),
        alias: facts.alias,
        domain: Some(shared.domain.clone()),
        envd_access_token: None,
        // Sandboxes of the embedded engine have no network; of others' nothing is known here.
        allow_internet_access: (shared.provider().descriptor().kind == "local").then_some(false),
        lifecycle: Some(Lifecycle { auto_resume: facts.auto_resume, on_timeout }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_followed_by_that_of_a_client() {
        let id = SandboxId::numbered(7);
        assert_eq!(sandbox(id.as_str()).ok(), Some(id));
        assert_eq!(sandbox(&format!("{id}-sandpit")).ok(), Some(id));
        let refused = |text: &str| sandbox(text).map_err(|refused| refused.status.as_u16());
        assert_eq!(refused(&format!("{id}-a-b")), Err(400));
        assert_eq!(refused("../x"), Err(400));
        assert_eq!(refused("isb00000000000000001"), Err(404));
    }

    #[test]
    fn what_is_not_there_is_named_and_what_is_unknown_is_not_found() {
        let status = |words: &[&str]| missing(words).status.as_u16();
        assert_eq!(status(&["sandboxes", "i", "fork"]), 501);
        assert!(missing(&["sandboxes", "i", "fork"]).message.contains("fork"));
        assert_eq!(status(&["templates"]), 501);
        assert_eq!(status(&["nothing"]), 404);
    }
}
