"""What agents answer when something is wrong with them, and what survives it. Sandboxes of `base`
have nothing but the standard library."""

import asyncio
import json
import os
import time

import nats

CLUMSY = '''
import os

class Agent:
    """Its worker is killed under it once, on its tenth bar."""

    def __init__(self, symbols, params):
        self.symbol = symbols[0]
        self.seen = 0

    def learn(self, bars):
        self.learned = len(bars)

    def bar(self, bar, account):
        self.seen += 1
        if self.seen == 10 and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), 9)
        return [{"symbol": self.symbol, "action": "buy", "qty": 1}]

    def report(self):
        return {"learned": self.learned, "seen": self.seen}
'''
RAISING = "class Agent:\n    def __init__(self, symbols, params):\n        raise ValueError('no such luck')\n"
ENDLESS = """
class Agent:
    def __init__(self, symbols, params):
        pass

    def bar(self, bar, account):
        while True:
            pass
"""
HOARDING = """
class Agent:
    def __init__(self, symbols, params):
        pass

    def bar(self, bar, account):
        return [{"symbol": "SHELL", "action": "buy", "qty": 1}]
"""


async def main():
    bus = await nats.connect(
        os.environ["NATS_URL"], user=os.environ["NATS_USER"], password=os.environ["NATS_PASSWORD"]
    )

    async def asked(verb, **arguments):
        deadline = {"Sandpit-Deadline": str(int((time.time() + 60) * 1000))}
        body = json.dumps(arguments).encode()
        reply = await bus.request("sandpit.v1.req." + verb, body, timeout=65, headers=deadline)
        refused = "Nats-Service-Error" in (reply.headers or {})
        return refused, json.loads(reply.data)

    async def ask(verb, **arguments):
        refused, answer = await asked(verb, **arguments)
        assert not refused, (verb, answer)
        return answer

    async def refusal(verb, **arguments):
        refused, answer = await asked(verb, **arguments)
        assert refused, (verb, answer)
        return answer

    box = (await ask("create", template="base", timeout=600))["sandbox_id"]
    for name, text in (
        ("clumsy.py", CLUMSY), ("raising.py", RAISING), ("endless.py", ENDLESS), ("hoarding.py", HOARDING)
    ):
        await ask("exec", sandbox_id=box, command="true", files={name: text})

    async def run(agent_type="trader", symbols=("KO", "PEP"), sandbox=box, wait=50, **params):
        return await ask(
            "agent", sandbox_id=sandbox, agent_type=agent_type, symbols=list(symbols),
            strategy_params=params, wait=wait)

    async def fails(because, **arguments):
        answer = await run(**arguments)
        reason = answer["results"].get("reason", "")
        assert answer["status"] == "failed" and because in reason, answer
        print("failed as it should: " + reason)

    # A program that is killed with its worker goes on where it was, and no order is lost.
    answer = await run(program="clumsy.py", symbols=["KO"])
    account, metrics = answer["results"]["account"], answer["results"]["metrics"]
    assert answer["status"] == "completed", answer
    assert metrics == {"learned": 504 + 9, "seen": 252 - 9}, metrics
    assert account["trades"] == account["holdings"]["KO"]["shares"] == 251, account
    assert any("began again" in note for note in answer["notes"]), answer["notes"]
    kept = await ask("fills", agent_id=answer["agent_id"])
    assert kept["total_count"] == account["fills"] == 251
    print("its worker was killed: %d trades, none lost, none doubled" % account["trades"])

    # Whatever is wrong is said, and nothing is made up.
    await fails("needs the package numpy", agent_type="trend")
    await fails("there is no instrument with prices called NOPE", symbols=["NOPE"])
    await fails("no such luck", program="raising.py")
    await fails("took longer than", program="endless.py")
    await fails("a signal for SHELL", program="hoarding.py")
    await fails("there is no file", program="missing.py")

    # The programs that order nothing say what they computed; the market maker trades.
    for agent_type in ("analyzer", "monitor", "neural_forecaster", "risk_manager", "coordinator", "market_maker"):
        answer = await run(agent_type, symbols=["KO", "PEP", "JPM"])
        results = answer["results"]
        assert answer["status"] == "completed" and results["metrics"] and not answer.get("notes"), answer
        assert (results["account"]["trades"] > 0) == (agent_type == "market_maker"), results["account"]
        assert results["data"]["rows"] == 756, results["data"]
        print("%s: %s" % (agent_type, json.dumps(results["metrics"])[:160]))

    # On a feed that takes its time: running, looked at, halted; and ended with its sandbox.
    ticking = {"feed": "ticking", "interval_ms": 20, "symbols": ["KO", "PEP"]}
    await ask("replay", **ticking)
    slow = await run("monitor", feed="ticking", wait=0)
    assert slow["status"] == "running", slow
    seen = await ask("status", execution_id=slow["execution_id"])
    assert seen["sandbox_id"] == box and seen["execution"]["status"] == "running", seen
    halted = await ask("halt", agent_id=slow["agent_id"])
    assert halted["status"] == "completed" and halted["results"]["reason"] == "it was halted", halted
    other = (await ask("create", template="base", timeout=600))["sandbox_id"]
    doomed = await run("monitor", sandbox=other, feed="ticking", wait=0)
    ended = asyncio.Event()

    async def on_end(message):
        if json.loads(message.data)["execution_id"] == doomed["execution_id"]:
            ended.set()

    await bus.subscribe("sandpit.v1.evt.agent.ended", cb=on_end)
    await bus.flush()
    await ask("terminate", sandbox_id=other)
    await asyncio.wait_for(ended.wait(), 30)
    seen = await ask("status", execution_id=doomed["execution_id"])
    reason = seen["execution"]["results"]["reason"]
    assert seen["execution"]["status"] == "failed" and "its sandbox cannot be used" in reason, seen
    print("ended with its sandbox: " + reason)

    # What cannot be begun is refused.
    agent = {"sandbox_id": box, "symbols": ["KO"]}
    unknown = await refusal("agent", agent_type="prophet", **agent)
    assert unknown["kind"] == "invalid_argument" and "market_maker" in unknown["detail"]["expected"]
    assert (await refusal("agent", agent_type="trader", use_gpu=True, **agent))["kind"] == "unsupported"
    assert (await refusal("agent", agent_type="trader", wait=301, **agent))["detail"]["field"] == "wait"
    gone = await refusal("agent", agent_type="trader", **{**agent, "sandbox_id": other})
    assert gone["kind"] == "gone", gone
    nobody = "i" + "0" * 26
    gone = await refusal("agent", agent_type="trader", **{**agent, "sandbox_id": nobody})
    assert gone["kind"] == "not_found", gone
    assert (await refusal("status", execution_id="x" + "0" * 26))["kind"] == "not_found"
    assert (await refusal("bars", feed="nowhere"))["kind"] == "not_found"
    assert (await refusal("replay", **{**ticking, "interval_ms": 21}))["kind"] == "conflict"
    await ask("terminate", sandbox_id=box)
    await bus.drain()


asyncio.run(main())
