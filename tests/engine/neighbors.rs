//! Sandboxes beside and after each other.

use std::collections::BTreeSet;

use super::support::{Engine, attacked, number};

const ESCAPES: &str = include_str!("../../sandbox/python/escapes.py");

#[tokio::test]
async fn hostile_h53_nothing_is_left_for_the_next_one_in_its_place() {
    let engine = Engine::start().await;
    let leave = "
import builtins, os, subprocess, sys, threading, types
for folder in ('/home/user', '/tmp', '/dev/shm'):
    open(folder + '/left', 'w').close()
os.environ['LEFT'] = builtins.left = 'x'
sys.modules['left'] = types.ModuleType('left')
threading.Thread(target=threading.Event().wait, daemon=True).start()
subprocess.Popen(['sleep', '1000'], start_new_session=True)
1
";
    let look = "
import builtins, os, sys, threading
[folder for folder in ('/home/user', '/tmp', '/dev/shm') if os.listdir(folder)], \
'LEFT' in os.environ, hasattr(builtins, 'left'), 'left' in sys.modules, threading.active_count(), \
len([pid for pid in os.listdir('/proc') if pid.isdigit()]) <= 2
";
    for _ in 0..3 {
        let sandbox = engine.create().await;
        assert_eq!(engine.value(sandbox, look).await, "([], False, False, False, 1, True)");
        engine.value(sandbox, leave).await;
        engine.destroy(sandbox).await;
    }
    engine.close().await;
}

#[tokio::test]
async fn hostile_h55_siblings_draw_different_random_numbers() {
    let engine = Engine::start().await;
    let draw = "
import random, secrets, tempfile, uuid
[random.random(), random.Random().random(), secrets.token_hex(8), uuid.uuid1().hex, uuid.uuid4().hex,
 next(tempfile._get_candidate_names())]
";
    let ssl = "import ssl\nssl.RAND_bytes(16)";
    let mut drawn = BTreeSet::new();
    for _ in 0..8 {
        let sandbox = engine.create().await;
        for value in engine.value(sandbox, draw).await.trim_matches(['[', ']']).split(", ") {
            assert!(drawn.insert(value.to_owned()), "drawn twice: {value}");
        }
        let bytes = engine.value(sandbox, ssl).await;
        assert!(drawn.insert(bytes.clone()), "drawn twice: {bytes}");
        // A worker that replaces a dead one is a sibling as well.
        engine.cell(sandbox, "import os\nos._exit(0)").await;
        let bytes = engine.value(sandbox, ssl).await;
        assert!(drawn.insert(bytes.clone()), "drawn twice: {bytes}");
        engine.destroy(sandbox).await;
    }
    engine.close().await;
}

#[tokio::test]
async fn hostile_h59_nothing_of_another_sandbox_is_visible() {
    attacked(async |engine, victim| {
        let mark = format!("sandpit-mark-{}-{}", std::process::id(), number());
        let other = engine.create().await;
        let leave = format!(
            "import mmap, socket\nfor folder in ('/tmp', '/dev/shm', '/home/user'):\n    \
             open(f'{{folder}}/{mark}', 'w').close()\n\
             server = socket.socket(socket.AF_UNIX)\nserver.bind('\\0{mark}')\nserver.listen()\n\
             import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmget(4711, 4096, 0o1666) >= 0"
        );
        assert_eq!(engine.value(other, &leave).await, "True");
        engine.value(victim, ESCAPES).await;

        assert_eq!(engine.value(victim, &format!("h59({mark:?})")).await, "[]");
        let shared = "import ctypes\nctypes.CDLL(None).shmget(4711, 4096, 0)";
        assert_eq!(engine.value(victim, shared).await, "-1");
        engine.destroy(other).await;
    })
    .await;
}
