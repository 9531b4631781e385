//! What engine, guardian, launcher, keeper, init and zygote say to each other: one JSON text per
//! packet, with descriptors beside it.
//!
//! Everything that speaks here is our own code, but a zygote runs what a template imported:
//! whatever it says is bounded and checked by the keeper.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::lockdown::Lockdown;
use super::plan::{Ids, Plan, Source};
use super::probe::ProbeBoot;

/// What a program of ours is told when it starts. Travels in a sealed file, because it may be
/// longer than a packet.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Boot {
    /// With the engine's socket and the program.
    Guardian(GuardianBoot),
    /// With the engine's socket and the program.
    Launcher(LauncherBoot),
    /// With the engine's socket.
    Keeper(Box<KeeperBoot>),
    /// With the socket to answer on, and what the trial needs.
    Probe(ProbeBoot),
}

/// What the guardian needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GuardianBoot {
    /// First of the ids that sandboxes are mapped to; `None` for an ordinary user.
    pub(super) uid_base: Option<u32>,
    /// What of the host may be seen below.
    pub(super) sources: Vec<Source>,
    /// Control groups of this engine, removed when it was killed.
    pub(super) groups: Vec<PathBuf>,
}

/// What the launcher needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LauncherBoot {
    /// Set when nobody with more rights has gathered them.
    pub(super) sources: Option<Vec<Source>>,
    /// How ids are mapped below.
    pub(super) ids: Ids,
}

/// What a keeper needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KeeperBoot {
    /// How ids are mapped below.
    pub(super) ids: Ids,
    /// The root of the template.
    pub(super) plan: Plan,
    /// What locks sandboxes down.
    pub(super) lockdown: Lockdown,
    /// How the zygote is started.
    pub(super) zygote: ZygoteSpec,
}

/// How a zygote is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ZygoteSpec {
    /// The interpreter, as seen inside.
    pub(super) python: String,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// All of its environment.
    pub(super) env: BTreeMap<String, String>,
    /// Run once after the imports.
    pub(super) warmup: String,
    /// Whether it gathers its memory in huge pages.
    pub(super) huge_pages: bool,
    /// Longest it may take until it serves, in milliseconds.
    pub(super) warm_max_ms: u64,
}

/// Engine to launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToLauncher {
    /// Start a keeper. With the keeper's socket and the sealed [`KeeperBoot`].
    Keeper {
        /// How the engine calls it.
        keeper: u64,
    },
}

/// Launcher to engine, through the guardian's socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromLauncher {
    /// It serves.
    Up,
    /// It cannot serve.
    Failed {
        /// Which step, and the error.
        why: String,
        /// The number of the error; 0 when there is none.
        errno: i32,
    },
    /// A keeper ended.
    KeeperGone {
        /// Which.
        keeper: u64,
        /// As `wait` encodes it.
        status: i32,
    },
}

/// Engine to keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// Start a zygote anew; the old one ends as soon as the new one serves. With what it needs to
    /// get into its group.
    Zygote {
        /// How the engine calls it.
        zygote: u64,
        /// Whether it is born in its group, or joins it.
        into: bool,
    },
    /// Build namespaces and root of a sandbox. With the engine's socket to its init, then the
    /// tasks files of its group.
    Skeleton {
        /// Number of the sandbox, unique among the living.
        slot: u32,
        /// Bounds of its files and pids.
        shape: Shape,
        /// Whether it is born in its group, or joins it.
        into: bool,
    },
    /// Fork a worker into a sandbox. With its channel, standard output, standard error, then the
    /// tasks files of its group.
    Worker {
        /// Which sandbox.
        slot: u32,
        /// How the engine calls it.
        worker: u64,
        /// Whether it is born in its group, or joins it.
        into: bool,
    },
    /// Kill a sandbox; answered when its init was reaped.
    Kill {
        /// Which sandbox.
        slot: u32,
    },
}

/// Keeper to engine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromKeeper {
    /// It cannot serve, and ends.
    Failed {
        /// Which step, and the error.
        why: String,
    },
    /// A zygote serves.
    ZygoteUp {
        /// Which.
        zygote: u64,
    },
    /// A zygote ended or hung and is gone.
    ZygoteGone {
        /// Which.
        zygote: u64,
        /// What happened, and the end of what it wrote to standard error.
        why: String,
        /// Whether it had served before.
        served: bool,
    },
    /// A skeleton stands and was verified. With a handle of its init.
    Skeleton {
        /// Which sandbox.
        slot: u32,
    },
    /// A skeleton could not be built; nothing of it is left.
    SkeletonFailed {
        /// Which sandbox.
        slot: u32,
        /// Which step, and the error.
        why: String,
    },
    /// A worker is locked down, as seen from outside. With a handle of it.
    Worker {
        /// Which sandbox.
        slot: u32,
        /// Which worker.
        worker: u64,
        /// Its process id inside.
        pid: u32,
    },
    /// A worker could not be made; nothing of it is left.
    WorkerFailed {
        /// Which sandbox.
        slot: u32,
        /// Which worker.
        worker: u64,
        /// What happened.
        why: String,
        /// It was not locked down as it must be: an alarm.
        breach: bool,
    },
    /// A worker ended.
    WorkerGone {
        /// Which sandbox.
        slot: u32,
        /// Which worker.
        worker: u64,
        /// How.
        end: End,
    },
    /// The init of a sandbox was reaped: no process of it is left.
    InitGone {
        /// Which sandbox.
        slot: u32,
        /// As `wait` encodes it.
        status: i32,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct End {
    /// As `wait` encodes it.
    pub(super) status: i32,
    /// Processor time in nanoseconds.
    pub(super) cpu_ns: u64,
    /// Most memory at once in bytes.
    pub(super) max_rss: u64,
}

impl From<super::sys::Reaped> for End {
    fn from(reaped: super::sys::Reaped) -> Self {
        Self {
            status: reaped.status,
            cpu_ns: u64::try_from(reaped.cpu.as_nanos()).unwrap_or(u64::MAX),
            max_rss: reaped.max_rss,
        }
    }
}

/// Bounds of one sandbox that are set while its root is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Bytes in `/home/user`.
    pub(super) home_bytes: u64,
    /// Bytes in `/tmp`.
    pub(super) tmp_bytes: u64,
    /// Bytes in `/dev/shm`.
    pub(super) shm_bytes: u64,
    /// Processes and threads.
    pub(super) pids: u32,
}

/// Engine to init.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToInit {
    /// Run a command. With the sealed [`Command`], what it reads, where it writes, and where its
    /// errors go.
    Run {
        /// How the engine calls it.
        command: u64,
    },
    /// Write files. With the sealed [`Files`] and their contents in one sealed file.
    Write {
        /// How the engine calls it.
        command: u64,
    },
    /// Run a command that lives on its own. With the sealed [`Command`] and what its `stdio` says.
    Start {
        /// How the engine calls it.
        command: u64,
        /// What it reads from and writes to.
        stdio: Stdio,
    },
    /// Do a [`super::job::Job`]. With its channel, and what the job needs beside it. Only the
    /// channel tells how it went.
    Job,
    /// Kill what is left of a session whose leader was reaped.
    KillLeft {
        /// The session.
        session: u32,
    },
    /// Kill every process of a session.
    KillSession {
        /// The session.
        session: u32,
    },
    /// Signal a command's group.
    Signal {
        /// Which command.
        command: u64,
        /// The number of the signal.
        signal: i32,
    },
    /// Let what is started from now on have so many bytes of data.
    Data {
        /// How many.
        bytes: u64,
    },
    /// Stop everything, or let it go on.
    Halt {
        /// How the engine calls the question.
        command: u64,
        /// Whether it stops.
        still: bool,
    },
    /// Count what runs.
    Count {
        /// How the engine calls the question.
        command: u64,
    },
}

/// What a command reads from and writes to, and which descriptors come with its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stdio {
    /// Standard input, output and error.
    Files,
    /// Standard output and error; the input is the null device.
    NoInput,
    /// A terminal of its own. With a packet socket that its other end is sent to.
    Terminal {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
}

/// What a command could not be started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hindrance {
    /// Where it should run.
    Folder,
    /// A terminal.
    Terminal,
    /// The program, or anything else.
    Program,
}

/// Init to engine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromInit {
    /// A command or writer runs.
    Started {
        /// Which.
        command: u64,
        /// Its process id inside.
        pid: u32,
    },
    /// It could not be started.
    NotStarted {
        /// Which.
        command: u64,
        /// Because of what.
        hindrance: Hindrance,
        /// The number of the error.
        errno: i32,
    },
    /// It ended.
    Ended {
        /// Which.
        command: u64,
        /// How.
        end: End,
        /// Processes it left running.
        survivors: u32,
    },
    /// Everything was told to stop, or to go on.
    Halted {
        /// Which question.
        command: u64,
        /// How much of it has not stopped.
        moving: u32,
    },
    /// What runs now, beside init.
    Counted {
        /// Which question.
        command: u64,
        /// How many.
        processes: u32,
        /// Bytes in its files.
        disk: u64,
    },
}

/// What init runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Command {
    /// Program and arguments.
    pub(super) arguments: Vec<String>,
    /// All of its environment.
    pub(super) env: BTreeMap<String, String>,
    /// Where it runs.
    pub(super) cwd: String,
}

/// What init writes: paths relative to `/home/user`, and how long each is in the file beside.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Files {
    /// Name and length, in the order of their contents.
    pub(super) files: Vec<(String, u64)>,
}

/// Keeper to zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ForkOrder {
    /// How the keeper calls the order.
    pub(super) order: u64,
    /// Whether the worker is born in its group, or joins it.
    pub(super) clone_into: bool,
}

/// Zygote to keeper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "lowercase")]
pub(super) enum FromZygote {
    /// Everything is imported and warm.
    Ready,
    /// The worker was cloned.
    Forked {
        /// Which order.
        order: u64,
        /// Its process id, as zygote and keeper number it.
        pid: i32,
    },
    /// It could not be.
    Failed {
        /// Which order.
        order: u64,
        /// The error.
        why: String,
    },
}
