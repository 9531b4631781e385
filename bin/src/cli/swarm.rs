//! `sandpit swarm`: init, status, deploy, stop.

use sandpit_messages::id::SwarmId;
use sandpit_messages::swarm::{
    AgentResources, AgentStatus, DeployAgent, GetSwarmStatus, InitSwarm, StopStatus, StopSwarm,
    Strategy, SwarmState, SwarmStatus, Topology,
};
use serde_json::{Map, Value};

use super::deployment::word;
use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::client::Call;
use crate::session::Session;
use crate::settings::SettingFlags;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Make a swarm. It starts no agent.
    Init {
        /// Who may talk to whom: mesh, hierarchical, ring or star.
        #[arg(long, default_value = "mesh", value_parser = word::<Topology>)]
        topology: Topology,
        /// Most agents, 1 to 50.
        #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true)]
        max_agents: i64,
        /// Which agent gets a task: balanced, aggressive, conservative or adaptive.
        #[arg(long, default_value = "balanced", value_parser = word::<Strategy>)]
        strategy: Strategy,
        /// What to call it.
        #[arg(long)]
        name: Option<String>,
    },
    /// Show a swarm and its agents.
    Status {
        /// Which.
        swarm: SwarmId,
    },
    /// Give a swarm an agent.
    Deploy {
        /// Which.
        swarm: SwarmId,
        /// Which program.
        agent_type: String,
        /// What it looks at or trades.
        #[arg(required = true)]
        symbols: Vec<String>,
        /// What the program takes, as JSON.
        #[arg(long, value_name = "JSON", default_value = "{}", value_parser = object)]
        params: Map<String, Value>,
    },
    /// End a swarm and all its agents.
    Stop {
        /// Which.
        swarm: SwarmId,
        /// Seconds that agents may take to end by themselves.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        grace: i64,
        /// Wait for nothing.
        #[arg(long)]
        force: bool,
    },
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl Verb {
    pub(super) fn run(self, settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        Session::run(settings, "swarm", async |session| match self {
            Self::Init { topology, max_agents, strategy, name } => {
                let (shared_memory, auto_scale) = (true, false);
                let network = "paper".to_owned();
                let ask = InitSwarm {
                    topology,
                    max_agents,
                    strategy,
                    shared_memory,
                    auto_scale,
                    name,
                    network,
                };
                init(&session, ask, out).await
            }
            Self::Status { swarm } => status(&session, swarm, out).await,
            Self::Deploy { swarm, agent_type, symbols, params } => {
                let ask = DeployAgent {
                    swarm_id: swarm,
                    agent_type,
                    symbols,
                    strategy_params: params,
                    resources: AgentResources::default(),
                };
                deploy(&session, ask, out).await
            }
            Self::Stop { swarm, grace, force } => {
                let (swarm_id, grace_period, save_state) = (swarm, grace, true);
                stop(&session, StopSwarm { swarm_id, grace_period, save_state, force }, out).await
            }
        })
    }
}

async fn init(session: &Session, ask: InitSwarm, out: Out) -> Result<Exit, Failure> {
    let asked = session.client.request(&ask, Call::default()).await;
    let made = asked.map_err(|error| Failure::of_ask("no swarm was made", &error))?;
    match out {
        Out { json: true, .. } => out.document("sandpit.swarm.init/1", &made),
        Out { .. } => {
            out::line(made.swarm_id.as_str());
            if !out.quiet {
                made.notes.iter().for_each(|note| out::note(note));
            }
        }
    }
    Ok(Exit::Done)
}

async fn deploy(session: &Session, ask: DeployAgent, out: Out) -> Result<Exit, Failure> {
    let asked = session.client.request(&ask, Call::default()).await;
    let made = asked.map_err(|error| Failure::of_ask("no agent was deployed", &error))?;
    match out {
        Out { json: true, .. } => out.document("sandpit.swarm.deploy/1", &made),
        Out { .. } => {
            out::line(made.agent_id.as_str());
            if !out.quiet {
                out::note(&format!("{} in {}", made.agent_type, made.sandbox_id));
            }
        }
    }
    Ok(Exit::Done)
}

async fn stop(session: &Session, ask: StopSwarm, out: Out) -> Result<Exit, Failure> {
    let asked = session.client.request(&ask, Call::default()).await;
    let what = format!("{} was not stopped", ask.swarm_id);
    let stopped = asked.map_err(|error| Failure::of_ask(what, &error))?;
    match out {
        Out { json: true, .. } => out.document("sandpit.swarm.stop/1", &stopped),
        Out { .. } => {
            let how = match stopped.status {
                StopStatus::Stopped => "stopped, and nothing of it is left",
                StopStatus::ShuttingDown => "being stopped",
            };
            out::line(&format!("{}: {} agents, {how}", stopped.swarm_id, stopped.agents_stopped));
        }
    }
    Ok(Exit::Done)
}

async fn status(session: &Session, swarm_id: SwarmId, out: Out) -> Result<Exit, Failure> {
    let ask = GetSwarmStatus { swarm_id, include_metrics: true, include_agents: true };
    let asked = session.client.request(&ask, Call::default()).await;
    let what = format!("nobody knows how {swarm_id} is");
    let status = asked.map_err(|error| Failure::of_ask(what, &error))?;
    if out.json {
        out.document("sandpit.swarm.status/1", &status)
    } else {
        print(&status)
    }
    Ok(Exit::Done)
}

fn print(status: &SwarmStatus) {
    let state = match status.status {
        SwarmState::Active => "active",
        SwarmState::Degraded => "degraded",
        SwarmState::Stopped => "stopped",
    };
    out::line(&format!(
        "{} is {state}: {} of {} agents active; a decision takes {}",
        status.name, status.active_agents, status.agent_count, status.decision.quorum
    ));
    let rows = status.agents.iter().flatten().map(|agent| {
        let doing = match agent.status {
            AgentStatus::Deploying => "deploying",
            AgentStatus::Running => "running",
            AgentStatus::Completed => "completed",
            AgentStatus::Error => "error",
            AgentStatus::Draining => "draining",
        };
        let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let trades = known(agent.trades.map(|trades| trades.to_string()));
        let pnl = known(agent.pnl.map(|dollars| format!("{dollars:.2}")));
        let (id, kind) = (agent.agent_id.to_string(), agent.agent_type.clone());
        [id, kind, doing.to_owned(), trades, pnl]
    });
    out::table(["agent", "type", "status", "trades", "pnl"], rows);
    status.notes.iter().for_each(|note| out::note(note));
}
