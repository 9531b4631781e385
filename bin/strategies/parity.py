"""Risk parity: everything, the calm more than the wild, and less of it in wild times."""

import numpy as np

VARIANTS = [
    {"lookback": lookback, "target": target} for lookback in (21, 63, 126) for target in (0.10, 0.15)
]
EVERY = 21
"""Trading days between two decisions: a month."""
DAYS_A_YEAR = 252


class Strategy:
    """Weights by the inverse of volatility, scaled down when the whole would swing too much."""

    def __init__(self, lookback, target):
        self.lookback = lookback
        self.target = target
        self.age = -1

    def decide(self, closes, held):
        self.age += 1
        if self.age % EVERY or len(closes) <= self.lookback:
            return None
        recent = closes[-self.lookback - 1 :]
        returns = recent[1:] / recent[:-1] - 1
        calm = 1 / np.maximum(returns.std(axis=0, ddof=1), 1e-6)
        weights = calm / calm.sum()
        swing = (returns @ weights).std(ddof=1) * np.sqrt(DAYS_A_YEAR)
        return weights * min(1.0, self.target / swing)
