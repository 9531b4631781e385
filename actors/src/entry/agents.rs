//! Requests about agents and market data become questions to their actors.

use std::time::Duration;

use sandpit_messages::agent::{AgentRun, Fills, GetFills, HaltAgent, RunAgent};
use sandpit_messages::id::{AgentId, SandboxId};
use sandpit_messages::market::{Bars, GetBars, ReplayStarted, StartReplay};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::sandbox::GetStatus;

use super::{Call, Entry, checks, keyed};
use crate::agent::{Await, Halt, Launch, Look, Order, ReadFills};
use crate::pool::GetFacts;

/// Seconds to wait for the end of an agent unless a caller says, and at most.
const WAIT: (u32, u32) = (30, 300);
/// Fills of one answer, unless fewer are asked for, and at most.
const PAGE: u32 = 1_000;

impl Entry {
    pub(super) async fn agent(&self, call: &Call, ask: RunAgent) -> Result<AgentRun, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let running = async {
            let (default, max) = WAIT;
            let wait = ask.wait.unwrap_or(default);
            checks::within("wait", wait, 0..=max)?;
            let (clock, tenant) = (self.ports.clock, call.tenant.clone());
            let agent = self.unused(call, ask.agent_id).await?;
            let sandbox = ask.sandbox_id;
            let order = Order::check(agent, tenant.clone(), ask)?;
            self.held(call, sandbox).await?;
            let agents = &self.ports.agents;
            let exec = agents.ask_settled(Launch { order }).await??.exec;
            let until = clock.now() + Duration::from_secs(wait.into());
            let until = until.min(call.until);
            agents.ask_settled(Await { tenant, exec, until }).await?
        };
        self.keyed.once_here::<RunAgent>(asked, running).await
    }

    /// The id a caller chose, if no agent has it, or a fresh one.
    async fn unused(&self, call: &Call, wanted: Option<AgentId>) -> Result<AgentId, Refusal> {
        let Some(agent) = wanted else { return Ok(AgentId::minted(rand::random())) };
        let question = Look { tenant: call.tenant.clone(), agent };
        match self.ports.agents.ask_settled(question).await? {
            Err(_) => Ok(agent),
            Ok(_) => {
                let (came, expected) = (agent.to_string(), "an id that no agent has".to_owned());
                Err(Refusal::Invalid { field: "agent_id", came, expected })
            }
        }
    }

    /// Whether a sandbox is the caller's, and alive.
    async fn held(&self, call: &Call, sandbox: SandboxId) -> Result<(), Refusal> {
        let question = GetFacts { tenant: call.tenant.clone(), sandbox };
        let fact = self.ports.pool.ask_settled(question).await??;
        let Some((cause, at)) = fact.ended else { return Ok(()) };
        let ago = self.ports.clock.now().since(at);
        Err(Refusal::Gone { sandbox, why: cause.as_str(), ago })
    }

    pub(super) async fn halt(&self, call: &Call, ask: HaltAgent) -> Result<AgentRun, Refusal> {
        let (tenant, agent) = (call.tenant.clone(), ask.agent_id);
        let agents = &self.ports.agents;
        let halted = agents.ask_settled(Halt { tenant: tenant.clone(), agent }).await??;
        let (exec, until) = (halted.exec, self.ports.clock.now());
        agents.ask_settled(Await { tenant, exec, until }).await?
    }

    pub(super) async fn fills(&self, call: &Call, ask: GetFills) -> Result<Fills, Refusal> {
        let limit = ask.limit.unwrap_or(PAGE);
        checks::within("limit", limit, 1..=PAGE)?;
        let (tenant, agent, from) = (call.tenant.clone(), ask.agent_id, ask.from);
        let limit = limit as usize;
        self.ports.agents.ask_settled(ReadFills { tenant, agent, from, limit }).await?
    }

    pub(super) async fn replay(&self, ask: StartReplay) -> Result<ReplayStarted, Refusal> {
        self.ports.market.ask_settled(ask).await?
    }

    pub(super) async fn bars(&self, ask: GetBars) -> Result<Bars, Refusal> {
        self.ports.market.ask_settled(ask).await?
    }

    /// The sandbox a status is asked about, and the run if one was named.
    pub(super) async fn asked_about(
        &self,
        call: &Call,
        ask: &GetStatus,
    ) -> Result<(SandboxId, Option<AgentRun>), Refusal> {
        let exec = match (ask.sandbox_id, ask.execution_id) {
            (Some(sandbox), None) => return Ok((sandbox, None)),
            (_, Some(exec)) => exec,
            (None, None) => {
                let (came, expected) = ("missing".to_owned(), "it, or an execution_id".to_owned());
                return Err(Refusal::Invalid { field: "sandbox_id", came, expected });
            }
        };
        let (tenant, until) = (call.tenant.clone(), self.ports.clock.now());
        let run = self.ports.agents.ask_settled(Await { tenant, exec, until }).await??;
        match ask.sandbox_id {
            Some(sandbox) if sandbox != run.sandbox_id => {
                let (came, expected) =
                    (sandbox.to_string(), format!("{}, where {exec} runs", run.sandbox_id));
                Err(Refusal::Invalid { field: "sandbox_id", came, expected })
            }
            _ => Ok((run.sandbox_id, Some(run))),
        }
    }
}
