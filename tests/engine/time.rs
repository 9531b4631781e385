//! Takes all the time there is, or all the output.

use std::time::Duration;

use sandpit_messages::time::Moment;
use sandpit_sandbox::provider::{KilledBy, Outcome};

use super::support::{attacked, cell, now, since};

/// Asked to stop at the limit, killed a quarter of a second later; and a busy machine is slow.
fn in_time(before: Moment, time_max: Duration) {
    let took = since(before);
    assert!(took >= time_max, "stopped {:?} early", time_max.saturating_sub(took));
    assert!(took < time_max + Duration::from_secs(2), "stopped after {took:?}");
}

const LIMIT: Duration = Duration::from_millis(500);

/// Code that nothing but a kill ends.
async fn killed(code: &str) {
    attacked(async |engine, victim| {
        let before = now();
        let ran = engine.run(victim, cell(code), LIMIT).await;

        assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Timeout), "{ran:?}");
        assert!(!ran.done.context_kept && ran.done.sandbox_usable, "{ran:?}");
        in_time(before, LIMIT);
        assert_eq!(engine.value(victim, "1 + 1").await, "2");
    })
    .await;
}

#[tokio::test]
async fn hostile_h38_ignoring_every_polite_signal_gets_it_killed() {
    killed(
        "import signal\nfor number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n    \
         signal.signal(number, signal.SIG_IGN)\nwhile True:\n    pass",
    )
    .await;
    killed(
        "while True:\n    try:\n        while True:\n            pass\n    \
         except BaseException:\n        pass",
    )
    .await;
}

#[tokio::test]
async fn hostile_h38_a_command_that_ignores_every_polite_signal_is_killed_as_well() {
    attacked(async |engine, victim| {
        let before = now();
        let line = "trap '' INT TERM HUP; while :; do :; done".to_owned();
        let work = sandpit_sandbox::provider::Work::Line(line);

        let ran = engine.run(victim, work, LIMIT).await;

        assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Timeout), "{ran:?}");
        in_time(before, LIMIT);
    })
    .await;
}

#[tokio::test]
async fn a_loop_for_ever_is_interrupted_and_keeps_its_variables() {
    attacked(async |engine, victim| {
        engine.value(victim, "kept = 42").await;
        let before = now();

        let ran = engine.run(victim, cell("while True:\n    pass"), LIMIT).await;

        assert_eq!(ran.outcome(), Outcome::Interrupted { timed_out: true }, "{ran:?}");
        in_time(before, LIMIT);
        assert!(ran.done.context_kept);
        assert_eq!(engine.value(victim, "kept").await, "42");
    })
    .await;
}

#[tokio::test]
async fn hostile_h39_stopping_itself_does_not_stop_the_clock() {
    attacked(async |engine, victim| {
        let before = now();
        let code = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n'went on'";

        let ran = engine.run(victim, cell(code), LIMIT).await;

        // Woken up to be interrupted; what it does then is its own affair for a moment.
        assert!(
            matches!(
                ran.outcome(),
                Outcome::Interrupted { .. } | Outcome::Killed(KilledBy::Timeout)
            ),
            "{ran:?}"
        );
        in_time(before, LIMIT);
    })
    .await;
}

#[tokio::test]
async fn hostile_h40_work_in_c_that_hears_no_signal_is_killed() {
    killed("sum(range(1 << 60))").await;
}

#[tokio::test]
async fn hostile_h40_an_expression_that_never_matches_is_stopped() {
    attacked(async |engine, victim| {
        let before = now();
        let code = "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')";

        let ran = engine.run(victim, cell(code), LIMIT).await;

        // Some versions look for signals on the way, some do not.
        let stopped =
            [Outcome::Interrupted { timed_out: true }, Outcome::Killed(KilledBy::Timeout)];
        assert!(stopped.contains(&ran.outcome()), "{ran:?}");
        in_time(before, LIMIT);
    })
    .await;
}

#[tokio::test]
async fn hostile_h43_a_flood_is_cut_counted_and_ended() {
    attacked(async |engine, victim| {
        let some = engine.cell(victim, "import sys\nsys.stdout.write('x' * (3 << 20))\n1").await;
        assert_eq!((some.outcome(), some.shown.as_str()), (Outcome::Ok, "1"));
        assert_eq!(some.out.len() as u64 + some.done.stdout_dropped, 3 << 20);
        assert_eq!(some.out.len(), 1 << 20);

        let flood = "import os\nwhile True:\n    os.write(1, bytes(65536))";
        let ran = engine.cell(victim, flood).await;
        assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Output), "{:?}", ran.done);
        assert_eq!(ran.out.len(), 1 << 20);

        let line = engine.line(victim, "yes").await;
        assert_eq!(line.outcome(), Outcome::Killed(KilledBy::Output), "{:?}", line.done);
    })
    .await;
}

#[tokio::test]
async fn hostile_h44_a_gigabyte_in_one_line_is_a_flood_like_any_other() {
    attacked(async |engine, victim| {
        let code =
            "import os\nfor _ in range(1 << 14):\n    os.write(2, b'x' * 65536)\n'all of it'";

        let ran = engine.cell(victim, code).await;

        assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Output), "{:?}", ran.done);
        assert_eq!(ran.err.len(), 1 << 20);
        assert_eq!(engine.value(victim, "1 + 1").await, "2");
    })
    .await;
}
