//! What commands do.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sandpit_sandbox::provider::{ExecRequest, KilledBy, Outcome, Work};

use crate::support::{Engine, line, request};

#[tokio::test]
async fn a_line_runs_in_a_shell_and_a_program_with_its_arguments() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ran = engine.line(sandbox, "echo out; echo err >&2; exit 3").await;
    assert_eq!(
        (ran.outcome(), ran.stdout.as_str(), ran.stderr.as_str()),
        (Outcome::Exit(3), "out\n", "err\n")
    );
    let program = ["printf", "%s-%s", "a b", "$HOME"].map(str::to_owned).into();
    let ran = engine.run(sandbox, request(Work::Program(program))).await;
    assert_eq!((ran.outcome(), ran.stdout.as_str()), (Outcome::Exit(0), "a b-$HOME"));
    assert!(ran.pid > 1);
    engine.close().await;
}

#[tokio::test]
async fn a_command_has_input_environment_files_and_folder() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let request = ExecRequest {
        stdin: Bytes::from("from outside"),
        env: BTreeMap::from([("X".to_owned(), "y z".to_owned())]),
        files: BTreeMap::from([("/tmp/f".to_owned(), Bytes::from("file"))]),
        cwd: Some("/tmp".to_owned()),
        ..line("cat; echo; cat f; echo; echo $X; pwd; id -u; python3 -c 'print(6*7)'")
    };
    let ran = engine.run(sandbox, request).await;
    assert_eq!(ran.stdout, "from outside\nfile\ny z\n/tmp\n1000\n42\n", "{ran:?}");
    engine.close().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_run_ends_as_in_a_shell() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    for (program, code) in [("no-such-program", 127), ("/etc/passwd", 126)] {
        let ran = engine.run(sandbox, request(Work::Program(vec![program.to_owned()]))).await;
        assert_eq!(ran.outcome(), Outcome::Exit(code), "{ran:?}");
        assert!(ran.stderr.starts_with(program), "{ran:?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_command_over_its_time_is_asked_then_killed_with_its_session() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let short = |text: &str| ExecRequest { time_max: Duration::from_secs(2), ..line(text) };
    let ran = engine.run(sandbox, short("sleep 60")).await;
    assert_eq!(ran.outcome(), Outcome::Interrupted { timed_out: true });
    let ran =
        engine.run(sandbox, short("trap '' INT TERM; sleep 60 & while true; do :; done")).await;
    assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Timeout));
    assert!(ran.done().context_kept && ran.done().sandbox_usable, "{ran:?}");
    let ran = engine.line(sandbox, "set -- /proc/[0-9]*; echo $#").await;
    assert_eq!(ran.stdout, "3\n", "init, worker, sh");
    engine.close().await;
}

#[tokio::test]
async fn what_a_command_leaves_running_is_counted_once_and_goes_on() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ran = engine.line(sandbox, "setsid sleep 60 & sleep 61 & echo started").await;
    assert_eq!((ran.outcome(), ran.stdout.as_str()), (Outcome::Exit(0), "started\n"));
    assert_eq!(ran.done().survivors, 2);
    assert!(ran.done().wall < Duration::from_secs(10));
    let ran = engine.line(sandbox, "true").await;
    assert_eq!(ran.done().survivors, 0);
    engine.close().await;
}

#[tokio::test]
async fn commands_run_beside_cells() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let waiting = "import time, os\nwhile not os.path.exists('go'): time.sleep(0.01)\n'gone'";
    let (cell, command) =
        tokio::join!(engine.cell(sandbox, waiting), engine.line(sandbox, "touch go"));
    assert_eq!(cell.result.as_deref(), Some("'gone'"));
    assert_eq!(command.outcome(), Outcome::Exit(0));
    engine.close().await;
}

#[tokio::test]
async fn a_flood_of_output_is_cut_and_then_killed() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ran = engine.line(sandbox, "cat /dev/zero").await;
    assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Output), "{:?}", ran.done);
    assert_eq!(ran.stdout.len(), 1024 * 1024);
    assert!(ran.done().stdout_dropped >= 63 * 1024 * 1024);
    engine.close().await;
}
