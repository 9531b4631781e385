//! What this machine lets the engine do, found out by doing it: in processes that end right after,
//! never in the engine's own.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cgroup::{Group, Placement};
use super::control::Boot;
use super::entry;
use super::host::Launcher;
use super::mode::{Facts, Switches, Trials};
use super::packet;

mod inner;

pub(super) use inner::run;

/// Longest all trials together may take. They take some 20 ms.
const TRIALS_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Bytes of memory that the process takes which is to be killed for it.
pub(super) const TAKEN_BYTES: usize = 128 * 1024 * 1024;

/// The number of the kernel's first pid namespace. Whoever is in another is in a container.
const FIRST_PIDS: u64 = 0xefff_fffc;

/// What the inner program is to try.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ProbeBoot {
    /// Everything a sandbox needs. With the socket to answer on.
    Everything {
        /// First of the ids that root gives to sandboxes; `None` for an ordinary user.
        uid_base: Option<u32>,
    },
    /// To take more memory than its group allows. With the socket to answer on and the group's
    /// tasks files.
    MemoryByTasks,
    /// As above, with the group's folder.
    MemoryByClone,
}

/// How a process that took too much memory ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Taken {
    /// It was killed.
    Killed,
    /// It got all it asked for.
    All,
    /// It could not get into the group.
    NotPlaced,
}

/// Tries everything that the choice of a mode depends on.
///
/// # Errors
/// If the program cannot be started or does not answer.
pub async fn gather(uid_base: u32, launcher: &Launcher) -> io::Result<Facts> {
    let root = rustix::process::geteuid().is_root();
    let boot = ProbeBoot::Everything { uid_base: root.then_some(uid_base) };
    let trials: Trials = ask(launcher, boot, Vec::new()).await?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Ok(Facts {
        root,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        switches: Switches {
            max_user_namespaces: sysctl("user/max_user_namespaces"),
            unprivileged_userns_clone: sysctl("kernel/unprivileged_userns_clone"),
            apparmor_restrict: sysctl("kernel/apparmor_restrict_unprivileged_userns"),
        },
        filtered: status.lines().any(|line| line == "Seccomp:\t2"),
        proc_masked: masks_proc(&mounts),
        contained: is_contained(),
        trials,
    })
}

/// Whether this is a container: a place with process ids of its own. It stays so while this
/// process lives.
pub(super) fn is_contained() -> bool {
    static CONTAINED: LazyLock<bool> = LazyLock::new(|| {
        fs::metadata("/proc/self/ns/pid").is_ok_and(|own| own.ino() != FIRST_PIDS)
    });
    *CONTAINED
}

/// Has a process take more memory than `group` allows.
///
/// # Errors
/// If the program cannot be started or does not answer.
pub(super) async fn take_memory(group: &Group, launcher: &Launcher) -> io::Result<Taken> {
    let (boot, files) = match group.placement()? {
        Placement::WriteZero(tasks) => (ProbeBoot::MemoryByTasks, tasks),
        Placement::CloneInto(folder) => (ProbeBoot::MemoryByClone, vec![folder]),
        Placement::Nowhere => return Ok(Taken::NotPlaced),
    };
    ask(launcher, boot, files).await
}

/// Starts the inner program and waits for its answer, on a thread that may wait.
async fn ask<T: DeserializeOwned + Send + 'static>(
    launcher: &Launcher,
    boot: ProbeBoot,
    files: Vec<OwnedFd>,
) -> io::Result<T> {
    let launcher = launcher.clone();
    let asking = tokio::task::spawn_blocking(move || ask_and_wait(&launcher, boot, &files));
    asking.await.map_err(io::Error::other)?
}

fn ask_and_wait<T: DeserializeOwned>(
    launcher: &Launcher,
    boot: ProbeBoot,
    files: &[OwnedFd],
) -> io::Result<T> {
    let image = launcher.image()?;
    let (ours, theirs) = packet::pair()?;
    let mut all = vec![theirs.as_fd()];
    all.extend(files.iter().map(AsFd::as_fd));
    let stdin = entry::prepare(&Boot::Probe(boot), &all)?;
    drop(all);
    drop(theirs);
    let mut child = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
        .arg0(entry::NAME.to_string_lossy().as_ref())
        .env_clear()
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let answered = wait_for(&ours).and_then(|()| {
        let received = packet::receive(&ours, RecvFlags::DONTWAIT)?;
        let (answer, _) = received.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(answer)
    });
    // It ended by itself unless it hangs; either way it is reaped.
    let _ = child.kill();
    child.wait()?;
    answered
}

fn wait_for(socket: &OwnedFd) -> io::Result<()> {
    let mut readable = [PollFd::new(socket, PollFlags::IN)];
    match rustix::event::poll(&mut readable, Some(&TRIALS_MAX))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

/// Whether parts of `/proc` are covered. A registry of binary formats is mounted there on every
/// host and covers nothing.
fn masks_proc(mountinfo: &str) -> bool {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| point.starts_with("/proc/") && point != "/proc/sys/fs/binfmt_misc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covered_parts_of_proc_are_seen_and_the_registry_of_formats_is_none() {
        let host = "23 22 0:20 / /proc rw - proc proc rw\n\
                    40 23 0:35 / /proc/sys/fs/binfmt_misc rw - binfmt_misc binfmt_misc rw";
        let container = "612 608 0:59 / /proc/acpi ro,relatime - tmpfs tmpfs ro";

        assert_eq!([host, container].map(masks_proc), [false, true]);
    }
}
