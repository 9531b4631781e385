//! Prices of some instruments day by day, read from text once.

use sandpit_messages::market::Bar;

/// Digits after the point that a micro-dollar has.
const DECIMALS: usize = 6;

/// Closes of some instruments, oldest day first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices {
    source: String,
    symbols: Vec<String>,
    days: Vec<String>,
    /// Micro-dollars, a row per day; zero where an instrument has none.
    closes: Vec<i64>,
}

/// The text holds no prices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct NotPrices {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl Prices {
    /// Reads lines of a day and one price in dollars per instrument, separated by commas. The first
    /// line names the instruments, an empty field is a day without a price.
    ///
    /// # Errors
    /// [`NotPrices`], naming the line.
    pub fn read(text: &str, source: String) -> Result<Self, NotPrices> {
        let wrong = |line: usize, what: String| NotPrices { line: line + 1, what };
        let mut lines = text.lines().enumerate();
        let head = lines.next().map_or("", |(_, head)| head.trim_end());
        let symbols: Vec<String> = head.split(',').skip(1).map(str::to_owned).collect();
        if symbols.is_empty() || symbols.iter().any(String::is_empty) {
            return Err(wrong(0, "expected `Date` and the names of instruments".to_owned()));
        }
        let (mut days, mut closes) = (Vec::<String>::new(), Vec::new());
        for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let mut fields = line.trim_end().split(',');
            let day = fields.next().unwrap_or_default();
            if !is_day(day) {
                return Err(wrong(at, format!("`{day}` is no day as in 2022-01-31")));
            }
            if days.last().is_some_and(|last| last.as_str() >= day) {
                return Err(wrong(at, format!("{day} does not come after the day before it")));
            }
            let before = closes.len();
            for field in fields {
                let price = micros(field).ok_or_else(|| {
                    wrong(at, format!("`{field}` is no price of 0 to 1,000,000 dollars"))
                })?;
                closes.push(price);
            }
            if closes.len() != before + symbols.len() {
                let (found, needed) = (closes.len() - before, symbols.len());
                return Err(wrong(at, format!("{found} prices, not {needed}")));
            }
            days.push(day.to_owned());
        }
        if days.is_empty() {
            return Err(wrong(1, "not one day".to_owned()));
        }
        Ok(Self { source, symbols, days, closes })
    }

    /// Where they are from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The instruments.
    pub fn symbols(&self) -> &[String] {
        &self.symbols
    }

    /// The days, in order.
    pub fn days(&self) -> &[String] {
        &self.days
    }

    /// The column of an instrument.
    pub(super) fn column(&self, symbol: &str) -> Option<usize> {
        self.symbols.iter().position(|one| one == symbol)
    }

    /// Fills a bar with the prices of one day.
    pub(super) fn fill(&self, row: usize, columns: &[usize], bar: &mut Bar) {
        let start = row * self.symbols.len();
        let closes = &self.closes[start..start + self.symbols.len()];
        let known = columns.iter().filter(|at| closes[**at] > 0);
        bar.day.clone_from(&self.days[row]);
        bar.closes = known.map(|at| (self.symbols[*at].clone(), closes[*at])).collect();
    }
}

/// Whether the text has the shape of a day. Days are compared as text and never counted with.
pub(crate) fn is_day(text: &str) -> bool {
    let shape = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(shape)
}

/// Dollars with a point, exactly; zero for nothing. `None` for what is no price.
fn micros(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || whole.len() > 7 || whole.is_empty() && !text.is_empty() {
        return None;
    }
    // A seventh digit is rounding noise of whoever wrote the file; it is cut.
    let part = &part[..part.len().min(DECIMALS)];
    let scaled = format!("{whole}{part:0<DECIMALS$}");
    scaled.parse().ok().filter(|micros| *micros <= 1_000_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Prices, NotPrices> {
        Prices::read(text, "a test".to_owned())
    }

    #[test]
    fn prices_are_read_exactly() {
        let check = |text: &str, expected| assert_eq!(micros(text), expected, "{text}");
        check("177.571", Some(177_571_000));
        check("0.1", Some(100_000));
        check("12", Some(12_000_000));
        check("", Some(0));
        check("1.2345678", Some(1_234_567));
        for bad in ["-1", "1e3", "nan", ".5", "1.2.3", "10000001"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_bar_holds_the_instruments_that_have_a_price() {
        let prices = read("Date,A,B\n2022-01-03,1.5,\n2022-01-04,1.6,2\n").unwrap();
        let mut bar = Bar {
            seq: 1,
            node: sandpit_messages::id::NodeId::of_bits(7),
            day: String::new(),
            closes: [].into(),
            history: false,
            last: false,
        };
        prices.fill(0, &[0, 1], &mut bar);
        assert_eq!(
            (bar.day.as_str(), &bar.closes),
            ("2022-01-03", &[("A".to_owned(), 1_500_000)].into())
        );
        prices.fill(1, &[1], &mut bar);
        assert_eq!(bar.closes, [("B".to_owned(), 2_000_000)].into());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let line = |text: &str| read(text).unwrap_err().line;
        assert_eq!(line(""), 1);
        assert_eq!(line("Date,A\n"), 2);
        assert_eq!(line("Date,A\n2022-01-03,1\n2022-01-03,1\n"), 3);
        assert_eq!(line("Date,A\n2022-01-03,x\n"), 2);
        assert_eq!(line("Date,A\n2022-01-03,1,2\n"), 2);
        assert_eq!(line("Date,A\nyesterday,1\n"), 2);
    }
}
