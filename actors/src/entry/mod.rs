//! Where requests of the bus become questions to actors, and their answers become replies.

mod agents;
mod checks;
mod deployments;
mod dialect;
mod direct;
mod health;
mod keyed;
mod read;
mod service;
mod swarms;
mod templates;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

pub use direct::{Direct, Held, Key, Wanted};
use futures_util::future::BoxFuture;
use keyed::Keyed;
pub use keyed::bucket;
use sandpit_messages::agent::{GetFills, HaltAgent, RunAgent};
use sandpit_messages::codec::{BODY_MAX, Codec};
use sandpit_messages::deployment::{Deploy, GetDeployments, Scale, Undeploy};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::exec::{Cancel, Cancelled, Exec, Executed};
use sandpit_messages::health::GetHealth;
use sandpit_messages::id::{NodeId, SandboxId};
use sandpit_messages::market::{GetBars, StartReplay};
use sandpit_messages::pool::{CacheStock, EndpointStock, GetPool, PoolStatus, Reaped, Stock};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::sandbox::{
    Create, Created, Ended, GetStatus, List, Listed, Listing, ResourceUsage, Resources,
    SandboxStatus, Status, StatusFilter, Terminate, Terminated, Termination,
};
use sandpit_messages::subject::{self, Request};
use sandpit_messages::template::{Export, TemplateGet, TemplateImport, TemplateList};
use sandpit_messages::time::{Moment, Now, WallTime};
use sandpit_messages::tool::Tool;
use sandpit_sandbox::Provider;
use sandpit_sandbox::guard::decision::EndpointState;
use sandpit_sandbox::provider;
use schemars::JsonSchema;
pub use service::service;

use crate::agent::AgentActor;
use crate::bus::quarantine::Quarantine;
use crate::bus::{Arrived, Handler, Kv, Reply, codec_of, idempotency, ingress};
use crate::clock::Clock;
use crate::crew::agents::Agents;
use crate::exec::{self, ExecActor, GetCache, Run};
use crate::health::HealthActor;
use crate::market::MarketActor;
use crate::pool::policy::{Cause, Facts, Granted, StockView};
use crate::pool::{self, Acquire, GetFacts, GetStocks, ListFacts, PoolActor, Release};
use crate::reaper::{GetReaped, ReaperActor};
use crate::scaler::ScalerActor;
use crate::supervise::ActorRef;
use crate::swarm::SwarmActor;

/// What an answer needs to find its way back before its caller stops listening.
const HOP: Duration = Duration::from_millis(5);

/// Longest a status waits for what a sandbox uses now.
const SAMPLE_MAX: Duration = Duration::from_secs(1);

/// What the entry needs of its node.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Reads the time.
    pub clock: Clock,
    /// This node.
    pub node: NodeId,
    /// When it started, in Unix milliseconds.
    pub run: u64,
    /// For what a sandbox uses now.
    pub provider: Arc<dyn Provider>,
    /// Where keys of requests are claimed that make something new; without it, they are
    /// remembered by this process alone.
    pub keys: Option<Arc<dyn Kv>>,
    /// Who has the sandboxes.
    pub pool: ActorRef<PoolActor>,
    /// Who runs code in them.
    pub exec: ActorRef<ExecActor>,
    /// Who ends what should have ended.
    pub reaper: ActorRef<ReaperActor>,
    /// Who keeps deployments at their size.
    pub scaler: ActorRef<ScalerActor>,
    /// Who keeps swarms.
    pub swarm: ActorRef<SwarmActor>,
    /// Runs the agents of swarms.
    pub desk: Arc<dyn Agents>,
    /// Who watches sandboxes and executions.
    pub health: ActorRef<HealthActor>,
    /// Who runs agents in sandboxes.
    pub agents: ActorRef<AgentActor>,
    /// Who replays prices.
    pub market: ActorRef<MarketActor>,
}

/// Verbs about swarms begin so.
const SWARM: &str = "swarm-";

/// Answers the requests of the bus.
#[derive(Clone)]
pub struct Entry {
    ports: Ports,
    quarantine: Arc<Mutex<Quarantine>>,
    keyed: Keyed,
    draining: Arc<AtomicBool>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.ports.node)
    }
}

impl Handler for Entry {
    fn handle(&self, request: Arrived) -> BoxFuture<'static, Reply> {
        let entry = self.clone();
        Box::pin(entry.answer(request))
    }
}

impl Entry {
    /// An entry in front of these actors.
    pub fn new(ports: Ports, limits: idempotency::Limits) -> Self {
        let keyed = Keyed::new(&ports, limits);
        Self { ports, quarantine: Arc::default(), keyed, draining: Arc::default() }
    }

    /// The way in for a face that runs inside this node.
    pub fn direct(&self) -> Direct {
        Direct::new(self.clone())
    }

    /// From here on nothing new is begun; what is asked about what exists is still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    async fn answer(self, request: Arrived) -> Reply {
        let codec = codec_of(&request.message);
        let (verb, tool, sandbox) = match ingress::asked(&request.message) {
            Ok(asked) => match Tool::named(asked.verb) {
                Some(tool) => (tool.verb.to_owned(), Some(tool), asked.sandbox),
                None => (asked.verb.to_owned(), None, asked.sandbox),
            },
            Err(refusal) => return Reply::refused(codec, &refusal),
        };
        // On a node without accounts everything belongs to one tenant.
        let (tenant, until) = (Tenant::local(), self.until(&request));
        let call = Call { request, codec, sandbox, tool, tenant, until, key: OnceLock::new() };
        // Each word is the verb of its message type; `service` offers the same.
        match verb.as_str() {
            "create" | "exec" | "agent" | "replay" | "export" | "deploy" | "scale"
                if self.draining.load(Ordering::Acquire) =>
            {
                Reply::refused(codec, &Refusal::Draining)
            }
            "create" => self.respond(&call, |ask: Create| self.create(&call, ask)).await,
            "exec" => self.respond(&call, |ask: Exec| self.exec(&call, ask)).await,
            "list" => self.respond(&call, |ask: List| self.list(&call, ask)).await,
            "status" => self.respond(&call, |ask: GetStatus| self.status(&call, ask)).await,
            "terminate" => self.respond(&call, |ask: Terminate| self.terminate(&call, ask)).await,
            "cancel" => self.respond(&call, |ask: Cancel| self.cancel(&call, ask)).await,
            "agent" => self.respond(&call, |ask: RunAgent| self.agent(&call, ask)).await,
            "halt" => self.respond(&call, |ask: HaltAgent| self.halt(&call, ask)).await,
            "fills" => self.respond(&call, |ask: GetFills| self.fills(&call, ask)).await,
            "replay" => self.respond(&call, |ask: StartReplay| self.replay(ask)).await,
            "bars" => self.respond(&call, |ask: GetBars| self.bars(ask)).await,
            "export" => self.respond(&call, |ask: Export| self.export(&call, ask)).await,
            "template-list" => {
                self.respond(&call, |ask: TemplateList| self.template_list(ask)).await
            }
            "template-get" => self.respond(&call, |ask: TemplateGet| self.template_get(ask)).await,
            "template-import" => {
                self.respond(&call, |ask: TemplateImport| self.template_import(ask)).await
            }
            "deploy" => self.respond(&call, |ask: Deploy| self.deploy(&call, ask)).await,
            "scale" => self.respond(&call, |ask: Scale| self.scale(&call, ask)).await,
            "undeploy" => self.respond(&call, |ask: Undeploy| self.undeploy(&call, ask)).await,
            "deployments" => {
                self.respond(&call, |ask: GetDeployments| self.deployments(&call, ask)).await
            }
            "health" => self.respond(&call, |ask: GetHealth| self.health(&call, ask)).await,
            swarm if swarm.starts_with(SWARM) => self.swarm(&call, swarm).await,
            "pool" => self.respond(&call, |_: GetPool| self.pool()).await,
            unknown => {
                let verb = unknown.chars().take(64).collect();
                Reply::refused(codec, &Refusal::UnknownVerb { verb })
            }
        }
    }

    /// Until when an actor may take: a little less than the caller listens.
    fn until(&self, request: &Arrived) -> Moment {
        let now = self.ports.clock.now();
        let left = request.until.since(now);
        now + left.saturating_sub(HOP.min(left / 4))
    }

    /// Reads a request, has it answered by `work`, and writes the answer.
    async fn respond<R, F>(&self, call: &Call, work: impl FnOnce(R) -> F) -> Reply
    where
        R: Request + JsonSchema,
        F: Future<Output = Result<R::Reply, Refusal>>,
    {
        let (clock, message) = (self.ports.clock, &call.request.message);
        let now = clock.now();
        let asked = if call.request.until <= now {
            Err(Refusal::TooLate { late: now.since(call.request.until) })
        } else {
            self.read::<R>(call).await
        };
        let answer = match asked {
            Ok(ask) => {
                // On its own: whoever passes it on would have room for it more than once.
                let answering = Box::pin(work(ask));
                ingress::guarded::<R>(&self.quarantine, || clock.now(), message, answering).await
            }
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(reply) => Reply::granted(call.codec, &reply),
            Err(refusal) => Reply::refused(call.codec, &refusal),
        }
    }

    async fn create(&self, call: &Call, mut ask: Create) -> Result<Created, Refusal> {
        call.take_key(ask.idempotency_key.take());
        let Some(asked) = keyed::idempotent(call, &ask)? else {
            return self.acquire(call, ask).await;
        };
        let (acquiring, until) = (self.acquire(call, ask), call.until);
        // The key was claimed elsewhere meanwhile: nobody holds this one.
        let undo = |created| self.take_back(created);
        self.keyed.once_claimed_meanwhile::<Create>(asked, until, acquiring, undo).await
    }

    async fn acquire(&self, call: &Call, mut ask: Create) -> Result<Created, Refusal> {
        let Ports { provider, pool, .. } = &self.ports;
        let wait = ask.wait_ms.map(|wait| Duration::from_millis(wait.into()));
        let until = wait.map_or(call.until, |wait| call.until.min(call.request.at + wait));
        checks::place(&ask, provider.descriptor().kind)?;
        if provider.resolve(&ask.template).is_none()
            && let Some(template) = dialect::template(&ask.template)
        {
            template.clone_into(&mut ask.template);
        }
        self.settle_template(&mut ask, until).await?;
        let order = checks::create(ask, call.tenant.clone())?;
        let granted = pool.ask_settled(Acquire { order, until }).await??;
        Ok(self.told(granted, call.request.at))
    }

    /// What a caller learns of what it was given; `asked` is when it asked.
    fn told(&self, granted: Granted, asked: Moment) -> Created {
        let now = self.ports.clock.both();
        let provider = self.ports.provider.descriptor();
        Created {
            sandbox_id: granted.sandbox,
            name: granted.name,
            status: Status::Running,
            template: self.ports.provider.title(&granted.template),
            resources: resources(granted.limits),
            created_at: wall(now, granted.at).rfc3339(),
            expires_at: wall(now, granted.expires).rfc3339(),
            endpoint: format!("nats:{}", subject::owner(granted.sandbox)),
            node: self.ports.node,
            provider: provider.kind.to_owned(),
            from_pool: granted.from_pool,
            acquire_ms: now.moment.since(asked).as_secs_f64() * 1e3,
            isolation: provider.isolation,
            limits_enforced: provider.limits_enforced,
            region: None,
            cost_per_hour_microusd: None,
            notes: Vec::new(),
        }
    }

    /// Takes back what nobody holds after all.
    fn take_back(&self, created: Created) {
        let (sandbox, cause) = (created.sandbox_id, Cause::Abandoned);
        let pool = self.ports.pool.clone();
        tokio::spawn(async move { pool.ask_settled(Release { sandbox, cause }).await });
    }

    async fn exec(&self, call: &Call, mut ask: Exec) -> Result<Executed, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let template = ask.template.as_deref();
        if let Some(known) = template.and_then(|name| self.ports.provider.resolve(name)) {
            ask.template = Some(known);
        }
        let is_fresh = ask.sandbox_id.is_none();
        let captures = ask.capture_output.unwrap_or(true);
        let running = async {
            let order = checks::exec(ask, call.tenant.clone())?;
            let run = Run { order, until: call.until };
            let result = self.ports.exec.ask_settled(run).await??;
            let mut result = Arc::unwrap_or_clone(result);
            if !captures {
                result.stdout.clear();
                result.stderr.clear();
            }
            Ok(fit(call.codec, result))
        };
        match is_fresh {
            true => self.keyed.once_claimed::<Exec>(asked, call.until, running).await,
            false => self.keyed.once_here::<Exec>(asked, running).await,
        }
    }

    async fn list(&self, call: &Call, ask: List) -> Result<Listing, Refusal> {
        let ask = checks::list(ask)?;
        let Ports { clock, node, pool, .. } = &self.ports;
        let mut facts = pool.ask_settled(ListFacts(call.tenant.clone())).await?;
        for fact in &mut facts {
            fact.template = self.ports.provider.title(&fact.template);
        }
        let matches = |fact: &Facts| {
            let status = match ask.status_filter {
                StatusFilter::Running => fact.ended.is_none(),
                StatusFilter::Stopped => fact.ended.is_some(),
                StatusFilter::All => true,
            };
            let template = ask.template.as_ref().is_none_or(|name| *name == fact.template);
            let named = ask.name_prefix.as_ref().is_none_or(|start| fact.name.starts_with(start));
            status && template && named
        };
        let all: Vec<_> = facts.into_iter().filter(matches).collect();
        let total_count = count(all.len());
        let after = |fact: &Facts| ask.cursor.is_none_or(|cursor| cursor < fact.sandbox);
        let mut rest = all.into_iter().filter(after);
        let now = clock.both();
        let page = rest.by_ref().take(ask.limit as usize);
        let sandboxes: Vec<_> = page.map(|fact| listed(now, *node, fact)).collect();
        let last = sandboxes.last().map(|last| last.sandbox_id);
        let next_cursor = rest.next().and(last);
        Ok(Listing { sandboxes, total_count, next_cursor })
    }

    async fn status(&self, call: &Call, ask: GetStatus) -> Result<SandboxStatus, Refusal> {
        let Ports { clock, provider, pool, .. } = &self.ports;
        let (sandbox, execution) = self.asked_about(call, &ask).await?;
        let question = GetFacts { tenant: call.tenant.clone(), sandbox };
        let fact = pool.ask_settled(question).await??;
        let sampling = tokio::time::timeout(SAMPLE_MAX, provider.sample(sandbox));
        let sample = match fact.ended {
            // A sandbox that cannot be looked at is still one: its figures are left out.
            None => sampling.await.ok().and_then(Result::ok),
            Some(_) => None,
        };
        let now = clock.both();
        let end = fact.ended.map_or(now.moment, |(_, at)| at);
        let usage = |sample: &provider::Sample| ResourceUsage {
            cpu_ms: sample.cpu.as_secs_f64() * 1e3,
            memory_mb: sample.memory as f64 / MIB,
            disk_mb: sample.disk as f64 / MIB,
        };
        let provider = provider.descriptor();
        Ok(SandboxStatus {
            sandbox_id: sandbox,
            status: status_of(&fact),
            uptime: end.since(fact.granted).as_secs_f64(),
            resource_usage: sample.as_ref().map(usage),
            usage_source: sample.map(|sample| sample.source.to_owned()),
            processes_running: sample.map_or(0, |sample| sample.processes),
            resources: resources(fact.limits),
            execution_count: fact.executions,
            idle_seconds: end.since(fact.last_activity).as_secs_f64(),
            expires_at: expires(now, &fact),
            ended: fact.ended.map(|(cause, at)| Ended {
                at: wall(now, at).rfc3339(),
                reason: cause.as_str().to_owned(),
            }),
            isolation: provider.isolation,
            limits_enforced: provider.limits_enforced,
            name: fact.name,
            execution,
            template: self.ports.provider.title(&fact.template),
        })
    }

    async fn terminate(&self, call: &Call, ask: Terminate) -> Result<Terminated, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let ending = async {
            let (tenant, sandbox, until) = (call.tenant.clone(), ask.sandbox_id, call.until);
            let question = pool::Terminate { tenant, sandbox, until };
            let ended = self.ports.pool.ask_settled(question).await??;
            let (status, message) = match ended.verified {
                true => (Termination::Terminated, format!("{sandbox} is gone")),
                false => (Termination::Terminating, format!("{sandbox} is being destroyed")),
            };
            Ok(Terminated {
                sandbox_id: sandbox,
                status,
                message,
                terminated_at: wall(self.ports.clock.both(), ended.at).rfc3339(),
                runtime_seconds: ended.held.as_secs_f64(),
            })
        };
        self.keyed.once_here::<Terminate>(asked, ending).await
    }

    async fn cancel(&self, call: &Call, ask: Cancel) -> Result<Cancelled, Refusal> {
        let Cancel { sandbox_id: sandbox, execution_id: exec } = ask;
        let question = exec::Cancel { tenant: call.tenant.clone(), sandbox, exec };
        let was_running = self.ports.exec.ask_settled(question).await?;
        Ok(Cancelled { was_running })
    }

    async fn pool(&self) -> Result<PoolStatus, Refusal> {
        let Ports { node, pool, exec, reaper, .. } = &self.ports;
        let view = pool.ask_settled(GetStocks).await?;
        let cache = exec.ask_settled(GetCache).await?;
        let reaped = reaper.ask_settled(GetReaped).await?;
        Ok(PoolStatus {
            node: *node,
            templates: view.stocks.into_iter().map(stock).collect(),
            total_max: count(view.total_max),
            cache: CacheStock {
                entries: count(cache.entries),
                bytes: cache.bytes,
                hits: cache.counts.hits,
                joined: cache.counts.joined,
                misses: cache.counts.misses,
            },
            reaper: Reaped {
                sweeps: reaped.sweeps,
                expired: view.swept.expired,
                idle: view.swept.idle,
                orphaned: reaped.orphaned,
            },
            endpoints: self.ports.provider.endpoints().into_iter().map(endpoint).collect(),
        })
    }
}

fn endpoint(state: EndpointState) -> EndpointStock {
    let counts = state.counts;
    EndpointStock {
        endpoint: state.name,
        breaker: state.breaker.to_owned(),
        current: state.is_current,
        full: state.is_full,
        locked: state.is_locked,
        sandboxes: count(state.sandboxes),
        doubtful: count(state.doubtful),
        creating: count(state.in_use),
        waiting: count(state.waiting),
        budget_left: state.budget_left,
        calls: counts.calls,
        attempts: counts.attempts,
        failed: counts.failed,
        retries: counts.retries,
        retries_refused: counts.refused,
        hedges: counts.hedges,
        throttled: counts.throttled,
        openings: counts.openings,
    }
}

/// One request on its way through the entry.
struct Call {
    request: Arrived,
    /// Of the answer.
    codec: Codec,
    /// The sandbox its subject names.
    sandbox: Option<SandboxId>,
    /// The tool under whose own name it was asked.
    tool: Option<&'static Tool>,
    tenant: Tenant,
    /// Until when an actor may take.
    until: Moment,
    /// An idempotency key that came among the arguments.
    key: OnceLock<String>,
}

const MIB: f64 = 1_048_576.0;

fn resources(limits: provider::Limits) -> Resources {
    Resources { memory_mb: limits.memory_mb, cpu_count: limits.cpu_count }
}

/// What hour it was, or will be, at a moment of this node.
fn wall(now: Now, at: Moment) -> WallTime {
    let ago = u64::try_from(now.moment.since(at).as_millis()).unwrap_or(u64::MAX);
    WallTime(now.wall.0.saturating_sub(ago)).plus(at.since(now.moment))
}

fn status_of(fact: &Facts) -> Status {
    if fact.ended.is_some() { Status::Stopped } else { Status::Running }
}

fn expires(now: Now, fact: &Facts) -> Option<String> {
    fact.ended.is_none().then(|| wall(now, fact.expires).rfc3339())
}

fn listed(now: Now, node: NodeId, fact: Facts) -> Listed {
    Listed {
        sandbox_id: fact.sandbox,
        status: status_of(&fact),
        created_at: wall(now, fact.granted).rfc3339(),
        expires_at: expires(now, &fact),
        last_activity: Some(wall(now, fact.last_activity).rfc3339()),
        node,
        name: fact.name,
        template: fact.template,
        metadata: fact.metadata,
    }
}

fn stock(view: StockView) -> Stock {
    Stock {
        template: view.template,
        digest: view.digest.unwrap_or_default(),
        target: count(view.target),
        ready: count(view.ready),
        booting: count(view.booting),
        leased: count(view.leased),
        ending: count(view.ending),
        waiting: count(view.waiting),
        hits: view.counts.hits,
        misses: view.counts.misses,
        refused: view.counts.refused,
        boot_failures: view.counts.boot_failures,
        broken: view.broken,
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Bytes of an answer beside what the program wrote.
const ANSWER_REST: usize = 8 * 1024;

/// JSON writes a control character as six.
const ESCAPED_MAX: usize = 6;

/// Cuts what a program wrote until the answer can travel. Nearly always it can.
fn fit(codec: Codec, mut result: Executed) -> Executed {
    let shown = |result: &Executed| {
        let raised = result
            .error
            .as_ref()
            .map_or(0, |raised| raised.name.len() + raised.value.len() + raised.traceback.len());
        let shown = result.result.as_ref().map_or(0, String::len);
        result.stdout.len() + result.stderr.len() + shown + raised
    };
    if shown(&result) * ESCAPED_MAX + ANSWER_REST <= BODY_MAX {
        return result;
    }
    while codec.encode(&result).len() > BODY_MAX && shown(&result) > 0 {
        result.truncated.stdout |= halve(&mut result.stdout);
        result.truncated.stderr |= halve(&mut result.stderr);
        result.result.as_mut().map(halve);
        if let Some(raised) = &mut result.error {
            halve(&mut raised.name);
            halve(&mut raised.value);
            halve(&mut raised.traceback);
        }
    }
    result
}

/// Keeps the first half, up to a whole character. Says whether anything went.
fn halve(text: &mut String) -> bool {
    let before = text.len();
    text.truncate(text.floor_char_boundary(before / 2));
    text.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::cache::tests::result;

    #[test]
    fn an_answer_that_would_not_travel_is_cut_and_says_so() {
        let quiet = result(0, "short");
        assert_eq!(fit(Codec::Json, (*quiet).clone()), *quiet);
        let loud = Executed { stderr: "\u{1}".repeat(262_144), ..(*quiet).clone() };
        let cut = fit(Codec::Json, loud);
        assert!(cut.truncated.stderr && cut.truncated.stdout);
        assert!(Codec::Json.encode(&cut).len() <= BODY_MAX);
    }

    #[test]
    fn a_moment_is_told_as_the_hour_it_was_or_will_be() {
        let second = Duration::from_secs(1);
        let now = Now { moment: Moment::START + 10 * second, wall: WallTime(1_000_000) };
        assert_eq!(wall(now, Moment::START + 9 * second), WallTime(999_000));
        assert_eq!(wall(now, Moment::START + 12 * second), WallTime(1_002_000));
    }
}
