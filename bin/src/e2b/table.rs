//! What only this face knows of sandboxes: small facts, dropped when a sandbox ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::SandboxId;

use super::envd::watchers::Watchers;

/// What was said of a sandbox when it was made, and what watches it.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Whose it is.
    pub(super) tenant: Option<Tenant>,
    /// The name its template was asked for by.
    pub(super) alias: Option<String>,
    /// Whether a call to it resumes it.
    pub(super) auto_resume: bool,
    /// Whether strangers need a token to reach its ports.
    pub(super) is_closed: bool,
    /// Watches that are polled.
    pub(super) watchers: Arc<Watchers>,
}

/// Facts by sandbox. One that was not made here has none.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<BTreeMap<SandboxId, Facts>>);

impl Table {
    fn facts(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Facts>> {
        // Whoever panicked here did so between two whole steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what was said of a sandbox. Once more changes nothing for what watches it.
    pub(super) fn insert(&self, sandbox: SandboxId, facts: Facts) {
        let mut all = self.facts();
        let known = all.entry(sandbox).or_default();
        *known = Facts { watchers: Arc::clone(&known.watchers), ..facts };
    }

    pub(super) fn remove(&self, sandbox: SandboxId) {
        self.facts().remove(&sandbox);
    }

    pub(super) fn of(&self, sandbox: SandboxId) -> Facts {
        self.facts().get(&sandbox).cloned().unwrap_or_default()
    }

    /// Whose a sandbox is. What came another way is everybody's on a node without accounts.
    pub(super) fn tenant(&self, sandbox: SandboxId) -> Tenant {
        let known = self.facts().get(&sandbox).and_then(|facts| facts.tenant.clone());
        known.unwrap_or_else(Tenant::local)
    }

    /// The tenants that made something here.
    pub(super) fn tenants(&self) -> Vec<Tenant> {
        let facts = self.facts();
        let known = facts.values().filter_map(|facts| facts.tenant.clone());
        let mut all: Vec<_> = known.chain([Tenant::local()]).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The watches of a sandbox.
    pub(super) fn watchers(&self, sandbox: SandboxId) -> Arc<Watchers> {
        Arc::clone(&self.facts().entry(sandbox).or_default().watchers)
    }

    /// The sandboxes of which something is known.
    pub(super) fn known(&self) -> Vec<SandboxId> {
        self.facts().keys().copied().collect()
    }
}
