//! The first process of a sandbox: a fork of the keeper that builds the sandbox's root, locks
//! itself down, and then runs commands and writes files for the engine.
//!
//! Everything it starts inherits its lockdown, so no command can forget a step.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal};

use super::control::{End, FromInit, Shape, Stdio, ToInit};
use super::launcher::drain;
use super::lockdown::landlock::Ruleset;
use super::lockdown::{Lockdown, rlimits};
use super::mounts::{self, Failed, at_step};
use super::packet;
use super::plan::USER;
use super::{entry, guardian, sys};

mod command;
mod files;
mod job;
mod processes;

use command::NotStarted;
use processes::Living;

/// Where the engine's socket is.
const ENGINE: i32 = 3;
/// Where the keeper's socket is, until the sandbox stands.
const KEEPER: i32 = 4;

const COULD_NOT_SERVE: i32 = 73;

/// What a sandbox is made with.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    /// Bounds of its files and pids.
    pub(super) shape: Shape,
    /// What binds its processes.
    pub(super) lockdown: &'a Lockdown,
    /// Tasks files of its group; empty if it was born in it or there is none.
    pub(super) groups: &'a [OwnedFd],
}

/// What init says to its keeper.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) enum Standing {
    /// The sandbox stands. With its Landlock rules, if there are any.
    Up,
    /// It does not.
    Failed {
        /// Which step, and the error.
        why: String,
    },
}

/// Builds the sandbox and serves until it is killed.
pub(super) fn run(setup: &Setup<'_>, engine: BorrowedFd<'_>, keeper: BorrowedFd<'_>) -> ! {
    entry::call_it(entry::NAME);
    let code = match build(setup, engine, keeper) {
        Ok(children) => {
            serve(children.as_fd());
            0
        }
        Err((step, error)) => {
            let why = format!("{step}: {error}");
            // Nobody else can be told.
            let _ = packet::send(keeper, &Standing::Failed { why }, &[]);
            COULD_NOT_SERVE
        }
    };
    sys::end(code)
}

fn build(
    setup: &Setup<'_>,
    engine: BorrowedFd<'_>,
    keeper: BorrowedFd<'_>,
) -> Result<OwnedFd, Failed> {
    let mapped = packet::receive::<()>(keeper, RecvFlags::empty());
    at_step(
        "waiting for ids",
        mapped.and_then(|go| go.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())),
    )?;
    // Before any file is made: nobody else has an id here.
    at_step("taking on the sandbox's id", guardian::become_id(USER))?;
    // After the change of id, which would clear it.
    let death = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    at_step("asking to end with the keeper", death)?;
    for group in setup.groups {
        at_step("joining a control group", rustix::io::write(group, b"0"))?;
    }
    at_step("hiding outer control groups", sys::unshare_cgroup_view())?;
    mounts::enter_sandbox(setup.shape)?;
    at_step("bringing the loopback up", sys::loopback_up())?;
    at_step("naming the host", rustix::system::sethostname(b"sandbox"))?;
    bound_numbers(setup.shape);
    mounts::close_sysctl()?;
    keep_two(engine, keeper)?;
    at_step("starting a session", rustix::process::setsid())?;
    at_step("going home", rustix::process::chdir("/home/user"))?;
    at_step("resetting signals", sys::default_signals())?;
    let children = at_step("watching children", sys::child_events())?;
    let keeper = sys::take_from(KEEPER);
    lock_down(setup, keeper.as_fd())?;
    Ok(children)
}

/// Bounds that are the namespace's own, where this kernel has such.
fn bound_numbers(shape: Shape) {
    // After the first wrap only numbers from 300 on are given out.
    let pids = 300 + 2 * u64::from(shape.pids);
    // Before kernel 6.14 the bound is the host's and refused here; the group holds it then.
    let _ = sys::write_once(Path::new("/proc/sys/kernel/pid_max"), &pids.to_string());
    let bytes = shape.shm_bytes.to_string();
    let pages = (shape.shm_bytes / 4096).to_string();
    for (name, value) in [("shmmax", &bytes), ("shmall", &pages)] {
        // Without it the group bounds shared memory all the same.
        let _ = sys::write_once(&Path::new("/proc/sys/kernel").join(name), value);
    }
}

/// Closes everything but the null device and the two sockets.
fn keep_two(engine: BorrowedFd<'_>, keeper: BorrowedFd<'_>) -> Result<(), Failed> {
    let step = "closing what is not the sandbox's";
    // Up first, so that neither target is a source still needed.
    let engine = at_step(step, rustix::io::fcntl_dupfd_cloexec(engine, 32))?;
    let keeper = at_step(step, rustix::io::fcntl_dupfd_cloexec(keeper, 32))?;
    for (socket, number) in [(&engine, ENGINE), (&keeper, KEEPER)] {
        at_step(step, sys::put_at(socket.as_fd(), number))?;
        at_step(step, sys::close_on_exec(number))?;
    }
    at_step(step, sys::close_from(5))?;
    // Closed just now.
    std::mem::forget((engine, keeper));
    Ok(())
}

fn lock_down(setup: &Setup<'_>, keeper: BorrowedFd<'_>) -> Result<(), Failed> {
    let rules = setup.lockdown.landlock.map(Ruleset::new).transpose();
    let rules = at_step("making file rules", rules)?;
    at_step("locking down", setup.lockdown.bind(rules.as_ref()))?;
    let files: Vec<BorrowedFd<'_>> = rules.iter().map(AsFd::as_fd).collect();
    at_step("reporting", packet::send(keeper, &Standing::Up, &files))
}

/// One thing that init runs.
#[derive(Debug)]
struct Running {
    command: u64,
    pid: Pid,
    kind: Kind,
}

/// What kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A program, which may leave others behind.
    Command,
    /// A writer of files, which leaves nothing.
    Writer,
    /// A job, whose end nobody is told of: its channel says more.
    Job,
}

#[derive(Debug, Default)]
struct Init {
    running: BTreeMap<i32, Running>,
    /// What earlier commands left, so that it is counted once.
    left: Living,
}

fn serve(children: BorrowedFd<'_>) {
    let engine = sys::take_from(ENGINE);
    let mut init = Init::default();
    loop {
        let mut both = [
            PollFd::from_borrowed_fd(engine.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(children, PollFlags::IN),
        ];
        match rustix::event::poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !both[1].revents().is_empty() {
            drain(children);
            while let Some(reaped) = sys::reap() {
                init.ended(engine.as_fd(), reaped);
            }
        }
        if !both[0].revents().is_empty() {
            match packet::receive(&engine, RecvFlags::DONTWAIT) {
                Ok(Some((order, files))) => init.take(engine.as_fd(), &order, files),
                Ok(None) => return,
                // A packet that is no order is ours to mend, not a reason to end a sandbox.
                Err(_) => {}
            }
        }
    }
}

impl Init {
    fn take(&mut self, engine: BorrowedFd<'_>, order: &ToInit, files: Vec<OwnedFd>) {
        match *order {
            ToInit::Run { command } => {
                let started = command::start(files, Stdio::Files);
                self.started(engine, command, started, Kind::Command);
            }
            ToInit::Start { command, stdio } => {
                let started = command::start(files, stdio);
                self.started(engine, command, started, Kind::Command);
            }
            ToInit::Write { command } => {
                let started = command::write(files).map_err(NotStarted::from);
                self.started(engine, command, started, Kind::Writer);
            }
            ToInit::Job => {
                // Whoever asked was told on the job's own channel.
                if let Ok(pid) = job::start(files) {
                    let number = pid.as_raw_nonzero().get();
                    self.running.insert(number, Running { command: 0, pid, kind: Kind::Job });
                }
            }
            ToInit::KillLeft { session } => processes::kill_left(session),
            ToInit::KillSession { session } => processes::kill_session(session),
            ToInit::Signal { command, signal } => self.signal(command, signal),
            // More than the hard limit was refused before anybody was asked; what is started then
            // has what it had.
            ToInit::Data { bytes } => drop(rlimits::set_data(bytes)),
            ToInit::Halt { command, still } => {
                let moving = processes::halt(still);
                say(engine, &FromInit::Halted { command, moving });
            }
            ToInit::Count { command } => {
                let counted = FromInit::Counted {
                    command,
                    processes: processes::count(),
                    disk: processes::disk_used(),
                };
                say(engine, &counted);
            }
        }
    }

    fn started(
        &mut self,
        engine: BorrowedFd<'_>,
        command: u64,
        started: Result<Pid, NotStarted>,
        kind: Kind,
    ) {
        match started {
            Ok(pid) => {
                let number = pid.as_raw_nonzero().get();
                self.running.insert(number, Running { command, pid, kind });
                say(engine, &FromInit::Started { command, pid: number.cast_unsigned() });
            }
            Err(NotStarted { hindrance, errno }) => {
                say(engine, &FromInit::NotStarted { command, hindrance, errno });
            }
        }
    }

    fn signal(&self, command: u64, signal: i32) {
        let found = self.running.values().find(|running| running.command == command);
        if let (Some(running), Some(signal)) = (found, Signal::from_named_raw(signal)) {
            // Stopped processes hear nothing but this.
            let _ = rustix::process::kill_process_group(running.pid, Signal::CONT);
            // It ended meanwhile, which is what is wanted.
            let _ = rustix::process::kill_process_group(running.pid, signal);
        }
    }

    fn ended(&mut self, engine: BorrowedFd<'_>, reaped: sys::Reaped) {
        // Orphans of others are reaped too, and nobody asked about them.
        let Some(ended) = self.running.remove(&reaped.pid) else { return };
        let survivors = match ended.kind {
            Kind::Command => self.count_survivors(),
            Kind::Writer => 0,
            Kind::Job => return,
        };
        let command = ended.command;
        say(engine, &FromInit::Ended { command, end: End::from(reaped), survivors });
    }

    /// Processes that belong to no worker and no running command, and were not counted before.
    fn count_survivors(&mut self) -> u32 {
        let running: Vec<i32> = self.running.keys().copied().collect();
        let left = processes::living().without_sessions(&running);
        let new = left.count_without(&self.left);
        self.left = left;
        new
    }
}

/// Tells the engine. A full socket means that the engine is stuck; it will look after us by
/// itself, so nothing is lost that matters.
fn say(engine: BorrowedFd<'_>, message: &FromInit) {
    let _ = packet::send(engine, message, &[]);
}
