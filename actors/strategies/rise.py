"""Rise: hold what rose enough over a while, leave it when it falls from its top or rose no more."""

import numpy as np

VARIANTS = [
    {"period": period, "threshold": threshold} for period in (10, 20, 60) for threshold in (0.0, 0.02)
]


class Strategy:
    """Enters at `threshold` over `period` days; leaves below zero, or `stop_loss` under the highest
    close since it entered."""

    def __init__(self, period=20, threshold=0.02, max_position=0.1, stop_loss=0.05):
        self.period = int(period)
        self.threshold = threshold
        self.max_position = max_position
        self.stop_loss = stop_loss
        self.top = None

    def decide(self, closes, held):
        if len(closes) <= self.period:
            return None
        now = closes[-1]
        holds = held > 0
        self.top = np.where(holds, np.fmax(now, now if self.top is None else self.top), now)
        rise = now / closes[-1 - self.period] - 1
        stopped = now < self.top * (1 - self.stop_loss)
        wanted = np.where(holds, (rise > 0) & ~stopped, rise > self.threshold)
        if (wanted == holds).all():
            return None
        return np.where(wanted, np.where(holds, held, self.max_position), 0.0)
