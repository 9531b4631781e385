//! Contexts of a sandbox: each is a worker with variables of its own, and the queue of cells that
//! wait for it. Cells of one context run one after the other, contexts beside each other.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sandpit_messages::id::SandboxId;
use tokio::sync::watch;

use super::LocalProvider;
use super::job::fault;
use super::link::lock;
use super::provider::failed;
use super::run::HOME;
use super::sandbox::{NoWorker, Worker};
use crate::provider::ProviderError;
use crate::provider::contexts::{self, ContextId};

/// Contexts of one sandbox at once, the default one among them. Each is an interpreter, and a
/// sandbox may have 128 processes and threads in all.
const CONTEXTS_MAX: usize = 16;

/// What the default context is called.
const DEFAULT: &str = "default";

/// What all of them understand.
const LANGUAGE: &str = "python";

/// One context.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) id: ContextId,
    /// Where its worker begins.
    pub(super) cwd: String,
    /// Its worker, unless that ended; who holds the lock runs a cell. First come, first served.
    pub(super) worker: tokio::sync::Mutex<Option<Worker>>,
    /// Raised when it begins anew: cells of an earlier life end.
    life: watch::Sender<u64>,
}

/// A cell's place in the queue of a context.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) context: Arc<Context>,
    /// Changes when the context begins anew under the cell.
    pub(super) life: watch::Receiver<u64>,
}

/// All of one sandbox.
#[derive(Debug)]
pub(super) struct Contexts {
    pub(super) default: Arc<Context>,
    more: Mutex<More>,
}

/// Those beside the default one.
#[derive(Debug, Default)]
struct More {
    living: BTreeMap<ContextId, Arc<Context>>,
    /// How many there were. An id is never used again.
    made: u64,
}

impl Context {
    fn new(id: ContextId, cwd: &str) -> Self {
        Self {
            id,
            cwd: cwd.to_owned(),
            worker: tokio::sync::Mutex::new(None),
            life: watch::Sender::new(0),
        }
    }

    /// A place in its queue.
    pub(super) fn turn(self: &Arc<Self>) -> Turn {
        Turn { context: Arc::clone(self), life: self.life.subscribe() }
    }

    /// Ends what runs in it and what waits for it, then its worker.
    async fn end(&self) -> tokio::sync::MutexGuard<'_, Option<Worker>> {
        self.life.send_modify(|life| *life += 1);
        let mut worker = self.worker.lock().await;
        *worker = None;
        worker
    }

    fn info(&self) -> contexts::Context {
        contexts::Context {
            id: self.id.clone(),
            language: LANGUAGE.to_owned(),
            cwd: self.cwd.clone(),
            is_default: self.id.0 == DEFAULT,
        }
    }
}

impl Default for Contexts {
    fn default() -> Self {
        let default = Arc::new(Context::new(ContextId(DEFAULT.to_owned()), HOME));
        Self { default, more: Mutex::default() }
    }
}

impl Contexts {
    /// A place in the queue of a context; without a name, of the default one.
    pub(super) fn turn(&self, id: Option<&ContextId>) -> Result<Turn, ProviderError> {
        Ok(match id {
            Some(id) => self.find(id)?.turn(),
            None => self.default.turn(),
        })
    }

    /// All of them, the default one first.
    pub(super) fn all(&self) -> Vec<Arc<Context>> {
        let more = lock(&self.more);
        [&self.default].into_iter().chain(more.living.values()).map(Arc::clone).collect()
    }

    fn find(&self, id: &ContextId) -> Result<Arc<Context>, ProviderError> {
        if *id == self.default.id {
            return Ok(Arc::clone(&self.default));
        }
        let found = lock(&self.more).living.get(id).cloned();
        found.ok_or_else(|| ProviderError::NoSuchContext(id.clone()))
    }

    /// Makes room for one more, which has no worker yet.
    fn add(&self, cwd: &str) -> Result<Added<'_>, ProviderError> {
        let mut more = lock(&self.more);
        if more.living.len() + 1 >= CONTEXTS_MAX {
            let what = format!("contexts: {CONTEXTS_MAX} at most in one sandbox");
            return Err(ProviderError::Quota { what });
        }
        more.made += 1;
        let context = Arc::new(Context::new(ContextId(format!("c{}", more.made)), cwd));
        more.living.insert(context.id.clone(), Arc::clone(&context));
        Ok(Added { contexts: self, context, kept: false })
    }

    fn remove(&self, id: &ContextId) -> Option<Arc<Context>> {
        lock(&self.more).living.remove(id)
    }
}

/// A context that nobody knows yet, and that goes again unless it is kept.
struct Added<'a> {
    contexts: &'a Contexts,
    context: Arc<Context>,
    kept: bool,
}

impl Drop for Added<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.contexts.remove(&self.context.id);
        }
    }
}

fn no_worker(NoWorker(why): NoWorker) -> ProviderError {
    failed(format!("no worker: {why}"))
}

#[async_trait]
impl contexts::Contexts for LocalProvider {
    async fn create(
        &self,
        sandbox: SandboxId,
        cwd: Option<&str>,
    ) -> Result<contexts::Context, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let mut added = sandbox.contexts.add(cwd.unwrap_or(HOME))?;
        let begun = self.engine.attach_again(&sandbox, &added.context).await;
        let (worker, went) = begun.map_err(no_worker)?;
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        went.map_err(|error| fault(errno(error), &added.context.cwd))?;
        *added.context.worker.lock().await = Some(worker);
        added.kept = true;
        Ok(added.context.info())
    }

    async fn list(&self, sandbox: SandboxId) -> Result<Vec<contexts::Context>, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        Ok(sandbox.contexts.all().iter().map(|context| context.info()).collect())
    }

    async fn restart(&self, sandbox: SandboxId, id: &ContextId) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let context = sandbox.contexts.find(id)?;
        let mut place = context.end().await;
        // Where its folder is gone it begins at home.
        let (worker, _at_home) =
            self.engine.attach_again(&sandbox, &context).await.map_err(no_worker)?;
        *place = Some(worker);
        Ok(())
    }

    async fn remove(&self, sandbox: SandboxId, id: &ContextId) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let context = sandbox.contexts.find(id)?;
        sandbox.contexts.remove(id);
        drop(context.end().await);
        Ok(())
    }
}
