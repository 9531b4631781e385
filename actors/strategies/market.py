"""Daily closes as the desks see them, and nothing they may not see yet."""

import numpy as np
import pandas as pd

PRICES = "/data/market/us-equities-daily.csv"


class Market:
    """Closes of some instruments, oldest day first.

    `mills` holds thousandths of a dollar as whole numbers, which is how precise the file is: books
    kept in them can be recomputed without rounding. `closes` holds the same as dollars, for signals.
    """

    def __init__(self, days, symbols, mills):
        self.days = list(days)
        self.symbols = list(symbols)
        self.mills = np.asarray(mills, dtype=np.int64)
        self.closes = self.mills / 1000.0
        if self.mills.shape != (len(self.days), len(self.symbols)):
            raise ValueError("one close per day and instrument is needed")
        if self.mills.size == 0 or (self.mills <= 0).any():
            raise ValueError("every close must be above zero")
        if any(a >= b for a, b in zip(self.days, self.days[1:])):
            raise ValueError("days must be in order, each once")

    @classmethod
    def read(cls, symbols, path=PRICES):
        """The closes of `symbols` from a file with a column of dates and one per instrument."""
        table = pd.read_csv(path, index_col="Date", usecols=["Date", *symbols])[list(symbols)]
        return cls(table.index, symbols, (table.to_numpy() * 1000).round())

    def first_at_or_after(self, day):
        """The row of the first day that is `day` or later."""
        return int(np.searchsorted(np.asarray(self.days), day))

    def upto(self, day):
        """The same market as it was known at the end of `day`: what came after is gone."""
        rows = self.first_at_or_after(day + "~")
        return Market(self.days[:rows], self.symbols, self.mills[:rows])
