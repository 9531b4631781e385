"""Momentum: buy what rose most over the past months, leave out the last one, swap once a month."""

import numpy as np

VARIANTS = [{"days": days, "names": names} for days in (63, 126, 252) for names in (5, 8)]
SKIP = 21
"""The last month tends to fall back a little; it is left out of the ranking."""
EVERY = 21
"""Trading days between two decisions."""


class Strategy:
    """Ranks by past return and holds the best in equal parts, if they rose at all."""

    def __init__(self, days=126, names=5):
        self.days = days
        self.names = names
        self.age = -1

    def decide(self, closes, held):
        self.age += 1
        if self.age % EVERY or len(closes) <= self.days + SKIP:
            return None
        rise = closes[-1 - SKIP] / closes[-1 - SKIP - self.days] - 1
        best = np.argsort(-rise, kind="stable")[: self.names]
        weights = np.zeros(len(rise))
        weights[best] = np.where(rise[best] > 0, 1 / self.names, 0)
        return weights
