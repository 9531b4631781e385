//! Takes all there is of something.

use sandpit_sandbox::local::options::CgroupChoice;
use sandpit_sandbox::provider::{KilledBy, Outcome};

use super::support::{attacked, attacked_with, options};

/// Bytes of memory of this process, which holds the engine.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("own status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn own_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("own files").count()
}

#[tokio::test]
async fn hostile_h01_a_fork_bomb_stops_at_the_limit() {
    attacked(async |engine, victim| {
        let code = "
import os, signal
children = []
try:
    while True:
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError as error:
    found = type(error).__name__
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
found, 0 < len(children) <= 128
";
        assert_eq!(engine.value(victim, code).await, "('BlockingIOError', True)");

        let bomb = engine.line(victim, ":(){ :|:& };: ; sleep 0.5; echo over").await;
        assert!(matches!(bomb.outcome(), Outcome::Exit(_)), "{bomb:?}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h02_a_thread_bomb_stops_at_the_limit() {
    attacked(async |engine, victim| {
        let code = "
import threading
stop, threads = threading.Event(), []
try:
    while True:
        thread = threading.Thread(target=stop.wait)
        thread.start()
        threads.append(thread)
except RuntimeError as error:
    found = str(error)
stop.set()
for thread in threads:
    thread.join()
found, 0 < len(threads) <= 128
";
        assert_eq!(engine.value(victim, code).await, "(\"can't start new thread\", True)");
    })
    .await;
}

#[tokio::test]
async fn hostile_h04_memory_of_one_process_ends_at_the_limit_and_the_engine_keeps_its_own() {
    attacked(async |engine, victim| {
        let before = own_memory();
        let code = "taken = []\nwhile True:\n    taken.append(bytearray(8 << 20))";

        let ran = engine.cell(victim, code).await;

        let stopped = ran.raised_name() == "MemoryError"
            || ran.outcome() == Outcome::Killed(KilledBy::Memory);
        assert!(stopped, "{ran:?}");
        assert!(own_memory() < before + (64 << 20), "the engine grew from {before}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h05_memory_of_many_processes_ends_at_the_limit() {
    attacked(async |engine, victim| {
        let code = "
import os, signal
for _ in range(8):
    if os.fork() == 0:
        taken = bytearray(b'x') * (60 << 20)
        signal.pause()
os.wait()
'one was killed'
";
        let ran = engine.cell(victim, code).await;

        let stopped = ran.shown.contains("one was killed")
            || matches!(ran.outcome(), Outcome::Killed(KilledBy::Memory) | Outcome::Lost);
        assert!(stopped, "{ran:?}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h05_where_no_group_holds_it_the_watchdog_does() {
    let mut alone = options();
    alone.cgroup = CgroupChoice::None;
    attacked_with(alone, async |engine, victim| {
        let code = "
import os, signal
for _ in range(8):
    if os.fork() == 0:
        taken = bytearray(b'x') * (60 << 20)
        signal.pause()
signal.pause()
";
        let ran = engine.cell(victim, code).await;

        assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Memory), "{ran:?}");
        assert!(!ran.done.sandbox_usable, "{ran:?}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h06_files_end_at_exactly_the_size_of_their_folder() {
    let mut small = options();
    small.bounds.tmp_bytes = 8 << 20;
    attacked_with(small, async |engine, victim| {
        let code = "
import errno, os
size, number = 0, None
with open('/tmp/full', 'wb', buffering=0) as file:
    try:
        while True:
            size += file.write(bytes(65536))
    except OSError as error:
        number = error.errno
os.remove('/tmp/full')
size, errno.errorcode[number]
";
        assert_eq!(engine.value(victim, code).await, "(8388608, 'ENOSPC')");
    })
    .await;
}

#[tokio::test]
async fn hostile_h07_memory_that_belongs_to_no_process_counts_as_well() {
    let kinds = [
        "os.ftruncate(fd := os.memfd_create('x'), 1 << 30); m = mmap.mmap(fd, 1 << 30)",
        "m = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)",
        "fd = os.open('/dev/shm/x', os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 1 << 30); \
         m = mmap.mmap(fd, 1 << 30)",
    ];
    for kind in kinds {
        attacked(async |engine, victim| {
            let code = format!(
                "import mmap, os\n{kind}\nfor at in range(0, 1 << 30, 4096):\n    m[at] = 1\n'all of it'"
            );

            let ran = engine.cell(victim, &code).await;

            // Refused, a bus error at the end of the folder, or killed for the memory.
            let stopped = match ran.outcome() {
                Outcome::Raised => matches!(ran.raised_name(), "OSError" | "PermissionError"),
                Outcome::Signal(_) | Outcome::Killed(KilledBy::Memory) | Outcome::Lost => true,
                _ => false,
            };
            assert!(stopped, "{kind}: {ran:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn hostile_h08_buffers_of_pipes_and_sockets_are_bounded() {
    attacked(async |engine, victim| {
        let code = "
import os, socket
kept, size = [], 0
try:
    while True:
        a, b = socket.socketpair()
        a.setblocking(False)
        kept += [a, b]
        try:
            while True:
                size += a.send(bytes(65536))
        except BlockingIOError:
            pass
except OSError as error:
    found = error.errno
'EMFILE' if found == 24 else found
";
        let ran = engine.cell(victim, code).await;

        let stopped = ran.shown == "'EMFILE'" || ran.outcome() == Outcome::Killed(KilledBy::Memory);
        assert!(stopped, "{ran:?}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h09_descriptors_end_at_the_limit_and_the_engine_keeps_its_own() {
    attacked(async |engine, victim| {
        let before = own_files();
        let code = "
import errno, os
kept = []
try:
    while True:
        kept.append(os.open('/dev/null', os.O_RDONLY))
except OSError as error:
    found = errno.errorcode[error.errno]
for file in kept:
    os.close(file)
found, len(kept) <= 512
";
        assert_eq!(engine.value(victim, code).await, "('EMFILE', True)");
        assert!(own_files() < before + 64, "the engine had {before} files");
    })
    .await;
}

#[tokio::test]
async fn hostile_h10_empty_files_end_at_the_limit() {
    attacked(async |engine, victim| {
        let code = "
import errno
count = 0
try:
    while True:
        open(f'/tmp/{count}', 'w').close()
        count += 1
except OSError as error:
    found = errno.errorcode[error.errno]
found, 1000 < count <= 16384
";
        assert_eq!(engine.value(victim, code).await, "('ENOSPC', True)");
    })
    .await;
}

#[tokio::test]
async fn hostile_h12_one_file_cannot_be_larger_than_allowed() {
    attacked(async |engine, victim| {
        let code = "
import errno, os
with open('/home/user/sparse', 'wb') as file:
    try:
        os.ftruncate(file.fileno(), 1 << 40)
        found = 'a terabyte'
    except OSError as error:
        found = errno.errorcode[error.errno]
found
";
        assert_eq!(engine.value(victim, code).await, "'EFBIG'");
    })
    .await;
}

#[tokio::test]
async fn hostile_h13_a_crash_leaves_no_core_and_the_limit_that_keeps_it_away_stays() {
    attacked(async |engine, victim| {
        let code = "
import resource
found = [resource.getrlimit(resource.RLIMIT_CORE)]
try:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found.append('lowered')
except (OSError, ValueError) as error:
    found.append(type(error).__name__)
found
";
        let shown = engine.value(victim, code).await;
        assert!(shown.starts_with("[(1, 1), '") && !shown.contains("lowered"), "{shown}");

        let crash = engine.line(victim, "cd /tmp; ulimit -c unlimited; kill -SEGV $$").await;
        assert!(matches!(crash.outcome(), Outcome::Signal(11) | Outcome::Exit(139)), "{crash:?}");
        let cores = engine.line(victim, "ls /tmp /home/user | grep -c core").await;
        assert_eq!(cores.out, "0\n");
    })
    .await;
}
