//! Tries what the kernel offers beyond a strategy's needs.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use sandpit_messages::id::SandboxId;
use sandpit_sandbox::provider::Outcome;

use super::support::{Engine, attacked, number, store};

/// Functions named by the rows of the list of attacks.
const ESCAPES: &str = include_str!("../../sandbox/python/escapes.py");

/// Runs a row; it says what got through.
async fn refused(engine: &Engine, victim: SandboxId, row: &str) {
    engine.value(victim, ESCAPES).await;
    assert_eq!(engine.value(victim, row).await, "[]", "{row}");
}

/// One row, as Python and as a whole sandbox.
async fn row(row: &str) {
    attacked(async |engine, victim| refused(&engine, victim, row).await).await;
}

#[tokio::test]
async fn hostile_h14_no_namespace_can_be_made_let_alone_all() {
    attacked(async |engine, victim| {
        refused(&engine, victim, "h33()").await;
        let ran = engine.line(victim, "unshare --user true || unshare --net true").await;
        assert!(!matches!(ran.outcome(), Outcome::Exit(0)), "{ran:?}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h15_only_its_own_processes_are_seen() {
    attacked(async |engine, victim| {
        let code = "
import os
def of(pid):
    with open(f'/proc/{pid}/status') as file:
        return [line.split()[1] for line in file if line.startswith('Uid')][0]
sorted((int(pid), of(pid)) for pid in os.listdir('/proc') if pid.isdigit())
";
        let shown = engine.value(victim, code).await;
        let seen = shown.matches("'1000'").count();
        assert!(seen <= 3 && seen == shown.matches(", '").count(), "{shown}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h16_the_first_process_tells_nothing() {
    attacked(async |engine, victim| {
        refused(&engine, victim, "h16()").await;
        // `mountinfo` also names the folder of a source within its file system, which no kernel
        // lets one hide.
        let mounts = engine.line(victim, "cat /proc/self/mounts").await;
        let store = store();
        for told in [&*store.to_string_lossy(), "/root", ".pyenv", "sandpit-"] {
            assert!(!mounts.out.contains(told), "{told} in {}", mounts.out);
        }
    })
    .await;
}

#[tokio::test]
async fn hostile_h17_proc_neither_tells_nor_changes_anything_of_the_host() {
    row("h17()").await;
}

#[tokio::test]
async fn hostile_h18_there_is_nowhere_to_connect_to() {
    attacked(async |engine, victim| {
        let code = "
import socket
def reach(family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(address)
        return 'connected'
    except OSError as error:
        return error.strerror
def resolve(name):
    try:
        return socket.getaddrinfo(name, 80)
    except OSError as error:
        return type(error).__name__
[reach(socket.AF_INET, ('1.1.1.1', 53)), reach(socket.AF_INET6, ('2606:4700:4700::1111', 53)),
 resolve('example.com')]
";
        assert_eq!(
            engine.value(victim, code).await,
            "['Network is unreachable', 'Network is unreachable', 'gaierror']"
        );
    })
    .await;
}

#[tokio::test]
async fn hostile_h19_sockets_of_other_kinds_cannot_be_made() {
    attacked(async |engine, victim| {
        let code = "
import errno, socket
def make(*kind):
    try:
        socket.socket(*kind).close()
        return 'made'
    except OSError as error:
        return errno.errorcode[error.errno]
kinds = [(socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_INET, socket.SOCK_DGRAM, 1),
         (socket.AF_INET6, socket.SOCK_RAW, 58), (17, socket.SOCK_RAW, 3), (16, socket.SOCK_RAW, 0),
         (16, socket.SOCK_DGRAM, 0), (38, 5, 0), (31, 1, 0), (29, 3, 0), (44, 3, 0), (21, 5, 0)]
{make(*kind) for kind in kinds} <= {'EPERM', 'EAFNOSUPPORT'}
";
        assert_eq!(engine.value(victim, code).await, "True");
    })
    .await;
}

#[tokio::test]
async fn hostile_h20_the_hypervisor_cannot_be_reached() {
    row("h20()").await;
}

#[tokio::test]
async fn hostile_h21_servers_on_the_hosts_loopback_cannot_be_reached() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let port = server.local_addr().expect("an address").port();
    row(&format!("h21({port})")).await;
}

#[tokio::test]
async fn hostile_h22_the_hosts_abstract_sockets_cannot_be_found() {
    let name = format!("sandpit-test-{}-{}", std::process::id(), number());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _server = UnixListener::bind_addr(&address).expect("a server");
    row(&format!("h22({name:?})")).await;
}

#[tokio::test]
async fn hostile_h24_other_processes_cannot_be_looked_into() {
    row("h24()").await;
}

#[tokio::test]
async fn hostile_h25_signals_reach_its_own_processes_at_most() {
    attacked(async |engine, victim| {
        let code = "
import os, signal
def send(pid):
    try:
        os.kill(pid, signal.SIGKILL)
        return 'sent'
    except OSError as error:
        return error.strerror
[send(1), send(os.getppid()) if os.getppid() else 'no parent']
";
        let shown = engine.value(victim, code).await;
        // The kernel drops a signal to the first process of a namespace from within.
        assert!(!shown.contains("Success"), "{shown}");
        assert_eq!(engine.value(victim, "1 + 1").await, "2");

        let all = engine.line(victim, "kill -KILL -1").await;
        assert!(matches!(all.outcome(), Outcome::Signal(9) | Outcome::Exit(_)), "{all:?}");
        let guessed = "for p in $(seq 2 400); do kill -KILL $p 2>/dev/null; done; echo done";
        engine.line(victim, guessed).await;
    })
    .await;
}

#[tokio::test]
async fn hostile_h26_limits_of_the_first_process_cannot_be_changed() {
    attacked(async |engine, victim| {
        refused(&engine, victim, "h26()").await;
        let ran = engine.line(victim, "renice -n 19 -p 1; taskset -p 1 1; echo still here").await;
        assert!(ran.out.ends_with("still here\n"), "{ran:?}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h31_nothing_of_the_host_or_its_owner_is_there() {
    let store = store();
    row(&format!("h31([{:?}, '/work', '/srv', '/root'])", store.to_string_lossy())).await;
}

#[tokio::test]
async fn hostile_h32_what_is_shared_cannot_be_written() {
    row("h32()").await;
}

#[tokio::test]
async fn hostile_h33_mounts_and_namespaces_stay_as_they_are() {
    row("h33()").await;
}

#[tokio::test]
async fn hostile_h34_programs_that_change_the_user_do_not() {
    attacked(async |engine, victim| {
        let code = "
import os, subprocess
found = []
for folder in ('/usr/bin', '/usr/sbin'):
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.stat(path).st_mode & 0o6000:
            found.append(path)
def caps():
    with open('/proc/self/status') as file:
        return [line.split()[1] for line in file if line.startswith(('CapEff', 'CapPrm', 'NoNew'))]
ran = subprocess.run(['sh', '-c', 'id -u; id -ru'], capture_output=True, text=True).stdout.split()
os.statvfs('/usr').f_flag & os.ST_NOSUID != 0, ran, caps()
";
        assert_eq!(
            engine.value(victim, code).await,
            "(True, ['1000', '1000'], ['0000000000000000', '0000000000000000', '1'])"
        );
    })
    .await;
}

#[tokio::test]
async fn hostile_h35_parts_of_the_kernel_it_has_no_use_for_are_closed() {
    row("h35()").await;
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn hostile_h36_calls_in_other_dialects_of_the_machine_kill_or_are_refused() {
    attacked(async |engine, victim| {
        let x32 = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                   (libc.syscall(0x40000000 + 39), ctypes.get_errno())";
        assert_eq!(engine.value(victim, x32).await, "(-1, 1)");
        // mov eax, 20 (getpid of 32 bits); int 0x80; ret
        let int80 = "import ctypes, mmap\n\
                     page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n\
                     page.write(bytes.fromhex('b814000000cd80c3'))\n\
                     ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()";
        let ran = engine.cell(victim, int80).await;
        // A kernel without that dialect faults instead.
        assert!(matches!(ran.outcome(), Outcome::Signal(31 | 11)), "{ran:?}");
    })
    .await;
}

#[tokio::test]
async fn hostile_h37_nothing_can_be_typed_into_a_terminal() {
    attacked(async |engine, victim| {
        let code = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def ask(number):
    result = libc.syscall(16 if __import__('platform').machine() == 'x86_64' else 29,
                          0, ctypes.c_ulong(number), b'x')
    return (result, ctypes.get_errno())
[ask(0x5412), ask(0x1_0000_5412), ask(0x541c), ask(0x5423)]
";
        assert_eq!(engine.value(victim, code).await, "[(-1, 1), (-1, 1), (-1, 1), (-1, 1)]");
    })
    .await;
}

#[tokio::test]
async fn hostile_h54_clock_and_name_of_the_machine_stay() {
    attacked(async |engine, victim| {
        let code = "
import socket, time
def change(action):
    try:
        action()
        return 'changed'
    except OSError as error:
        return type(error).__name__
[change(lambda: time.clock_settime(time.CLOCK_REALTIME, 0)),
 change(lambda: socket.sethostname('mine')), socket.gethostname()]
";
        assert_eq!(
            engine.value(victim, code).await,
            "['PermissionError', 'PermissionError', 'sandbox']"
        );
    })
    .await;
}
