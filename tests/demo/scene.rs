//! What a machine looks like, so that it can be compared with what it looked like before.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often, and at what distance, a machine that differs is looked at again: 5 s in all.
const LOOKS: (usize, Duration) = (100, Duration::from_millis(50));

/// Processes below this one with their network namespaces, mounts, and control groups of one
/// program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scene {
    processes: BTreeSet<String>,
    networks: BTreeSet<u64>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

/// From now on whoever loses their parent becomes a child of this process, so that nothing that a
/// run started can hide from [`Scene::now`].
pub(crate) fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

impl Scene {
    /// As it is. Of control groups, those of `program` count: others run here as well.
    pub(crate) fn now(program: Option<u32>) -> Self {
        let (mut processes, mut networks) = (BTreeSet::new(), BTreeSet::new());
        for pid in below(std::process::id()) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            processes.insert(format!("{pid} {}", name.trim()));
            let network = fs::metadata(format!("/proc/{pid}/ns/net"));
            networks.extend(network.map(|network| network.ino()));
        }
        let mut cgroups = BTreeSet::new();
        if let Some(pid) = program {
            walk(Path::new("/sys/fs/cgroup"), &format!("-{pid}"), &mut cgroups);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().map(str::to_owned).collect();
        Self { processes, networks, mounts, cgroups }
    }

    /// Waits until it looks like this again after `program` ended, and says what differs if it
    /// never does.
    pub(crate) fn expect_again(&self, program: u32) {
        let (looks, pause) = LOOKS;
        for _ in 0..looks {
            if *self == Self::now(Some(program)) {
                return;
            }
            // The kernel takes a moment to take a killed process apart; nothing announces the end.
            std::thread::park_timeout(pause);
        }
        assert_eq!(*self, Self::now(Some(program)), "{looks} looks later");
    }
}

/// Every living process below `root`.
fn below(root: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{root}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|children| {
            let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .filter(|pid| is_alive(*pid))
        .flat_map(|pid| [vec![pid], below(pid)].concat())
        .collect()
}

/// One that ended and was not waited for is not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// Groups whose name ends so.
fn walk(folder: &Path, ending: &str, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy().ends_with(ending) {
                found.insert(entry.path());
            }
            walk(&entry.path(), ending, found);
        }
    }
}
