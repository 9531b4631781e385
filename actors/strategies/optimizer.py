"""Optimizer: searches the parameters of a strategy on the past alone, trades with those that held up
best, and searches again: walk-forward.

At every search each variant trades the last `window` days from a standing start, on a desk that pays
the same costs, and the one with the best Sharpe ratio is taken. What it then earns was not seen by
any search: the agent's own account is the out-of-sample record.
"""

import importlib
import itertools

import numpy as np

from desk import Desk, measure
from floor import Floor, Follower
from market import Market

STRATEGIES = ("rise", "trend", "momentum", "reversion")
VARIANTS_MAX = 64
"""Sets of parameters of one search."""


class Agent(Follower):
    """`strategy` is the name of one, `grid` maps its parameters to lists of values."""

    def __init__(self, symbols, params):
        super().__init__(symbols)
        name = params.get("strategy", "rise")
        if name not in STRATEGIES:
            raise ValueError("strategy is %r; known are %s" % (name, ", ".join(STRATEGIES)))
        module = importlib.import_module(name)
        self.strategy = module.Strategy
        grid = params.get("grid")
        self.variants = module.VARIANTS if grid is None else [
            dict(zip(grid, values)) for values in itertools.product(*grid.values())
        ]
        if not 1 <= len(self.variants) <= VARIANTS_MAX:
            raise ValueError("%d variants; 1 to %d are searched" % (len(self.variants), VARIANTS_MAX))
        self.window = int(params.get("window", 252))
        self.refit = int(params.get("refit", 63))
        self.floor = None
        self.age = 0
        self.choices = []

    def act(self, bar, account):
        if self.age % self.refit == 0:
            self.search(bar, account)
        self.age += 1
        return self.floor.wanted(account)

    def search(self, bar, account):
        """Takes the variant that did best on the days up to this bar."""
        mills = np.rint(self.table.closes() * 1000)
        market = Market(self.table.days, self.table.symbols, mills)
        start = self.table.days[-min(self.window, len(self.table.days))]
        scores = [self.score(market, start, variant) for variant in self.variants]
        best = max(range(len(scores)), key=scores.__getitem__)
        self.close_choice(account)
        self.choices.append({
            "day": bar.day,
            "parameters": self.variants[best],
            "in_sample_sharpe": scores[best],
            "equity": account.equity,
        })
        self.floor = Floor(self.strategy, self.table.symbols, self.variants[best])
        self.floor.table = self.table

    def score(self, market, start, variant):
        desk = Desk(market, self.strategy(**variant), start)
        desk.run(market.days[-1])
        return desk.summary()["sharpe"]

    def close_choice(self, account):
        """What the last choice earned on days that it had not seen."""
        if self.choices:
            last = self.choices[-1]
            last["out_of_sample_return"] = account.equity / last["equity"] - 1

    def report(self):
        if self.choices and self.equity:
            last = self.choices[-1]
            last["out_of_sample_return"] = self.equity[-1] / last["equity"] - 1
        return {**measure(self.equity), "variants": len(self.variants), "choices": self.choices}
