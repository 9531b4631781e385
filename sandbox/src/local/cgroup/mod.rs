//! Control groups: where they are written, where a process is put, what a sandbox used.
//!
//! Groups are made only below `<our own group>/sandpit-<engine>`, never at a root and never above
//! what was given to us. All calls here block for tens of microseconds, and [`Group::remove`] for
//! up to a second: a runtime hands them to its blocking threads.
//!
//! A process is never moved by writing its id into `cgroup.procs` while a sandbox is being made:
//! that waits for a grace period of the kernel, 7 ms in the middle. [`Placement`] says what is
//! done instead.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use sandpit_messages::sandbox::LimitsEnforced;

use super::options::CgroupChoice;
use super::sys::{self, Page};

pub mod none;
mod stock;
mod tree;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

pub use stock::Stock;

/// Attempts to claim a folder that another engine's sweep holds for a moment.
const CLAIM_ATTEMPTS: u32 = 10;

/// Attempts to remove a group: one second in all, which is what a teardown may take. The kernel
/// lets go of the last process a moment after it was reaped, and on a machine with ten times more
/// to do than processors that moment was longer than 50 ms.
const REMOVE_ATTEMPTS: u32 = 200;

/// Pause between two attempts to remove a group.
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// Every folder of an engine begins so.
const PREFIX: &str = "sandpit-";

/// What a group may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Bytes of memory, files in memory included. Swap is never given.
    pub memory: u64,
    /// Processes and threads, init and worker included.
    pub pids: u32,
    /// Processors in thousandths.
    pub cpu_milli: u32,
}

/// What a group used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Processor time since it was made.
    pub cpu: Duration,
    /// Bytes of memory now.
    pub memory: u64,
    /// Of those, bytes of files, of those in memory too.
    pub memory_cache: u64,
    /// Most bytes of memory at once; 0 where the kernel does not tell.
    pub memory_peak: u64,
    /// Processes and threads now.
    pub pids: u32,
    /// Time it had to wait because its share of the processors was used up.
    pub throttled: Duration,
}

/// How a new process gets into a group.
#[derive(Debug)]
pub enum Placement {
    /// Not at all: there is no group.
    Nowhere,
    /// The process itself, while it has one thread, writes `0` into each of these. The rights of
    /// whoever opened them count, so they work inside a user namespace.
    WriteZero(Vec<OwnedFd>),
    /// `clone3` with `CLONE_INTO_CGROUP` and this folder.
    CloneInto(OwnedFd),
}

/// The way groups are written on this machine, and this engine's folder in it.
#[derive(Debug)]
pub struct Backend {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    V1(v1::Tree),
    V2(v2::Tree),
    None { why: String },
}

/// One group.
#[derive(Debug)]
pub struct Group {
    name: String,
    kind: GroupKind,
    /// Where the kernel counts whom it killed for memory; after every execution it is looked at.
    kills: OnceLock<Page>,
}

#[derive(Debug)]
enum GroupKind {
    V1(v1::Group),
    V2(v2::Group),
    None,
}

impl Backend {
    /// Finds out how groups can be written and makes this engine's folder.
    ///
    /// `engine` is a word that no other living engine has; folders of engines that died are
    /// removed on the way. `owner` is the user id that the keepers have on the host when run by
    /// root: it must own `cgroup.procs` to clone into a group. Never fails: where nothing can be
    /// written the answer is the backend `none`, which says why.
    pub fn detect(choice: CgroupChoice, engine: &str, owner: Option<u32>) -> Self {
        if choice == CgroupChoice::None {
            return Self::none("control groups are switched off by the setting `cgroup`");
        }
        let host = match tree::Host::read(Path::new("/proc/self")) {
            Ok(host) => host,
            Err(error) => return Self::none(&format!("cannot read /proc/self: {error}")),
        };
        let second = match v2::Tree::build(&host, engine, owner) {
            Ok(tree) => return Self { kind: Kind::V2(tree) },
            Err(why) => why,
        };
        match v1::Tree::build(&host, engine) {
            Ok(tree) => Self { kind: Kind::V1(tree) },
            Err(first) => Self::none(&format!("v2: {second}; v1: {first}")),
        }
    }

    fn none(why: &str) -> Self {
        Self { kind: Kind::None { why: why.to_owned() } }
    }

    /// `v1`, `v2` or `none`.
    pub fn name(&self) -> &'static str {
        match &self.kind {
            Kind::V1(_) => "v1",
            Kind::V2(_) => "v2",
            Kind::None { .. } => "none",
        }
    }

    /// Why there are no groups; `None` where there are.
    pub fn why_none(&self) -> Option<&str> {
        match &self.kind {
            Kind::None { why } => Some(why),
            Kind::V1(_) | Kind::V2(_) => None,
        }
    }

    /// The folders this engine owns.
    pub fn folders(&self) -> Vec<PathBuf> {
        match &self.kind {
            Kind::V1(tree) => tree.folders(),
            Kind::V2(tree) => vec![tree.folder().to_owned()],
            Kind::None { .. } => Vec::new(),
        }
    }

    /// How limits hold under this backend.
    pub fn enforced(&self) -> LimitsEnforced {
        let (memory, pids, cpu) = match &self.kind {
            Kind::V1(tree) => tree.holds(),
            Kind::V2(tree) => tree.holds(),
            Kind::None { .. } => (false, false, false),
        };
        let say = |held: bool, instead: &str| if held { "cgroup" } else { instead }.to_owned();
        LimitsEnforced {
            memory: say(memory, "rlimit+watchdog"),
            cpu: say(cpu, "nice"),
            pids: say(pids, "rlimit"),
            disk: "tmpfs".to_owned(),
        }
    }

    /// Makes the group `name`, for example `sbx-17`.
    ///
    /// # Errors
    /// What the kernel said; nothing half-made remains.
    pub fn group(&self, name: &str, limits: GroupLimits) -> io::Result<Group> {
        let kind = match &self.kind {
            Kind::V1(tree) => GroupKind::V1(tree.group(name, limits)?),
            Kind::V2(tree) => GroupKind::V2(tree.group(name, limits)?),
            Kind::None { .. } => GroupKind::None,
        };
        Ok(Group { name: name.to_owned(), kind, kills: OnceLock::new() })
    }

    /// Removes this engine's folder. Its groups must have been removed before.
    ///
    /// # Errors
    /// What the kernel said; what could not be removed is removed by the next engine's start.
    pub fn retire(self) -> io::Result<()> {
        match self.kind {
            Kind::V1(tree) => tree.retire(),
            Kind::V2(tree) => tree.retire(),
            Kind::None { .. } => Ok(()),
        }
    }
}

impl Group {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens what a new process needs to get in. The descriptors are closed on exec.
    ///
    /// # Errors
    /// What the kernel said, usually that no more files may be open.
    pub fn placement(&self) -> io::Result<Placement> {
        match &self.kind {
            GroupKind::V1(group) => group.tasks().map(Placement::WriteZero),
            GroupKind::V2(group) => group.folder_fd().map(Placement::CloneInto),
            GroupKind::None => Ok(Placement::Nowhere),
        }
    }

    /// Changes the limits of a group that may be in use.
    ///
    /// # Errors
    /// What the kernel said, for example that more memory is in use than the new limit.
    pub fn set_limits(&self, limits: GroupLimits) -> io::Result<()> {
        match &self.kind {
            GroupKind::V1(group) => group.set_limits(limits),
            GroupKind::V2(group) => group.set_limits(limits),
            GroupKind::None => Ok(()),
        }
    }

    /// What it used; `None` where there is no group, and `/proc` must be asked instead
    /// ([`none::survey`]).
    ///
    /// # Errors
    /// What the kernel said.
    pub fn usage(&self) -> io::Result<Option<GroupUsage>> {
        match &self.kind {
            GroupKind::V1(group) => group.usage().map(Some),
            GroupKind::V2(group) => group.usage().map(Some),
            GroupKind::None => Ok(None),
        }
    }

    /// Processes the kernel killed because the group was out of memory.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let page = match self.kills.get() {
            Some(page) => page,
            None => {
                let counted = match &self.kind {
                    GroupKind::V1(group) => group.kills(),
                    GroupKind::V2(group) => Some(group.kills()),
                    GroupKind::None => None,
                };
                let Some(path) = counted else { return Ok(0) };
                let page = Page::open(path)?;
                self.kills.get_or_init(|| page)
            }
        };
        entry(&page.read()?, "oom_kill")
    }

    /// Process ids in it, as this process sees them.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        match &self.kind {
            GroupKind::V1(group) => group.processes(),
            GroupKind::V2(group) => group.processes(),
            GroupKind::None => Ok(Vec::new()),
        }
    }

    /// Asks that everything in it stands still. [`Self::is_frozen`] says when it does.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where groups cannot freeze; else what the kernel said.
    pub fn freeze(&self) -> io::Result<()> {
        match &self.kind {
            GroupKind::V1(group) => group.set_frozen(v1::Freezer::Frozen),
            GroupKind::V2(group) => group.set_frozen("1"),
            GroupKind::None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Lets everything in it go on.
    ///
    /// # Errors
    /// As [`Self::freeze`].
    pub fn thaw(&self) -> io::Result<()> {
        match &self.kind {
            GroupKind::V1(group) => group.set_frozen(v1::Freezer::Thawed),
            GroupKind::V2(group) => group.set_frozen("0"),
            GroupKind::None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether everything in it stands still.
    ///
    /// # Errors
    /// As [`Self::freeze`].
    pub fn is_frozen(&self) -> io::Result<bool> {
        match &self.kind {
            GroupKind::V1(group) => group.is_frozen(),
            GroupKind::V2(group) => group.is_frozen(),
            GroupKind::None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Kills what is in it, where the kernel can do that at once (v2). Elsewhere nothing happens:
    /// the caller kills the sandbox's init first in any case, and that ends its namespace.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn kill(&self) -> io::Result<()> {
        match &self.kind {
            GroupKind::V2(group) => group.kill(),
            GroupKind::V1(_) | GroupKind::None => Ok(()),
        }
    }

    /// Removes it, trying again for up to a second while the kernel lets go of its last process.
    /// Blocks: not for a thread that drives a runtime. Removing it twice is not an error.
    ///
    /// # Errors
    /// What the kernel said last, usually that a process is still in it. The group is then to be
    /// kept out of use; the next engine's start removes it.
    pub fn remove(&self) -> io::Result<()> {
        match &self.kind {
            GroupKind::V1(group) => group.remove(),
            GroupKind::V2(group) => group.remove(),
            GroupKind::None => Ok(()),
        }
    }
}

/// Removes the folders of engines that died below `parent`: those whose lock nobody holds.
/// A folder in which something still lives stays; the kernel refuses to remove it.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let folder = entry.path();
        let Ok(Some(_lock)) = lock(&folder) else { continue };
        thaw_below(std::slice::from_ref(&folder));
        if let Err(error) = remove_tree(&folder) {
            tracing::debug!(?folder, %error, "leaving a group of an engine that ended");
        }
    }
}

/// Lets everything go on that the groups below these folders hold still. Under version 1 nothing
/// ends before, whoever kills it.
pub(super) fn thaw_below(folders: &[PathBuf]) {
    let groups = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    for state in groups.map(|group| group.path().join(v1::FREEZER_STATE)) {
        if state.exists()
            && let Err(error) = write(&state, v1::Freezer::Thawed.word())
        {
            tracing::debug!(?state, %error, "a group stands still");
        }
    }
}

/// Removes the folders of an engine that has ended or is about to, whose processes are all gone:
/// what [`sweep`] does at the next start, done at once. Blocks for up to a second, while the
/// kernel lets go of the engine's locks and of the last process.
pub(super) fn remove_after_death(folders: &[PathBuf]) {
    for folder in folders {
        for _ in 0..REMOVE_ATTEMPTS {
            match lock(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Ok(Some(_lock)) if remove_tree(folder).is_ok() => break,
                Ok(_) | Err(_) => pause(),
            }
        }
    }
}

/// Removes an empty group and the empty groups below it, deepest first.
fn remove_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// Locks a folder for as long as the file lives; `None` if somebody else has it. The kernel lets
/// go of it when the engine ends, however it ends, which is how the living are told from the
/// dead.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = File::open(folder)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes and locks the folder of this engine. Another engine's [`sweep`] may hold or remove it
/// between the two, for a moment, so that is tried again.
fn claim(parent: &Path, engine: &str) -> io::Result<(PathBuf, File)> {
    let folder = parent.join(format!("{PREFIX}{engine}"));
    for attempt in 0..CLAIM_ATTEMPTS {
        if attempt > 0 {
            pause();
        }
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if let Ok(Some(file)) = lock(&folder)
            && folder.exists()
        {
            return Ok((folder, file));
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "another engine of the same name is alive"))
}

/// Removes a folder, trying again while something is still in it.
fn remove_patiently(folder: &Path) -> io::Result<()> {
    let mut attempt = 1;
    loop {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if attempt == REMOVE_ATTEMPTS => return Err(error),
            Err(_) => pause(),
        }
        attempt += 1;
    }
}

#[expect(clippy::disallowed_methods, reason = "documented to block; callers have threads for it")]
fn pause() {
    std::thread::sleep(REMOVE_PAUSE);
}

/// A file of one number.
fn read_number(path: &Path) -> io::Result<u64> {
    let text = sys::read_page(path)?;
    text.trim().parse().map_err(|_| invalid(path))
}

/// The number after `key` in a file of `key number` lines; 0 if the key is not there.
fn read_entry(path: &Path, key: &str) -> io::Result<u64> {
    entry(&sys::read_page(path)?, key)
}

/// The number after a word, at the start of a line; 0 where there is none.
fn entry(text: &str, key: &str) -> io::Result<u64> {
    let mut entries = text.lines().filter_map(|line| line.split_once(' '));
    let Some((_, value)) = entries.find(|(name, _)| *name == key) else { return Ok(0) };
    let unread = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{key} is {value}"));
    value.trim().parse().map_err(unread)
}

/// A file of one process id per line.
fn read_processes(path: &Path) -> io::Result<Vec<u32>> {
    fs::read_to_string(path)?.lines().map(|line| line.parse().map_err(|_| invalid(path))).collect()
}

fn invalid(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no number", path.display()))
}

/// Writes a control file. One `write`, as the kernel wants it.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
}
