"""Risk parity: everything, the calm more than the wild, and less of it in wild times."""

import numpy as np

VARIANTS = [{"days": days, "swing": swing} for days in (21, 63, 126) for swing in (0.10, 0.15)]
EVERY = 21
"""Trading days between two decisions: a month."""
DAYS_A_YEAR = 252


class Strategy:
    """Weights by the inverse of volatility, scaled down when the whole would swing too much."""

    def __init__(self, days, swing):
        self.days = days
        self.swing = swing
        self.age = -1

    def decide(self, closes, held):
        self.age += 1
        if self.age % EVERY or len(closes) <= self.days:
            return None
        recent = closes[-self.days - 1 :]
        returns = recent[1:] / recent[:-1] - 1
        calm = 1 / np.maximum(returns.std(axis=0, ddof=1), 1e-6)
        weights = calm / calm.sum()
        swing = (returns @ weights).std(ddof=1) * np.sqrt(DAYS_A_YEAR)
        return weights * min(1.0, self.swing / swing)
