//! Questions that change nothing.

use super::*;

/// The stock of one template, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockView {
    /// The template.
    pub template: String,
    /// Its digest, once it is prepared.
    pub digest: Option<String>,
    /// Kept ready beyond those leased.
    pub target: usize,
    /// Ready.
    pub ready: usize,
    /// Being made.
    pub booting: usize,
    /// In use, or on the way to a caller.
    pub leased: usize,
    /// Being destroyed.
    pub ending: usize,
    /// Callers waiting.
    pub waiting: usize,
    /// What happened so far.
    pub counts: Counts,
    /// Why it cannot be had, if it cannot.
    pub broken: Option<String>,
}

impl Pool {
    /// Sandboxes ready, leased or on the way to a caller.
    pub fn alive(&self) -> usize {
        let warm: usize = self.stocks.values().map(|stock| stock.warm.len()).sum();
        warm + self.adopting.len() + self.leased.len()
    }

    /// Sandboxes that exist, may exist, or are on their way. Never more than the limit, unless
    /// more survived a restart.
    pub fn total(&self) -> usize {
        self.alive() + self.booting.len() + self.ending.len()
    }

    /// Sandboxes being made.
    pub fn booting(&self) -> usize {
        self.booting.len()
    }

    /// Sandboxes being destroyed.
    pub fn ending(&self) -> usize {
        self.ending.len()
    }

    /// Callers waiting for a sandbox.
    pub fn waiting(&self) -> usize {
        self.stocks.values().map(|stock| stock.waiting.len()).sum()
    }

    /// Leases that time alone ended.
    pub fn swept(&self) -> Swept {
        self.swept
    }

    /// Most sandboxes at once.
    pub fn total_max(&self) -> usize {
        self.limits.total_max
    }

    /// Every template's stock.
    pub fn stocks(&self) -> Vec<StockView> {
        let mut leased: BTreeMap<&str, usize> = BTreeMap::new();
        let held = self.leased.values().map(|lease| &lease.order);
        for order in held.chain(self.adopting.values().map(|adopting| &adopting.caller.order)) {
            *leased.entry(&order.template).or_default() += 1;
        }
        let mut ending: BTreeMap<&str, usize> = BTreeMap::new();
        for one in self.ending.values() {
            *ending.entry(&one.template).or_default() += 1;
        }
        let views = self.stocks.iter().map(|(template, stock)| StockView {
            template: template.clone(),
            digest: match &stock.state {
                State::Usable(info) => Some(info.digest.clone()),
                _ => None,
            },
            target: stock.target,
            ready: stock.warm.len(),
            booting: stock.booting,
            leased: leased.get(template.as_str()).copied().unwrap_or_default(),
            ending: ending.get(template.as_str()).copied().unwrap_or_default(),
            waiting: stock.waiting.len(),
            counts: stock.counts,
            broken: match &stock.state {
                State::Broken { refusal, .. } => Some(refusal.to_string()),
                _ => None,
            },
        });
        views.collect()
    }

    /// Everything the pool answers for.
    pub fn owned(&self) -> Vec<Owned> {
        let warm = self.stocks.values().flat_map(|stock| &stock.warm);
        let ready = warm.map(|(_, sandbox)| (*sandbox, OwnedStage::Ready));
        let coming = self.booting.keys().chain(self.adopting.keys());
        let coming = coming.map(|sandbox| (*sandbox, OwnedStage::Coming));
        let going = self.ending.keys().map(|sandbox| (*sandbox, OwnedStage::Going));
        let leased = self.leased.iter();
        let leased =
            leased.map(|(sandbox, lease)| (*sandbox, OwnedStage::Leased { due: lease.due() }));
        let all = ready.chain(coming).chain(going).chain(leased);
        all.map(|(sandbox, stage)| Owned { sandbox, stage }).collect()
    }

    /// Everything that is leased, by id.
    pub fn held(&self) -> Vec<Held> {
        let held = self.leased.iter().map(|(sandbox, lease)| Held {
            sandbox: *sandbox,
            granted: lease.granted,
            last_activity: lease.last_activity,
            executions: lease.executions,
            running: lease.running.len(),
            limits: lease.limits,
            order: Arc::clone(&lease.order),
        });
        held.collect()
    }

    /// What a tenant has, and had within the last hour, by id.
    pub fn facts(&self, now: Moment, tenant: &Tenant) -> Vec<Facts> {
        let theirs = |lease: &&Lease| lease.order.tenant == *tenant;
        let leased = self.leased.iter().map(|(id, lease)| (*id, lease, None));
        let ending = self.ending.iter().filter_map(|(id, ending)| {
            Some((*id, ending.lease.as_ref()?, Some((ending.cause, ending.since))))
        });
        let ended = self.ended.iter().filter_map(|(id, past)| {
            let fresh = now < past.at + self.limits.ended_kept;
            fresh.then_some((*id, past.lease.as_ref()?, Some((past.cause, past.at))))
        });
        let all = leased.chain(ending).chain(ended).filter(|(_, lease, _)| theirs(lease));
        let mut facts: Vec<_> = all.map(|(id, lease, end)| Facts::of(id, lease, end)).collect();
        facts.sort_by_key(|fact| fact.sandbox);
        facts
    }

    /// What a tenant may know of one sandbox.
    ///
    /// # Errors
    /// [`Refusal::NoSuchSandbox`], also for what is another tenant's, and [`Refusal::Gone`] if
    /// only its end is known.
    pub fn fact(&self, now: Moment, tenant: &Tenant, sandbox: SandboxId) -> Result<Facts, Refusal> {
        let (lease, end) = if let Some(lease) = self.leased.get(&sandbox) {
            (Some(lease), None)
        } else if let Some(ending) = self.ending.get(&sandbox) {
            (ending.lease.as_ref(), Some((ending.cause, ending.since)))
        } else if let Some(past) = self.past(now, sandbox) {
            (past.lease.as_ref(), Some((past.cause, past.at)))
        } else {
            (None, None)
        };
        match lease.filter(|lease| lease.order.tenant == *tenant) {
            Some(lease) => Ok(Facts::of(sandbox, lease, end)),
            None => Err(self.not_held(now, tenant, sandbox)),
        }
    }

    pub(super) fn past(&self, now: Moment, sandbox: SandboxId) -> Option<&Past> {
        self.ended.get(&sandbox).filter(|past| now < past.at + self.limits.ended_kept)
    }

    /// The answer to whoever wants to use a sandbox that is not theirs, or not any more.
    pub(super) fn not_held(&self, now: Moment, tenant: &Tenant, sandbox: SandboxId) -> Refusal {
        let ending = self.ending.get(&sandbox).map(|one| (one.cause, one.since, &one.lease));
        let ended = self.past(now, sandbox).map(|one| (one.cause, one.at, &one.lease));
        match ending.or(ended) {
            // Its holder was forgotten, but nobody else can know its id.
            Some((cause @ Cause::Survived, at, None)) => {
                Refusal::Gone { sandbox, why: cause.as_str(), ago: now.since(at) }
            }
            Some((cause, at, Some(lease))) if lease.order.tenant == *tenant => {
                Refusal::Gone { sandbox, why: cause.as_str(), ago: now.since(at) }
            }
            _ => Refusal::NoSuchSandbox { sandbox },
        }
    }

    pub(super) fn no_such_template(&self, template: &str) -> Refusal {
        let template = template.chars().take(64).collect();
        Refusal::NoSuchTemplate { template, known: self.stocks.keys().cloned().collect() }
    }
}

impl Past {
    pub(super) fn told(&self, sandbox: SandboxId) -> Ended {
        let Self { cause, at, lease } = self;
        let held = lease.as_ref().map(|lease| at.since(lease.granted)).unwrap_or_default();
        Ended { sandbox, cause: *cause, at: *at, held, verified: true }
    }
}
