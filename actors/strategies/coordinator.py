"""Coordinator: weighs opinions and says what most of them would do. Orders nothing.

Opinions are those of other agents, if `opinions` brings them (agent to a list of signals), each with
the weight that `weights` gives it or else 1. Without them it asks three simple rules of its own:
what rose over a while rises on, what is far from its mean comes back, and the last day repeats.
"""

from sums import Closes, deviation, mean

VOTES = {"buy": 1, "sell": -1, "hold": 0}


class Agent:
    """Agrees where the weighed votes are at least `agreement` of all weights."""

    def __init__(self, symbols, params):
        self.symbols = symbols
        self.agreement = params.get("agreement", 0.5)
        self.opinions = params.get("opinions", {})
        self.weights = params.get("weights", {})
        self.closes = Closes(symbols, int(params.get("period", 60)) + 1)
        self.learn = self.closes.learn
        self.decided = {}

    def bar(self, bar, account):
        self.closes.add(bar)
        self.decided = {symbol: self.weigh(symbol) for symbol in bar.closes}
        return [
            {"symbol": symbol, "action": one["action"], "qty": 0, "confidence": one["agreement"]}
            for symbol, one in self.decided.items()
        ]

    def weigh(self, symbol):
        votes = self.told(symbol) if self.opinions else self.own(symbol)
        total = sum(weight for _, weight in votes)
        score = sum(vote * weight for vote, weight in votes) / total if total else 0.0
        agreed = abs(score) >= self.agreement
        action = ("buy" if score > 0 else "sell") if agreed else "hold"
        return {"action": action, "agreement": abs(score), "votes": len(votes)}

    def told(self, symbol):
        return [
            (VOTES.get(signal.get("action"), 0), self.weights.get(agent, 1))
            for agent, signals in self.opinions.items()
            for signal in signals
            if signal.get("symbol") == symbol
        ]

    def own(self, symbol):
        row = self.closes.rows[symbol]
        swing = deviation(row)
        if len(row) < 3 or not swing:
            return []
        distance = (row[-1] - mean(row)) / swing
        sign = lambda value: (value > 0) - (value < 0)
        return [
            (sign(row[-1] - row[0]), 1),
            (-sign(distance) if abs(distance) > 1 else 0, 1),
            (sign(row[-1] - row[-2]), 1),
        ]

    def report(self):
        return {"opinions": "given" if self.opinions else "its own rules", "decided": self.decided}
