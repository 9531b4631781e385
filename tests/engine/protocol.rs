//! Attacks the worker from within: its channel, its results, its own functions, its life.

use sandpit_messages::id::SandboxId;
use sandpit_sandbox::provider::{KilledBy, Outcome};

use super::support::{Engine, attacked, cell};

/// The sandbox still serves its holder, with or without its variables.
async fn serves(engine: &Engine, victim: SandboxId) {
    assert_eq!(engine.value(victim, "1 + 1").await, "2");
}

#[tokio::test]
async fn code_that_raises_tells_what_and_where() {
    attacked(async |engine, victim| {
        let ran = engine.cell(victim, "def f():\n    raise ValueError('no price')\nf()").await;

        assert_eq!(ran.outcome(), Outcome::Raised);
        assert_eq!(ran.raised, Some(("ValueError".to_owned(), "no price".to_owned())));
        assert!(ran.done.context_kept);
        serves(&engine, victim).await;
    })
    .await;
}

#[tokio::test]
async fn hostile_h45_descriptors_of_the_worker_are_closed_or_replaced() {
    let attacks = [
        "import os\nfor number in range(4):\n    os.close(number)",
        "import os\nos.closerange(0, 64)",
        "import os\nos.dup2(os.open('/dev/null', os.O_RDWR), 3)",
        "import os\nos.dup2(os.pipe()[1], 3)",
        "import os\nos.close(1); os.close(2)\nprint('x')",
    ];
    for attack in attacks {
        attacked(async |engine, victim| {
            let work = cell(attack);
            let ran = engine.run(victim, work, std::time::Duration::from_secs(3)).await;
            assert!(
                matches!(
                    ran.outcome(),
                    Outcome::Ok
                        | Outcome::Raised
                        | Outcome::Exit(_)
                        | Outcome::Killed(KilledBy::Protocol | KilledBy::Timeout)
                        | Outcome::Interrupted { .. }
                ),
                "{attack}: {ran:?}"
            );
            serves(&engine, victim).await;
        })
        .await;
    }
}

#[tokio::test]
async fn hostile_h46_frames_nobody_asked_for_end_the_worker_and_say_nothing_else() {
    const SEND: &str = "
import json, os, struct
def send(header, body=b'', size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    frame = struct.pack('<II', len(text) if size is None else size, len(body)) + text + body
    while frame:
        frame = frame[os.write(3, frame):]
";
    let attacks = [
        "os.write(3, os.urandom(4096))",
        "send({'kind': 'done', 'id': 999999})",
        "send({'done': {'id': 999999, 'n': 1, 'ns': 1}})",
        "send(b'{', size=1 << 31)",
        "send(b'[' * 100000 + b']' * 100000)",
        "send(b'\\xff\\xfe not text')",
        "send({'x': 'y' * (300 << 10)})",
        "send({}, body=bytes(9 << 20))",
        "[send({'kind': 'nothing'}) for _ in range(100000)]",
        "os.write(3, struct.pack('<II', 100, 0) + b'half'); os._exit(0)",
    ];
    for attack in attacks {
        attacked(async |engine, victim| {
            engine.value(victim, &format!("{SEND}\nNone")).await;
            let work = cell(&format!("{attack}\nimport time\ntime.sleep(60)"));

            let ran = engine.run(victim, work, std::time::Duration::from_secs(10)).await;

            assert!(
                matches!(ran.outcome(), Outcome::Killed(KilledBy::Protocol) | Outcome::Exit(0)),
                "{attack}: {ran:?}"
            );
            serves(&engine, victim).await;
        })
        .await;
    }
}

#[tokio::test]
async fn hostile_h47_odd_values_arrive_or_are_escaped() {
    attacked(async |engine, victim| {
        let values = [
            ("float('nan')", "nan"),
            ("10 ** 400 > 0", "True"),
            ("'\\ud800'", "'\\ud800'"),
            ("'a\\x00b'", "'a\\x00b'"),
            ("b'\\xff'", "b'\\xff'"),
            ("'\\x1b[2J'", "'\\x1b[2J'"),
        ];
        for (code, shown) in values {
            assert_eq!(engine.value(victim, code).await, shown);
        }
        let code = "
class Odd:
    def __repr__(self):
        return 'a\\ud800\\x00\\x1b[2J'
Odd()
";
        let ran = engine.cell(victim, code).await;
        assert_eq!(ran.outcome(), Outcome::Ok, "{ran:?}");
        assert!(ran.shown.starts_with('a'), "{ran:?}");

        let ran = engine.cell(victim, "import os\n_ = os.write(1, b'\\xff\\x00\\x1b[2J')").await;
        assert_eq!(ran.out, "\u{fffd}\0\u{1b}[2J");
        let ran =
            engine.cell(victim, "raise type('\\ud800\\x00', (Exception,), {})('\\udfff')").await;
        assert_eq!(ran.outcome(), Outcome::Raised, "{ran:?}");
        serves(&engine, victim).await;
    })
    .await;
}

#[tokio::test]
async fn hostile_h48_representations_that_misbehave_are_cut_or_become_errors() {
    attacked(async |engine, victim| {
        let huge = engine.cell(victim, "'x' * (100 << 20)").await;
        assert_eq!(huge.outcome(), Outcome::Ok);
        assert!(huge.shown.len() <= 256 << 10, "{} characters", huge.shown.len());

        for (body, name) in [
            ("raise ValueError('in repr')", "ValueError"),
            ("return repr(self)", "RecursionError"),
            ("return 1", "TypeError"),
        ] {
            let code = format!("class Odd:\n    def __repr__(self):\n        {body}\nOdd()");
            let ran = engine.cell(victim, &code).await;
            assert_eq!(ran.raised_name(), name, "{body}: {ran:?}");
        }

        let code =
            "class Odd:\n    def __repr__(self):\n        while True:\n            pass\nOdd()";
        let before = super::support::now();
        let ran = engine.cell(victim, code).await;
        assert_eq!(ran.outcome(), Outcome::Raised, "{ran:?}");
        assert!(super::support::since(before) < std::time::Duration::from_secs(4));

        let code = "class Odd:\n    def __repr__(self):\n        raise SystemExit(3)\nOdd()";
        let ran = engine.cell(victim, code).await;
        assert!(matches!(ran.outcome(), Outcome::Raised | Outcome::Exit(3)), "{ran:?}");
        serves(&engine, victim).await;
    })
    .await;
}

#[tokio::test]
async fn hostile_h51_replacing_what_the_worker_uses_hurts_nobody_else() {
    let attacks = [
        "import builtins\nbuiltins.repr = builtins.print = builtins.exec = None",
        "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = None",
        "import json, os\njson.dumps = json.loads = os.read = os.write = None",
        "import sys\nfor name in list(sys.modules):\n    del sys.modules[name]",
        "import gc, types\nfor thing in gc.get_objects():\n    \
         if isinstance(thing, types.FunctionType) and thing.__code__.co_filename.endswith('worker.py'):\n        \
         thing.__code__ = (lambda *a, **k: None).__code__",
        "import sys\nsys.settrace(lambda *a: 1 / 0)\nsys.setrecursionlimit(5 + len(__import__('inspect').stack()))",
        "globals().clear()",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)",
    ];
    for attack in attacks {
        attacked(async |engine, victim| {
            let limit = std::time::Duration::from_secs(2);
            let ran = engine.run(victim, cell(attack), limit).await;
            assert!(ran.done.sandbox_usable, "{attack}: {ran:?}");
            // Its own later cells may be spoilt, until the worker is replaced.
            engine.run(victim, cell("1 + 1"), limit).await;
            engine.run(victim, cell("import os\nos._exit(1)"), limit).await;
            let line = engine.line(victim, "echo alive").await;
            assert_eq!(line.out, "alive\n", "{attack}");
        })
        .await;
    }
}

#[tokio::test]
async fn hostile_h52_a_worker_that_ends_is_replaced_and_files_stay() {
    let ends = [
        ("import os\nos._exit(7)", vec![Outcome::Exit(7)]),
        ("import os\nos.abort()", vec![Outcome::Signal(6)]),
        ("import ctypes\nctypes.string_at(1)", vec![Outcome::Signal(11)]),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", vec![Outcome::Signal(9)]),
        (
            "import ctypes\nctypes.CDLL(None).alloca\nimport sys\nsys.setrecursionlimit(1 << 30)\n\
             f = lambda: [f()] and 0\nclass A:\n    def __getattr__(self, name):\n        \
             return getattr(self, name + 'x')\nimport marshal, functools\n\
             x = None\nfor _ in range(10**6):\n    x = [x]\nmarshal.dumps(x, 0) and repr(x)",
            vec![Outcome::Signal(11), Outcome::Raised],
        ),
        ("import sys\nsys.exit(3)", vec![Outcome::Exit(3), Outcome::Raised]),
        ("quit()", vec![Outcome::Exit(0), Outcome::Raised, Outcome::Ok]),
    ];
    attacked(async |engine, victim| {
        engine.line(victim, "echo kept > /home/user/file").await;
        for (code, expected) in ends {
            let ran = engine.cell(victim, code).await;
            assert!(expected.contains(&ran.outcome()), "{code}: {ran:?}");
            assert!(ran.done.sandbox_usable, "{code}: {ran:?}");
            serves(&engine, victim).await;
        }
        assert_eq!(engine.line(victim, "cat /home/user/file").await.out, "kept\n");
    })
    .await;
}
