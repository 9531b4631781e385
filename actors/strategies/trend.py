"""Trend: hold what trades above where it used to, judged by two moving averages."""

import numpy as np

VARIANTS = [{"fast": fast, "slow": slow} for fast in (10, 20, 50) for slow in (100, 200)]
EVERY = 5
"""Trading days between two decisions: a week."""


class Strategy:
    """Holds every instrument whose fast average is above its slow one, in equal parts of all."""

    def __init__(self, fast=20, slow=100):
        self.fast = fast
        self.slow = slow
        self.age = -1

    def decide(self, closes, held):
        self.age += 1
        if self.age % EVERY or len(closes) < self.slow:
            return None
        rising = closes[-self.fast :].mean(axis=0) > closes[-self.slow :].mean(axis=0)
        if (rising == (held > 0)).all():
            return None
        size = 1 / max(rising.sum(), len(rising) // 2)
        return np.where(rising, size, 0.0)
