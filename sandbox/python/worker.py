"""The worker of a sandbox: runs cells one after the other and keeps their variables.

Speaks frames on one socket: two little-endian lengths, a JSON header, a raw body. What is read
here comes from the engine; what is written is not trusted by it, because cells run in this very
process and can write to that socket too.

Standard library only; CPython 3.9 to 3.14.
"""

import _thread
import ast
import builtins
import collections
import ctypes
import io
import json
import linecache
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
import types

import _sandpit_magic as magic
import _sandpit_shown as shown

PROTOCOL = 2
# Longest text and traceback of an exception, in characters.
TEXT_MAX = 16 * 1024
TRACEBACK_MAX = 64 * 1024
# Cells whose source is kept for tracebacks.
SOURCES_MAX = 64

# Bytes taken from the engine at once: a cell and its header, as a rule.
READ_MAX = 64 * 1024

LENGTHS = struct.Struct("<II")

# Where our own programs are.
OURS = "/opt/sandpit/"
# Where modules are that programs for notebooks expect, should their template not have them.
NOTEBOOK = "/opt/sandpit/notebook"

# References of our own, so that a cell that replaces them hurts itself only.
_read = os.read
_write = os.write
_getpid = os.getpid
_exit = os._exit
_dumps = json.dumps
_loads = json.loads
_compile = compile
_eval = eval
_parse = ast.parse
_fstat = os.fstat
_dup2 = os.dup2
_signal = signal.signal
_sigmask = signal.pthread_sigmask
_modules = sys.modules
_plain = shown.PLAIN
_plain_frame = shown.plain_frame
shorten = shown.shorten
_memmove = ctypes.memmove
_place = struct.Struct("=i").pack


def prepare():
    """Run once in the zygote: what every worker would otherwise do for itself."""
    namespace = {}
    try:
        for code in ("1", "1\n2", "raise ValueError('warm')"):
            for step in steps_of(code, "<warm>")[0]:
                _eval(step, namespace)
    except ValueError as error:
        "".join(traceback.format_exception(type(error), error, error.__traceback__))
    _dumps({"warm": [1, "two"]})
    _loads('{"warm": 1}')


class Seeds:
    """Siblings share the memory of the zygote, and so every generator that was seeded there.
    That of `random` seeds itself after a fork."""

    # Words of a Mersenne Twister, which the place of the next one follows in memory.
    TWISTER_WORDS = 624

    def __init__(self):
        self.tempfile = sys.modules.get("tempfile")
        self.uuid = sys.modules.get("uuid")
        self.numpy = sys.modules.get("numpy.random")
        self.twister = None
        if self.numpy is not None:
            # Forgets a number that was drawn in advance.
            self.numpy.seed()
            generator = getattr(self.numpy.mtrand._rand, "_bit_generator", None)
            if type(generator).__name__ == "MT19937":
                # Writing there takes a twentieth of the time of seeding.
                self.twister = generator.ctypes.state_address

    def renew(self):
        if self.twister is not None:
            state = os.urandom(4 * self.TWISTER_WORDS) + _place(self.TWISTER_WORDS)
            _memmove(self.twister, state, len(state))
        elif self.numpy is not None:
            self.numpy.seed(list(struct.unpack("<16I", os.urandom(64))))
        if self.tempfile is not None:
            self.tempfile._name_sequence = None
        if self.uuid is not None:
            self.uuid._node = None
            self.uuid._last_timestamp = None


class Worker:
    """Made in the zygote, where making it is paid for once; what depends on the process is done
    by `begin`. Every page that a worker writes to is copied, which takes 5 us."""

    def __init__(self, channel):
        self.channel = channel
        self.pid = None
        self.running = False
        self.count = 0
        self.came_from = None
        self.loop = None
        self.sources = collections.deque()
        self.unread = bytearray()
        self.poll = select.poll()
        self.poll.register(channel, select.POLLIN)
        self.seeds = Seeds()
        self.streams = []
        self.stream_ids = []
        self.out = self.text(1)
        self.err = self.text(2)
        self.module = types.ModuleType("__main__")
        self.scope = self.module.__dict__
        self.scope["__builtins__"] = builtins
        sys.modules["__main__"] = self.module
        self.flush_c = ctypes.PyDLL(None).fflush
        sys.path.insert(0, "")
        sys.path.append(NOTEBOOK)
        self.screen = shown.Screen(self.send_whole, self.err.write)
        self.signals = frozenset(signal.valid_signals())
        self.one_sends = _thread.allocate_lock()
        builtins.display = self.screen.display
        if shown.FIGURES in sys.modules:
            self.screen.draw()
        sys.argv = [""]
        sys.stdin = io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8")
        sys.stdout = sys.__stdout__ = self.out
        sys.stderr = sys.__stderr__ = self.err
        builtins.input = no_input
        version = ".".join(str(part) for part in sys.version_info[:3])
        self.hello = self.frame({"op": "hello", "proto": PROTOCOL, "version": version})
        _signal(signal.SIGINT, self.interrupted)

    def begin(self):
        """The first thing in the process that is to be the worker, with its descriptors in
        place."""
        self.seeds.renew()
        self.pid = _getpid()
        self.streams = [os.dup(1), os.dup(2)]
        self.stream_ids = [self.identity(1), self.identity(2)]

    @staticmethod
    def text(number):
        raw = io.FileIO(number, "wb", closefd=False)
        return io.TextIOWrapper(
            io.BufferedWriter(raw, 8192),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )

    @staticmethod
    def identity(number):
        try:
            found = _fstat(number)
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def interrupted(self, _number, _frame):
        if self.running:
            raise KeyboardInterrupt

    # Frames.

    def receive_frame(self):
        header, body = LENGTHS.unpack(self.receive(LENGTHS.size))
        return _loads(self.receive(header)), self.receive(body)

    def receive(self, length):
        while len(self.unread) < length:
            piece = _read(self.channel, READ_MAX)
            if not piece:
                _exit(0)
            self.unread += piece
        received = bytes(self.unread[:length])
        del self.unread[:length]
        return received

    @staticmethod
    def frame(header, body=b""):
        text = _dumps(header).encode("ascii")
        return LENGTHS.pack(len(text), len(body)) + text + body

    def send(self, data):
        view = memoryview(data)
        while view:
            view = view[_write(self.channel, view):]

    def send_whole(self, make):
        """Makes a frame and sends it while a cell runs, which signals interrupt where it is: not in
        here, and one thread at a time. What the cell has written before is there before."""
        if _getpid() != self.pid:
            return
        mask = _sigmask(signal.SIG_BLOCK, self.signals)
        try:
            with self.one_sends:
                data = make()
                if data:
                    self.flush()
                    self.send(data)
        finally:
            _sigmask(signal.SIG_SETMASK, mask)

    # Cells.

    def serve(self):
        self.begin()
        self.send(self.hello)
        while True:
            header, body = self.receive_frame()
            if header["op"] == "env":
                os.environ.update(header["env"])
            elif header["op"] == "cwd":
                self.send(self.frame({"op": "moved", "errno": go_to(header["cwd"])}))
            elif header["op"] == "data":
                hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
                resource.setrlimit(resource.RLIMIT_DATA, (header["bytes"], hard))
            elif header["op"] == "run":
                self.cell(header, body)
            # An interrupt that is read here came for a cell that has ended.

    def cell(self, header, body):
        self.restore_streams()
        length = header["code"]
        code = body[:length].decode("utf-8", "replace")
        params = body[length:] if header["params"] else None
        self.count += 1
        name = "<cell %d>" % self.count
        before = self.enter(header)
        number = header["id"]
        self.screen.begin(number)
        frames, error = b"", None
        try:
            try:
                value = self.run(code, name, params)
                if type(value) in _plain:
                    if value is not None:
                        frames = _plain_frame(number, value)
                else:
                    frames = self.screen.value(value)
                    self.screen.note_figure(value)
            finally:
                self.running = False
        except BaseException as raised:
            error = raised
        if shown.FIGURES in _modules and shown.open_figures():
            frames, error = self.draw(frames, error)
        with self.one_sends:
            self.screen.end()
        if error is not None:
            frames += self.raised(number, error)
        # A child that the cell forked and that did not end there must not answer in our name.
        if _getpid() != self.pid:
            _exit(0)
        self.leave(before)
        self.flush()
        done = b'{"op":"done","id":%d}' % number
        self.send(frames + LENGTHS.pack(len(done), 0) + done)

    def run(self, code, name, params):
        self.remember(name, code)
        steps, has_value = steps_of(code, name)
        if params is not None:
            self.scope["params"] = _loads(params)
        value = None
        self.running = True
        self.heed_interrupt()
        for step in steps:
            value = _eval(step, self.scope)
            # The flag of a code object that awaits (CO_COROUTINE).
            if step.co_flags & 0x80:
                value = self.wait(value)
        if not has_value:
            return None
        if value is not None:
            self.scope["_"] = value
        return value

    def heed_interrupt(self):
        """An interrupt that came before the cell ran: its signal did nothing, and its order is
        there to be read. Orders that come later are ignored, because their signal did it."""
        if self.unread or self.poll.poll(0):
            raise KeyboardInterrupt

    def wait(self, coroutine):
        import asyncio

        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                try:
                    self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
                except BaseException:
                    self.loop.close()
            raise

    def remember(self, name, code):
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        self.sources.append(name)
        while len(self.sources) > SOURCES_MAX:
            linecache.cache.pop(self.sources.popleft(), None)

    def draw(self, frames, error):
        """Shows open figures after the value of the cell, as if the cell had done it."""
        try:
            try:
                self.running = not isinstance(error, KeyboardInterrupt)
                if frames:
                    self.send_whole(lambda: frames)
                self.screen.figures()
            finally:
                self.running = False
        except BaseException as raised:
            error = error or raised
        return b"", error

    def raised(self, number, error):
        try:
            name = type(error).__name__
            value = shorten(str(error), TEXT_MAX)
        except BaseException:
            name, value = "Exception", "an exception whose text could not be had"
        try:
            text = "".join(
                traceback.format_exception(type(error), error, user_frames(error), limit=-64)
            )
        except BaseException:
            text = name + ": " + value
        header = {"op": "error", "id": number, "name": shorten(name, 256), "value": value}
        body = shorten(text, TRACEBACK_MAX).encode("utf-8", "backslashreplace")
        return self.frame(header, body)

    # What surrounds a cell.

    def enter(self, header):
        """Sets the environment of this cell and goes where it runs, if it says; a folder that is
        not there is noticed by the cell itself."""
        before = {}
        for key, value in header["env"].items():
            before[key] = os.environ.get(key)
            os.environ[key] = value
        cwd, self.came_from = header["cwd"], None
        if cwd is not None:
            try:
                self.came_from = os.getcwd()
            except OSError:
                # It was removed; there is nowhere to come back to.
                pass
            error = go_to(cwd)
            if error:
                self.err.write("cannot run in %s: %s\n" % (cwd, os.strerror(error)))
        return before

    def leave(self, before):
        if self.came_from is not None:
            go_to(self.came_from)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value

    def restore_streams(self):
        for at, number in ((0, 1), (1, 2)):
            if self.identity(number) != self.stream_ids[at]:
                _dup2(self.streams[at], number)
        sys.stdout = self.out
        sys.stderr = self.err

    def flush(self):
        for stream in (sys.stdout, sys.stderr, self.out, self.err):
            try:
                stream.flush()
            except BaseException:
                pass
        self.flush_c(None)


def steps_of(code, name):
    """What a cell does, one step after the other, and whether the last one has a value."""
    options = {"flags": ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, "dont_inherit": True}
    # Many cells are one expression, which takes a third of the time without a tree. One that is
    # indented is none, which only the tree notices.
    if "\n" not in code and not code[:1].isspace():
        try:
            return [_compile(code, name, "eval", **options)], True
        except SyntaxError:
            pass
    try:
        tree = _parse(code, name, "exec")
    except SyntaxError as error:
        tree = magic.parse(code, name, error)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    steps = [_compile(tree, name, "exec", **options)]
    if last is not None:
        steps.append(_compile(last, name, "eval", **options))
    return steps, last is not None


def go_to(folder):
    """The number of the error, or 0."""
    try:
        os.chdir(folder)
    except OSError as error:
        return error.errno
    return 0


def user_frames(error):
    """The traceback from the first frame that is not ours to the last."""
    first, last, trace = None, None, error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(OURS):
            first, last = first or trace, trace
        trace = trace.tb_next
    if last is not None:
        last.tb_next = None
    return first


def no_input(_prompt=""):
    raise EOFError("a cell has no standard input; give it `params`, or run a command with `stdin`")
