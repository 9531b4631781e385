//! What a run leaves behind: the machine is looked at before and after, and everything the run was
//! seen to start is looked for again.
//!
//! Other programs come and go meanwhile, so a bare difference would accuse the innocent. What
//! counts as ours: processes seen below this one at any time, the network namespaces they were in,
//! the control groups of this process's engine, and new mounts below our folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Levels of groups that are looked at. Ours are made directly below the group we are in.
const CGROUP_DEPTH_MAX: usize = 12;
/// How the control group of an engine begins; it ends with the number of the engine's process.
const ENGINE: &str = "sandpit-";

/// How often, and at what distance, a machine that differs is looked at again: 3 s in all, which is
/// what an engine may take to end.
const LOOKS: u32 = 60;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A process: its number, and when it started in ticks since boot, because numbers are used again.
type Process = (u32, u64);

/// What was there at one time.
#[derive(Clone, Debug, Default)]
struct Scene {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

/// Watches what a run starts.
#[derive(Debug)]
pub struct Watch {
    /// Mounts below it are ours.
    folder: PathBuf,
    before: Scene,
    home: Option<u64>,
    processes: BTreeMap<Process, String>,
    networks: BTreeSet<u64>,
}

/// What is still there, each in a few words. All empty is as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leftovers {
    /// Processes.
    pub processes: Vec<String>,
    /// Mounts in the mount namespace of this process.
    pub mounts: Vec<String>,
    /// Control groups.
    pub cgroups: Vec<String>,
    /// Network namespaces that somebody is still in.
    pub network_namespaces: Vec<String>,
    /// Sandboxes the node still knew when it was told to leave.
    pub sandboxes: Vec<String>,
}

impl Leftovers {
    /// How many things.
    pub fn count(&self) -> usize {
        let Self { processes, mounts, cgroups, network_namespaces, sandboxes } = self;
        [processes, mounts, cgroups, network_namespaces, sandboxes].map(Vec::len).iter().sum()
    }
}

/// What was looked at, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Processes this run was seen to start.
    pub processes: usize,
    /// Network namespaces they were in beside that of this process.
    pub network_namespaces: usize,
}

impl Watch {
    /// Looks at the machine before anything is started. `folder` is where the run keeps its things.
    pub fn begin(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            before: Scene::now(),
            home: network_of("self"),
            processes: BTreeMap::new(),
            networks: BTreeSet::new(),
        }
    }

    /// Remembers everything that runs below this process now.
    pub fn look(&mut self) {
        for (process, found) in below(std::process::id()) {
            // A process that is seen again may have moved since.
            let pid = process.0.to_string();
            self.networks.extend(network_of(&pid).filter(|network| Some(*network) != self.home));
            self.processes.entry(process).or_insert(found);
        }
    }

    /// How much was seen.
    pub fn seen(&self) -> Seen {
        Seen { processes: self.processes.len(), network_namespaces: self.networks.len() }
    }

    /// Compares, and again until nothing is left or 3 s are over: the kernel takes a moment
    /// to take a killed process apart, and nothing announces the end.
    pub async fn settled(&self) -> Leftovers {
        for _ in 0..LOOKS {
            let left = self.compare();
            if left.count() == 0 {
                return left;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.compare()
    }

    /// Compares.
    pub fn compare(&self) -> Leftovers {
        let now = Scene::now();
        let alive = all();
        let mut processes: Vec<String> = self
            .processes
            .iter()
            .filter(|((pid, started), _)| alive.get(pid).is_some_and(|one| one.started == *started))
            .map(|((pid, _), name)| format!("{name} ({pid})"))
            .collect();
        let unseen = below(std::process::id()).into_iter();
        let unseen = unseen.filter(|(process, _)| !self.processes.contains_key(process));
        processes.extend(unseen.map(|((pid, _), name)| format!("{name} ({pid})")));
        let own = ancestors(std::process::id(), &alive);
        let network_namespaces = alive
            .keys()
            .filter(|pid| !self.is_somebody_elses(**pid, &alive, &own))
            .filter_map(|pid| network_of(&pid.to_string()))
            .filter(|network| self.networks.contains(network))
            .collect::<BTreeSet<u64>>();
        Leftovers {
            processes,
            mounts: now
                .mounts
                .difference(&self.before.mounts)
                .filter(|line| line.contains(&*self.folder.to_string_lossy()))
                .cloned()
                .collect(),
            cgroups: now
                .cgroups
                .difference(&self.before.cgroups)
                .filter(|path| is_group_of(path, std::process::id()))
                .map(|path| path.display().to_string())
                .collect(),
            network_namespaces: network_namespaces.iter().map(|at| format!("net:[{at}]")).collect(),
            sandboxes: Vec::new(),
        }
    }

    /// Whether a process descends from one that is neither ours nor above us. The kernel gives the
    /// number of a namespace that is gone to the next one, which may be another engine's; what we
    /// lost descends from us, or from whoever takes in orphans, who is above us.
    fn is_somebody_elses(&self, pid: u32, alive: &BTreeMap<u32, Alive>, own: &[u32]) -> bool {
        ancestors(pid, alive).into_iter().any(|above| {
            let started = alive.get(&above).map(|one| one.started);
            let is_seen = started.is_some_and(|at| self.processes.contains_key(&(above, at)));
            !is_seen && above != std::process::id() && !own.contains(&above)
        })
    }
}

/// The living processes above one, nearest first.
fn ancestors(pid: u32, alive: &BTreeMap<u32, Alive>) -> Vec<u32> {
    let parent = |pid: &u32| {
        let parent = alive.get(pid)?.parent;
        alive.contains_key(&parent).then_some(parent)
    };
    // A chain of parents is never longer than the list of processes.
    std::iter::successors(parent(&pid), parent).take(alive.len()).collect()
}

/// Whether a control group is that of the engine of process `pid`, or below it.
fn is_group_of(path: &Path, pid: u32) -> bool {
    let ending = format!("-{pid}");
    path.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        name.starts_with(ENGINE) && name.ends_with(&ending)
    })
}

impl Scene {
    fn now() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut cgroups = BTreeSet::new();
        walk(Path::new(CGROUPS), CGROUP_DEPTH_MAX, &mut cgroups);
        Self { mounts: mounts.lines().map(str::to_owned).collect(), cgroups }
    }
}

/// Every folder below `folder`. What vanishes while it is looked at is not there.
fn walk(folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    let Some(deeper) = depth.checked_sub(1) else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            walk(&path, deeper, found);
            found.insert(path);
        }
    }
}

/// A process that is alive. One that ended and was not waited for yet is not.
#[derive(Debug)]
struct Alive {
    parent: u32,
    started: u64,
    name: String,
}

fn all() -> BTreeMap<u32, Alive> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, read_stat(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
        })
        .collect()
}

/// Reads `/proc/<pid>/stat`. The name is in parentheses and may hold any of them itself.
fn read_stat(stat: &str) -> Option<Alive> {
    let (head, tail) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(head + 1..tail)?.to_owned();
    let mut fields = stat.get(tail + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of the file; state was the third and the parent the fourth.
    let started = fields.nth(17)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(Alive { parent, started, name })
}

/// Everything that descends from `root`.
fn below(root: u32) -> Vec<(Process, String)> {
    let alive = all();
    alive
        .iter()
        .filter(|(pid, _)| ancestors(**pid, &alive).contains(&root))
        .map(|(pid, one)| ((*pid, one.started), one.name.clone()))
        .collect()
}

/// The network namespace of a process; `None` if it is gone or not ours to look at.
fn network_of(pid: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|namespace| namespace.ino())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_outlives_the_run_is_found_and_one_that_ended_is_not() {
        let mut watch = Watch::begin(Path::new("/nowhere"));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let name = format!("cat ({})", child.id());
        watch.look();
        assert!(watch.compare().processes.contains(&name));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!watch.compare().processes.contains(&name));
        assert!(watch.seen().processes >= 1);
    }

    #[test]
    fn a_number_that_another_engine_got_is_not_held_against_us() {
        let one = |parent, started| Alive { parent, started, name: String::new() };
        let us = std::process::id();
        // Ours: 7, seen. Another's: 9 below 8. An orphan of ours, never seen: 10, below 1.
        let alive = BTreeMap::from([
            (1, one(0, 1)),
            (us, one(1, 2)),
            (7, one(us, 3)),
            (8, one(1, 4)),
            (9, one(8, 5)),
            (10, one(1, 6)),
        ]);
        let mut watch = Watch::begin(Path::new("/nowhere"));
        watch.processes.insert((7, 3), String::new());
        let own = ancestors(us, &alive);
        let is_elses = |pid| watch.is_somebody_elses(pid, &alive, &own);
        assert_eq!([7, 9, 10].map(is_elses), [false, true, false]);
    }

    #[test]
    fn names_of_processes_may_hold_anything() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let alive = read_stat(stat).unwrap();
        assert_eq!((alive.parent, alive.started, alive.name.as_str()), (3, 4_711, "a) b (c"));
        assert!(read_stat("7 (x) Z 3 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0").is_none());
        assert!(read_stat("").is_none());
    }

    #[test]
    fn groups_of_others_are_none_of_our_business() {
        let is_ours = |path| is_group_of(Path::new(path), 4_711);
        assert!(is_ours("/sys/fs/cgroup/user/sandpit-htd9q6-4711/sbx-1"));
        assert!(!is_ours("/sys/fs/cgroup/user/sandpit-htd9q6-4712/sbx-4711"));
        assert!(!is_ours("/sys/fs/cgroup/system.slice/cron-4711"));
    }
}
