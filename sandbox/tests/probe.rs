//! What the engine finds out about this machine, against what this machine says of itself.
#![cfg(target_os = "linux")]

use std::path::Path;

use sandpit_sandbox::local::Launcher;
use sandpit_sandbox::local::mode::{self, Attempt, Mode};
use sandpit_sandbox::local::probe;

fn launcher() -> Launcher {
    Launcher::Path(env!("CARGO_BIN_EXE_sandbox-launcher").into())
}

#[tokio::test]
async fn what_is_tried_here_gives_a_mode_or_a_cause_with_a_remedy() {
    let facts = probe::gather(200_000, &launcher()).await.unwrap();

    println!("{facts:#?}");
    assert_eq!(facts.trials.seccomp, Attempt::Worked);
    assert_eq!(facts.trials.missing_calls, []);
    match mode::choose(&facts) {
        Ok(Mode::Privileged) => assert!(facts.root),
        Ok(Mode::Unprivileged | Mode::Container) => assert!(!facts.root),
        Err(cause) => panic!("no sandboxes here: {cause}; {}", cause.next()),
    }
}

#[tokio::test]
async fn trying_leaves_nothing_behind() {
    let children = || {
        let path = format!("/proc/self/task/{}/children", rustix_tid());
        std::fs::read_to_string(path).unwrap()
    };
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();

    probe::gather(200_000, &launcher()).await.unwrap();

    assert_eq!(children(), "");
    assert_eq!(mounts(), before);
    assert!(!Path::new("/tmp/old").exists());
}

/// The number of this thread, which started the program.
fn rustix_tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}
