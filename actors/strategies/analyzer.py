"""Analyzer: describes every instrument by what it did over a while. Orders nothing."""

from sums import Closes, changes, correlation, deepest_fall, deviation, mean, sharpe, yearly


class Agent:
    """Looks back `period` days, a year unless told otherwise."""

    def __init__(self, symbols, params):
        self.closes = Closes(symbols, int(params.get("period", 252)) + 1)
        self.learn = self.closes.learn

    def bar(self, bar, account):
        self.closes.add(bar)
        return [{"symbol": symbol, "action": "hold"} for symbol in bar.closes]

    def report(self):
        returns = {symbol: changes(row) for symbol, row in self.closes.rows.items()}
        return {"from": self.closes.days[0], "to": self.closes.days[-1], "instruments": {
            symbol: {
                "days": len(row),
                "close": row[-1],
                "return": row[-1] / row[0] - 1,
                "volatility": yearly(deviation(returns[symbol])),
                "sharpe": sharpe(returns[symbol]),
                "max_drawdown": deepest_fall(row),
                "correlation": self.likeness(symbol, returns),
            }
            for symbol, row in self.closes.rows.items() if row
        }}

    @staticmethod
    def likeness(symbol, returns):
        """How much it moves with the others, on average."""
        others = (correlation(returns[symbol], row) for name, row in returns.items() if name != symbol)
        return mean([one for one in others if one is not None])
