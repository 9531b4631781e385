//! Making a member, and letting it go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::provider::Work;

use super::Plan;
use super::agents::{Agents, Launch};
use crate::clock::Clock;
use crate::exec::policy::{Order as ExecOrder, Place};
use crate::exec::{ExecActor, Run};
use crate::pool::policy::{AtExpiry, Granted, Order as PoolOrder};
use crate::pool::{Acquire, PoolActor, Retire, Terminate};
use crate::supervise::ActorRef;

/// Longest one line of a setup may take: installing and compiling is done in a template.
const SETUP_MAX: Duration = Duration::from_secs(120);

/// Bytes of each stream of a setup that are kept: its end goes into the refusal.
const SETUP_OUTPUT_MAX: u32 = 4 * 1024;

/// Characters of a failed line, and of its standard error, in the refusal.
const SHOWN_MAX: usize = 512;

/// How often the end of a sandbox is asked for. Each time waits as long as the pool does, and
/// after them the reaper goes on alone.
const ENDS_MAX: usize = 6;

/// How long each of those waits, and the pause before it.
const END_MAX: Duration = Duration::from_secs(10);
const END_PAUSE: Duration = Duration::from_secs(1);

/// Longest it is waited for an agent to leave the place it had before.
const HALT_MAX: Duration = Duration::from_secs(5);

/// What an answer needs beside the work itself.
const HOP: Duration = Duration::from_secs(5);

/// What making members needs of the node.
#[derive(Clone, Debug)]
pub(crate) struct Placing {
    pub(crate) clock: Clock,
    pub(crate) pool: ActorRef<PoolActor>,
    pub(crate) exec: ActorRef<ExecActor>,
    pub(crate) agents: Option<Arc<dyn Agents>>,
}

/// Leases the sandbox of a member.
pub(crate) async fn place(
    ports: &Placing,
    plan: &Plan,
    name: String,
    metadata: BTreeMap<String, String>,
    until: Moment,
) -> Result<Granted, Refusal> {
    let order = Arc::new(PoolOrder {
        tenant: plan.tenant.clone(),
        template: plan.template.clone(),
        name: Some(name),
        memory_mb: plan.memory_mb,
        cpu_count: plan.cpu_count,
        lifetime: plan.lifetime,
        // Whoever keeps it says when it is not needed.
        idle_timeout: plan.lifetime,
        env: plan.env.clone(),
        metadata,
        at_expiry: AtExpiry::End,
    });
    ports.pool.ask_settled(Acquire { order, until }).await?
}

/// Writes its files, runs its setup and starts its agent.
pub(crate) async fn furnish(
    ports: &Placing,
    plan: &Plan,
    sandbox: SandboxId,
    agent: Option<AgentId>,
) -> Result<(), Refusal> {
    let files = plan.files.iter();
    let mut files: BTreeMap<_, _> =
        files.map(|(name, text)| (name.clone(), Bytes::from(text.clone()))).collect();
    // Files alone come with a line that does nothing.
    let alone = (plan.setup.is_empty() && !files.is_empty()).then(|| ":".to_owned());
    for line in plan.setup.iter().chain(&alone) {
        let order = Arc::new(ExecOrder {
            tenant: plan.tenant.clone(),
            place: Place::Held(sandbox),
            work: Work::Line(line.clone()),
            files: std::mem::take(&mut files),
            id: None,
            env: BTreeMap::new(),
            cwd: None,
            stdin: Bytes::new(),
            time_max: SETUP_MAX,
            cache: None,
            output_max: SETUP_OUTPUT_MAX,
            stream: false,
        });
        let until = ports.clock.now() + SETUP_MAX + HOP;
        let ran = ports.exec.ask_settled(Run { order, until }).await??;
        if ran.exit_code != 0 {
            return Err(Refusal::SetupFailed {
                command: line.chars().take(SHOWN_MAX).collect(),
                exit_code: ran.exit_code,
                stderr: tail(&ran.stderr).to_owned(),
            });
        }
    }
    let Some((agent, of)) = agent.zip(plan.agent.clone()) else { return Ok(()) };
    let Some(agents) = &ports.agents else {
        return Err(Refusal::Unsupported { what: "running agents".to_owned() });
    };
    let tenant = plan.tenant.clone();
    // It may be at work where it was before, and not know yet that its sandbox is gone.
    agents.halt(tenant.clone(), agent, ports.clock.now() + HALT_MAX).await;
    agents.launch(Launch { agent, sandbox, tenant, plan: Arc::new(of) }).await
}

/// Ends its agent, waits for what else runs in its sandbox until `drained`, and destroys it. True
/// once it is verified to be gone.
pub(crate) async fn retire(
    ports: &Placing,
    tenant: Tenant,
    sandbox: SandboxId,
    agent: Option<AgentId>,
    drained: Moment,
) -> bool {
    if let Some((agents, agent)) = ports.agents.as_ref().zip(agent) {
        agents.halt(tenant.clone(), agent, drained).await;
    }
    let question = Retire { tenant: tenant.clone(), sandbox, drained };
    let first = ports.pool.ask_settled(question).await;
    let mut ended = first.map_err(Refusal::from).flatten();
    for _ in 1..ENDS_MAX {
        match ended {
            Ok(ended) if ended.verified => return true,
            // A pool that started over destroys what it does not know any more.
            Err(Refusal::Gone { .. } | Refusal::NoSuchSandbox { .. }) => return true,
            Ok(_) | Err(_) => (),
        }
        tokio::time::sleep(END_PAUSE).await;
        let until = ports.clock.now() + END_MAX;
        let question = Terminate { tenant: tenant.clone(), sandbox, until };
        let again = ports.pool.ask_settled(question).await;
        ended = again.map_err(Refusal::from).flatten();
    }
    false
}

/// The end of a text.
fn tail(text: &str) -> &str {
    let text = text.trim_end();
    &text[text.ceil_char_boundary(text.len().saturating_sub(SHOWN_MAX))..]
}
