//! Books kept a second time: from an agent's list of fills alone, in whole micro-dollars, so that
//! what the desk says it is worth is believed only if it can be recomputed to the last digit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::told::Record;

/// A price is whole thousandths of a dollar; money is whole millionths.
const MICROS_PER_MILL: i128 = 1_000;

/// One line of a blotter: day, instrument, shares (sold ones are negative), price in mills, cost in
/// micro-dollars. A line without an instrument is a fee alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill(pub String, pub String, pub i64, pub i64, pub i64);

/// What a desk says of itself at the end of a period.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Statement {
    /// The last day that was traded.
    pub until: String,
    /// Cash and shares at the close, in micro-dollars.
    pub equity: i64,
    /// Cash alone.
    pub cash: i64,
    /// Shares and closing price in mills of what is held.
    pub holdings: BTreeMap<String, (i64, i64)>,
    /// Everything that was filled or paid since the statement before.
    pub blotter: Vec<Fill>,
}

/// The second set of books.
#[derive(Clone, Debug)]
pub struct Books {
    capital: i64,
    cash: i128,
    shares: BTreeMap<String, i64>,
    costs: i128,
    fills: u32,
    digest: Sha256,
}

/// A statement that the fills do not bear out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A fee below zero, a price of nothing, or figures too large to be real.
    #[error("the fill {fill:?} makes no sense")]
    Senseless {
        /// The line.
        fill: Fill,
    },
    /// Other shares than were bought.
    #[error("at {until} the desk holds other shares than it bought: {stated}, not {recomputed}")]
    Shares {
        /// When.
        until: String,
        /// By the desk.
        stated: String,
        /// By the fills.
        recomputed: String,
    },
    /// Another amount.
    #[error("at {until} the desk states {what} {stated}; its fills give {recomputed}")]
    Amount {
        /// When.
        until: String,
        /// Cash, equity or costs in micro-dollars; trades; the gain in trillionths.
        what: &'static str,
        /// By the desk.
        stated: i128,
        /// By the fills.
        recomputed: i128,
    },
}

impl Books {
    /// With so much cash, in micro-dollars, and nothing else.
    pub fn open(capital: i64) -> Self {
        Self {
            capital,
            cash: capital.into(),
            shares: BTreeMap::new(),
            costs: 0,
            fills: 0,
            digest: Sha256::new(),
        }
    }

    /// Takes in the fills of a statement and compares what they come to.
    ///
    /// # Errors
    /// [`Mismatch`]: the first figure that differs. The books are of no use afterwards.
    pub fn check(&mut self, statement: &Statement) -> Result<(), Mismatch> {
        for fill in &statement.blotter {
            self.take_in(fill)?;
        }
        let until = || statement.until.clone();
        let stated: BTreeMap<&String, i64> =
            statement.holdings.iter().map(|(symbol, (shares, _))| (symbol, *shares)).collect();
        let held: BTreeMap<&String, i64> =
            self.shares.iter().map(|(symbol, shares)| (symbol, *shares)).collect();
        if stated != held {
            let (stated, recomputed) = (format!("{stated:?}"), format!("{held:?}"));
            return Err(Mismatch::Shares { until: until(), stated, recomputed });
        }
        let shares: i128 = statement
            .holdings
            .values()
            .map(|(shares, mills)| i128::from(*shares) * i128::from(*mills))
            .fold(0, i128::saturating_add);
        let equity = shares.saturating_mul(MICROS_PER_MILL).saturating_add(self.cash);
        let amounts = [("cash", statement.cash, self.cash), ("equity", statement.equity, equity)];
        for (what, stated, recomputed) in amounts {
            let stated = i128::from(stated);
            if stated != recomputed {
                return Err(Mismatch::Amount { until: until(), what, stated, recomputed });
            }
        }
        Ok(())
    }

    fn take_in(&mut self, fill: &Fill) -> Result<(), Mismatch> {
        let Fill(day, symbol, change, mills, cost) = fill;
        let senseless = || Mismatch::Senseless { fill: fill.clone() };
        let is_fee = symbol.is_empty() && *change == 0 && *mills == 0;
        let is_trade = !symbol.is_empty() && *change != 0 && *mills > 0;
        if *cost < 0 || !(is_fee || is_trade) {
            return Err(senseless());
        }
        let paid = i128::from(*change)
            .checked_mul(i128::from(*mills))
            .and_then(|value| value.checked_mul(MICROS_PER_MILL))
            .and_then(|value| value.checked_add(i128::from(*cost)))
            .ok_or_else(senseless)?;
        self.cash = self.cash.checked_sub(paid).ok_or_else(senseless)?;
        self.costs += i128::from(*cost);
        self.digest.update(format!("{day},{symbol},{change},{mills},{cost}\n"));
        if is_trade {
            self.fills += 1;
            let shares = self.shares.entry(symbol.clone()).or_default();
            *shares = shares.checked_add(*change).ok_or_else(senseless)?;
            if *shares == 0 {
                self.shares.remove(symbol);
            }
        }
        Ok(())
    }

    /// Compares a desk's record with what the fills come to: costs, trades, and the return from
    /// what it began with to `equity`, to a millionth of a millionth.
    ///
    /// # Errors
    /// [`Mismatch`]: the first figure that differs.
    pub fn agrees(&self, record: &Record, equity: i64) -> Result<(), Mismatch> {
        let amounts = [
            ("costs", i128::from(record.costs), self.costs),
            ("trades", i128::from(record.trades), i128::from(self.fills)),
            ("gain", parts(record.gain), parts(ratio(equity, self.capital) - 1.0)),
        ];
        for (what, stated, recomputed) in amounts {
            if stated != recomputed {
                let until = "the end".to_owned();
                return Err(Mismatch::Amount { until, what, stated, recomputed });
            }
        }
        Ok(())
    }

    /// SHA-256 over all lines so far: equal for equal runs.
    pub fn digest(&self) -> String {
        self.digest.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whole trillionths of a ratio, which leaves room for the last digits of a float.
#[expect(clippy::cast_possible_truncation, reason = "saturates, and then differs as it should")]
fn parts(ratio: f64) -> i128 {
    (ratio * 1e12).round() as i128
}

/// Both are below 2^53 micro-dollars, nine billion dollars, where a float is exact.
#[expect(clippy::cast_precision_loss, reason = "a desk begins with 100,000 dollars")]
fn ratio(one: i64, other: i64) -> f64 {
    one as f64 / other as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(symbol: &str, shares: i64, mills: i64, cost: i64) -> Fill {
        Fill("2015-01-02".to_owned(), symbol.to_owned(), shares, mills, cost)
    }

    /// Bought 10 at 20 dollars for 1 cent; now at 21 dollars.
    fn honest() -> Statement {
        Statement {
            until: "2015-12-31".to_owned(),
            equity: 1_000_000_000 - 200_000_000 - 10_000 + 210_000_000,
            cash: 1_000_000_000 - 200_000_000 - 10_000,
            holdings: BTreeMap::from([("KO".to_owned(), (10, 21_000))]),
            blotter: vec![fill("KO", 10, 20_000, 10_000)],
        }
    }

    fn check(statement: &Statement) -> Result<(), Mismatch> {
        Books::open(1_000_000_000).check(statement)
    }

    #[test]
    fn honest_books_agree() {
        let mut books = Books::open(1_000_000_000);
        assert_eq!(books.check(&honest()), Ok(()));
        let record = Record { gain: 0.00999, trades: 1, costs: 10_000, ..Record::default() };
        assert_eq!(books.agrees(&record, honest().equity), Ok(()));
        let better = Record { gain: 0.011, ..record };
        assert!(matches!(
            books.agrees(&better, honest().equity),
            Err(Mismatch::Amount { what: "gain", .. })
        ));
    }

    #[test]
    fn a_micro_dollar_too_much_is_found() {
        let more = Statement { equity: honest().equity + 1, ..honest() };
        assert!(matches!(check(&more), Err(Mismatch::Amount { what: "equity", .. })));
        let hidden = Statement { cash: honest().cash + 1, ..honest() };
        assert!(matches!(check(&hidden), Err(Mismatch::Amount { what: "cash", .. })));
    }

    #[test]
    fn shares_that_nobody_bought_are_found() {
        let mut conjured = honest();
        conjured.holdings.insert("PEP".to_owned(), (1, 1));
        assert!(matches!(check(&conjured), Err(Mismatch::Shares { .. })));
    }

    #[test]
    fn senseless_fills_are_refused_and_never_panic() {
        for bad in [
            fill("KO", 0, 20_000, 0),
            fill("KO", 1, 0, 0),
            fill("KO", 1, 20_000, -1),
            fill("", 1, 20_000, 0),
            fill("KO", i64::MAX, i64::MAX, i64::MAX),
        ] {
            let statement = Statement { blotter: vec![bad.clone()], ..honest() };
            assert!(check(&statement).is_err(), "{bad:?}");
        }
    }
}
