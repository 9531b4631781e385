//! The E2B API: what travels, read and written the same by the provider and by the facade; and the
//! provider, which makes sandboxes at whatever speaks it.
//!
//! Callers name a sandbox by an id that they minted, the cloud by one of its own. The first is
//! written into the sandbox's metadata there, so that the map between them is never lost: a list
//! brings it back.

mod contexts;
mod control;
mod exec;
mod files;
mod http;
mod keep;
mod key;
mod known;
mod options;
pub mod plan;
mod processes;
mod stream;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use reqwest::{Client, Method, RequestBuilder};
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::sandbox::LimitsEnforced;
use tokio::sync::{Notify, broadcast};

pub use key::{ApiKey, NotAKey};
pub use options::{Options, Template};

use control::Route;

use crate::provider::contexts::Contexts;
use crate::provider::files::Files;
use crate::provider::processes::Processes;
use crate::provider::{
    CreateRequest, Created, Descriptor, Destroyed, Ending, ExecRequest, ExecStream, Lease, Pausing,
    Progress, Sample, SandboxInfo, TemplateInfo,
};
use crate::{Provider, ProviderError};
use known::{Known, Remote};
use wire::header;

/// Endings that wait for whoever listens.
const ENDINGS_ROOM: usize = 64;

/// An endpoint that speaks the E2B API. Clone it freely.
#[derive(Clone, Debug)]
pub struct E2b(Arc<Cloud>);

/// Everything about one endpoint.
#[derive(Debug)]
struct Cloud {
    options: Options,
    client: Client,
    known: Mutex<Known>,
    /// Executions under way, and how to interrupt them.
    running: Mutex<BTreeMap<ExecId, Arc<Notify>>>,
    endings: broadcast::Sender<Ending>,
    /// Which route of creation it has, once an answer has told.
    route: OnceLock<Route>,
}

impl E2b {
    /// An endpoint. Asks it nothing yet, and keeps its sandboxes alive as long as this lives.
    ///
    /// # Errors
    /// [`ProviderError::Refused`] for addresses that are none.
    pub fn new(options: Options) -> Result<Self, ProviderError> {
        let client = http::client(&options)?;
        let (endings, _) = broadcast::channel(ENDINGS_ROOM);
        let cloud = Arc::new(Cloud {
            client,
            known: Mutex::default(),
            running: Mutex::default(),
            endings,
            route: OnceLock::new(),
            options,
        });
        tokio::spawn(keep::alive(Arc::downgrade(&cloud), cloud.options.lifetime));
        Ok(Self(cloud))
    }

    /// What we call it.
    pub fn name(&self) -> &str {
        &self.0.options.name
    }
}

impl Cloud {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<ExecId, Arc<Notify>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request about the life of sandboxes.
    fn control(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.options.api_url.trim_end_matches('/'));
        self.client.request(method, url).header(header::API_KEY, self.options.key.header())
    }

    /// A request to a sandbox.
    fn data(&self, remote: &Remote, port: u16, method: Method, path: &str) -> RequestBuilder {
        let base = self.options.data_url(&remote.id, remote.domain.as_deref(), port);
        let request = self.client.request(method, format!("{base}{path}"));
        let request = request
            .header(header::SANDBOX_ID, &remote.id)
            .header(header::SANDBOX_PORT, port.to_string());
        let request = match &remote.token {
            Some(token) => request.header(header::ACCESS_TOKEN, token.value()),
            None => request,
        };
        match &remote.traffic {
            Some(token) => request.header(header::TRAFFIC_TOKEN, token.value()),
            None => request,
        }
    }

    /// The sandbox behind an id, one that can be worked with.
    async fn open(&self, sandbox: SandboxId) -> Result<Remote, ProviderError> {
        let remote = self.remote(sandbox).await?;
        if remote.is_paused {
            if !remote.is_parked {
                return Err(ProviderError::Paused(sandbox));
            }
            self.resume(sandbox).await?;
        }
        self.learn(sandbox).await
    }

    /// An answer says that a sandbox is not there any more.
    fn lost(&self, sandbox: SandboxId) {
        if self.known().forget(sandbox).is_some() {
            // Nobody has to listen.
            let _ = self.endings.send(Ending { sandbox, why: "the cloud has it no more" });
        }
    }

    /// Takes note of what an answer from inside says about a sandbox. One that stands still answers
    /// as one that is gone.
    fn noted(&self, sandbox: SandboxId, error: ProviderError) -> ProviderError {
        if error != ProviderError::Gone(sandbox) {
            return error;
        }
        if self.stands(sandbox) {
            return ProviderError::Paused(sandbox);
        }
        self.lost(sandbox);
        error
    }

    /// Whether it is paused, as far as we know.
    fn stands(&self, sandbox: SandboxId) -> bool {
        self.known().get(sandbox).is_some_and(|remote| remote.is_paused)
    }
}

#[async_trait]
impl Provider for E2b {
    fn descriptor(&self) -> Descriptor {
        let held = || "cloud".to_owned();
        Descriptor {
            kind: "e2b",
            isolation: "cloud".to_owned(),
            limits_enforced: LimitsEnforced {
                memory: held(),
                cpu: held(),
                pids: held(),
                disk: held(),
            },
        }
    }

    async fn prepare(
        &self,
        template: &str,
        progress: Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        let name = template.to_owned();
        let Some(known) = self.0.options.templates.get(template) else {
            return Err(ProviderError::NoSuchTemplate { name });
        };
        progress.say("asking the cloud for it", None);
        self.0.template(template, &known.theirs).await?;
        progress.say("it is there", Some(1.0));
        let digest = self.0.digest(&known.theirs);
        Ok(TemplateInfo { name, digest, limits: known.limits })
    }

    fn templates(&self) -> Vec<String> {
        self.0.options.templates.keys().cloned().collect()
    }

    async fn create(&self, request: CreateRequest) -> Result<Created, ProviderError> {
        self.0.create(request).await
    }

    async fn adopt(&self, sandbox: SandboxId, lease: Lease) -> Result<(), ProviderError> {
        self.0.adopt(sandbox, lease).await
    }

    async fn destroy(&self, sandbox: SandboxId) -> Result<Destroyed, ProviderError> {
        self.0.destroy(sandbox).await
    }

    async fn list(&self) -> Result<Vec<SandboxInfo>, ProviderError> {
        self.0.list().await
    }

    async fn exec(
        &self,
        sandbox: SandboxId,
        request: ExecRequest,
    ) -> Result<ExecStream, ProviderError> {
        Cloud::exec(&self.0, sandbox, request).await
    }

    async fn interrupt(&self, sandbox: SandboxId, exec: ExecId) -> Result<(), ProviderError> {
        self.0.remote(sandbox).await?;
        if let Some(running) = self.0.running().get(&exec) {
            running.notify_one();
        }
        Ok(())
    }

    fn files(&self) -> Result<&dyn Files, ProviderError> {
        Ok(self)
    }

    fn processes(&self) -> Result<&dyn Processes, ProviderError> {
        Ok(self)
    }

    fn contexts(&self) -> Result<&dyn Contexts, ProviderError> {
        Ok(self)
    }

    fn pausing(&self) -> Result<&dyn Pausing, ProviderError> {
        Ok(self)
    }

    async fn sample(&self, sandbox: SandboxId) -> Result<Sample, ProviderError> {
        self.0.sample(sandbox).await
    }

    fn endings(&self) -> broadcast::Receiver<Ending> {
        self.0.endings.subscribe()
    }
}

#[async_trait]
impl Pausing for E2b {
    async fn pause(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        self.0.remote(sandbox).await?;
        self.0.pause(sandbox, false).await
    }

    async fn resume(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        self.0.remote(sandbox).await?;
        self.0.resume(sandbox).await
    }
}
