//! One per template: first process of the template's namespaces, parent of its zygote, of the
//! inits of its sandboxes and of their workers. Builds skeletons, orders workers from the zygote,
//! looks at each from outside before anybody uses it, and reaps all of them.
//!
//! Never waits for anything but its poll: a zygote that hangs or a skeleton that does not stand
//! up holds nobody else.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::control::{End, FromKeeper, KeeperBoot, ToKeeper};
use super::launcher::drain;
use super::mounts::{self, Failed, at_step};
use super::packet;
use super::{entry, sys};

mod skeleton;
mod verify;
mod zygote;

use skeleton::Skeleton;
use verify::Expected;
use zygote::{Order, Zygote};

const ENGINE_GONE: i32 = 0;
const COULD_NOT_SERVE: i32 = 74;

/// Longest a skeleton or a worker may take to stand, in milliseconds. Both take about 3 ms; past
/// this the machine is out of something.
const STAND_MAX_MS: u64 = 5_000;

/// Runs until the engine ends. `files`: the engine's socket.
pub(super) fn run(boot: KeeperBoot, files: Vec<OwnedFd>) -> i32 {
    entry::call_it(c"sandpit-keeper");
    let Ok([engine]) = <[OwnedFd; 1]>::try_from(files) else { return COULD_NOT_SERVE };
    let Ok(to_engine) = rustix::io::fcntl_dupfd_cloexec(&engine, 0) else {
        return COULD_NOT_SERVE;
    };
    match Keeper::start(boot, engine).and_then(|mut keeper| keeper.serve()) {
        Ok(()) => ENGINE_GONE,
        Err((step, error)) => {
            let why = format!("{step}: {error}");
            // Nobody else can be told.
            let _ = packet::send(&to_engine, &FromKeeper::Failed { why }, &[]);
            COULD_NOT_SERVE
        }
    }
}

/// A worker that the zygote has forked.
#[derive(Debug)]
struct Worker {
    slot: u32,
    worker: u64,
    /// Whether it was told that its sandbox stands.
    let_in: bool,
    /// Where it says that it is locked down; `None` once it was verified.
    locking: Option<(OwnedFd, u64)>,
}

#[derive(Debug)]
struct Keeper {
    boot: KeeperBoot,
    engine: OwnedFd,
    children: OwnedFd,
    expected: Expected,
    /// Serves; and the one that will.
    zygote: Option<Zygote>,
    warming: Option<Zygote>,
    /// Killed, not reaped yet.
    dying: Vec<Zygote>,
    skeletons: BTreeMap<u32, Skeleton>,
    workers: BTreeMap<i32, Worker>,
    /// Ended before the zygote said that it had forked them.
    strays: BTreeMap<i32, sys::Reaped>,
    orders: u64,
}

/// What a descriptor that became ready belongs to.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Engine,
    Children,
    Zygote,
    ZygoteErrors,
    Warming,
    WarmingErrors,
    Skeleton(u32),
    Worker(i32),
}

impl Keeper {
    fn start(boot: KeeperBoot, engine: OwnedFd) -> Result<Self, Failed> {
        mounts::make_private()?;
        mounts::enter_template(&boot.plan)?;
        at_step("bringing the loopback up", sys::loopback_up())?;
        at_step("naming the host", rustix::system::sethostname(b"template"))?;
        let children = at_step("watching children", sys::child_events())?;
        at_step("locking the keeper down", boot.lockdown.bind_keeper())?;
        Ok(Self {
            expected: Expected::of(&boot),
            boot,
            engine,
            children,
            zygote: None,
            warming: None,
            dying: Vec::new(),
            skeletons: BTreeMap::new(),
            workers: BTreeMap::new(),
            strays: BTreeMap::new(),
            orders: 0,
        })
    }

    fn serve(&mut self) -> Result<(), Failed> {
        loop {
            let ready = self.wait()?;
            for one in ready {
                match one {
                    Ready::Engine => {
                        if !self.take_order()? {
                            return Ok(());
                        }
                    }
                    Ready::Children => self.reap()?,
                    Ready::Zygote => self.hear_zygote()?,
                    Ready::Warming => self.hear_warming()?,
                    Ready::ZygoteErrors => self.zygote.iter_mut().for_each(Zygote::read_errors),
                    Ready::WarmingErrors => self.warming.iter_mut().for_each(Zygote::read_errors),
                    Ready::Skeleton(slot) => self.skeleton_stands(slot)?,
                    Ready::Worker(pid) => self.worker_locked(pid)?,
                }
            }
            self.pass_deadlines(sys::now_ms())?;
        }
    }

    fn wait(&self) -> Result<Vec<Ready>, Failed> {
        let mut asked =
            vec![(Ready::Children, self.children.as_fd()), (Ready::Engine, self.engine.as_fd())];
        if let Some(zygote) = &self.zygote {
            asked.push((Ready::Zygote, zygote.socket()));
            asked.extend(zygote.errors().map(|errors| (Ready::ZygoteErrors, errors)));
        }
        if let Some(zygote) = &self.warming {
            asked.push((Ready::Warming, zygote.socket()));
            asked.extend(zygote.errors().map(|errors| (Ready::WarmingErrors, errors)));
        }
        for (slot, skeleton) in &self.skeletons {
            if let Some(socket) = skeleton.standing_up() {
                asked.push((Ready::Skeleton(*slot), socket));
            }
        }
        for (pid, worker) in &self.workers {
            if let Some((sync, _)) = &worker.locking {
                asked.push((Ready::Worker(*pid), sync.as_fd()));
            }
        }
        let mut polled: Vec<PollFd<'_>> =
            asked.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let left = self.next_deadline().map(|at| at.saturating_sub(sys::now_ms()));
        let timeout = left.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
        });
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return at_step("waiting", Err(error)),
        }
        let ready = polled.iter().zip(&asked).filter(|(poll, _)| !poll.revents().is_empty());
        Ok(ready.map(|(_, (ready, _))| *ready).collect())
    }

    fn next_deadline(&self) -> Option<u64> {
        let zygotes = self.zygote.iter().chain(&self.warming).filter_map(Zygote::deadline);
        let skeletons = self.skeletons.values().filter_map(Skeleton::deadline);
        let workers =
            self.workers.values().filter_map(|worker| worker.locking.as_ref().map(|(_, at)| *at));
        zygotes.chain(skeletons).chain(workers).min()
    }

    fn pass_deadlines(&mut self, now: u64) -> Result<(), Failed> {
        if self.zygote.as_ref().is_some_and(|zygote| zygote.is_late(now)) {
            self.drop_zygote("it did not answer in time")?;
        }
        if self.warming.as_ref().is_some_and(|zygote| zygote.is_late(now)) {
            self.drop_warming("it was not ready in time")?;
        }
        for skeleton in self.skeletons.values_mut() {
            skeleton.kill_if_late(now);
        }
        for (pid, worker) in &self.workers {
            if worker.locking.as_ref().is_some_and(|(_, at)| *at <= now) {
                kill(*pid);
            }
        }
        Ok(())
    }

    /// Takes one order; false when the engine is gone.
    fn take_order(&mut self) -> Result<bool, Failed> {
        let received = match packet::receive(&self.engine, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            received => at_step("taking an order", received)?,
        };
        let Some((order, files)) = received else { return Ok(false) };
        match order {
            ToKeeper::Zygote { zygote, into } => self.start_zygote(zygote, into, &files)?,
            ToKeeper::Skeleton { slot, shape, into } => {
                self.start_skeleton(slot, shape, into, files)?;
            }
            ToKeeper::Worker { slot, worker, into } => {
                self.order_worker(slot, worker, into, files)?;
            }
            ToKeeper::Kill { slot } => {
                if let Some(skeleton) = self.skeletons.get(&slot) {
                    skeleton.kill();
                }
            }
        }
        Ok(true)
    }

    fn reap(&mut self) -> Result<(), Failed> {
        drain(self.children.as_fd());
        while let Some(reaped) = sys::reap() {
            if let Some(worker) = self.workers.remove(&reaped.pid) {
                self.worker_ended(&worker, reaped)?;
            } else if let Some(slot) = self.slot_of(reaped.pid) {
                self.init_ended(slot, reaped)?;
            } else if !self.zygote_ended(reaped)? {
                self.strays.insert(reaped.pid, reaped);
            }
        }
        Ok(())
    }

    fn say(&self, message: &FromKeeper, files: &[BorrowedFd<'_>]) -> Result<(), Failed> {
        at_step("telling the engine", packet::send(&self.engine, message, files))
    }
}

// Workers.
impl Keeper {
    fn order_worker(
        &mut self,
        slot: u32,
        worker: u64,
        into: bool,
        files: Vec<OwnedFd>,
    ) -> Result<(), Failed> {
        let why = match (self.skeletons.get(&slot).and_then(Skeleton::living), &mut self.zygote) {
            (None, _) => "its sandbox is gone",
            (Some(_), None) => "there is no zygote",
            (Some(_), Some(zygote)) => {
                self.orders += 1;
                zygote.queue(Order { order: self.orders, slot, worker, into, files });
                return self.ask_zygote();
            }
        };
        self.worker_failed(slot, worker, why.to_owned())
    }

    /// Asks the zygote for the next worker, if it is not at one.
    fn ask_zygote(&mut self) -> Result<(), Failed> {
        loop {
            let Some(zygote) = &mut self.zygote else { return Ok(()) };
            let Some(order) = zygote.next_order() else { return Ok(()) };
            let (slot, worker) = (order.slot, order.worker);
            let asked = match self.skeletons.get(&slot).and_then(Skeleton::living) {
                Some((init, up)) => zygote.ask(order, init, up, sys::now_ms()),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            match asked {
                Ok(()) => return Ok(()),
                Err(error) => self.worker_failed(slot, worker, error.to_string())?,
            }
        }
    }

    fn worker_failed(&self, slot: u32, worker: u64, why: String) -> Result<(), Failed> {
        self.say(&FromKeeper::WorkerFailed { slot, worker, why, breach: false }, &[])
    }

    /// The zygote has forked one. It may have ended already.
    fn worker_forked(&mut self, order: zygote::Asked, pid: i32) -> Result<(), Failed> {
        let deadline = sys::now_ms() + STAND_MAX_MS;
        let slot = order.slot;
        let worker = Worker {
            slot,
            worker: order.worker,
            let_in: order.let_in,
            locking: Some((order.sync, deadline)),
        };
        match self.strays.remove(&pid) {
            Some(reaped) => self.worker_ended(&worker, reaped),
            None => {
                self.workers.insert(pid, worker);
                self.let_in(slot);
                Ok(())
            }
        }
    }

    /// Lets the workers of a sandbox in that were forked before it stood.
    fn let_in(&mut self, slot: u32) {
        let Some(up) = self.skeletons.get(&slot).and_then(Skeleton::up) else { return };
        let waiting = self.workers.iter_mut();
        let waiting = waiting.filter(|(_, worker)| worker.slot == slot && !worker.let_in);
        for (pid, worker) in waiting {
            worker.let_in = true;
            if let Some((sync, _)) = &worker.locking
                && up.let_in(sync.as_fd()).is_err()
            {
                // It ended on the way. Should it live, it is of no use.
                kill(*pid);
            }
        }
    }

    /// A worker says that it is locked down. Its word counts for nothing: the kernel's does.
    fn worker_locked(&mut self, pid: i32) -> Result<(), Failed> {
        let Some(worker) = self.workers.get_mut(&pid) else { return Ok(()) };
        let Some((sync, _)) = worker.locking.take() else { return Ok(()) };
        let mut said = [0; 1];
        if !rustix::io::read(&sync, &mut said).is_ok_and(|read| read == 1) {
            // It ended on the way; its end will say how. Should it live, it is of no use.
            kill(pid);
            worker.locking = None;
            return Ok(());
        }
        let (slot, number) = (worker.slot, worker.worker);
        let init = self.skeletons.get(&slot).and_then(Skeleton::up);
        let seen = match init {
            Some(up) => verify::worker(pid, &self.expected, up.seen()),
            None => Err("its sandbox is gone".to_owned()),
        };
        match seen.and_then(|inside| Ok((inside, open(pid)?))) {
            Ok((inside, handle)) => self
                .say(&FromKeeper::Worker { slot, worker: number, pid: inside }, &[handle.as_fd()]),
            Err(why) => {
                kill(pid);
                // Its end must not be told as that of a worker that was ready.
                self.workers.remove(&pid);
                let gone = init.is_none();
                self.say(
                    &FromKeeper::WorkerFailed { slot, worker: number, why, breach: !gone },
                    &[],
                )
            }
        }
    }

    fn worker_ended(&self, worker: &Worker, reaped: sys::Reaped) -> Result<(), Failed> {
        let Worker { slot, worker: number, .. } = *worker;
        let end = End::from(reaped);
        self.say(&FromKeeper::WorkerGone { slot, worker: number, end }, &[])
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It is a child not reaped yet, so the number is its own; it may have ended.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn open(pid: i32) -> Result<OwnedFd, String> {
    let pid = Pid::from_raw(pid).ok_or_else(|| "it has no number".to_owned())?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())
}
