"""The two ways in: a tool asked over MCP, and the same tool asked over NATS."""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats
from mcp import Client, MCPError, StdioServerParameters, stdio_client


@dataclass
class Answer:
    """What came back: a result, or a problem."""

    ok: bool
    body: dict

    def __getitem__(self, name):
        return self.body[name]

    def get(self, name, default=None):
        return self.body.get(name, default)


class OverNats:
    name = "NATS"

    def __init__(self, bus):
        self.bus = bus

    async def ask(self, tool, **arguments):
        subject = f"sandpit.v1.req.{tool}"
        reply = await self.bus.request(subject, json.dumps(arguments).encode(), timeout=70)
        return Answer("Nats-Service-Error" not in (reply.headers or {}), json.loads(reply.data))


class OverMcp:
    def __init__(self, client, name):
        self.client, self.name = client, name

    async def ask(self, tool, **arguments):
        result = await self.client.call_tool(tool, arguments)
        text = json.loads(result.content[0].text)
        if result.structured_content is not None:
            assert result.structured_content == text, "text and structured content differ"
            return Answer(True, text)
        assert result.is_error, f"{tool}: no structured content and no error"
        assert result.meta["sandpit/error"] == text
        return Answer(False, text)


@asynccontextmanager
async def nats_face():
    bus = await nats.connect(
        os.environ["NATS_URL"], user=os.environ["NATS_USER"], password=os.environ["NATS_PASSWORD"]
    )
    try:
        yield OverNats(bus)
    finally:
        await bus.drain()


@asynccontextmanager
async def stdio_face(**options):
    command = json.loads(os.environ["FACE_STDIO"])
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    async with Client(stdio_client(parameters), **options) as client:
        yield OverMcp(client, "MCP stdio")


@asynccontextmanager
async def http_face(**options):
    async with Client(os.environ["FACE_URL"], **options) as client:
        yield OverMcp(client, "MCP HTTP")


FACES = {"nats": nats_face, "stdio": stdio_face, "http": http_face}


def refused(answer, kind, field=None):
    """Checks that the answer is this refusal."""
    assert not answer.ok, f"{kind} expected, came {answer.body}"
    assert answer["kind"] == kind, answer.body
    if field is not None:
        assert answer["detail"]["field"] == field, answer.body
    return answer


def run(main):
    asyncio.run(main())


__all__ = ["FACES", "MCPError", "Answer", "refused", "run"]
