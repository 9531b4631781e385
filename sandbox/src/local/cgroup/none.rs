//! In place of control groups: what `/proc` says about the processes of a sandbox, and when a
//! sandbox has used too much.
//!
//! Processes are told apart by their pid namespace, the one thing of theirs that they cannot
//! change.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How often a sandbox is looked at. What it can take in between is what `RLIMIT_AS` leaves.
pub const WATCH_EVERY: Duration = Duration::from_millis(200);

/// Share of the limit, in percent, from which on resident memory is not good enough a measure:
/// it counts what siblings share once for each of them.
const EXACT_FROM_PERCENT: u64 = 70;

/// What the processes of one pid namespace use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceUsage {
    /// Process ids as this process sees them.
    pub processes: Vec<u32>,
    /// Threads in all of them.
    pub threads: u32,
    /// Sum of resident memory in bytes; shared pages count many times.
    pub resident: u64,
    /// Processor time of all that live and of the children they waited for.
    pub cpu: Duration,
}

/// Looks at every process once. The key is the inode of the pid namespace, as in
/// [`pid_namespace`]. Processes that end meanwhile or may not be looked at are left out.
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn survey() -> io::Result<BTreeMap<u64, NamespaceUsage>> {
    let mut found: BTreeMap<u64, NamespaceUsage> = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(namespace) = pid_namespace(pid) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(stat) = parse_stat(&stat, rustix::param::clock_ticks_per_second()) else {
            continue;
        };
        let usage = found.entry(namespace).or_default();
        usage.processes.push(pid);
        usage.threads += stat.threads;
        usage.resident += stat.resident_pages * rustix::param::page_size() as u64;
        usage.cpu += stat.cpu;
    }
    Ok(found)
}

/// The inode of a process's pid namespace.
///
/// # Errors
/// If the process is gone or may not be looked at.
pub fn pid_namespace(pid: u32) -> io::Result<u64> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).map(|namespace| namespace.ino())
}

/// A pid namespace that is held: as long as this lives no other gets its number. Without that the
/// number of one that is gone names the next one made on this machine, whoever makes it.
#[derive(Debug)]
pub struct HeldNamespace {
    number: u64,
    _open: fs::File,
}

impl HeldNamespace {
    /// Holds the namespace of this number, as in [`pid_namespace`], while a process is in it.
    ///
    /// # Errors
    /// If `/proc` cannot be listed; [`io::ErrorKind::NotFound`] if no process that may be looked
    /// at is in it.
    pub fn of(number: u64) -> io::Result<Self> {
        for pid in survey()?.remove(&number).unwrap_or_default().processes {
            let Ok(open) = fs::File::open(format!("/proc/{pid}/ns/pid")) else { continue };
            if open.metadata()?.ino() == number {
                return Ok(Self { number, _open: open });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no process is in the pid namespace {number}"),
        ))
    }

    /// What its processes use now; `None` if there are none.
    ///
    /// # Errors
    /// If `/proc` cannot be listed.
    pub fn usage(&self) -> io::Result<Option<NamespaceUsage>> {
        Ok(survey()?.remove(&self.number))
    }
}

/// Whether the processes together use more than `limit` bytes. Cheap while they are far from it;
/// near it shared memory is shared out exactly.
pub fn is_over(usage: &NamespaceUsage, limit: u64) -> bool {
    if usage.resident < limit / 100 * EXACT_FROM_PERCENT {
        return false;
    }
    let exact: u64 = usage.processes.iter().filter_map(|pid| proportional(*pid)).sum();
    exact > limit
}

/// A process's share of its memory in bytes. `None` if it is gone.
fn proportional(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"));
    parse_proportional(&text.ok()?)
}

fn parse_proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    threads: u32,
    resident_pages: u64,
    cpu: Duration,
}

/// Fields are counted from the last `)`, because a process chooses its own name.
fn parse_stat(stat: &str, ticks_per_second: u64) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // utime, stime, cutime, cstime
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>());
    let ticks: u64 = ticks.sum::<Result<u64, _>>().ok()?;
    Some(Stat {
        threads: fields.get(17)?.parse().ok()?,
        resident_pages: fields.get(21)?.parse().ok()?,
        cpu: Duration::from_millis(ticks.saturating_mul(1_000) / ticks_per_second.max(1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_lie_about_its_memory_by_its_name() {
        let line = "71 (x) 1 1) S 1 71 71 0 -1 4194304 900 0 0 0 250 50 7 3 20 5 9 0 100 1000000 512 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0";

        let stat = parse_stat(line, 100);

        // Field 18 of the line is 5, field 20 is 9: nice and threads.
        assert_eq!(
            stat,
            Some(Stat { threads: 9, resident_pages: 512, cpu: Duration::from_millis(3_100) })
        );
    }

    #[test]
    fn this_very_process_is_found_in_its_namespace() {
        let own = pid_namespace(std::process::id()).unwrap();

        let usage = survey().unwrap().remove(&own).unwrap();

        assert!(usage.processes.contains(&std::process::id()));
        assert!(usage.resident > 0);
        assert!(!is_over(&usage, u64::MAX));
        assert!(is_over(&usage, 1));
    }

    #[test]
    fn a_namespace_is_held_by_its_number() {
        let own = pid_namespace(std::process::id()).unwrap();

        let held = HeldNamespace::of(own).unwrap();

        let usage = held.usage().unwrap().unwrap();
        assert!(usage.processes.contains(&std::process::id()));
        // The kernel gives its first namespaces numbers far above this.
        assert_eq!(HeldNamespace::of(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn shares_of_shared_memory_are_read() {
        let rollup = "55d0 [rollup]\nRss:   3068 kB\nPss:      1201 kB\nPss_Dirty: 96 kB\n";

        assert_eq!(parse_proportional(rollup), Some(1201 * 1024));
        assert_eq!(parse_proportional("Rss: 1 kB"), None);
    }
}
