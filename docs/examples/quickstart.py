"""A sandbox over plain NATS: create it, run code in it, read its output as it comes, end it.

    pip install nats-py
    eval "$(sandpit env)"          # NATS_URL, NATS_USER and NATS_PASSWORD of the running node
    python quickstart.py
"""

import asyncio
import json
import os

import nats


async def main():
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

    # State is kept between the cells of one sandbox, and the last expression is the result.
    await ask("exec", sandbox_id=sandbox, code="prices = [100, 101, 99, 104]")
    cell = "print('daily returns')\n[round(b / a - 1, 4) for a, b in zip(prices, prices[1:])]"
    ran = await ask("exec", sandbox_id=sandbox, code=cell, stream=True)
    print("result:", ran["result"])

    # A program that fails is a result, not an error.
    ran = await ask("exec", sandbox_id=sandbox, command="echo done; exit 3", stream=True)
    print("exit code:", ran["exit_code"])

    ended = await ask("terminate", sandbox_id=sandbox)
    print("sandbox:", ended["status"])
    await bus.drain()


asyncio.run(main())
