"""Sums over a row of prices, with the standard library alone."""

import math

DAYS_A_YEAR = 252
"""Trading days, by which daily figures are made annual."""


def mean(values):
    """Their sum over their number; nothing of nothing."""
    return math.fsum(values) / len(values) if values else None


def deviation(values):
    """The standard deviation of a sample (n - 1); nothing of fewer than two."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def changes(closes):
    """The return of each day over the day before."""
    return [later / before - 1 for before, later in zip(closes, closes[1:])]


def yearly(swing):
    """A daily deviation as one of a year."""
    return None if swing is None else swing * math.sqrt(DAYS_A_YEAR)


def sharpe(returns):
    """Mean over deviation of daily returns, a year's, at a risk-free rate of zero; nothing where
    nothing moved."""
    swing = deviation(returns)
    return yearly(mean(returns) / swing) if swing else None


def deepest_fall(closes):
    """From the highest close so far, as a share of it."""
    top, deepest = 0.0, 0.0
    for close in closes:
        top = max(top, close)
        deepest = max(deepest, 1 - close / top)
    return deepest


def correlation(one, other):
    """Pearson's; nothing where one of them never moved."""
    spreads = deviation(one), deviation(other)
    if len(one) != len(other) or not all(spreads):
        return None
    middles = mean(one), mean(other)
    together = math.fsum((a - middles[0]) * (b - middles[1]) for a, b in zip(one, other))
    return together / ((len(one) - 1) * spreads[0] * spreads[1])


def quantile(values, share):
    """The value below which a share of them lies, between neighbors in a straight line."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


class Closes:
    """The latest closes of each instrument."""

    def __init__(self, symbols, keep):
        self.rows = {symbol: [] for symbol in symbols}
        self.keep = keep
        self.days = []

    def add(self, bar):
        self.days = (self.days + [bar.day])[-self.keep :]
        for symbol, close in bar.closes.items():
            self.rows[symbol] = (self.rows[symbol] + [close])[-self.keep :]

    def learn(self, bars):
        for bar in bars:
            self.add(bar)
