//! What cells do.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sandpit_sandbox::Provider;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::provider::{ExecRequest, KilledBy, Lease, Limits, Outcome, Work};

use crate::support::{Engine, WAIT_MAX, cell};

#[tokio::test]
async fn variables_live_from_cell_to_cell_and_the_last_expression_is_the_result() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;

    let ran = engine.cell(sandbox, "x = 20\nx + 1").await;
    assert_eq!((ran.outcome(), ran.result.as_deref()), (Outcome::Ok, Some("21")));
    assert!(ran.done().context_kept && ran.done().sandbox_usable);
    let ran = engine.cell(sandbox, "x * 2").await;
    assert_eq!(ran.result.as_deref(), Some("40"));
    let ran = engine.cell(sandbox, "x = 1").await;
    assert_eq!((ran.outcome(), ran.result), (Outcome::Ok, None));
    let ran = engine.cell(sandbox, "None").await;
    assert_eq!(ran.result, None);
    assert!(ran.pid > 1);
    engine.close().await;
}

#[tokio::test]
async fn both_streams_are_told_apart_and_belong_to_their_cell() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let code = "import sys, os\nprint('out')\nprint('err', file=sys.stderr)\nos.write(1, b'raw')";
    let ran = engine.cell(sandbox, code).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\nraw", "err\n"));
    assert_eq!(ran.result.as_deref(), Some("3"));
    let ran = engine.cell(sandbox, "print('next', end='')").await;
    assert_eq!(ran.stdout, "next");
    engine.close().await;
}

#[tokio::test]
async fn an_exception_comes_with_the_frames_of_its_cell_only() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ran = engine.cell(sandbox, "def f():\n    raise ValueError('no')\nf()").await;
    let (name, value, traceback) = ran.raised.clone().expect("it raised");
    assert_eq!(
        (ran.outcome(), name.as_str(), value.as_str()),
        (Outcome::Raised, "ValueError", "no")
    );
    assert!(traceback.contains("raise ValueError('no')"), "{traceback}");
    assert!(traceback.contains("<cell 1>") && !traceback.contains("worker.py"), "{traceback}");
    assert!(ran.done().context_kept);

    let ran = engine.cell(sandbox, "1 +").await;
    assert_eq!(ran.raised.expect("it raised").0, "SyntaxError");
    let ran = engine.cell(sandbox, "import sys; sys.exit(3)").await;
    assert_eq!(ran.raised.expect("it raised").0, "SystemExit");
    assert_eq!(engine.cell(sandbox, "f.__name__").await.result.as_deref(), Some("'f'"));
    engine.close().await;
}

#[tokio::test]
async fn a_cell_may_await() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let code =
        "import asyncio\nasync def two():\n    await asyncio.sleep(0)\n    return 2\nawait two()";
    assert_eq!(engine.cell(sandbox, code).await.result.as_deref(), Some("2"));
    assert_eq!(engine.cell(sandbox, "3 + await two()").await.result.as_deref(), Some("5"));
    engine.close().await;
}

#[tokio::test]
async fn parameters_files_environment_and_folder_are_there_before_the_cell() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let code = "import os, sub.mod\n(params['a'], open('data.txt').read(), os.environ['X'], \
                os.getcwd(), sub.mod.y)";
    let request = ExecRequest {
        work: Work::Cell {
            code: code.to_owned(),
            params: Some(r#"{"a": [1, 2.5]}"#.to_owned()),
            context: None,
        },
        files: BTreeMap::from([
            ("data.txt".to_owned(), Bytes::from("text")),
            ("sub/mod.py".to_owned(), Bytes::from("y = 7\n")),
        ]),
        env: BTreeMap::from([("X".to_owned(), "1".to_owned())]),
        ..cell("")
    };
    let ran = engine.run(sandbox, request).await;
    assert_eq!(ran.result.as_deref(), Some("([1, 2.5], 'text', '1', '/home/user', 7)"), "{ran:?}");
    let ran = engine.cell(sandbox, "'X' in os.environ").await;
    assert_eq!(ran.result.as_deref(), Some("False"));
    let request = ExecRequest { cwd: Some("/tmp".to_owned()), ..cell("os.getcwd()") };
    assert_eq!(engine.run(sandbox, request).await.result.as_deref(), Some("'/tmp'"));
    engine.close().await;
}

#[tokio::test]
async fn files_that_cannot_be_written_are_the_cells_own_failure() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let files = BTreeMap::from([("/usr/bin/evil".to_owned(), Bytes::from("x"))]);
    let ran = engine.run(sandbox, ExecRequest { files, ..cell("1") }).await;
    assert_eq!(ran.outcome(), Outcome::Raised);
    let (name, value, _) = ran.raised.expect("it says why");
    assert!(name == "OSError" && value.contains("Read-only"), "{value}");
    engine.close().await;
}

#[tokio::test]
async fn the_environment_of_a_lease_is_seen_by_all_and_survives_the_worker() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let env = BTreeMap::from([("KEY".to_owned(), "secret".to_owned())]);
    engine.provider.adopt(sandbox, Lease { env, limits: None }).await.expect("it is adopted");
    let seen = "import os; os.environ.get('KEY')";
    assert_eq!(engine.cell(sandbox, seen).await.result.as_deref(), Some("'secret'"));
    assert_eq!(engine.line(sandbox, "echo $KEY").await.stdout, "secret\n");
    let ran = engine.cell(sandbox, "os._exit(1)").await;
    assert_eq!(ran.outcome(), Outcome::Exit(1));
    assert_eq!(engine.cell(sandbox, seen).await.result.as_deref(), Some("'secret'"));
    engine.close().await;
}

#[tokio::test]
async fn a_cell_over_its_time_is_asked_to_stop_and_keeps_its_variables() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let request = ExecRequest {
        time_max: Duration::from_secs(2),
        ..cell("x = 1\nimport time\ntime.sleep(60)")
    };
    let ran = engine.run(sandbox, request).await;
    assert_eq!(ran.outcome(), Outcome::Interrupted { timed_out: true });
    assert!(ran.done().context_kept);
    assert!(ran.done().wall < Duration::from_secs(30), "{:?}", ran.done().wall);
    assert_eq!(engine.cell(sandbox, "x").await.result.as_deref(), Some("1"));
    engine.close().await;
}

#[tokio::test]
async fn a_cell_that_does_not_stop_is_killed_and_the_holder_gets_a_fresh_worker() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let code = "import signal, os\nopen('kept', 'w').write('file')\nx = 1\n\
                signal.signal(signal.SIGINT, signal.SIG_IGN)\nchild = os.fork()\n\
                while True: pass";
    let request = ExecRequest { time_max: Duration::from_secs(2), ..cell(code) };
    let ran = engine.run(sandbox, request).await;
    assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Timeout));
    assert!(!ran.done().context_kept && ran.done().sandbox_usable, "{ran:?}");
    let ran = engine.cell(sandbox, "open('kept').read(), 'x' in globals()").await;
    assert_eq!(ran.result.as_deref(), Some("('file', False)"), "{ran:?}");
    let ran = engine.line(sandbox, "set -- /proc/[0-9]*; echo $#").await;
    assert_eq!(ran.stdout, "3\n", "init, worker, sh");
    engine.close().await;
}

#[tokio::test]
async fn a_worker_that_dies_is_told_as_programs_die() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    for (code, outcome) in [
        ("import os; os._exit(7)", Outcome::Exit(7)),
        ("import os; os.abort()", Outcome::Signal(6)),
        ("import ctypes; ctypes.string_at(0)", Outcome::Signal(11)),
        ("import os; os.kill(os.getpid(), 9)", Outcome::Signal(9)),
    ] {
        let ran = engine.cell(sandbox, code).await;
        assert_eq!(ran.outcome(), outcome, "{code}");
        assert!(!ran.done().context_kept && ran.done().sandbox_usable, "{code}");
        assert_eq!(engine.cell(sandbox, "1+1").await.result.as_deref(), Some("2"));
    }
    engine.close().await;
}

#[tokio::test]
async fn forged_frames_end_the_worker_and_nothing_else() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    for code in [
        "import os; os.write(3, b'\\xff' * 64)",
        "import os; os.write(3, b'\\x02\\0\\0\\0\\0\\0\\0\\0{}'); import time; time.sleep(60)",
        "import os, time; os.close(3); time.sleep(60)",
        "import os, json, struct, time\nh = json.dumps({'op': 'done', 'id': 999}).encode()\n\
         os.write(3, struct.pack('<II', len(h), 0) + h)\ntime.sleep(60)",
    ] {
        let ran = engine.cell(sandbox, code).await;
        assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Protocol), "{code}: {ran:?}");
        assert!(ran.done().wall < Duration::from_secs(10), "{code}");
        assert_eq!(engine.cell(sandbox, "1+1").await.result.as_deref(), Some("2"));
    }
    engine.close().await;
}

#[tokio::test]
async fn output_is_cut_at_its_bound_and_counted_beyond() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ran = engine.cell(sandbox, "print('x' * (3 * 1024 * 1024), end='')").await;
    assert_eq!(ran.outcome(), Outcome::Ok);
    assert_eq!(ran.stdout.len(), 1024 * 1024);
    assert_eq!(ran.done().stdout_dropped, 2 * 1024 * 1024);
    let ran = engine.cell(sandbox, "while True: print('x' * 65536)").await;
    assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Output));
    assert_eq!(engine.cell(sandbox, "1+1").await.result.as_deref(), Some("2"));
    engine.close().await;
}

#[tokio::test]
async fn an_interrupt_stops_a_cell_that_runs_and_one_that_waits() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let (first, second) = (cell("import time; time.sleep(60)"), cell("1"));
    let (first_id, second_id) = (first.exec, second.exec);
    let mut running = engine.provider.exec(sandbox, first).await.expect("it begins");
    assert!(running.next().await.is_some());
    let mut waiting = engine.provider.exec(sandbox, second).await.expect("it waits");
    engine.provider.interrupt(sandbox, second_id).await.expect("it is interrupted");
    let interrupted = Outcome::Interrupted { timed_out: false };
    let mut last = None;
    while let Some(event) = waiting.next().await {
        last = Some(event);
    }
    assert!(format!("{last:?}").contains(&format!("{interrupted:?}")), "{last:?}");
    engine.provider.interrupt(sandbox, first_id).await.expect("it is interrupted");
    while let Some(event) = running.next().await {
        last = Some(event);
    }
    assert!(format!("{last:?}").contains(&format!("{interrupted:?}")), "{last:?}");
    engine.close().await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_interrupts_its_cell() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let mut stream =
        engine.provider.exec(sandbox, cell("import time; time.sleep(60)")).await.unwrap();
    assert!(stream.next().await.is_some());
    drop(stream);
    let ran = engine.cell(sandbox, "1+1").await;
    assert_eq!(ran.result.as_deref(), Some("2"));
    assert!(ran.done().context_kept);
    engine.close().await;
}

#[tokio::test]
async fn cells_run_in_the_order_they_came_and_no_more_wait_than_may() {
    let mut options = crate::support::options();
    options.bounds.queued_max = 3;
    let engine = Engine::start_with(options).await;
    let sandbox = engine.create().await;
    let mut streams = Vec::new();
    for code in ["import time; s = 'a'; time.sleep(0.2)", "s += 'b'", "s += 'c'"] {
        streams.push(engine.provider.exec(sandbox, cell(code)).await.expect("it waits its turn"));
    }
    let busy = engine.provider.exec(sandbox, cell("s")).await.expect_err("the queue is full");
    assert_eq!(busy, ProviderError::Busy { queued: 3 });
    for mut stream in streams {
        while stream.next().await.is_some() {}
    }
    assert_eq!(engine.cell(sandbox, "s").await.result.as_deref(), Some("'abc'"));
    engine.close().await;
}

#[tokio::test]
async fn a_lease_may_have_other_limits_where_groups_hold_them() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let limits = Some(Limits { memory_mb: 600, cpu_count: 2 });
    let adopted = engine.provider.adopt(sandbox, Lease { limits, ..Lease::default() }).await;
    if engine.provider.descriptor().limits_enforced.memory != "cgroup" {
        assert!(matches!(adopted, Err(ProviderError::Unsupported { .. })), "{adopted:?}");
        return engine.close().await;
    }
    adopted.expect("it is adopted");
    // The template has 256 MiB.
    for _ in 0..2 {
        let ran = engine.cell(sandbox, "len(bytearray(400 << 20)) >> 20").await;
        assert_eq!(ran.result.as_deref(), Some("400"), "{ran:?}");
        engine.cell(sandbox, "import os; os._exit(0)").await;
    }
    let ran = engine.line(sandbox, "python3 -c 'print(len(bytearray(400 << 20)) >> 20)'").await;
    assert_eq!(ran.stdout, "400\n", "{ran:?}");
    let limits = Some(Limits { memory_mb: 5_000, cpu_count: 2 });
    let adopted = engine.provider.adopt(sandbox, Lease { limits, ..Lease::default() }).await;
    assert!(matches!(adopted, Err(ProviderError::Unsupported { .. })), "{adopted:?}");
    engine.close().await;
}

#[tokio::test]
async fn running_out_of_memory_ends_the_sandbox_and_says_so() {
    let engine = Engine::start().await;
    let mut endings = engine.provider.endings();
    let sandbox = engine.create().await;
    let beside = engine.create().await;
    let code = "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        \
                keep = [bytearray(1 << 20) for _ in range(100)]\n        time.sleep(60)\n\
                time.sleep(60)";
    let ran = engine.cell(sandbox, code).await;
    assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Memory), "{ran:?}");
    assert!(!ran.done().sandbox_usable);
    let ending = tokio::time::timeout(WAIT_MAX, endings.recv()).await.expect("in time").unwrap();
    assert_eq!((ending.sandbox, ending.why), (sandbox, "out of memory"));
    assert_eq!(engine.cell(beside, "1+1").await.result.as_deref(), Some("2"));
    engine.close().await;
}
