"""Sandboxes and paper-trading agents of a sandpit node, over NATS.

    async with sandpit.connect() as node, node.sandbox() as box:
        print((await box.run("6 * 7")).result)

`sandpit.sync` has the same without `async`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import string
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal

import nats
from nats.aio.client import Client as Bus
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

__all__ = ["Node", "Output", "Ran", "Refused", "Sandbox", "connect", "sync"]

# Seconds added to a run's own time limit: the way there and back.
_WAY = 10.0
# Times one request is asked in all.
_ATTEMPTS = 3


class Refused(Exception):
    """The answer was no. Nothing was done unless `ran` says otherwise."""

    def __init__(self, problem: Mapping[str, Any]):
        super().__init__(f"{problem['kind']}: {problem['message']}")
        self.kind: str = problem["kind"]
        self.code: int = problem["code"]
        self.message: str = problem["message"]
        self.ran: str = problem.get("ran", "unknown")
        self.detail: dict[str, Any] = problem.get("detail", {})
        self.retry_after_ms: int | None = problem.get("retry_after_ms")


@dataclass(frozen=True)
class Ran:
    """What came of a run. `answer` is all of it, as it was told."""

    exit_code: int
    stdout: str
    stderr: str
    execution_id: str
    execution_time: float
    result: str | None = None
    error: dict[str, Any] | None = None
    timed_out: bool = False
    oom_killed: bool = False
    lost: bool = False
    answer: dict[str, Any] | None = None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Ran:
        known = {one.name for one in fields(cls)}
        return cls(**{k: v for k, v in answer.items() if k in known}, answer=answer)


@dataclass(frozen=True)
class Output:
    """A piece of what a run wrote."""

    stream: Literal["stdout", "stderr"]
    text: str


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _fresh_execution_id() -> str:
    return "x" + _random(string.ascii_lowercase + string.digits, 26)


class Node:
    """A connection to whatever node is nearest."""

    def __init__(self, bus: Bus):
        self.bus = bus

    async def ask(self, verb: str, *, patience: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """Asks any verb, and waits `patience` seconds. Raises `Refused`; asks again where nothing
        was done and that may help."""
        deadline = time.time() + patience
        headers = {
            "Content-Type": "application/json",
            "Sandpit-Deadline": str(int(deadline * 1000)),
            "Sandpit-Idempotency-Key": secrets.token_hex(16),
        }
        body = json.dumps({k: v for k, v in arguments.items() if v is not None}).encode()
        for attempt in range(_ATTEMPTS):
            left = deadline - time.time()
            try:
                reply = await self.bus.request(
                    f"sandpit.v1.req.{verb}", body, timeout=left, headers=headers
                )
            except NoRespondersError:
                problem = {"kind": "unsettled", "code": 503, "message": "no node answers", "ran": "no"}
                refused = Refused(problem)
            else:
                answer: dict[str, Any] = json.loads(reply.data)
                if "Nats-Service-Error" not in (reply.headers or {}):
                    return answer
                refused = Refused(answer)
            pause = (refused.retry_after_ms or 50) / 1000
            if refused.code != 503 or refused.ran != "no" or attempt + 1 == _ATTEMPTS:
                raise refused
            if time.time() + pause >= deadline:
                raise refused
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt answers or raises")

    @asynccontextmanager
    async def sandbox(self, template: str = "base", **arguments: Any) -> AsyncIterator[Sandbox]:
        """A sandbox of one's own, ended with the block. Takes every argument of `create`."""
        created = await self.ask("create", template=template, **arguments)
        sandbox = Sandbox(self, created)
        try:
            yield sandbox
        finally:
            await sandbox.terminate()

    async def sandboxes(self, **arguments: Any) -> list[dict[str, Any]]:
        """One's sandboxes; `status_filter` and the like as `list` takes them. At most 1000."""
        listed = await self.ask("list", **{"limit": 1000, **arguments})
        return list(listed["sandboxes"])


class Sandbox:
    """A place to run code in. Variables are kept from one Python cell to the next."""

    def __init__(self, node: Node, created: dict[str, Any]):
        self.node, self.created = node, created
        self.id: str = created["sandbox_id"]

    async def run(self, code: str, *, timeout: int = 60, **arguments: Any) -> Ran:
        """Runs a Python cell; the value of a last expression is the `result`."""
        return await self._exec(timeout, code=code, **arguments)

    async def shell(self, line: str, *, timeout: int = 60, **arguments: Any) -> Ran:
        """Runs a line for /bin/sh, or with `args=[..]` a program."""
        return await self._exec(timeout, command=line, **arguments)

    def stream(self, code: str, *, timeout: int = 60, **arguments: Any) -> Stream:
        """Runs a Python cell and iterates over what it writes while it runs."""
        return Stream(self, {"code": code, "timeout": timeout, **arguments})

    async def write(self, path: str, data: str | bytes) -> None:
        """Writes a file; a relative path is below /home/user."""
        raw = data.encode() if isinstance(data, str) else data
        code = (
            "import base64, pathlib\n"
            "_at = pathlib.Path('/home/user') / params['path']\n"
            "_at.parent.mkdir(parents=True, exist_ok=True)\n"
            "_ = _at.write_bytes(base64.b64decode(params['data']))"
        )
        params = {"path": path, "data": base64.b64encode(raw).decode()}
        _done(await self._exec(60, code=code, params=params))

    async def read(self, path: str) -> bytes:
        """Reads a file of at most 180 KiB: what an answer holds."""
        code = (
            "import base64, pathlib\n"
            "print(base64.b64encode((pathlib.Path('/home/user') / params['path'])"
            ".read_bytes()).decode())"
        )
        ran = _done(await self._exec(60, code=code, params={"path": path}))
        if ran.answer and ran.answer["truncated"]["stdout"]:
            raise ValueError(f"{path} is longer than an answer holds; read it in parts")
        return base64.b64decode(ran.stdout)

    async def files(self, path: str = ".") -> list[str]:
        """The names in a folder."""
        code = (
            "import json, os\n"
            "print(json.dumps(sorted(os.listdir(os.path.join('/home/user', params['path'])))))"
        )
        ran = _done(await self._exec(60, code=code, params={"path": path}))
        names: list[str] = json.loads(ran.stdout)
        return names

    async def agent(
        self, agent_type: str, symbols: Sequence[str], *, wait: int = 30, **params: Any
    ) -> dict[str, Any]:
        """Runs a trading agent on paper. `status` is `running` if it is not done after `wait` s."""
        return await self.node.ask(
            "agent", patience=wait + _WAY, sandbox_id=self.id, agent_type=agent_type,
            symbols=list(symbols), wait=wait, strategy_params=params or None,
        )

    async def status(self) -> dict[str, Any]:
        """How it is."""
        return await self.node.ask("status", sandbox_id=self.id)

    async def terminate(self) -> dict[str, Any]:
        """Ends it. Ending it again says the same."""
        return await self.node.ask("terminate", sandbox_id=self.id)

    async def _exec(self, limit: int, **arguments: Any) -> Ran:
        answer = await self.node.ask(
            "exec", patience=limit + _WAY, sandbox_id=self.id, timeout=limit, **arguments
        )
        return Ran.of(answer)


class Stream:
    """What a run writes, piece by piece; `ran` is what came of it once the pieces ended."""

    def __init__(self, sandbox: Sandbox, arguments: dict[str, Any]):
        self._sandbox, self._arguments = sandbox, arguments
        self.ran: Ran | None = None

    async def __aiter__(self) -> AsyncIterator[Output]:
        bus, execution = self._sandbox.node.bus, _fresh_execution_id()
        heard: asyncio.Queue[Msg] = asyncio.Queue()
        feed = await bus.subscribe(f"sandpit.v1.out.*.{execution}.*", cb=heard.put)
        # The subscription is there before the question is.
        await bus.flush()
        limit = self._arguments["timeout"]
        asked = asyncio.create_task(
            self._sandbox._exec(limit, **{**self._rest(), "execution_id": execution, "stream": True})
        )
        ended = 0
        try:
            while ended < 2:
                hearing = asyncio.create_task(heard.get())
                await asyncio.wait({hearing, asked}, return_when=asyncio.FIRST_COMPLETED)
                if not hearing.done():
                    # Answered: what is still on its way comes at once, or was lost.
                    await asyncio.wait({hearing}, timeout=1.0)
                if not hearing.done():
                    hearing.cancel()
                    break
                message = hearing.result()
                name: Any = message.subject.rsplit(".", 1)[1]
                if message.data:
                    yield Output(name, message.data.decode(errors="replace"))
                ended += "Sandpit-End" in (message.headers or {})
            self.ran = await asked
        finally:
            await feed.unsubscribe()
            if not asked.done():
                asked.cancel()
                await self._sandbox.node.ask(
                    "cancel", sandbox_id=self._sandbox.id, execution_id=execution
                )

    def _rest(self) -> dict[str, Any]:
        return {k: v for k, v in self._arguments.items() if k != "timeout"}


def _done(ran: Ran) -> Ran:
    if ran.exit_code != 0:
        raise OSError((ran.error or {}).get("value") or ran.stderr or f"exit code {ran.exit_code}")
    return ran


@asynccontextmanager
async def connect(
    url: str | None = None, *, user: str | None = None, password: str | None = None
) -> AsyncIterator[Node]:
    """Connects. What is not given comes from NATS_URL, NATS_USER and NATS_PASSWORD."""
    bus = await nats.connect(
        url or os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
        user=user or os.environ.get("NATS_USER"),
        password=password or os.environ.get("NATS_PASSWORD"),
    )
    try:
        yield Node(bus)
    finally:
        await bus.drain()


from . import sync  # noqa: E402  (it builds on what is above)
