//! A sandbox without a worker: namespaces, root and init.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal};

use super::super::control::{FromKeeper, Shape};
use super::super::guardian;
use super::super::init::{self, Setup, Standing};
use super::super::mounts::{Failed, at_step};
use super::super::packet;
use super::super::plan::Ids;
use super::super::sys::{self, Cloned};
use super::verify::{self, Seen};
use super::{Keeper, STAND_MAX_MS};

/// One of the keeper's.
#[derive(Debug)]
pub(super) struct Skeleton {
    pid: Pid,
    init: OwnedFd,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    StandingUp {
        socket: OwnedFd,
        deadline: u64,
    },
    Up {
        rules: Option<OwnedFd>,
        seen: Box<Seen>,
    },
    /// Why it was killed.
    Failed(String),
}

/// What workers need to know of one that stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Up<'a> {
    rules: Option<BorrowedFd<'a>>,
    seen: &'a Seen,
}

impl<'a> Up<'a> {
    /// Tells a worker that it may enter, and gives it the sandbox's Landlock rules.
    pub(super) fn let_in(self, worker: BorrowedFd<'_>) -> io::Result<()> {
        let rules: Vec<_> = self.rules.into_iter().collect();
        packet::send(worker, &(), &rules)
    }

    /// What was seen of its init.
    pub(super) fn seen(self) -> &'a Seen {
        self.seen
    }
}

impl Skeleton {
    /// The sandbox, if it stands.
    pub(super) fn up(&self) -> Option<Up<'_>> {
        match &self.stage {
            Stage::Up { rules, seen } => Some(Up { rules: rules.as_ref().map(AsFd::as_fd), seen }),
            Stage::StandingUp { .. } | Stage::Failed(_) => None,
        }
    }

    /// A handle of its init, and the sandbox as far as it stands. A worker can be forked for one
    /// that is still standing up, and enters it afterwards.
    pub(super) fn living(&self) -> Option<(BorrowedFd<'_>, Option<Up<'_>>)> {
        match &self.stage {
            Stage::Up { .. } | Stage::StandingUp { .. } => Some((self.init.as_fd(), self.up())),
            Stage::Failed(_) => None,
        }
    }

    /// Where init reports, while it builds.
    pub(super) fn standing_up(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::StandingUp { socket, .. } => Some(socket.as_fd()),
            Stage::Up { .. } | Stage::Failed(_) => None,
        }
    }

    /// When it must stand, in milliseconds of this machine's clock.
    pub(super) fn deadline(&self) -> Option<u64> {
        match &self.stage {
            Stage::StandingUp { deadline, .. } => Some(*deadline),
            Stage::Up { .. } | Stage::Failed(_) => None,
        }
    }

    /// Ends it if it takes too long.
    pub(super) fn kill_if_late(&mut self, now: u64) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.fail("it did not stand in time".to_owned());
        }
    }

    /// Kills its init, and with it everything inside.
    pub(super) fn kill(&self) {
        // It may have ended, which is what is wanted.
        let _ = rustix::process::pidfd_send_signal(&self.init, Signal::KILL);
    }

    fn fail(&mut self, why: String) {
        self.kill();
        self.stage = Stage::Failed(why);
    }
}

impl Keeper {
    /// Begins a skeleton; it reports when it stands. `files`: the engine's socket to its init,
    /// then its groups.
    pub(super) fn start_skeleton(
        &mut self,
        slot: u32,
        shape: Shape,
        into: bool,
        files: Vec<OwnedFd>,
    ) -> Result<(), Failed> {
        match self.begin_skeleton(slot, shape, into, files) {
            Ok(skeleton) => {
                self.skeletons.insert(slot, skeleton);
                Ok(())
            }
            Err((step, error)) => {
                let why = format!("{step}: {error}");
                self.say(&FromKeeper::SkeletonFailed { slot, why }, &[])
            }
        }
    }

    fn begin_skeleton(
        &self,
        slot: u32,
        shape: Shape,
        into: bool,
        files: Vec<OwnedFd>,
    ) -> Result<Skeleton, Failed> {
        let mut files = files.into_iter();
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let socket = at_step("taking its socket", files.next().ok_or_else(invalid))?;
        let groups: Vec<OwnedFd> = files.collect();
        let group = groups.first().filter(|_| into).map(AsFd::as_fd);
        let (ours, theirs) = at_step("making a socket", packet::pair())?;
        let cloned = at_step("making namespaces", sys::clone_process(sys::NAMESPACES, group))?;
        let Cloned::Parent { child, pidfd } = cloned else {
            let setup = Setup {
                shape,
                lockdown: &self.boot.lockdown,
                groups: if into { &[] } else { &groups },
            };
            init::run(&setup, socket.as_fd(), theirs.as_fd());
        };
        let skeleton = Skeleton {
            pid: child,
            init: pidfd,
            stage: Stage::StandingUp { socket: ours, deadline: sys::now_ms() + STAND_MAX_MS },
        };
        if let Err(failed) = map(self.boot.ids, slot, child, skeleton.standing_up()) {
            skeleton.kill();
            return Err(failed);
        }
        Ok(skeleton)
    }

    /// Init reports.
    pub(super) fn skeleton_stands(&mut self, slot: u32) -> Result<(), Failed> {
        let expected = self.expected;
        let Some(skeleton) = self.skeletons.get_mut(&slot) else { return Ok(()) };
        let Some(socket) = skeleton.standing_up() else { return Ok(()) };
        let seen = match packet::receive(socket, RecvFlags::DONTWAIT) {
            Ok(Some((Standing::Up, files))) => {
                let pid = skeleton.pid.as_raw_nonzero().get();
                verify::init(pid, slot, &expected).map(|seen| (seen, files.into_iter().next()))
            }
            Ok(Some((Standing::Failed { why }, _))) => Err(why),
            Ok(None) => Err("its init ended while it built the sandbox".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match seen {
            Ok((seen, rules)) => {
                skeleton.stage = Stage::Up { rules, seen: Box::new(seen) };
                let handle = skeleton.init.as_fd();
                at_step(
                    "telling the engine",
                    packet::send(&self.engine, &FromKeeper::Skeleton { slot }, &[handle]),
                )?;
                self.let_in(slot);
                Ok(())
            }
            Err(why) => {
                skeleton.fail(why);
                Ok(())
            }
        }
    }

    /// Which sandbox this process is the init of.
    pub(super) fn slot_of(&self, pid: i32) -> Option<u32> {
        let is = |skeleton: &Skeleton| skeleton.pid.as_raw_nonzero().get() == pid;
        self.skeletons.iter().find(|(_, skeleton)| is(skeleton)).map(|(slot, _)| *slot)
    }

    /// The init of a sandbox was reaped: nothing of it is left.
    pub(super) fn init_ended(&mut self, slot: u32, reaped: sys::Reaped) -> Result<(), Failed> {
        let Some(skeleton) = self.skeletons.remove(&slot) else { return Ok(()) };
        match skeleton.stage {
            Stage::Up { .. } => {
                self.say(&FromKeeper::InitGone { slot, status: reaped.status }, &[])
            }
            Stage::Failed(why) => self.say(&FromKeeper::SkeletonFailed { slot, why }, &[]),
            Stage::StandingUp { socket, .. } => {
                // What it said last may still be there.
                let why = match packet::receive(&socket, RecvFlags::DONTWAIT) {
                    Ok(Some((Standing::Failed { why }, _))) => why,
                    _ => format!("its init ended (status {:#x})", reaped.status),
                };
                self.say(&FromKeeper::SkeletonFailed { slot, why }, &[])
            }
        }
    }
}

fn map(ids: Ids, slot: u32, child: Pid, go: Option<BorrowedFd<'_>>) -> Result<(), Failed> {
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    let go = at_step("taking its socket", go.ok_or_else(gone))?;
    let map = ids.of_sandbox(slot);
    at_step("mapping group ids", guardian::write_proc(child, "gid_map", &map))?;
    at_step("mapping user ids", guardian::write_proc(child, "uid_map", &map))?;
    at_step("letting it go on", packet::send(go, &(), &[]))
}
