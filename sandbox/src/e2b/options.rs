//! What an endpoint is: where, as whom, and what it offers.

use std::collections::BTreeMap;
use std::time::Duration;

use sandpit_messages::id::NodeId;

use super::ApiKey;
use super::plan::Plan;
use crate::guard::Time;
use crate::provider::Limits;

/// Domains under which E2B runs sandboxes itself: one host serves them all there.
const OF_E2B: [&str; 4] = ["e2b.app", "e2b.dev", "e2b.pro", "e2b-staging.dev"];

/// One endpoint. Valid already.
#[derive(Clone, Debug)]
pub struct Options {
    /// What we call it.
    pub name: String,
    /// Where the life of sandboxes is managed, as in `https://api.e2b.app`.
    pub api_url: String,
    /// Where all sandboxes are reached; without it, each at a host of its own.
    pub sandbox_url: Option<String>,
    /// The domain of those hosts where the answer to a creation names none.
    pub domain: String,
    /// Whose account pays.
    pub key: ApiKey,
    /// Who made a sandbox: others' are never listed, and never touched.
    pub cluster: NodeId,
    /// Our name of a template to theirs.
    pub templates: BTreeMap<String, Template>,
    /// What a sandbox is asked to live for; renewed before half of it is over.
    pub lifetime: Duration,
    /// Whether sandboxes that nobody has yet are paused. For plans that do not bill those.
    pub park: bool,
    /// Whether sandboxes may reach the internet.
    pub internet: bool,
    /// Longest wait for a connection.
    pub connect_max: Duration,
    /// Reads the time.
    pub time: Time,
    /// What the account may do.
    pub plan: Plan,
}

/// A template at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What they call it.
    pub theirs: String,
    /// What its sandboxes have, as it was built there.
    pub limits: Limits,
}

impl Options {
    /// Where a port of a sandbox is reached.
    pub(super) fn data_url(&self, id: &str, domain: Option<&str>, port: u16) -> String {
        if let Some(url) = &self.sandbox_url {
            return url.trim_end_matches('/').to_owned();
        }
        let domain = domain.unwrap_or(&self.domain);
        if OF_E2B.contains(&domain) {
            format!("https://sandbox.{domain}")
        } else {
            format!("https://{port}-{id}.{domain}")
        }
    }
}
