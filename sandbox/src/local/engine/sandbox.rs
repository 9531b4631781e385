//! A sandbox as the engine knows it: a skeleton, and the workers that keep its variables.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use sandpit_messages::id::{ExecId, SandboxId};
use tokio::io::Interest;
use tokio::sync::{Notify, OnceCell, Semaphore, watch};

use super::super::cgroup::none;
use super::super::control::{ToInit, ToKeeper};
use super::super::lockdown::rlimits::SumHeldBy;
use super::super::sys;
use super::super::wire::{Decoder, Frame, Order, PROTOCOL};
use super::contexts::{Context, Contexts};
use super::job::JOBS_MAX;
use super::link::{Place, Skeleton, WorkerStage, lock};
use super::pause::Pause;
use super::ports::CONNECTIONS_MAX;
use super::processes::Table;
use super::run::HOME;
use super::watches::Watches;
use super::{Engine, Template};
use crate::provider::Limits;

/// Longest a worker may take from its order to its hello. It takes about 3 ms; the keeper gives
/// up before.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// Bytes read from one descriptor before others have their turn.
pub(super) const READ_MAX: usize = 64 * 1024;

/// A sandbox that exists or is being made.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) made: OnceCell<Arc<Sandbox>>,
    /// Nobody wants it any more.
    pub(super) unwanted: AtomicBool,
}

/// One sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: SandboxId,
    pub(super) template: Arc<Template>,
    pub(super) skeleton: Arc<Skeleton>,
    pub(super) contexts: Contexts,
    /// Whether it is paused, and its clock.
    pub(super) pause: Pause,
    /// Executions that run or wait.
    pub(super) queued: AtomicUsize,
    /// Of its template, and of its holder.
    pub(super) env: Mutex<BTreeMap<String, String>>,
    /// What it may use now.
    pub(super) limits: Mutex<Limits>,
    /// Bytes of data of each process, if its holder asked for other limits than the template's.
    pub(super) data: Mutex<Option<u64>>,
    /// Executions that can be interrupted.
    pub(super) runs: Mutex<BTreeMap<ExecId, Arc<Notify>>>,
    /// Kills for lack of memory that were told already.
    pub(super) oom_kills: AtomicU64,
    /// What its holder does with files, processes and ports.
    pub(super) io: Io,
}

/// What goes on in a sandbox beside its executions.
#[derive(Debug)]
pub(super) struct Io {
    /// Turns of jobs.
    pub(super) jobs: Arc<Semaphore>,
    /// Places for connections to its ports.
    pub(super) connections: Arc<Semaphore>,
    /// Processes that live on their own.
    pub(super) processes: Table,
    /// Directories that somebody watches.
    pub(super) watches: Watches,
}

impl Io {
    fn new() -> Self {
        Self {
            jobs: Arc::new(Semaphore::new(JOBS_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            processes: Table::default(),
            watches: Watches::default(),
        }
    }
}

impl Sandbox {
    pub(super) fn new(id: SandboxId, template: Arc<Template>, skeleton: Arc<Skeleton>) -> Self {
        let env = Mutex::new(template.top.env.clone());
        let limits = Mutex::new(template.info.limits);
        Self {
            id,
            template,
            skeleton,
            contexts: Contexts::default(),
            pause: Pause::default(),
            queued: AtomicUsize::new(0),
            env,
            limits,
            data: Mutex::default(),
            runs: Mutex::default(),
            oom_kills: AtomicU64::new(0),
            io: Io::new(),
        }
    }

    /// Tells a worker what its holder's lease says.
    pub(super) async fn tell(&self, worker: &Worker) -> io::Result<()> {
        let mut orders = Vec::new();
        if let Some(bytes) = *lock(&self.data) {
            orders.extend(Order::Data { bytes }.encode(&[]));
        }
        let env = lock(&self.env).clone();
        if !env.is_empty() {
            orders.extend(Order::Env { env: &env }.encode(&[]));
        }
        if orders.is_empty() { Ok(()) } else { write_all(&worker.channel, &orders).await }
    }

    /// Whether the kernel has killed one of its processes for lack of memory since this was asked
    /// last.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let kills = self.skeleton.oom_kills();
        self.oom_kills.swap(kills, Ordering::AcqRel) < kills
    }
}

/// A worker: a Python process that keeps the variables of a context's cells.
#[derive(Debug)]
pub(super) struct Worker {
    skeleton: Arc<Skeleton>,
    pub(super) channel: OwnedFd,
    pub(super) output: OwnedFd,
    pub(super) errors: OwnedFd,
    pub(super) decoder: Decoder,
    /// Its process id inside.
    pub(super) pid: u32,
    /// Its process id here.
    pub(super) outer: i32,
    handle: Arc<OwnedFd>,
    pub(super) stage: watch::Receiver<WorkerStage>,
    /// Cells so far.
    pub(super) cells: u64,
    /// What the kernel says of it, once it was asked.
    status: Option<sys::Page>,
}

impl Worker {
    /// Whether it has not ended since its last cell.
    pub(super) fn is_alive(&self) -> bool {
        matches!(&*self.stage.borrow(), WorkerStage::Verified { .. })
            && self.stage.has_changed().is_ok()
    }

    /// Most memory it had at once, in bytes; 0 if it is gone.
    pub(super) fn peak_memory(&mut self) -> u64 {
        if self.outer <= 0 {
            return 0;
        }
        if self.status.is_none() {
            self.status = sys::Page::open(format!("/proc/{}/status", self.outer)).ok();
        }
        let status = self.status.as_ref().and_then(|status| status.read().ok());
        let line = status.as_deref().unwrap_or_default().lines();
        let kib = line.filter_map(|line| line.strip_prefix("VmHWM:")).next();
        let kib = kib.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// Makes a folder the one where its cells run; whether it could be is the inner answer.
    async fn go_to(&mut self, cwd: &str) -> Result<io::Result<()>, NoWorker> {
        if cwd == HOME {
            return Ok(Ok(()));
        }
        write_all(&self.channel, &Order::Cwd { cwd }.encode(&[])).await?;
        match tokio::time::timeout(HELLO_MAX, frame(&self.channel, &mut self.decoder)).await {
            Ok(Ok(Frame::Moved { errno: 0 })) => Ok(Ok(())),
            Ok(Ok(Frame::Moved { errno })) => Ok(Err(io::Error::from_raw_os_error(errno))),
            Ok(Err(none)) => Err(none),
            Ok(Ok(_)) | Err(_) => Err(NoWorker(Arc::from("it did not go where it was told"))),
        }
    }

    /// Asks it to stop a cell, whose order was written whole.
    pub(super) fn interrupt(&self, cell: u64) {
        let order = Order::Interrupt { id: cell }.encode(&[]);
        // A channel that is full is not being read: the signal will do.
        let _ = rustix::net::send(&self.channel, &order, SendFlags::NOSIGNAL);
        // Stopped processes hear nothing but this. It may have ended, which is told elsewhere.
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::CONT);
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::INT);
    }

    /// Kills it and what it started in its session.
    pub(super) fn kill(&self) {
        // It may have ended, which is what is wanted.
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
        // Without init nothing lives; a full socket means that it is stuck, and then the sandbox
        // is destroyed as soon as this worker is not reaped.
        let _ = self.skeleton.order_now(&ToInit::KillSession { session: self.pid });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Why there is no worker.
#[derive(Clone, Debug)]
pub(super) struct NoWorker(pub(super) Arc<str>);

impl From<io::Error> for NoWorker {
    fn from(error: io::Error) -> Self {
        Self(Arc::from(error.to_string()))
    }
}

impl From<rustix::io::Errno> for NoWorker {
    fn from(error: rustix::io::Errno) -> Self {
        Self::from(io::Error::from(error))
    }
}

impl Engine {
    /// Has a worker forked into a sandbox, and waits until it is verified and has said hello.
    pub(super) async fn attach(
        &self,
        template: &Arc<Template>,
        skeleton: &Arc<Skeleton>,
    ) -> Result<Worker, NoWorker> {
        let (channel, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let (output, to_output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, to_errors) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        for ours in [&channel, &output, &errors] {
            rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
        }
        let worker = self.number();
        let mut stage = skeleton.watch_worker(worker);
        let place = Place::of(&skeleton.group)?;
        let order = ToKeeper::Worker { slot: skeleton.slot, worker, into: place.into };
        let files = [theirs.as_fd(), to_output.as_fd(), to_errors.as_fd()];
        skeleton.keeper.order(&order, &place.after(&files)).await?;
        drop((theirs, to_output, to_errors));
        if template.forked(sys::now(), &self.options) {
            self.order_zygote(template);
        }
        let ready = async {
            let (pid, handle) = verified(&mut stage).await?;
            let mut decoder = Decoder::default();
            match frame(&channel, &mut decoder).await? {
                Frame::Hello { proto: PROTOCOL, .. } => Ok((pid, handle, decoder)),
                _ => Err(NoWorker(Arc::from("it did not say hello"))),
            }
        };
        let late = |_| NoWorker(Arc::from("it was not ready in time"));
        let (pid, handle, decoder) =
            tokio::time::timeout(HELLO_MAX, ready).await.map_err(late)??;
        let outer = outer_pid(&handle);
        if self.held_by == SumHeldBy::Watchdog
            && let Ok(namespace) = none::pid_namespace(outer.cast_unsigned())
        {
            skeleton.namespace.get_or_init(|| namespace);
        }
        let skeleton = Arc::clone(skeleton);
        Ok(Worker {
            skeleton,
            channel,
            output,
            errors,
            decoder,
            pid,
            outer,
            handle,
            stage,
            cells: 0,
            status: None,
        })
    }

    /// The same for a context that has no worker, in a sandbox that may have a holder: the worker
    /// gets its environment, and goes where the context begins. Whether it could is the second
    /// answer; where it could not it is at home.
    pub(super) async fn attach_again(
        &self,
        sandbox: &Sandbox,
        context: &Context,
    ) -> Result<(Worker, io::Result<()>), NoWorker> {
        let ended = || io::Error::from(io::ErrorKind::BrokenPipe);
        let _moving = sandbox.keep_moving().await.ok_or_else(ended)?;
        let mut worker = self.attach(&sandbox.template, &sandbox.skeleton).await?;
        sandbox.tell(&worker).await?;
        let went = worker.go_to(&context.cwd).await?;
        Ok((worker, went))
    }
}

async fn verified(
    stage: &mut watch::Receiver<WorkerStage>,
) -> Result<(u32, Arc<OwnedFd>), NoWorker> {
    let settled = stage.wait_for(|stage| !matches!(stage, WorkerStage::Ordered)).await;
    match settled.as_deref() {
        Ok(WorkerStage::Verified { pid, handle }) => Ok((*pid, Arc::clone(handle))),
        Ok(WorkerStage::Failed(why)) => Err(NoWorker(Arc::clone(why))),
        Ok(WorkerStage::Gone(end)) => {
            Err(NoWorker(Arc::from(format!("it ended (status {:#x})", end.status))))
        }
        Ok(WorkerStage::Ordered) | Err(_) => Err(NoWorker(Arc::from("its sandbox ended"))),
    }
}

/// The next thing a worker says, before any cell ran in it.
async fn frame(channel: &OwnedFd, decoder: &mut Decoder) -> Result<Frame, NoWorker> {
    let channel = sys::listen(channel.as_fd(), Interest::READABLE)?;
    let mut bytes = [0; 1024];
    loop {
        let mut ready = channel.readable().await?;
        match ready.try_io(|channel| Ok(rustix::io::read(channel.get_ref(), &mut bytes)?)) {
            Ok(Ok(0)) => return Err(NoWorker(Arc::from("it closed its channel"))),
            Ok(Ok(read)) => decoder.push(&bytes[..read]),
            Ok(Err(error)) => return Err(error.into()),
            Err(_would_block) => continue,
        }
        match decoder.next() {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(garbled) => return Err(NoWorker(Arc::from(garbled.to_string()))),
        }
    }
}

/// Writes everything to a descriptor that does not block.
pub(super) async fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    // Nearly always all of it fits at once.
    match rustix::net::send(to, bytes, SendFlags::NOSIGNAL) {
        Ok(written) if written == bytes.len() => return Ok(()),
        Ok(written) => bytes = &bytes[written..],
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let to = sys::listen(to.as_fd(), Interest::WRITABLE)?;
    while !bytes.is_empty() {
        let mut ready = to.writable().await?;
        match ready.try_io(|to| Ok(rustix::net::send(to.get_ref(), bytes, SendFlags::NOSIGNAL)?)) {
            Ok(written) => bytes = &bytes[written?..],
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// The number of a process as this process sees it; 0 when it is gone.
fn outer_pid(handle: &OwnedFd) -> i32 {
    let number = std::os::fd::AsRawFd::as_raw_fd(handle);
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.and_then(|number| number.trim().parse().ok()).filter(|pid| *pid > 0).unwrap_or(0)
}
