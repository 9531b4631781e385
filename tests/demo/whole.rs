//! `sandpit demo` as a newcomer types it, and what it says when something is missing.
//!
//! All runs share a data directory in the target folder, so that packages are fetched once.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::scene::{self, Scene};

/// A data directory has one owner, and a scene is only comparable while nobody else changes it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn demo(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandpit-under-test"));
    command.arg("demo").arg("--data").arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to its end: its number, exit code, standard output, standard error.
fn run(command: &mut Command) -> (u32, Option<i32>, String, String) {
    let child = command.spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (pid, output.status.code(), text(output.stdout), text(output.stderr))
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field}: {report:#}"))
}

/// Every agent's name and fills.
fn fills(report: &Value) -> Vec<(&str, &str)> {
    let agents = report["per_agent"].as_array().unwrap().iter();
    agents
        .map(|agent| (agent["name"].as_str().unwrap(), agent["fills_sha256"].as_str().unwrap()))
        .collect()
}

#[test]
fn one_command_does_everything_twice_alike_and_leaves_nothing() {
    let _alone = alone();
    scene::adopt_orphans();
    let before = Scene::now(None);
    let mut reports = Vec::new();
    for _ in 0..2 {
        let (pid, code, stdout, stderr) =
            run(demo(&folder("demo")).args(["--json", "--seed", "11"]));
        assert_eq!(code, Some(0), "{stderr}\n{stdout}");
        before.expect_again(pid);
        reports.push(serde_json::from_str::<Value>(&stdout).unwrap());
    }
    for report in &reports {
        assert_eq!(report["schema"], "sandpit.demo.run/1");
        assert_eq!(report["ended"], "ok", "{report:#}");
        assert!(count(report, "agents") >= 8);
        assert!(count(report, "strategies") >= 4);
        assert!(count(report, "instruments") >= 10);
        assert!(count(report, "executions") > 100);
        assert_eq!((count(report, "failed"), count(report, "leaked")), (0, 0), "{report:#}");
        assert_eq!(report["data"]["license"], "BSD-3-Clause");
        assert!(count(&report["data"], "rows") > 8_000);
        for latency in ["acquire_ms", "exec_ms", "exec_overhead_ms", "cached_ms"] {
            let latency = &report[latency];
            assert!(count(latency, "n") > 0 && latency["p50"].as_f64() <= latency["p99"].as_f64());
        }
        let (pool, cache) = (&report["pool"], &report["cache"]);
        assert!(count(pool, "hits") > 0 && count(cache, "misses") > 0, "{report:#}");
        assert!(count(cache, "hits") + count(cache, "joined") > 0, "{report:#}");
        assert!(count(&report["watched"], "processes") > 10, "{report:#}");
        assert!(count(&report["cost"]["as_run"], "microusd") > 0);
    }
    assert_eq!(fills(&reports[0]), fills(&reports[1]), "the same seed gives the same trades");
    assert_eq!(reports[1]["data"]["fetched"], false);
}

#[test]
fn the_report_for_people_fits_a_page() {
    let _alone = alone();
    let (_, code, stdout, stderr) = run(&mut demo(&folder("demo")));
    assert_eq!(code, Some(0), "{stderr}\n{stdout}");
    let longest = stdout.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(100), "{stdout}");
    assert!(stdout.starts_with("done: 10 agents"), "{stdout}");
    assert!(stderr.contains("momentum-steady: chose"), "{stderr}");
    assert!(!stdout.contains('\u{1b}'), "no colors where nobody looks");
}

/// Reads until a line holds `word`.
fn until(child: &mut Child, word: &str) -> String {
    let mut heard = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    while !heard.contains(word) {
        let read = stderr.read_line(&mut heard).unwrap();
        assert!(read > 0, "it ended before it said `{word}`:\n{heard}");
    }
    child.stderr = Some(stderr.into_inner());
    heard
}

#[test]
fn an_interrupt_ends_it_in_order_and_leaves_nothing() {
    let _alone = alone();
    scene::adopt_orphans();
    let before = Scene::now(None);
    let mut child = demo(&folder("demo")).spawn().unwrap();
    until(&mut child, ": chose");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{rest}");
    assert!(rest.contains("nothing is left"), "{rest}");
    before.expect_again(child.id());
}

#[test]
fn a_kill_leaves_nothing_either() {
    let _alone = alone();
    scene::adopt_orphans();
    let before = Scene::now(None);
    let mut child = demo(&folder("demo")).spawn().unwrap();
    until(&mut child, ": chose");
    child.kill().unwrap();
    child.wait().unwrap();
    before.expect_again(child.id());
    let (pid, code, stdout, stderr) = run(demo(&folder("demo")).arg("--json"));
    assert_eq!(code, Some(0), "{stderr}\n{stdout}");
    before.expect_again(pid);
}

#[test]
fn without_a_package_index_the_error_names_the_way_out() {
    let _alone = alone();
    let data = folder(&format!("demo-offline-{}", std::process::id()));
    // Nobody answers on the port for discarding.
    let (_, code, stdout, stderr) = run(demo(&data)
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        .env("PIP_NO_CACHE_DIR", "1")
        .env_remove("PIP_FIND_LINKS")
        .env_remove("PIP_EXTRA_INDEX_URL"));
    std::fs::remove_dir_all(&data).unwrap();
    assert_eq!((code, stdout.as_str()), (Some(7), ""), "{stderr}");
    assert!(stderr.contains("error[no_prices]"), "{stderr}");
    assert!(stderr.contains("PIP_INDEX_URL") && stderr.contains("PIP_FIND_LINKS"), "{stderr}");
}

#[test]
fn without_a_python_the_error_names_the_way_out() {
    let _alone = alone();
    let data = folder(&format!("demo-pythonless-{}", std::process::id()));
    let (_, code, _, stderr) =
        run(demo(&data).args(["--set", "provider.local.python=/nowhere/python3"]));
    std::fs::remove_dir_all(&data).ok();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("apt install python3"), "{stderr}");
}

#[test]
fn fewer_agents_than_it_promises_are_refused() {
    let _alone = alone();
    let (_, code, _, stderr) = run(demo(&folder("demo")).args(["--agents", "7"]));
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("8..=60"), "{stderr}");
}
