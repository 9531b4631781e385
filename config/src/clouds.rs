//! Where sandboxes are made: on this machine, or at clouds behind guards.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::sections::LocalConfig;
use crate::units::{millis, seconds, unless_empty};

/// Seconds that a sandbox of E2B's free plan may live.
pub(crate) const HOBBY_LIFETIME_MAX_S: f64 = 3_600.0;

/// Where code runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Which provider.
    pub kind: ProviderKind,
    /// Endpoints, the preferred one first.
    pub order: Vec<String>,
    /// `[provider.local]`.
    pub local: LocalConfig,
    /// `[provider.guard]`.
    pub guard: GuardConfig,
    /// `[provider.endpoint.<name>]`.
    pub endpoint: BTreeMap<String, EndpointConfig>,
}

/// Which provider makes sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderKind {
    /// The embedded engine.
    Local,
    /// Clouds that speak the E2B API.
    E2b,
}

/// What stands between us and each endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardConfig {
    /// Times a call is made again at one endpoint before another gets it.
    pub retries_max: u32,
    /// Attempts of one call over all endpoints.
    pub attempts_max: u32,
    /// The first pause is drawn from up to this.
    #[serde(rename = "retry_base_ms", deserialize_with = "millis")]
    pub retry_base: Duration,
    /// No pause is drawn from more.
    #[serde(rename = "retry_cap_ms", deserialize_with = "millis")]
    pub retry_cap: Duration,
    /// Of a hundred calls so many may be made again.
    pub budget_percent: u32,
    /// And so many more each second.
    pub budget_floor: u32,
    /// Failures in a row that open a breaker.
    pub breaker_in_a_row: usize,
    /// Calls whose share of failures a breaker looks at.
    pub breaker_calls: usize,
    /// Fewer decide nothing.
    pub breaker_calls_min: usize,
    /// Older ones are not looked at.
    #[serde(rename = "breaker_age_max_s", deserialize_with = "seconds")]
    pub breaker_age_max: Duration,
    /// It opens when more than this share failed.
    pub breaker_failed_percent: usize,
    /// How long it stays open at first.
    #[serde(rename = "breaker_open_min_s", deserialize_with = "seconds")]
    pub breaker_open_min: Duration,
    /// How long at most.
    #[serde(rename = "breaker_open_max_s", deserialize_with = "seconds")]
    pub breaker_open_max: Duration,
    /// Calls in a row that close it.
    pub breaker_probes: u32,
    /// Sandboxes made at once.
    pub creations_at_once: usize,
    /// Whether that may be outside of 5 to 10.
    pub allow_unusual: bool,
    /// Creations that may wait.
    pub waiting_max: usize,
    /// Of a hundred looks so many may be asked twice.
    pub hedge_percent: u64,
    /// Longest attempt at a creation.
    #[serde(rename = "create_max_s", deserialize_with = "seconds")]
    pub create_max: Duration,
    /// A creation that takes longer counts as failed.
    #[serde(rename = "create_slow_s", deserialize_with = "seconds")]
    pub create_slow: Duration,
    /// Longest attempt at a look.
    #[serde(rename = "look_max_s", deserialize_with = "seconds")]
    pub look_max: Duration,
    /// Longest attempt at anything else.
    #[serde(rename = "attempt_max_s", deserialize_with = "seconds")]
    pub attempt_max: Duration,
    /// Longest call with all its attempts.
    #[serde(rename = "call_max_s", deserialize_with = "seconds")]
    pub call_max: Duration,
    /// An earlier endpoint gets new sandboxes after it was well for so long.
    #[serde(rename = "return_after_s", deserialize_with = "seconds")]
    pub return_after: Duration,
    /// One that was full is asked again after this.
    #[serde(rename = "full_for_s", deserialize_with = "seconds")]
    pub full_for: Duration,
}

/// An account at a cloud.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Where the life of sandboxes is managed.
    pub api_url: String,
    /// Where all sandboxes are reached; without it, each at a host of its own.
    #[serde(deserialize_with = "unless_empty")]
    pub sandbox_url: Option<String>,
    /// The domain of those hosts.
    pub domain: String,
    /// The variable that holds the key.
    #[serde(deserialize_with = "unless_empty")]
    pub key_env: Option<String>,
    /// The file whose first line is the key.
    #[serde(deserialize_with = "unless_empty")]
    pub key_file: Option<PathBuf>,
    /// Whether the key may leave this machine in plain text.
    pub allow_plaintext: bool,
    /// What the account may do.
    pub plan: PlanConfig,
    /// Sandboxes there at once; 0 as the plan says.
    pub sandboxes_max: usize,
    /// Whether sandboxes that nobody has yet are paused.
    pub pause_ready: PauseReady,
    /// Our names of templates and theirs.
    pub template_map: Vec<Renamed>,
    /// Mebibytes of memory of its sandboxes.
    pub memory_mb: u32,
    /// Processors of its sandboxes.
    pub cpu_count: u32,
    /// What a sandbox is asked to live for; renewed while it is used.
    #[serde(rename = "lifetime_s", deserialize_with = "seconds")]
    pub lifetime: Duration,
    /// Whether sandboxes may reach the internet.
    pub internet: bool,
    /// Longest wait for a connection.
    #[serde(rename = "connect_max_s", deserialize_with = "seconds")]
    pub connect_max: Duration,
}

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanConfig {
    /// E2B's free plan where E2B runs it, nothing known elsewhere.
    Auto,
    /// E2B's free plan.
    Hobby,
    /// E2B's paid plan.
    Pro,
    /// Nothing known.
    Custom,
}

/// Whether sandboxes that nobody has yet are paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseReady {
    /// Where the plan does not bill paused ones.
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

/// A template by our name and by theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// Ours.
    pub ours: String,
    /// Theirs: what the API takes as a template, without a tag.
    pub theirs: String,
}

impl Renamed {
    /// Reads `ours=theirs`.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (ours, theirs) = text.split_once('=')?;
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fine = |name: &str| (1..=128).contains(&name.len()) && name.bytes().all(letter);
        (fine(ours) && fine(theirs))
            .then(|| Self { ours: ours.to_owned(), theirs: theirs.to_owned() })
    }
}

impl<'de> Deserialize<'de> for Renamed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::read(&text).ok_or_else(|| de::Error::custom("not two names"))
    }
}

/// Whether what is sent there cannot be read on the way: TLS, or this machine.
pub(crate) fn stays_private(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return true };
    let host = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = host.rsplit('@').next().unwrap_or(host);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    host == "localhost" || host.starts_with("127.") || host == "[::1]"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_private_only_with_tls_or_on_this_machine() {
        let check = |url: &str, private: bool| assert_eq!(stays_private(url), private, "{url}");
        check("https://api.e2b.app", true);
        check("http://127.0.0.1:49980", true);
        check("http://localhost:49980/", true);
        check("http://[::1]:49980", true);
        check("http://cloud:49980", false);
        check("http://127.evil.example@cloud:80", false);
        check("", true);
    }

    #[test]
    fn names_of_templates_are_read_in_pairs() {
        let read = |text| Renamed::read(text).map(|it| (it.ours, it.theirs));
        let pair = Some(("python".to_owned(), "code-interpreter-v1".to_owned()));
        assert_eq!(read("python=code-interpreter-v1"), pair);
        for text in ["python", "=x", "x=", "a/b=c", "a=b/c"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
