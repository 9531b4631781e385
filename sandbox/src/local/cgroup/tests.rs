use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const MIB: u64 = 1024 * 1024;
const SMALL: GroupLimits = GroupLimits { memory: 32 * MIB, pids: 16, cpu_milli: 1_000 };

/// A name that no other test and no other run has.
fn engine() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn backend(engine: &str) -> Backend {
    let backend = Backend::detect(CgroupChoice::Auto, engine, None);
    assert_eq!(backend.why_none(), None, "this test needs a control group it may write below");
    backend
}

/// A shell that puts itself into `group`, then runs `script`.
fn shell_in(group: &Group, script: &str) -> Child {
    let Placement::WriteZero(tasks) = group.placement().unwrap() else {
        panic!("the shell can only join groups of version 1; run on pure version 2, clone into it");
    };
    let mut join = String::new();
    for task in &tasks {
        rustix::io::fcntl_setfd(task, rustix::io::FdFlags::empty()).unwrap();
        join += &format!("echo 0 > /proc/self/fd/{} && ", task.as_raw_fd());
    }
    Command::new("/bin/sh")
        .args(["-c", &format!("{join}{script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for an event that has no descriptor to wait on.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..400 {
        if happened() {
            return;
        }
        pause();
    }
    panic!("{what} did not happen within 2 s");
}

#[test]
fn a_process_that_puts_itself_in_is_counted_frozen_and_gone_with_the_group() {
    let backend = backend(&engine());
    let folders = backend.folders();
    let group = backend.group("sbx-0", SMALL).unwrap();

    let mut child = shell_in(&group, "read line");
    until("the shell joins", || group.processes().unwrap() == [child.id()]);
    until("its memory is charged", || group.usage().unwrap().unwrap().memory > 0);
    let usage = group.usage().unwrap().unwrap();
    assert_eq!(usage.pids, 1);

    group.freeze().unwrap();
    until("it stands still", || group.is_frozen().unwrap());
    group.thaw().unwrap();
    until("it goes on", || !group.is_frozen().unwrap());

    assert!(group.remove().is_err(), "a group with a process in it cannot be removed");
    drop(child.stdin.take());
    child.wait().unwrap();
    group.remove().unwrap();
    group.remove().unwrap();
    backend.retire().unwrap();
    assert_eq!(folders.iter().filter(|folder| folder.exists()).count(), 0);
}

#[test]
fn memory_over_the_limit_is_a_kill_that_is_counted() {
    let backend = backend(&engine());
    let group = backend.group("sbx-0", SMALL).unwrap();
    assert_eq!(group.oom_kills().unwrap(), 0);

    // `tail` keeps a line in memory until it ends, and this one does not.
    let mut child = shell_in(&group, "exec tail /dev/zero");
    let status = child.wait().unwrap();

    assert!(!status.success());
    assert_eq!(group.oom_kills().unwrap(), 1);
    assert!(group.usage().unwrap().unwrap().memory_peak <= SMALL.memory);
    group.remove().unwrap();
    backend.retire().unwrap();
}

#[test]
fn limits_of_a_group_in_use_can_grow_and_shrink() {
    let backend = backend(&engine());
    let group = backend.group("sbx-0", SMALL).unwrap();

    for memory in [64 * MIB, 16 * MIB, 512 * MIB] {
        group.set_limits(GroupLimits { memory, ..SMALL }).unwrap();
    }

    group.remove().unwrap();
    backend.retire().unwrap();
}

#[test]
fn groups_of_a_dead_engine_go_at_the_next_start_and_those_of_a_living_one_stay() {
    let (dead, alive) = (engine(), engine());
    let left_behind = backend(&dead);
    left_behind.group("sbx-3", SMALL).unwrap();
    let (dead_folders, living) = (left_behind.folders(), backend(&alive));
    living.group("sbx-0", SMALL).unwrap();
    assert!(dead_folders[0].join("sbx-3").exists());

    // Its locks go, as they do when the kernel ends a process; its folders stay.
    drop(left_behind);
    let next = backend(&engine());

    assert_eq!(dead_folders.iter().filter(|folder| folder.exists()).count(), 0);
    assert!(living.folders()[0].join("sbx-0").exists());
    let again = Backend::detect(CgroupChoice::Auto, &alive, None);
    assert!(again.why_none().is_some_and(|why| why.contains("is alive")), "{again:?}");
    for folder in living.folders() {
        fs::remove_dir(folder.join("sbx-0")).unwrap();
    }
    living.retire().unwrap();
    next.retire().unwrap();
}

#[test]
fn the_stock_hands_out_spare_groups_with_the_limits_that_were_asked_for() {
    let stock = Stock::new(backend(&engine()), SMALL);
    stock.refill().unwrap();

    let usual = stock.take(SMALL).unwrap();
    let other = stock.take(GroupLimits { pids: 40, ..SMALL }).unwrap();

    assert_eq!([usual.name(), other.name()], ["sbx-0", "sbx-1"]);
    usual.remove().unwrap();
    other.remove().unwrap();
    let folders = stock.backend().folders();
    stock.retire().unwrap();
    assert_eq!(folders.iter().filter(|folder| folder.exists()).count(), 0);
}

#[test]
fn without_groups_everything_else_still_answers() {
    let backend = Backend::detect(CgroupChoice::None, &engine(), None);

    let group = backend.group("sbx-0", SMALL).unwrap();

    assert_eq!((backend.name(), backend.folders()), ("none", vec![]));
    assert_eq!(backend.enforced().memory, "rlimit+watchdog");
    assert!(matches!(group.placement().unwrap(), Placement::Nowhere));
    assert_eq!(group.usage().unwrap(), None);
    assert_eq!(group.freeze().unwrap_err().kind(), io::ErrorKind::Unsupported);
    group.remove().unwrap();
    backend.retire().unwrap();
}
