"""What hostile code tries first. Run inside a sandbox by `sandpit doctor` and by the tests.

Every function tries one row of the list of attacks and says what got through: an empty list means
that everything was refused as it must be. Nothing here does harm where it succeeds.
"""

import ctypes
import errno
import os
import platform
import socket

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_X86 = platform.machine() == "x86_64"

REFUSED = (errno.EPERM, errno.EACCES)
ABSENT = (errno.ENOENT, errno.ENOTDIR)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ETXTBSY)


def _held(action, numbers):
    """None if the action fails with one of these errors; else what happened instead."""
    try:
        result = action()
    except OSError as error:
        return None if error.errno in numbers else errno.errorcode.get(error.errno, str(error))
    return f"gave {result!r:.60}"


def _try(cases):
    """cases: (what, action, numbers). Says what got through."""
    found = []
    for what, action, numbers in cases:
        wrong = _held(action, numbers)
        if wrong is not None:
            found.append(f"{what}: {wrong}")
    return found


def _read(path):
    with open(path, "rb") as file:
        return file.read(64)


def _write(path):
    with open(path, "wb") as file:
        file.write(b"x")


def call(x86, arm, *arguments):
    """A bare system call by its number on either machine."""
    number = x86 if _X86 else arm
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def h16():
    """What the sandbox's first process is made of."""
    found = _try(
        [(name, lambda name=name: _read(f"/proc/1/{name}"), REFUSED + ABSENT)
         for name in ("environ", "maps", "mem", "auxv", "stack", "syscall")]
        + [(name, lambda name=name: os.readlink(f"/proc/1/{name}"), REFUSED + ABSENT)
           for name in ("exe", "root", "cwd")]
    )
    # An ordinary user's sandboxes have the id of their first process and may list its numbers;
    # what is behind them they may not see.
    for number in range(16):
        path = f"/proc/1/fd/{number}"
        found += _try([(path, lambda: os.readlink(path), REFUSED + ABSENT),
                       (path, lambda: _read(path), REFUSED + ABSENT)])
    try:
        name = _read("/proc/1/cmdline")
    except OSError:
        return found
    return found if name == b"init\0" else found + [f"cmdline: {name!r}"]


def h17():
    """Parts of /proc that tell about the host or change it."""
    found = _try(
        [(path, lambda path=path: _write(f"/proc/sys/{path}"), READ_ONLY + ABSENT)
         for path in ("kernel/hostname", "kernel/core_pattern", "kernel/pid_max", "vm/swappiness",
                      "kernel/modprobe", "net/ipv4/ip_forward")]
        + [("sysrq-trigger", lambda: _write("/proc/sysrq-trigger"), READ_ONLY + ABSENT)]
    )
    for name in ("kcore", "kallsyms", "keys", "timer_list"):
        try:
            if _read(f"/proc/{name}"):
                found.append(f"{name}: readable")
        except OSError:
            pass
    return found


def h20():
    """A socket that reaches the hypervisor and no namespace covers."""
    return _try([("AF_VSOCK", lambda: socket.socket(40, socket.SOCK_STREAM), (errno.EAFNOSUPPORT,))])


def h21(port):
    """A server on the host's loopback, and the addresses where clouds hand out credentials."""
    def connect(address):
        with socket.socket() as client:
            client.settimeout(1)
            client.connect(address)

    return _try([
        ("host loopback", lambda: connect(("127.0.0.1", port)), (errno.ECONNREFUSED,)),
        ("metadata", lambda: connect(("169.254.169.254", 80)), (errno.ENETUNREACH,)),
        ("outside", lambda: connect(("192.0.2.1", 443)), (errno.ENETUNREACH,)),
    ])


def h22(name):
    """A socket of the host's without a file."""
    def connect():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + name)

    return _try([("abstract socket", connect, (errno.ECONNREFUSED,))])


def h24():
    """The memory and descriptors of the first process."""
    gone = REFUSED + (errno.ESRCH,)
    buffer = ctypes.create_string_buffer(64)
    return _try([
        ("ptrace", lambda: call(101, 117, 16, 1, 0, 0), gone),
        ("process_vm_readv", lambda: call(310, 270, 1, buffer, 0, buffer, 0, 0), gone),
        ("process_vm_writev", lambda: call(311, 271, 1, buffer, 0, buffer, 0, 0), gone),
        ("pidfd_getfd", lambda: call(438, 438, 0, 0, 0), gone),
        ("kcmp", lambda: call(312, 272, 1, os.getpid(), 0, 0, 0), gone),
    ])


def h26():
    """The limits of the first process."""
    import resource

    return _try([
        ("prlimit", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)), REFUSED),
        ("prlimit to ask", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE), REFUSED),
    ])


def h31(paths):
    """What belongs to the host or to whoever runs it."""
    found = [path for path in paths if os.path.lexists(path)]
    known = {"PATH", "HOME", "LANG", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "PWD", "LC_CTYPE",
             "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "OPENBLAS_NUM_THREADS",
             "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VIRTUAL_ENV"}
    found += [name for name in os.environ if name not in known and not name.startswith("PYTHON")]
    found += [path for path in ("/root", "/home/user/.ssh", "/home/user/.aws", "/sys/kernel",
                                "/run/docker.sock", "/var/run/docker.sock", "/run/user")
              if os.path.lexists(path)]
    found += [name for name in os.listdir("/home") if name != "user"]
    return found


def h32():
    """Files that all sandboxes and the host share."""
    found = _try([
        (path, lambda path=path: _write(path), READ_ONLY + ABSENT)
        for path in ("/usr/sandpit-x", "/usr/bin/env", "/opt/env/sandpit-x", "/opt/sandpit/x",
                     "/data/sandpit-x", "/etc/passwd", "/etc/sandpit-x", "/sandpit-x",
                     "/proc/self/exe", "/proc/1/exe", "/dev/sandpit-x", "/bin/sandpit-x")
    ])
    for path in ("/usr", "/etc", "/opt/env"):
        if os.path.exists(path) and not os.statvfs(path).f_flag & os.ST_RDONLY:
            found.append(f"{path}: mounted to be written")
    return found


def h33():
    """Mounts, roots and namespaces."""
    flags = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000,
             "ipc": 0x08000000, "uts": 0x04000000, "cgroup": 0x02000000}
    cases = [
        ("mount", lambda: call(165, 40, b"none", b"/tmp", b"tmpfs", 0, 0), REFUSED),
        ("remount", lambda: call(165, 40, b"", b"/usr", b"", 0x1020, 0), REFUSED),
        ("umount2", lambda: call(166, 39, b"/proc", 2), REFUSED),
        ("pivot_root", lambda: call(155, 41, b"/tmp", b"/tmp"), REFUSED),
        ("chroot", lambda: os.chroot("/tmp"), REFUSED),
        ("setns", lambda: call(308, 268, 0, 0), REFUSED),
        ("fsopen", lambda: call(430, 430, b"tmpfs", 0), REFUSED),
        ("open_tree", lambda: call(428, 428, -100, b"/", 1), REFUSED),
        ("move_mount", lambda: call(429, 429, -100, b"/tmp", -100, b"/usr", 0), REFUSED),
        ("mount_setattr", lambda: call(442, 442, -100, b"/usr", 0, 0, 0), REFUSED),
        ("clone3", lambda: call(435, 435, 0, 0), (errno.ENOSYS,)),
    ]
    for name, flag in flags.items():
        cases.append((f"unshare {name}", lambda flag=flag: call(272, 97, flag), REFUSED))
        cases.append((f"clone {name}", lambda flag=flag: call(56, 220, flag, 0, 0, 0, 0), REFUSED))
    return _try(cases)


def h35():
    """Parts of the kernel that a strategy has no use for."""
    names = {
        "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219),
        "add_key": (248, 217), "request_key": (249, 218), "kexec_load": (246, 104),
        "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
        "delete_module": (176, 106), "quotactl": (179, 60), "swapon": (167, 224),
        "swapoff": (168, 225), "fanotify_init": (300, 262), "name_to_handle_at": (303, 264),
        "open_by_handle_at": (304, 265), "acct": (163, 89), "reboot": (169, 142),
        "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161),
        "setdomainname": (171, 162), "syslog": (103, 116), "lookup_dcookie": (212, 18),
    }
    gone = REFUSED + (errno.ENOSYS,)
    cases = [
        (name, lambda numbers=numbers: call(*numbers, 0, 0, 0, 0), gone)
        for name, numbers in names.items()
    ]
    for name, number in (("io_uring_setup", 425), ("io_uring_enter", 426), ("memfd_secret", 447)):
        cases.append((name, lambda number=number: call(number, number, 0, 0), (errno.ENOSYS,)))
    cases.append(("userfaultfd", lambda: call(323, 282, 0), (errno.ENOSYS,)))
    cases.append(("personality", lambda: call(135, 92, 0x0040000), REFUSED))
    if _X86:
        cases.append(("ioperm", lambda: call(173, 0, 0, 1, 1), REFUSED))
        cases.append(("iopl", lambda: call(172, 0, 3), REFUSED))
    return _try(cases)


def h59(mark):
    """What another sandbox left where it may write, and who runs in it."""
    found = [path for path in (f"/tmp/{mark}", f"/dev/shm/{mark}", f"/home/user/{mark}")
             if os.path.exists(path)]
    found += h22(mark)
    try:
        visible = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return found
    if len(visible) > 4:
        found.append(f"{len(visible)} processes are visible")
    return found
