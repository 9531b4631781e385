//! How agents are shown to those who ask.

use std::time::Duration;

use sandpit_messages::agent::{AgentResults, AgentRun, DataUsed, Fill, RunStatus};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::AgentId;
use sandpit_messages::time::{Moment, Now, WallTime};

use super::{Agent, AgentState, Agents, Stage};
use crate::agent::account::Entry;

impl Agents {
    /// How an agent is, as clients are told; `None` if it is not known.
    pub fn run_of(&self, now: Now, agent: AgentId) -> Option<AgentRun> {
        self.agents.get(&agent).map(|agent| agent.view(now))
    }

    /// How an agent is, for the other actors; `None` if it is not known.
    pub fn state_of(&self, agent: AgentId) -> Option<AgentState> {
        self.agents.get(&agent).map(Agent::state)
    }

    /// Whose an agent is.
    pub fn tenant_of(&self, agent: AgentId) -> Option<Tenant> {
        self.agents.get(&agent).map(|agent| agent.tenant.clone())
    }
}

impl Agent {
    pub(super) fn state(&self) -> AgentState {
        let run = &self.run;
        let (status, halted, error) = self.status();
        AgentState {
            agent: run.order.agent,
            exec: run.exec,
            sandbox: run.order.sandbox,
            agent_type: run.order.agent_type.clone(),
            status,
            halted,
            started: run.started,
            ended: run.ended(),
            last_heartbeat: run.last_heartbeat,
            executions: run.cells,
            trades: self.account.trades(),
            pnl_microusd: self.lived.is_some().then(|| self.account.pnl()),
            signals: run.signals.clone(),
            error,
        }
    }

    fn status(&self) -> (RunStatus, bool, Option<String>) {
        match &self.run.stage {
            Stage::Ended { status, halted, why, .. } => (*status, *halted, why.clone()),
            _ => (RunStatus::Running, false, None),
        }
    }

    fn view(&self, now: Now) -> AgentRun {
        let run = &self.run;
        let (status, halted, why) = self.status();
        let took = run.ended().unwrap_or(now.moment).since(run.started);
        let source = run.following.source.clone();
        let data = run.days.clone().zip(source).map(|((from, to), source)| DataUsed {
            source,
            feed: run.following.feed.clone(),
            from,
            to,
            rows: run.rows,
        });
        let mut notes = run.notes.clone();
        if run.metrics.is_empty() && status != RunStatus::Running {
            notes.push("no metrics: its program was not asked for any before it ended".to_owned());
        }
        let reason = why.or_else(|| halted.then(|| "it was halted".to_owned()));
        AgentRun {
            execution_id: run.exec,
            agent_id: run.order.agent,
            sandbox_id: run.order.sandbox,
            agent_type: run.order.agent_type.clone(),
            status,
            results: AgentResults {
                signals: run.signals.clone(),
                metrics: run.metrics.clone(),
                data,
                account: self.lived.is_some().then(|| self.account.view()),
                reason,
            },
            execution_time: format!("{:.3}s", took.as_secs_f64()),
            execution_time_ms: millis(took),
            executions: run.cells,
            last_heartbeat: run.last_heartbeat.map(|at| wall(now, at).rfc3339()),
            strategy_id: run.order.strategy_id.clone(),
            notes,
        }
    }

    /// Lines of the journal from one number on.
    pub(super) fn fills(&self, from: u64, limit: usize) -> Vec<Fill> {
        let lines = self.account.journal().iter().zip(0_u64..);
        let lines = lines.skip(usize::try_from(from).unwrap_or(usize::MAX)).take(limit);
        let era = |seq| self.eras.iter().rfind(|(from, ..)| *from <= seq);
        let fill = |(line, seq): (&Entry, u64)| Fill {
            agent_id: self.run.order.agent,
            execution_id: era(seq).map_or(self.run.exec, |(_, exec, _)| *exec),
            seq,
            feed: era(seq).map_or(&self.run.following.feed, |(.., feed)| feed).clone(),
            bar: line.bar,
            day: line.day.clone(),
            kind: line.kind,
            symbol: line.symbol.clone(),
            shares: line.shares,
            price_microusd: line.price,
            cost_microusd: line.cost,
        };
        lines.map(fill).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What hour it was at a moment of this node.
fn wall(now: Now, at: Moment) -> WallTime {
    WallTime(now.wall.0.saturating_sub(millis(now.moment.since(at))))
}
