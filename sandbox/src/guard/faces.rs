//! The guarded endpoints as one provider: each call goes to where its sandbox is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use sandpit_messages::id::{ExecId, SandboxId};
use tokio::sync::broadcast;

use super::decision::EndpointState;
use super::guarded::{Guarded, Inner, Verb};
use crate::provider::contexts::{Context, ContextId, Contexts};
use crate::provider::files::{Body, Entry, Files, Range, Reading, Watching};
use crate::provider::processes::{
    Attached, Input, ProcessInfo, ProcessRef, ProcessSignal, Processes, StartRequest, TerminalSize,
};
use crate::provider::{
    CreateRequest, Created, Descriptor, Destroyed, Duplex, Ending, ExecRequest, ExecStream, Lease,
    Pausing, Ports, Progress, Sample, SandboxInfo, TemplateInfo,
};
use crate::{Provider, ProviderError};

/// Lists under way, also where whoever asked goes away.
struct Looking<'a>(&'a Inner);

impl<'a> Looking<'a> {
    fn at(inner: &'a Inner) -> Self {
        inner.shared().places.begin_look();
        Self(inner)
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.shared().places.end_look();
    }
}

impl Inner {
    /// Where a sandbox is.
    async fn owner(&self, sandbox: SandboxId) -> Result<usize, ProviderError> {
        let owner = self.shared().places.owner(sandbox);
        if let Some(owner) = owner {
            return Ok(owner);
        }
        // After a restart the endpoints know what we have forgotten.
        self.list().await?;
        self.shared().places.owner(sandbox).ok_or(ProviderError::Gone(sandbox))
    }

    /// Makes a call where the sandbox is.
    async fn at<T, F>(
        &self,
        sandbox: SandboxId,
        verb: Verb,
        call: impl Fn(Arc<dyn Provider>) -> F,
    ) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let owner = self.owner(sandbox).await?;
        self.call(owner, verb, call).await
    }

    /// All sandboxes of all endpoints. Of one that does not answer, those that were there last are
    /// thought to be there still: nothing is taken for lost, or for nobody's, on its silence.
    async fn list(&self) -> Result<Vec<SandboxInfo>, ProviderError> {
        let list = |provider: Arc<dyn Provider>| async move { provider.list().await };
        let _looking = Looking::at(self);
        let asked = (0..self.gates.len()).map(|at| self.call(at, Verb::Look, list));
        let answers = futures_util::future::join_all(asked).await;
        if answers.iter().all(Result::is_err) {
            return Err(answers.into_iter().find_map(Result::err).expect("there is an endpoint"));
        }
        let mut all: BTreeMap<SandboxId, SandboxInfo> = BTreeMap::new();
        let mut shared = self.shared();
        for (at, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(found) => {
                    for info in found {
                        let sandbox = info.sandbox;
                        if shared.places.found(at, sandbox) {
                            all.insert(sandbox, info);
                        }
                    }
                }
                Err(error) => {
                    let endpoint = &self.gates[at].name;
                    tracing::warn!(endpoint, %error, "it did not say which sandboxes it has");
                    for sandbox in shared.places.at(at) {
                        let info = SandboxInfo { sandbox, template: String::new() };
                        all.entry(sandbox).or_insert(info);
                    }
                }
            }
        }
        Ok(all.into_values().collect())
    }

    async fn destroy(&self, sandbox: SandboxId) -> Result<Destroyed, ProviderError> {
        let known = self.shared().places.perhaps(sandbox);
        let asked = if known.is_empty() { (0..self.gates.len()).collect() } else { known };
        let destroy = |provider: Arc<dyn Provider>| async move { provider.destroy(sandbox).await };
        let mut was_there = false;
        let mut failed = None;
        for at in asked {
            match self.call(at, Verb::Life, destroy).await {
                Ok(destroyed) => {
                    was_there |= destroyed.was_there;
                    let mut shared = self.shared();
                    shared.routes.released(at);
                    shared.places.gone(at, sandbox);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(Destroyed { was_there }), Err)
    }

    /// Whether any endpoint has a face.
    fn any<T>(
        &self,
        face: impl Fn(&dyn Provider) -> Result<T, ProviderError>,
    ) -> Result<(), ProviderError> {
        let faces: Vec<_> = self.providers.iter().map(|provider| face(&**provider)).collect();
        if faces.iter().any(Result::is_ok) {
            return Ok(());
        }
        faces.into_iter().next().expect("there is an endpoint").map(drop)
    }
}

#[async_trait]
impl Provider for Guarded {
    fn descriptor(&self) -> Descriptor {
        self.0.providers[0].descriptor()
    }

    async fn prepare(
        &self,
        template: &str,
        progress: Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        let knows = |at: &usize| self.0.providers[*at].resolve(template).is_some();
        let mut last = ProviderError::NoSuchTemplate { name: template.to_owned() };
        for at in (0..self.0.gates.len()).filter(knows) {
            let prepare = |provider: Arc<dyn Provider>| {
                let progress = progress.clone();
                async move { provider.prepare(template, progress).await }
            };
            match self.0.call(at, Verb::Harmless, prepare).await {
                Ok(info) => return Ok(info),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn templates(&self) -> Vec<String> {
        let all = self.0.providers.iter().flat_map(|provider| provider.templates());
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    async fn create(&self, request: CreateRequest) -> Result<Created, ProviderError> {
        self.0.create(request).await
    }

    async fn adopt(&self, sandbox: SandboxId, lease: Lease) -> Result<(), ProviderError> {
        let adopt = |provider: Arc<dyn Provider>| {
            let lease = lease.clone();
            async move { provider.adopt(sandbox, lease).await }
        };
        self.0.at(sandbox, Verb::Life, adopt).await
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
        let exec = |provider: Arc<dyn Provider>| {
            let request = request.clone();
            async move { provider.exec(sandbox, request).await }
        };
        self.0.at(sandbox, Verb::Once, exec).await
    }

    async fn interrupt(&self, sandbox: SandboxId, exec: ExecId) -> Result<(), ProviderError> {
        let interrupt =
            |provider: Arc<dyn Provider>| async move { provider.interrupt(sandbox, exec).await };
        self.0.at(sandbox, Verb::Harmless, interrupt).await
    }

    fn files(&self) -> Result<&dyn Files, ProviderError> {
        self.0.any(|provider| provider.files().map(drop)).map(|()| self as &dyn Files)
    }

    fn processes(&self) -> Result<&dyn Processes, ProviderError> {
        self.0.any(|provider| provider.processes().map(drop)).map(|()| self as &dyn Processes)
    }

    fn contexts(&self) -> Result<&dyn Contexts, ProviderError> {
        self.0.any(|provider| provider.contexts().map(drop)).map(|()| self as &dyn Contexts)
    }

    fn pausing(&self) -> Result<&dyn Pausing, ProviderError> {
        self.0.any(|provider| provider.pausing().map(drop)).map(|()| self as &dyn Pausing)
    }

    fn ports(&self) -> Result<&dyn Ports, ProviderError> {
        self.0.any(|provider| provider.ports().map(drop)).map(|()| self as &dyn Ports)
    }

    async fn sample(&self, sandbox: SandboxId) -> Result<Sample, ProviderError> {
        let sample = |provider: Arc<dyn Provider>| async move { provider.sample(sandbox).await };
        self.0.at(sandbox, Verb::Look, sample).await
    }

    fn endpoints(&self) -> Vec<EndpointState> {
        self.state()
    }

    fn endings(&self) -> broadcast::Receiver<Ending> {
        self.0.endings.subscribe()
    }
}

/// One method of a face: which verb it is, and what is called. A macro, because no function can
/// take "a method of a face that borrows its arguments" and all of them really are the same.
macro_rules! at {
    ($self:ident, $sandbox:ident, $verb:ident, $face:ident.$method:ident($($argument:expr),*)) => {
        $self
            .0
            .at($sandbox, Verb::$verb, |provider: Arc<dyn Provider>| async move {
                provider.$face()?.$method($sandbox, $($argument),*).await
            })
            .await
    };
}

#[async_trait]
impl Files for Guarded {
    async fn stat(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError> {
        at!(self, sandbox, Look, files.stat(path))
    }

    async fn list(
        &self,
        sandbox: SandboxId,
        path: &str,
        depth: u32,
    ) -> Result<Vec<Entry>, ProviderError> {
        at!(self, sandbox, Look, files.list(path, depth))
    }

    async fn read(
        &self,
        sandbox: SandboxId,
        path: &str,
        range: Range,
    ) -> Result<Reading, ProviderError> {
        at!(self, sandbox, Harmless, files.read(path, range))
    }

    async fn write(
        &self,
        sandbox: SandboxId,
        path: &str,
        contents: Body,
        metadata: BTreeMap<String, String>,
    ) -> Result<Entry, ProviderError> {
        match contents {
            Body::Whole(bytes) => {
                let write = |provider: Arc<dyn Provider>| {
                    let (bytes, metadata) = (bytes.clone(), metadata.clone());
                    async move {
                        provider.files()?.write(sandbox, path, Body::Whole(bytes), metadata).await
                    }
                };
                self.0.at(sandbox, Verb::Harmless, write).await
            }
            Body::Streamed(pieces) => {
                // What was read from it once cannot be sent again.
                let pieces = std::sync::Mutex::new(Some(pieces));
                let write = |provider: Arc<dyn Provider>| {
                    let pieces = pieces.lock().ok().and_then(|mut pieces| pieces.take());
                    let metadata = metadata.clone();
                    async move {
                        let Some(pieces) = pieces else {
                            let why = "a file that was being sent broke off".to_owned();
                            return Err(ProviderError::Failed { why, maybe_done: true });
                        };
                        let contents = Body::Streamed(pieces);
                        provider.files()?.write(sandbox, path, contents, metadata).await
                    }
                };
                self.0.at(sandbox, Verb::Send, write).await
            }
        }
    }

    async fn make_dir(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError> {
        at!(self, sandbox, Once, files.make_dir(path))
    }

    async fn rename(
        &self,
        sandbox: SandboxId,
        source: &str,
        destination: &str,
    ) -> Result<Entry, ProviderError> {
        at!(self, sandbox, Once, files.rename(source, destination))
    }

    async fn remove(&self, sandbox: SandboxId, path: &str) -> Result<(), ProviderError> {
        at!(self, sandbox, Harmless, files.remove(path))
    }

    async fn watch(
        &self,
        sandbox: SandboxId,
        path: &str,
        recursive: bool,
    ) -> Result<Watching, ProviderError> {
        at!(self, sandbox, Harmless, files.watch(path, recursive))
    }
}

#[async_trait]
impl Processes for Guarded {
    async fn start(
        &self,
        sandbox: SandboxId,
        request: StartRequest,
    ) -> Result<Attached, ProviderError> {
        let request = &request;
        at!(self, sandbox, Once, processes.start(request.clone()))
    }

    async fn attach(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
    ) -> Result<Attached, ProviderError> {
        at!(self, sandbox, Harmless, processes.attach(process))
    }

    async fn list(&self, sandbox: SandboxId) -> Result<Vec<ProcessInfo>, ProviderError> {
        at!(self, sandbox, Look, processes.list())
    }

    async fn input(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        input: Input,
    ) -> Result<(), ProviderError> {
        let input = &input;
        at!(self, sandbox, Once, processes.input(process, input.clone()))
    }

    async fn close_input(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
    ) -> Result<(), ProviderError> {
        at!(self, sandbox, Harmless, processes.close_input(process))
    }

    async fn signal(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        signal: ProcessSignal,
    ) -> Result<(), ProviderError> {
        at!(self, sandbox, Once, processes.signal(process, signal))
    }

    async fn resize(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        size: TerminalSize,
    ) -> Result<(), ProviderError> {
        at!(self, sandbox, Harmless, processes.resize(process, size))
    }
}

#[async_trait]
impl Contexts for Guarded {
    async fn create(
        &self,
        sandbox: SandboxId,
        cwd: Option<&str>,
    ) -> Result<Context, ProviderError> {
        at!(self, sandbox, Once, contexts.create(cwd))
    }

    async fn list(&self, sandbox: SandboxId) -> Result<Vec<Context>, ProviderError> {
        at!(self, sandbox, Look, contexts.list())
    }

    async fn restart(&self, sandbox: SandboxId, context: &ContextId) -> Result<(), ProviderError> {
        at!(self, sandbox, Once, contexts.restart(context))
    }

    async fn remove(&self, sandbox: SandboxId, context: &ContextId) -> Result<(), ProviderError> {
        at!(self, sandbox, Once, contexts.remove(context))
    }
}

#[async_trait]
impl Pausing for Guarded {
    async fn pause(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        at!(self, sandbox, Life, pausing.pause())
    }

    async fn resume(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        at!(self, sandbox, Life, pausing.resume())
    }
}

#[async_trait]
impl Ports for Guarded {
    async fn dial(
        &self,
        sandbox: SandboxId,
        port: u16,
    ) -> Result<Option<Box<dyn Duplex>>, ProviderError> {
        at!(self, sandbox, Harmless, ports.dial(port))
    }
}
