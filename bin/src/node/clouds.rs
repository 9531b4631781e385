//! Endpoints at clouds, behind their guards.

use std::sync::Arc;

use sandpit_actors::clock::Clock;
use sandpit_config::Config;
use sandpit_messages::id::NodeId;
use sandpit_sandbox::e2b::E2b;
use sandpit_sandbox::guard::{Endpoint, Guarded, Time};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::limits::clouds;

/// The endpoints of the configuration as one provider. Asks them nothing yet.
///
/// # Errors
/// A [`Failure`] that names the endpoint whose key or address cannot be used.
pub(super) fn guarded(config: &Config, node: NodeId, clock: Clock) -> Result<Guarded, Failure> {
    let time = Time::new(move || clock.now());
    let mut endpoints = Vec::new();
    for (name, endpoint) in clouds::endpoints(config) {
        let options = clouds::options(name, endpoint, node, time.clone());
        let options = options.map_err(|error| unusable(name).caused_by(&error))?;
        let provider = E2b::new(options).map_err(|error| unusable(name).caused_by(&error))?;
        endpoints.push(Endpoint {
            name: name.to_owned(),
            provider: Arc::new(provider),
            limits: clouds::guard(&config.provider.guard, endpoint),
        });
    }
    let routes = clouds::routes(&config.provider.guard);
    Ok(Guarded::new(endpoints, routes, time, sandpit_actors::of_guards(), rand::random()))
}

fn unusable(name: &str) -> Failure {
    Failure::new(Exit::Usage, "invalid_setting", format!("endpoint {name} cannot be used"))
        .next("sandpit config show")
}
