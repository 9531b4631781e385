//! Processes of a sandbox that live on their own: with an input, a terminal, and several readers.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use tokio::sync::mpsc;

use super::ProviderError;

/// Starts processes in sandboxes and attaches to them. A process ends by itself, by a signal, at
/// its deadline or with its sandbox; whoever reads it may come and go.
#[async_trait]
pub trait Processes: Send + Sync {
    /// Starts one in a session of its own. The first event is [`ProcessEvent::Started`].
    async fn start(
        &self,
        sandbox: SandboxId,
        request: StartRequest,
    ) -> Result<Attached, ProviderError>;

    /// Reads one from now on. Of one that ended, its end is told for ten minutes.
    async fn attach(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
    ) -> Result<Attached, ProviderError>;

    /// Those that run.
    async fn list(&self, sandbox: SandboxId) -> Result<Vec<ProcessInfo>, ProviderError>;

    /// Writes to its standard input or terminal; returns once it is written.
    async fn input(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        input: Input,
    ) -> Result<(), ProviderError>;

    /// Closes its standard input. Once more is no error.
    async fn close_input(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
    ) -> Result<(), ProviderError>;

    /// Sends a signal to its process group.
    async fn signal(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        signal: ProcessSignal,
    ) -> Result<(), ProviderError>;

    /// Changes the size of its terminal.
    async fn resize(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        size: TerminalSize,
    ) -> Result<(), ProviderError>;
}

/// A process that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartRequest {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// Environment beside the sandbox's own.
    pub env: BTreeMap<String, String>,
    /// Where it runs; without it `/home/user`.
    pub cwd: Option<String>,
    /// A name to find it by.
    pub tag: Option<String>,
    /// Where its standard input comes from.
    pub stdin: Stdin,
    /// Longest it may live, whoever reads it. At its end: SIGTERM, two seconds, SIGKILL.
    pub time_max: Option<Duration>,
}

/// Where a process reads from and writes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// The null device.
    #[default]
    Null,
    /// What its holder sends.
    Piped,
    /// A terminal of this size, which is its output, too.
    Terminal(TerminalSize),
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// Which process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessRef {
    /// By its id inside the sandbox.
    Pid(u32),
    /// By its name.
    Tag(String),
}

/// Bytes for a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// For its standard input.
    Stdin(Bytes),
    /// For its terminal.
    Terminal(Bytes),
}

/// A signal that can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSignal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// What a process does, from the moment of attachment on. Dropping it changes nothing for the
/// process.
pub type Attached = mpsc::Receiver<ProcessEvent>;

/// What a process did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs, with this id inside the sandbox. Always the first.
    Started {
        /// Process id inside.
        pid: u32,
    },
    /// It wrote to standard output.
    Stdout(Bytes),
    /// It wrote to standard error.
    Stderr(Bytes),
    /// It wrote to its terminal.
    Terminal(Bytes),
    /// It ended. Nothing follows.
    Ended(ProcessEnd),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// With this code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Its deadline ended it.
    Deadline,
    /// Its sandbox ended, or was paused under whoever read.
    Lost,
}

/// A process that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id inside.
    pub pid: u32,
    /// As it was started.
    pub arguments: Vec<String>,
    /// Environment it was started with, beside the sandbox's own.
    pub env: BTreeMap<String, String>,
    /// Where it was started.
    pub cwd: String,
    /// Its name.
    pub tag: Option<String>,
}

/// Why something could not be done with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessFault {
    /// It is not there.
    Missing,
    /// It has no standard input, or that is closed.
    NoInput,
    /// It has no terminal.
    NoTerminal,
    /// It has a terminal, and no input apart from that.
    HasTerminal,
}

impl std::fmt::Display for ProcessFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "was not found",
            Self::NoInput => "has no standard input, or it is closed",
            Self::NoTerminal => "has no terminal",
            Self::HasTerminal => "has a terminal: write to that, or end it by a signal",
        })
    }
}

impl std::fmt::Display for ProcessRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process with pid {pid}"),
            Self::Tag(tag) => write!(f, "process with tag `{tag}`"),
        }
    }
}
