//! The program that tries. One thread, and a process of its own for every trial, because most of
//! them cannot be undone.
#![expect(unsafe_code, reason = "asks whether system calls are there")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::RecvFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::super::guardian::{become_root, write_proc};
use super::super::lockdown::caps;
use super::super::lockdown::seccomp::{AnonymousFiles, Filters, Program, ZygoteClone};
use super::super::mode::{Attempt, MissingCall, Trials};
use super::super::mounts;
use super::super::packet;
use super::super::plan::IDS;
use super::super::sys::{self, Cloned};
use super::{ProbeBoot, TAKEN_BYTES, Taken};

const DONE: i32 = 0;
const COULD_NOT_ANSWER: i32 = 73;

/// Calls the engine cannot do without, and the kernels that brought them.
const CALLS: [(&str, &str, libc::c_long); 7] = [
    ("clone3", "5.3", libc::SYS_clone3),
    ("pidfd_open", "5.3", libc::SYS_pidfd_open),
    ("open_tree", "5.2", libc::SYS_open_tree),
    ("move_mount", "5.2", libc::SYS_move_mount),
    ("close_range", "5.9", libc::SYS_close_range),
    ("mount_setattr", "5.12", libc::SYS_mount_setattr),
    ("seccomp", "3.17", libc::SYS_seccomp),
];

/// Namespaces that are made inside a user namespace, by the name their switch has.
const KINDS: [(&str, i32); 6] = [
    ("pid", libc::CLONE_NEWPID),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

/// Tries what it is told to and answers. `files`: the socket, then what the trial needs.
pub(in super::super) fn run(boot: &ProbeBoot, mut files: Vec<OwnedFd>) -> i32 {
    if files.is_empty() {
        return COULD_NOT_ANSWER;
    }
    let socket = files.remove(0);
    let sent = match boot {
        ProbeBoot::Everything { uid_base } => packet::send(&socket, &trials(*uid_base), &[]),
        ProbeBoot::MemoryByTasks => packet::send(&socket, &take_memory(&files, None), &[]),
        ProbeBoot::MemoryByClone => {
            let group = files.first().map(AsFd::as_fd);
            packet::send(&socket, &take_memory(&[], group), &[])
        }
    };
    if sent.is_ok() { DONE } else { COULD_NOT_ANSWER }
}

fn trials(uid_base: Option<u32>) -> Trials {
    let missing = CALLS.iter().filter(|(_, _, number)| is_missing(*number));
    let missing_calls = missing
        .map(|(name, since, _)| MissingCall {
            name: (*name).to_owned(),
            since: (*since).to_owned(),
        })
        .collect();
    let mut trials = Trials { missing_calls, seccomp: try_seccomp(), ..Trials::default() };
    trials.user_namespace = try_namespaces(libc::CLONE_NEWUSER);
    if trials.user_namespace != Attempt::Worked {
        return trials;
    }
    for (name, flag) in KINDS {
        let made = try_namespaces(libc::CLONE_NEWUSER | flag);
        trials.namespaces.push((name.to_owned(), made));
    }
    let map = match uid_base {
        Some(base) => Map { ids: format!("0 {base} {IDS}"), groups: format!("0 {base} {IDS}") },
        None => Map {
            ids: format!("0 {} 1", rustix::process::geteuid().as_raw()),
            groups: format!("0 {} 1", rustix::process::getegid().as_raw()),
        },
    };
    let mapped = attempt(map.child(libc::CLONE_NEWUSER, || ()));
    match uid_base {
        Some(_) => trials.wide_map = mapped,
        None => trials.own_map = mapped,
    }
    if mapped == Attempt::Worked {
        match map.child(sys::NAMESPACES | libc::CLONE_NEWCGROUP, try_mounts) {
            Ok([mount, proc, pivot]) => {
                trials.together = Attempt::Worked;
                (trials.mount, trials.proc, trials.pivot) = (mount, proc, pivot);
            }
            Err(error) => trials.together = Attempt::from(Err(error)),
        }
    }
    trials
}

fn attempt<T>(result: io::Result<T>) -> Attempt {
    Attempt::from(result.map(drop))
}

/// Whether the kernel does not know a call. Asked with arguments that no call accepts.
fn is_missing(number: libc::c_long) -> bool {
    const NONSENSE: libc::c_long = -1;
    // WHY: whether a call is there shows only when it is made.
    // SAFETY: each call in the table refuses these arguments before it does anything.
    let answer = unsafe { libc::syscall(number, NONSENSE, 0_usize, NONSENSE, 0_usize, 0_usize) };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
}

/// A map of ids.
struct Map {
    ids: String,
    groups: String,
}

impl Map {
    /// Runs `body` as root of new namespaces with these ids.
    fn child<T>(&self, flags: i32, body: impl FnOnce() -> T) -> io::Result<T>
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        let wide = self.ids.ends_with(&IDS.to_string());
        let write = |child: Pid| {
            if !wide {
                write_proc(child, "setgroups", "deny")?;
            }
            write_proc(child, "gid_map", &self.groups)?;
            write_proc(child, "uid_map", &self.ids)
        };
        run_child(flags, write, |wait| become_root(wait).map(|()| body()))
    }
}

/// Whether new namespaces can be made.
fn try_namespaces(flags: i32) -> Attempt {
    let wait = |wait: OwnedFd| packet::receive::<()>(&wait, RecvFlags::empty()).map(drop);
    attempt(run_child(flags, |_| Ok(()), wait))
}

/// What a child says: what it found, or the number of the error.
type Said<T> = Result<T, i32>;

/// Clones, has `parent` do its part, and gives what `child` found.
fn run_child<T>(
    flags: i32,
    parent: impl FnOnce(Pid) -> io::Result<()>,
    child: impl FnOnce(OwnedFd) -> io::Result<T>,
) -> io::Result<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let (ours, theirs) = packet::pair()?;
    let (answer, answerer) = packet::pair()?;
    let cloned = sys::clone_process(flags, None)?;
    let Cloned::Parent { child: pid, pidfd: _ } = cloned else {
        drop((ours, answer));
        let found: Said<T> = child(theirs).map_err(|error| error.raw_os_error().unwrap_or(0));
        let sent = packet::send(&answerer, &found, &[]);
        sys::end(if sent.is_ok() { DONE } else { COULD_NOT_ANSWER });
    };
    drop((theirs, answerer));
    let prepared = parent(pid).and_then(|()| packet::send(&ours, &(), &[]));
    if prepared.is_err() {
        // It waits for the word to go on, and ends when there is nobody to give it.
        drop(ours);
    }
    let said = packet::receive::<Said<T>>(&answer, RecvFlags::empty());
    rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
    prepared?;
    let (said, _) = said?.ok_or(io::ErrorKind::UnexpectedEof)?;
    said.map_err(io::Error::from_raw_os_error)
}

/// What a root is built with: a file system in memory, a view of processes, another root.
fn try_mounts() -> [Attempt; 3] {
    let failed = |(_, error): (String, io::Error)| error;
    let base = Path::new("/tmp");
    let mount = mounts::make_private().map_err(failed).and_then(|()| {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(rustix::mount::mount("none", base, "tmpfs", flags, Some(c"size=64k"))?)
    });
    if mount.is_err() {
        return [Attempt::from(mount), Attempt::Untried, Attempt::Untried];
    }
    let proc = fs::create_dir(base.join("proc")).and_then(|()| {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        Ok(rustix::mount::mount("proc", base.join("proc"), "proc", flags, None)?)
    });
    let pivot = fs::create_dir(base.join("old")).and_then(|()| {
        rustix::process::pivot_root(base, base.join("old"))?;
        rustix::process::chdir("/")?;
        Ok(rustix::mount::unmount("/old", UnmountFlags::DETACH)?)
    });
    [mount, proc, pivot].map(Attempt::from)
}

fn try_seccomp() -> Attempt {
    let install = || -> io::Result<()> {
        let filters = Filters::compile(AnonymousFiles::Allowed, ZygoteClone::Legacy)
            .map_err(io::Error::other)?;
        caps::no_new_privileges()?;
        filters.of_init().try_for_each(Program::install)?;
        Ok(())
    };
    attempt(run_child(
        0,
        |_| Ok(()),
        |wait| {
            packet::receive::<()>(&wait, RecvFlags::empty())?;
            install()
        },
    ))
}

/// Takes more memory than the group allows, in a process that is in it.
fn take_memory(tasks: &[OwnedFd], group: Option<BorrowedFd<'_>>) -> Taken {
    let Ok(cloned) = sys::clone_process(0, group) else { return Taken::NotPlaced };
    let Cloned::Parent { child, pidfd: _ } = cloned else {
        for task in tasks {
            if rustix::io::write(task, b"0") != Ok(1) {
                sys::end(COULD_NOT_ANSWER);
            }
        }
        let mut memory = vec![0_u8; TAKEN_BYTES];
        memory.iter_mut().step_by(rustix::param::page_size()).for_each(|byte| *byte = 1);
        std::hint::black_box(&memory);
        sys::end(DONE);
    };
    let status = loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(_) => return Taken::NotPlaced,
        }
    };
    judge(status)
}

fn judge(status: WaitStatus) -> Taken {
    match (status.terminating_signal(), status.exit_status()) {
        (Some(_), _) => Taken::Killed,
        (None, Some(DONE)) => Taken::All,
        (None, _) => Taken::NotPlaced,
    }
}
