//! Version 1: one hierarchy per controller, or per few of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tree::Host;
use super::{
    GroupLimits, GroupUsage, claim, read_entry, read_number, read_processes, remove_patiently,
    sweep, write,
};

/// Over how long the share of the processors is counted, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

/// Controllers a group is made in, where they are there.
const CONTROLLERS: [Controller; 5] = [
    Controller::Memory,
    Controller::Pids,
    Controller::Cpu,
    Controller::CpuAcct,
    Controller::Freezer,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Pids,
    Cpu,
    CpuAcct,
    Freezer,
}

impl Controller {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::CpuAcct => "cpuacct",
            Self::Freezer => "freezer",
        }
    }
}

/// The file of a group by which it stands still.
pub(super) const FREEZER_STATE: &str = "freezer.state";

/// What a freezer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freezer {
    /// Stand still.
    Frozen,
    /// Go on.
    Thawed,
}

impl Freezer {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Frozen => "FROZEN",
            Self::Thawed => "THAWED",
        }
    }
}

/// Our folder in every hierarchy that we can write.
#[derive(Debug)]
pub(super) struct Tree {
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug)]
struct Hierarchy {
    controllers: Vec<Controller>,
    folder: PathBuf,
    /// Held while the engine lives; see [`super::lock`].
    _lock: File,
}

/// One group: a folder per hierarchy.
#[derive(Debug)]
pub(super) struct Group {
    folders: Vec<(Vec<Controller>, PathBuf)>,
}

impl Tree {
    /// Makes our folders. Controllers that cannot be written are left out; without memory and
    /// pids there is nothing to be gained, and the error says why.
    pub(super) fn build(host: &Host, engine: &str) -> Result<Self, String> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut missing = Vec::new();
        for controller in CONTROLLERS {
            let Some(parent) = host.own_v1(controller.name()) else {
                missing.push(format!("{} is not mounted", controller.name()));
                continue;
            };
            let known = hierarchies.iter_mut().find(|known| known.folder.parent() == Some(&parent));
            if let Some(known) = known {
                known.controllers.push(controller);
                continue;
            }
            sweep(&parent);
            match claim(&parent, engine) {
                Ok((folder, lock)) => {
                    hierarchies.push(Hierarchy {
                        controllers: vec![controller],
                        folder,
                        _lock: lock,
                    });
                }
                Err(error) => missing.push(format!("{}: {error}", parent.display())),
            }
        }
        let tree = Self { hierarchies };
        if tree.has(Controller::Memory) || tree.has(Controller::Pids) {
            return Ok(tree);
        }
        // What was made for lesser controllers is empty and goes again.
        let removed = tree.retire();
        Err(match removed {
            Ok(()) => missing.join(", "),
            Err(error) => format!("{}; and cleaning up: {error}", missing.join(", ")),
        })
    }

    pub(super) fn folders(&self) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.folder.clone()).collect()
    }

    /// Whether memory, pids and cpu are held.
    pub(super) fn holds(&self) -> (bool, bool, bool) {
        (self.has(Controller::Memory), self.has(Controller::Pids), self.has(Controller::Cpu))
    }

    fn has(&self, controller: Controller) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.controllers.contains(&controller))
    }

    pub(super) fn group(&self, name: &str, limits: GroupLimits) -> io::Result<Group> {
        let mut group = Group { folders: Vec::with_capacity(self.hierarchies.len()) };
        let made = self.make(name, limits, &mut group);
        if let Err(error) = made {
            group.remove()?;
            return Err(error);
        }
        Ok(group)
    }

    fn make(&self, name: &str, limits: GroupLimits, group: &mut Group) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.folder.join(name);
            fs::create_dir(&folder)?;
            group.folders.push((hierarchy.controllers.clone(), folder));
        }
        group.set_limits(limits)
    }

    pub(super) fn retire(self) -> io::Result<()> {
        self.hierarchies.iter().try_for_each(|hierarchy| remove_patiently(&hierarchy.folder))
    }
}

impl Group {
    fn folder(&self, controller: Controller) -> Option<&Path> {
        let mut folders = self.folders.iter();
        folders.find(|(all, _)| all.contains(&controller)).map(|(_, folder)| folder.as_path())
    }

    pub(super) fn tasks(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |folder: &Path| OpenOptions::new().write(true).open(folder.join("tasks"));
        self.folders.iter().map(|(_, folder)| open(folder).map(Into::into)).collect()
    }

    pub(super) fn set_limits(&self, limits: GroupLimits) -> io::Result<()> {
        if let Some(folder) = self.folder(Controller::Memory) {
            set_memory(folder, limits.memory)?;
        }
        if let Some(folder) = self.folder(Controller::Pids) {
            write(&folder.join("pids.max"), &limits.pids.to_string())?;
        }
        if let Some(folder) = self.folder(Controller::Cpu) {
            let quota = u64::from(limits.cpu_milli) * CPU_PERIOD_US / 1_000;
            write(&folder.join("cpu.cfs_quota_us"), &quota.to_string())?;
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> io::Result<GroupUsage> {
        let mut usage = GroupUsage::default();
        if let Some(folder) = self.folder(Controller::Memory) {
            usage.memory = read_number(&folder.join("memory.usage_in_bytes"))?;
            usage.memory_cache = read_entry(&folder.join("memory.stat"), "total_cache")?;
            usage.memory_peak = read_number(&folder.join("memory.max_usage_in_bytes"))?;
        }
        if let Some(folder) = self.folder(Controller::Pids) {
            let pids = read_number(&folder.join("pids.current"))?;
            usage.pids = u32::try_from(pids).unwrap_or(u32::MAX);
        }
        if let Some(folder) = self.folder(Controller::CpuAcct) {
            usage.cpu = Duration::from_nanos(read_number(&folder.join("cpuacct.usage"))?);
        }
        if let Some(folder) = self.folder(Controller::Cpu) {
            let nanos = read_entry(&folder.join("cpu.stat"), "throttled_time")?;
            usage.throttled = Duration::from_nanos(nanos);
        }
        Ok(usage)
    }

    /// Where the kernel counts whom it killed for memory, if it does.
    pub(super) fn kills(&self) -> Option<PathBuf> {
        Some(self.folder(Controller::Memory)?.join("memory.oom_control"))
    }

    pub(super) fn processes(&self) -> io::Result<Vec<u32>> {
        let Some((_, folder)) = self.folders.first() else { return Ok(Vec::new()) };
        read_processes(&folder.join("cgroup.procs"))
    }

    pub(super) fn set_frozen(&self, state: Freezer) -> io::Result<()> {
        write(&self.freezer()?.join(FREEZER_STATE), state.word())
    }

    pub(super) fn is_frozen(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.freezer()?.join(FREEZER_STATE))?.trim()
            == Freezer::Frozen.word())
    }

    fn freezer(&self) -> io::Result<&Path> {
        self.folder(Controller::Freezer).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Tries every folder, so that one that is stuck does not keep the others.
    pub(super) fn remove(&self) -> io::Result<()> {
        let mut first_error = Ok(());
        for (_, folder) in &self.folders {
            let removed = remove_patiently(folder);
            if first_error.is_ok() {
                first_error = removed;
            }
        }
        first_error
    }
}

/// Sets memory, and memory and swap together to the same, so that there is no swap. The second
/// may never be below the first, hence the two orders: one for shrinking, one for growing. A
/// kernel that does not count swap has no second file, and is told to avoid swap instead.
fn set_memory(folder: &Path, bytes: u64) -> io::Result<()> {
    let bytes = bytes.to_string();
    let memory = folder.join("memory.limit_in_bytes");
    let with_swap = folder.join("memory.memsw.limit_in_bytes");
    if !with_swap.exists() {
        write(&memory, &bytes)?;
        return write(&folder.join("memory.swappiness"), "0");
    }
    if write(&memory, &bytes).is_ok() {
        return write(&with_swap, &bytes);
    }
    write(&with_swap, &bytes)?;
    write(&memory, &bytes)
}
