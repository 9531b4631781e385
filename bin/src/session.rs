//! How a program that is not the node finds one: by `bus.url`, or by what a node on this machine
//! wrote down for its owner.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::System;
use sandpit_actors::bus::Bus;
use sandpit_actors::bus::nats::{self, Credentials, NatsBus};
use sandpit_actors::clock::Clock;
use sandpit_config::{BusConfig, Config};
use serde::Deserialize;
use tracing::Instrument;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::client::Client;
use crate::settings::{self, SettingFlags};
use crate::telemetry::{Role, Telemetry};

/// Longest pause before reconnecting to a server of our own, and to another's.
const RECONNECT_MAX: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Where a bus is and as whom to join it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Servers of one cluster.
    pub urls: Vec<String>,
    /// As nobody in particular without.
    pub credentials: Option<Credentials>,
    /// Whether the server belongs to a node on this machine.
    pub embedded: bool,
}

/// What a node writes down for clients of its own user.
#[derive(Debug, Deserialize)]
struct Written {
    url: String,
    user: String,
    password: String,
}

impl Endpoint {
    /// Of `bus.url`, which may name a user and a password before an `@`.
    pub fn of_url(url: &str) -> Self {
        let mut credentials = None;
        let servers = url.split(',').map(str::trim).map(|server| {
            let Some((scheme, rest)) = server.split_once("://") else { return server.to_owned() };
            let Some((user, host)) = rest.rsplit_once('@') else { return server.to_owned() };
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            let (user, password) = (user.to_owned(), password.to_owned());
            credentials = Some(Credentials { user, password });
            format!("{scheme}://{host}")
        });
        let urls = servers.collect();
        Self { urls, credentials, embedded: false }
    }

    /// Of the node that keeps its things in `data`.
    ///
    /// # Errors
    /// A [`Failure`] that says how to start one, if none runs there.
    pub fn of_node(data: &Path) -> Result<Self, Failure> {
        let file = data.join("bus/endpoint.json");
        let text = std::fs::read_to_string(&file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Failure::no_node(format!("no node runs in {}", data.display()))
            }
            _ => Failure::no_node(format!("{}: {error}", file.display())),
        })?;
        let written: Written = serde_json::from_str(&text)
            .map_err(|error| Failure::no_node(format!("{} is damaged: {error}", file.display())))?;
        let Written { url, user, password } = written;
        let credentials = Some(Credentials { user, password });
        Ok(Self { urls: vec![url], credentials, embedded: true })
    }

    /// The one that the configuration leads to.
    ///
    /// # Errors
    /// As [`Self::of_node`].
    pub fn find(config: &Config) -> Result<Self, Failure> {
        match &config.bus.url {
            Some(url) => Ok(Self::of_url(url)),
            None => Self::of_node(&settings::data_directory(config)),
        }
    }

    /// How to connect to it. `name` is what the server shows for the connection.
    pub fn options(&self, config: &BusConfig, name: &str, clock: Clock) -> nats::Options {
        let reconnect_max = RECONNECT_MAX[usize::from(!self.embedded)];
        nats::Options {
            name: name.to_owned(),
            connect_max: config.connect_max,
            enqueue_max: config.enqueue_max,
            reconnect_max,
            outgoing_max: config.client_capacity,
            ..nats::Options::new(self.urls.clone(), self.credentials.clone(), clock)
        }
    }
}

/// The connection of one command to a node.
#[derive(Debug)]
pub struct Session {
    /// Asks the node.
    pub client: Client,
    /// What holds.
    pub config: Config,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// A [`Failure`] that says how to start a node, if none is found or it does not answer.
    pub async fn open(config: Config) -> Result<Self, Failure> {
        let endpoint = Endpoint::find(&config)?;
        let clock = Clock::start();
        let connected = NatsBus::connect(endpoint.options(&config.bus, "sandpit-cli", clock)).await;
        let bus = connected.map_err(|error| Failure::no_node(error.to_string()))?;
        let bus: Arc<dyn Bus> = Arc::new(bus);
        Ok(Self { client: Client::new(bus, clock), config })
    }

    /// Connects and does `work`, all of it as one span named after `verb`.
    pub(crate) fn run(
        flags: &SettingFlags,
        verb: &'static str,
        work: impl AsyncFnOnce(Self) -> Result<Exit, Failure>,
    ) -> Result<Exit, Failure> {
        let config = settings::load(flags)?.config;
        let telemetry = Telemetry::begin(&config.telemetry, Role::Client)
            .map_err(|error| Failure::usage("the telemetry cannot begin").caused_by(&error))?;
        let span = tracing::info_span!("cli", otel.name = format!("cli {verb}"));
        System::new().block_on(async {
            let done = async { work(Self::open(config).await?).await }.instrument(span).await;
            telemetry.end().await;
            done
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_carry_a_user() {
        let endpoint = Endpoint::of_url("nats://me:s:x@a:4222, tls://b:4222");
        assert_eq!(endpoint.urls, ["nats://a:4222", "tls://b:4222"]);
        let credentials = Credentials { user: "me".to_owned(), password: "s:x".to_owned() };
        assert_eq!(endpoint.credentials, Some(credentials));
        assert_eq!(Endpoint::of_url("nats://a:4222").credentials, None);
    }

    #[test]
    fn without_a_node_the_way_to_one_is_named() {
        let failure = Endpoint::of_node(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.text().contains("sandpit up"), "{}", failure.text());
    }
}
