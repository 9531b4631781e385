"""The zygote of a template: imports and warms up once, then forks ready workers into sandboxes.

Runs under its own system call filter, without network, on a root that cannot be written. It takes
orders from the keeper on descriptor 3, one JSON text per packet with descriptors beside it. Workers
are cloned as children of the keeper (CLONE_PARENT), which reaps them and looks at them from
outside before anybody uses them: nothing here is trusted to have locked a worker down.

Standard library only; CPython 3.9 to 3.14.
"""

import array
import ctypes
import gc
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys

# The folder of this file is no place to import from.
sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__))]

CONTROL_FD = 3
CHANNEL_FD = 3
SYNC_FD = 4
RULES_FD = 5
PACKET_MAX = 4096
FDS_MAX = 16

CLONE_PARENT = 0x00008000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
CLONE_INTO_CGROUP = 0x200000000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
ALL_BUT_PID = (
    CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
)

MADV_COLLAPSE = 25
HUGE_PAGE = 2 << 20

PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_TID_ADDRESS = 40
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2
CAPABILITIES_MAX = 64
CAPSET_VERSION = 0x20080522

# System call numbers: clone, clone3, capset, landlock_restrict_self.
NUMBERS = {"x86_64": (56, 435, 126, 446), "aarch64": (220, 435, 91, 446)}
SYS_CLONE, SYS_CLONE3, SYS_CAPSET, SYS_LANDLOCK_RESTRICT_SELF = NUMBERS[platform.machine()]

# What a worker ends with when its process id is the zygote's own. A generator that tells a fork by
# its process id alone (OpenSSL's) would repeat itself in it.
SAME_PID = 75
# What a worker ends with when a step of its lockdown failed.
NOT_LOCKED = 76

USER = 1000

# Holds the interpreter's lock during the call, as a fork must.
libc = ctypes.PyDLL(None, use_errno=True)
syscall = libc.syscall
syscall.restype = ctypes.c_long
prctl = libc.prctl
prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
before_fork = ctypes.pythonapi.PyOS_BeforeFork
after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
for hook in (before_fork, after_fork_parent, after_fork_child):
    hook.restype = None
    hook.argtypes = []


def failed(what):
    number = ctypes.get_errno()
    return OSError(number, what + ": " + os.strerror(number))


def check(result, what):
    if result < 0:
        raise failed(what)
    return result


def tid_address():
    """Where the C library keeps the number of this thread, so that a child gets its own there."""
    address = ctypes.c_ulong(0)
    if prctl(PR_GET_TID_ADDRESS, ctypes.addressof(address), 0, 0, 0) == 0 and address.value:
        return address.value
    # Kernels without that call: look for the number in the descriptor of this thread.
    libc.pthread_self.restype = ctypes.c_ulong
    start = libc.pthread_self()
    number = os.getpid()
    for at in range(start, start + 2048, 4):
        if ctypes.c_int.from_address(at).value == number:
            return at
    raise OSError("cannot find where the C library keeps the number of a thread")


def gather():
    """Gathers the memory in which objects are in huge pages, of which a fork copies one entry for
    512. A worker that writes to a small page of it gets a copy of that one only. What cannot be
    gathered (the kernel is older than 6.1, or out of huge pages) stays as it is."""
    for start in {id(one) // HUGE_PAGE * HUGE_PAGE for one in gc.get_objects()}:
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(HUGE_PAGE), MADV_COLLAPSE)


def wait_for_sandbox(sync):
    """Waits until the keeper says that the sandbox stands. The number of its Landlock rules, if it
    has any."""
    kind = socket.SOCK_SEQPACKET
    keeper = socket.socket(socket.AF_UNIX, kind, 0, fileno=sync)
    said, beside, _, _ = keeper.recvmsg(PACKET_MAX, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    keeper.detach()
    if not said:
        os._exit(NOT_LOCKED)
    return struct.unpack("i", beside[0][2])[0] if beside else None


class CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
            "tls", "set_tid", "set_tid_size", "cgroup",
        )
    ]


class Program(ctypes.Structure):
    """A system call filter as the kernel takes it."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class Locks:
    """What locks a worker down, laid out before the first fork."""

    def __init__(self, told):
        hard = {resource.RLIMIT_DATA: told["data_hard"]}
        self.rlimits = [
            (number, (limit, hard.get(number, limit))) for number, limit in told["rlimits"]
        ]
        self.nice = told["nice"]
        self.drop_groups = told["drop_groups"]
        self.memory = []
        self.programs = []
        for text in told["filters"]:
            code = bytes.fromhex(text)
            memory = ctypes.create_string_buffer(code, len(code))
            self.memory.append(memory)
            self.programs.append(Program(len(code) // 8, ctypes.addressof(memory)))
        self.capset_header = struct.pack("=Ii", CAPSET_VERSION, 0)
        self.capset_sets = bytes(24)

    def apply(self, landlock):
        for number, limits in self.rlimits:
            resource.setrlimit(number, limits)
        os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        for capability in range(CAPABILITIES_MAX):
            if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                break
        check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient set")
        if self.drop_groups:
            os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        check(syscall(SYS_CAPSET, self.capset_header, self.capset_sets), "capset")
        check(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")
        check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        if landlock:
            check(syscall(SYS_LANDLOCK_RESTRICT_SELF, RULES_FD, 0), "landlock")
            os.close(RULES_FD)
        for program in self.programs:
            check(
                prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0),
                "seccomp",
            )


class Zygote:
    def __init__(self):
        self.control = socket.socket(fileno=CONTROL_FD)
        told, files = self.receive()
        with os.fdopen(files[0], "rb") as file:
            told = json.load(file)
        self.locks = Locks(told)
        self.warmup = told["warmup"]
        self.huge_pages = told["huge_pages"]
        self.worker = None
        self.pid = os.getpid()
        self.tid_address = tid_address()

    def receive(self):
        room = socket.CMSG_SPACE(FDS_MAX * 4)
        text, beside, _, _ = self.control.recvmsg(PACKET_MAX, room, socket.MSG_CMSG_CLOEXEC)
        files = array.array("i")
        for level, kind, data in beside:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files.frombytes(data[: len(data) - len(data) % 4])
        if not text:
            os._exit(0)
        return json.loads(text), list(files)

    def send(self, message):
        self.control.send(json.dumps(message).encode())

    def warm(self, worker):
        """Everything a sandbox should find imported and used once, and the worker itself."""
        worker.prepare()
        if self.warmup:
            scope = {"__name__": "__warmup__", "__builtins__": __builtins__}
            exec(compile(self.warmup, "<warmup>", "exec"), scope)
            scope.clear()
        self.worker = worker.Worker(CHANNEL_FD)
        gc.collect()
        if self.huge_pages:
            gather()
        gc.freeze()

    def serve(self):
        self.send({"say": "ready"})
        while True:
            order, files = self.receive()
            try:
                pid = self.fork(order, files)
            except OSError as error:
                self.send({"say": "failed", "order": order["order"], "why": str(error)})
            else:
                self.send({"say": "forked", "order": order["order"], "pid": pid})
            finally:
                for file in files:
                    os.close(file)

    def fork(self, order, files):
        init, sync, channel, out, err = files[:5]
        groups = files[5:]
        check(libc.setns(init, CLONE_NEWPID), "entering the process ids of the sandbox")
        before_fork()
        pid = self.clone(groups if order["clone_into"] else [])
        if pid == 0:
            after_fork_child()
            try:
                self.become_worker(order, init, sync, channel, out, err, groups)
                self.worker.serve()
            finally:
                os._exit(NOT_LOCKED)
        after_fork_parent()
        return check(pid, "clone")

    def clone(self, groups):
        flags = CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        if groups:
            asked = CloneArgs(
                flags=flags | CLONE_INTO_CGROUP, child_tid=self.tid_address, cgroup=groups[0]
            )
            return syscall(SYS_CLONE3, ctypes.byref(asked), ctypes.sizeof(asked))
        address = ctypes.c_void_p(self.tid_address)
        none = ctypes.c_void_p(None)
        flags = ctypes.c_ulong(flags | signal.SIGCHLD)
        if platform.machine() == "aarch64":
            return syscall(SYS_CLONE, flags, none, none, none, address)
        return syscall(SYS_CLONE, flags, none, none, address, none)

    def become_worker(self, order, init, sync, channel, out, err, groups):
        if os.getpid() == self.pid:
            os._exit(SAME_PID)
        if not order["clone_into"]:
            for group in groups:
                os.write(group, b"0")
        rules = wait_for_sandbox(sync)
        check(libc.setns(init, ALL_BUT_PID), "entering the sandbox")
        null = os.open("/dev/null", os.O_RDONLY)
        # Up first, so that none of the targets is a source still needed.
        sources = [null, out, err, channel, sync] + ([] if rules is None else [rules])
        high = [os.dup2(source, 32 + at, inheritable=False) for at, source in enumerate(sources)]
        for at, source in enumerate(high):
            os.dup2(source, at, inheritable=at < 3)
        os.closerange(len(high), 1 << 20)
        os.setsid()
        os.chdir("/home/user")
        os.umask(0o022)
        for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self.locks.apply(rules is not None)
        os.write(SYNC_FD, b"1")
        os.close(SYNC_FD)


def load(name):
    """Imports what is beside this file without leaving that folder on the path."""
    import importlib.util

    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    spec = importlib.util.spec_from_file_location("_sandpit_" + name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main():
    zygote = Zygote()
    load("magic")
    load("shown")
    zygote.warm(load("worker"))
    zygote.serve()


main()
