//! `sandpit bench`: figures of this machine, next to a peer's of the same run.

mod bus;
mod e2b;
mod engine;
mod exec;
mod machine;
mod node;
mod peers;
mod pool;
mod stats;
mod tools;

use std::path::PathBuf;
use std::time::Duration;

use actix::System;
use sandpit_actors::bus::AskError;
use sandpit_config::Config;
use serde_json::{Map, Value, json};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::out::{self, Out};
use crate::cli::progress::Stages;
use crate::settings::{self, SettingFlags};
use machine::Machine;
use stats::Row;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Rounds, in which ours and the peer take turns.
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Milliseconds of one turn, where a turn is as long as that.
    #[arg(long, global = true, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    turn_ms: u64,
    /// Installs peers that are missing and that a package of this system provides.
    #[arg(long, global = true)]
    install_peers: bool,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum What {
    /// Question and answer over the bus, next to the client library's own.
    Bus,
    /// A sandbox from the warm pool over NATS, next to a raw echo; and a rush.
    Pool,
    /// `1+1` in a warm sandbox, over NATS and inside the engine, next to a Jupyter kernel.
    Exec,
    /// The life of a sandbox from the warm pool over MCP stdio, MCP HTTP and NATS.
    Tools,
    /// A sandbox with pandas from nothing to gone, next to Python, bubblewrap and Jupyter.
    Engine,
    /// Calls of E2B's Python SDK on a node, next to the SDK's own time; and a rush.
    E2b,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::Pool => "pool",
            Self::Exec => "exec",
            Self::Tools => "tools",
            Self::Engine => "engine",
            Self::E2b => "e2b",
        }
    }
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

/// What came of one.
#[derive(Debug, Default)]
struct Report {
    rows: Vec<Row>,
    /// Parts of the document beside the rows.
    more: Map<String, Value>,
    /// Sentences for people, and why peers are absent.
    notes: Vec<String>,
}

impl Arguments {
    pub(crate) fn run(self, flags: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        let config = settings::load(flags)?.config;
        let time = Duration::from_millis(self.turn_ms);
        let plan = Plan { rounds: self.rounds, time, warm_up: time / 4 };
        let name = self.what.name();
        let stages = Stages::begin(&format!("bench {name}"), out.quiet);
        let bench = Bench { config, stages };
        let mut machine = Machine::look();
        let report = self.measure(&bench, plan);
        bench.stages.end();
        machine.done();
        let Report { rows, mut more, notes } = report?;
        if out.json {
            more.insert("machine".to_owned(), json!(machine));
            more.insert("rows".to_owned(), json!(rows));
            more.insert("notes".to_owned(), json!(notes));
            out.document(&format!("sandpit.bench.{name}/1"), &more);
        } else {
            machine.print();
            stats::print(&rows);
            notes.iter().for_each(|note| out::line(note));
            out::line("p50 ratio: ours over the peer's median, measured in turns in this run.");
        }
        Ok(Exit::Done)
    }

    fn measure(&self, bench: &Bench, plan: Plan) -> Result<Report, Failure> {
        match self.what {
            What::Bus => {
                let rows = System::new().block_on(bus::run(bench, plan));
                let rows = rows.map_err(|error| node::failed(&error))?;
                Ok(Report { rows, ..Report::default() })
            }
            What::Pool => {
                let (rows, rush) = pool::run(bench, plan)?;
                let more = Map::from_iter([("rush".to_owned(), json!(rush))]);
                Ok(Report { rows, more, notes: vec![rush.sentence()] })
            }
            What::Exec => {
                let (rows, absent) = exec::run(bench, plan, self.install_peers)?;
                Ok(Report { rows, notes: named(absent), ..Report::default() })
            }
            What::Tools => {
                let rows = tools::run(bench, plan)?;
                Ok(Report { rows, ..Report::default() })
            }
            What::Engine => {
                let measured = engine::run(bench, plan, self.install_peers)?;
                let engine::Measured { rows, idle, absent } = measured;
                let more = Map::from_iter([("idle".to_owned(), json!(idle))]);
                let mut notes = vec![idle.sentence()];
                notes.extend(named(absent));
                Ok(Report { rows, more, notes })
            }
            What::E2b => {
                let e2b::Measured { rows, rush, notes } = e2b::run(bench, plan)?;
                let more = Map::from_iter([("rush".to_owned(), json!(rush))]);
                Ok(Report { rows, more, notes })
            }
        }
    }
}

fn named(absent: Vec<String>) -> Vec<String> {
    absent.into_iter().map(|why| format!("absent: {why}")).collect()
}
