"""Recomputes what four agents earned from nothing but what was published: fills and bars.

Standard library only, and none of the project's code: whole micro-dollars, a line of arithmetic per
fill. Reads what agents_drive.py printed; fails if one figure is not the same to the micro-dollar.
"""

import json
import sys

recorded = json.load(sys.stdin)
replay, bars = recorded["replay"], recorded["bars"]

assert len(replay["symbols"]) >= 10, replay["symbols"]
assert replay["bars"] == len(bars) >= 252, (replay["bars"], len(bars))
numbers = [bar["seq"] for bar in bars]
assert numbers == list(range(numbers[0], numbers[0] + len(bars))), "bars are missing"
assert [bar["day"] for bar in bars] == sorted({bar["day"] for bar in bars})
assert [bar["last"] for bar in bars] == [False] * (len(bars) - 1) + [True]
by_number = {bar["seq"]: bar for bar in bars}
closes = bars[-1]["closes"]

kinds = set()
for one in recorded["runs"]:
    run, account = one["run"], one["run"]["results"]["account"]
    assert run["status"] == "completed", run
    assert run["results"]["data"]["to"] == bars[-1]["day"], run["results"]["data"]
    kinds.add(run["agent_type"])
    fills = [fill for fill in recorded["fills"] if fill["agent_id"] == run["agent_id"]]
    assert [fill["seq"] for fill in fills] == list(range(len(fills))), "fills are missing"
    assert fills == one["kept"]["fills"], "what was published is not what was kept"

    cash, shares, trades, costs = account["capital_microusd"], {}, 0, 0
    for fill in fills:
        bar = by_number[fill["bar"]]
        assert fill["day"] == bar["day"]
        cash -= fill["shares"] * fill["price_microusd"] + fill["cost_microusd"]
        costs += fill["cost_microusd"]
        assert fill["cost_microusd"] > 0, "nothing is for free"
        if fill["kind"] == "trade":
            trades += 1
            shares[fill["symbol"]] = shares.get(fill["symbol"], 0) + fill["shares"]
            close, price = bar["closes"][fill["symbol"]], fill["price_microusd"]
            worse = price - close if fill["shares"] > 0 else close - price
            assert worse > 0, "a fill is worse than the close of its bar: %s" % fill
            assert fill["bar"] > numbers[0], "nothing is filled on the bar it was decided on"
    equity = cash + sum(count * closes[symbol] for symbol, count in shares.items())
    pnl = equity - account["capital_microusd"]

    assert trades > 0, run
    expected = {
        "cash_microusd": cash, "equity_microusd": equity, "pnl_microusd": pnl,
        "costs_microusd": costs, "trades": trades, "fills": len(fills),
    }
    told = {name: account[name] for name in expected}
    assert told == expected, (run["agent_type"], told, expected)
    held = {symbol: count for symbol, count in shares.items() if count}
    assert {symbol: one["shares"] for symbol, one in account["holdings"].items()} == held
    print("%-16s %4d trades %4d fees  P&L %12.2f USD  costs %9.2f USD  %4d cells  %s" % (
        run["agent_type"], trades, len(fills) - trades, pnl / 1e6, costs / 1e6,
        run["executions"], run["execution_time"]))

assert len(kinds) == len(recorded["runs"]) == 4
print("%d bars of %d instruments, %s to %s, replayed and traded in %.1f s" % (
    len(bars), len(replay["symbols"]), replay["from"], replay["to"], recorded["took_s"]))
