"""Trades what a strategy wants: an agent around anything that decides weights from closes.

A strategy has a method `decide(closes, held)`: closes are dollars, a row per day up to today and a
column per instrument; held are the present weights. It returns the weights it wants, or None to
leave everything as it is. What it wants is sized by the rules of `desk`, and ordered for the next
bar.
"""

import numpy as np

from desk import changes, measure
from sandpit_stage import MICROS, understood


class Table:
    """Closes by day and instrument, growing. A day without a price keeps the price before; days
    before every instrument had one are left out."""

    def __init__(self, symbols):
        self.symbols = symbols
        self.last = {}
        self.days = []
        self.rows = np.empty((256, len(symbols)))

    def add(self, bar):
        """Takes in a day. False if some instrument has not had a price yet."""
        self.last.update(bar.closes)
        if len(self.last) < len(self.symbols):
            return False
        if len(self.days) == len(self.rows):
            self.rows = np.concatenate([self.rows, np.empty_like(self.rows)])
        self.rows[len(self.days)] = [self.last[symbol] for symbol in self.symbols]
        self.days.append(bar.day)
        return True

    def closes(self):
        """All days so far, the present one last."""
        return self.rows[: len(self.days)]


class Follower:
    """An agent that keeps the closes it was shown, and acts on days on which all have a price."""

    def __init__(self, symbols):
        self.table = Table(symbols)
        self.equity = []

    def learn(self, bars):
        for bar in bars:
            self.table.add(bar)

    def bar(self, bar, account):
        self.equity.append(account.equity)
        return self.act(bar, account) if self.table.add(bar) else []


class Floor(Follower):
    """An agent around one strategy."""

    def __init__(self, strategy, symbols, params):
        super().__init__(symbols)
        known, unknown = understood(strategy, params)
        self.strategy = strategy(**known)
        self.parameters = known
        self.symbols = symbols
        self.notes = ["parameters that its program does not have: " + ", ".join(unknown)] * bool(unknown)

    def act(self, bar, account):
        return self.wanted(account)

    def wanted(self, account):
        """Signals that lead from what is held to what the strategy wants."""
        closes = self.table.closes()
        prices = np.rint(closes[-1] * MICROS).astype(np.int64)
        equity = round(account.equity * MICROS)
        shares = [account.shares.get(symbol, 0) for symbol in self.symbols]
        weights = self.strategy.decide(closes, np.array(shares) * prices / equity)
        if weights is None:
            return []
        return [
            {"symbol": self.symbols[at], "action": "buy" if change > 0 else "sell", "qty": abs(change)}
            for at, change in changes(weights, shares, prices, equity).items()
        ]

    def report(self):
        return {**measure(self.equity), "parameters": self.parameters, "rows": len(self.table.days)}
