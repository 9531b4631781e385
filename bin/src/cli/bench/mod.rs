//! `sandpit bench`: figures of this machine, next to a peer's of the same run.

mod bus;
mod machine;
mod stats;

use std::path::PathBuf;
use std::time::Duration;

use actix::System;
use sandpit_actors::bus::AskError;
use sandpit_config::Config;
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use super::progress::Stages;
use crate::settings::{self, SettingFlags};
use machine::Machine;
use stats::Row;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Rounds, in which ours and the peer take turns.
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Milliseconds of one turn, where a turn is as long as that.
    #[arg(long, global = true, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    turn_ms: u64,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum What {
    /// Question and answer over the bus, next to the client library's own.
    Bus,
}

/// How long it is measured.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rounds: u32,
    time: Duration,
    warm_up: Duration,
}

impl Plan {
    fn share(self, round: u32) -> Option<f64> {
        Some(f64::from(round) / f64::from(self.rounds))
    }
}

/// What every bench has.
#[derive(Debug)]
struct Bench {
    config: Config,
    stages: Stages,
}

impl Bench {
    /// A folder of its own, kept from one run to the next.
    fn folder(&self, name: &str) -> Result<PathBuf, BenchError> {
        let folder = settings::data_directory(&self.config).join("bench").join(name);
        std::fs::create_dir_all(&folder).map_err(|error| BenchError::of("a folder", &error))?;
        Ok(folder)
    }
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct BenchError {
    why: String,
}

impl BenchError {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }

    fn of(what: &str, error: &dyn std::error::Error) -> Self {
        Self::new(format!("{what}: {error}"))
    }

    fn raw(error: impl std::error::Error) -> Self {
        Self::of("the client library", &error)
    }
}

impl From<AskError> for BenchError {
    fn from(error: AskError) -> Self {
        Self::of("the bus", &error)
    }
}

impl Arguments {
    pub(super) fn run(self, flags: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        let config = settings::load(flags)?.config;
        let time = Duration::from_millis(self.turn_ms);
        let plan = Plan { rounds: self.rounds, time, warm_up: time / 4 };
        let (name, schema) = match self.what {
            What::Bus => ("bus", "sandpit.bench.bus/1"),
        };
        let stages = Stages::begin(&format!("bench {name}"), out.quiet);
        let bench = Bench { config, stages };
        let mut machine = Machine::look();
        let measured = System::new().block_on(async {
            match self.what {
                What::Bus => bus::run(&bench, plan).await,
            }
        });
        bench.stages.end();
        machine.done();
        let rows: Vec<Row> = measured.map_err(|error| {
            let what = format!("bench {name} did not run to its end");
            Failure::new(Exit::Failed, "bench_failed", what)
                .caused_by(&error)
                .next("sandpit doctor")
        })?;
        if out.json {
            out.document(schema, &json!({ "machine": machine, "rows": rows }));
        } else {
            machine.print();
            stats::print(&rows);
            out::line("p50 ratio: ours over the peer's median, measured in turns in this run.");
        }
        Ok(Exit::Done)
    }
}
