//! However it ends, nothing is left: no process, no mount, no namespace, no group.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use sandpit_sandbox::local::cgroup::Backend;
use sandpit_sandbox::local::cgroup::none::HeldNamespace;
use sandpit_sandbox::local::options::CgroupChoice;
use sandpit_sandbox::provider::Provider;

use super::hazards::namespace;
use super::support::{Engine, attacked, number, store};

/// Longest everything may live on after the engine.
const GONE_MAX: Duration = Duration::from_secs(2);

#[tokio::test]
async fn hostile_h11_folders_deeper_than_any_path_do_not_hold_the_end_up() {
    attacked(async |engine, victim| {
        let code = "
import os
os.chdir('/tmp')
depth = 0
try:
    while depth < 3000:
        os.mkdir('d' * 255)
        os.chdir('d' * 255)
        depth += 1
except OSError:
    pass
depth > 1000
";
        assert_eq!(engine.value(victim, code).await, "True");
    })
    .await;
}

#[tokio::test]
async fn hostile_h41_daemons_are_reported_and_die_with_the_sandbox() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let namespace = namespace(&engine, sandbox).await;

    let ran =
        engine.line(sandbox, "setsid sh -c 'setsid sleep 1000 & setsid sleep 1000 &' ; true").await;
    assert!(ran.done.survivors >= 2, "{ran:?}");
    let code = "
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            pass
    os._exit(0)
os.wait()[1]
";
    assert_eq!(engine.value(sandbox, code).await, "0");
    let before = namespace.usage().expect("a survey").expect("its processes");
    assert!(before.processes.len() >= 5, "{before:?}");

    engine.destroy(sandbox).await;

    assert_eq!(namespace.usage().expect("a survey"), None);
    engine.close().await;
}

#[tokio::test]
async fn hostile_h42_a_sandbox_full_of_processes_that_hide_is_gone_when_it_is_said_to_be() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let namespace = namespace(&engine, sandbox).await;
    let code = "
import os, signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
for _ in range(60):
    if os.fork() == 0:
        os.setsid()
        while True:
            signal.sigtimedwait([], 3600)
'all there'
";
    assert_eq!(engine.value(sandbox, code).await, "'all there'");

    engine.destroy(sandbox).await;

    assert_eq!(namespace.usage().expect("a survey"), None);
    engine.close().await;
}

#[tokio::test]
async fn an_engine_that_is_closed_leaves_what_was_there_before() {
    let mounts = mounts();
    let engine = Engine::start().await;
    for _ in 0..3 {
        let sandbox = engine.create().await;
        engine.line(sandbox, "sleep 1000 & true").await;
    }
    let processes = descendants(std::process::id());
    assert!(!processes.is_empty());
    let word = engine.word();

    engine.close().await;

    assert_eq!(self::mounts(), mounts);
    assert_eq!(groups_of(&word), Vec::<PathBuf>::new());
}

/// A process that holds an engine with sandboxes.
struct Node {
    child: Child,
    /// Kept open, because it goes on saying what it does.
    _said: Lines<BufReader<ChildStdout>>,
    /// The engine's name among groups.
    word: String,
}

impl Node {
    /// Starts it, and waits until it says `wanted`.
    fn start(wanted: &str) -> Self {
        Self::start_under("022", &store(), wanted)
    }

    /// As [`Self::start`], with what is taken away from the modes of its files.
    fn start_under(umask: &str, store: &Path, wanted: &str) -> Self {
        let node = number();
        let launcher = super::support::launcher();
        let sandpit_sandbox::local::Launcher::Path(program) = launcher else {
            panic!("tests name their launcher")
        };
        let mut child = Command::new("sh")
            .args(["-c", "umask $0 && exec \"$@\"", umask])
            .arg(program)
            .arg("hold-sandboxes")
            .arg(store)
            .arg(node.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process to kill");
        let mut said = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut word = String::new();
        while let Some(line) = said.next() {
            let line = line.expect("a line");
            if let Some(own) = line.strip_prefix("engine ") {
                own.clone_into(&mut word);
            }
            if line.starts_with(wanted) {
                return Self { child, _said: said, word };
            }
        }
        let end = child.wait().expect("reaped");
        panic!("the engine ended before it said `{wanted}`: {end}");
    }

    /// Kills it, and waits until nothing of it is left.
    fn kill(mut self) {
        let mut processes = descendants(self.child.id());
        let mut networks: BTreeSet<String> =
            processes.iter().filter_map(|(pid, _)| network(*pid)).collect();
        networks.retain(|name| Some(name) != network(std::process::id()).as_ref());
        // Asked before the end: to look for them afterwards would sweep them.
        let mut groups = folders_of(&self.word);
        let killed = ticks();
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
        let before = super::support::now();
        loop {
            processes.retain(|(pid, start)| started(*pid).is_some_and(|now| now == *start));
            let left = networks_of_before(killed);
            let namespaces: Vec<_> = networks.intersection(&left).collect();
            groups.retain(|folder| folder.exists());
            if processes.is_empty() && namespaces.is_empty() && groups.is_empty() {
                return;
            }
            assert!(
                super::support::since(before) < GONE_MAX,
                "after {GONE_MAX:?} there are still {processes:?}, {namespaces:?} and {groups:?}"
            );
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn hostile_h56_whatever_the_engine_was_doing_when_it_was_killed_nothing_is_left() {
    let mounts = mounts();
    for moment in ["engine", "started", "created 1", "created 3", "busy", "busy"] {
        let node = tokio::task::spawn_blocking(move || Node::start(moment)).await.expect("a node");
        tokio::task::spawn_blocking(move || node.kill()).await.expect("killed");
    }
    assert_eq!(self::mounts(), mounts);

    let next = Engine::start().await;

    let sandbox = next.create().await;
    assert_eq!(next.value(sandbox, "1 + 1").await, "2");
    next.close().await;
}

#[tokio::test]
async fn a_store_that_is_made_under_a_strict_umask_serves_as_well() {
    let fresh = store().join(format!("strict-{}-{}", std::process::id(), number()));
    let folder = fresh.clone();
    let start = move || Node::start_under("077", &folder, "created 1").kill();

    tokio::task::spawn_blocking(start).await.expect("a sandbox, and its end");

    std::fs::remove_dir_all(fresh).expect("removed");
}

#[tokio::test]
async fn hostile_h56_a_killed_launcher_or_keeper_takes_its_sandboxes_along_and_is_replaced() {
    let engine = Engine::start().await;
    // Guardian (root) or launcher, then what is below.
    for depth in [1, 2, 3] {
        let sandbox = engine.create().await;
        let namespace = namespace(&engine, sandbox).await;
        let mut endings = engine.provider.endings();
        let inner = chain_to(&namespace);
        let Some(victim) = inner.get(depth) else { continue };
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(*victim).expect("a pid"),
            rustix::process::Signal::KILL,
        )
        .expect("killed");

        let ending = tokio::time::timeout(Duration::from_secs(5), endings.recv()).await;
        let ending = ending.expect("an ending is told").expect("the engine lives");
        assert_eq!(ending.sandbox, sandbox);
        let before = super::support::now();
        while let Some(left) = namespace.usage().expect("a survey") {
            assert!(super::support::since(before) < GONE_MAX, "still there: {left:?}");
            tokio::task::yield_now().await;
        }

        let again = engine.create_again().await;
        assert_eq!(engine.value(again, "1 + 1").await, "2");
        engine.destroy(again).await;
    }
    engine.close().await;
}

/// Process ids from this process down to the one that started the sandbox's first process.
fn chain_to(namespace: &HeldNamespace) -> Vec<i32> {
    let usage = namespace.usage().expect("a survey").expect("its processes");
    let mut chain = Vec::new();
    let mut pid = *usage.processes.first().expect("a pid");
    while pid != std::process::id() && pid > 1 {
        chain.push(i32::try_from(pid).expect("a pid"));
        let Some(parent) = parent(pid) else { break };
        pid = parent;
    }
    chain.reverse();
    // This process starts a guardian, that a launcher, that a keeper, that the sandbox.
    chain.insert(0, 0);
    chain
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// When a process started, in ticks; `None` if it is gone or a zombie.
fn started(pid: u32) -> Option<String> {
    let fields = stat(pid)?;
    (fields.first()? != "Z").then(|| fields.get(19).cloned())?
}

/// Processes below `pid`, with when they started.
fn descendants(pid: u32) -> Vec<(u32, String)> {
    let all: Vec<u32> = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = BTreeSet::from([pid]);
    loop {
        let before = found.len();
        for candidate in &all {
            if parent(*candidate).is_some_and(|parent| found.contains(&parent)) {
                found.insert(*candidate);
            }
        }
        if found.len() == before {
            break;
        }
    }
    found.remove(&pid);
    found.into_iter().filter_map(|pid| Some((pid, started(pid)?))).collect()
}

fn network(pid: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Ticks since the machine was started, as starts of processes are counted.
fn ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").expect("the time since the start");
    let seconds: f64 = text.split(' ').next().and_then(|text| text.parse().ok()).expect("seconds");
    let hundredths = Duration::from_secs_f64(seconds).as_millis() / 10;
    u64::try_from(hundredths).expect("a machine that is not that old")
        * rustix::param::clock_ticks_per_second()
        / 100
}

/// Network namespaces of processes that were there already. Numbers of namespaces are used again.
fn networks_of_before(moment: u64) -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let old = pids.filter(|pid| {
        started(*pid)
            .and_then(|start| start.parse::<u64>().ok())
            .is_some_and(|start| start <= moment)
    });
    old.filter_map(network).collect()
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").expect("own mounts")
}

/// Folders of an engine among control groups that are there.
fn groups_of(word: &str) -> Vec<PathBuf> {
    folders_of(word).into_iter().filter(|folder| folder.exists()).collect()
}

/// Where the folders of an engine are among control groups.
fn folders_of(word: &str) -> Vec<PathBuf> {
    let own = format!("looks-{}-{}", std::process::id(), number());
    let backend = Backend::detect(CgroupChoice::Auto, &own, None);
    let folders = backend.folders().into_iter();
    let of_engine = folders.map(|folder| folder.with_file_name(format!("sandpit-{word}")));
    let found = of_engine.collect();
    backend.retire().expect("a folder of our own can be removed");
    found
}
