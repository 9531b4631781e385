//! The way in for faces that run inside the node: the questions of the bus, asked without it.
//! Whoever asks has checked what it asks; whose it is, is said with every question.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandpit_messages::envelope::{IdempotencyKey, Tenant};
use sandpit_messages::id::{NodeId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::sandbox::{Create, Created};
use sandpit_messages::time::Moment;
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::Limits;

use super::Entry;
use super::keyed::Idempotent;
use crate::bus::idempotency::Fingerprint;
use crate::clock::Clock;
use crate::pool::policy::{Ask, AtExpiry, Facts, Order, Turn};
use crate::pool::{Acquire, AskLease, Describe, GetFacts, ListFacts, Terminate};

/// Longest wait for a sandbox of a template that is ready to be used. A client that is told to
/// come back in a second has its place no later than one that waits longer.
const ROOM_WAIT: Duration = Duration::from_secs(2);

/// Longest wait for a template that is being prepared: half of what SDKs wait for an answer.
const TEMPLATE_WAIT: Duration = Duration::from_secs(30);

/// Longest wait for a sandbox to stop or go on, and for another request with the same key.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// Asks the actors of a node.
#[derive(Clone)]
pub struct Direct {
    entry: Entry,
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Direct({:?})", self.entry)
    }
}

/// A sandbox that is wanted. Valid already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its template, as the provider knows it.
    pub template: String,
    /// From the grant to its end.
    pub lifetime: Duration,
    /// Environment of what runs in it.
    pub env: BTreeMap<String, String>,
    /// What its holder wants to find again.
    pub metadata: BTreeMap<String, String>,
    /// Whether it is paused at its end instead.
    pub pause_at_end: bool,
}

/// Makes repeats of a create the same create.
#[derive(Clone, Debug)]
pub struct Key {
    /// As the bus knows keys.
    pub key: IdempotencyKey,
    /// What stands for the arguments: another one under the same key is refused.
    pub request: Fingerprint,
}

/// A sandbox in its holder's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub sandbox: SandboxId,
    /// Its template, as people call it.
    pub template: String,
    /// What it may use.
    pub limits: Limits,
    /// Since when it has its holder.
    pub granted: Moment,
    /// When its time is over; of a paused one, when nobody keeps it any longer.
    pub expires: Moment,
    /// Whether it stands still.
    pub paused: bool,
    /// What its holder wrote there.
    pub metadata: BTreeMap<String, String>,
    /// Environment of what runs in it.
    pub env: BTreeMap<String, String>,
    /// The lifetime it was asked for with.
    pub lifetime: Duration,
    /// Whether it is paused at its end instead.
    pub pause_at_end: bool,
}

impl Direct {
    pub(super) fn new(entry: Entry) -> Self {
        Self { entry }
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.entry.ports.node
    }

    /// Its clock.
    pub fn clock(&self) -> Clock {
        self.entry.ports.clock
    }

    /// Where code runs.
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.entry.ports.provider
    }

    /// Whether the node is leaving.
    pub fn is_draining(&self) -> bool {
        self.entry.draining.load(Ordering::Acquire)
    }

    /// A sandbox for a tenant. Of all creates with one key one is done.
    ///
    /// # Errors
    /// A [`Refusal`]; [`Refusal::KeyReused`] for a key that stands for something else. Nothing was
    /// made then.
    pub async fn create(
        &self,
        tenant: &Tenant,
        wanted: Wanted,
        key: Option<Key>,
    ) -> Result<Created, Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        let asked = self.clock().now();
        let making = async {
            let order = Arc::new(Order {
                tenant: tenant.clone(),
                template: wanted.template,
                name: None,
                memory_mb: None,
                cpu_count: None,
                lifetime: wanted.lifetime,
                // Its lifetime alone ends it: this one never comes first.
                idle_timeout: wanted.lifetime.max(Duration::from_secs(86_400)),
                env: wanted.env,
                metadata: wanted.metadata,
                at_expiry: if wanted.pause_at_end { AtExpiry::Pause } else { AtExpiry::End },
            });
            self.acquire(order, asked).await
        };
        let Some(Key { key, request }) = key else { return making.await };
        let (asked, until) =
            (Idempotent { key: (tenant.clone(), key), request }, asked + TURN_WAIT);
        let undo = |created: Created| self.entry.take_back(created);
        let keyed = &self.entry.keyed;
        keyed.once_claimed_meanwhile::<Create>(asked, until, making, undo).await
    }

    async fn acquire(&self, order: Arc<Order>, asked: Moment) -> Result<Created, Refusal> {
        let (pool, clock) = (&self.entry.ports.pool, self.clock());
        let acquire = |until| Acquire { order: Arc::clone(&order), until };
        let mut granted = pool.ask_settled(acquire(asked + ROOM_WAIT)).await?;
        if let Err(Refusal::WaitedTooLong { .. }) = granted {
            // Perhaps its template is not prepared yet: that may be waited for longer.
            let (template, until) = (order.template.clone(), asked + TEMPLATE_WAIT);
            pool.ask_settled(Describe { template, until }).await??;
            granted = pool.ask_settled(acquire(clock.now() + ROOM_WAIT)).await?;
        }
        Ok(self.entry.told(granted?, asked))
    }

    /// Leave to reach a sandbox: it is the tenant's and runs.
    ///
    /// # Errors
    /// A [`Refusal`]; [`Refusal::Paused`] if it stands still.
    pub async fn enter(&self, tenant: &Tenant, sandbox: SandboxId) -> Result<Held, Refusal> {
        self.ask(tenant, sandbox, Ask::Enter).await
    }

    /// Ends it at another moment.
    ///
    /// # Errors
    /// A [`Refusal`]; [`Refusal::Paused`] if it stands still.
    pub async fn end_at(
        &self,
        tenant: &Tenant,
        sandbox: SandboxId,
        at: Moment,
    ) -> Result<Held, Refusal> {
        self.ask(tenant, sandbox, Ask::SetExpiry { at, only_later: false }).await
    }

    /// Ends it later, if that is later.
    ///
    /// # Errors
    /// A [`Refusal`]; [`Refusal::Paused`] if it stands still.
    pub async fn extend(
        &self,
        tenant: &Tenant,
        sandbox: SandboxId,
        at: Moment,
    ) -> Result<Held, Refusal> {
        self.ask(tenant, sandbox, Ask::SetExpiry { at, only_later: true }).await
    }

    /// Has it stand still.
    ///
    /// # Errors
    /// A [`Refusal`]; [`Refusal::Conflict`] if it does already.
    pub async fn pause(&self, tenant: &Tenant, sandbox: SandboxId) -> Result<Held, Refusal> {
        self.ask(tenant, sandbox, Ask::Turn(Turn::Pause)).await
    }

    /// Has it go on for so long. One that runs goes on for at least as long.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn resume(
        &self,
        tenant: &Tenant,
        sandbox: SandboxId,
        lifetime: Duration,
    ) -> Result<Held, Refusal> {
        self.ask(tenant, sandbox, Ask::Turn(Turn::Resume { lifetime })).await
    }

    async fn ask(&self, tenant: &Tenant, sandbox: SandboxId, ask: Ask) -> Result<Held, Refusal> {
        let (tenant, until) = (tenant.clone(), self.clock().now() + TURN_WAIT);
        let question = AskLease { tenant, sandbox, ask, until };
        let facts = self.entry.ports.pool.ask_settled(question).await??;
        Ok(self.held(facts))
    }

    /// What is known of one that has not ended.
    ///
    /// # Errors
    /// A [`Refusal`]; [`Refusal::Gone`] of one that has.
    pub async fn look(&self, tenant: &Tenant, sandbox: SandboxId) -> Result<Held, Refusal> {
        let question = GetFacts { tenant: tenant.clone(), sandbox };
        let facts = self.entry.ports.pool.ask_settled(question).await??;
        match facts.ended {
            Some((cause, at)) => {
                let ago = self.clock().now().since(at);
                Err(Refusal::Gone { sandbox, why: cause.as_str(), ago })
            }
            None => Ok(self.held(facts)),
        }
    }

    /// All that a tenant has.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn list(&self, tenant: &Tenant) -> Result<Vec<Held>, Refusal> {
        let facts = self.entry.ports.pool.ask_settled(ListFacts(tenant.clone())).await?;
        let alive = facts.into_iter().filter(|facts| facts.ended.is_none());
        Ok(alive.map(|facts| self.held(facts)).collect())
    }

    /// Ends it. Nothing reaches it from the answer on; what it held is given back meanwhile.
    ///
    /// # Errors
    /// A [`Refusal`]; [`Refusal::Gone`] of one that ended before.
    pub async fn end(&self, tenant: &Tenant, sandbox: SandboxId) -> Result<(), Refusal> {
        self.look(tenant, sandbox).await?;
        let (tenant, until) = (tenant.clone(), self.clock().now());
        let question = Terminate { tenant, sandbox, until };
        self.entry.ports.pool.ask_settled(question).await?.map(drop)
    }

    fn held(&self, facts: Facts) -> Held {
        Held {
            sandbox: facts.sandbox,
            template: self.provider().title(&facts.template),
            limits: facts.limits,
            granted: facts.granted,
            expires: facts.expires,
            paused: facts.paused,
            metadata: facts.metadata,
            env: facts.order.env.clone(),
            lifetime: facts.order.lifetime,
            pause_at_end: facts.order.at_expiry == AtExpiry::Pause,
        }
    }
}
