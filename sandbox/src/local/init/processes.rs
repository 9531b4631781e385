//! What runs in this sandbox, read from its own view of processes.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, Signal};

/// Rounds of looking for what is to be killed. Each one kills everything it sees, so what is
/// left after so many forks faster than it can be seen; the sandbox is destroyed then.
const ROUNDS_MAX: usize = 16;

/// Processes by number, each with its session and the tick it started at.
#[derive(Debug, Default)]
pub(super) struct Living(BTreeMap<i32, (i32, u64)>);

impl Living {
    /// Those in none of these sessions, nor about to begin one of them.
    pub(super) fn without_sessions(mut self, sessions: &[i32]) -> Self {
        self.0.retain(|pid, (session, _)| !sessions.contains(session) && !sessions.contains(pid));
        self
    }

    /// How many of them were not among `before`.
    pub(super) fn count_without(&self, before: &Self) -> u32 {
        // A process may have changed its session since; its number and start are its own.
        let known =
            |pid: &i32, started: u64| before.0.get(pid).is_some_and(|seen| seen.1 == started);
        let new = self.0.iter().filter(|(pid, (_, started))| !known(pid, *started));
        u32::try_from(new.count()).unwrap_or(u32::MAX)
    }
}

/// Everything that lives but init and what came from outside: a worker's parent is not here, and
/// so it seems to have none.
pub(super) fn living() -> Living {
    let mut living = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return Living::default() };
    let mut workers = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(seen) =
            fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(read)
        else {
            continue;
        };
        if seen.parent == 0 {
            workers.push(seen.session);
        } else if !seen.dead {
            living.insert(pid, (seen.session, seen.started));
        }
    }
    Living(living).without_sessions(&workers)
}

/// How many processes there are, init and workers included.
pub(super) fn count() -> u32 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let is_process = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok())
    };
    let processes = entries.flatten().filter(is_process).count();
    u32::try_from(processes).unwrap_or(u32::MAX)
}

/// Kills every process of a session, also those that are born meanwhile.
pub(super) fn kill_session(session: u32) {
    for _ in 0..ROUNDS_MAX {
        let mut found = false;
        let Ok(entries) = fs::read_dir("/proc") else { return };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
            let Some(seen) = text.as_deref().and_then(read) else { continue };
            if pid != 1 && !seen.dead && seen.session == session.cast_signed() {
                found = true;
                if let Some(pid) = Pid::from_raw(pid) {
                    // It ended meanwhile, which is what is wanted.
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
        }
        if !found {
            return;
        }
    }
}

/// Kills what is left of a session whose leader was reaped. Its number is not given out again
/// before nothing is left, so whoever leads that session now leads another one.
pub(super) fn kill_left(session: u32) {
    if fs::symlink_metadata(format!("/proc/{session}")).is_err() {
        kill_session(session);
    }
}

/// Stops everything but init, or lets it go on; how many have not stopped.
pub(super) fn halt(still: bool) -> u32 {
    let signal = if still { Signal::STOP } else { Signal::CONT };
    // The group of number 1 is, to the kernel, everything but the caller. There may be nothing.
    let _ = rustix::process::kill_process_group(Pid::INIT, signal);
    if !still {
        return 0;
    }
    let Ok(entries) = fs::read_dir("/proc") else { return 1 };
    let moves = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok()).filter(|pid| *pid != 1);
        let line = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        line.is_some_and(|line| may_move(&line))
    };
    u32::try_from(entries.flatten().filter(moves).count()).unwrap_or(u32::MAX)
}

/// Whether a process that was told to stop may still do something. What waits in the kernel, for a
/// child that has not started its program among others, stops before it comes back.
fn may_move(line: &str) -> bool {
    let state = line.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('R' | 'S'))
}

/// Bytes in the three folders that can be written.
pub(super) fn disk_used() -> u64 {
    ["/home/user", "/tmp", "/dev/shm"]
        .iter()
        .filter_map(|folder| rustix::fs::statvfs(*folder).ok())
        .map(|seen| (seen.f_blocks - seen.f_bfree) * seen.f_frsize)
        .sum()
}

/// One line of `/proc/<pid>/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    dead: bool,
    parent: i32,
    session: i32,
    started: u64,
}

/// Reads such a line. The name in it is the process's own choice, so all is counted from its
/// last parenthesis.
fn read(line: &str) -> Option<Seen> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    Some(Seen { dead, parent, session, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) S 1) R 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 39 19 1 0 99 0 0";
        let seen = Seen { dead: false, parent: 1, session: 7, started: 99 };
        assert_eq!(read(line), Some(seen));
    }

    #[test]
    fn what_is_stopped_dead_or_in_the_kernel_does_not_move() {
        for (state, moves) in [("R", true), ("S", true), ("T", false), ("D", false), ("Z", false)] {
            assert_eq!(may_move(&format!("7 (a) S) {state} 1 7 7")), moves, "{state}");
        }
        assert!(!may_move(""));
    }

    #[test]
    fn a_line_that_is_cut_short_is_nothing() {
        assert_eq!(read("7 (a) R 1 7"), None);
        assert_eq!(read(""), None);
    }
}
