//! `sandpit demo`: a node, a swarm on real prices, and what came of it.

use sandpit_config::{Loaded, Setting, Source};

use super::exit::Exit;
use super::failure::Failure;
use super::out::Out;
use crate::demo::plan::{AGENTS_DEFAULT, AGENTS_MAX, AGENTS_MIN};
use crate::demo::{process, run};
use crate::settings::{self, SettingFlags};

/// The seed unless asked otherwise: any will do, and the same gives the same trades.
const SEED_DEFAULT: u64 = 7;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Agents, each a process and a NATS client of its own.
    #[arg(long, default_value_t = AGENTS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(AGENTS_MIN)..=i64::from(AGENTS_MAX)))]
    agents: u32,
    /// Draws the instruments of each desk: the same seed gives the same trades.
    #[arg(long, default_value_t = SEED_DEFAULT)]
    seed: u64,
}

impl Arguments {
    pub(super) fn run(self, flags: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        let Loaded { mut config, settings } = settings::load(flags)?;
        let is_usual = |setting: &Setting| setting.source == Source::Default;
        let log = settings.iter().find(|setting| setting.key == "telemetry.log");
        if log.is_some_and(is_usual) {
            // What is looked at is the swarm; whoever wants to read more says so.
            "warn".clone_into(&mut config.telemetry.log);
        }
        let Self { agents, seed } = self;
        run::run(run::Options { agents, seed }, config, out)
    }
}

/// One of its agents.
pub(super) fn agent(flags: &SettingFlags) -> Result<Exit, Failure> {
    Ok(process::run(&settings::load(flags)?.config.bus))
}
