//! What becomes of each agent: which bars it is shown, when its orders are filled, when it is
//! begun again.
//!
//! The rule it keeps: a program sees bars in order, each once and none before it was published,
//! and what it orders on one is filled on the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandpit_messages::agent::{AgentSignal, Fill, Fills, RunStatus};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, ExecId, NodeId, SandboxId};
use sandpit_messages::market::{Bar, Bars, FeedName, ReplayStarted, StartReplay};
use sandpit_messages::problem::Ran;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use serde_json::{Map, Value};

use super::account::{Account, Terms};
use super::order::Order;
use crate::shell::Ticket;
use follow::Following;
use run::{Run, Stage};

mod follow;
mod run;
#[cfg(test)]
mod tests;
mod view;

/// What agents may be. Valid already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Agents at work at once. Past this one is refused.
    pub agents_max: usize,
    /// Longest a program may take over one bar.
    pub bar_max: Duration,
    /// Bars that a program is shown again when it must begin again.
    pub history_max: usize,
    /// Bars that wait for a program; those on top are asked for again when it is ready for them.
    pub pending_max: usize,
    /// How often a program that was lost is begun again in one run.
    pub restarts_max: u32,
    /// Lines of an account's journal. An agent that fills it has failed.
    pub fills_max: usize,
    /// A feed that was silent for so long is asked whether it has more.
    pub silence_max: Duration,
    /// Pause before something is tried again that could not be done.
    pub retry_pause: Duration,
    /// For how long an agent that has ended can be looked at, and can go on.
    pub ended_kept: Duration,
    /// How many of those.
    pub ended_max: usize,
    /// What an account begins with, and what trading costs it.
    pub terms: Terms,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            agents_max: 256,
            bar_max: Duration::from_secs(60),
            history_max: 1_260,
            pending_max: 512,
            restarts_max: 5,
            fills_max: 100_000,
            silence_max: Duration::from_secs(5),
            retry_pause: Duration::from_millis(200),
            ended_kept: Duration::from_secs(3_600),
            ended_max: 1_024,
            terms: Terms::default(),
        }
    }
}

/// When a node full of agents is worth asking again.
const FULL_PAUSE: Duration = Duration::from_secs(5);

/// Everything that can happen to agents.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody wants an agent.
    Launch { ticket: Ticket, order: Arc<Order> },
    /// Somebody wants an end to it.
    Halt { ticket: Ticket, tenant: Tenant, agent: AgentId },
    /// Somebody waits for the end of a run.
    Await { ticket: Ticket, tenant: Tenant, exec: ExecId, until: Moment },
    /// Answers [`Effect::Listen`].
    Listening { exec: ExecId },
    /// Answers [`Effect::Listen`].
    NotListening { exec: ExecId, why: String },
    /// Answers [`Effect::Replay`].
    Replaying { exec: ExecId, started: Box<ReplayStarted> },
    /// Answers [`Effect::Replay`].
    NotReplaying { exec: ExecId, refusal: Refusal },
    /// A bar was published.
    Heard { exec: ExecId, bar: Arc<Bar> },
    /// Answers [`Effect::Fetch`].
    Fetched { exec: ExecId, bars: Box<Bars> },
    /// Answers [`Effect::Fetch`].
    NotFetched { exec: ExecId, why: NoBars },
    /// Answers [`Effect::Cell`].
    Answered { exec: ExecId, cell: u64, answer: Answer },
    /// The deadline is here.
    Tick,
}

/// Why bars did not come when they were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoBars {
    /// Whoever was asked knows no such feed.
    NoSuchFeed,
    /// Asking again may help.
    Later,
}

/// What came of a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The program answered.
    Said(Box<Said>),
    /// The program is not there any more: its interpreter is another.
    Lost,
    /// The program failed, or said what cannot be understood.
    Broken {
        /// One sentence.
        why: String,
    },
    /// It was not run, or nobody knows whether it was.
    Refused(Refusal),
}

/// What a program says about a bar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// What it wants done.
    pub signals: Vec<AgentSignal>,
    /// What it computed, if it was asked.
    pub metrics: Option<Map<String, Value>>,
    /// What it cannot say, and why.
    pub notes: Vec<String>,
}

/// Everything that can be wanted done.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug)]
pub enum Effect {
    /// Hear a feed; every bar is an [`Event::Heard`] from then on.
    Listen { exec: ExecId, feed: FeedName },
    /// Begin a replay.
    Replay { exec: ExecId, ask: StartReplay },
    /// Ask for bars after a number, of a node or of any.
    Fetch { exec: ExecId, feed: FeedName, node: Option<NodeId>, after: u64, symbols: Vec<String> },
    /// Run something in the agent's sandbox.
    Cell { exec: ExecId, cell: u64, order: Arc<Order>, work: Work },
    /// Hear the feed no more.
    Leave { exec: ExecId },
    /// Publish lines of a journal.
    Tell { fills: Vec<Fill> },
    /// Publish the end of a run, and tell who listens.
    Ended { agent: AgentId },
    /// Answer [`Event::Launch`].
    Launched { ticket: Ticket, exec: ExecId },
    /// Answer [`Event::Halt`] or [`Event::Await`] with how it is.
    Show { ticket: Ticket, agent: AgentId },
    /// Refuse a caller.
    Refuse { ticket: Ticket, refusal: Refusal },
}

/// What a cell does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Begins the program and lets it learn from these bars.
    Open {
        /// In order.
        history: Vec<Arc<Bar>>,
    },
    /// Shows it a bar.
    Show {
        /// Which.
        bar: Arc<Bar>,
        /// Its cash in micro-dollars.
        cash: i64,
        /// Its equity in micro-dollars.
        equity: i64,
        /// Its shares.
        shares: BTreeMap<String, i64>,
        /// Whether it is to say what it computed.
        report: bool,
    },
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentState {
    /// Who it is.
    pub agent: AgentId,
    /// The run of it that is under way, or was the last.
    pub exec: ExecId,
    /// Where that ran.
    pub sandbox: SandboxId,
    /// As it was asked for.
    pub agent_type: String,
    /// How it is.
    pub status: RunStatus,
    /// Whether it was halted.
    pub halted: bool,
    /// When the run began.
    pub started: Moment,
    /// When it ended.
    pub ended: Option<Moment>,
    /// When its program last answered.
    pub last_heartbeat: Option<Moment>,
    /// Cells run in its sandbox.
    pub executions: u64,
    /// Trades filled, in all its runs.
    pub trades: u64,
    /// Profit and loss on paper in micro-dollars, after all costs; `None` before the first bar.
    pub pnl_microusd: Option<i64>,
    /// What its program said last.
    pub signals: Vec<AgentSignal>,
    /// Why it failed.
    pub error: Option<String>,
}

/// All agents of a node.
#[derive(Debug)]
pub struct Agents {
    limits: Limits,
    draw: ChaCha8Rng,
    agents: BTreeMap<AgentId, Agent>,
    /// The agent of each run that can still be asked for.
    runs: BTreeMap<ExecId, AgentId>,
}

/// One agent: its account outlives its runs.
#[derive(Debug)]
struct Agent {
    tenant: Tenant,
    account: Account,
    /// The number of the last bar its account lived through, and the feed that brought it.
    lived: Option<(FeedName, u64)>,
    /// Which run wrote its journal from which line on, and on which feed.
    eras: Vec<(u64, ExecId, FeedName)>,
    run: Run,
}

impl Agents {
    /// Begins without agents: those of an earlier life ended with it. `seed` must differ from life
    /// to life: ids are drawn from it.
    pub fn recover(limits: Limits, seed: [u8; 32]) -> Self {
        let draw = ChaCha8Rng::from_seed(seed);
        Self { limits, draw, agents: BTreeMap::new(), runs: BTreeMap::new() }
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Launch { ticket, order } => self.launch(now, ticket, order, &mut effects),
            Event::Halt { ticket, tenant, agent } => match self.of(&tenant, agent) {
                Ok(found) => {
                    found.end(now, RunStatus::Completed, None, &mut effects);
                    effects.push(Effect::Show { ticket, agent });
                }
                Err(refusal) => effects.push(Effect::Refuse { ticket, refusal }),
            },
            Event::Await { ticket, tenant, exec, until } => match self.find_run(&tenant, exec) {
                Ok(agent) => {
                    let run = &mut agent.run;
                    if run.exec == exec && run.is_at_work() && until > now {
                        run.awaiting.push((ticket, until));
                    } else {
                        effects.push(Effect::Show { ticket, agent: run.order.agent });
                    }
                }
                Err(refusal) => effects.push(Effect::Refuse { ticket, refusal }),
            },
            Event::Tick => (),
            Event::Listening { exec } => {
                self.with(exec, |agent, _| agent.listening(now, &mut effects))
            }
            Event::NotListening { exec, why } => self.with(exec, |agent, _| {
                if let Some(ticket) = agent.run.launching.take() {
                    effects.push(Effect::Refuse {
                        ticket,
                        refusal: Refusal::Unsettled { what: "the feed" },
                    });
                }
                let why = format!("its feed cannot be heard: {why}");
                agent.end(now, RunStatus::Failed, Some(why), &mut effects);
            }),
            Event::Replaying { exec, started } => self.with(exec, |agent, _| {
                agent.run.following.replayed(now, *started);
            }),
            Event::NotReplaying { exec, refusal } => self.with(exec, |agent, limits| {
                agent.not_replaying(now, limits, &refusal, &mut effects);
            }),
            Event::Heard { exec, bar } => self.with(exec, |agent, limits| {
                agent.run.following.hear(now, limits, bar);
            }),
            Event::Fetched { exec, bars } => self.with(exec, |agent, limits| {
                agent.fetched(now, limits, *bars, &mut effects);
            }),
            Event::NotFetched { exec, why } => self.with(exec, |agent, limits| {
                agent.not_fetched(now, limits, &why, &mut effects);
            }),
            Event::Answered { exec, cell, answer } => self.with(exec, |agent, limits| {
                agent.answered(now, limits, cell, answer, &mut effects);
            }),
        }
        for agent in self.agents.values_mut() {
            agent.go_on(now, &self.limits, &mut effects);
        }
        self.forget(now);
        effects
    }

    /// The next moment at which time alone changes a decision.
    pub fn next_deadline(&self) -> Option<Moment> {
        let kept = self.limits.ended_kept;
        let of = |agent: &Agent| agent.next_deadline(&self.limits, kept);
        self.agents.values().filter_map(of).min()
    }

    /// How one agent is.
    ///
    /// # Errors
    /// [`Refusal::NoSuch`]
    pub fn look(&self, tenant: &Tenant, agent: AgentId) -> Result<AgentState, Refusal> {
        let found = self.agents.get(&agent).filter(|found| found.tenant == *tenant);
        found.map(Agent::state).ok_or_else(|| no_such_agent(agent))
    }

    /// How all agents of a tenant are.
    pub fn look_all(&self, tenant: &Tenant) -> Vec<AgentState> {
        self.agents.values().filter(|agent| agent.tenant == *tenant).map(Agent::state).collect()
    }

    /// What an agent traded, from the fill with the number `from` on.
    ///
    /// # Errors
    /// [`Refusal::NoSuch`]
    pub fn fills(
        &self,
        tenant: &Tenant,
        agent: AgentId,
        from: u64,
        limit: usize,
    ) -> Result<Fills, Refusal> {
        let found = self.agents.get(&agent).filter(|found| found.tenant == *tenant);
        let found = found.ok_or_else(|| no_such_agent(agent))?;
        let total_count = found.account.journal().len() as u64;
        Ok(Fills { fills: found.fills(from, limit), total_count })
    }

    /// Agents at work.
    pub fn at_work(&self) -> usize {
        self.agents.values().filter(|agent| agent.run.is_at_work()).count()
    }

    fn of(&mut self, tenant: &Tenant, agent: AgentId) -> Result<&mut Agent, Refusal> {
        let found = self.agents.get_mut(&agent).filter(|found| found.tenant == *tenant);
        found.ok_or_else(|| no_such_agent(agent))
    }

    fn find_run(&mut self, tenant: &Tenant, exec: ExecId) -> Result<&mut Agent, Refusal> {
        let found = self.runs.get(&exec).and_then(|agent| self.agents.get_mut(agent));
        let found = found.filter(|found| found.tenant == *tenant);
        found.ok_or_else(|| Refusal::NoSuch { what: "execution", name: exec.to_string() })
    }

    /// Changes the agent of a run that is still under way; news of an earlier run is no news.
    fn with(&mut self, exec: ExecId, change: impl FnOnce(&mut Agent, &Limits)) {
        let agent = self.runs.get(&exec).and_then(|agent| self.agents.get_mut(agent));
        if let Some(agent) = agent.filter(|agent| agent.run.exec == exec && agent.run.is_at_work())
        {
            change(agent, &self.limits);
        }
    }

    fn launch(
        &mut self,
        now: Moment,
        ticket: Ticket,
        order: Arc<Order>,
        effects: &mut Vec<Effect>,
    ) {
        let (agent, at_work) = (order.agent, self.at_work());
        let known = self.agents.get(&agent);
        let refusal = match known {
            Some(known) if known.tenant != order.tenant => Some(no_such_agent(agent)),
            Some(known) if known.run.is_at_work() => {
                let why = format!("agent {agent} is at work already; halt it first");
                Some(Refusal::Conflict { scope: "agent", why })
            }
            _ if at_work >= self.limits.agents_max => {
                Some(Refusal::Busy { waiting: at_work, retry_after: FULL_PAUSE })
            }
            _ => None,
        };
        if let Some(refusal) = refusal {
            effects.push(Effect::Refuse { ticket, refusal });
            return;
        }
        let exec = ExecId::minted(self.draw.random());
        let lived = known.and_then(|known| known.lived.clone());
        let following = Following::begin(now, &order, exec, lived);
        effects.push(Effect::Listen { exec, feed: following.feed.clone() });
        let run = Run::begin(now, exec, Arc::clone(&order), following, ticket);
        self.runs.insert(exec, agent);
        let feed = run.following.feed.clone();
        match self.agents.get_mut(&agent) {
            Some(known) => {
                known.eras.push((known.account.journal().len() as u64, exec, feed));
                known.run = run;
            }
            None => {
                let account = Account::open(self.limits.terms);
                let (tenant, eras) = (order.tenant.clone(), vec![(0, exec, feed)]);
                self.agents.insert(agent, Agent { tenant, account, lived: None, eras, run });
            }
        }
    }

    /// Those that ended long ago, and the oldest of too many.
    fn forget(&mut self, now: Moment) {
        let Limits { ended_kept, ended_max, .. } = self.limits;
        let before = self.agents.len();
        self.agents.retain(|_, agent| agent.run.ended().is_none_or(|at| at + ended_kept > now));
        if self.agents.len() > ended_max {
            let ended = self.agents.iter();
            let ended = ended.filter_map(|(id, agent)| agent.run.ended().map(|at| (at, *id)));
            let mut ended: Vec<_> = ended.collect();
            ended.sort_unstable();
            let surplus = ended.len().saturating_sub(ended_max);
            for (_, agent) in ended.into_iter().take(surplus) {
                self.agents.remove(&agent);
            }
        }
        if self.agents.len() != before {
            self.runs.retain(|_, agent| self.agents.contains_key(agent));
        }
    }
}

fn no_such_agent(agent: AgentId) -> Refusal {
    Refusal::NoSuch { what: "agent", name: agent.to_string() }
}

/// Whether a refused cell has certainly not run.
fn has_not_run(refusal: &Refusal) -> bool {
    refusal.problem().ran == Ran::No
}
