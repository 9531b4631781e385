//! `sandpit agent`: agents in sandboxes.

use std::time::Duration;

use sandpit_messages::agent::{AgentRun, Fills, GetFills, HaltAgent, RunAgent, RunStatus};
use sandpit_messages::id::{AgentId, ExecId, SandboxId};
use sandpit_messages::sandbox::GetStatus;
use serde_json::Map;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::client::Call;
use crate::session::Session;
use crate::settings::SettingFlags;

/// Beyond the wait for its end, for the way there and back.
const WAY: Duration = Duration::from_secs(10);
/// Micro-dollars in a cent.
const CENT: i64 = 10_000;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Run an agent in a sandbox, and wait for its end.
    Run(Run),
    /// Show one run of an agent.
    Status {
        /// Its execution.
        execution: ExecId,
    },
    /// Stop an agent; its account stays to be looked at.
    Halt {
        /// Which.
        agent: AgentId,
    },
    /// Print what an agent traded, a line per fill.
    Fills {
        /// Which.
        agent: AgentId,
        /// Begin with the fill of this number.
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// A sandbox of one's own.
    sandbox: SandboxId,
    /// What it does: trend, reversion, pairs, optimizer, ..
    agent_type: String,
    /// The instruments it trades.
    #[arg(required = true)]
    symbols: Vec<String>,
    /// A parameter of its program, as in --param period=60; values are read as JSON or else as text.
    #[arg(long = "param", value_parser = parameter)]
    params: Vec<(String, serde_json::Value)>,
    /// Seconds to wait for its end.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=300))]
    wait: u32,
}

fn parameter(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("not a name and a value")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

impl Verb {
    pub(super) fn run(self, flags: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        Session::run(flags, "agent", async |session| match self {
            Self::Run(run) => begin(&session, run, out).await,
            Self::Status { execution } => {
                let ask = GetStatus::of_run(execution);
                let asked = session.client.request(&ask, Call::default()).await;
                let what = format!("run {execution} cannot be looked at");
                let status = asked.map_err(|error| Failure::of_ask(what, &error))?;
                let run = status.execution.ok_or_else(|| Failure::usage("no run was named"))?;
                Ok(show(&run, out))
            }
            Self::Halt { agent } => {
                let ask = HaltAgent { agent_id: agent };
                let asked = session.client.request(&ask, Call::default()).await;
                let what = format!("agent {agent} cannot be halted");
                Ok(show(&asked.map_err(|error| Failure::of_ask(what, &error))?, out))
            }
            Self::Fills { agent, from } => {
                let ask = GetFills { agent_id: agent, from, limit: None };
                let asked = session.client.request(&ask, Call::default()).await;
                let what = format!("the fills of {agent} cannot be read");
                print(&asked.map_err(|error| Failure::of_ask(what, &error))?, out);
                Ok(Exit::Done)
            }
        })
    }
}

async fn begin(session: &Session, run: Run, out: Out) -> Result<Exit, Failure> {
    let Run { sandbox, agent_type, symbols, params, wait } = run;
    let ask = RunAgent {
        sandbox_id: sandbox,
        agent_id: None,
        agent_type,
        symbols,
        strategy_params: params.into_iter().collect::<Map<_, _>>(),
        use_gpu: false,
        wait: Some(wait),
        strategy_id: None,
    };
    let patience = Some(Duration::from_secs(wait.into()) + WAY);
    let call = Call { owner_of: Some(sandbox), patience, ..Call::default() };
    let asked = session.client.request(&ask, call).await;
    let run = asked.map_err(|error| Failure::of_ask("the agent did not run", &error))?;
    Ok(show(&run, out))
}

/// One run; a run that failed is a failed command.
fn show(run: &AgentRun, out: Out) -> Exit {
    if out.json {
        out.document("sandpit.agent.run/1", run);
    } else if out.quiet {
        out::line(run.execution_id.as_str());
    } else {
        let status = match run.status {
            RunStatus::Running => "running",
            RunStatus::Completed => "completed",
            RunStatus::Failed => "failed",
        };
        let AgentRun { agent_id, execution_id, agent_type, results, .. } = run;
        out::line(&format!("{agent_type} {status}, agent {agent_id}, execution {execution_id}"));
        if let Some(data) = &results.data {
            out::line(&format!(
                "{} bars, {} to {}: {}",
                data.rows, data.from, data.to, data.source
            ));
        }
        if let Some(account) = &results.account {
            let (trades, pnl) = (account.trades, dollars(account.pnl_microusd));
            out::line(&format!("{trades} trades, {pnl} on paper after all costs"));
        }
        let notes = run.notes.iter().chain(&results.reason);
        notes.for_each(|note| out::line(note));
    }
    if run.status == RunStatus::Failed { Exit::Failed } else { Exit::Done }
}

/// To the cent, towards minus infinity.
fn dollars(microusd: i64) -> String {
    let cents = microusd.div_euclid(CENT);
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}${}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

fn print(fills: &Fills, out: Out) {
    if out.json {
        out.document("sandpit.agent.fills/1", fills);
        return;
    }
    let rows = fills.fills.iter().map(|fill| {
        let (shares, price, cost) = (fill.shares, fill.price_microusd, fill.cost_microusd);
        let symbol = if fill.symbol.is_empty() { "(borrow)" } else { &fill.symbol };
        [
            fill.seq.to_string(),
            fill.day.clone(),
            symbol.to_owned(),
            shares.to_string(),
            price.to_string(),
            cost.to_string(),
        ]
    });
    out::table(["fill", "day", "symbol", "shares", "price_microusd", "cost_microusd"], rows);
}
