"""The same without `async`: one thread per connection does the waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import sandpit

_T = TypeVar("_T")


class _Loop:
    """A loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="sandpit", daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
        async def enter() -> _T:
            return await manager.__aenter__()

        async def leave() -> None:
            await manager.__aexit__(None, None, None)

        value = self.run(enter())
        try:
            yield value
        finally:
            self.run(leave())

    def iterate(self, pieces: AsyncIterator[_T]) -> Iterator[_T]:
        end = object()

        async def step() -> Any:
            return await anext(pieces, end)

        while (piece := self.run(step())) is not end:
            yield piece


class Node:
    """A connection to whatever node is nearest."""

    def __init__(self, loop: _Loop, node: sandpit.Node):
        self._loop, self._node = loop, node

    def ask(self, verb: str, *, patience: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """Asks any verb. Raises `sandpit.Refused`."""
        return self._loop.run(self._node.ask(verb, patience=patience, **arguments))

    @contextmanager
    def sandbox(self, template: str = "base", **arguments: Any) -> Iterator[Sandbox]:
        """A sandbox of one's own, ended with the block."""
        with self._loop.entered(self._node.sandbox(template, **arguments)) as sandbox:
            yield Sandbox(self._loop, sandbox)

    def sandboxes(self, **arguments: Any) -> list[dict[str, Any]]:
        """One's sandboxes."""
        return self._loop.run(self._node.sandboxes(**arguments))


class Sandbox:
    """A place to run code in."""

    def __init__(self, loop: _Loop, sandbox: sandpit.Sandbox):
        self._loop, self._sandbox = loop, sandbox
        self.id, self.created = sandbox.id, sandbox.created

    def run(self, code: str, *, timeout: int = 60, **arguments: Any) -> sandpit.Ran:
        """Runs a Python cell."""
        return self._loop.run(self._sandbox.run(code, timeout=timeout, **arguments))

    def shell(self, line: str, *, timeout: int = 60, **arguments: Any) -> sandpit.Ran:
        """Runs a line for /bin/sh."""
        return self._loop.run(self._sandbox.shell(line, timeout=timeout, **arguments))

    def stream(self, code: str, *, timeout: int = 60, **arguments: Any) -> Iterator[sandpit.Output]:
        """Runs a Python cell and iterates over what it writes while it runs."""
        pieces = self._sandbox.stream(code, timeout=timeout, **arguments)
        return self._loop.iterate(aiter(pieces))

    def write(self, path: str, data: str | bytes) -> None:
        """Writes a file."""
        self._loop.run(self._sandbox.write(path, data))

    def read(self, path: str) -> bytes:
        """Reads a file."""
        return self._loop.run(self._sandbox.read(path))

    def files(self, path: str = ".") -> list[str]:
        """The names in a folder."""
        return self._loop.run(self._sandbox.files(path))

    def agent(
        self, agent_type: str, symbols: Sequence[str], *, wait: int = 30, **params: Any
    ) -> dict[str, Any]:
        """Runs a trading agent on paper."""
        return self._loop.run(self._sandbox.agent(agent_type, symbols, wait=wait, **params))

    def status(self) -> dict[str, Any]:
        """How it is."""
        return self._loop.run(self._sandbox.status())

    def terminate(self) -> dict[str, Any]:
        """Ends it."""
        return self._loop.run(self._sandbox.terminate())


@contextmanager
def connect(
    url: str | None = None, *, user: str | None = None, password: str | None = None
) -> Iterator[Node]:
    """Connects, as `sandpit.connect` does."""
    loop = _Loop()
    try:
        with loop.entered(sandpit.connect(url, user=user, password=password)) as node:
            yield Node(loop, node)
    finally:
        loop.close()
