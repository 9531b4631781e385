//! `sandpit doctor`: what of this machine works, each thing by trying it, and the command that
//! mends what does not.

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use actix::System;
use sandpit_actors::bus::nats::{self, NatsBus};
use sandpit_actors::clock::Clock;
use sandpit_config::Config;
use sandpit_messages::id::NodeId;
use sandpit_messages::pool::GetPool;
use sandpit_sandbox::local::Launcher;
use sandpit_sandbox::local::doctor::{Line, Verdict, examine};
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use super::progress::Stages;
use crate::client::Call;
use crate::limits;
use crate::node::embedded;
use crate::session::Session;
use crate::settings::{self, SettingFlags};

/// Bytes that a data directory should have free: the templates, the bus, and room to grow.
const FREE_MIN: u64 = 2 * 1024 * 1024 * 1024;
/// A write to disk that takes longer slows every request that is written down.
const SYNC_MAX: Duration = Duration::from_millis(100);
/// Longest wait for a collector to accept a connection.
const COLLECTOR_MAX: Duration = Duration::from_secs(2);

/// Looks at everything.
pub(super) fn run(flags: &SettingFlags, out: Out) -> Result<Exit, Failure> {
    let config = settings::load(flags)?.config;
    let data = settings::data_directory(&config);
    System::new().block_on(async {
        let mut lines = Vec::new();
        let mut say = |line: Line| {
            if !out.json {
                tell(&line);
            }
            lines.push(line);
        };
        // The engine first: without it nothing else matters.
        match limits::local(&config, NodeId::of_bits(0), &data) {
            Ok(options) => {
                for line in examine(&options, &Launcher::CurrentExe, |_| ()).await {
                    say(line);
                }
            }
            Err(error) => say(fault("templates", error.to_string(), "sandpit config check")),
        }
        let clock = Clock::start();
        say(disk(&data, clock));
        say(server(&config, &data, clock).await);
        let node = node(&config).await;
        let serves = node.verdict == Verdict::Ok && node.found.starts_with("a node answers");
        say(node);
        say(http(&config, serves));
        say(collector(&config));
        let worst = lines.iter().map(|line| line.verdict).max().unwrap_or(Verdict::Ok);
        if out.json {
            out.document("sandpit.doctor.run/1", &json!({ "verdict": worst, "lines": lines }));
        } else {
            out::line(match worst {
                Verdict::Ok => "all is as it should be",
                Verdict::Warn => "it works, less well than it could",
                Verdict::Fault => "there is a fault",
            });
        }
        Ok(if worst == Verdict::Fault { Exit::Faulty } else { Exit::Done })
    })
}

fn tell(line: &Line) {
    let verdict = match line.verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fault => "FAULT",
    };
    out::line(&format!("{verdict:<6}{:<12} {}", line.check, line.found));
    if let Some(next) = &line.next {
        out::line(&format!("{:<19}next: {next}", ""));
    }
}

fn ok(check: &'static str, found: String) -> Line {
    Line { check, verdict: Verdict::Ok, found, next: None }
}

fn warn(check: &'static str, found: String, next: &str) -> Line {
    Line { check, verdict: Verdict::Warn, found, next: Some(next.to_owned()) }
}

fn fault(check: &'static str, found: String, next: &str) -> Line {
    Line { check, verdict: Verdict::Fault, found, next: Some(next.to_owned()) }
}

/// A real write, and what is left.
fn disk(data: &Path, clock: Clock) -> Line {
    let probe = data.join("doctor.probe");
    let begun = clock.now();
    let written = std::fs::create_dir_all(data).and_then(|()| {
        let mut file = File::create(&probe)?;
        file.write_all(&[0; 4_096])?;
        file.sync_all()
    });
    let took = clock.now().since(begun);
    // What was not made cannot be removed, which the next lines say.
    drop(std::fs::remove_file(&probe));
    if let Err(error) = written {
        let found = format!("{} cannot be written: {error}", data.display());
        return fault("data", found, "make it writable, or choose another with --data FOLDER");
    }
    let free = rustix::fs::statvfs(data).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let found = format!(
        "{} has {} MiB free, and a write reaches the disk in {}",
        data.display(),
        free / (1024 * 1024),
        out::millis(took.as_secs_f64() * 1e3),
    );
    if free < FREE_MIN {
        return warn("data", found, "free space there, or choose another with --data FOLDER");
    }
    if took > SYNC_MAX {
        return warn("data", found, "choose a faster disk with --data FOLDER");
    }
    ok("data", found)
}

/// A server of our own, started, asked for JetStream, and ended.
async fn server(config: &Config, data: &Path, clock: Clock) -> Line {
    if let Some(url) = &config.bus.url {
        let servers = url.split(',').count();
        return ok("nats-server", format!("not needed: bus.url names {servers} to join"));
    }
    let folder = data.join("doctor");
    let silent = Stages::begin("", true);
    let tried = async {
        let made = std::fs::create_dir_all(&folder);
        made.map_err(|error| format!("{}: {error}", folder.display()))?;
        let started = embedded::start(config, &folder, &silent, clock).await;
        let server = started.map_err(|error| error.to_string())?;
        let options = nats::Options {
            jetstream: true,
            ..nats::Options::new(vec![server.url().to_owned()], Some(server.node().clone()), clock)
        };
        let connected = NatsBus::connect(options).await.map(drop);
        let found = server.found().clone();
        server.stop().await;
        connected.map_err(|error| error.to_string())?;
        Ok::<_, String>(format!(
            "{} ({}) starts, and JetStream works",
            found.path.display(),
            found.version
        ))
    };
    let tried = tried.await;
    // Only a trace of the trial is left if this fails.
    drop(std::fs::remove_dir_all(&folder));
    match tried {
        Ok(found) => ok("nats-server", found),
        Err(why) => fault("nats-server", why, "sandpit up --set bus.server_path=FILE"),
    }
}

/// The node that runs, if one does.
async fn node(config: &Config) -> Line {
    let session = match Session::open(config.clone()).await {
        Ok(session) => session,
        Err(failure) => return ok("node", failure.told.why.join("; ")),
    };
    let clock = session.client.clock();
    let begun = clock.now();
    match session.client.request(&GetPool {}, Call::default()).await {
        Ok(pool) => {
            let took = out::millis(clock.now().since(begun).as_secs_f64() * 1e3);
            let broken = pool.templates.iter().find(|stock| stock.broken.is_some());
            match broken {
                None => ok("node", format!("a node answers in {took}: {}", pool.node)),
                Some(stock) => {
                    let found =
                        format!("node {}: template {} is broken", pool.node, stock.template);
                    fault("node", found, "sandpit pool")
                }
            }
        }
        Err(error) => warn("node", format!("there is a bus, but no node: {error}"), "sandpit up"),
    }
}

/// Whether the HTTP face could listen.
fn http(config: &Config, serves: bool) -> Line {
    let address = config.http.listen;
    match TcpListener::bind(address) {
        Ok(_) => ok("http", format!("{address} is free")),
        Err(_) if serves => ok("http", format!("{address} is in use, as by the node that runs")),
        Err(error) => {
            let next = "sandpit up --set http.listen=127.0.0.1:0";
            warn("http", format!("{address} cannot be listened on: {error}"), next)
        }
    }
}

/// Whether somebody would take traces.
fn collector(config: &Config) -> Line {
    let named = || settings::variable("OTEL_EXPORTER_OTLP_ENDPOINT");
    let Some(endpoint) = config.telemetry.otlp_endpoint.clone().or_else(named) else {
        return ok("traces", "no collector is named, so none are exported".to_owned());
    };
    let host = endpoint.split("://").nth(1).unwrap_or(&endpoint);
    let host = host.split('/').next().unwrap_or(host);
    let reached = host.to_socket_addrs().map(|mut all| {
        all.any(|one| std::net::TcpStream::connect_timeout(&one, COLLECTOR_MAX).is_ok())
    });
    match reached {
        Ok(true) => ok("traces", format!("{endpoint} accepts connections")),
        Ok(false) | Err(_) => warn(
            "traces",
            format!("{endpoint} accepts no connections; traces are lost, requests are not"),
            "start the collector, or unset telemetry.otlp_endpoint",
        ),
    }
}
