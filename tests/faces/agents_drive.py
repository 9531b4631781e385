"""Four agents of different kinds trade a replayed year, asked for as any client of the bus does it.

Prints what was published and answered, as JSON, and judges nothing: agents_judge.py does.
"""

import asyncio
import json
import os
import time

import nats

KINDS = [
    ("trend_follower", {"period": 20, "threshold": 0.02}),
    ("mean_reversion", {"window": 20, "entry": 2.0}),
    ("pairs_trading", {"window": 20, "entry": 2.0}),
    ("optimizer", {"strategy": "rise", "window": 252, "refit": 63}),
]
FEED = "year"
FROM, TO = "2021-01-01", "2021-12-31"
END_MAX_S = 240
"""Longest the year may take on a machine that also compiles."""


async def ask(bus, verb, patience_s=60, **arguments):
    """The answer to a request; a refusal is a failure of the test."""
    deadline = str(int((time.time() + patience_s) * 1000))
    reply = await bus.request(
        "sandpit.v1.req." + verb,
        json.dumps(arguments).encode(),
        timeout=patience_s + 5,
        headers={"Sandpit-Deadline": deadline},
    )
    if "Nats-Service-Error" in (reply.headers or {}):
        raise RuntimeError("%s: %s" % (verb, reply.data.decode()))
    return json.loads(reply.data)


async def sandbox(bus):
    """A sandbox with numpy. The first one may have to wait until its template is built."""
    for _ in range(5):
        try:
            return await ask(bus, "create", template="trading", timeout=3600)
        except RuntimeError as error:
            last = error
    raise last


async def main():
    bus = await nats.connect(
        os.environ["NATS_URL"], user=os.environ["NATS_USER"], password=os.environ["NATS_PASSWORD"]
    )
    fills, bars, ended = [], [], {}
    over = asyncio.Event()

    async def on_fill(message):
        fills.append(json.loads(message.data))

    async def on_bar(message):
        bars.append(json.loads(message.data))

    async def on_end(message):
        run = json.loads(message.data)
        ended[run["execution_id"]] = run
        if len(ended) == len(KINDS):
            over.set()

    await bus.subscribe("sandpit.v1.evt.agent.filled", cb=on_fill)
    await bus.subscribe("sandpit.v1.evt.agent.ended", cb=on_end)
    await bus.subscribe("sandpit.v1.market." + FEED, cb=on_bar)
    await bus.flush()

    symbols = os.environ["SYMBOLS"].split(",")
    boxes = [await sandbox(bus) for _ in KINDS]
    agents = []
    for (kind, params), box in zip(KINDS, boxes):
        agent = await ask(
            bus, "agent", sandbox_id=box["sandbox_id"], agent_type=kind, symbols=symbols,
            strategy_params={**params, "feed": FEED}, wait=0,
        )
        assert agent["status"] == "running", agent
        agents.append(agent)

    began = time.monotonic()
    replay = await ask(bus, "replay", **{"feed": FEED, "from": FROM, "to": TO, "symbols": symbols})
    await asyncio.wait_for(over.wait(), END_MAX_S)
    took = time.monotonic() - began
    runs = []
    for agent in agents:
        status = await ask(bus, "status", execution_id=agent["execution_id"])
        kept = await ask(bus, "fills", agent_id=agent["agent_id"])
        runs.append({"run": status["execution"], "kept": kept})
    for box in boxes:
        await ask(bus, "terminate", sandbox_id=box["sandbox_id"])
    await bus.drain()
    print(json.dumps({
        "replay": replay, "bars": bars, "fills": fills, "runs": runs, "took_s": round(took, 3)}))


asyncio.run(main())
