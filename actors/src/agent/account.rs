//! A paper account: whole shares, whole micro-dollars, and a journal from which everybody can
//! recompute it.
//!
//! Cash changes by the lines of the journal and by nothing else. Costs are rounded up and prices
//! against the account, so that no rounding ever earns money.

use std::collections::BTreeMap;

use sandpit_messages::agent::{Action, AgentSignal, FillKind, Holding, PaperAccount};
use sandpit_messages::market::Bar;

/// Hundredths of a percent in a whole.
const BPS: i128 = 10_000;

/// Days by which a yearly fee is divided: trading days of a year.
const DAYS_A_YEAR: i128 = 252;

/// Most shares of one order. A program that wants more wants nonsense, and sums stay far from
/// overflowing.
pub const QTY_MAX: u64 = 1_000_000_000;

/// Micro-dollars in a dollar.
const MICROS: f64 = 1e6;

/// What an account begins with and what trading costs it. Assumptions, set by the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Micro-dollars at the beginning.
    pub capital: i64,
    /// Hundredths of a percent of the traded value, to the broker.
    pub commission_bps: u32,
    /// Hundredths of a percent by which a fill is worse than the bar's price.
    pub slippage_bps: u32,
    /// Hundredths of a percent of the value sold short, a year, charged at every bar.
    pub borrow_bps: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { capital: 100_000_000_000, commission_bps: 1, slippage_bps: 4, borrow_bps: 50 }
    }
}

/// An order for the next bar. It is filled there or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaperOrder {
    /// The instrument.
    pub symbol: String,
    /// Shares to buy, or below zero to sell; never zero.
    pub shares: i64,
    /// Micro-dollars per share at worst.
    pub limit: Option<i64>,
}

impl PaperOrder {
    /// The order a signal stands for, if it stands for one.
    ///
    /// # Errors
    /// What is wrong with it, as one sentence.
    pub fn of(signal: &AgentSignal) -> Result<Option<Self>, String> {
        let AgentSignal { symbol, action, qty, limit, .. } = signal;
        let sign = match action {
            Action::Hold => return Ok(None),
            Action::Buy => 1,
            Action::Sell => -1,
        };
        if *qty == 0 {
            return Ok(None);
        }
        let shares = i64::try_from(*qty).ok().filter(|_| *qty <= QTY_MAX);
        let shares = shares
            .ok_or_else(|| format!("an order of {qty} shares of {symbol}, more than {QTY_MAX}"))?;
        let limit = limit.map(|dollars| micros(symbol, sign, dollars)).transpose()?;
        Ok(Some(Self { symbol: symbol.clone(), shares: sign * shares, limit }))
    }
}

/// A limit in micro-dollars, rounded so that it is never exceeded.
#[expect(clippy::cast_possible_truncation, reason = "checked to be below a million dollars")]
fn micros(symbol: &str, sign: i64, dollars: f64) -> Result<i64, String> {
    if !(dollars > 0.0 && dollars <= MICROS) {
        return Err(format!("a limit of {dollars} dollars for {symbol}"));
    }
    let exact = dollars * MICROS;
    Ok(if sign > 0 { exact.floor() } else { exact.ceil() } as i64)
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of the bar.
    pub bar: u64,
    /// Its day.
    pub day: String,
    /// What happened.
    pub kind: FillKind,
    /// The instrument; empty for what concerns the account.
    pub symbol: String,
    /// Bought, or below zero sold.
    pub shares: i64,
    /// Micro-dollars per share, slippage included.
    pub price: i64,
    /// Micro-dollars of commission or fee.
    pub cost: i64,
}

/// The account.
#[derive(Clone, Debug)]
pub struct Account {
    terms: Terms,
    cash: i64,
    shares: BTreeMap<String, i64>,
    /// The last price seen of each instrument.
    marks: BTreeMap<String, i64>,
    journal: Vec<Entry>,
    costs: i64,
    trades: u64,
    refused: u64,
}

impl Account {
    /// An account that has not traded.
    pub fn open(terms: Terms) -> Self {
        Self {
            terms,
            cash: terms.capital,
            shares: BTreeMap::new(),
            marks: BTreeMap::new(),
            journal: Vec::new(),
            costs: 0,
            trades: 0,
            refused: 0,
        }
    }

    /// Its journal, in order.
    pub fn journal(&self) -> &[Entry] {
        &self.journal
    }

    /// Shares held of each instrument, short positions below zero.
    pub fn shares(&self) -> &BTreeMap<String, i64> {
        &self.shares
    }

    /// Cash in micro-dollars.
    pub fn cash(&self) -> i64 {
        self.cash
    }

    /// Trades so far.
    pub fn trades(&self) -> u64 {
        self.trades
    }

    /// Cash and shares at the last prices seen.
    pub fn equity(&self) -> i64 {
        let held = |(symbol, shares): (&String, &i64)| {
            i128::from(*shares) * i128::from(self.marks.get(symbol).copied().unwrap_or_default())
        };
        let worth = i128::from(self.cash) + self.shares.iter().map(held).sum::<i128>();
        narrow(worth)
    }

    /// Profit and loss after all costs, at the last prices seen.
    pub fn pnl(&self) -> i64 {
        self.equity().saturating_sub(self.terms.capital)
    }

    /// Learns the prices of a bar without trading.
    pub fn mark(&mut self, bar: &Bar) {
        for (symbol, price) in &bar.closes {
            match self.marks.get_mut(symbol) {
                Some(mark) => *mark = *price,
                None => drop(self.marks.insert(symbol.clone(), *price)),
            }
        }
    }

    /// Lives through a bar: pays for what was short until it, learns its prices, and fills the
    /// orders placed before it at those prices. What reduces a position comes first.
    pub fn pass(&mut self, bar: &Bar, orders: Vec<PaperOrder>) {
        self.pay_for_shorts(bar);
        self.mark(bar);
        let (reducing, others): (Vec<_>, Vec<_>) = orders.into_iter().partition(|order| {
            self.shares
                .get(&order.symbol)
                .is_some_and(|held| held.signum() != order.shares.signum())
        });
        for order in reducing.into_iter().chain(others) {
            self.fill(bar, order);
        }
    }

    /// The fee for what was short, at the prices before.
    fn pay_for_shorts(&mut self, bar: &Bar) {
        let short = |(symbol, shares): (&String, &i64)| {
            let mark = self.marks.get(symbol).copied().unwrap_or_default();
            i128::from(-(*shares).min(0)) * i128::from(mark)
        };
        let value: i128 = self.shares.iter().map(short).sum();
        let fee = ceil_div(value * i128::from(self.terms.borrow_bps), BPS * DAYS_A_YEAR);
        if fee > 0 {
            self.enter(bar, FillKind::Borrow, String::new(), 0, 0, narrow(fee));
        }
    }

    fn fill(&mut self, bar: &Bar, order: PaperOrder) {
        let PaperOrder { symbol, shares, limit } = order;
        let Some(mark) = bar.closes.get(&symbol).copied() else {
            self.refused += 1;
            return;
        };
        let price = self.price(mark, shares);
        let fine = match limit {
            Some(limit) if shares > 0 => price <= limit,
            Some(limit) => price >= limit,
            None => true,
        };
        let filled = if fine { self.at_most(&symbol, mark, price, shares) } else { 0 };
        if filled != shares {
            self.refused += 1;
        }
        if filled != 0 {
            let cost = self.commission(filled, price);
            self.enter(bar, FillKind::Trade, symbol, filled, price, narrow(cost));
        }
    }

    /// What one share costs or brings.
    fn price(&self, mark: i64, shares: i64) -> i64 {
        let slip = BPS + i128::from(shares.signum()) * i128::from(self.terms.slippage_bps);
        let value = i128::from(mark) * slip;
        narrow(if shares > 0 { ceil_div(value, BPS) } else { value.div_euclid(BPS) }).max(1)
    }

    fn commission(&self, shares: i64, price: i64) -> i128 {
        let value = i128::from(shares.abs()) * i128::from(price);
        ceil_div(value * i128::from(self.terms.commission_bps), BPS)
    }

    /// The most of an order that leaves longs and shorts together worth no more than the account,
    /// or only makes a position smaller.
    fn at_most(&self, symbol: &str, mark: i64, price: i64, shares: i64) -> i64 {
        let held = self.shares.get(symbol).copied().unwrap_or_default();
        let value = |symbol: &String, shares: i64| {
            i128::from(shares.abs()) * i128::from(self.marks.get(symbol).copied().unwrap_or(0))
        };
        let gross: i128 = self.shares.iter().map(|(symbol, shares)| value(symbol, *shares)).sum();
        let mark = i128::from(mark);
        let rest = gross - i128::from(held.abs()) * mark;
        let equity = i128::from(self.equity());
        let slipped = (i128::from(price) - mark).abs();
        let fits = |count: i64| {
            let left = held + shares.signum() * count;
            let after = rest + i128::from(left.abs()) * mark;
            let lost = i128::from(count) * slipped + self.commission(count, price);
            let only_less = held.signum() * left.signum() >= 0 && after <= gross;
            only_less || after <= equity - lost
        };
        // Below zero, and again past it, more is worse: what fits is all up to some count.
        let (mut fit, mut unfit) = (0, shares.abs() + 1);
        while fit + 1 < unfit {
            let count = i64::midpoint(fit, unfit);
            if fits(count) { fit = count } else { unfit = count }
        }
        shares.signum() * fit
    }

    fn enter(
        &mut self,
        bar: &Bar,
        kind: FillKind,
        symbol: String,
        shares: i64,
        price: i64,
        cost: i64,
    ) {
        let paid = i128::from(shares) * i128::from(price) + i128::from(cost);
        self.cash = narrow(i128::from(self.cash) - paid);
        self.costs = self.costs.saturating_add(cost);
        if kind == FillKind::Trade {
            self.trades += 1;
            let held = self.shares.entry(symbol.clone()).or_default();
            *held += shares;
            if *held == 0 {
                self.shares.remove(&symbol);
            }
        }
        let (bar, day) = (bar.seq, bar.day.clone());
        self.journal.push(Entry { bar, day, kind, symbol, shares, price, cost });
    }

    /// As it is shown.
    pub fn view(&self) -> PaperAccount {
        let holding = |(symbol, shares): (&String, &i64)| {
            let price_microusd = self.marks.get(symbol).copied().unwrap_or_default();
            (symbol.clone(), Holding { shares: *shares, price_microusd })
        };
        PaperAccount {
            capital_microusd: self.terms.capital,
            cash_microusd: self.cash,
            equity_microusd: self.equity(),
            pnl_microusd: self.pnl(),
            costs_microusd: self.costs,
            trades: self.trades,
            refused: self.refused,
            fills: self.journal.len() as u64,
            holdings: self.shares.iter().map(holding).collect(),
        }
    }
}

/// Rounds up; `by` is above zero.
fn ceil_div(value: i128, by: i128) -> i128 {
    -(-value).div_euclid(by)
}

/// Amounts are bounded by an account's equity; what is not saturates and shows.
fn narrow(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sandpit_messages::id::NodeId;

    use super::*;

    const DOLLAR: i64 = 1_000_000;

    fn bar(seq: u64, closes: &[(&str, i64)]) -> Bar {
        let closes = closes.iter().map(|(symbol, price)| ((*symbol).to_owned(), *price)).collect();
        Bar {
            seq,
            node: NodeId::of_bits(7),
            day: "2022-01-03".to_owned(),
            closes,
            history: false,
            last: false,
        }
    }

    fn order(symbol: &str, shares: i64) -> PaperOrder {
        PaperOrder { symbol: symbol.to_owned(), shares, limit: None }
    }

    fn opened() -> Account {
        Account::open(Terms { capital: 10_000 * DOLLAR, ..Terms::default() })
    }

    #[test]
    fn a_fill_pays_the_price_the_slippage_and_the_commission() {
        let mut account = opened();
        account.pass(&bar(1, &[("KO", 50 * DOLLAR)]), vec![order("KO", 100)]);
        // 4 bps worse: 50.02; 1 bps of 5,002 dollars: 50.02 cents.
        let [line] = account.journal() else { panic!("{:?}", account.journal()) };
        assert_eq!((line.shares, line.price, line.cost), (100, 50_020_000, 500_200));
        assert_eq!(account.cash(), 10_000 * DOLLAR - 5_002 * DOLLAR - 500_200);
        assert_eq!(account.pnl(), -2 * DOLLAR - 500_200);
        account.pass(&bar(2, &[("KO", 50 * DOLLAR)]), vec![order("KO", -100)]);
        assert_eq!(account.journal()[1].price, 49_980_000);
        assert!(account.shares().is_empty());
        assert_eq!(account.equity(), account.cash());
    }

    #[test]
    fn rounding_never_earns() {
        let mut account = opened();
        account.pass(&bar(1, &[("X", 3)]), vec![order("X", 1)]);
        assert_eq!((account.journal()[0].price, account.journal()[0].cost), (4, 1));
        account.pass(&bar(2, &[("X", 3)]), vec![order("X", -1)]);
        assert_eq!((account.journal()[1].price, account.journal()[1].cost), (2, 1));
    }

    #[test]
    fn an_order_is_cut_to_what_the_account_may_hold() {
        let mut account = opened();
        account.pass(&bar(1, &[("KO", 50 * DOLLAR)]), vec![order("KO", 1_000)]);
        // 200 shares would be all of it, without anything left for what they cost.
        assert_eq!(account.shares()["KO"], 199);
        assert_eq!(account.view().refused, 1);
        account.pass(&bar(2, &[("KO", 50 * DOLLAR)]), vec![order("KO", -1_000)]);
        let short = account.shares()["KO"];
        assert!((-200..-190).contains(&short), "{short}");
    }

    #[test]
    fn what_reduces_comes_first_and_makes_room() {
        let mut account = opened();
        account.pass(&bar(1, &[("KO", 50 * DOLLAR)]), vec![order("KO", 190)]);
        let prices = [("KO", 50 * DOLLAR), ("PEP", 100 * DOLLAR)];
        account.pass(&bar(2, &prices), vec![order("PEP", 90), order("KO", -190)]);
        assert_eq!(account.shares().get("KO"), None);
        assert_eq!(account.shares()["PEP"], 90);
    }

    #[test]
    fn a_limit_is_kept_or_nothing_happens() {
        let mut account = opened();
        let limited = |shares, limit| PaperOrder { limit: Some(limit), ..order("KO", shares) };
        let day = bar(1, &[("KO", 50 * DOLLAR)]);
        account.pass(&day, vec![limited(10, 50 * DOLLAR)]);
        assert!(account.journal().is_empty(), "50.02 is more than 50");
        account.pass(&day, vec![limited(10, 50_020_000)]);
        account.pass(&day, vec![limited(-10, 50 * DOLLAR)]);
        assert_eq!(account.shares()["KO"], 10, "49.98 is less than 50");
        account.pass(&day, vec![limited(-10, 49_980_000)]);
        assert!(account.shares().is_empty());
    }

    #[test]
    fn short_positions_pay_their_lender_at_every_bar() {
        let mut account = opened();
        account.pass(&bar(1, &[("KO", 50 * DOLLAR)]), vec![order("KO", -100)]);
        account.pass(&bar(2, &[("KO", 60 * DOLLAR)]), Vec::new());
        let fee = &account.journal()[1];
        // 0.5 % a year of 5,000 dollars over 252 days, rounded up.
        assert_eq!((fee.kind, fee.cost), (FillKind::Borrow, 99_207));
        account.pass(&bar(3, &[]), vec![order("KO", 100)]);
        assert_eq!(account.shares()["KO"], -100, "nobody trades without a price");
    }

    #[test]
    fn a_signal_that_means_nothing_is_refused_in_words() {
        let signal = |qty, limit| AgentSignal {
            symbol: "KO".to_owned(),
            action: Action::Buy,
            qty,
            limit,
            confidence: None,
        };
        assert_eq!(PaperOrder::of(&signal(0, None)), Ok(None));
        assert!(PaperOrder::of(&signal(u64::MAX, None)).is_err());
        assert!(PaperOrder::of(&signal(1, Some(f64::NAN))).is_err());
        assert!(PaperOrder::of(&signal(1, Some(-1.0))).is_err());
        let fine = PaperOrder::of(&signal(2, Some(1.5))).unwrap().unwrap();
        assert_eq!((fine.shares, fine.limit), (2, Some(1_500_000)));
    }

    proptest! {
        /// Whatever is ordered, the journal alone tells cash and shares, and nobody buys on credit.
        #[test]
        fn the_journal_tells_everything(
            days in prop::collection::vec(
                (prop::array::uniform3(1_i64..1_000_000_000), prop::collection::vec((0_usize..3, -5_000_i64..5_000), 0..6)),
                1..30,
            ),
        ) {
            const NAMES: [&str; 3] = ["A", "B", "C"];
            let (mut account, mut was_short) = (opened(), false);
            for (seq, (prices, orders)) in (1..).zip(days) {
                let closes: Vec<_> = NAMES.into_iter().zip(prices).collect();
                let orders = orders.into_iter().filter(|(_, shares)| *shares != 0);
                let orders = orders.map(|(at, shares)| order(NAMES[at], shares)).collect();
                account.pass(&bar(seq, &closes), orders);
                let lines = account.journal();
                let cash = lines.iter().fold(10_000 * DOLLAR, |cash, line| {
                    cash - line.shares * line.price - line.cost
                });
                prop_assert_eq!(account.cash(), cash);
                for name in NAMES {
                    let held: i64 =
                        lines.iter().filter(|line| line.symbol == name).map(|line| line.shares).sum();
                    prop_assert_eq!(account.shares().get(name).copied().unwrap_or(0), held);
                }
                // Buying back what rose a hundredfold may take more than there is.
                was_short |= account.shares().values().any(|shares| *shares < 0);
                prop_assert!(was_short || account.cash() >= 0, "{account:?}");
            }
        }
    }
}
