# Runs once in the zygote of the template `trading`, after the imports: what is done here is done
# already in every sandbox that is forked from it. The first operation of each kind in pandas costs
# milliseconds, most of it lazy imports. Draws no random number: siblings would share it.
import io

import numpy
import pandas

days = pandas.date_range("2024-01-01", periods=64, freq="D")
prices = pandas.DataFrame({"close": numpy.linspace(90.0, 110.0, 64)}, index=days)
prices["mean"] = prices["close"].rolling(5).mean()
returns = prices["close"].pct_change().dropna()
returns.describe()
returns.resample("W").sum()
returns.cumsum().iloc[-1]
prices.groupby(prices.index.month)["close"].agg(["mean", "std", "max"])
prices.merge(returns.rename("return"), left_index=True, right_index=True)
prices._repr_html_()
repr(prices)
pandas.read_csv(io.StringIO(prices.to_csv()), index_col=0, parse_dates=True)
numpy.linalg.lstsq(numpy.eye(4), numpy.ones(4), rcond=None)
numpy.corrcoef(numpy.arange(8.0), numpy.ones((2, 8)).cumsum(axis=1)[0])
