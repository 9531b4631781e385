//! A new sandbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use sandpit_actors::entry::{Key, Wanted};
use sandpit_messages::envelope::{IdempotencyKey, Tenant};
use sandpit_messages::refusal::Refusal;
use sandpit_sandbox::e2b::wire::control::{NewSandbox, TIMEOUT_DEFAULT_OLD_S, TIMEOUT_DEFAULT_S};
use sandpit_sandbox::e2b::wire::header::IDEMPOTENCY_KEY;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::super::answer::{self, Plain};
use super::super::table::Facts;
use super::super::{Shared, body, keys, word};
use super::{template, told};

/// Entries of `metadata` and of `envVars`.
const ENTRIES_MAX: usize = 64;

/// Bytes of either, names and values together.
const ENTRIES_BYTES_MAX: usize = 64 << 10;

/// Longest wait for a request with the same key.
const SAME_KEY_WAIT: Duration = Duration::from_secs(10);

pub(super) async fn create(
    shared: &Arc<Shared>,
    tenant: &Tenant,
    newer: bool,
    request: Request,
) -> Result<Response, Plain> {
    let key = word(request.headers(), IDEMPOTENCY_KEY).map(str::to_owned);
    let ask: NewSandbox = body::json(request).await?;
    let key = key.map(|key| keyed(&key, &ask)).transpose()?;
    let default = if newer { TIMEOUT_DEFAULT_S } else { TIMEOUT_DEFAULT_OLD_S };
    let default = default.min(shared.lifetime_max.as_secs().try_into().unwrap_or(i64::MAX));
    let lifetime = lifetime(ask.timeout.unwrap_or(default), shared.lifetime_max)?;
    let (env, metadata) = (ask.env_vars.clone(), ask.metadata.clone());
    let wanted = Wanted {
        template: template(shared, &ask.template_id)?,
        lifetime,
        env: entries("envVars", env.unwrap_or_default())?,
        metadata: entries("metadata", metadata.unwrap_or_default())?,
        pause_at_end: ask.auto_pause.unwrap_or_default(),
    };
    let facts = facts(tenant, &ask)?;
    let is_keyed = key.is_some();
    let created = if is_keyed {
        // Goes on without its client: whoever repeats it hears what came of it. Without a key
        // nobody would, and it ends with its client.
        let (direct, owner) = (shared.direct.clone(), tenant.clone());
        let creating = tokio::spawn(async move { direct.create(&owner, wanted, key).await });
        let waited = tokio::time::timeout(SAME_KEY_WAIT, creating).await;
        waited.map_err(|_| Plain::in_progress())?.unwrap_or(Err(Refusal::Fault))
    } else {
        shared.direct.create(tenant, wanted, key).await
    };
    let created = created?;
    let sandbox = created.sandbox_id;
    // A repeat answers with what the first was told, and knows of it no more than that.
    if !is_keyed || shared.direct.look(tenant, sandbox).await.is_ok() {
        shared.table.insert(sandbox, facts);
    }
    Ok(answer::json(StatusCode::CREATED, &told(shared, sandbox, &created.template)))
}

/// A lifetime in seconds, within what may be.
pub(super) fn lifetime(seconds: i64, max: Duration) -> Result<Duration, Plain> {
    let asked = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    let asked = asked.map(Duration::from_secs).filter(|asked| *asked <= max);
    let expected = max.as_secs();
    asked.ok_or_else(|| {
        Plain::bad(format!("timeout is {seconds}; expected 1 to {expected} seconds"))
    })
}

fn entries(
    field: &str,
    entries: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Plain> {
    let bytes: usize = entries.iter().map(|(name, value)| name.len() + value.len()).sum();
    if entries.len() > ENTRIES_MAX || bytes > ENTRIES_BYTES_MAX {
        let expected = format!("at most {ENTRIES_MAX} entries and {ENTRIES_BYTES_MAX} bytes");
        return Err(Plain::bad(format!("{field} is too large; expected {expected}")));
    }
    let broken = |(name, value): (&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    if field == "envVars" && entries.iter().any(broken) {
        return Err(Plain::bad("envVars holds a name or a value that no environment can hold"));
    }
    Ok(entries)
}

/// What only this face knows of it; and what it cannot have.
fn facts(tenant: &Tenant, ask: &NewSandbox) -> Result<Facts, Plain> {
    let auto_pause = ask.auto_pause.unwrap_or_default();
    let auto_resume = ask.auto_resume.is_some_and(|resume| resume.enabled);
    if auto_resume && !auto_pause {
        return Err(Plain::bad("autoResume needs autoPause"));
    }
    if auto_pause && ask.auto_pause_memory == Some(false) {
        return Err(unsupported("autoPauseMemory: a pause keeps the memory here"));
    }
    for (field, value) in
        [("mcp", &ask.mcp), ("iam", &ask.iam), ("volumeMounts", &ask.volume_mounts)]
    {
        if value.as_ref().is_some_and(says_something) {
            return Err(unsupported(&format!("{field}: start it from the program inside")));
        }
    }
    let network = ask.network.clone().unwrap_or_default();
    if network.allow_out.as_ref().is_some_and(says_something) {
        return Err(unsupported(
            "network.allowOut: sandboxes have no way out that could be opened",
        ));
    }
    if let Some((field, _)) = network.others.iter().find(|(_, value)| says_something(value)) {
        return Err(unsupported(&format!("network.{field}: traffic is not rewritten here")));
    }
    Ok(Facts {
        tenant: Some(tenant.clone()),
        alias: Some(ask.template_id.clone()),
        auto_resume,
        is_closed: network.allow_public_traffic == Some(false),
        ..Facts::default()
    })
}

fn unsupported(what: &str) -> Plain {
    Plain::missing(format!("not supported here: {what}"))
}

/// Whether a field that may be left out asks for anything.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Number(_) | Value::String(_) => true,
    }
}

/// The bus's key for an SDK's, and what stands for the arguments.
fn keyed(given: &str, ask: &NewSandbox) -> Result<Key, Plain> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fine = (1..=255).contains(&given.len()) && given.bytes().all(letter);
    if !fine {
        return Err(Plain::bad("an idempotency key is 1 to 255 of a-z, 0-9 and `-`"));
    }
    let digest = keys::hex(&Sha256::digest(given));
    let key: Result<IdempotencyKey, _> = format!("e2b-{}", &digest[..40]).parse();
    let key = key.map_err(|error| Plain::bad(error.to_string()))?;
    // Read and written again: however it was written, the same is asked.
    let request = serde_json::to_vec(ask).map_err(|error| Plain::bad(error.to_string()))?;
    Ok(Key { key, request: Sha256::digest(request).into() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(more: Value) -> NewSandbox {
        let mut ask = json!({"templateID": "base"});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(ask).unwrap()
    }

    fn status(more: Value) -> Result<(), u16> {
        facts(&Tenant::local(), &asked(more)).map(drop).map_err(|plain| plain.status.as_u16())
    }

    #[test]
    fn what_the_engine_cannot_do_is_refused_and_what_it_does_anyway_is_not() {
        assert_eq!(status(json!({"network": {"denyOut": ["0.0.0.0/0"]}})), Ok(()));
        assert_eq!(status(json!({"allow_internet_access": true, "secure": false})), Ok(()));
        assert_eq!(status(json!({"volumeMounts": [], "mcp": {}, "iam": null})), Ok(()));
        assert_eq!(status(json!({"network": {"allowOut": ["1.1.1.1"]}})), Err(501));
        assert_eq!(status(json!({"network": {"maskRequestHost": "x"}})), Err(501));
        assert_eq!(status(json!({"mcp": {"a": 1}})), Err(501));
        assert_eq!(status(json!({"autoPause": true, "autoPauseMemory": false})), Err(501));
        assert_eq!(status(json!({"autoResume": {"enabled": true}})), Err(400));
    }

    #[test]
    fn a_lifetime_is_positive_and_bounded() {
        let day = Duration::from_secs(86_400);
        assert_eq!(lifetime(1, day).ok(), Some(Duration::from_secs(1)));
        assert_eq!(lifetime(86_400, day).ok(), Some(day));
        for wrong in [0, -1, 86_401, i64::MAX] {
            assert!(lifetime(wrong, day).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_becomes_one_of_the_bus_and_stands_for_its_arguments() {
        let one = keyed("abc-1", &asked(json!({}))).unwrap();
        let two = keyed("abc-1", &asked(json!({"timeout": 5}))).unwrap();
        assert_eq!((one.key.as_str().len(), one.key.as_str()), (44, two.key.as_str()));
        assert_ne!(one.request, two.request);
        for wrong in ["", "ABC", "a_b", &"x".repeat(256)] {
            assert!(keyed(wrong, &asked(json!({}))).is_err(), "{wrong}");
        }
    }
}
