//! `sandpit mcp`: the tools for an assistant, on standard input and output.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use sandpit_actors::bus::nats::NatsBus;
use sandpit_actors::clock::Clock;
use sandpit_config::Config;

use super::exit::Exit;
use super::failure::Failure;
use super::out::Out;
use super::progress::Stages;
use crate::mcp::{Face, stdio};
use crate::node;
use crate::session::Endpoint;
use crate::settings::{self, SettingFlags};
use crate::telemetry::{Role, Telemetry};

/// Starts and joins that are tried: two assistants may start at once, and one of them then finds
/// the node of the other.
const TRIES_MAX: u32 = 5;
/// Pause between them: about what a node takes to start.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) fn run(flags: &SettingFlags, out: Out) -> Result<Exit, Failure> {
    let config = settings::load(flags)?.config;
    let mut tries = 0;
    loop {
        tries += 1;
        if let Some(endpoint) = running(&config)? {
            return joined(&config, endpoint);
        }
        match embedded(&config, out) {
            Err(failure) if failure.exit == Exit::InUse && tries < TRIES_MAX => pause(PAUSE)?,
            ended => return ended,
        }
    }
}

/// Where a node answers, if one does.
fn running(config: &Config) -> Result<Option<Endpoint>, Failure> {
    let endpoint = match Endpoint::find(config) {
        Ok(endpoint) => endpoint,
        Err(_) if config.bus.url.is_none() => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let options = endpoint.options(&config.bus, "sandpit-mcp", Clock::start());
    match runtime()?.block_on(NatsBus::connect(options)) {
        Ok(_) => Ok(Some(endpoint)),
        // What a node wrote down that is no more.
        Err(_) if config.bus.url.is_none() => Ok(None),
        Err(error) => Err(Failure::no_node(error.to_string())),
    }
}

fn joined(config: &Config, endpoint: Endpoint) -> Result<Exit, Failure> {
    let telemetry = Telemetry::begin(&config.telemetry, Role::Client)
        .map_err(|error| Failure::usage("the telemetry cannot begin").caused_by(&error))?;
    let face = Face::new(endpoint, config.bus.clone());
    runtime()?.block_on(async {
        let served = stdio::serve(face).await;
        telemetry.end().await;
        served.map_err(|error| unserved(&error))
    })?;
    Ok(Exit::Done)
}

/// A node of this process's own, which leaves when the assistant does.
fn embedded(config: &Config, out: Out) -> Result<Exit, Failure> {
    let mut config = config.clone();
    config.http.listen = free(config.http.listen);
    config.e2b.listen = free(config.e2b.listen);
    let stages = Stages::begin("sandpit mcp", out.quiet);
    node::with(config, &stages, async |node| {
        stages.end();
        let face = Face::new(node.endpoint().clone(), node.config().bus.clone());
        stdio::serve(face).await.map_err(|error| unserved(&error))?;
        Ok(Exit::Done)
    })
}

/// The same address, or any port of it where somebody else listens already: an assistant needs no
/// HTTP, and is not to fail for want of a port.
fn free(listen: SocketAddr) -> SocketAddr {
    match TcpListener::bind(listen) {
        Ok(_) => listen,
        Err(_) => SocketAddr::new(listen.ip(), 0),
    }
}

fn pause(time: Duration) -> Result<(), Failure> {
    runtime()?.block_on(tokio::time::sleep(time));
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| unserved(&error))
}

fn unserved(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, "not_served", "the tools cannot be served").caused_by(error)
}
