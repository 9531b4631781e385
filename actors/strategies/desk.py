"""A trading desk: asks its strategy once a day and keeps exact books of what came of it.

Time runs one way. At the close of a day the strategy sees the closes up to that day; what it decides
is sized then, and filled at the close of the next day, whatever that turns out to be. Cash is whole
micro-dollars, prices are whole mills, shares are whole: who has the list of trades can recompute
every figure to the last digit.
"""

import math
import operator

import numpy as np

CAPITAL = 100_000 * 1_000_000
"""Micro-dollars a desk begins with."""

COMMISSION_BPS = 1
"""Hundredths of a percent of the traded value, to the broker. An assumption."""

SLIPPAGE_BPS = 4
"""The same, lost between the close and the fill. An assumption for large US companies."""

BORROW_BPS = 50
"""A year's fee for shares sold short, by their value, charged every day. An assumption."""

WEIGHT_MAX = 0.20
"""Share of the desk's equity in one instrument, long or short, when it is decided."""

GROSS_MAX = 0.98
"""Longs and shorts together: no leverage, and enough cash left for what trading costs."""

TRADE_MIN = 0.005
"""A change smaller than this share of the equity is not worth its cost."""

DAYS_A_YEAR = 252
"""Trading days, by which daily figures are made annual."""

MICROS_PER_MILL = 1_000


def ceil_div(value, by):
    """Rounds up: costs never round in the desk's favor."""
    return -(-value // by)


class Desk:
    """One strategy, its cash, its shares and its orders."""

    def __init__(self, market, strategy, start, *, fill_after=1, cost_multiple=1):
        if fill_after < 1:
            raise ValueError("an order is filled a day after it was decided at the earliest")
        self.market = market
        self.strategy = strategy
        self.fill_after = fill_after
        self.cost_bps = (COMMISSION_BPS + SLIPPAGE_BPS) * cost_multiple
        self.cash = CAPITAL
        self.shares = [0] * len(market.symbols)
        self.orders = {}
        self.row = market.first_at_or_after(start)
        self.equity = [CAPITAL]
        self.costs = 0
        self.trades = 0

    def run(self, until):
        """Trades every day up to and including `until`, and tells what happened since last time.

        The blotter has one line per fill, `[day, symbol, shares, mills, cost]`, and one per day
        with shares sold short, `[day, "", 0, 0, fee]`, amounts in micro-dollars.
        """
        blotter = []
        days = self.market.days
        while self.row < len(days) and days[self.row] <= until:
            self.pay_for_shorts(blotter)
            self.fill(self.orders.pop(self.row, {}), blotter)
            self.equity.append(self.worth())
            self.decide()
            self.row += 1
        return {
            "until": days[self.row - 1],
            "equity": self.equity[-1],
            "cash": self.cash,
            "holdings": {
                symbol: [shares, int(mills)]
                for symbol, shares, mills in zip(
                    self.market.symbols, self.shares, self.market.mills[self.row - 1]
                )
                if shares
            },
            "blotter": blotter,
        }

    def worth(self):
        """Cash, and shares at the close of the current day."""
        closes = self.market.mills[self.row].tolist()
        return self.cash + MICROS_PER_MILL * sum(map(operator.mul, self.shares, closes))

    def decide(self):
        """Asks the strategy, with the past alone in sight, and places what it wants."""
        known = self.market.closes[: self.row + 1]
        prices = self.market.mills[self.row] * MICROS_PER_MILL
        equity = self.equity[-1]
        placed = self.shares.copy()
        for order in self.orders.values():
            for at, change in order.items():
                placed[at] += change
        wanted = self.strategy.decide(known, np.array(placed) * prices / equity)
        if wanted is None:
            return
        order = changes(wanted, placed, prices, equity)
        self.orders[self.row + self.fill_after] = order

    def fill(self, order, blotter):
        """Sells first, then buys as much as the cash allows."""
        for at, change in sorted(order.items(), key=lambda item: item[1]):
            mills = int(self.market.mills[self.row][at])
            price = mills * MICROS_PER_MILL
            if change > 0:
                with_costs = ceil_div(price * (10_000 + self.cost_bps), 10_000)
                change = min(change, max(self.cash - MICROS_PER_MILL, 0) // with_costs)
            if change == 0:
                continue
            cost = ceil_div(abs(change) * price * self.cost_bps, 10_000)
            self.cash -= change * price + cost
            self.shares[at] += change
            self.costs += cost
            self.trades += 1
            blotter.append(
                [self.market.days[self.row], self.market.symbols[at], change, mills, cost]
            )

    def pay_for_shorts(self, blotter):
        """The fee for what was short overnight, at the close before."""
        if self.row == 0 or min(self.shares) >= 0:
            return
        closes = self.market.mills[self.row - 1].tolist()
        short = -sum(min(shares, 0) * mills for shares, mills in zip(self.shares, closes))
        fee = ceil_div(short * MICROS_PER_MILL * BORROW_BPS, 10_000 * DAYS_A_YEAR)
        self.cash -= fee
        self.costs += fee
        blotter.append([self.market.days[self.row], "", 0, 0, fee])

    def terms(self):
        """What it trades under, so that a report can say it without knowing this file."""
        return {
            "capital": CAPITAL,
            "cost_bps": self.cost_bps,
            "borrow_bps": BORROW_BPS,
            "fill_after": self.fill_after,
            "weight_max": WEIGHT_MAX,
            "gross_max": GROSS_MAX,
        }

    def summary(self):
        """The desk's record since its start."""
        return {**measure(self.equity), "trades": self.trades, "costs": self.costs}


def changes(wanted, placed, prices, equity):
    """Shares to buy or sell, by instrument, that lead from what is placed to the weights wanted.
    Prices and equity are micro-dollars."""
    order = {}
    for at, weight in enumerate(within_limits(wanted)):
        change = int(weight * equity / int(prices[at])) - placed[at]
        if abs(change) * int(prices[at]) >= TRADE_MIN * equity or (weight == 0 and change):
            order[at] = change
    return order


def within_limits(weights):
    """The nearest weights a desk may hold."""
    weights = np.clip(np.nan_to_num(np.asarray(weights, dtype=float)), -WEIGHT_MAX, WEIGHT_MAX)
    gross = np.abs(weights).sum()
    return weights * (GROSS_MAX / gross) if gross > GROSS_MAX else weights


def measure(equity):
    """What is said of a row of daily values: total return, Sharpe ratio, deepest fall.

    Sharpe is the mean of the daily returns over their standard deviation (n - 1), times the root of
    252, at a risk-free rate of zero; it is zero where nothing ever moved. The deepest fall is from
    the highest close so far.
    """
    values = np.asarray(equity, dtype=float)
    returns = values[1:] / values[:-1] - 1
    spread = returns.std(ddof=1) if len(returns) > 1 else 0.0
    sharpe = returns.mean() / spread * math.sqrt(DAYS_A_YEAR) if spread > 0 else 0.0
    falls = 1 - values / np.maximum.accumulate(values)
    return {
        "return": float(values[-1] / values[0] - 1),
        "sharpe": float(sharpe),
        "max_drawdown": float(falls.max()),
        "days": len(returns),
    }
