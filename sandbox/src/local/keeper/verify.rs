//! Looks at a worker or an init from outside, through the keeper's own view of processes, and
//! compares everything that keeps it in: whoever locked it down is not believed.

use std::collections::BTreeMap;
use std::fs;

use super::super::control::KeeperBoot;
use super::super::plan::Ids;
use super::super::sys;

/// What must be the same for every process of this template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    ids: Ids,
    init_filters: usize,
    worker_filters: usize,
}

impl Expected {
    /// As the orders of this keeper say.
    pub(super) fn of(boot: &KeeperBoot) -> Self {
        Self {
            ids: boot.ids,
            init_filters: boot.lockdown.filters.of_init().count(),
            worker_filters: boot.lockdown.filters.of_worker().count(),
        }
    }
}

/// Which namespaces a process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespaces([String; 7]);

const NAMES: [&str; 7] = ["mnt", "pid", "user", "net", "ipc", "uts", "cgroup"];

impl Namespaces {
    /// Of process `pid`.
    ///
    /// # Errors
    /// If it is gone.
    pub(super) fn of(pid: i32) -> Result<Self, String> {
        let mut found = NAMES.map(|_| String::new());
        for (found, name) in found.iter_mut().zip(NAMES) {
            let link = fs::read_link(format!("/proc/{pid}/ns/{name}"))
                .map_err(|error| format!("cannot see its {name} namespace: {error}"))?;
            *found = link.to_string_lossy().into_owned();
        }
        Ok(Self(found))
    }
}

/// Checks a worker; answers with its process id inside.
///
/// # Errors
/// The first thing that is not as it must be.
pub(super) fn worker(pid: i32, expected: &Expected, init: &Seen) -> Result<u32, String> {
    let seen = Seen::of(pid)?;
    if seen.namespaces != init.namespaces {
        return Err("it is not in the namespaces of its sandbox".to_owned());
    }
    if seen.groups != init.groups {
        return Err("it is not in the control groups of its sandbox".to_owned());
    }
    check(&seen.status, init.id, expected.worker_filters)?;
    let inside = field(&seen.status, "NSpid")?;
    let numbers: Vec<&str> = inside.split_ascii_whitespace().collect();
    match numbers[..] {
        [_, inside] => inside.parse().map_err(|_| "it has no number inside".to_owned()),
        _ => Err(format!("it is {} process namespaces deep, not 2", numbers.len())),
    }
}

/// What was seen of a process.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    namespaces: Namespaces,
    groups: String,
    status: BTreeMap<String, String>,
    id: u32,
}

impl Seen {
    fn of(pid: i32) -> Result<Self, String> {
        let status = sys::read_page(format!("/proc/{pid}/status"))
            .map_err(|error| format!("cannot see its status: {error}"))?;
        let groups = sys::read_page(format!("/proc/{pid}/cgroup"))
            .map_err(|error| format!("cannot see its control groups: {error}"))?;
        Ok(Self { namespaces: Namespaces::of(pid)?, groups, status: fields(&status), id: 0 })
    }
}

/// Looks at the init of a sandbox that says that it stands.
///
/// # Errors
/// The first thing that is not as it must be.
pub(super) fn init(pid: i32, slot: u32, expected: &Expected) -> Result<Seen, String> {
    let mut seen = Seen::of(pid)?;
    let own = Namespaces::of(std::process::id().cast_signed())?;
    for ((ours, theirs), name) in own.0.iter().zip(&seen.namespaces.0).zip(NAMES) {
        if ours == theirs {
            return Err(format!("it shares the keeper's {name} namespace"));
        }
    }
    seen.id = expected.ids.outside(slot);
    check(&seen.status, seen.id, expected.init_filters)?;
    seen.status.clear();
    Ok(seen)
}

fn check(status: &BTreeMap<String, String>, id: u32, filters: usize) -> Result<(), String> {
    let ids = format!("{id}\t{id}\t{id}\t{id}");
    for name in ["Uid", "Gid"] {
        is(status, name, &ids)?;
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        is(status, name, "0000000000000000")?;
    }
    is(status, "NoNewPrivs", "1")?;
    is(status, "Seccomp", "2")?;
    is(status, "PPid", &std::process::id().to_string())?;
    is(status, "Threads", "1")?;
    // Kernels before 5.9 do not count them.
    if status.contains_key("Seccomp_filters") {
        is(status, "Seccomp_filters", &filters.to_string())?;
    }
    Ok(())
}

fn is(status: &BTreeMap<String, String>, name: &str, wanted: &str) -> Result<(), String> {
    let found = field(status, name)?;
    if found == wanted { Ok(()) } else { Err(format!("{name} is {found:?}, not {wanted:?}")) }
}

fn field<'a>(status: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str, String> {
    status.get(name).map(String::as_str).ok_or_else(|| format!("its status has no {name}"))
}

/// `Name:\tvalue` lines.
fn fields(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Threads of a process.
pub(super) fn threads(pid: i32) -> Option<u32> {
    let status = sys::read_page(format!("/proc/{pid}/status")).ok()?;
    fields(&status).get("Threads")?.parse().ok()
}

#[cfg(test)]
#[path = "verify/tests.rs"]
mod tests;
