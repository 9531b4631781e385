//! What of this machine works for sandboxes, each thing by trying it, and the command that mends
//! what does not.
//!
//! Runs without a network. What is found does not depend on an engine that runs already.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::cgroup::{Backend, GroupLimits};
use super::host::Launcher;
use super::lockdown::landlock::Support;
use super::mode::{self, Attempt, Facts};
use super::options::Options;
use super::probe::{self, Taken};
use super::template::interpreter::{Interpreter, PipSource};

mod trial;

/// Memory that one idle sandbox takes, in KiB, with room to spare.
const IDLE_KIB: u64 = 3 * 1024;

/// Descriptors of the engine per sandbox.
const FILES_PER_SANDBOX: u64 = 8;

/// Descriptors of the engine beside those.
const FILES_BESIDE: u64 = 1_024;

/// Processes of the engine per sandbox that does nothing: init and worker.
const PROCESSES_PER_SANDBOX: u64 = 2;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What, in a word.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was tried and found.
    pub found: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, less well than it could.
    Warn,
    /// No sandbox can be had, or one does not hold.
    Fault,
}

impl Line {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), next: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), next: Some(next.into()) }
    }

    fn fault(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fault, found: found.into(), next: Some(next.into()) }
    }
}

/// Looks at everything, from the kernel to a real sandbox that is attacked from inside. Takes a
/// few seconds; `hear` gets every line as it is found. The worst verdict of all lines says whether
/// sandboxes can be had.
pub async fn examine(
    options: &Options,
    launcher: &Launcher,
    mut hear: impl FnMut(&Line),
) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut say = |line: Line| {
        hear(&line);
        lines.push(line);
    };
    let facts = match probe::gather(options.uid_base, launcher).await {
        Ok(facts) => facts,
        Err(error) => {
            let found = format!("the program that tries things could not run: {error}");
            say(Line::fault("kernel", found, "sandpit doctor, from a folder that may be executed"));
            return lines;
        }
    };
    of_facts(&facts).into_iter().for_each(&mut say);
    say(files_wall());
    say(id_ranges(&facts, options.uid_base));
    groups(options, launcher).await.into_iter().for_each(&mut say);
    of_capacity(&Capacity::read(), options.sandboxes_max).into_iter().for_each(&mut say);
    interpreter(options).await.into_iter().for_each(&mut say);
    say(huge_pages(options));
    say(core_pattern());
    if mode::choose(&facts).is_ok() {
        trial::run(options, launcher, &mut say).await;
    }
    lines
}

/// What the facts say, in the order in which a sandbox meets them.
fn of_facts(facts: &Facts) -> Vec<Line> {
    let chosen = mode::choose(facts);
    let next = chosen.as_ref().err().map(mode::Cause::next).unwrap_or_default();
    let trials = &facts.trials;
    let mut lines = Vec::new();
    let missing: Vec<String> = trials
        .missing_calls
        .iter()
        .map(|call| format!("{} (since {})", call.name, call.since))
        .collect();
    lines.push(if missing.is_empty() {
        Line::ok("kernel", format!("Linux {} has every call that is needed", facts.kernel))
    } else {
        let found = format!("Linux {} has no {}", facts.kernel, missing.join(", "));
        Line::fault("kernel", found, next.clone())
    });
    let mut tried = |check, what: &str, attempt: Attempt| {
        lines.push(match attempt {
            Attempt::Worked => Line::ok(check, what),
            Attempt::Untried | Attempt::Failed(_) => {
                Line::fault(check, format!("{what}: {attempt}"), next.clone())
            }
        });
    };
    tried("seccomp", "a system call filter in three parts", trials.seccomp);
    tried("namespaces", "a user namespace", trials.user_namespace);
    for (kind, attempt) in &trials.namespaces {
        tried("namespaces", &format!("a {kind} namespace in it"), *attempt);
    }
    if facts.root {
        tried("ids", "a map of 65,536 user ids", trials.wide_map);
    } else {
        tried("ids", "a map of the own user id", trials.own_map);
    }
    tried("namespaces", "all of them at once", trials.together);
    tried("mounts", "a file system in memory", trials.mount);
    tried("mounts", "another root", trials.pivot);
    tried("proc", "a view of the sandbox's own processes", trials.proc);
    lines.push(match chosen {
        Ok(mode) => Line::ok("mode", format!("sandboxes are held apart as `{}`", mode.name())),
        Err(cause) => Line::fault("mode", format!("[{}] {cause}", cause.code()), cause.next()),
    });
    lines
}

/// Landlock.
fn files_wall() -> Line {
    match Support::find() {
        Some(support) => {
            Line::ok("landlock", format!("the kernel offers version {}", support.abi()))
        }
        None => Line::warn(
            "landlock",
            "[landlock-missing] the kernel has no Landlock (since 5.19, and it must be switched \
             on); mounts and modes alone keep files",
            "add landlock to the kernel's parameter lsm=",
        ),
    }
}

/// Whether root's sandboxes could get ids that belong to somebody's containers.
fn id_ranges(facts: &Facts, uid_base: u32) -> Line {
    if !facts.root {
        return Line::ok("ids", "sandboxes have no id on the host but yours");
    }
    let taken = fs::read_to_string("/etc/subuid").unwrap_or_default();
    match overlapping(&taken, uid_base) {
        None => Line::ok("ids", format!("{uid_base} and the 65,535 that follow are nobody else's")),
        Some(owner) => Line::warn(
            "ids",
            format!("ids from {uid_base} on are given to `{owner}` in /etc/subuid as well"),
            "set uid_base to a range that is free there",
        ),
    }
}

/// Whose range overlaps ours. Lines are `name:first:count`.
fn overlapping(subuid: &str, uid_base: u32) -> Option<&str> {
    const IDS: u64 = 65_536;
    let ours = u64::from(uid_base)..u64::from(uid_base) + IDS;
    subuid.lines().find_map(|line| {
        let mut parts = line.split(':');
        let (name, first, count) = (parts.next()?, parts.next()?, parts.next()?);
        let (first, count): (u64, u64) = (first.parse().ok()?, count.parse().ok()?);
        (first < ours.end && ours.start < first.saturating_add(count)).then_some(name)
    })
}

/// Makes a real group and has a process killed in it for the memory it takes.
async fn groups(options: &Options, launcher: &Launcher) -> Vec<Line> {
    const LIMITS: GroupLimits =
        GroupLimits { memory: 32 * 1024 * 1024, pids: 16, cpu_milli: 1_000 };
    let word = format!("doctor-{}", std::process::id());
    let backend = Backend::detect(options.cgroup, &word, None);
    if let Some(why) = backend.why_none() {
        return vec![Line::warn(
            "cgroup",
            format!(
                "[cgroup-not-delegated] no control group can be written ({why}); memory is held by \
                 limits of each process and a watchdog, processor time by niceness"
            ),
            "systemd-run --user --scope -p Delegate=yes sandpit up",
        )];
    }
    let held = backend.enforced();
    let mut lines = vec![Line::ok(
        "cgroup",
        format!("{}: memory {}, pids {}, cpu {}", backend.name(), held.memory, held.pids, held.cpu),
    )];
    let tried = match backend.group("sbx-0", LIMITS) {
        Ok(group) => {
            let taken = probe::take_memory(&group, launcher).await;
            let kills = group.oom_kills();
            taken.and_then(|taken| group.remove().map(|()| (taken, kills.unwrap_or_default())))
        }
        Err(error) => Err(error),
    };
    let retired = backend.retire();
    const MEND: &str = "set cgroup = \"none\", and tell us what the kernel's log says";
    lines.push(match tried.and_then(|found| retired.map(|()| found)) {
        Ok((Taken::Killed, kills)) => Line::ok(
            "cgroup",
            format!("a process over 32 MiB was killed and counted ({kills}); the group is gone"),
        ),
        Ok((Taken::All, _)) if held.memory == "cgroup" => {
            Line::fault("cgroup", "a process took 128 MiB in a group of 32 MiB", MEND)
        }
        Ok((Taken::All, _)) => Line::ok("cgroup", "memory is not held by groups here"),
        Ok((Taken::NotPlaced, _)) => {
            Line::fault("cgroup", "a process could not be put into a group", MEND)
        }
        Err(error) => Line::fault("cgroup", format!("a group could not be used: {error}"), MEND),
    });
    lines
}

/// What bounds the number of sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Capacity {
    /// Descriptors this process may have.
    files: u64,
    /// Processes this user may have.
    processes: u64,
    /// Process ids of the machine.
    pid_max: u64,
    /// Namespaces of each kind this user may have.
    namespaces: BTreeMap<String, u64>,
    /// Memory to be had, in KiB.
    memory_kib: u64,
}

impl Capacity {
    fn read() -> Self {
        use rustix::process::{Resource, getrlimit};
        let hard = |resource| getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let number =
            |path: &Path| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
        let kinds = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];
        let namespaces = kinds.into_iter().filter_map(|kind| {
            let path = format!("/proc/sys/user/max_{kind}_namespaces");
            Some((kind.to_owned(), number(Path::new(&path))?))
        });
        Self {
            files: hard(Resource::Nofile),
            processes: hard(Resource::Nproc),
            pid_max: number(Path::new("/proc/sys/kernel/pid_max")).unwrap_or(u64::MAX),
            namespaces: namespaces.collect(),
            memory_kib: available_memory().unwrap_or(u64::MAX),
        }
    }

    /// Sandboxes that each bound allows, with its name and what raises it.
    fn bounds(&self) -> Vec<(u64, String, &'static str)> {
        let mut bounds = vec![
            (
                self.files.saturating_sub(FILES_BESIDE) / FILES_PER_SANDBOX,
                format!("[nofile-low] {} open files", self.files),
                "ulimit -n 1048576, or LimitNOFILE= of the service",
            ),
            (
                self.processes / PROCESSES_PER_SANDBOX,
                format!("[nproc-low] {} processes of this user", self.processes),
                "ulimit -u unlimited, or TasksMax= and LimitNPROC= of the service",
            ),
            (
                self.pid_max / PROCESSES_PER_SANDBOX,
                format!("{} process ids (kernel.pid_max)", self.pid_max),
                "sudo sysctl -w kernel.pid_max=4194304",
            ),
            (
                self.memory_kib / IDLE_KIB,
                format!("{} MiB of memory to be had", self.memory_kib / 1024),
                "give the machine more memory, or set sandboxes_max lower",
            ),
        ];
        for (kind, most) in &self.namespaces {
            bounds.push((
                *most,
                format!("{most} {kind} namespaces (user.max_{kind}_namespaces)"),
                "sudo sysctl -w user.max_<kind>_namespaces=100000",
            ));
        }
        bounds
    }
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Compares what the machine allows with what is asked of it.
fn of_capacity(capacity: &Capacity, wanted: usize) -> Vec<Line> {
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let bounds = capacity.bounds();
    let short = bounds.iter().filter(|(most, ..)| *most < wanted);
    let mut lines: Vec<Line> = short
        .map(|(most, what, next)| {
            Line::warn(
                "capacity",
                format!("{what} are enough for {most} sandboxes of {wanted}"),
                *next,
            )
        })
        .collect();
    if lines.is_empty() {
        let most = bounds.iter().map(|(most, ..)| *most).min().unwrap_or_default();
        lines
            .push(Line::ok("capacity", format!("{wanted} sandboxes wanted, idle room for {most}")));
    }
    lines
}

/// The interpreter.
async fn interpreter(options: &Options) -> Vec<Line> {
    match Interpreter::find(options.python.as_deref()).await {
        Ok(found) => {
            let [major, minor, micro] = found.version;
            let text = format!("CPython {major}.{minor}.{micro} in {}", found.prefix.display());
            let mut lines = vec![Line::ok("python", text)];
            if found.pip == PipSource::None {
                lines.push(Line::warn(
                    "python",
                    "it has no pip: templates with packages cannot be built",
                    "sudo apt install python3-pip",
                ));
            }
            lines
        }
        Err(error) => vec![Line::fault("python", error.to_string(), "sudo apt install python3")],
    }
}

fn huge_pages(options: &Options) -> Line {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let found = fs::read_to_string(path).unwrap_or_default();
    if !options.huge_pages {
        return Line::ok("memory", "huge pages are not asked for");
    }
    if found.contains("[never]") || found.is_empty() {
        return Line::warn(
            "memory",
            "[thp-off] huge pages are off; a fork of a warm interpreter takes 1 ms longer",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        );
    }
    Line::ok("memory", "huge pages can be asked for")
}

/// A note: what a crash of a hostile process would start outside of its sandbox.
fn core_pattern() -> Line {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let found = match pattern.trim().strip_prefix('|') {
        Some(program) => format!(
            "crashes are piped to `{}`; sandboxes have a limit of 1 byte, which keeps theirs away",
            program.split(' ').next().unwrap_or_default()
        ),
        None => "crashes are written to files; sandboxes may write 1 byte".to_owned(),
    };
    Line::ok("cores", found)
}

#[cfg(test)]
mod tests;
