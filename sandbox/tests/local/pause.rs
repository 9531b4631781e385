//! Paused sandboxes: they stand still, their time does, and they go on where they were.

use std::time::Duration;

use sandpit_sandbox::Provider;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::local::options::{CgroupChoice, Options};
use sandpit_sandbox::provider::{CreateRequest, ExecEvent, ExecRequest, Lease, Outcome};

use crate::support::{Engine, WAIT_MAX, cell, line, options};

/// A pause that is long enough to see that nothing moves, and longer than what runs takes on a
/// machine that also compiles.
const PAUSE: Duration = Duration::from_secs(6);

/// Prints a number every 10 ms for a second.
const TICKS: &str = "import time\nfor tick in range(100):\n    print(tick)\n    time.sleep(0.01)";

/// Longer than that takes, and shorter than the pause.
const TICKS_MAX: Duration = Duration::from_secs(5);

/// Stands still where control groups do it, and where they do not.
async fn in_both_ways(test: impl AsyncFn(Engine)) {
    for cgroup in [CgroupChoice::Auto, CgroupChoice::None] {
        test(Engine::start_with(Options { cgroup, ..options() }).await).await;
    }
}

#[tokio::test]
async fn what_runs_stands_still_with_its_time_and_goes_on_where_it_was() {
    in_both_ways(async |engine| {
        let sandbox = engine.create().await;
        let pausing = engine.provider.pausing().expect("it pauses");
        let request = ExecRequest { time_max: TICKS_MAX, ..cell(TICKS) };
        let mut stream = engine.provider.exec(sandbox, request).await.expect("it begins");
        let mut seen = String::new();
        while !seen.contains("3\n") {
            if let Some(ExecEvent::Stdout(bytes)) = stream.next().await {
                seen += &String::from_utf8_lossy(&bytes);
            }
        }
        pausing.pause(sandbox).await.expect("it is paused");
        pausing.pause(sandbox).await.expect("it stays paused");
        let read = async {
            while let Some(event) = stream.next().await {
                match event {
                    ExecEvent::Stdout(bytes) => seen += &String::from_utf8_lossy(&bytes),
                    other => panic!("it goes on: {other:?}"),
                }
            }
        };
        // What was written before the pause may still come.
        tokio::time::timeout(PAUSE, read).await.expect_err("it stands still");
        let before = seen.lines().count();
        assert!(before < 100, "{seen}");

        pausing.resume(sandbox).await.expect("it goes on");
        pausing.resume(sandbox).await.expect("it goes on");
        let done = loop {
            match stream.next().await.expect("it ends") {
                ExecEvent::Stdout(bytes) => seen += &String::from_utf8_lossy(&bytes),
                ExecEvent::Done(done) => break done,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(done.outcome, Outcome::Ok);
        assert_eq!(seen.lines().count(), 100);
        assert!(done.wall < TICKS_MAX, "{:?}", done.wall);
        engine.close().await;
    })
    .await;
}

/// The parent of a vforked process waits for it where nothing stops it, also when that process
/// stands still already.
#[tokio::test]
async fn what_starts_programs_without_a_break_stands_still_every_time() {
    in_both_ways(async |engine| {
        let sandbox = engine.create().await;
        let pausing = engine.provider.pausing().expect("it pauses");
        let code = "import subprocess\nwhile True: subprocess.run(['true'])";
        let mut stream = engine.provider.exec(sandbox, cell(code)).await.expect("it begins");
        assert!(matches!(stream.next().await, Some(ExecEvent::Started { .. })));
        for round in 0..60 {
            // Somewhere else in its loop each time.
            tokio::time::sleep(Duration::from_micros(5_000 + 300 * round)).await;
            pausing.pause(sandbox).await.expect("it is paused");
            pausing.resume(sandbox).await.expect("it goes on");
        }
        drop(stream);
        engine.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_time_limit_passes_after_the_pause_and_a_command_heeds_it_too() {
    in_both_ways(async |engine| {
        let sandbox = engine.create().await;
        let pausing = engine.provider.pausing().expect("it pauses");
        let time_max = Duration::from_millis(700);
        for request in [cell("x = 1\nwhile True: pass"), line("sleep 60")] {
            let request = ExecRequest { time_max, ..request };
            let mut stream = engine.provider.exec(sandbox, request).await.expect("it begins");
            assert!(matches!(stream.next().await, Some(ExecEvent::Started { .. })));
            pausing.pause(sandbox).await.expect("it is paused");
            let early = tokio::time::timeout(PAUSE, stream.next()).await;
            assert!(early.is_err(), "{early:?}");
            pausing.resume(sandbox).await.expect("it goes on");
            let done = loop {
                let event = tokio::time::timeout(WAIT_MAX, stream.next()).await;
                match event.expect("it ends").expect("it says how") {
                    ExecEvent::Done(done) => break done,
                    ExecEvent::Raised { name, .. } => assert_eq!(name, "KeyboardInterrupt"),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(done.outcome, Outcome::Interrupted { timed_out: true });
            assert!(done.wall < PAUSE, "{:?}", done.wall);
        }
        assert_eq!(engine.cell(sandbox, "x").await.result.as_deref(), Some("1"));
        engine.close().await;
    })
    .await;
}

#[tokio::test]
async fn nothing_but_resuming_listing_and_destroying_is_done_with_a_paused_sandbox() {
    in_both_ways(async |engine| {
        let sandbox = engine.create().await;
        let provider = &engine.provider;
        let pausing = provider.pausing().expect("it pauses");
        pausing.pause(sandbox).await.expect("it is paused");

        let paused = ProviderError::Paused(sandbox);
        let contexts = provider.contexts().expect("it has contexts");
        let run = provider.exec(sandbox, cell("1")).await;
        assert_eq!(run.map(drop).unwrap_err(), paused);
        assert_eq!(provider.sample(sandbox).await.unwrap_err(), paused);
        assert_eq!(provider.adopt(sandbox, Lease::default()).await.unwrap_err(), paused);
        assert_eq!(contexts.create(sandbox, None).await.unwrap_err(), paused);
        assert_eq!(contexts.list(sandbox).await.unwrap_err(), paused);
        let listed = provider.list().await.expect("they are listed");
        assert!(listed.iter().any(|one| one.sandbox == sandbox));
        let again = CreateRequest { sandbox, template: "base".to_owned() };
        provider.create(again).await.expect("the same id is the same sandbox");

        let destroyed = tokio::time::timeout(WAIT_MAX, provider.destroy(sandbox)).await;
        assert!(destroyed.expect("in time").expect("it is destroyed").was_there);
        let gone = pausing.resume(sandbox).await;
        assert_eq!(gone.unwrap_err(), ProviderError::Gone(sandbox));

        // One that is still paused is no hindrance.
        let other = engine.create().await;
        pausing.pause(other).await.expect("it is paused");
        engine.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_execution_that_nobody_waits_for_any_more_is_stopped_after_the_pause() {
    in_both_ways(async |engine| {
        let sandbox = engine.create().await;
        let pausing = engine.provider.pausing().expect("it pauses");
        let mut stream = engine.provider.exec(sandbox, cell("while True: pass")).await.unwrap();
        assert!(matches!(stream.next().await, Some(ExecEvent::Started { .. })));
        pausing.pause(sandbox).await.expect("it is paused");
        drop(stream);
        pausing.resume(sandbox).await.expect("it goes on");
        let ran = tokio::time::timeout(WAIT_MAX, engine.cell(sandbox, "2")).await;
        assert_eq!(ran.expect("its turn comes").result.as_deref(), Some("2"));
        engine.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_watch_ends_with_a_sandbox_that_is_destroyed_while_it_is_paused() {
    in_both_ways(async |engine| {
        let sandbox = engine.create().await;
        let files = engine.provider.files().expect("it has files");
        files.make_dir(sandbox, "d").await.expect("a directory");
        let mut watching = files.watch(sandbox, "d", true).await.expect("it is watched");
        // Directories come all the time: the watch looks into one when everything stands still.
        let coming = line("while :; do i=$((i + 1)); mkdir d/$i; done");
        let _coming = engine.provider.exec(sandbox, coming).await.expect("it begins");
        watching.recv().await.expect("one has come").expect("it is told");
        engine.provider.pausing().expect("it pauses").pause(sandbox).await.expect("it is paused");
        engine.provider.destroy(sandbox).await.expect("it is destroyed");
        let ended = async { while watching.recv().await.is_some() {} };
        tokio::time::timeout(WAIT_MAX, ended).await.expect("the watch ends too");
        engine.close().await;
    })
    .await;
}
