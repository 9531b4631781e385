"""Arbitrage: every instrument against a basket of all; sell what ran ahead, buy what fell behind."""

import numpy as np

VARIANTS = [{"window": window, "entry": entry} for window in (20, 40, 60) for entry in (1.5, 2.0)]
EXIT = 0.3
"""A position is closed when its distance from the basket is so few standard deviations."""
SIDE_MAX = 0.45
"""Longs, and shorts, are each worth at most so much of the equity."""
SIZE_MAX = 0.1
"""Share of the equity in one position."""


class Strategy:
    """Trades the log price relative to the basket around its mean of `window` days."""

    def __init__(self, window=40, entry=1.5):
        self.window = int(window)
        self.entry = entry
        self.sides = None

    def decide(self, closes, held):
        if len(closes) < self.window or closes.shape[1] < 2:
            return None
        logs = np.log(closes[-self.window :])
        apart = logs - logs.mean(axis=1, keepdims=True)
        spread = apart.std(axis=0, ddof=1)
        distance = (apart[-1] - apart.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
        before = np.zeros(closes.shape[1]) if self.sides is None else self.sides
        stay = np.where(np.abs(distance) < EXIT, 0, before)
        self.sides = np.where(distance > self.entry, -1, np.where(distance < -self.entry, 1, stay))
        if self.sides.tolist() == before.tolist():
            return None
        longs, shorts = (self.sides > 0).sum(), (self.sides < 0).sum()
        size = min(SIZE_MAX, SIDE_MAX / max(longs, shorts, 1))
        return self.sides * size
