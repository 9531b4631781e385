//! What a place where code runs can do: the embedded engine, a cloud, or a fake.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::sandbox::LimitsEnforced;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc};

pub mod contexts;
mod error;
pub mod files;
mod layer;
pub mod processes;

use crate::guard::decision::EndpointState;
use contexts::{ContextId, Contexts, Shown};
pub use error::{Class, ProviderError};
use files::Files;
pub use layer::{Archive, Arrival, Contents, ExportRequest, Layer, Piece};
use processes::Processes;

/// Makes sandboxes, runs code in them, destroys them.
///
/// Dropping a future of any of these leaks nothing: a sandbox whose `create` was dropped is
/// destroyed or found by `list`; an execution whose stream was dropped is interrupted.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync + 'static {
    /// What it is and what it enforces.
    fn descriptor(&self) -> Descriptor;

    /// Makes sure that a template can be used: builds what is missing, warms it up. May take
    /// minutes the first time and nothing after; `progress` hears what is being done.
    async fn prepare(
        &self,
        template: &str,
        progress: Progress,
    ) -> Result<TemplateInfo, ProviderError>;

    /// The templates it knows by name, prepared or not.
    fn templates(&self) -> Vec<String>;

    /// The template that a name stands for: itself, or the newest of those exported under it.
    /// `None` for a name it does not know.
    fn resolve(&self, template: &str) -> Option<String> {
        self.templates().into_iter().find(|known| known == template)
    }

    /// What people call a template: the other way round.
    fn title(&self, template: &str) -> String {
        template.to_owned()
    }

    /// Makes a template out of another one and what is put on top of it, or finds it made. Its
    /// name in the answer is one to create from. May take minutes the first time; dropping the
    /// future stops the work, and nothing half-made is ever used.
    async fn build(
        &self,
        _layer: &Layer,
        _progress: Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        Err(ProviderError::Unsupported { what: "building templates".to_owned() })
    }

    /// Writes a sandbox down as a template in one file. The same contents give the same file; a
    /// name that is taken gets a new version.
    async fn export(&self, _request: ExportRequest) -> Result<Archive, ProviderError> {
        Err(ProviderError::Unsupported { what: "exporting templates".to_owned() })
    }

    /// The templates that are there as files, by name and version.
    fn archives(&self) -> Vec<Archive> {
        Vec::new()
    }

    /// At most `bytes_max` bytes of an archive from `offset` on; nothing at its end.
    async fn read_archive(
        &self,
        _id: &str,
        _offset: u64,
        _bytes_max: usize,
    ) -> Result<Bytes, ProviderError> {
        Err(ProviderError::Unsupported { what: "exporting templates".to_owned() })
    }

    /// Takes a piece of an archive. With the last one it is checked, tried, and kept; whatever is
    /// wrong with it, nothing of it is.
    async fn import(&self, _piece: Piece) -> Result<Arrival, ProviderError> {
        Err(ProviderError::Unsupported { what: "importing templates".to_owned() })
    }

    /// Makes a sandbox that has answered a probe, under an id the caller minted. The same id
    /// twice is the same sandbox.
    async fn create(&self, request: CreateRequest) -> Result<Created, ProviderError>;

    /// Gives a ready sandbox to a holder: sets its environment and limits. No code of a holder
    /// ran in it before.
    async fn adopt(&self, sandbox: SandboxId, lease: Lease) -> Result<(), ProviderError>;

    /// Destroys a sandbox and all it holds. `Ok` only when it is verified to be gone; destroying
    /// what is gone is not an error.
    async fn destroy(&self, sandbox: SandboxId) -> Result<Destroyed, ProviderError>;

    /// Every sandbox that exists now: the truth that others compare themselves with.
    async fn list(&self) -> Result<Vec<SandboxInfo>, ProviderError>;

    /// Runs something. Events come in order and end with [`ExecEvent::Done`]. Cells of one sandbox
    /// run one after the other, in the order they came; commands run beside them.
    async fn exec(
        &self,
        sandbox: SandboxId,
        request: ExecRequest,
    ) -> Result<ExecStream, ProviderError>;

    /// Interrupts a running execution as if its time were over. Not an error if it ended already.
    async fn interrupt(&self, sandbox: SandboxId, exec: ExecId) -> Result<(), ProviderError>;

    /// Files of sandboxes, if it gives access to them; so with the next four.
    ///
    /// # Errors
    /// [`ProviderError::Unsupported`] if it does not.
    fn files(&self) -> Result<&dyn Files, ProviderError> {
        Err(ProviderError::unsupported("access to files"))
    }

    /// Processes that live on their own.
    ///
    /// # Errors
    /// [`ProviderError::Unsupported`] if it has none.
    fn processes(&self) -> Result<&dyn Processes, ProviderError> {
        Err(ProviderError::unsupported("a process of its own"))
    }

    /// Interpreters beside the default one.
    ///
    /// # Errors
    /// [`ProviderError::Unsupported`] if it has none.
    fn contexts(&self) -> Result<&dyn Contexts, ProviderError> {
        Err(ProviderError::unsupported("a second context"))
    }

    /// Stopping sandboxes without ending them.
    ///
    /// # Errors
    /// [`ProviderError::Unsupported`] if it cannot.
    fn pausing(&self) -> Result<&dyn Pausing, ProviderError> {
        Err(ProviderError::unsupported("pausing a sandbox"))
    }

    /// Reaching what listens inside a sandbox.
    ///
    /// # Errors
    /// [`ProviderError::Unsupported`] if it cannot.
    fn ports(&self) -> Result<&dyn Ports, ProviderError> {
        Err(ProviderError::unsupported("reaching a port of a sandbox"))
    }

    /// What a sandbox uses now.
    async fn sample(&self, sandbox: SandboxId) -> Result<Sample, ProviderError>;

    /// How the endpoints stand that it makes sandboxes at, in order; none if it makes them itself.
    fn endpoints(&self) -> Vec<EndpointState> {
        Vec::new()
    }

    /// Sandboxes that ended without being asked to. A hint: who must know lists.
    fn endings(&self) -> broadcast::Receiver<Ending>;
}

/// Stops sandboxes and lets them go on.
#[async_trait]
pub trait Pausing: Send + Sync {
    /// Stops everything in a sandbox. Time limits of what runs in it stand still; anything but
    /// resuming, listing and destroying it is [`ProviderError::Paused`] until then. One that is
    /// paused already stays so.
    async fn pause(&self, sandbox: SandboxId) -> Result<(), ProviderError>;

    /// Lets it go on where it stopped. One that runs goes on running.
    async fn resume(&self, sandbox: SandboxId) -> Result<(), ProviderError>;
}

/// Reaches what listens inside sandboxes.
#[async_trait]
pub trait Ports: Send + Sync {
    /// A TCP connection to a port of the sandbox's own loopback address; `None` if nobody listens
    /// there.
    async fn dial(
        &self,
        sandbox: SandboxId,
        port: u16,
    ) -> Result<Option<Box<dyn Duplex>>, ProviderError>;
}

/// A connection that is read and written.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Duplex")
    }
}

/// What a provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// `local`, `fake`, ..
    pub kind: &'static str,
    /// What holds sandboxes apart, in one word.
    pub isolation: String,
    /// How their limits hold.
    pub limits_enforced: LimitsEnforced,
}

/// Hears what a long preparation is doing.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Step<'_>) + Send + Sync>);

/// One step of a preparation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step<'a> {
    /// What is being done, in a few words.
    pub stage: &'a str,
    /// How far all of it is, 0 to 1; `None` where nobody can tell.
    pub share: Option<f64>,
}

impl Progress {
    /// Calls `hear` at each step.
    pub fn new(hear: impl Fn(Step<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Nobody listens.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    /// Says what is being done.
    pub fn say(&self, stage: &str, share: Option<f64>) {
        (self.0)(Step { stage, share });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// A template that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateInfo {
    /// Its name.
    pub name: String,
    /// SHA-256 in hex over everything that makes a difference to what runs in it.
    pub digest: String,
    /// What its sandboxes get unless asked otherwise.
    pub limits: Limits,
}

/// What a sandbox may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Processors.
    pub cpu_count: u32,
}

/// A sandbox that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRequest {
    /// Its id.
    pub sandbox: SandboxId,
    /// The name of a prepared template.
    pub template: String,
}

/// A sandbox that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub sandbox: SandboxId,
    /// The digest of the template it was made from.
    pub digest: String,
}

/// What a holder gets with a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Environment of everything that runs in it.
    pub env: BTreeMap<String, String>,
    /// Other limits than the template's. A provider that cannot hold them refuses.
    pub limits: Option<Limits>,
}

/// A sandbox is verified to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// Whether it was there.
    pub was_there: bool,
}

/// A sandbox that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxInfo {
    /// Its id.
    pub sandbox: SandboxId,
    /// Its template.
    pub template: String,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A cell in the sandbox's interpreter.
    Cell {
        /// Python.
        code: String,
        /// JSON that the cell finds in its variable `params`.
        params: Option<String>,
        /// Where it runs; without it in the default context.
        context: Option<ContextId>,
    },
    /// A line for `/bin/sh -c`.
    Line(String),
    /// A program and its arguments.
    Program(Vec<String>),
}

/// One execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// Its id.
    pub exec: ExecId,
    /// What to run.
    pub work: Work,
    /// Files written first, name (relative to `/home/user`) to contents.
    pub files: BTreeMap<String, Bytes>,
    /// Environment of this run alone.
    pub env: BTreeMap<String, String>,
    /// Where it runs; without it a command in `/home/user`, and a cell where its context is: where
    /// that began, or where an earlier cell went.
    pub cwd: Option<String>,
    /// What a command reads from its standard input.
    pub stdin: Bytes,
    /// Longest it may take.
    pub time_max: Duration,
}

/// What happens while something runs.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecEvent {
    /// It began, as this process inside the sandbox.
    Started {
        /// Process id inside.
        pid: u32,
        /// How many cells its context has begun with this one, from 1 on; `None` for a command.
        count: Option<u64>,
    },
    /// It wrote to standard output.
    Stdout(Bytes),
    /// It wrote to standard error.
    Stderr(Bytes),
    /// A cell shows something: the value of its last expression, or what it asked to be shown.
    Shown(Shown),
    /// A cell raised.
    Raised {
        /// Class of the exception.
        name: String,
        /// Its text.
        value: String,
        /// The traceback.
        traceback: String,
    },
    /// It ended. Nothing follows.
    Done(Done),
}

/// How an execution ended, as seen from outside the sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// How.
    pub outcome: Outcome,
    /// Whether variables of earlier cells are still there.
    pub context_kept: bool,
    /// Whether the sandbox can be used again.
    pub sandbox_usable: bool,
    /// Bytes of standard output beyond what is passed on.
    pub stdout_dropped: u64,
    /// Bytes of standard error beyond what is passed on.
    pub stderr_dropped: u64,
    /// From start to end.
    pub wall: Duration,
    /// Processor time.
    pub cpu: Duration,
    /// Most memory of its process at once, in bytes.
    pub max_rss: u64,
    /// Processes it left running.
    pub survivors: u32,
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A cell ran to its end.
    Ok,
    /// A cell raised an exception.
    Raised,
    /// The process ended with this code.
    Exit(i32),
    /// This signal, not sent by us, ended the process.
    Signal(i32),
    /// The time limit or an interrupt ended it, and it heeded the request to stop.
    Interrupted {
        /// Whether it was the time limit.
        timed_out: bool,
    },
    /// It was killed.
    Killed(KilledBy),
    /// The sandbox ended under it.
    Lost,
}

/// Why something was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KilledBy {
    /// It did not stop at its time limit.
    Timeout,
    /// It did not stop when it was interrupted.
    Interrupt,
    /// Memory.
    Memory,
    /// More output than is ever read.
    Output,
    /// It broke the protocol between worker and engine.
    Protocol,
    /// Its context was begun anew or removed under it.
    Restart,
}

/// The events of one execution. Dropping it before the end interrupts the execution.
#[derive(Debug)]
pub struct ExecStream {
    events: mpsc::Receiver<ExecEvent>,
}

impl ExecStream {
    /// What comes through `events`; the sender notices when the receiver is gone.
    pub fn new(events: mpsc::Receiver<ExecEvent>) -> Self {
        Self { events }
    }

    /// The next event. `None` only after [`ExecEvent::Done`], or when the provider failed.
    pub async fn next(&mut self) -> Option<ExecEvent> {
        self.events.recv().await
    }
}

/// What a sandbox uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Processor time so far.
    pub cpu: Duration,
    /// Processors it may use at once.
    pub cpu_count: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Of those, bytes of files; 0 where nobody counts them apart.
    pub memory_cache: u64,
    /// Most memory it may use, in bytes.
    pub memory_max: u64,
    /// Bytes in its files.
    pub disk: u64,
    /// Most bytes that its files may have together.
    pub disk_max: u64,
    /// Processes alive.
    pub processes: u32,
    /// `cgroup` or `proc`.
    pub source: &'static str,
}

/// A sandbox ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Which.
    pub sandbox: SandboxId,
    /// In a word or two.
    pub why: &'static str,
}
