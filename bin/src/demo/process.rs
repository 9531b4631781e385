//! The process of one agent: reads its task, connects as any client would, works, tells.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use actix::System;
use sandpit_actors::bus::Bus;
use sandpit_actors::bus::nats::{Credentials, NatsBus};
use sandpit_actors::clock::Clock;
use sandpit_config::BusConfig;
use tokio::sync::oneshot;

use super::agent::Agent;
use super::told::{Line, Task};
use crate::cli::exit::Exit;
use crate::client::Client;
use crate::session::Endpoint;

/// Does the task on standard input, telling on standard output. Ends early when standard input is
/// closed: then nobody wants it any more, and whoever began it takes the sandboxes back.
pub fn run(config: &BusConfig) -> Exit {
    let mut line = String::new();
    let task = match io::stdin().lock().read_line(&mut line) {
        Ok(_) => serde_json::from_str::<Task>(&line).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match task {
        Ok(task) => System::new().block_on(work(config, task)),
        Err(why) => {
            tell(&Line::Failed { why: format!("there is no task: {why}") });
            Exit::Usage
        }
    }
}

async fn work(config: &BusConfig, task: Task) -> Exit {
    let unwanted = closed();
    let Task { url, user, password, part } = task;
    let credentials = Some(Credentials { user, password });
    let endpoint = Endpoint { urls: vec![url], credentials, embedded: true };
    let clock = Clock::start();
    let bus = match NatsBus::connect(endpoint.options(config, &part.name, clock)).await {
        Ok(bus) => bus,
        Err(error) => {
            tell(&Line::Failed { why: error.to_string() });
            return Exit::Unavailable;
        }
    };
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let agent = Agent::new(Client::new(bus, clock), part, |line| tell(&line));
    tokio::select! {
        worked = agent.work() => match worked {
            Ok(outcome) => {
                tell(&Line::Finished(Box::new(outcome)));
                Exit::Done
            }
            Err(error) => {
                tell(&Line::Failed { why: chain(&error) });
                Exit::Failed
            }
        },
        _ = unwanted => Exit::Failed,
    }
}

/// Resolves when standard input ends. Reading it cannot be given up, so a thread of its own does
/// it, and ends with the process.
fn closed() -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        // However it ends, it has ended.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        // Nobody listens once the work is done.
        let _ = tell.send(());
    });
    told
}

fn tell(line: &Line) {
    let text = serde_json::to_string(line).expect("plain values");
    let mut out = io::stdout().lock();
    // Whoever began us may be gone; then standard input is closed as well, and we end.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// An error and all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
