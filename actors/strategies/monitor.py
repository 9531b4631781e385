"""Monitor: names what is out of the ordinary. Orders nothing."""

from sums import Closes, changes, deepest_fall, deviation

ALERTS_MAX = 100
"""Alerts kept, the latest."""


class Agent:
    """An alert is a move of more than `deviations` standard deviations of the `period` days before,
    a fall of more than `drawdown` from the highest close of those days, or a day without a price."""

    def __init__(self, symbols, params):
        self.symbols = symbols
        self.deviations = params.get("deviations", 3)
        self.drawdown = params.get("drawdown", 0.2)
        self.closes = Closes(symbols, int(params.get("period", 60)) + 1)
        self.learn = self.closes.learn
        self.fallen = set()
        self.alerts = []
        self.count = 0

    def bar(self, bar, account):
        for symbol in self.symbols:
            if symbol not in bar.closes:
                self.alert(bar, symbol, "no price", None, None)
                continue
            before = changes(self.closes.rows[symbol])
            swing = deviation(before)
            move = bar.closes[symbol] / self.closes.rows[symbol][-1] - 1 if before else 0.0
            if swing and abs(move) > self.deviations * swing:
                self.alert(bar, symbol, "move", move, self.deviations * swing)
            fall = deepest_fall([max(self.closes.rows[symbol], default=0.0), bar.closes[symbol]])
            if fall <= self.drawdown:
                self.fallen.discard(symbol)
            elif symbol not in self.fallen:
                self.fallen.add(symbol)
                self.alert(bar, symbol, "drawdown", fall, self.drawdown)
        self.closes.add(bar)
        return [{"symbol": symbol, "action": "hold"} for symbol in bar.closes]

    def alert(self, bar, symbol, kind, observed, limit):
        self.count += 1
        alert = {"day": bar.day, "symbol": symbol, "kind": kind, "observed": observed, "limit": limit}
        self.alerts = (self.alerts + [alert])[-ALERTS_MAX:]

    def report(self):
        return {"alerts": self.alerts, "alert_count": self.count}
