"""Risk: what a portfolio could lose, judged by what it would have lost. Orders nothing.

Value at risk and expected shortfall are historical: the losses of the present weights on the days
seen, nothing assumed about their shape.
"""

from sums import Closes, changes, deepest_fall, deviation, mean, quantile, yearly


class Agent:
    """Weights are `weights` (instrument to share), or equal. Looks back `period` days."""

    def __init__(self, symbols, params):
        equal = {symbol: 1 / len(symbols) for symbol in symbols}
        self.weights = params.get("weights", equal)
        self.limit = params.get("var_limit", 0.03)
        self.closes = Closes(symbols, int(params.get("period", 252)) + 1)
        self.learn = self.closes.learn

    def bar(self, bar, account):
        self.closes.add(bar)
        return [{"symbol": symbol, "action": "hold"} for symbol in bar.closes]

    def report(self):
        rows = {symbol: changes(self.closes.rows[symbol]) for symbol in self.weights}
        days = min(len(row) for row in rows.values())
        if days < 20:
            return {"days": days}
        daily = [
            sum(weight * rows[symbol][at - days] for symbol, weight in self.weights.items())
            for at in range(days)
        ]
        worth = [1.0]
        for change in daily:
            worth.append(worth[-1] * (1 + change))
        worst = {share: -quantile(daily, 1 - share) for share in (0.95, 0.99)}
        tail = [-change for change in daily if -change >= worst[0.95]]
        return {
            "days": days,
            "value_at_risk_95": worst[0.95],
            "value_at_risk_99": worst[0.99],
            "expected_shortfall_95": mean(tail),
            "volatility": yearly(deviation(daily)),
            "max_drawdown": deepest_fall(worth),
            "worst_day": min(daily),
            "concentration": sum(weight**2 for weight in self.weights.values()),
            "within_limit": worst[0.95] <= self.limit,
        }
