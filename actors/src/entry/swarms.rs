//! Requests about swarms.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use sandpit_messages::agent::{AgentRun, RunStatus as AgentRunStatus};
use sandpit_messages::deployment::{Failure, ScaleStatus};
use sandpit_messages::id::{AgentId, ExecId, SwarmId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::swarm::{
    AgentDeployed, AgentRan, AgentStatus, Coordination, Decision, DeployAgent, InitSwarm,
    MadeStatus, RunStatus, RunSwarm, ScaleSwarm, StopStatus, StopSwarm, SwarmMade, SwarmRan,
    SwarmScaled, SwarmStopped, Totals,
};
use sandpit_messages::time::Moment;
use serde_json::{Map, Value};

use super::checks::{NAME_MAX, invalid, within};
use super::deployments::{agent as runnable, amount, approval, failures};
use super::{Call, Entry, count, keyed, wall};
use crate::bus::Reply;
use crate::crew::agents::Launch;
use crate::crew::{AgentPlan, Plan};
use crate::scaler::LIFETIME_MAX;
use crate::swarm::policy::{Member, Order, Record};
use crate::swarm::{Init, Join, Look, Looked, Scale, Stop};

mod look;

/// Most agents of a swarm.
const AGENTS_MAX: i64 = 50;

/// The template of an agent's sandbox.
const TEMPLATE: &str = "base";

/// Said wherever a decision was asked for.
const NO_DECISIONS: &str =
    "no decision protocol runs on this node, so signals were not made into one decision";

impl Entry {
    /// Each word is the verb of its message type; `service` offers the same.
    pub(super) async fn swarm(&self, call: &Call, verb: &str) -> Reply {
        let changes = matches!(verb, "swarm-init" | "swarm-deploy" | "swarm-scale" | "swarm-run");
        if changes && self.draining.load(Ordering::Acquire) {
            return Reply::refused(call.codec, &Refusal::Draining);
        }
        match verb {
            "swarm-init" => self.respond(call, |ask| self.init_swarm(call, ask)).await,
            "swarm-deploy" => self.respond(call, |ask| self.deploy_agent(call, ask)).await,
            "swarm-scale" => self.respond(call, |ask| self.scale_swarm(call, ask)).await,
            "swarm-run" => self.respond(call, |ask| self.run_swarm(call, ask)).await,
            "swarm-stop" => self.respond(call, |ask| self.stop_swarm(call, ask)).await,
            "swarm-status" => self.respond(call, |ask| self.swarm_status(call, ask)).await,
            "swarm-health" => self.respond(call, |ask| self.swarm_health(call, ask)).await,
            "swarm-metrics" => self.respond(call, |ask| self.swarm_metrics(call, ask)).await,
            unknown => {
                let verb = unknown.chars().take(64).collect();
                Reply::refused(call.codec, &Refusal::UnknownVerb { verb })
            }
        }
    }

    async fn look(&self, call: &Call, swarm: SwarmId, range: Duration) -> Result<Looked, Refusal> {
        let tenant = call.tenant.clone();
        self.ports.swarm.ask_settled(Look { tenant, swarm, range }).await?
    }

    async fn init_swarm(&self, call: &Call, ask: InitSwarm) -> Result<SwarmMade, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let making = async {
            if let Some(name) = &ask.name {
                let fine = (1..=NAME_MAX).contains(&name.chars().count());
                if !fine || name.contains(char::is_control) {
                    return Err(invalid("name", name, "1 to 128 characters that can be seen"));
                }
            }
            if ask.network != "paper" {
                return Err(Refusal::Unsupported {
                    what: format!("the network `{}`", ask.network),
                });
            }
            let order = Order {
                tenant: call.tenant.clone(),
                name: ask.name,
                topology: ask.topology,
                strategy: ask.strategy,
                max_agents: amount("maxAgents", ask.max_agents, AGENTS_MAX)?,
                shared_memory: ask.shared_memory,
                auto_scale: ask.auto_scale,
            };
            let (id, record) = self.ports.swarm.ask_settled(Init(Arc::new(order))).await??;
            let agents = count(record.order.max_agents);
            let decision = Decision::of(agents);
            let mut notes = vec![
                format!(
                    "the topology was written down; agents on this node do not talk to one another"
                ),
                NO_DECISIONS.to_owned(),
            ];
            if !decision.byzantine_tolerant {
                notes.insert(0, format!("{agents} agents tolerate no liar: it takes four"));
            }
            if record.order.shared_memory {
                notes.push("sharedMemory was written down; agents cannot reach it".to_owned());
            }
            if record.order.auto_scale {
                notes.push("autoScale was written down; no load rule changes swarms".to_owned());
            }
            Ok(SwarmMade {
                swarm_id: id,
                name: name(id, &record),
                topology: record.order.topology,
                max_agents: agents,
                status: MadeStatus::Active,
                created_at: record.created.rfc3339(),
                decision,
                notes,
            })
        };
        self.keyed.once_claimed::<InitSwarm>(asked, call.until, making).await
    }

    async fn deploy_agent(&self, call: &Call, ask: DeployAgent) -> Result<AgentDeployed, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let making = async {
            let DeployAgent { swarm_id: swarm, agent_type, symbols, strategy_params, resources } =
                ask;
            within("memory_mb", resources.memory_mb, 256..=4_096)?;
            within("cpu_count", resources.cpu_count, 1..=4)?;
            if resources.gpu_enabled {
                return Err(Refusal::Unsupported { what: "an agent with a GPU".to_owned() });
            }
            let agent = AgentPlan { agent_type, symbols, params: strategy_params };
            runnable(call.tenant.clone(), &agent)?;
            let plan = Arc::new(Plan {
                tenant: call.tenant.clone(),
                template: TEMPLATE.to_owned(),
                memory_mb: Some(resources.memory_mb),
                cpu_count: Some(resources.cpu_count),
                lifetime: LIFETIME_MAX,
                env: std::collections::BTreeMap::new(),
                files: std::collections::BTreeMap::new(),
                setup: Vec::new(),
                agent: Some(agent),
            });
            let join = Join { swarm, plan, until: self.patience(call) };
            let member = self.ports.swarm.ask_settled(join).await??;
            let sandbox = member.sandbox.ok_or(Refusal::Unfinished)?;
            Ok(AgentDeployed {
                agent_id: member.agent,
                swarm_id: swarm,
                agent_type: member.agent_type().to_owned(),
                sandbox_id: sandbox,
                status: member.status,
                deployed_at: member.deployed.rfc3339(),
                notes: vec![
                    "it got no vote key: no decision protocol runs on this node".to_owned(),
                ],
            })
        };
        self.keyed.once_claimed::<DeployAgent>(asked, call.until, making).await
    }

    async fn scale_swarm(&self, call: &Call, ask: ScaleSwarm) -> Result<SwarmScaled, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let scaling = async {
            let target = amount("target_agents", ask.target_agents, AGENTS_MAX)?;
            let (tenant, swarm, mode) = (call.tenant.clone(), ask.swarm_id, ask.scale_mode);
            let until = self.patience(call);
            let scaled = self
                .ports
                .swarm
                .ask_settled(Scale { tenant, swarm, target, mode, until })
                .await??;
            let now = self.ports.clock.both();
            let failed = !scaled.failures.is_empty();
            let all: Vec<_> = scaled.failures.into_iter().map(|why| (None, why)).collect();
            let status = match (scaled.done, failed) {
                (true, _) => ScaleStatus::Completed,
                (false, true) => ScaleStatus::Failed,
                (false, false) => ScaleStatus::Scaling,
            };
            let mut notes = Vec::new();
            if ask.preserve_state {
                notes.push(
                    "agents that leave keep their accounts; nobody takes over their positions"
                        .to_owned(),
                );
            }
            Ok(SwarmScaled {
                swarm_id: swarm,
                previous_agents: count(scaled.previous),
                target_agents: count(scaled.target),
                current_agents: count(scaled.current),
                status,
                estimated_completion: scaled.estimated.map(|at| wall(now, at).rfc3339()),
                failures: failures(&all) as Vec<Failure>,
                approval: scaled.held.map(|held| approval(now, held)),
                notes,
            })
        };
        self.keyed.once_claimed::<ScaleSwarm>(asked, call.until, scaling).await
    }

    async fn stop_swarm(&self, call: &Call, ask: StopSwarm) -> Result<SwarmStopped, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let stopping = async {
            let fine = u64::try_from(ask.grace_period).ok().filter(|seconds| *seconds <= 3_600);
            let Some(seconds) = fine else {
                return Err(invalid("grace_period", ask.grace_period, "0 to 3600"));
            };
            let grace = if ask.force { 0 } else { seconds };
            let (tenant, swarm, save) = (call.tenant.clone(), ask.swarm_id, ask.save_state);
            let (grace, until) = (Duration::from_secs(grace), self.patience(call));
            let question = Stop { tenant, swarm, grace, save, until };
            let (record, gone) = self.ports.swarm.ask_settled(question).await??;
            let Some(stopped) = record.stopped else { return Err(Refusal::Fault) };
            let mut notes = Vec::new();
            if stopped.pnl.is_none() {
                notes.push("no agent had a paper account with a bar in it".to_owned());
            }
            if stopped.saved {
                let kept = "what is saved are its record, its agents' fills while this node lives, and its \
                            totals; what its programs held in memory is gone";
                notes.push(kept.to_owned());
            }
            Ok(SwarmStopped {
                swarm_id: swarm,
                status: if gone { StopStatus::Stopped } else { StopStatus::ShuttingDown },
                agents_stopped: count(stopped.agents),
                state_saved: stopped.saved,
                shutdown_at: stopped.at.rfc3339(),
                final_metrics: Totals {
                    total_runtime_seconds: stopped.at.since(record.created).as_secs_f64(),
                    total_trades: stopped.trades,
                    total_pnl: stopped.pnl,
                },
                notes,
            })
        };
        self.keyed.once_claimed::<StopSwarm>(asked, call.until, stopping).await
    }

    async fn run_swarm(&self, call: &Call, ask: RunSwarm) -> Result<SwarmRan, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let running = async {
            let fine = u64::try_from(ask.timeout).ok().filter(|one| (1..=3_600).contains(one));
            let Some(timeout) = fine else {
                return Err(invalid("timeout", ask.timeout, "1 to 3600"));
            };
            let looked = self.look(call, ask.swarm_id, Duration::ZERO).await?;
            if looked.record.stopped.is_some() {
                let why = "the swarm was shut down".to_owned();
                return Err(Refusal::Conflict { scope: "swarm", why });
            }
            let placed =
                |one: &&Member| matches!(one.status, AgentStatus::Running | AgentStatus::Completed);
            let members: Vec<_> = looked.members.iter().filter(placed).collect();
            if members.is_empty() {
                let why = "the swarm has no agent that runs".to_owned();
                return Err(Refusal::Conflict { scope: "swarm", why });
            }
            for member in &members {
                let of = part(member, &ask.strategy, &ask.parameters, None);
                runnable(call.tenant.clone(), &of)?;
            }
            let clock = self.ports.clock;
            let began = clock.both();
            let until = self.patience(call).min(began.moment + Duration::from_secs(timeout));
            let per_agent = self.run_parts(call, &ask, &members, until).await;
            Ok(told(&ask, began.wall.rfc3339(), clock.both().wall.rfc3339(), per_agent))
        };
        self.keyed.once_claimed::<RunSwarm>(asked, call.until, running).await
    }

    async fn run_parts(
        &self,
        call: &Call,
        ask: &RunSwarm,
        members: &[&Member],
        until: Moment,
    ) -> Vec<(AgentId, Result<AgentRun, Refusal>)> {
        let run = async |member: &Member, before: Option<Value>| {
            let plan = Arc::new(part(member, &ask.strategy, &ask.parameters, before));
            let ran = match member.sandbox {
                Some(sandbox) => {
                    // A part has an account of its own: the agent's stays what its trades made it.
                    let agent = AgentId::minted(rand::random());
                    let launch = Launch { agent, sandbox, tenant: call.tenant.clone(), plan };
                    self.ports.desk.run(launch, until).await
                }
                None => Err(Refusal::Unsettled { what: "the agent's sandbox" }),
            };
            (member.agent, ran)
        };
        match ask.coordination {
            Coordination::Parallel | Coordination::Adaptive => {
                join_all(members.iter().map(|member| run(member, None))).await
            }
            Coordination::Sequential => {
                let mut all = Vec::new();
                let mut found = Vec::new();
                for member in members {
                    let (agent, ran) = run(member, Some(Value::Array(found.clone()))).await;
                    if let Ok(ran) = &ran {
                        let signals = serde_json::to_value(&ran.results.signals);
                        found.push(signals.unwrap_or_default());
                    }
                    all.push((agent, ran));
                }
                all
            }
        }
    }
}

/// What an agent runs for its part: the same program on its own symbols.
fn part(
    member: &Member,
    strategy: &str,
    parameters: &Map<String, Value>,
    before: Option<Value>,
) -> AgentPlan {
    let symbols = member.plan.agent.as_ref().map(|agent| agent.symbols.clone());
    let mut params = parameters.clone();
    if let Some(before) = before {
        // What those before it found; a program that does not look for it ignores it.
        params.insert("before".to_owned(), before);
    }
    AgentPlan { agent_type: strategy.to_owned(), symbols: symbols.unwrap_or_default(), params }
}

fn told(
    ask: &RunSwarm,
    started_at: String,
    completed_at: String,
    parts: Vec<(AgentId, Result<AgentRun, Refusal>)>,
) -> SwarmRan {
    let accounts = parts.iter().filter_map(|(_, ran)| ran.as_ref().ok()?.results.account.as_ref());
    let accounts: Vec<_> = accounts.map(|account| (account.trades, account.pnl_microusd)).collect();
    let per_agent: Vec<_> = parts.into_iter().map(|(agent, ran)| ran_of(agent, ran)).collect();
    let how_many = |wanted| per_agent.iter().filter(|one| one.status == wanted).count();
    let status = match (how_many(RunStatus::Completed), how_many(RunStatus::Timeout)) {
        (1.., _) => RunStatus::Completed,
        (0, 1..) => RunStatus::Timeout,
        (0, 0) => RunStatus::Failed,
    };
    let mut notes = Vec::new();
    if ask.decide {
        notes.push(NO_DECISIONS.to_owned());
    }
    if ask.coordination == Coordination::Adaptive {
        notes.push("without a decision `adaptive` is `parallel`".to_owned());
    }
    if accounts.is_empty() {
        notes.push("no part had a paper account with a bar in it".to_owned());
    }
    let none = accounts.is_empty();
    let trades = accounts.iter().map(|(trades, _)| trades).sum();
    let micros: i64 = accounts.iter().map(|(_, micros)| micros).sum();
    SwarmRan {
        execution_id: ExecId::minted(rand::random()),
        swarm_id: ask.swarm_id,
        strategy: ask.strategy.clone(),
        status,
        agents_executed: count(how_many(RunStatus::Completed)),
        total_trades: (!none).then_some(trades),
        total_pnl: (!none).then_some(micros as f64 / 1e6),
        started_at,
        completed_at: Some(completed_at),
        per_agent,
        notes,
    }
}

fn ran_of(agent_id: AgentId, ran: Result<AgentRun, Refusal>) -> AgentRan {
    let (status, results, error) = match ran {
        Ok(ran) => {
            let status = match ran.status {
                AgentRunStatus::Running => RunStatus::Timeout,
                AgentRunStatus::Completed => RunStatus::Completed,
                AgentRunStatus::Failed => RunStatus::Failed,
            };
            let error = ran.results.reason.clone();
            let results = serde_json::to_value(ran.results).ok();
            let results = results.and_then(|results| results.as_object().cloned());
            (status, results, error)
        }
        Err(refusal) => (RunStatus::Failed, None, Some(refusal.to_string())),
    };
    AgentRan { agent_id, status, results, error }
}

fn name(id: SwarmId, record: &Record) -> String {
    record.order.name.clone().unwrap_or_else(|| id.to_string())
}
