"""Times calls of E2B's SDK, on a node and on a server that does nothing, in turns.

usage: e2b.py NODE KEY FLOOR TURNS ROUNDS RUSH       Prints one line of JSON for each time.
"""

import json
import sys
import threading
import time

from e2b_code_interpreter import Sandbox

node, key, floor, turns, rounds, rush = sys.argv[1:]


# Whoever tells a time writes a whole line.
telling = threading.Lock()


def timed(side, call, work):
    begun = time.perf_counter_ns()
    result = work()
    took = time.perf_counter_ns() - begun
    with telling:
        print(json.dumps({"side": side, "call": call, "ns": took}))
    return result


def cycle(side, url):
    at = {"api_url": url, "sandbox_url": url, "api_key": key}
    s = timed(side, "create", lambda: Sandbox.create("python", timeout=300, **at))
    timed(side, "commands.run", lambda: s.commands.run("true"))
    ran = timed(side, "run_code", lambda: s.run_code("1+1"))
    assert ran.text == "2", ran
    timed(side, "files.write", lambda: s.files.write("q", "1"))
    timed(side, "kill", lambda: s.kill())


def crowd(count):
    at = {"api_url": node, "sandbox_url": node, "api_key": key}
    made, failed, together = [], [], threading.Barrier(count)

    def one():
        together.wait()
        try:
            made.append(timed("node", "rush", lambda: Sandbox.create("python", timeout=300, **at)))
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=one) for _ in range(count)]
    begun = time.perf_counter_ns()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    took = time.perf_counter_ns() - begun
    [s.kill() for s in made]
    print(json.dumps({"made": len(made), "failed": failed, "ns": took}))


print(json.dumps({"warm": True}))
for _ in range(5):
    cycle("warm", node)
    cycle("warm", floor)
for _ in range(int(turns)):
    for _ in range(int(rounds)):
        cycle("node", node)
    for _ in range(int(rounds)):
        cycle("floor", floor)
crowd(int(rush))
