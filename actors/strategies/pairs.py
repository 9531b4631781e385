"""Pairs: of two instruments that move together, buy the one that fell behind and sell the other."""

import numpy as np

VARIANTS = [{"window": window, "entry": entry} for window in (20, 40, 60) for entry in (1.5, 2.0)]
FORMATION = 252
"""Days over which instruments are found to move together."""
REFORM_EVERY = 126
"""Trading days after which pairs are chosen again; those that ended are closed."""
PAIRS = 5
"""Pairs at once; no instrument is in two of them."""
EXIT = 0.5
"""A pair is closed when its spread is so few standard deviations from its mean."""
LEG = 0.09
"""Share of the equity in each leg: five pairs stay within what a desk may hold."""


class Strategy:
    """Trades the log spread of each pair around its recent mean."""

    def __init__(self, window=20, entry=2.0, cointegration_threshold=None):
        self.window = window
        self.entry = entry
        self.critical = critical(cointegration_threshold)
        self.age = -1
        self.pairs = []
        self.sides = []

    def decide(self, closes, held):
        self.age += 1
        if len(closes) <= FORMATION:
            return None
        before = list(zip(self.pairs, self.sides))
        if self.age % REFORM_EVERY == 0:
            self.form(np.log(closes[-FORMATION - 1 :]))
        self.sides = self.judge(np.log(closes[-self.window :]))
        if list(zip(self.pairs, self.sides)) == before:
            return None
        weights = np.zeros(closes.shape[1])
        for (one, other), side in zip(self.pairs, self.sides):
            weights[one] = side * LEG
            weights[other] = -side * LEG
        return weights

    def form(self, logs):
        """The most alike first, each instrument once; a pair chosen again keeps its side."""
        returns = np.diff(logs, axis=0)
        alike = np.triu(np.corrcoef(returns.T), k=1)
        order = np.dstack(np.unravel_index(np.argsort(-alike, axis=None, kind="stable"), alike.shape))
        sides = dict(zip(self.pairs, self.sides))
        taken, pairs = set(), []
        for one, other in order[0]:
            if len(pairs) == PAIRS or alike[one, other] <= 0:
                break
            if one not in taken and other not in taken and self.returns(logs[:, one] - logs[:, other]):
                taken |= {one, other}
                pairs.append((int(one), int(other)))
        self.pairs = pairs
        self.sides = [sides.get(pair, 0) for pair in pairs]

    def returns(self, spread):
        """Whether a spread is known to come back to its mean, as far as that was asked for."""
        return self.critical is None or dickey_fuller(spread) < self.critical

    def judge(self, logs):
        """For each pair, 1: long the first leg; -1: short it; 0: out."""
        if not self.pairs:
            return []
        one, other = np.array(self.pairs).T
        spreads = logs[:, one] - logs[:, other]
        deviation = spreads.std(axis=0, ddof=1)
        distance = (spreads[-1] - spreads.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
        stay = np.where(np.abs(distance) < EXIT, 0, self.sides)
        return np.where(distance < -self.entry, 1, np.where(distance > self.entry, -1, stay)).tolist()


def critical(threshold):
    """The statistic below which a unit root is rejected at this level: asymptotic values of the
    Dickey-Fuller test with a constant (MacKinnon, 2010), for a spread whose ratio was not fitted."""
    if threshold is None:
        return None
    for level, value in ((0.01, -3.43), (0.05, -2.86), (0.10, -2.57)):
        if threshold <= level:
            return value
    raise ValueError("cointegration_threshold is above 0.10, which rejects nothing")


def dickey_fuller(spread):
    """The statistic of the test: the slope of changes on levels, over its standard error."""
    levels, steps = spread[:-1], np.diff(spread)
    centered = levels - levels.mean()
    power = centered @ centered
    if power <= 0:
        return 0.0
    slope = centered @ steps / power
    rest = steps - steps.mean() - slope * centered
    error = np.sqrt(rest @ rest / (len(steps) - 2) / power)
    return slope / error if error > 0 else 0.0
