//! The engine's ends of the sockets to its inner processes, and what is known of each sandbox's
//! processes. Filled by the hub, watched by whoever waits.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use sandpit_messages::id::SandboxId;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::super::cgroup::{Group, Placement};
use super::super::control::{End, FromInit, ToInit, ToKeeper};
use super::super::packet;
use super::template::Template;

/// Messages of one command that wait for whoever runs it. A command has three in its life.
pub(super) const COMMAND_EVENTS: usize = 8;

/// Longest a full socket is waited for. Inner processes read at once or are stuck.
const SEND_MAX: u32 = 500;

/// Pause between two attempts to send.
const SEND_PAUSE: Duration = Duration::from_millis(2);

/// A lock that a panic elsewhere does not close: what it guards is changed in single steps.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends, and waits a little where the other end does not keep up.
pub(super) async fn send(
    socket: &OwnedFd,
    message: &(impl Serialize + Sync),
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    for _ in 0..SEND_MAX {
        match packet::send(socket, message, files) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(SEND_PAUSE).await;
            }
            sent => return sent,
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// A keeper.
#[derive(Debug)]
pub(in super::super) struct Keeper {
    /// How we call it.
    pub(super) number: u64,
    pub(super) socket: OwnedFd,
    /// Which template it keeps.
    pub(super) template: Arc<Template>,
}

impl Keeper {
    /// Gives it an order.
    pub(super) async fn order(&self, order: &ToKeeper, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.socket, order, files).await
    }

    /// The same where nobody can wait; a full socket is an error.
    pub(super) fn order_now(&self, order: &ToKeeper, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        packet::send(&self.socket, order, files)
    }
}

/// How far a skeleton is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Ordered.
    Building,
    /// It stands. A handle of its init.
    Up(Arc<OwnedFd>),
    /// Nothing of it is left; why.
    Gone(Arc<str>),
}

/// How far a worker is.
#[derive(Clone, Debug)]
pub(super) enum WorkerStage {
    /// Ordered.
    Ordered,
    /// Locked down, as seen from outside.
    Verified {
        /// Its process id inside.
        pid: u32,
        /// A handle of it.
        handle: Arc<OwnedFd>,
    },
    /// It could not be made.
    Failed(Arc<str>),
    /// It ended.
    Gone(End),
}

/// Namespaces, root and init of one sandbox.
#[derive(Debug)]
pub(in super::super) struct Skeleton {
    pub(super) slot: u32,
    pub(super) keeper: Arc<Keeper>,
    pub(super) group: Group,
    /// To its init.
    pub(super) socket: OwnedFd,
    pub(super) stage: watch::Sender<Stage>,
    /// Which sandbox it became.
    pub(super) owner: Mutex<Option<SandboxId>>,
    /// Its end was asked for.
    pub(super) ending: AtomicBool,
    condemned: Mutex<Option<&'static str>>,
    /// Its group was told to stand still.
    pub(super) frozen: Mutex<bool>,
    /// The inode of its process namespace, once a worker has shown it.
    pub(super) namespace: OnceLock<u64>,
    /// It did not end in time: its number is never used again.
    pub(super) stuck: AtomicBool,
    /// Kills for lack of memory that were seen last.
    oom_kills: AtomicU64,
    workers: Mutex<BTreeMap<u64, watch::Sender<WorkerStage>>>,
    commands: Mutex<BTreeMap<u64, mpsc::Sender<FromInit>>>,
}

impl Skeleton {
    pub(super) fn new(slot: u32, keeper: Arc<Keeper>, group: Group, socket: OwnedFd) -> Self {
        Self {
            slot,
            keeper,
            group,
            socket,
            stage: watch::Sender::new(Stage::Building),
            owner: Mutex::new(None),
            ending: AtomicBool::new(false),
            condemned: Mutex::new(None),
            frozen: Mutex::new(false),
            namespace: OnceLock::new(),
            stuck: AtomicBool::new(false),
            oom_kills: AtomicU64::new(0),
            workers: Mutex::new(BTreeMap::new()),
            commands: Mutex::new(BTreeMap::new()),
        }
    }

    /// Kills everything in it because that was asked for. It is gone when its stage says so.
    pub(super) fn kill(&self) {
        self.ending.store(true, Ordering::Release);
        self.kill_all();
    }

    /// Kills everything in it because of what it did; its holder is told.
    pub(super) fn condemn(&self, why: &'static str) {
        lock(&self.condemned).get_or_insert(why);
        self.kill_all();
    }

    /// Why it is being killed, if nobody asked for that.
    pub(super) fn condemned(&self) -> Option<&'static str> {
        *lock(&self.condemned)
    }

    /// Whether it may still be used.
    pub(super) fn is_usable(&self) -> bool {
        !self.ending.load(Ordering::Acquire) && self.condemned().is_none() && self.is_up()
    }

    fn kill_all(&self) {
        if let Stage::Up(init) = &*self.stage.borrow() {
            // It may have ended, which is what is wanted.
            let _ = rustix::process::pidfd_send_signal(init, Signal::KILL);
        }
        // Where the kernel kills groups; elsewhere the namespace ends with its init.
        let _ = self.group.kill();
        // One that still builds is known to its keeper only. A keeper that does not listen is
        // dead or will be, and its sandboxes with it.
        let _ = self.keeper.order_now(&ToKeeper::Kill { slot: self.slot }, &[]);
        // What stands still cannot end, except where the kernel kills groups.
        let _ = self.thaw();
    }

    /// Processes of it that the kernel has killed for lack of memory. Known also when its group is
    /// gone.
    pub(super) fn oom_kills(&self) -> u64 {
        let seen = self.group.oom_kills().unwrap_or(0);
        self.oom_kills.fetch_max(seen, Ordering::AcqRel).max(seen)
    }

    /// The watchdog kills it for lack of memory.
    pub(super) fn note_oom_kill(&self) {
        self.oom_kills.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether it stands.
    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.stage.borrow(), Stage::Up(_))
    }

    /// Waits until it stands, or says why it does not.
    pub(super) async fn built(&self) -> Result<(), Arc<str>> {
        let mut stage = self.stage.subscribe();
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Building)).await;
        match settled.as_deref() {
            Ok(Stage::Gone(why)) => Err(Arc::clone(why)),
            // The sender is in `self`, so an end of the channel cannot be.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Waits until nothing of it is left.
    pub(super) async fn gone(&self) -> Arc<str> {
        let mut stage = self.stage.subscribe();
        let found = stage.wait_for(|stage| matches!(stage, Stage::Gone(_))).await;
        match found.as_deref() {
            Ok(Stage::Gone(why)) => Arc::clone(why),
            // The sender is in `self`.
            Ok(_) | Err(_) => Arc::from("it ended"),
        }
    }

    /// Begins to listen to a worker.
    pub(super) fn watch_worker(&self, worker: u64) -> watch::Receiver<WorkerStage> {
        let (sender, receiver) = watch::channel(WorkerStage::Ordered);
        lock(&self.workers).insert(worker, sender);
        receiver
    }

    /// A worker went on.
    pub(super) fn worker_is(&self, worker: u64, stage: WorkerStage) {
        let mut workers = lock(&self.workers);
        let last = matches!(stage, WorkerStage::Failed(_) | WorkerStage::Gone(_));
        if let Some(sender) = workers.get(&worker) {
            sender.send_replace(stage);
        }
        if last {
            workers.remove(&worker);
        }
    }

    /// Begins to listen to a command.
    pub(super) fn watch_command(&self, command: u64) -> mpsc::Receiver<FromInit> {
        let (sender, receiver) = mpsc::channel(COMMAND_EVENTS);
        lock(&self.commands).insert(command, sender);
        receiver
    }

    /// Init said something about a command.
    pub(super) fn command_said(&self, message: FromInit) {
        let (command, last) = match message {
            FromInit::Started { command, .. } => (command, false),
            FromInit::NotStarted { command, .. }
            | FromInit::Ended { command, .. }
            | FromInit::Counted { command, .. }
            | FromInit::Halted { command, .. } => (command, true),
        };
        let mut commands = lock(&self.commands);
        if let Some(sender) = commands.get(&command) {
            // Whoever ran it may have stopped listening.
            let _ = sender.try_send(message);
        }
        if last {
            commands.remove(&command);
        }
    }

    /// Gives init an order.
    pub(super) async fn order(&self, order: &ToInit, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.socket, order, files).await
    }

    /// The same where nobody can wait.
    pub(super) fn order_now(&self, order: &ToInit) -> io::Result<()> {
        packet::send(&self.socket, order, &[])
    }

    /// Nobody waits any longer for what cannot come.
    pub(super) fn cut(&self, why: &str) {
        // Before its group is removed.
        self.oom_kills();
        for (_, sender) in std::mem::take(&mut *lock(&self.workers)) {
            if matches!(&*sender.borrow(), WorkerStage::Ordered) {
                sender.send_replace(WorkerStage::Failed(Arc::from(why)));
            }
        }
        lock(&self.commands).clear();
    }

    /// Nothing is left of it.
    pub(super) fn is_gone(&self, why: &Arc<str>) {
        self.cut(why);
        self.stage.send_replace(Stage::Gone(Arc::clone(why)));
    }
}

/// How a process gets into a group, as it is sent to a keeper.
#[derive(Debug)]
pub(super) struct Place {
    /// Whether it is born there.
    pub(super) into: bool,
    files: Vec<OwnedFd>,
}

impl Place {
    /// Into this group.
    pub(super) fn of(group: &Group) -> io::Result<Self> {
        Ok(match group.placement()? {
            Placement::Nowhere => Self { into: false, files: Vec::new() },
            Placement::WriteZero(files) => Self { into: false, files },
            Placement::CloneInto(folder) => Self { into: true, files: vec![folder] },
        })
    }

    /// What is sent beside an order, after `first`.
    pub(super) fn after<'a>(&'a self, first: &[BorrowedFd<'a>]) -> Vec<BorrowedFd<'a>> {
        first.iter().copied().chain(self.files.iter().map(AsFd::as_fd)).collect()
    }
}
