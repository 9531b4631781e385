//! The first process of the outer namespaces: starts keepers, reaps them, and takes everything
//! with it when it ends.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::net::RecvFlags;
use rustix::process::{Resource, Rlimit, Signal};

use super::control::{Boot, FromLauncher, LauncherBoot, ToLauncher};
use super::mounts::{self, Failed, at_step};
use super::packet;
use super::plan::Ids;
use super::sys::{self, Cloned};
use super::{entry, guardian};

const ENGINE_GONE: i32 = 0;
const COULD_NOT_SERVE: i32 = 72;

/// Runs until the engine ends. `files`: the engine's socket, the program.
pub(super) fn run(boot: &LauncherBoot, files: Vec<OwnedFd>) -> i32 {
    entry::call_it(c"sandpit-launch");
    let Ok([engine, image]) = <[OwnedFd; 2]>::try_from(files) else { return COULD_NOT_SERVE };
    match serve(boot, engine.as_fd(), image.as_fd()) {
        Ok(()) => ENGINE_GONE,
        Err(failed) => {
            report_failure(engine.as_fd(), &failed);
            COULD_NOT_SERVE
        }
    }
}

/// Tells the engine which step failed. Nobody is left to tell if that fails too.
pub(super) fn report_failure(engine: BorrowedFd<'_>, (step, error): &Failed) {
    let why = format!("{step}: {error}");
    let errno = error.raw_os_error().unwrap_or(0);
    let _ = packet::send(engine, &FromLauncher::Failed { why, errno }, &[]);
}

fn serve(boot: &LauncherBoot, engine: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<(), Failed> {
    at_step(
        "asking to end with the guardian",
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
    )?;
    raise_limits();
    mounts::make_private()?;
    if let Some(sources) = &boot.sources {
        mounts::gather(sources)?;
    }
    mounts::enter_gathered()?;
    let children = at_step("watching children", sys::child_events())?;
    at_step("saying that it serves", packet::send(engine, &FromLauncher::Up, &[]))?;
    let mut keepers = BTreeMap::new();
    loop {
        let mut both = [
            PollFd::from_borrowed_fd(engine, PollFlags::IN),
            PollFd::from_borrowed_fd(children.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return at_step("waiting", Err(error)),
        }
        let asked = !both[0].revents().is_empty();
        if !both[1].revents().is_empty() {
            drain(children.as_fd());
            while let Some(reaped) = sys::reap() {
                if let Some(keeper) = keepers.remove(&reaped.pid) {
                    let gone = FromLauncher::KeeperGone { keeper, status: reaped.status };
                    at_step("reporting an end", packet::send(engine, &gone, &[]))?;
                }
            }
        }
        if asked {
            let order = packet::receive(engine, RecvFlags::empty());
            let Some((ToLauncher::Keeper { keeper }, files)) = at_step("taking an order", order)?
            else {
                return Ok(());
            };
            match start_keeper(boot.ids, image, files) {
                Ok(pid) => drop(keepers.insert(pid, keeper)),
                Err((_, error)) => {
                    let status = error.raw_os_error().unwrap_or(1) << 8;
                    let gone = FromLauncher::KeeperGone { keeper, status };
                    at_step("reporting an end", packet::send(engine, &gone, &[]))?;
                }
            }
        }
    }
}

/// Empties the descriptor that says that children ended; how many does not matter.
pub(super) fn drain(children: BorrowedFd<'_>) {
    let mut events = [0; 1024];
    while rustix::io::read(children, &mut events).is_ok_and(|read| read > 0) {}
}

/// As many descriptors and processes as the host lets us have. The number of processes is never
/// lowered here: a user namespace keeps its creator's limit as a cap for all below it.
fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Nproc] {
        let had = rustix::process::getrlimit(resource);
        let raised = Rlimit { current: had.maximum, maximum: had.maximum };
        // A limit that cannot be raised is found by the doctor; sandboxes work below it.
        let _ = rustix::process::setrlimit(resource, raised);
    }
}

/// Starts a keeper. `files`: its socket, its orders.
fn start_keeper(ids: Ids, image: BorrowedFd<'_>, files: Vec<OwnedFd>) -> Result<i32, Failed> {
    let Ok([socket, orders]) = <[OwnedFd; 2]>::try_from(files) else {
        return at_step("taking an order", Err(io::Error::from(io::ErrorKind::InvalidData)));
    };
    let boot = Boot::Keeper(at_step("reading orders", packet::read_sealed(orders))?);
    let (go, wait) = at_step("making a socket", packet::pair())?;
    let cloned = at_step("making namespaces", sys::clone_process(sys::NAMESPACES, None))?;
    let Cloned::Parent { child, pidfd: _ } = cloned else {
        drop(go);
        let failed = guardian::become_root(wait)
            .map(|()| entry::become_anew(image, &boot, &[socket.as_fd()]));
        let error = failed.unwrap_or_else(|error| error);
        sys::end(error.raw_os_error().unwrap_or(COULD_NOT_SERVE));
    };
    drop(wait);
    if ids == Ids::Shared {
        at_step("giving up groups", guardian::write_proc(child, "setgroups", "deny"))?;
    }
    let map = ids.of_template();
    at_step("mapping group ids", guardian::write_proc(child, "gid_map", &map))?;
    at_step("mapping user ids", guardian::write_proc(child, "uid_map", &map))?;
    at_step("starting the keeper", packet::send(&go, &(), &[]))?;
    Ok(child.as_raw_nonzero().get())
}
