"""A sandbox over NATS: create it, run code in it, read its output as it comes, end it. Twice: with
the thin client, and with a NATS client alone.

    pip install ./clients/python   # which brings nats-py
    eval "$(sandpit env)"          # NATS_URL, NATS_USER and NATS_PASSWORD of the running node
    python quickstart.py
"""

import asyncio
import json
import os

import nats
import sandpit


async def main():
    await with_the_client()
    await with_nats_alone()


async def with_the_client():
    async with sandpit.connect() as node, node.sandbox("base") as box:
        # State is kept between the cells of one sandbox, and the last expression is the result.
        await box.run("prices = [100, 101, 99, 104]")
        cell = box.stream("print('daily returns')\n[round(b / a - 1, 4) for a, b in zip(prices, prices[1:])]")
        async for piece in cell:
            print(f"[{piece.stream}] {piece.text.rstrip()}")
        print("result:", cell.ran.result)

        # A program that fails is a result, not an error.
        print("exit code:", (await box.shell("echo done; exit 3")).exit_code)


async def with_nats_alone():
    bus = await nats.connect(
        os.environ["NATS_URL"], user=os.environ["NATS_USER"], password=os.environ["NATS_PASSWORD"]
    )

    async def ask(verb, **fields):
        reply = await bus.request(f"sandpit.v1.req.{verb}", json.dumps(fields).encode(), timeout=60)
        body = json.loads(reply.data)
        if reply.headers and "Nats-Service-Error" in reply.headers:
            raise RuntimeError(f"{verb} was refused: {body['kind']}: {body['message']}")
        return body

    sandbox = (await ask("create", template="base"))["sandbox_id"]

    async def show(message):
        stream = message.subject.rsplit(".", 1)[1]
        if message.data:
            print(f"[{stream}] {message.data.decode().rstrip()}")

    await bus.subscribe(f"sandpit.v1.out.{sandbox}.>", cb=show)

    await ask("exec", sandbox_id=sandbox, code="prices = [100, 101, 99, 104]")
    cell = "print('daily returns')\n[round(b / a - 1, 4) for a, b in zip(prices, prices[1:])]"
    ran = await ask("exec", sandbox_id=sandbox, code=cell, stream=True)
    print("result:", ran["result"])

    ran = await ask("exec", sandbox_id=sandbox, command="echo done; exit 3", stream=True)
    print("exit code:", ran["exit_code"])

    ended = await ask("terminate", sandbox_id=sandbox)
    print("sandbox:", ended["status"])
    await bus.drain()


asyncio.run(main())
