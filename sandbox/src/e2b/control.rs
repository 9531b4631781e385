//! The life of sandboxes: the control plane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use sandpit_messages::id::SandboxId;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Cloud;
use super::http::{Answer, ask, json};
use super::known::{Remote, Token};
use super::wire::control::{NewSandbox, Sandbox, SandboxDetail, SandboxMetric, SandboxState};
use super::wire::{ENVD_PORT, header};
use crate::ProviderError;
use crate::provider::{CreateRequest, Created, Destroyed, Lease, Sample, SandboxInfo};

/// Which route of creation a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The second version, perhaps beside the first.
    New,
    /// Only the first.
    Old,
}

/// Which of our sandboxes it is.
const LEASE: &str = "sandpit-lease";
/// Whose it is.
const CLUSTER: &str = "sandpit-cluster";
/// What we call its template.
const TEMPLATE: &str = "sandpit-template";

/// Sandboxes on one page of a list: the most that may be asked for.
const PAGE: usize = 100;

/// Pages of the longest list. An account has a thousandth of it.
const PAGES_MAX: usize = 1_000;

/// A sandbox as a list shows it.
struct Found {
    sandbox: SandboxId,
    template: String,
    detail: SandboxDetail,
}

impl Cloud {
    /// Makes sure that a template is there.
    pub(super) async fn template(&self, name: &str, theirs: &str) -> Result<(), ProviderError> {
        let answer =
            ask(self.control(Method::GET, &format!("/templates/aliases/{theirs}"))).await?;
        match answer.status {
            // 403: it belongs to somebody else, who may let others use it. A creation will tell.
            200 | 403 => Ok(()),
            404 => Err(ProviderError::NoSuchTemplate { name: name.to_owned() }),
            _ => Err(answer.fault(None)),
        }
    }

    /// What tells a template from others, as far as anybody here can know.
    pub(super) fn digest(&self, theirs: &str) -> String {
        let mut digest = Sha256::new();
        for part in ["e2b", &self.options.api_url, theirs] {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) async fn create(&self, request: CreateRequest) -> Result<Created, ProviderError> {
        let CreateRequest { sandbox, template } = request;
        let Some(known) = self.options.templates.get(&template) else {
            return Err(ProviderError::NoSuchTemplate { name: template });
        };
        if self.known().get(sandbox).is_none() {
            // Whoever asked before may have got it and not heard of it.
            let was_doubtful = self.known().is_doubtful(sandbox);
            let made = if was_doubtful { self.find(sandbox).await? } else { None };
            if made.is_none() {
                // Until an answer is here nobody knows, even if nobody waits for it any more.
                self.known().doubt(sandbox);
                let made = self.send_create(sandbox, &template, &known.theirs).await;
                // That this one was not made says nothing about one before it.
                if !was_doubtful && made.as_ref().is_err_and(|error| !error.maybe_done()) {
                    self.known().believe_absent(sandbox);
                }
                self.known().insert(sandbox, made?);
                self.park(sandbox).await;
            }
        }
        Ok(Created { sandbox, digest: self.digest(&known.theirs) })
    }

    /// Pauses a new sandbox where that saves money. One that runs on does no harm.
    async fn park(&self, sandbox: SandboxId) {
        if self.options.park
            && let Err(error) = self.pause(sandbox, true).await
        {
            let endpoint = &self.options.name;
            tracing::warn!(%sandbox, endpoint, %error, "a ready sandbox runs on; it was to pause");
        }
    }

    async fn send_create(
        &self,
        sandbox: SandboxId,
        template: &str,
        theirs: &str,
    ) -> Result<Remote, ProviderError> {
        let metadata = [
            (LEASE, sandbox.to_string()),
            (CLUSTER, self.options.cluster.to_string()),
            (TEMPLATE, template.to_owned()),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        let mut body = NewSandbox {
            template_id: theirs.to_owned(),
            timeout: Some(seconds(self.options.lifetime)),
            metadata: Some(metadata.into()),
            allow_internet_access: Some(self.options.internet),
            ..NewSandbox::default()
        };
        let send = async |path: &str, body: &NewSandbox| {
            let request = self.control(Method::POST, path);
            ask(json(request.header(header::IDEMPOTENCY_KEY, sandbox.as_str()), body)).await
        };
        let mut answer = None;
        if self.route.get() != Some(&Route::Old) {
            let told = send("/v2/sandboxes", &body).await?;
            if told.is_success() {
                self.route.get_or_init(|| Route::New);
            }
            // Where it is known to be there, nothing else can be missing than the template.
            let decides = told.status != 404 || self.route.get() == Some(&Route::New);
            answer = decides.then_some(told);
        }
        let answer = match answer {
            Some(answer) => answer,
            // An older server has no such route; a newer one no such template. Neither made anything.
            None => {
                body.secure = Some(true);
                let answer = send("/sandboxes", &body).await?;
                if answer.is_success() {
                    self.route.get_or_init(|| Route::Old);
                }
                answer
            }
        };
        match answer.status {
            200..300 => Ok(self.remote_of(answer.read()?, template)),
            404 => Err(ProviderError::NoSuchTemplate { name: template.to_owned() }),
            _ => Err(answer.fault(None)),
        }
    }

    fn remote_of(&self, made: Sandbox, template: &str) -> Remote {
        Remote {
            id: made.sandbox_id,
            template: template.to_owned(),
            token: made.envd_access_token.map(Token::new),
            traffic: made.traffic_access_token.map(Token::new),
            domain: made.domain,
            env: BTreeMap::new(),
            is_told: true,
            is_paused: false,
            is_parked: false,
            renewed: self.options.time.now(),
            params: Arc::default(),
        }
    }

    pub(super) async fn adopt(
        &self,
        sandbox: SandboxId,
        lease: Lease,
    ) -> Result<(), ProviderError> {
        let remote = self.remote(sandbox).await?;
        let built = self.options.templates.get(&remote.template).map(|known| known.limits);
        if let Some(wanted) = lease.limits
            && Some(wanted) != built
        {
            return Err(ProviderError::unsupported("another size than the template's"));
        }
        match (remote.is_parked, remote.is_paused) {
            (true, _) => self.resume(sandbox).await?,
            (false, true) => return Err(ProviderError::Paused(sandbox)),
            (false, false) => self.renew(sandbox).await?,
        }
        self.known().change(sandbox, |remote| remote.env = lease.env);
        Ok(())
    }

    /// Extends its time.
    pub(super) async fn renew(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        let remote = self.remote(sandbox).await?;
        let path = format!("/sandboxes/{}/timeout", remote.id);
        let body = json!({ "timeout": seconds(self.options.lifetime) });
        let answer = ask(json(self.control(Method::POST, &path), &body)).await?;
        self.done(sandbox, &answer)?;
        let now = self.options.time.now();
        self.known().change(sandbox, |remote| remote.renewed = now);
        Ok(())
    }

    /// Stops it. `is_parked` if nobody has it yet.
    pub(super) async fn pause(
        &self,
        sandbox: SandboxId,
        is_parked: bool,
    ) -> Result<(), ProviderError> {
        let before = self.remote(sandbox).await?;
        let set = |is_paused, is_parked| {
            self.known().change(sandbox, |remote| {
                remote.is_paused = is_paused;
                remote.is_parked = is_parked;
            });
        };
        // From now on what looks as if it were gone may stand still.
        set(true, is_parked);
        let paused = self.send_pause(sandbox, &before.id).await;
        match &paused {
            Ok(()) => (),
            // Nobody knows whether it stands: whoever needs it resumes it.
            Err(error) if error.maybe_done() => set(true, true),
            Err(_) => set(before.is_paused, before.is_parked),
        }
        paused
    }

    async fn send_pause(&self, sandbox: SandboxId, id: &str) -> Result<(), ProviderError> {
        let path = format!("/sandboxes/{id}/pause");
        let answer = ask(json(self.control(Method::POST, &path), &json!({}))).await?;
        // Once more is no error; a change under way is asked for again.
        if answer.status != 409 || answer.header(header::SHOULD_RETRY) == Some("true") {
            self.done(sandbox, &answer)?;
        }
        Ok(())
    }

    /// Lets it go on.
    pub(super) async fn resume(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        let remote = self.remote(sandbox).await?;
        let body = json!({ "timeout": seconds(self.options.lifetime) });
        let path = |version| format!("{version}/sandboxes/{}/connect", remote.id);
        let old = self.route.get() == Some(&Route::Old);
        let path = path(if old { "" } else { "/v2" });
        let answer = ask(json(self.control(Method::POST, &path), &body)).await?;
        self.done(sandbox, &answer)?;
        let made: Sandbox = answer.read()?;
        let now = self.options.time.now();
        self.known().change(sandbox, |remote| {
            remote.is_paused = false;
            remote.is_parked = false;
            remote.renewed = now;
            // The same as before, except after a restart of ours.
            remote.token = made.envd_access_token.map(Token::new).or_else(|| remote.token.take());
            remote.traffic =
                made.traffic_access_token.map(Token::new).or_else(|| remote.traffic.take());
            remote.domain = made.domain.or_else(|| remote.domain.take());
            remote.is_told = true;
        });
        Ok(())
    }

    /// What an answer about one sandbox means.
    fn done(&self, sandbox: SandboxId, answer: &Answer) -> Result<(), ProviderError> {
        match answer.status {
            200..300 => Ok(()),
            404 => {
                self.lost(sandbox);
                Err(ProviderError::Gone(sandbox))
            }
            _ => Err(answer.fault(Some(sandbox))),
        }
    }

    pub(super) async fn destroy(&self, sandbox: SandboxId) -> Result<Destroyed, ProviderError> {
        let known = self.known().get(sandbox);
        let ids = match known {
            Some(remote) if !self.known().is_doubtful(sandbox) => vec![remote.id],
            _ => {
                let found = self.found(&[(LEASE, sandbox.as_str())]).await?;
                found.into_iter().map(|found| found.detail.sandbox_id).collect()
            }
        };
        let mut was_there = false;
        for id in &ids {
            was_there |= self.kill(sandbox, id).await?;
        }
        self.known().forget(sandbox);
        Ok(Destroyed { was_there })
    }

    /// Kills one, and makes sure that it is gone. Says whether it was there.
    async fn kill(&self, sandbox: SandboxId, id: &str) -> Result<bool, ProviderError> {
        let path = format!("/sandboxes/{id}");
        let killed = ask(self.control(Method::DELETE, &path)).await?;
        match killed.status {
            404 => return Ok(false),
            200..300 => (),
            _ => return Err(killed.fault(Some(sandbox))),
        }
        let left = ask(self.control(Method::GET, &path)).await?;
        match left.status {
            404 => Ok(true),
            200..300 => {
                let why = "it is still there after it was killed".to_owned();
                Err(ProviderError::Failed { why, maybe_done: true })
            }
            _ => Err(left.fault(Some(sandbox))),
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<SandboxInfo>, ProviderError> {
        let found = self.found(&[]).await?;
        let mut all: BTreeMap<SandboxId, Found> = BTreeMap::new();
        for one in found {
            let sandbox = one.sandbox;
            let ours = self.known().get(sandbox).map(|remote| remote.id);
            let Some(other) = all.insert(sandbox, one) else { continue };
            // A creation that was sent twice and made twice: one of them is not needed.
            let kept = &all[&sandbox].detail;
            let keep_other = ours.as_ref() == Some(&other.detail.sandbox_id)
                || ours.is_none() && other.detail.started_at < kept.started_at;
            let spare =
                if keep_other { kept.sandbox_id.clone() } else { other.detail.sandbox_id.clone() };
            if keep_other {
                all.insert(sandbox, other);
            }
            self.kill(sandbox, &spare).await?;
        }
        let info = |found: Found| SandboxInfo { sandbox: found.sandbox, template: found.template };
        Ok(all.into_values().map(info).collect())
    }

    /// Our sandboxes there with this metadata, all pages.
    async fn found(&self, metadata: &[(&str, &str)]) -> Result<Vec<Found>, ProviderError> {
        let cluster = self.options.cluster.to_string();
        let wanted = [(CLUSTER, cluster.as_str())].into_iter().chain(metadata.iter().copied());
        // Keys and values are letters, digits and hyphens: what the API would have encoded twice
        // more stays as it is.
        let filter: Vec<_> = wanted.clone().map(|(key, value)| format!("{key}={value}")).collect();
        let mut url = self.url("/v2/sandboxes")?;
        url.query_pairs_mut()
            .append_pair("metadata", &filter.join("&"))
            .append_pair("state", "running,paused")
            .append_pair("limit", &PAGE.to_string());
        let (mut found, mut next) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let mut page = url.clone();
            if let Some(next) = &next {
                page.query_pairs_mut().append_pair("nextToken", next);
            }
            let request = self.client.get(page);
            let answer = ask(request.header(header::API_KEY, self.options.key.header())).await?;
            if !answer.is_success() {
                return Err(answer.fault(None));
            }
            let details: Vec<SandboxDetail> = answer.read()?;
            // A server that ignores the filter must not make others' sandboxes ours.
            let ours = details.into_iter().filter_map(|detail| {
                let has = |key: &str| detail.metadata.as_ref()?.get(key).cloned();
                let matches = wanted.clone().all(|(key, value)| has(key).as_deref() == Some(value));
                let sandbox = has(LEASE).filter(|_| matches)?.parse().ok()?;
                let template = has(TEMPLATE).unwrap_or_else(|| detail.template_id.clone());
                Some(Found { sandbox, template, detail })
            });
            found.extend(ours);
            next = answer.header(header::NEXT_TOKEN).map(str::to_owned);
            if next.is_none() {
                return Ok(found);
            }
        }
        let why = format!("its list has more than {PAGES_MAX} pages");
        Err(ProviderError::Failed { why, maybe_done: false })
    }

    fn url(&self, path: &str) -> Result<reqwest::Url, ProviderError> {
        let text = format!("{}{path}", self.options.api_url.trim_end_matches('/'));
        reqwest::Url::parse(&text)
            .map_err(|error| ProviderError::Refused { why: error.to_string() })
    }

    /// The sandbox behind an id.
    pub(super) async fn remote(&self, sandbox: SandboxId) -> Result<Remote, ProviderError> {
        let known = self.known().get(sandbox);
        match known {
            Some(remote) => Ok(remote),
            None => self.find(sandbox).await?.ok_or(ProviderError::Gone(sandbox)),
        }
    }

    /// Looks for a sandbox at the cloud, and remembers it.
    async fn find(&self, sandbox: SandboxId) -> Result<Option<Remote>, ProviderError> {
        let mut found = self.found(&[(LEASE, sandbox.as_str())]).await?;
        found.sort_by_key(|one| one.detail.started_at);
        let Some(first) = found.into_iter().next() else {
            return Ok(None);
        };
        let is_paused = first.detail.state == SandboxState::Paused;
        let remote = Remote {
            id: first.detail.sandbox_id,
            template: first.template,
            // A list has no tokens.
            token: None,
            traffic: None,
            domain: first.detail.domain,
            env: BTreeMap::new(),
            is_told: false,
            is_paused,
            // Who paused it is not known any more. Parked ones are what is paused most often, and
            // resuming another one costs its owner a call.
            is_parked: is_paused && self.options.park,
            renewed: self.options.time.now(),
            params: Arc::default(),
        };
        Ok(Some(self.known().found(sandbox, remote)))
    }

    /// Learns what only the answer about one sandbox holds: how to reach what is inside.
    pub(super) async fn learn(&self, sandbox: SandboxId) -> Result<Remote, ProviderError> {
        let remote = self.remote(sandbox).await?;
        if remote.is_told {
            return Ok(remote);
        }
        let answer = ask(self.control(Method::GET, &format!("/sandboxes/{}", remote.id))).await?;
        self.done(sandbox, &answer)?;
        let detail: SandboxDetail = answer.read()?;
        self.known().change(sandbox, |remote| {
            remote.token = detail.envd_access_token.map(Token::new);
            remote.domain = detail.domain.or_else(|| remote.domain.take());
            remote.is_told = true;
        });
        self.known().get(sandbox).ok_or(ProviderError::Gone(sandbox))
    }

    pub(super) async fn sample(&self, sandbox: SandboxId) -> Result<Sample, ProviderError> {
        let remote = self.remote(sandbox).await?;
        let path = format!("/sandboxes/{}/metrics", remote.id);
        let answer = ask(self.control(Method::GET, &path)).await?;
        self.done(sandbox, &answer)?;
        let metrics: Vec<SandboxMetric> = answer.read()?;
        let Some(last) = metrics.last() else {
            return self.look_inside(sandbox).await;
        };
        Ok(Sample {
            cpu: used(&metrics),
            cpu_count: last.cpu_count,
            memory: last.mem_used,
            memory_cache: last.mem_cache,
            memory_max: last.mem_total,
            disk: last.disk_used,
            disk_max: last.disk_total,
            // The API does not count them.
            processes: 0,
            source: "cloud",
        })
    }

    /// What a sandbox says of itself, before the cloud has measured it.
    async fn look_inside(&self, sandbox: SandboxId) -> Result<Sample, ProviderError> {
        let remote = self.open(sandbox).await?;
        let answer = ask(self.data(&remote, ENVD_PORT, Method::GET, "/metrics")).await?;
        if !answer.is_success() {
            return Err(self.noted(sandbox, answer.fault(Some(sandbox))));
        }
        let inside: Inside = answer.read()?;
        Ok(Sample {
            // How much it used before nobody has written down.
            cpu: Duration::ZERO,
            cpu_count: inside.cpu_count,
            memory: inside.mem_used,
            memory_cache: inside.mem_cache,
            memory_max: inside.mem_total,
            disk: inside.disk_used,
            disk_max: inside.disk_total,
            processes: 0,
            source: "cloud",
        })
    }
}

/// What `GET /metrics` of a sandbox answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Inside {
    cpu_count: u32,
    mem_used: u64,
    mem_cache: u64,
    mem_total: u64,
    disk_used: u64,
    disk_total: u64,
}

/// Processor time between the first and the last measurement: shares of a processor, each taken to
/// hold since the one before.
fn used(metrics: &[SandboxMetric]) -> Duration {
    let pairs = metrics.iter().zip(metrics.iter().skip(1));
    let spent = pairs.map(|(one, next)| {
        let share = (next.cpu_used_pct / 100.0).clamp(0.0, 1.0) * f64::from(next.cpu_count);
        next.timestamp.since(one.timestamp).mul_f64(share)
    });
    spent.sum()
}

/// Whole seconds, at least one.
fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs().max(1)).unwrap_or(i64::MAX)
}
