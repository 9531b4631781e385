//! The engine as a [`Provider`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use sandpit_messages::id::{ExecId, SandboxId};
use tokio::sync::{Notify, broadcast, mpsc};

use super::super::cgroup::GroupLimits;
use super::super::control::{FromInit, ToInit};
use super::super::lockdown::rlimits::{self, MEMORY_MAX, SumHeldBy};
use super::super::mode::Mode;
use super::super::plan::Ids;
use super::super::probe;
use super::link::{Keeper, Skeleton, lock};
use super::sandbox::{Entry, NoWorker, Sandbox};
use super::template::Template;
use super::{Engine, LocalProvider, MIB, group_limits, run};
use crate::provider::contexts::Contexts;
use crate::provider::files::Files;
use crate::provider::processes::Processes;
use crate::provider::{
    Archive, Arrival, CreateRequest, Created, Descriptor, Destroyed, Ending, ExecRequest,
    ExecStream, ExportRequest, Layer, Lease, Limits, Pausing, Piece, Ports, Progress, Provider,
    ProviderError, Sample, SandboxInfo, TemplateInfo, Work,
};

/// Our own programs, as sandboxes see them below `/opt/sandpit`.
pub(super) const PROGRAMS: [(&str, &str); 7] = [
    ("home.py", include_str!("../../../python/home.py")),
    ("magic.py", include_str!("../../../python/magic.py")),
    ("notebook/IPython/__init__.py", include_str!("../../../python/notebook/IPython/__init__.py")),
    ("notebook/IPython/display.py", include_str!("../../../python/notebook/IPython/display.py")),
    ("shown.py", include_str!("../../../python/shown.py")),
    ("worker.py", include_str!("../../../python/worker.py")),
    ("zygote.py", include_str!("../../../python/zygote.py")),
];

/// Longest a zygote may import and warm up. numpy and pandas take half a second.
pub(super) const WARM_MAX_MS: u64 = 60_000;

/// What the zygotes of one template may use: all its packages are imported here once.
pub(super) const ZYGOTE_LIMITS: GroupLimits =
    GroupLimits { memory: 2048 * MIB, pids: 64, cpu_milli: 2_000 };

/// Events of one execution that wait for its caller. Output beyond is kept beside them and
/// counted against the same bound.
const EVENTS_MAX: usize = 16;

/// Programs are looked for here.
const PATH: &str = "/opt/env/bin:/opt/python/bin:/usr/local/bin:/usr/bin:/bin";

#[async_trait]
impl Provider for LocalProvider {
    fn descriptor(&self) -> Descriptor {
        let isolation = match (self.engine.ids, probe::is_contained()) {
            (Ids::Own, _) => Mode::Privileged,
            (Ids::Shared, false) => Mode::Unprivileged,
            (Ids::Shared, true) => Mode::Container,
        };
        Descriptor {
            kind: "local",
            isolation: isolation.name().to_owned(),
            limits_enforced: self.engine.enforced.clone(),
        }
    }

    async fn prepare(
        &self,
        template: &str,
        progress: Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        self.engine.prepare(template, &progress).await
    }

    fn templates(&self) -> Vec<String> {
        let configured = self.engine.options.templates.keys().cloned();
        configured.chain(lock(&self.engine.library).ids().cloned()).collect()
    }

    fn resolve(&self, template: &str) -> Option<String> {
        if self.engine.options.templates.contains_key(template) {
            return Some(template.to_owned());
        }
        lock(&self.engine.library).resolve(template).map(str::to_owned)
    }

    fn title(&self, template: &str) -> String {
        let title = lock(&self.engine.library).title(template);
        title.unwrap_or_else(|| template.to_owned())
    }

    async fn build(
        &self,
        layer: &Layer,
        progress: Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        self.engine.build_layer(layer, progress).await
    }

    async fn export(&self, request: ExportRequest) -> Result<Archive, ProviderError> {
        self.engine.export(request).await
    }

    fn archives(&self) -> Vec<Archive> {
        self.engine.archives()
    }

    async fn read_archive(
        &self,
        id: &str,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Bytes, ProviderError> {
        self.engine.read_archive(id, offset, bytes_max).await
    }

    async fn import(&self, piece: Piece) -> Result<Arrival, ProviderError> {
        self.engine.import(piece).await
    }

    async fn create(&self, request: CreateRequest) -> Result<Created, ProviderError> {
        self.engine.create(&request).await
    }

    async fn adopt(&self, sandbox: SandboxId, lease: Lease) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        self.engine.adopt(&sandbox, lease).await
    }

    async fn destroy(&self, sandbox: SandboxId) -> Result<Destroyed, ProviderError> {
        self.engine.destroy(sandbox).await
    }

    async fn list(&self) -> Result<Vec<SandboxInfo>, ProviderError> {
        let made = lock(&self.engine.sandboxes);
        let made = made.values().filter_map(|entry| entry.made.get());
        let info = |sandbox: &Arc<Sandbox>| SandboxInfo {
            sandbox: sandbox.id,
            template: sandbox.template.info.name.clone(),
        };
        Ok(made.map(info).collect())
    }

    async fn exec(
        &self,
        sandbox: SandboxId,
        request: ExecRequest,
    ) -> Result<ExecStream, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let context = match &request.work {
            Work::Cell { context, .. } => context.as_ref(),
            Work::Line(_) | Work::Program(_) => None,
        };
        let turn = sandbox.contexts.turn(context)?;
        let queued_max = self.engine.options.bounds.queued_max;
        let queued = sandbox.queued.fetch_add(1, Ordering::AcqRel);
        let place = run::Queued::new(Arc::clone(&sandbox));
        if queued >= queued_max {
            return Err(ProviderError::Busy { queued: queued_max });
        }
        let interrupt = Arc::new(Notify::new());
        lock(&sandbox.runs).insert(request.exec, Arc::clone(&interrupt));
        let (events, stream) = mpsc::channel(EVENTS_MAX);
        let engine = Arc::clone(&self.engine);
        tokio::spawn(run::run(engine, place, turn, request, interrupt, events));
        Ok(ExecStream::new(stream))
    }

    async fn interrupt(&self, sandbox: SandboxId, exec: ExecId) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let run = lock(&sandbox.runs).get(&exec).cloned();
        // One permit is kept for an execution that has not begun to listen.
        run.iter().for_each(|run| run.notify_one());
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

    fn ports(&self) -> Result<&dyn Ports, ProviderError> {
        Ok(self)
    }

    fn pausing(&self) -> Result<&dyn Pausing, ProviderError> {
        Ok(self)
    }

    async fn sample(&self, sandbox: SandboxId) -> Result<Sample, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        self.engine.sample(&sandbox).await
    }

    fn endings(&self) -> broadcast::Receiver<Ending> {
        self.engine.endings.subscribe()
    }
}

pub(super) fn failed(why: impl ToString) -> ProviderError {
    ProviderError::Failed { why: why.to_string(), maybe_done: false }
}

// Environments.
impl Engine {
    /// Environment of every process in a sandbox, before its holder's.
    pub(super) fn base_env(&self) -> BTreeMap<String, String> {
        let mut env: BTreeMap<String, String> = [
            ("PATH", PATH),
            ("HOME", "/home/user"),
            ("USER", "user"),
            ("LOGNAME", "user"),
            ("LANG", "C.UTF-8"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            // One thread each: a threaded zygote cannot fork safely, and a sandbox has one
            // processor.
            ("OPENBLAS_NUM_THREADS", "1"),
            ("OMP_NUM_THREADS", "1"),
            ("MKL_NUM_THREADS", "1"),
            ("NUMEXPR_NUM_THREADS", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if let Some(path) = self.interpreter.library_path() {
            env.insert("LD_LIBRARY_PATH".to_owned(), path.to_string_lossy().into_owned());
        }
        env
    }
}

/// A skeleton that was built for a `create`, which may be gone when it arrives.
struct Unclaimed(Option<Arc<Skeleton>>);

impl Unclaimed {
    fn new(skeleton: Arc<Skeleton>) -> Self {
        Self(Some(skeleton))
    }

    fn claim(mut self) -> Arc<Skeleton> {
        self.0.take().expect("claimed once")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        self.0.iter().for_each(|skeleton| skeleton.kill());
    }
}

/// Gives up what a `create` that was dropped or failed had begun.
struct Making<'a> {
    engine: &'a Engine,
    sandbox: SandboxId,
    entry: &'a Arc<Entry>,
    skeleton: Option<Arc<Skeleton>>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if self.entry.made.initialized() && !self.entry.unwanted.load(Ordering::Acquire) {
            return;
        }
        if let Some(skeleton) = &self.skeleton {
            skeleton.kill();
        }
        let mut sandboxes = lock(&self.engine.sandboxes);
        let ours = sandboxes.get(&self.sandbox).is_some_and(|entry| Arc::ptr_eq(entry, self.entry));
        if ours && !self.entry.made.initialized() {
            sandboxes.remove(&self.sandbox);
        }
    }
}

// Sandboxes.
impl Engine {
    /// One that may be used.
    pub(super) fn find(&self, sandbox: SandboxId) -> Result<Arc<Sandbox>, ProviderError> {
        let found = self.find_paused_too(sandbox)?;
        if found.pause.is_on() { Err(ProviderError::Paused(sandbox)) } else { Ok(found) }
    }

    /// The same, paused or not.
    pub(super) fn find_paused_too(
        &self,
        sandbox: SandboxId,
    ) -> Result<Arc<Sandbox>, ProviderError> {
        let entry = lock(&self.sandboxes).get(&sandbox).cloned();
        entry
            .and_then(|entry| entry.made.get().cloned())
            .filter(|sandbox| sandbox.skeleton.is_usable())
            .ok_or(ProviderError::Gone(sandbox))
    }

    async fn create(self: &Arc<Self>, request: &CreateRequest) -> Result<Created, ProviderError> {
        let name = &request.template;
        let template = lock(&self.templates).get(name).cloned();
        let unknown = || match self.options.templates.contains_key(name) {
            true => failed(format!("template `{name}` is not prepared")),
            false if lock(&self.library).recipe(name).is_some() => {
                failed(format!("template `{name}` is not prepared"))
            }
            false => ProviderError::NoSuchTemplate { name: name.clone() },
        };
        let template = template.ok_or_else(unknown)?;
        let entry = {
            let mut sandboxes = lock(&self.sandboxes);
            let max = self.sandboxes_max();
            if sandboxes.len() >= max && !sandboxes.contains_key(&request.sandbox) {
                return Err(ProviderError::Quota { what: format!("sandboxes: {max} at most") });
            }
            Arc::clone(sandboxes.entry(request.sandbox).or_default())
        };
        let mut making =
            Making { engine: self, sandbox: request.sandbox, entry: &entry, skeleton: None };
        entry
            .made
            .get_or_try_init(|| self.make(request.sandbox, &template, &mut making.skeleton))
            .await?;
        if entry.unwanted.load(Ordering::Acquire) {
            return Err(ProviderError::Gone(request.sandbox));
        }
        let digest = template.info.digest.clone();
        Ok(Created { sandbox: request.sandbox, digest })
    }

    /// Makes one; tries once more where the zygote or the skeleton was at fault.
    async fn make(
        self: &Arc<Self>,
        id: SandboxId,
        template: &Arc<Template>,
        kept: &mut Option<Arc<Skeleton>>,
    ) -> Result<Arc<Sandbox>, ProviderError> {
        let mut again = true;
        loop {
            let keeper = template.up().await?;
            let error = match self.try_make(id, template, &keeper, kept).await {
                Ok(sandbox) => return Ok(sandbox),
                Err(error) => error,
            };
            if let Some(skeleton) = kept.take() {
                skeleton.kill();
            }
            if !std::mem::take(&mut again) || !error.is_transient() {
                return Err(error);
            }
            tracing::debug!(%error, "a sandbox could not be made; trying once more");
        }
    }

    pub(super) async fn try_make(
        self: &Arc<Self>,
        id: SandboxId,
        template: &Arc<Template>,
        keeper: &Arc<Keeper>,
        kept: &mut Option<Arc<Skeleton>>,
    ) -> Result<Arc<Sandbox>, ProviderError> {
        let skeleton = match template.take_spare() {
            Some(skeleton) => skeleton,
            None => {
                let (engine, keeper) = (Arc::clone(self), Arc::clone(keeper));
                let limits = group_limits(template.info.limits, self.options.bounds.pids);
                // Making a group waits for the kernel.
                let build = move || engine.build_skeleton(&keeper, limits).map(Unclaimed::new);
                tokio::task::spawn_blocking(build)
                    .await
                    .map_err(failed)?
                    .map_err(no_skeleton)?
                    .claim()
            }
        };
        *kept = Some(Arc::clone(&skeleton));
        *lock(&skeleton.owner) = Some(id);
        // The zygote forks while the skeleton stands up.
        let worker = self.attach(template, &skeleton).await;
        self.want_spares(template);
        if let Err(why) = skeleton.built().await {
            return Err(failed(format!("its namespaces could not be built: {why}")));
        }
        let worker = worker.map_err(|NoWorker(why)| failed(format!("no worker: {why}")))?;
        let sandbox = Sandbox::new(id, Arc::clone(template), skeleton);
        sandbox.oom_kills.store(sandbox.skeleton.oom_kills(), Ordering::Release);
        if let Some(home) = template.top.home.get() {
            self.unpack_home(&sandbox, home).await?;
        }
        if !template.top.env.is_empty() {
            sandbox.tell(&worker).await.map_err(failed)?;
        }
        *sandbox.contexts.default.worker.lock().await = Some(worker);
        Ok(Arc::new(sandbox))
    }

    async fn adopt(&self, sandbox: &Sandbox, lease: Lease) -> Result<(), ProviderError> {
        if let Some(limits) = lease.limits {
            self.relimit(sandbox, limits).await?;
        }
        let mut env = sandbox.template.top.env.clone();
        env.extend(lease.env);
        *lock(&sandbox.env) = env;
        for context in sandbox.contexts.all() {
            if let Some(worker) = &*context.worker.lock().await {
                sandbox.tell(worker).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Other limits than the template's.
    async fn relimit(&self, sandbox: &Sandbox, limits: Limits) -> Result<(), ProviderError> {
        let unsupported = |what: String| Err(ProviderError::Unsupported { what });
        if limits == sandbox.template.info.limits {
            return Ok(());
        }
        if self.held_by == SumHeldBy::Watchdog {
            return unsupported("changing limits without control groups".to_owned());
        }
        let memory = u64::from(limits.memory_mb) * MIB;
        if memory > MEMORY_MAX {
            return unsupported(format!("more than {} MiB of memory", MEMORY_MAX / MIB));
        }
        let group = group_limits(limits, self.options.bounds.pids);
        sandbox.skeleton.group.set_limits(group).map_err(failed)?;
        *lock(&sandbox.limits) = limits;
        let bytes = rlimits::data_of(memory);
        *lock(&sandbox.data) = Some(bytes);
        sandbox.skeleton.order(&ToInit::Data { bytes }, &[]).await.map_err(failed)
    }

    async fn destroy(&self, id: SandboxId) -> Result<Destroyed, ProviderError> {
        let entry = lock(&self.sandboxes).get(&id).cloned();
        let Some(entry) = entry else { return Ok(Destroyed { was_there: false }) };
        entry.unwanted.store(true, Ordering::Release);
        let Some(sandbox) = entry.made.get() else {
            return Err(failed("it is still being made, and ends as soon as it is"));
        };
        sandbox.skeleton.kill();
        let gone = tokio::time::timeout(self.options.bounds.destroy_max, sandbox.skeleton.gone());
        if gone.await.is_ok() {
            return Ok(Destroyed { was_there: true });
        }
        sandbox.skeleton.stuck.store(true, Ordering::Release);
        tracing::error!(sandbox = %id, "a sandbox is stuck; what holds it is kept out of use");
        Err(ProviderError::Failed {
            why: "it was killed and is not gone yet; it counts until it is".to_owned(),
            maybe_done: true,
        })
    }

    async fn sample(&self, sandbox: &Sandbox) -> Result<Sample, ProviderError> {
        let skeleton = &sandbox.skeleton;
        let question = self.number();
        let mut answers = skeleton.watch_command(question);
        skeleton.order(&ToInit::Count { command: question }, &[]).await.map_err(failed)?;
        let gone = ProviderError::Gone(sandbox.id);
        let Some(FromInit::Counted { processes, disk, .. }) = answers.recv().await else {
            return Err(gone);
        };
        let used = skeleton.group.usage().map_err(failed)?;
        let source = if used.is_some() { "cgroup" } else { "proc" };
        let used = used.unwrap_or_else(|| run::usage_by_proc(sandbox));
        let limits = *lock(&sandbox.limits);
        let bounds = &self.options.bounds;
        Ok(Sample {
            cpu: used.cpu,
            cpu_count: limits.cpu_count,
            memory: used.memory,
            memory_cache: used.memory_cache,
            memory_max: u64::from(limits.memory_mb) * MIB,
            disk,
            disk_max: bounds.home_bytes + bounds.tmp_bytes + bounds.shm_bytes,
            processes: if source == "cgroup" { used.pids } else { processes },
            source,
        })
    }
}

fn no_skeleton(error: std::io::Error) -> ProviderError {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC) => {
            ProviderError::Quota { what: format!("what this machine gives ({error})") }
        }
        _ if error.kind() == std::io::ErrorKind::QuotaExceeded => {
            ProviderError::Quota { what: "numbers for sandboxes".to_owned() }
        }
        _ => failed(error),
    }
}
