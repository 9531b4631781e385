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

    def __init__(self, window, entry):
        self.window = window
        self.entry = entry
        self.age = -1
        self.pairs = []
        self.sides = []

    def decide(self, closes, held):
        self.age += 1
        if len(closes) <= FORMATION:
            return None
        before = list(zip(self.pairs, self.sides))
        if self.age % REFORM_EVERY == 0:
            self.form(np.diff(np.log(closes[-FORMATION - 1 :]), axis=0))
        logs = np.log(closes[-self.window :])
        self.sides = [
            self.side(logs[:, one] - logs[:, other], side)
            for (one, other), side in zip(self.pairs, self.sides)
        ]
        if list(zip(self.pairs, self.sides)) == before:
            return None
        weights = np.zeros(closes.shape[1])
        for (one, other), side in zip(self.pairs, self.sides):
            weights[one] = side * LEG
            weights[other] = -side * LEG
        return weights

    def form(self, returns):
        """The most alike first, each instrument once; a pair chosen again keeps its side."""
        alike = np.triu(np.corrcoef(returns.T), k=1)
        order = np.dstack(np.unravel_index(np.argsort(-alike, axis=None, kind="stable"), alike.shape))
        sides = dict(zip(self.pairs, self.sides))
        taken, pairs = set(), []
        for one, other in order[0]:
            if len(pairs) == PAIRS or alike[one, other] <= 0:
                break
            if one not in taken and other not in taken:
                taken |= {one, other}
                pairs.append((int(one), int(other)))
        self.pairs = pairs
        self.sides = [sides.get(pair, 0) for pair in pairs]

    def side(self, spread, side):
        """1: long the first leg; -1: short it; 0: out."""
        deviation = spread.std(ddof=1)
        if deviation == 0:
            return 0
        distance = (spread[-1] - spread.mean()) / deviation
        if distance < -self.entry:
            return 1
        if distance > self.entry:
            return -1
        return 0 if abs(distance) < EXIT else side
