//! Which sandbox of the cloud is which of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use sandpit_messages::id::SandboxId;
use sandpit_messages::time::Moment;
use tokio::sync::Mutex;

/// The sandboxes of one endpoint, as far as we know.
#[derive(Debug, Default)]
pub(super) struct Known {
    remotes: BTreeMap<SandboxId, Remote>,
    /// Whose creation was sent, and nobody knows what became of it.
    doubtful: BTreeSet<SandboxId>,
}

/// A sandbox at the cloud.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// What the cloud calls it.
    pub(super) id: String,
    /// Our name of its template.
    pub(super) template: String,
    /// What its data plane wants to see.
    pub(super) token: Option<Token>,
    /// What its other ports want to see.
    pub(super) traffic: Option<Token>,
    /// Its hosts are below this.
    pub(super) domain: Option<String>,
    /// Of whoever holds it: goes with each call.
    pub(super) env: BTreeMap<String, String>,
    /// Whether we know how to reach what is inside.
    pub(super) is_told: bool,
    /// Whether it is paused.
    pub(super) is_paused: bool,
    /// Whether it is paused because nobody has it yet: who needs it resumes it.
    pub(super) is_parked: bool,
    /// When its time was extended last.
    pub(super) renewed: Moment,
    /// Held from when a cell's `params` are put into its context until it ends: another's would
    /// take their place.
    pub(super) params: Arc<Mutex<()>>,
}

/// A secret of one sandbox.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn value(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Known {
    pub(super) fn get(&self, sandbox: SandboxId) -> Option<Remote> {
        self.remotes.get(&sandbox).cloned()
    }

    /// Changes what is known of a sandbox, if anything is.
    pub(super) fn change(&mut self, sandbox: SandboxId, change: impl FnOnce(&mut Remote)) {
        if let Some(remote) = self.remotes.get_mut(&sandbox) {
            change(remote);
        }
    }

    pub(super) fn insert(&mut self, sandbox: SandboxId, remote: Remote) {
        self.doubtful.remove(&sandbox);
        self.remotes.insert(sandbox, remote);
    }

    /// Takes note of one that a list has. Whoever made or found it meanwhile knows no less of it.
    pub(super) fn found(&mut self, sandbox: SandboxId, remote: Remote) -> Remote {
        self.doubtful.remove(&sandbox);
        self.remotes.entry(sandbox).or_insert(remote).clone()
    }

    pub(super) fn forget(&mut self, sandbox: SandboxId) -> Option<Remote> {
        self.doubtful.remove(&sandbox);
        self.remotes.remove(&sandbox)
    }

    pub(super) fn doubt(&mut self, sandbox: SandboxId) {
        self.doubtful.insert(sandbox);
    }

    /// It is certain that it was not made.
    pub(super) fn believe_absent(&mut self, sandbox: SandboxId) {
        self.doubtful.remove(&sandbox);
    }

    pub(super) fn is_doubtful(&self, sandbox: SandboxId) -> bool {
        self.doubtful.contains(&sandbox)
    }

    /// Those whose time was extended before `then`, paused ones left out: they have no clock.
    pub(super) fn due(&self, then: impl Fn(Moment) -> bool) -> Vec<SandboxId> {
        let running = self.remotes.iter().filter(|(_, remote)| !remote.is_paused);
        running.filter(|(_, remote)| then(remote.renewed)).map(|(sandbox, _)| *sandbox).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_itself_to_nobody() {
        assert_eq!(format!("{:?}", Token::new("secret".to_owned())), "Token(..)");
    }
}
