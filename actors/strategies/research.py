"""What an agent asks of the past before it trades: which data are fit, and which variant held up."""

import importlib

import numpy as np
import pandas as pd

from desk import DAYS_A_YEAR, Desk
from market import PRICES, Market

ROUNDING_MAX_BPS = 5
"""Closes have three decimals. Where half a mill is more than this share of the price (hundredths of
a percent), adjusted prices of long ago are mostly rounding, and a desk would trade noise."""


def survey(start, end, path=PRICES):
    """Judges every instrument of the file between two days, the first three months most strictly."""
    symbols = pd.read_csv(path, nrows=0).columns.drop("Date")
    market = Market.read(symbols, path).upto(end)
    first = market.first_at_or_after(start)
    closes = market.closes[first:]
    if len(closes) <= DAYS_A_YEAR:
        raise ValueError(f"{len(closes)} days between {start} and {end} are too few to judge")
    returns = closes[1:] / closes[:-1] - 1
    rounding = 0.0005 / np.median(closes[: DAYS_A_YEAR // 4], axis=0) * 10_000
    swing = returns.std(axis=0, ddof=1) * np.sqrt(DAYS_A_YEAR)
    return {
        "days": len(closes),
        "instruments": [
            {
                "symbol": symbol,
                "rounding_bps": round(float(rounding[at]), 2),
                "volatility": round(float(swing[at]), 4),
                "fit": bool(rounding[at] <= ROUNDING_MAX_BPS),
            }
            for at, symbol in enumerate(market.symbols)
        ],
    }


def variants(kind):
    """The parameters a kind of strategy may be run with."""
    return importlib.import_module(kind).VARIANTS


def open_desk(kind, variant, symbols, start, path=PRICES, **terms):
    """A desk of this kind that begins on the first day at or after `start`."""
    strategy = importlib.import_module(kind).Strategy(**variants(kind)[variant])
    return Desk(Market.read(symbols, path), strategy, start, **terms)


def score(kind, variant, symbols, windows, path=PRICES):
    """How one variant did in each window, every time from a standing start."""
    market = Market.read(symbols, path)
    parameters = variants(kind)[variant]
    scores = []
    for start, end in windows:
        desk = Desk(market.upto(end), importlib.import_module(kind).Strategy(**parameters), start)
        desk.run(end)
        scores.append(desk.summary())
    return {"parameters": parameters, "windows": scores}
