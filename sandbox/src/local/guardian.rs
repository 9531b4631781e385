//! The process between engine and launcher: still with the rights of whoever started us, it
//! gathers what sandboxes may see, writes the launcher's ids, and then only waits for the end of
//! one of the two, so that the other ends as well. It outlives a killed engine by a moment, to
//! remove the control groups that the engine cannot remove any more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal};

use super::control::{Boot, GuardianBoot, LauncherBoot};
use super::mounts::{self, Failed, at_step};
use super::packet;
use super::plan::{IDS, Ids};
use super::sys::{self, Cloned};
use super::{cgroup, entry, launcher};

/// Ends of this process, for those who look at it from outside.
const ENGINE_GONE: i32 = 0;
const COULD_NOT_START: i32 = 71;

/// Runs until engine or launcher end. `files`: the engine's socket, the program.
pub(super) fn run(boot: &GuardianBoot, files: Vec<OwnedFd>) -> i32 {
    entry::call_it(c"sandpit-guard");
    let Ok([engine, image]) = <[OwnedFd; 2]>::try_from(files) else { return COULD_NOT_START };
    match start(boot, engine.as_fd(), image.as_fd()) {
        Ok((launcher, handle)) => {
            drop(image);
            let first = guard(engine.as_fd(), handle.as_fd());
            // Paused sandboxes could not end, nor anything above them.
            cgroup::thaw_below(&boot.groups);
            let _ = rustix::process::waitpid(Some(launcher), rustix::process::WaitOptions::empty());
            if first == First::Engine {
                cgroup::remove_after_death(&boot.groups);
            }
            ENGINE_GONE
        }
        Err(failed) => {
            launcher::report_failure(engine.as_fd(), &failed);
            COULD_NOT_START
        }
    }
}

fn start(
    boot: &GuardianBoot,
    engine: BorrowedFd<'_>,
    image: BorrowedFd<'_>,
) -> Result<(Pid, OwnedFd), Failed> {
    // The thread of the engine that started us never ends before the engine does.
    at_step(
        "asking to end with the engine",
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
    )?;
    let (ids, sources) = if boot.uid_base.is_some() {
        at_step("leaving the host's mounts", sys::unshare_mounts())?;
        mounts::make_private()?;
        mounts::gather(&boot.sources)?;
        (Ids::Own, None)
    } else {
        (Ids::Shared, Some(boot.sources.clone()))
    };
    let (go, wait) = at_step("making a socket", packet::pair())?;
    let cloned = at_step("making namespaces", sys::clone_process(sys::NAMESPACES, None))?;
    let Cloned::Parent { child, pidfd } = cloned else {
        drop(go);
        let boot = Boot::Launcher(LauncherBoot { sources, ids });
        let failed = become_root(wait).map(|()| entry::become_anew(image, &boot, &[engine, image]));
        let error = failed.unwrap_or_else(|error| error);
        launcher::report_failure(engine, &("starting inside namespaces".to_owned(), error));
        sys::end(COULD_NOT_START);
    };
    drop(wait);
    let (uids, gids) = match boot.uid_base {
        Some(base) => (format!("0 {base} {IDS}"), format!("0 {base} {IDS}")),
        None => {
            at_step("giving up groups", write_proc(child, "setgroups", "deny"))?;
            let uid = rustix::process::geteuid().as_raw();
            let gid = rustix::process::getegid().as_raw();
            (format!("0 {uid} 1"), format!("0 {gid} 1"))
        }
    };
    at_step("mapping group ids", write_proc(child, "gid_map", &gids))?;
    at_step("mapping user ids", write_proc(child, "uid_map", &uids))?;
    at_step("starting the launcher", packet::send(&go, &(), &[]))?;
    // From here on the engine's socket tells of its end, and there is something to do after it.
    at_step("outliving the engine", rustix::process::set_parent_process_death_signal(None))?;
    Ok((child, pidfd))
}

/// Waits until the ids are mapped, then becomes the root of the new namespaces.
pub(super) fn become_root(wait: OwnedFd) -> io::Result<()> {
    packet::receive::<()>(&wait, rustix::net::RecvFlags::empty())?
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    become_id(0)
}

/// Takes on one id for user and group alike.
pub(super) fn become_id(id: u32) -> io::Result<()> {
    let group = rustix::process::Gid::from_raw(id);
    rustix::thread::set_thread_res_gid(group, group, group)?;
    let user = rustix::process::Uid::from_raw(id);
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Writes a file of a process of ours.
pub(super) fn write_proc(process: Pid, name: &str, text: &str) -> io::Result<()> {
    let path = PathBuf::from(format!("/proc/{}/{name}", process.as_raw_nonzero()));
    sys::write_once(&path, text)
}

/// Which of the two ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Engine,
    Launcher,
}

fn guard(engine: BorrowedFd<'_>, handle: BorrowedFd<'_>) -> First {
    let first = loop {
        let mut both = [
            PollFd::from_borrowed_fd(engine, PollFlags::empty()),
            PollFd::from_borrowed_fd(handle, PollFlags::IN),
        ];
        match rustix::event::poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break First::Launcher,
        }
        if !both[0].revents().is_empty() {
            break First::Engine;
        }
        if !both[1].revents().is_empty() {
            break First::Launcher;
        }
    };
    // Either it ended already, or it must.
    let _ = rustix::process::pidfd_send_signal(handle, Signal::KILL);
    first
}
