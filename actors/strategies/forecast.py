"""Forecast: tomorrow's close by exponential smoothing with a damped trend, held against the forecast
that nothing changes. Orders nothing.

Gardner and McKenzie's damped trend (1985), on logarithms of prices. Its three parameters are those
of a small grid that erred least on the days seen so far.
"""

import itertools
import math

from sums import Closes

GRID = list(itertools.product((0.3, 0.6, 0.9), (0.05, 0.2), (0.8, 0.95)))
"""Level, trend, damping."""
REFIT_EVERY = 21
"""Bars after which the grid is searched again."""


class Smoother:
    """One row of prices."""

    def __init__(self, level, trend, damping):
        self.rates = level, trend, damping
        self.level = None
        self.slope = 0.0

    def expects(self):
        """The next logarithm."""
        return None if self.level is None else self.level + self.rates[2] * self.slope

    def add(self, log):
        if self.level is None:
            self.level = log
            return
        level, trend, damping = self.rates
        before, expected = self.level, self.expects()
        self.level = expected + level * (log - expected)
        self.slope = damping * self.slope + trend * (self.level - before - damping * self.slope)


def errors(rates, logs):
    """The squared errors of one-day forecasts, and the smoother as it is after them."""
    smoother, total = Smoother(*rates), 0.0
    for log in logs:
        expected = smoother.expects()
        total += 0.0 if expected is None else (log - expected) ** 2
        smoother.add(log)
    return total, smoother


class Agent:
    """Forecasts every instrument."""

    def __init__(self, symbols, params):
        self.closes = Closes(symbols, int(params.get("period", 252)))
        self.learn = self.closes.learn
        self.fitted = {}
        self.expected = {}
        self.age = -1
        self.scores = {symbol: [0, 0.0, 0.0] for symbol in symbols}

    def bar(self, bar, account):
        self.judge(bar)
        self.closes.add(bar)
        self.age += 1
        signals = []
        for symbol, close in bar.closes.items():
            smoother = self.smoother(symbol, close)
            self.expected[symbol] = close, math.exp(smoother.expects())
            up = self.expected[symbol][1] > close
            signals.append({"symbol": symbol, "action": "buy" if up else "sell", "qty": 0})
        return signals

    def smoother(self, symbol, close):
        if self.age % REFIT_EVERY and symbol in self.fitted:
            self.fitted[symbol].add(math.log(close))
        else:
            logs = [math.log(one) for one in self.closes.rows[symbol]]
            fits = (errors(rates, logs) for rates in GRID)
            self.fitted[symbol] = min(fits, key=lambda fit: fit[0])[1]
        return self.fitted[symbol]

    def judge(self, bar):
        """Yesterday's forecasts against today's closes."""
        for symbol, close in bar.closes.items():
            if symbol in self.expected:
                before, expected = self.expected[symbol]
                score = self.scores[symbol]
                score[0] += 1
                score[1] += abs(close - expected)
                score[2] += abs(close - before)

    def report(self):
        """Skill is the share of the naive forecast's error that is saved: below zero it is worse."""
        return {"method": "exponential smoothing, damped trend", "instruments": {
            symbol: {
                "forecast": self.expected[symbol][1],
                "close": self.expected[symbol][0],
                "forecasts_judged": count,
                "mean_error": error / count if count else None,
                "naive_error": naive / count if count else None,
                "skill": 1 - error / naive if naive else None,
            }
            for symbol, (count, error, naive) in self.scores.items() if symbol in self.expected
        }}
