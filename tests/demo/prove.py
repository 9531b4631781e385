"""Runs the demonstration's desks on made-up prices and prints facts as JSON for the test to judge.

prove.py STRATEGIES: the folder of the Python files that the demonstration sends to its sandboxes.
"""

import importlib
import json
import sys

import numpy as np

sys.path.insert(0, sys.argv[1])

from desk import CAPITAL, Desk, measure, within_limits  # noqa: E402
from market import Market  # noqa: E402

KINDS = ["momentum", "reversion", "pairs", "trend", "parity", "hold", "rise", "arbitrage"]
NAMES = 15
DAYS = 900
START, CUT = 280, 650
"""The desks begin at one row and the future is taken away after the other."""


def made_up(seed):
    """A market that rises slowly and moves together; days are numbers that sort like dates."""
    random = np.random.default_rng(seed)
    common = random.normal(0.0004, 0.010, size=(DAYS, 1))
    own = random.normal(0.0, 0.015, size=(DAYS, NAMES))
    closes = np.exp(np.cumsum(common + own, axis=0)) * random.uniform(20, 200, size=NAMES)
    days = [f"D{row:05d}" for row in range(DAYS)]
    return Market(days, [f"S{at:02d}" for at in range(NAMES)], np.maximum(closes * 1000, 1).round())


def scrambled(market, seed):
    """The same until the cut, and something else afterwards."""
    random = np.random.default_rng(seed)
    mills = market.mills.copy()
    mills[CUT + 1 :] = random.integers(1_000, 500_000, size=mills[CUT + 1 :].shape)
    return Market(market.days, market.symbols, mills)


def trade(market, kind, variant, cuts):
    """A desk that is run to each of these days: its statements, record, daily equity and orders."""
    module = importlib.import_module(kind)
    desk = Desk(market, module.Strategy(**module.VARIANTS[variant]), market.days[START])
    statements = [desk.run(day) for day in cuts]
    return {
        "statements": statements,
        "record": desk.summary(),
        "equity": desk.equity,
        "orders": [[row, at, shares] for row, order in desk.orders.items() for at, shares in order.items()],
    }


class Spy:
    """Writes down how much it sees, and wants more of everything than anybody may have."""

    def __init__(self):
        self.seen = []
        self.held = []

    def decide(self, closes, held):
        self.seen.append(len(closes))
        self.held.append(float(np.abs(held).max()))
        return np.where(np.arange(NAMES) % 2 == 0, 5.0, -5.0) * (1 if len(closes) % 40 < 20 else -1)


def main():
    market = made_up(7)
    cut, end = market.days[CUT], market.days[-1]
    facts = {"capital": CAPITAL, "kinds": {}}
    for kind in KINDS:
        variants = len(importlib.import_module(kind).VARIANTS)
        facts["kinds"][kind] = [
            {
                "whole": trade(market, kind, variant, [end]),
                "in_parts": trade(market, kind, variant, [market.days[400], cut, end]),
                "to_the_cut": trade(market, kind, variant, [cut]),
                "without_a_future": trade(market.upto(cut), kind, variant, [cut]),
                "with_another_future": trade(scrambled(market, 8), kind, variant, [cut]),
            }
            for variant in range(variants)
        ]
    spy = Spy()
    desk = Desk(market, spy, market.days[START])
    statement = desk.run(end)
    facts["spy"] = {"first": START + 1, "seen": spy.seen, "statement": statement}
    facts["market"] = {"days": market.days, "symbols": market.symbols, "mills": market.mills.tolist()}
    facts["limits"] = within_limits([5.0, -5.0, 0.1, float("nan")]).tolist()
    facts["known_metrics"] = measure([100.0, 110.0, 99.0, 108.9])
    print(json.dumps(facts))


main()
