//! The command line: one file per group of verbs.

pub mod exit;
pub mod failure;
pub mod out;
pub mod progress;

mod agent;
mod config;
mod demo;
mod deployment;
mod doctor;
mod env;
mod exec;
mod market;
mod mcp;
mod pool;
mod probe;
mod sandbox;
mod swarm;
mod template;
mod up;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use crate::bench;
use crate::settings::{self, SettingFlags};
use exit::Exit;
use failure::Failure;
use out::Out;

/// Isolated places to run code, in milliseconds, over NATS.
#[derive(Debug, Parser)]
#[command(name = "sandpit", version, after_long_help = exit::HELP, propagate_version = true)]
#[command(disable_help_subcommand = false, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    settings: SettingFlags,
    /// Answer with one JSON document.
    #[arg(long, global = true)]
    json: bool,
    /// Print ids only.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a node, and keep it running until it is told to leave.
    Up(up::Arguments),
    /// Watch a swarm of trading agents work on real prices, on a node of its own.
    Demo(demo::Arguments),
    /// One agent of the demonstration, started by it.
    #[command(name = crate::demo::crew::VERB, hide = true)]
    DemoAgent,
    /// Run code or a command in a sandbox, and end with its exit code.
    Exec(exec::Arguments),
    /// Create, list, look at and end sandboxes.
    #[command(subcommand)]
    Sandbox(sandbox::Verb),
    /// Keep so many equal sandboxes running, and change how many.
    #[command(subcommand)]
    Deployment(deployment::Verb),
    /// Make, look at, fill and end swarms of agents.
    #[command(subcommand)]
    Swarm(swarm::Verb),
    /// List templates, write sandboxes down as such, carry them from node to node.
    #[command(subcommand)]
    Template(template::Verb),
    /// Fetch prices, and replay them as feeds.
    #[command(subcommand)]
    Market(market::Verb),
    /// Run agents in sandboxes, look at them and halt them.
    #[command(subcommand)]
    Agent(agent::Verb),
    /// Show how the node stands: what is kept ready, its cache, its reaper, its endpoints.
    #[command(visible_alias = "status")]
    Pool,
    /// Try out what this machine allows, and say what mends it.
    Doctor,
    /// Say whether a node answers; for whoever keeps containers alive.
    Probe,
    /// Serve the tools to an assistant over the Model Context Protocol, on standard input and
    /// output. Joins the running node, or starts one that leaves with the assistant.
    Mcp,
    /// Measure this machine, next to peers in the same run.
    Bench(bench::Arguments),
    /// Print how NATS tools and E2B's SDKs reach the node, as variables of a shell.
    ///
    /// `eval "$(sandpit env)"` sets them: a program that uses E2B then runs here as it is.
    Env,
    /// Show and check settings.
    #[command(subcommand)]
    Config(config::Verb),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// `sandpit` with these arguments.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, everything else is a fault of the command line.
            let text = error.render();
            if error.use_stderr() {
                out::error_bytes(text.to_string().as_bytes());
                return Exit::Usage;
            }
            out::bytes(text.to_string().as_bytes());
            return Exit::Done;
        }
    };
    let out = Out { json: arguments.json, quiet: arguments.quiet };
    dispatch(arguments, out).unwrap_or_else(|failure| {
        failure.tell(out);
        failure.exit
    })
}

fn dispatch(arguments: Arguments, out: Out) -> Result<Exit, Failure> {
    let Arguments { settings, verb, .. } = arguments;
    match verb {
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "sandpit", &mut script);
            out::bytes(&script);
            Ok(Exit::Done)
        }
        Verb::Doctor => doctor::run(&settings, out),
        Verb::Probe => probe::run(&settings, out),
        Verb::Bench(arguments) => arguments.run(&settings, out),
        Verb::Config(verb) => verb.run(settings::load(&settings)?, out),
        Verb::Up(arguments) => arguments.run(settings, out),
        Verb::Demo(arguments) => arguments.run(&settings, out),
        Verb::DemoAgent => demo::agent(&settings),
        Verb::Exec(arguments) => arguments.run(&settings, out),
        Verb::Sandbox(verb) => verb.run(&settings, out),
        Verb::Deployment(verb) => verb.run(&settings, out),
        Verb::Swarm(verb) => verb.run(&settings, out),
        Verb::Template(verb) => verb.run(&settings, out),
        Verb::Market(verb) => verb.run(&settings, out),
        Verb::Agent(verb) => verb.run(&settings, out),
        Verb::Pool => pool::run(&settings, out),
        Verb::Mcp => mcp::run(&settings, out),
        Verb::Env => env::run(&settings, out),
    }
}

#[cfg(test)]
mod tests;
