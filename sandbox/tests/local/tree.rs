//! The process tree: what dies with what, what is built again, what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sandpit_sandbox::Provider;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::local::options::{Options, TemplateSpec};
use sandpit_sandbox::local::{Launcher, LocalProvider};
use sandpit_sandbox::provider::{CreateRequest, Outcome, Progress};

use crate::support::{Engine, WAIT_MAX, base, cell, launcher, number, options, store};

/// Longest anything may outlive its engine.
const ORPHAN_MAX: Duration = Duration::from_secs(1);

/// A process: number, when it started, what it is called.
type Process = (i32, u64, String);

/// Everything below a process, as this machine numbers it.
fn descendants(of: u32) -> BTreeSet<Process> {
    let mut parents: BTreeMap<i32, (i32, u64, String)> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let (start, rest) = stat.rsplit_once(')').unwrap();
        let name = start.split_once('(').unwrap().1.to_owned();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        parents.insert(pid, (fields[1].parse().unwrap(), fields[19].parse().unwrap(), name));
    }
    let mut found = BTreeSet::new();
    let mut wanted = vec![of.cast_signed()];
    while let Some(parent) = wanted.pop() {
        for (pid, (its, started, name)) in &parents {
            if *its == parent {
                found.insert((*pid, *started, name.clone()));
                wanted.push(*pid);
            }
        }
    }
    found
}

/// Those of this name.
fn called(name: &str, among: &BTreeSet<Process>) -> Vec<Process> {
    among.iter().filter(|(_, _, called)| called == name).cloned().collect()
}

fn lives((pid, started, _): &Process) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    fields[19] == started.to_string() && fields[0] != "Z"
}

fn signal(process: &Process, signal: Signal) {
    kill_process(Pid::from_raw(process.0).unwrap(), signal).unwrap();
}

/// Waits until all of them are dead; otherwise says who lives on, in which state, and where.
async fn all_dead(what: &str, wait_max: Duration, processes: &BTreeSet<Process>) {
    if !within(wait_max, || !processes.iter().any(lives)).await {
        let who: Vec<String> = processes.iter().filter(|one| lives(one)).map(state).collect();
        panic!("{what}: after {wait_max:?} still there: {who:#?}");
    }
}

/// Name, state, what is pending, and where in the kernel it is.
fn state(process: &Process) -> String {
    let read =
        |name: &str| fs::read_to_string(format!("/proc/{}/{name}", process.0)).unwrap_or_default();
    let wanted = ["State", "PPid", "NSpid", "SigPnd", "ShdPnd"];
    let status = read("status");
    let status: Vec<&str> =
        status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))).collect();
    format!("{process:?} {status:?} {} {}", read("wchan"), read("cgroup").replace('\n', " "))
}

async fn until(what: &str, wait_max: Duration, holds: impl FnMut() -> bool) {
    assert!(within(wait_max, holds).await, "not in time: {what}");
}

/// Looks again and again; whether it held in time.
async fn within(wait_max: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(wait_max, wait).await.is_ok()
}

/// Whether a process has been sent descriptors that it has not received.
fn has_unread((pid, _, _): &Process) -> bool {
    let all = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let mut all = all.filter_map(|one| fs::read_to_string(one.path()).ok());
    all.any(|info| {
        let sent = info.lines().find_map(|line| line.strip_prefix("scm_fds:"));
        sent.is_some_and(|sent| sent.trim() != "0")
    })
}

/// A program with an engine of its own, which tests may treat as they like.
struct Held {
    child: std::process::Child,
    node: u32,
}

impl Held {
    fn start(sandboxes: u32) -> Self {
        Self::start_paused(sandboxes, 0)
    }

    /// So many of the sandboxes are paused.
    fn start_paused(sandboxes: u32, paused: u32) -> Self {
        let node = u32::try_from(number()).unwrap() | (std::process::id() << 12);
        Self::of_node(node, sandboxes, paused)
    }

    fn of_node(node: u32, sandboxes: u32, paused: u32) -> Self {
        let mut child = Command::new(launcher())
            .arg(store())
            .args([node, sandboxes, paused].map(|number| number.to_string()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, node }
    }

    fn tree(&self) -> BTreeSet<Process> {
        descendants(self.child.id())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Folders of engines below the control groups of this process.
fn groups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
        for name in names.split(',').chain(["unified"]) {
            let folder = Path::new("/sys/fs/cgroup").join(name).join(path.trim_start_matches('/'));
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                found.extend(name.starts_with("sandpit-").then_some(name));
            }
        }
    }
    found
}

#[tokio::test]
async fn nothing_outlives_an_engine_that_is_killed() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut held = Held::start_paused(3, 1);
    // Three sandboxes and two spares, as soon as the spares stand.
    until("five sandboxes", WAIT_MAX, || {
        let tree = held.tree();
        called("init", &tree).len() == 5 && called("sandpit-keeper", &tree).len() == 1
    })
    .await;
    let tree = held.tree();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);

    held.child.kill().unwrap();
    held.child.wait().unwrap();
    all_dead("everything below", ORPHAN_MAX, &tree).await;
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);

    // The groups it left go with the next start.
    let left: Vec<String> = groups()
        .into_iter()
        .filter(|name| name.ends_with(&format!("-{}", held.child.id())))
        .collect();
    let next = Held::of_node(held.node, 0, 0);
    assert!(groups().is_disjoint(&left.into_iter().collect()));
    drop(next);
}

#[tokio::test]
async fn no_inner_process_has_what_the_engine_had_open() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let held = Held::start(1);
    let link = fs::read_link(format!("/proc/self/fd/{}", read.as_raw_fd())).unwrap();
    for (pid, _, name) in held.tree() {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            assert_ne!(fs::read_link(entry.path()).ok().as_ref(), Some(&link), "{name}");
        }
    }
    let zygote = fs::read_dir(format!("/proc/{}/fd", zygote(&held).0)).unwrap();
    assert_eq!(zygote.count(), 4, "the null device, its errors twice, and the keeper");
    drop(write);
}

#[tokio::test]
async fn each_inner_process_takes_what_is_below_with_it() {
    for name in ["sandpit-guard", "sandpit-launch", "sandpit-keeper"] {
        let held = Held::start_paused(2, 1);
        let top = top(&held, name);
        let mut all = descendants(top.0.cast_unsigned());
        assert!(all.len() >= 4, "{name}: {all:?}");
        all.insert(top.clone());
        signal(&top, Signal::KILL);
        all_dead(name, ORPHAN_MAX, &all).await;
    }
}

#[tokio::test]
async fn what_ends_with_orders_unread_is_built_again() {
    let other = ("other".to_owned(), base());
    let options = options();
    let templates = options.templates.clone().into_iter().chain([other]).collect();
    let engine = Engine::start_with(Options { templates, ..options }).await;
    let paused = engine.create().await;
    let keeper = parent(&init_of(&engine, paused).await);
    let launcher = parent(&keeper);
    assert_eq!([&keeper.2, &launcher.2], ["sandpit-keeper", "sandpit-launch"]);
    let pausing = engine.provider.pausing().expect("it pauses");
    pausing.pause(paused).await.expect("it stands still");

    // A keeper that has not read that it is to make a sandbox, and a launcher that has not read
    // that it is to start a keeper.
    let mut all = descendants(launcher.0.cast_unsigned());
    all.insert(launcher.clone());
    for stopped in [&keeper, &launcher] {
        signal(stopped, Signal::STOP);
    }
    let wanted = engine.try_create();
    let prepared = engine.provider.prepare("other", Progress::silent());
    let killed = async {
        until("both have orders unread", WAIT_MAX, || has_unread(&keeper) && has_unread(&launcher))
            .await;
        signal(&launcher, Signal::KILL);
        all_dead("the launcher and all below", ORPHAN_MAX, &all).await;
    };
    let (wanted, prepared, ()) = tokio::join!(wanted, prepared, killed);
    prepared.expect("its keeper is started by the next launcher");
    let wanted = wanted.expect("it is made once the launcher is there again");
    for sandbox in [wanted, engine.create_from("base").await, engine.create_from("other").await] {
        assert_eq!(engine.cell(sandbox, "1+1").await.result.as_deref(), Some("2"));
    }
    engine.close().await;
}

#[tokio::test]
async fn closing_leaves_nothing() {
    let options = options();
    let own = format!("sandpit-{}-{}", options.node, std::process::id());
    let engine = Engine::start_with(options).await;
    let sandbox = engine.create().await;
    let sample = engine.provider.sample(sandbox).await.expect("it is there");
    assert_eq!(groups().contains(&own), sample.source == "cgroup", "{own}");
    engine.close().await;
    assert!(!groups().contains(&own), "{own}");
}

/// The process of this name with the most below it: what was forked a moment ago has its
/// parent's name still.
fn top(held: &Held, name: &str) -> Process {
    let size = |process: &Process| descendants(process.0.cast_unsigned()).len();
    called(name, &held.tree()).into_iter().max_by_key(size).unwrap()
}

#[tokio::test]
async fn a_zygote_that_dies_is_replaced_and_its_sandboxes_live_on() {
    let held = Held::start(1);
    let zygote = zygote(&held);
    let worker = worker(&held);
    signal(&zygote, Signal::KILL);
    until("a new zygote", WAIT_MAX, || {
        zygotes(&held).first().is_some_and(|found| found.0 != zygote.0)
    })
    .await;
    assert!(lives(&worker));
}

/// Python processes whose parent is the keeper and who are in its process namespace.
fn zygotes(held: &Held) -> Vec<Process> {
    pythons(held, 30_000..)
}

fn zygote(held: &Held) -> Process {
    zygotes(held).remove(0)
}

fn worker(held: &Held) -> Process {
    pythons(held, ..10).remove(0)
}

/// Pythons by the number they have in their own namespace.
fn pythons(held: &Held, inner: impl std::ops::RangeBounds<u32>) -> Vec<Process> {
    let number = |pid: i32| -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        line.split_ascii_whitespace().next_back()?.parse().ok()
    };
    let python = |process: &Process| process.2.starts_with("python");
    let tree = held.tree();
    let found = tree.iter().filter(|process| python(process));
    found
        .filter(|process| number(process.0).is_some_and(|at| inner.contains(&at)))
        .cloned()
        .collect()
}

#[tokio::test]
async fn a_stopped_zygote_holds_no_teardown() {
    let mut held = Held::start(2);
    signal(&zygote(&held), Signal::STOP);
    let inits = called("init", &held.tree());
    inits.iter().for_each(|init| signal(init, Signal::KILL));
    let keeper = top(&held, "sandpit-keeper");
    until("every init is reaped", ORPHAN_MAX, || {
        !inits.iter().any(|init| Path::new(&format!("/proc/{}", init.0)).exists() && lives(init))
    })
    .await;
    assert!(lives(&keeper));
    held.child.kill().unwrap();
}

#[tokio::test]
async fn a_sandbox_whose_init_dies_is_lost_and_told() {
    let engine = Engine::start().await;
    let mut endings = engine.provider.endings();
    let sandbox = engine.create().await;
    let beside = engine.create().await;
    let mut stream = engine
        .provider
        .exec(sandbox, cell("import os, time; print(os.getpid(), flush=True); time.sleep(60)"))
        .await
        .expect("it begins");
    assert!(stream.next().await.is_some());
    let init = init_of(&engine, sandbox).await;
    signal(&init, Signal::KILL);
    let mut last = None;
    while let Some(event) = stream.next().await {
        last = Some(event);
    }
    assert!(format!("{last:?}").contains("Lost"), "{last:?}");
    let ending = tokio::time::timeout(WAIT_MAX, endings.recv()).await.expect("in time").unwrap();
    assert_eq!(ending.sandbox, sandbox);
    assert_eq!(
        engine.provider.exec(sandbox, cell("1")).await.err(),
        Some(ProviderError::Gone(sandbox))
    );
    let listed: Vec<_> =
        engine.provider.list().await.unwrap().into_iter().map(|info| info.sandbox).collect();
    assert_eq!(listed, [beside]);
    assert_eq!(engine.cell(beside, "1+1").await.result.as_deref(), Some("2"));
    engine.close().await;
}

/// Found by a mark that a command of the sandbox shows in its arguments.
async fn init_of(engine: &Engine, sandbox: sandpit_messages::id::SandboxId) -> Process {
    let mark = format!("{}", 100_000 + number());
    let ran = engine.line(sandbox, &format!("setsid sleep {mark} >/dev/null 2>&1 &")).await;
    assert_eq!(ran.outcome(), Outcome::Exit(0));
    let marked = |(pid, _, _): &Process| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line == format!("sleep\0{mark}\0").as_bytes())
    };
    let mut found = None;
    until("the marked command runs", WAIT_MAX, || {
        let all = descendants(std::process::id());
        found = all.into_iter().find(marked);
        found.is_some()
    })
    .await;
    parent(&found.unwrap())
}

/// One of ours that started this one.
fn parent(of: &Process) -> Process {
    let status = fs::read_to_string(format!("/proc/{}/status", of.0)).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    let parent: i32 = parent.trim().parse().unwrap();
    let all = descendants(std::process::id());
    all.into_iter().find(|(pid, _, _)| *pid == parent).expect("its parent")
}

#[tokio::test]
async fn a_destroyed_sandbox_leaves_no_process_of_its_namespace() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let init = init_of(&engine, sandbox).await;
    let below = descendants(init.0.cast_unsigned());
    assert!(!below.is_empty());
    assert!(engine.provider.destroy(sandbox).await.expect("it is destroyed").was_there);
    assert!(!lives(&init) && !below.iter().any(lives));
    assert!(!engine.provider.destroy(sandbox).await.expect("it is gone").was_there);
    engine.close().await;
}

#[tokio::test]
async fn a_zygote_is_rotated_and_nobody_notices() {
    let engine = Engine::start_with(Options { rotate_forks: 2, ..options() }).await;
    let mut hashes = BTreeSet::new();
    let mut sandboxes = Vec::new();
    // A new zygote has another hash seed, which all its sandboxes share.
    until_rotated(&engine, &mut hashes, &mut sandboxes).await;
    for sandbox in sandboxes {
        assert_eq!(engine.cell(sandbox, "1+1").await.result.as_deref(), Some("2"));
    }
    engine.close().await;
}

/// Longest wait for three zygotes one after the other, on a machine that also compiles.
const ROTATION_MAX: Duration = Duration::from_secs(60);

async fn until_rotated(
    engine: &Engine,
    hashes: &mut BTreeSet<String>,
    sandboxes: &mut Vec<sandpit_messages::id::SandboxId>,
) {
    let rotated = async {
        while hashes.len() < 3 {
            let sandbox = engine.create().await;
            let hash = engine.cell(sandbox, "hash('seed')").await.result.expect("a number");
            // One of each zygote lives on.
            if hashes.insert(hash) {
                sandboxes.push(sandbox);
            } else {
                engine.provider.destroy(sandbox).await.expect("it is not needed");
            }
        }
    };
    tokio::time::timeout(ROTATION_MAX, rotated).await.expect("it is rotated");
}

#[tokio::test]
async fn siblings_draw_different_random_numbers() {
    let engine = Engine::start().await;
    let code = "import random, ssl, tempfile, uuid, os\n\
                (random.random(), ssl.RAND_bytes(8), next(tempfile._get_candidate_names()), \
                 str(uuid.uuid1()), uuid.uuid4().hex, os.urandom(8))";
    let mut drawn: Vec<BTreeSet<String>> = vec![BTreeSet::new(); 6];
    let mut count = 0;
    for _ in 0..5 {
        let sandbox = engine.create().await;
        // Workers that are forked again have other process ids than the first.
        for _ in 0..3 {
            let ran = engine.cell(sandbox, code).await;
            let result = ran.result.expect("six numbers");
            for (set, text) in drawn.iter_mut().zip(result.trim_matches(['(', ')']).split(", ")) {
                set.insert(text.to_owned());
            }
            count += 1;
            engine.cell(sandbox, "os._exit(0)").await;
        }
    }
    for (at, set) in drawn.iter().enumerate() {
        assert_eq!(set.len(), count, "generator {at}: {set:?}");
    }
    engine.close().await;
}

async fn with_warmup(warmup: &str) -> (LocalProvider, Result<(), ProviderError>) {
    let spec = TemplateSpec { warmup: warmup.to_owned(), ..base() };
    let templates = BTreeMap::from([("own".to_owned(), spec)]);
    let options = Options { templates, ..options() };
    let provider = LocalProvider::start(options, Launcher::Path(launcher())).await.unwrap();
    let prepared = provider.prepare("own", Progress::silent()).await.map(drop);
    (provider, prepared)
}

fn why(error: &ProviderError) -> &str {
    match error {
        ProviderError::TemplateBroken { why, .. } => why,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_template_whose_warm_up_fails_says_what_python_said() {
    let (provider, prepared) = with_warmup("raise ValueError('cold')").await;
    let error = prepared.expect_err("it is broken");
    assert!(why(&error).contains("ValueError: cold"), "{error}");
    provider.close().await;
}

#[tokio::test]
async fn a_template_that_starts_threads_is_refused() {
    let warmup = "import threading, time\n\
                  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()";
    let (provider, prepared) = with_warmup(warmup).await;
    let error = prepared.expect_err("it is broken");
    assert!(why(&error).contains("threads"), "{error}");
    provider.close().await;
}

#[tokio::test]
async fn a_zygote_that_does_not_lock_workers_down_is_found_out() {
    for (what, warmup) in [
        ("no lockdown", "import __main__; __main__.Locks.apply = lambda self, rules: None"),
        (
            "no filter",
            "import __main__; __main__.prctl = (lambda do: lambda *a: 0 if a[0] == 22 else do(*a))(__main__.prctl)",
        ),
        (
            "one filter less",
            "import __main__\nkeep = __main__.Locks.__init__\n\
          def init(self, told): keep(self, dict(told, filters=told['filters'][:2]))\n\
          __main__.Locks.__init__ = init\n\
          import gc\nfor one in gc.get_objects():\n    \
              if isinstance(one, __main__.Locks): one.programs.pop()",
        ),
    ] {
        let (provider, prepared) = with_warmup(warmup).await;
        prepared.expect("the zygote itself is up");
        let sandbox = sandpit_messages::id::SandboxId::numbered(number());
        let request = CreateRequest { sandbox, template: "own".to_owned() };
        let error = provider.create(request).await.expect_err("nobody gets it");
        assert!(why(&error).contains("was not locked down"), "{what}: {error}");
        assert_eq!(provider.list().await.unwrap(), []);
        provider.close().await;
    }
}

#[tokio::test]
async fn the_same_id_is_the_same_sandbox_and_the_bound_holds() {
    let engine = Engine::start_with(Options { sandboxes_max: 1, ..options() }).await;
    let sandbox = engine.create().await;
    let request = CreateRequest { sandbox, template: "base".to_owned() };
    engine.provider.create(request).await.expect("it is there");
    assert_eq!(engine.provider.list().await.unwrap().len(), 1);
    assert!(matches!(engine.try_create().await, Err(ProviderError::Quota { .. })));
    engine.provider.destroy(sandbox).await.expect("it is destroyed");
    engine.create().await;
    engine.close().await;
}

#[tokio::test]
async fn spares_are_taken_and_made_again() {
    let engine = Engine::start_with(Options { spare_skeletons: 2, ..options() }).await;
    for _ in 0..6 {
        let sandbox = engine.create().await;
        assert_eq!(engine.cell(sandbox, "1+1").await.result.as_deref(), Some("2"));
    }
    let sample = engine.provider.sample(engine.create().await).await.expect("a sample");
    assert!(sample.processes >= 2 && sample.memory > 0, "{sample:?}");
    engine.close().await;
}
