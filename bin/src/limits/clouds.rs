//! `[provider.guard]` and `[provider.endpoint.*]`: accounts at clouds, and what guards them.

use std::path::Path;

use sandpit_config::{Config, EndpointConfig, GuardConfig, PauseReady, PlanConfig};
use sandpit_messages::id::NodeId;
use sandpit_sandbox::e2b::plan::Plan;
use sandpit_sandbox::e2b::{ApiKey, NotAKey, Options, Template};
use sandpit_sandbox::guard::{Limits, Time, breaker, budget, bulkhead, hedge, retry, routes};
use sandpit_sandbox::provider;

use crate::settings;

/// The endpoint that is used where none is named.
const DEFAULT: &str = "e2b";

/// The domain of E2B's own cloud.
const OF_E2B: &str = "e2b.app";

/// Permission bits of everybody but the owner of a file.
const OF_OTHERS: u32 = 0o077;

/// Why an account cannot be used. None of them holds any part of a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFault {
    /// There is no key.
    #[error(
        "endpoint {endpoint} has no API key; put it into the variable \
         provider.endpoint.{endpoint}.key_env names, or its file into .key_file"
    )]
    Missing { endpoint: String },
    /// The file cannot be read.
    #[error("provider.endpoint.{endpoint}.key_file: cannot read {path}")]
    Unreadable { endpoint: String, path: String, source: std::io::Error },
    /// Others can read the file.
    #[error(
        "provider.endpoint.{endpoint}.key_file: {path} can be read by others; chmod 600 mends that"
    )]
    Exposed { endpoint: String, path: String },
    /// What is there is no key.
    #[error("the API key of endpoint {endpoint}")]
    NotAKey { endpoint: String, source: NotAKey },
}

/// The endpoints in use, the preferred one first.
pub(crate) fn endpoints(config: &Config) -> impl Iterator<Item = (&str, &EndpointConfig)> {
    let order = &config.provider.order;
    let named = order.iter().map(String::as_str);
    let first = order.is_empty().then_some(DEFAULT);
    let all = first.into_iter().chain(named);
    all.filter_map(|name| Some((name, config.provider.endpoint.get(name)?)))
}

/// An account at a cloud.
pub(crate) fn options(
    name: &str,
    endpoint: &EndpointConfig,
    cluster: NodeId,
    time: Time,
) -> Result<Options, KeyFault> {
    let plan = plan(endpoint);
    let limits = provider::Limits { memory_mb: endpoint.memory_mb, cpu_count: endpoint.cpu_count };
    let templates = endpoint
        .template_map
        .iter()
        .map(|renamed| (renamed.ours.clone(), Template { theirs: renamed.theirs.clone(), limits }));
    Ok(Options {
        name: name.to_owned(),
        api_url: endpoint.api_url.clone(),
        sandbox_url: endpoint.sandbox_url.clone(),
        domain: endpoint.domain.clone(),
        key: key(name, endpoint)?,
        cluster,
        templates: templates.collect(),
        lifetime: endpoint.lifetime.min(plan.lifetime_max()),
        park: match endpoint.pause_ready {
            PauseReady::Always => true,
            PauseReady::Never => false,
            PauseReady::Auto => plan != Plan::Custom,
        },
        internet: endpoint.internet,
        connect_max: endpoint.connect_max,
        time,
        plan,
    })
}

fn plan(endpoint: &EndpointConfig) -> Plan {
    match endpoint.plan {
        PlanConfig::Hobby => Plan::Hobby,
        PlanConfig::Pro => Plan::Pro,
        PlanConfig::Custom => Plan::Custom,
        PlanConfig::Auto => {
            let host = endpoint.api_url.strip_prefix("https://").unwrap_or_default();
            let host = host.split(['/', ':']).next().unwrap_or_default();
            if host.strip_suffix(OF_E2B).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            {
                Plan::Hobby
            } else {
                Plan::Custom
            }
        }
    }
}

fn key(name: &str, endpoint: &EndpointConfig) -> Result<ApiKey, KeyFault> {
    let text = match (&endpoint.key_file, &endpoint.key_env) {
        (Some(file), _) => first_line(name, file)?,
        (None, Some(variable)) => settings::variable(variable)
            .ok_or_else(|| KeyFault::Missing { endpoint: name.to_owned() })?,
        (None, None) => return Err(KeyFault::Missing { endpoint: name.to_owned() }),
    };
    ApiKey::read(&text).map_err(|source| KeyFault::NotAKey { endpoint: name.to_owned(), source })
}

fn first_line(name: &str, file: &Path) -> Result<String, KeyFault> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    let (endpoint, path) = (name.to_owned(), file.display().to_string());
    let read = || {
        let mut file = std::fs::File::open(file)?;
        let mode = file.metadata()?.permissions().mode();
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok((mode, text))
    };
    match read() {
        Ok((mode, _)) if mode & OF_OTHERS != 0 => Err(KeyFault::Exposed { endpoint, path }),
        Ok((_, text)) => Ok(text.lines().next().unwrap_or_default().to_owned()),
        Err(source) => Err(KeyFault::Unreadable { endpoint, path, source }),
    }
}

/// What guards an endpoint.
pub(crate) fn guard(guard: &GuardConfig, endpoint: &EndpointConfig) -> Limits {
    let plan = plan(endpoint);
    let sandboxes_max = Some(endpoint.sandboxes_max).filter(|most| *most > 0);
    Limits {
        retry: retry::Limits {
            retries_max: guard.retries_max,
            attempts_max: guard.attempts_max,
            base: guard.retry_base,
            cap: guard.retry_cap,
        },
        budget: budget::Limits {
            percent: guard.budget_percent,
            floor: guard.budget_floor,
            ..budget::Limits::default()
        },
        breaker: breaker::Limits {
            in_a_row: guard.breaker_in_a_row,
            calls: guard.breaker_calls,
            age_max: guard.breaker_age_max,
            calls_min: guard.breaker_calls_min,
            failed_percent: guard.breaker_failed_percent,
            open_min: guard.breaker_open_min,
            open_max: guard.breaker_open_max,
            probes: guard.breaker_probes,
        },
        bulkhead: bulkhead::Limits {
            permits: guard.creations_at_once,
            waiting_max: guard.waiting_max,
        },
        hedge: hedge::Limits { percent: guard.hedge_percent, ..hedge::Limits::default() },
        creations: plan.creations(),
        lifecycle: plan.lifecycle(),
        operations: plan.operations(),
        sandboxes_max: sandboxes_max.or_else(|| plan.sandboxes_max()),
        create_max: guard.create_max,
        create_slow: guard.create_slow,
        look_max: guard.look_max,
        attempt_max: guard.attempt_max,
        call_max: guard.call_max,
    }
}

/// When new sandboxes go elsewhere and come back.
pub(crate) fn routes(guard: &GuardConfig) -> routes::Limits {
    routes::Limits { well_min: guard.return_after, full_for: guard.full_for }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn endpoint() -> EndpointConfig {
        let config = sandpit_config::Layers::default().read().unwrap().config;
        config.provider.endpoint["e2b"].clone()
    }

    #[test]
    fn the_shipped_endpoint_is_e2bs_free_plan() {
        let config = sandpit_config::Layers::default().read().unwrap().config;
        let used: Vec<_> = endpoints(&config).map(|(name, _)| name).collect();
        assert_eq!(used, ["e2b"]);
        assert_eq!(plan(&endpoint()), Plan::Hobby);
        let limits = guard(&config.provider.guard, &endpoint());
        let usual = Limits::default();
        assert_eq!((limits.retry, limits.breaker), (usual.retry, usual.breaker));
        assert_eq!((limits.budget, limits.bulkhead), (usual.budget, usual.bulkhead));
        assert_eq!(limits.sandboxes_max, Some(20));
        assert_eq!(routes(&config.provider.guard), routes::Limits::default());
    }

    #[test]
    fn a_foreign_server_has_no_plan() {
        for url in ["http://127.0.0.1:49980", "https://e2b.app.example", "https://note2b.app"] {
            let endpoint = EndpointConfig { api_url: url.to_owned(), ..endpoint() };
            assert_eq!(plan(&endpoint), Plan::Custom, "{url}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder =
            std::env::temp_dir().join(format!("sandpit-key-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("key");
        std::fs::write(&file, "e2b_0123\nmore").unwrap();
        let endpoint = EndpointConfig { key_file: Some(file.clone()), ..endpoint() };
        let set = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(0o640);
        assert!(matches!(key("e2b", &endpoint), Err(KeyFault::Exposed { .. })));
        set(0o600);
        key("e2b", &endpoint).expect("a key");
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(key("e2b", &endpoint), Err(KeyFault::Unreadable { .. })));
    }
}
