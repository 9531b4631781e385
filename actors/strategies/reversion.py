"""Mean reversion: buy what fell unusually far within a rising trend, sell when it is back."""

import numpy as np

VARIANTS = [{"window": window, "entry": entry} for window in (10, 20, 40) for entry in (1.5, 2.0)]
EXIT = 0.0
"""A position is closed when the price is back at its mean."""
TREND = 200
"""Days of the average that must be below the price: a fall out of a downtrend is no bargain."""
SIZE = 0.15
"""Share of the equity in each position."""


class Strategy:
    """Measures how far each close is from its recent mean, in standard deviations."""

    def __init__(self, window=20, entry=2.0):
        self.window = window
        self.entry = entry

    def decide(self, closes, held):
        if len(closes) < max(TREND, self.window):
            return None
        recent = closes[-self.window :]
        spread = recent.std(axis=0, ddof=1)
        distance = (closes[-1] - recent.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
        rising = closes[-1] > closes[-TREND:].mean(axis=0)
        enter = (distance < -self.entry) & rising
        stay = (held > 0) & (distance < EXIT)
        wanted = enter | stay
        if (wanted == (held > 0)).all():
            return None
        return np.where(wanted, np.where(held > 0, held, SIZE), 0.0)
