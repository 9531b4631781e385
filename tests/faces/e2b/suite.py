"""Calls of E2B's own Python SDK against a node, one row after the other.

usage: suite.py sync|async [old]        Where the node is says the environment (`sandpit env`).

Each row is a promise. It prints one line of JSON per row: its name, whether it held, and why not.
The same rows run over both clients: `a` waits for what may have to be waited for. Rows marked `o` run
with the older SDK, too.
"""

import asyncio
import base64
import inspect
import io
import json
import sys
import time
import traceback

import e2b
import e2b_code_interpreter as ci
import httpx

MODE, OLD = sys.argv[1], "old" in sys.argv[2:]
SYNC = MODE == "sync"
Sandbox = ci.Sandbox if SYNC else ci.AsyncSandbox
ROWS = []


async def a(value):
    return await value if inspect.isawaitable(value) else value


def row(name, o=False, sync_only=False, chart=False):
    def keep(work):
        if (o or not OLD) and (SYNC or not sync_only):
            ROWS.append((name, work))
        return work

    return keep


async def gone(sandbox):
    try:
        await a(sandbox.kill())
    except Exception:
        pass


async def new(**options):
    options.setdefault("timeout", 120)
    return await a(Sandbox.create(**options))


class lent:
    """A sandbox for the length of a block."""

    def __init__(self, **options):
        self.options = options

    async def __aenter__(self):
        self.sandbox = await new(**self.options)
        return self.sandbox

    async def __aexit__(self, *_):
        await gone(self.sandbox)


async def raises(kind, value):
    try:
        got = await a(value() if callable(value) else value)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {got!r}")


async def until(check, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = await a(check())
        if found:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def equal(got, expected):
    assert got == expected, f"{got!r} is not {expected!r}"


async def collected(stream):
    if hasattr(stream, "__aiter__"):
        return b"".join([piece async for piece in stream])
    return b"".join(stream)


# ---- lifecycle -------------------------------------------------------------------------------------


@row("lifecycle: create, info, kill twice", o=True)
async def _():
    s = await new(template="python", timeout=60, metadata={"a": "b"}, envs={"FOO": "bar"})
    info = await a(s.get_info())
    equal((info.template_id, info.metadata["a"], info.state.value), ("python", "b", "running"))
    lived = (info.end_at - info.started_at).total_seconds()
    assert 59 < lived <= 61, lived
    equal(await a(s.is_running()), True)
    equal((await a(s.kill()), await a(s.kill())), (True, False))
    equal(await a(s.is_running()), False)


@row("lifecycle: a call after kill says that it does not run", o=True)
async def _():
    s = await new()
    await a(s.kill())
    error = await raises(Exception, lambda: s.commands.run("true"))
    assert "not found" in str(error) or "not running" in str(error).lower(), error
    error = await raises(Exception, lambda: s.run_code("1"))
    assert "not found" in str(error) or "not running" in str(error).lower(), error


@row("lifecycle: unknown template", o=True)
async def _():
    error = await raises(Exception, lambda: Sandbox.create(template="nope"))
    assert "not found" in str(error), error


@row("lifecycle: connect from another client", o=True)
async def _():
    async with lent() as s:
        await a(s.run_code("x = 41"))
        other = await a(Sandbox.connect(s.sandbox_id, timeout=120))
        equal((await a(other.run_code("x + 1"))).text, "42")
        equal(other.sandbox_id, s.sandbox_id)


@row("lifecycle: set_timeout longer and shorter", o=True)
async def _():
    async with lent(timeout=60) as s:
        first = (await a(s.get_info())).end_at
        await a(s.set_timeout(600))
        longer = (await a(s.get_info())).end_at
        assert (longer - first).total_seconds() > 500, (first, longer)
        await a(s.set_timeout(30))
        shorter = (await a(s.get_info())).end_at
        assert shorter < first, (first, shorter)
        await a(Sandbox.connect(s.sandbox_id, timeout=10))
        equal((await a(s.get_info())).end_at, shorter)


@row("lifecycle: expires and is gone", o=True)
async def _():
    s = await new(timeout=1)

    async def ended():
        return not await a(s.is_running())

    await until(ended, 10)
    equal(await a(s.kill()), False)


@row("lifecycle: lifecycle, network deny-all, idempotency_key")
async def _():
    key = f"key-{time.time_ns()}"
    options = dict(
        timeout=60,
        lifecycle={"on_timeout": "pause", "auto_resume": True},
        network={"deny_out": ["0.0.0.0/0"]},
        idempotency_key=key,
    )
    s = await new(**options)
    try:
        again = await new(**options)
        equal(again.sandbox_id, s.sandbox_id)
        info = await a(s.get_info())
        equal((info.lifecycle["on_timeout"].value, info.lifecycle["auto_resume"]), ("pause", True))
        error = await raises(e2b.SandboxException, lambda: new(timeout=61, idempotency_key=key))
        assert "key" in str(error), error
    finally:
        await gone(s)


# ---- list ------------------------------------------------------------------------------------------


async def page_by_page(**options):
    pages, pager = [], await a(Sandbox.list(**options))
    while pager.has_next:
        pages.append(await a(pager.next_items()))
    return pages


@row("list: pages, filters and order", o=True)
async def _():
    mark = {"team": f"al pha é {time.time_ns()}"}
    made = []
    try:
        for _ in range(3):
            made.append((await new(metadata=mark)))
        ids = [s.sandbox_id for s in made]
        query = e2b.SandboxQuery(metadata=mark)
        pages = await page_by_page(query=query, limit=1)
        equal([[one.sandbox_id for one in page] for page in pages], [[i] for i in reversed(ids)])
        running = e2b.SandboxQuery(metadata=mark, state=[e2b.SandboxState.RUNNING])
        equal(sum(map(len, await page_by_page(query=running))), 3)
        paused = e2b.SandboxQuery(metadata=mark, state=[e2b.SandboxState.PAUSED])
        equal(sum(map(len, await page_by_page(query=paused))), 0)
        none = e2b.SandboxQuery(metadata={"team": "nobody"})
        equal(sum(map(len, await page_by_page(query=none))), 0)
        if not OLD:
            pages = await page_by_page(query=query, order="asc")
            equal([one.sandbox_id for page in pages for one in page], ids)
    finally:
        for s in made:
            await gone(s)


# ---- commands --------------------------------------------------------------------------------------


@row("commands: output, exit code, cwd, envs", o=True)
async def _():
    async with lent(envs={"FOO": "bar"}) as s:
        ran = await a(s.commands.run("echo hi $FOO; echo err >&2"))
        equal((ran.stdout, ran.stderr, ran.exit_code), ("hi bar\n", "err\n", 0))
        error = await raises(e2b.CommandExitException, lambda: s.commands.run("echo no >&2; exit 3"))
        equal((error.exit_code, error.stderr), (3, "no\n"))
        await a(s.files.make_dir("deep"))
        equal((await a(s.commands.run("pwd", cwd="/home/user/deep"))).stdout, "/home/user/deep\n")
        equal((await a(s.commands.run("echo $A$FOO", envs={"A": "1"}))).stdout, "1bar\n")


@row("commands: bad cwd, user root", o=True)
async def _():
    async with lent() as s:
        error = await raises(e2b.InvalidArgumentException, lambda: s.commands.run("ls", cwd="/nope"))
        assert "/nope" in str(error), error
        error = await raises(e2b.AuthenticationException, lambda: s.commands.run("ls", user="root"))
        assert "user" in str(error), error
        equal((await a(s.commands.run("whoami", user="user"))).stdout, "user\n")


@row("commands: callbacks come before the end", o=True)
async def _():
    async with lent() as s:
        out, err = [], []
        line = "echo one; echo two >&2; sleep 3; echo three"
        await a(s.commands.run(
            line,
            on_stdout=lambda text: out.append((time.monotonic(), text)),
            on_stderr=lambda text: err.append((time.monotonic(), text)),
        ))
        ended = time.monotonic()
        equal("".join(text for _, text in out), "one\nthree\n")
        assert ended - out[0][0] > 0.7, "the first line waited for the end"
        assert ended - err[0][0] > 0.7, "the first error waited for the end"


@row("commands: 10 MiB of output come whole", o=True)
async def _():
    async with lent() as s:
        ran = await a(s.commands.run("head -c 10485760 /dev/zero | tr '\\0' x"))
        equal((len(ran.stdout), set(ran.stdout)), (10485760, {"x"}))


@row("commands: a character cut in two arrives whole (e2b_trap_27)", o=True)
async def _():
    async with lent() as s:
        ran = await a(s.commands.run(r"printf '\303'; sleep 0.3; printf '\251'; printf '\360\237'; sleep 0.3; printf '\223\210'"))
        equal(ran.stdout, "é📈")


# ---- background ------------------------------------------------------------------------------------


@row("background: list, send_stdin, close_stdin", o=True)
async def _():
    async with lent() as s:
        cat = await a(s.commands.run("cat", background=True, stdin=True))
        listed = await a(s.commands.list())
        assert any(one.pid == cat.pid and one.cmd == "/bin/bash" for one in listed), listed
        await a(s.commands.send_stdin(cat.pid, "hello\n"))
        if OLD:
            equal(await a(s.commands.kill(cat.pid)), True)
            return
        await a(s.commands.close_stdin(cat.pid))
        equal((await a(cat.wait())).stdout, "hello\n")


@row("background: stream_input")
async def _():
    async with lent() as s:
        cat = await a(s.commands.run("cat", background=True, stdin=True))
        pieces = ["a\n", b"b\n"]
        if SYNC:
            s.commands.stream_input(cat.pid, iter(pieces))
        else:
            stream = s.commands.stream_input(cat.pid)
            for piece in pieces:
                await stream.send(piece)
            await stream.close()
        await a(s.commands.close_stdin(cat.pid))
        equal((await a(cat.wait())).stdout, "a\nb\n")


@row("background: connect, disconnect, and the exit code of one that ended", o=True)
async def _():
    async with lent() as s:
        one = await a(s.commands.run("sleep 1; exit 7", background=True))
        await a(one.disconnect())
        again = await a(s.commands.connect(one.pid))
        error = await raises(e2b.CommandExitException, again.wait)
        equal(error.exit_code, 7)
        late = await a(s.commands.connect(one.pid))
        error = await raises(e2b.CommandExitException, late.wait)
        equal(error.exit_code, 7)
        await raises(e2b.NotFoundException, lambda: s.commands.connect(999999))


@row("background: connect 20 s after the exit")
async def _():
    async with lent() as s:
        one = await a(s.commands.run("exit 5", background=True))
        await a(one.disconnect())
        await asyncio.sleep(20)
        late = await a(s.commands.connect(one.pid))
        equal((await raises(e2b.CommandExitException, late.wait)).exit_code, 5)


@row("background: kill says whether it was there", o=True)
async def _():
    async with lent() as s:
        one = await a(s.commands.run("sleep 100", background=True))
        equal(await a(s.commands.kill(one.pid)), True)
        await raises(e2b.CommandExitException, one.wait)
        equal(await a(s.commands.kill(999999)), False)


async def counted(s, what):
    ran = await a(s.commands.run(f"cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '{what}' || true"))
    return int(ran.stdout)


@row("background: timeout ends a sleep, and what ignores SIGTERM (e2b_trap_05)", o=True)
async def _():
    async with lent() as s:
        await raises(e2b.TimeoutException, lambda: s.commands.run("sleep 4242", timeout=1))
        stubborn = "trap '' TERM; while :; do sleep 0.1; done; echo 434343"
        await raises(e2b.TimeoutException, lambda: s.commands.run(stubborn, timeout=1))

        async def ended():
            return not await counted(s, "[s]leep 4242") and not await counted(s, "43434[3]")

        await until(ended, 20)


@row("background: timeout=0 has no end", o=True)
async def _():
    async with lent() as s:
        ran = await a(s.commands.run("sleep 2; echo done", timeout=0))
        equal(ran.stdout, "done\n")


# ---- pty -------------------------------------------------------------------------------------------


@row("pty: a terminal that hears, resizes, is found again and killed")
async def _():
    async with lent() as s:
        size, seen = e2b.PtySize(rows=24, cols=80), []
        if SYNC:
            terminal = await a(s.pty.create(size))
            pid = terminal.pid
            line = b"tty; stty size; exit\n"
            await a(s.pty.resize(pid, e2b.PtySize(rows=30, cols=90)))
            await a(s.pty.send_stdin(pid, line))
            terminal.wait(on_pty=seen.append)
        else:
            terminal = await a(s.pty.create(size, on_data=seen.append))
            pid = terminal.pid
            await a(s.pty.resize(pid, e2b.PtySize(rows=30, cols=90)))
            await a(s.pty.send_stdin(pid, b"tty; stty size; exit\n"))
            await a(terminal.wait())
        text = b"".join(seen).decode()
        assert "/dev/pts/" in text and "30 90" in text, text
        options = {} if SYNC else {"on_data": seen.append}
        second = await a(s.pty.create(size, **options))
        again = await a(s.pty.connect(second.pid, **options))
        equal(again.pid, second.pid)
        equal(await a(s.pty.kill(second.pid)), True)
        equal(await a(s.pty.kill(999999)), False)


# ---- files -----------------------------------------------------------------------------------------


@row("files: write and read text, bytes, file objects, and nothing (e2b_trap_16, 18)", o=True)
async def _():
    async with lent() as s:
        written = await a(s.files.write("a/b.txt", "hello"))
        equal((written.path, written.name), ("/home/user/a/b.txt", "b.txt"))
        equal(await a(s.files.read("a/b.txt")), "hello")
        await a(s.files.write("b.bin", b"\x00\x01\xff"))
        equal(bytes(await a(s.files.read("b.bin", format="bytes"))), b"\x00\x01\xff")
        await a(s.files.write("c.bin", io.BytesIO(b"x" * 100_000)))
        equal(len(await a(s.files.read("c.bin", format="bytes"))), 100_000)
        await a(s.files.write("empty", ""))
        equal(await a(s.files.read("empty")), "")
        equal(await collected(await a(s.files.read("c.bin", format="stream"))), b"x" * 100_000)


@row("files: iterators, gzip, octets and metadata")
async def _():
    async with lent() as s:
        async def pieces():
            yield b"ab"
            yield b"cd"

        await a(s.files.write("it", iter([b"ab", b"cd"]) if SYNC else pieces()))
        equal(await a(s.files.read("it")), "abcd")
        await a(s.files.write("g", "z" * 5_000, gzip=True))
        equal(await a(s.files.read("g")), "z" * 5_000)
        equal(await a(s.files.read("g", gzip=True)), "z" * 5_000)
        await a(s.files.write("o", b"octets", use_octet_stream=True))
        equal(await a(s.files.read("o")), "octets")
        written = await a(s.files.write("m", "1", metadata={"k": "v"}))
        equal(written.metadata, {"k": "v"})
        equal((await a(s.files.get_info("m"))).metadata, {"k": "v"})


@row("files: write_files takes paths as they are (e2b_trap_17)", o=True)
async def _():
    async with lent() as s:
        names = ["m1.txt", "deep/down/m2.bin", "mit leer.txt", "100%.txt", "é ü.txt"]
        written = await a(s.files.write_files([{"path": n, "data": n} for n in names]))
        equal([one.path for one in written], [f"/home/user/{n}" for n in names])
        for name in names + ["it's \"quoted\".txt"]:
            await a(s.files.write(name, name))
            equal(await a(s.files.read(name)), name)


@row("files: 64 MiB stream through", sync_only=True)
async def _():
    async with lent() as s:
        size = 64 << 20

        class Zeros(io.RawIOBase):
            left = size

            def readable(self):
                return True

            def read(self, count=-1):
                count = min(self.left, 1 << 16 if count < 0 else count)
                self.left -= count
                return b"\0" * count

        await a(s.files.write("large", Zeros(), request_timeout=120))
        equal((await a(s.files.get_info("large"))).size, size)
        read = await a(s.files.read("large", format="stream", request_timeout=120))
        equal(sum(map(len, read)), size)


@row("files: list, exists, info, links (e2b_trap_20)", o=True)
async def _():
    async with lent() as s:
        await a(s.files.write("d/e/f/g.txt", "1"))
        await a(s.commands.run("ln -s d/e/f/g.txt link; ln -s nowhere dangling"))
        equal([one.name for one in await a(s.files.list("d"))], ["e"])
        deep = await a(s.files.list("d", depth=3))
        equal(sorted(one.path for one in deep),
              ["/home/user/d/e", "/home/user/d/e/f", "/home/user/d/e/f/g.txt"])
        equal((await a(s.files.exists("d")), await a(s.files.exists("zz"))), (True, False))
        info = await a(s.files.get_info("d/e/f/g.txt"))
        equal((info.size, info.type.value, info.mode, info.permissions, info.owner),
              (1, "file", 0o644, "-rw-r--r--", "user"))
        link = await a(s.files.get_info("link"))
        # The SDK calls a link what older servers called it, whatever it leads to.
        assert link.type.value in ("symlink", "file"), link
        equal(link.symlink_target, "d/e/f/g.txt")
        names = {one.name for one in await a(s.files.list("."))}
        assert {"d", "link", "dangling"} <= names, names


@row("files: make_dir, rename, remove, missing", o=True)
async def _():
    async with lent() as s:
        equal((await a(s.files.make_dir("d1")), await a(s.files.make_dir("d1"))), (True, False))
        await a(s.files.write("x.txt", "1"))
        equal((await a(s.files.rename("x.txt", "d1/y.txt"))).path, "/home/user/d1/y.txt")
        await a(s.files.remove("d1"))
        equal(await a(s.files.exists("d1")), False)
        await a(s.files.remove("d1"))
        for call in (s.files.read, s.files.list, s.files.get_info):
            await raises(e2b.NotFoundException, lambda: call("zz"))
        await raises(e2b.NotFoundException, lambda: s.files.rename("zz", "z"))


# ---- signed URLs -----------------------------------------------------------------------------------


@row("signed URLs: read, write, expired, tampered (e2b_trap_22)")
async def _():
    async with lent() as s:
        await a(s.files.write("a/b.txt", "hello"))
        for options in ({}, {"use_signature_expiration": 100}, {"user": "user"}):
            equal(httpx.get(await a(s.download_url("a/b.txt", **options))).text, "hello")
            url = await a(s.upload_url("up.txt", **options))
            sent = httpx.post(url, files={"file": ("up.txt", b"up")})
            equal((sent.status_code, sent.json()[0]["path"]), (200, "/home/user/up.txt"))
        equal(await a(s.files.read("up.txt")), "up")
        over = await a(s.download_url("a/b.txt", use_signature_expiration=-10))
        equal(httpx.get(over).status_code, 401)
        url = await a(s.download_url("a/b.txt"))
        equal(httpx.get(url.replace("b.txt", "c.txt")).status_code, 401)
        equal(httpx.get(await a(s.upload_url("a/b.txt"))).status_code, 401)


# ---- watch -----------------------------------------------------------------------------------------


@row("watch: events, recursive, with entries, and stop")
async def _():
    async with lent() as s:
        await a(s.files.make_dir("w/sub"))
        seen = []
        options = dict(recursive=True, include_entry=True)
        watching = await a(s.files.watch_dir("w", **options) if SYNC
                           else s.files.watch_dir("w", on_event=seen.append, **options))
        await a(s.files.write("w/x.txt", "1"))
        await a(s.files.write("w/sub/y.txt", "1"))
        await a(s.files.rename("w/x.txt", "w/z.txt"))
        await a(s.files.remove("w/z.txt"))

        def told():
            if SYNC:
                seen.extend(watching.get_new_events())
            kinds = {(one.name, one.type.value) for one in seen}
            return any(name == "x.txt" for name, _ in kinds) and ("sub/y.txt", "create") in kinds \
                and ("z.txt", "remove") in kinds

        await until(told)
        entries = [one for one in seen if getattr(one, "entry", None)]
        assert entries, seen
        await a(watching.stop())
        await raises(e2b.NotFoundException, lambda: s.files.watch_dir("zz") if SYNC
                     else s.files.watch_dir("zz", on_event=seen.append))


# ---- run_code --------------------------------------------------------------------------------------


@row("run_code: text, state, output, errors", o=True)
async def _():
    async with lent() as s:
        ran = await a(s.run_code("import sys\nx = 41\nprint('out')\nprint('e', file=sys.stderr)\nx + 1"))
        equal((ran.text, "".join(ran.logs.stdout), "".join(ran.logs.stderr)), ("42", "out\n", "e\n"))
        equal((await a(s.run_code("x"))).text, "41")
        equal((await a(s.run_code("'abc'"))).text, "abc")
        error = (await a(s.run_code("1/0"))).error
        equal((error.name, error.value), ("ZeroDivisionError", "division by zero"))
        assert "Traceback" in error.traceback and "\x1b" not in error.traceback, error.traceback
        first, second = (await a(s.run_code("1"))), (await a(s.run_code("1")))
        equal(second.execution_count, first.execution_count + 1)


@row("run_code: html, markdown, svg, latex, json, several results", o=True)
async def _():
    async with lent() as s:
        ran = await a(s.run_code("""
class Shown:
    def __init__(self, kind, text): self.kind, self.text = kind, text
    def _repr_mimebundle_(self, **_): return {self.kind: self.text, "text/plain": "shown"}
from IPython.display import display
display(Shown("text/markdown", "# hi"))
display(Shown("text/latex", "$x$"))
Shown("image/svg+xml", "<svg/>")
"""))
        assert ran.error is None, ran.error
        one, two, main = ran.results
        equal((one.markdown, two.latex, main.svg), ("# hi", "$x$", "<svg/>"))
        equal([r.is_main_result for r in ran.results], [False, False, True])
        equal((await a(s.run_code("{'a': 1}"))).results[0].json, {"a": 1})
        html = "class H:\n    def _repr_html_(self): return '<b>x</b>'\nH()"
        equal((await a(s.run_code(html))).results[0].html, "<b>x</b>")


@row("run_code: a figure is a PNG, a table is HTML", o=True, chart=True)
async def _():
    async with lent() as s:
        ran = await a(s.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.show()"))
        assert ran.error is None, ran.error
        images = [base64.b64decode(r.png) for r in ran.results if r.png]
        assert images and images[0].startswith(b"\x89PNG\r\n\x1a\n"), ran.results
        ran = await a(s.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2]})"))
        assert ran.error is None and "<table" in ran.results[0].html, ran
        jpeg = "import io, base64\nfrom PIL import Image\nb = io.BytesIO(); Image.new('RGB', (2, 2)).save(b, 'JPEG')\n" \
            "class J:\n    def _repr_jpeg_(self): return b.getvalue()\nJ()"
        ran = await a(s.run_code(jpeg))
        assert ran.error is None, ran.error
        assert base64.b64decode(ran.results[0].jpeg).startswith(b"\xff\xd8"), ran.results


@row("run_code: callbacks stream", o=True)
async def _():
    async with lent() as s:
        out, err, results, errors = [], [], [], []
        begun = time.monotonic()
        await a(s.run_code(
            "import time, sys\nprint('a', flush=True)\nprint('b', file=sys.stderr, flush=True)\n"
            "time.sleep(3)\nprint('c')\n7",
            on_stdout=lambda m: out.append((time.monotonic(), str(m))),
            on_stderr=lambda m: err.append(str(m)), on_result=results.append, on_error=errors.append,
        ))
        assert time.monotonic() - out[0][0] > 0.7, "the first line waited for the end"
        equal(("".join(text for _, text in out), "".join(err), results[0].text), ("a\nc\n", "b\n", "7"))
        await a(s.run_code("1/0", on_error=errors.append))
        equal([one.name for one in errors], ["ZeroDivisionError"])


@row("run_code: envs are of one run (e2b_trap_14: pure ASCII)", o=True)
async def _():
    async with lent(envs={"FOO": "bar"}) as s:
        look = "import os\nos.environ.get('FOO'), os.environ.get('K')"
        equal((await a(s.run_code(look, envs={"K": "V"}))).text, "('bar', 'V')")
        equal((await a(s.run_code(look))).text, "('bar', None)")
        ran = await a(s.run_code("print('a\\u2028b\\x85c\\U0001f4c8')\n'é\\u2029'"))
        equal(("".join(ran.logs.stdout), ran.text), ("a\u2028b\x85c\U0001f4c8\n", "é\\u2029"))


@row("run_code: contexts", o=True)
async def _():
    async with lent() as s:
        context = await a(s.create_code_context(cwd="/tmp"))
        equal((context.language, context.cwd), ("python", "/tmp"))
        await a(s.run_code("x = 1", context=context))
        equal((await a(s.run_code("x", context=context))).text, "1")
        equal((await a(s.run_code("x"))).error.name, "NameError")
        equal((await a(s.run_code("import os; os.getcwd()", context=context))).text, "/tmp")
        listed = [one.id for one in await a(s.list_code_contexts())]
        assert context.id in listed and len(listed) >= 2, listed
        await a(s.restart_code_context(context))
        equal((await a(s.run_code("x", context=context))).error.name, "NameError")
        await a(s.remove_code_context(context))
        await raises(Exception, lambda: s.run_code("1", context=context))


@row("run_code: other languages are refused by name", o=True)
async def _():
    async with lent() as s:
        equal((await a(s.run_code("2+2", language="python"))).text, "4")
        error = await raises(Exception, lambda: s.run_code("1", language="javascript"))
        assert "javascript" in str(error), error


@row("run_code: a client's timeout interrupts", o=True)
async def _():
    async with lent() as s:
        await a(s.run_code("kept = 5"))
        await raises(Exception, lambda: s.run_code("import time\ntime.sleep(60)", timeout=1))

        async def free():
            ran = await a(s.run_code("1", timeout=5))
            return ran.text == "1"

        await until(free, 10)


@row("run_code: a dead kernel is told, and the next one works", o=True)
async def _():
    async with lent() as s:
        ran = await a(s.run_code("import os\nos._exit(3)"))
        equal(ran.error.name, "KernelDied")
        equal((await a(s.run_code("1+1"))).text, "2")


# ---- pause and resume ------------------------------------------------------------------------------


@row("pause: stands still, and everything is there after connect (e2b_trap_04)", o=True)
async def _():
    async with lent() as s:
        await a(s.run_code("x = 41"))
        await a(s.files.write("kept.txt", "kept"))
        ticking = await a(s.commands.run("while :; do sleep 0.2; done", background=True))
        pid = ticking.pid
        equal((await a(s.pause()) is not False, await a(s.pause())), (True, False))
        equal(await a(s.is_running()), False)
        await raises(Exception, lambda: s.commands.run("true"))
        await raises(Exception, lambda: s.run_code("1"))
        paused = e2b.SandboxQuery(state=[e2b.SandboxState.PAUSED])
        listed = [one.sandbox_id for page in await page_by_page(query=paused) for one in page]
        assert s.sandbox_id in listed, listed
        again = await a(Sandbox.connect(s.sandbox_id, timeout=120))
        equal((await a(again.run_code("x + 1"))).text, "42")
        equal(await a(again.files.read("kept.txt")), "kept")
        assert pid in [one.pid for one in await a(again.commands.list())]
        equal(await a(again.commands.kill(pid)), True)


@row("pause: at its timeout, and resumed by a call")
async def _():
    s = await new(timeout=2, lifecycle={"on_timeout": "pause", "auto_resume": True})
    try:
        await a(s.run_code("x = 1"))

        async def paused():
            return (await a(s.get_info())).state.value == "paused"

        await until(paused, 10)
        equal((await a(s.run_code("x"))).text, "1")
        equal((await a(s.get_info())).state.value, "running")
    finally:
        await gone(s)


# ---- metrics and ports -----------------------------------------------------------------------------


@row("metrics: none first, then a growing series")
async def _():
    async with lent() as s:
        first = await a(s.get_metrics())
        assert len(first) <= 1, first

        async def grown():
            return len(await a(s.get_metrics())) >= len(first) + 2

        await until(grown, 15)
        one = (await a(s.get_metrics()))[-1]
        assert one.mem_used > 0 and one.mem_total > 0 and 0 <= one.cpu_used_pct <= 100, one


@row("ports: by header and by host, and a closed one")
async def _():
    async with lent() as s:
        await a(s.files.write("index.html", "served"))
        await a(s.commands.run("python3 -m http.server 8080", background=True))
        base = s.connection_config.sandbox_url if hasattr(s.connection_config, "sandbox_url") else None
        import os
        base = base or os.environ["E2B_SANDBOX_URL"]
        by_header = {"E2B-Sandbox-Id": s.sandbox_id, "E2B-Sandbox-Port": "8080"}
        by_host = {"Host": s.get_host(8080)}

        def served():
            return httpx.get(f"{base}/index.html", headers=by_header).text == "served"

        await until(served)
        equal(httpx.get(f"{base}/index.html", headers=by_host).text, "served")
        closed = httpx.get(base, headers={**by_header, "E2B-Sandbox-Port": "8081"})
        equal(closed.status_code, 502)
        assert "port is not open" in closed.text, closed.text


# ---- honest no -------------------------------------------------------------------------------------


@row("honest no: what is not there is named")
async def _():
    async with lent() as s:
        calls = {
            "fork": lambda: s.fork(),
            "snapshots": lambda: s.create_snapshot(),
            "network update": lambda: s.update_network({"deny_out": ["0.0.0.0/0"]}),
            "memory": lambda: s.pause(keep_memory=False),
        }
        for name, call in calls.items():
            error = await raises(Exception, call)
            assert "501" in str(error) and name in str(error), (name, error)
        pager = await a(s.list_snapshots())
        error = await raises(Exception, lambda: pager.next_items())
        assert "501" in str(error) and "snapshots" in str(error), error
        if SYNC:
            template = e2b.Template().from_image("python:3.12").run_cmd("true")
            error = await raises(Exception, lambda: e2b.Template.build(template, "x"))
            assert "501" in str(error) and "template build" in str(error), error


async def main():
    for name, work in ROWS:
        begun = time.monotonic()
        try:
            await asyncio.wait_for(work(), 120)
            told = {"row": name, "ok": True}
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)
            lines = [f"{one.lineno}" for one in where if one.filename == __file__]
            told = {"row": name, "ok": False, "why": f"{type(error).__name__}: {error}"[:600],
                    "line": ",".join(lines)}
        told["s"] = round(time.monotonic() - begun, 2)
        print(json.dumps(told), flush=True)


asyncio.run(main())
