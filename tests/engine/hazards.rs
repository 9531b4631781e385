//! Mistakes that were made once, and what the kernel does that is easily forgotten.

use std::collections::{BTreeMap, BTreeSet};

use sandpit_sandbox::local::cgroup::none::HeldNamespace;
use sandpit_sandbox::local::options::Options;
use sandpit_sandbox::local::template;
use sandpit_sandbox::provider::{Outcome, Progress, Provider};

use super::support::{Engine, attacked, options};

/// The pid namespace of a sandbox, which has the same number inside and outside.
pub(crate) async fn namespace(
    engine: &Engine,
    sandbox: sandpit_messages::id::SandboxId,
) -> HeldNamespace {
    let link = engine.line(sandbox, "readlink /proc/self/ns/pid").await.out;
    let number = link.trim().trim_start_matches("pid:[").trim_end_matches(']');
    let number = number.parse().unwrap_or_else(|_| panic!("no number of a namespace: {link:?}"));
    HeldNamespace::of(number).expect("its processes are there")
}

#[tokio::test]
async fn hazard_02_siblings_draw_different_numbers_from_numpy_as_well() {
    let trading = template::built_in().remove("trading").expect("a built-in template");
    let templates = BTreeMap::from([("trading".to_owned(), trading)]);
    let engine = Engine::start_with(Options { templates, ..options() }).await;
    let prepared = engine.provider.prepare("trading", Progress::silent()).await;
    prepared.expect("this test needs the package index, or a store that has the packages");
    let code = "
import numpy, pandas
frame = pandas.DataFrame({'close': numpy.arange(100.0)})
assert frame['close'].rolling(5).mean().iloc[-1] == 97.0
[numpy.random.random(), numpy.random.default_rng().random()]
";
    let mut drawn = BTreeSet::new();
    for _ in 0..4 {
        let sandbox = engine.create_from("trading").await;
        let shown = engine.value(sandbox, code).await;
        for value in shown.trim_matches(['[', ']']).split(", ") {
            assert!(drawn.insert(value.to_owned()), "drawn twice: {value}");
        }
        engine.destroy(sandbox).await;
    }
    engine.close().await;
}

#[tokio::test]
async fn hazard_03_the_hash_seed_is_shared_until_the_zygote_is_replaced() {
    let mut often = options();
    often.rotate_forks = 2;
    let engine = Engine::start_with(often).await;
    let mut seeds = BTreeSet::new();
    for _ in 0..12 {
        let sandbox = engine.create().await;
        seeds.insert(engine.value(sandbox, "hash('one word')").await);
        engine.destroy(sandbox).await;
    }
    assert!(seeds.len() > 1, "one seed for twelve sandboxes: {seeds:?}");
    engine.close().await;
}

#[tokio::test]
async fn hazard_07_no_descriptor_is_inherited_but_its_own() {
    attacked(async |engine, victim| {
        let code = "
import os, stat
kinds = {}
for name in os.listdir('/proc/self/fd'):
    try:
        kinds[int(name)] = os.readlink(f'/proc/self/fd/{name}')
    except OSError:
        pass
[what for number, what in sorted(kinds.items())
 if number > 2 and not what.startswith(('socket:', 'pipe:'))]
";
        assert_eq!(engine.value(victim, code).await, "[]");
        let line = engine.line(victim, "ls /proc/self/fd | wc -l").await;
        // Its three streams, and the folder that is being listed.
        assert_eq!(line.out, "4\n", "{line:?}");
    })
    .await;
}

#[tokio::test]
async fn hazard_08_no_process_of_a_sandbox_is_root_on_the_host() {
    let engine = Engine::start().await;
    let (one, other) = (engine.create().await, engine.create().await);
    let mut users = Vec::new();
    for sandbox in [one, other] {
        let namespace = namespace(&engine, sandbox).await;
        let usage = namespace.usage().expect("a survey").expect("its processes");
        assert!(usage.processes.len() >= 2, "{usage:?}");
        for pid in usage.processes {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
            let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("Uid");
            let ids: Vec<u32> =
                line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            assert!(ids.iter().all(|id| *id != 0 && *id == ids[0]), "{ids:?}");
            users.push((sandbox, ids[0]));
        }
    }
    if rustix::process::geteuid().is_root() {
        let of = |wanted| users.iter().find(|(sandbox, _)| *sandbox == wanted).map(|(_, id)| *id);
        assert_ne!(of(one), of(other), "two sandboxes have one id");
    }
    engine.close().await;
}

#[tokio::test]
async fn trap_process_ids_can_be_used_up_and_used_again() {
    attacked(async |engine, victim| {
        // More than the namespace has, one after the other.
        let line = "i=0; while [ $i -lt 1200 ]; do /bin/true || exit 1; i=$((i+1)); done; echo $i";
        let ran = engine.line(victim, line).await;
        assert_eq!((ran.outcome(), ran.out.as_str()), (Outcome::Exit(0), "1200\n"), "{ran:?}");
    })
    .await;
}

#[tokio::test]
async fn trap_limits_on_processes_are_counted_for_each_sandbox_alone() {
    let engine = Engine::start().await;
    let fill = "
import os, signal
children = []
for _ in range(90):
    child = os.fork()
    if child == 0:
        signal.pause()
    children.append(child)
len(children)
";
    let sandboxes = [engine.create().await, engine.create().await, engine.create().await];
    for sandbox in sandboxes {
        assert_eq!(engine.value(sandbox, fill).await, "90");
    }
    for sandbox in sandboxes {
        engine.destroy(sandbox).await;
    }
    engine.close().await;
}
