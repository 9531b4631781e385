//! Version 2: one hierarchy. A group with controllers below it holds no process, so the engine
//! first moves itself to a leaf.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tree::Host;
use super::{
    GroupLimits, GroupUsage, claim, read_entry, read_number, read_processes, remove_patiently,
    sweep, write,
};

/// Over how long the share of the processors is counted, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

/// Where the engine itself is, beside its groups.
const LEAF: &str = "engine";

/// Our folder in the one hierarchy.
#[derive(Debug)]
pub(super) struct Tree {
    /// The group we were started in.
    own: PathBuf,
    folder: PathBuf,
    cpu: bool,
    owner: Option<u32>,
    /// Held while the engine lives; see [`super::lock`].
    _lock: File,
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    folder: PathBuf,
    cpu: bool,
}

impl Tree {
    /// Makes our folder and moves this process to a leaf below it.
    pub(super) fn build(host: &Host, engine: &str, owner: Option<u32>) -> Result<Self, String> {
        let own = host.own_v2().ok_or("not mounted, or our group is outside of what is mounted")?;
        let given = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
        let given: Vec<&str> = given.split_whitespace().collect();
        if !(given.contains(&"memory") && given.contains(&"pids")) {
            return Err(format!("memory and pids are not delegated to {}", own.display()));
        }
        sweep(&own);
        let (folder, lock) =
            claim(&own, engine).map_err(|error| format!("{}: {error}", own.display()))?;
        let cpu = given.contains(&"cpu");
        let tree = Self { own, folder, cpu, owner, _lock: lock };
        match tree.settle() {
            Ok(()) => Ok(tree),
            Err(error) => {
                let why = format!("{}: {error}", tree.folder.display());
                match tree.retire() {
                    Ok(()) => Err(why),
                    Err(error) => Err(format!("{why}; and cleaning up: {error}")),
                }
            }
        }
    }

    /// Moves us to the leaf and switches the controllers on above and in our folder. Fails when
    /// other processes are in the group we were started in: they are not ours to move.
    fn settle(&self) -> io::Result<()> {
        let leaf = self.folder.join(LEAF);
        fs::create_dir(&leaf)?;
        write(&leaf.join("cgroup.procs"), "0")?;
        self.switch('+', &self.own)?;
        self.switch('+', &self.folder)?;
        self.give(&self.folder)
    }

    fn switch(&self, sign: char, folder: &Path) -> io::Result<()> {
        let cpu = if self.cpu { format!(" {sign}cpu") } else { String::new() };
        write(&folder.join("cgroup.subtree_control"), &format!("{sign}memory {sign}pids{cpu}"))
    }

    /// Whoever clones into a group must own `cgroup.procs` of the group and of the one above.
    fn give(&self, folder: &Path) -> io::Result<()> {
        match self.owner {
            Some(owner) => chown(folder.join("cgroup.procs"), Some(owner), Some(owner)),
            None => Ok(()),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether memory, pids and cpu are held.
    pub(super) const fn holds(&self) -> (bool, bool, bool) {
        (true, true, self.cpu)
    }

    pub(super) fn group(&self, name: &str, limits: GroupLimits) -> io::Result<Group> {
        let group = Group { folder: self.folder.join(name), cpu: self.cpu };
        fs::create_dir(&group.folder)?;
        if let Err(error) = group.set_limits(limits).and_then(|()| self.give(&group.folder)) {
            group.remove()?;
            return Err(error);
        }
        Ok(group)
    }

    /// Moves us back to where we were started, and removes our folder.
    pub(super) fn retire(self) -> io::Result<()> {
        // Where `settle` stopped half-way a switch is off already, which is not an error to tell.
        let off = self.switch('-', &self.folder).and_then(|()| self.switch('-', &self.own));
        if let Err(error) = off {
            tracing::debug!(%error, "controllers were off already");
        }
        let leaf = self.folder.join(LEAF);
        if leaf.exists() {
            write(&self.own.join("cgroup.procs"), "0")?;
            remove_patiently(&leaf)?;
        }
        remove_patiently(&self.folder)
    }
}

impl Group {
    pub(super) fn folder_fd(&self) -> io::Result<OwnedFd> {
        File::open(&self.folder).map(Into::into)
    }

    pub(super) fn set_limits(&self, limits: GroupLimits) -> io::Result<()> {
        write(&self.folder.join("memory.max"), &limits.memory.to_string())?;
        // Kernels without swap have no such file.
        let swap = self.folder.join("memory.swap.max");
        if swap.exists() {
            write(&swap, "0")?;
        }
        write(&self.folder.join("memory.oom.group"), "1")?;
        write(&self.folder.join("pids.max"), &limits.pids.to_string())?;
        if self.cpu {
            let quota = u64::from(limits.cpu_milli) * CPU_PERIOD_US / 1_000;
            write(&self.folder.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?;
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> io::Result<GroupUsage> {
        let cpu = self.folder.join("cpu.stat");
        let peak = self.folder.join("memory.peak");
        let pids = read_number(&self.folder.join("pids.current"))?;
        Ok(GroupUsage {
            cpu: Duration::from_micros(read_entry(&cpu, "usage_usec")?),
            memory: read_number(&self.folder.join("memory.current"))?,
            memory_cache: read_entry(&self.folder.join("memory.stat"), "file")?,
            // Since kernel 5.19.
            memory_peak: if peak.exists() { read_number(&peak)? } else { 0 },
            pids: u32::try_from(pids).unwrap_or(u32::MAX),
            throttled: Duration::from_micros(read_entry(&cpu, "throttled_usec")?),
        })
    }

    /// Where the kernel counts whom it killed for memory.
    pub(super) fn kills(&self) -> PathBuf {
        self.folder.join("memory.events")
    }

    pub(super) fn processes(&self) -> io::Result<Vec<u32>> {
        read_processes(&self.folder.join("cgroup.procs"))
    }

    pub(super) fn set_frozen(&self, digit: &str) -> io::Result<()> {
        write(&self.folder.join("cgroup.freeze"), digit)
    }

    pub(super) fn is_frozen(&self) -> io::Result<bool> {
        Ok(read_entry(&self.folder.join("cgroup.events"), "frozen")? == 1)
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        write(&self.folder.join("cgroup.kill"), "1")
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        remove_patiently(&self.folder)
    }
}
