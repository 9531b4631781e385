"""Market maker: quotes on both sides of a fair price, further apart in wild times, and leans
against what it holds.

With one price a day, a quote is filled only if the next close is past it: what happens in between
is not known, and nothing is invented.
"""

from sums import Closes, changes, deviation, mean


class Agent:
    """Quotes `width` daily deviations from the mean of the last `smooth` closes; holds at most
    `max_position` of the equity in one instrument."""

    def __init__(self, symbols, params):
        self.width = params.get("width", 0.5)
        self.smooth = int(params.get("smooth", 3))
        self.max_position = params.get("max_position", 0.1)
        self.closes = Closes(symbols, int(params.get("period", 20)) + 1)
        self.learn = self.closes.learn
        self.quotes = 0
        self.equity = []

    def bar(self, bar, account):
        self.equity.append(account.equity)
        self.closes.add(bar)
        signals = []
        for symbol, close in bar.closes.items():
            row = self.closes.rows[symbol]
            swing = deviation(changes(row))
            room = int(self.max_position * account.equity / close)
            if not swing or room < 2:
                continue
            held = account.shares.get(symbol, 0)
            # What it holds moves both quotes, so that it is sold sooner than more is bought.
            fair = mean(row[-self.smooth :]) * (1 - swing * self.width * held / room)
            for action, side, qty in (("buy", -1, room - held), ("sell", 1, room + held)):
                qty = min(qty, room // 2)
                limit = fair * (1 + side * self.width * swing)
                if qty > 0 and limit > 0:
                    signals.append({"symbol": symbol, "action": action, "qty": qty, "limit": limit})
        self.quotes += len(signals)
        return signals

    def report(self):
        return {"quotes": self.quotes, "bars": len(self.equity),
                "return": self.equity[-1] / self.equity[0] - 1 if self.equity else None}
