//! Which replays are under way, and which bar each shows next.
//!
//! The rule it keeps: nobody is shown a bar before it is published, and none is left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sandpit_messages::id::NodeId;
use sandpit_messages::market::{Bar, Bars, FeedName, GetBars, ReplayStarted, StartReplay};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::subject;
use sandpit_messages::time::Moment;

use super::prices::Prices;

#[cfg(test)]
mod tests;

/// What may be replayed. Valid already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Feeds remembered at once. Past this a replay is refused.
    pub feeds_max: usize,
    /// For how long a feed that has ended can be asked for its bars.
    pub ended_kept: Duration,
    /// Pause before a bar is published again that could not be.
    pub retry_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            feeds_max: 1_024,
            ended_kept: Duration::from_secs(600),
            retry_pause: Duration::from_millis(200),
        }
    }
}

/// Days that are traded unless a replay says which: a year.
const TRADED_DEFAULT: usize = 252;
/// Days of history unless a replay says how many: two years, which every built-in program is
/// content with.
const HISTORY_DEFAULT: u32 = 504;
/// Most days of history: five years.
const HISTORY_MAX: u32 = 1_260;
/// Most instruments of a feed: its bars stay far below what one message may hold.
const SYMBOLS_MAX: usize = 200;
/// Longest pause between two bars: a day.
const INTERVAL_MAX_MS: u32 = 86_400_000;
/// Bars of one answer, unless fewer are asked for, and at most.
const PAGE: (u32, u32) = (256, 512);

/// Everything that can happen to replays.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Answers [`Effect::Publish`]: it went out.
    Published { feed: FeedName },
    /// Answers [`Effect::Publish`]: it did not.
    NotPublished { feed: FeedName },
    /// The deadline is here.
    Tick,
}

/// Everything that can be wanted done.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Publish a bar; one at a time per feed.
    Publish { feed: FeedName, bar: Arc<Bar> },
}

/// All replays of a node.
#[derive(Debug)]
pub struct Replays {
    limits: Limits,
    node: NodeId,
    prices: Option<Arc<Prices>>,
    feeds: BTreeMap<FeedName, Feed>,
}

#[derive(Debug)]
struct Feed {
    ask: StartReplay,
    /// The instruments, as columns of the prices.
    columns: Vec<usize>,
    /// The row of the bar with number 1.
    first: usize,
    /// Bars of history.
    history: u64,
    /// The number of the last bar.
    end: u64,
    /// The number of the latest bar that was shown.
    head: u64,
    interval: Duration,
    stage: Stage,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// The next bar is shown then.
    Due(Moment),
    /// The next bar is on its way out.
    Publishing { since: Moment },
    /// Every bar was shown.
    Over { since: Moment },
}

fn invalid(field: &'static str, came: impl ToString, expected: impl ToString) -> Refusal {
    let came = came.to_string().chars().take(64).collect();
    Refusal::Invalid { field, came, expected: expected.to_string() }
}

impl Replays {
    /// Begins without a replay: those of an earlier life ended with it, and whoever follows one
    /// hears so when it asks.
    pub fn recover(limits: Limits, node: NodeId, prices: Option<Arc<Prices>>) -> Self {
        Self { limits, node, prices, feeds: BTreeMap::new() }
    }

    /// Begins a replay. The same question again has the same answer.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] without prices, [`Refusal::NoSuch`] for an instrument without
    /// prices, [`Refusal::Invalid`] for days that there are not, [`Refusal::Conflict`] if the name
    /// is taken.
    pub fn start(&mut self, now: Moment, ask: StartReplay) -> Result<ReplayStarted, Refusal> {
        self.forget(now);
        if let Some(feed) = self.feeds.get(&ask.feed) {
            if feed.ask == ask {
                return self.started(&ask.feed);
            }
            let why = format!("feed {} is another replay", ask.feed);
            return Err(Refusal::Conflict { scope: "feed", why });
        }
        if self.feeds.len() >= self.limits.feeds_max {
            let (waiting, retry_after) = (self.feeds.len(), self.limits.ended_kept);
            return Err(Refusal::Busy { waiting, retry_after });
        }
        let prices = self.prices.as_ref().ok_or_else(no_prices)?;
        let feed = plan(now, prices, &ask)?;
        let name = ask.feed;
        self.feeds.insert(name.clone(), feed);
        self.started(&name)
    }

    fn started(&self, name: &FeedName) -> Result<ReplayStarted, Refusal> {
        let (prices, feed) = self.find(name)?;
        let row = |seq: u64| feed.first + narrow(seq) - 1;
        Ok(ReplayStarted {
            feed: name.clone(),
            subject: subject::market(name),
            source: prices.source().to_owned(),
            node: self.node,
            from: prices.days()[row(feed.history + 1)].clone(),
            to: prices.days()[row(feed.end)].clone(),
            history: u32::try_from(feed.history).unwrap_or(u32::MAX),
            bars: u32::try_from(feed.end - feed.history).unwrap_or(u32::MAX),
            symbols: feed.columns.iter().map(|at| prices.symbols()[*at].clone()).collect(),
        })
    }

    fn find(&self, name: &FeedName) -> Result<(&Arc<Prices>, &Feed), Refusal> {
        let feed = self.feeds.get(name);
        let found = self.prices.as_ref().zip(feed);
        found.ok_or_else(|| Refusal::NoSuch { what: "feed", name: name.to_string() })
    }

    /// What a feed has shown so far.
    ///
    /// # Errors
    /// [`Refusal::NoSuch`] and [`Refusal::Invalid`].
    pub fn bars(&self, ask: &GetBars) -> Result<Bars, Refusal> {
        let (default, max) = PAGE;
        let limit = ask.limit.unwrap_or(default);
        if !(1..=max).contains(&limit) {
            return Err(invalid("limit", limit, format!("1 to {max}")));
        }
        let (prices, feed) = self.find(&ask.feed)?;
        let columns = match &ask.symbols {
            None => feed.columns.clone(),
            Some(symbols) => {
                let wanted = |at: &usize| symbols.contains(&prices.symbols()[*at]);
                feed.columns.iter().copied().filter(wanted).collect()
            }
        };
        let first = ask.after.saturating_add(1);
        let page = (first..=feed.head).take(narrow(limit.into()));
        Ok(Bars {
            feed: ask.feed.clone(),
            source: prices.source().to_owned(),
            symbols: feed.columns.iter().map(|at| prices.symbols()[*at].clone()).collect(),
            head: feed.head,
            bars: page.map(|seq| feed.bar(self.node, prices, seq, &columns)).collect(),
        })
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        match event {
            Event::Published { feed } => {
                if let Some(feed) = self.feeds.get_mut(&feed) {
                    feed.published(now);
                }
            }
            Event::NotPublished { feed } => {
                if let Some(feed) = self.feeds.get_mut(&feed) {
                    feed.stage = Stage::Due(now + self.limits.retry_pause);
                }
            }
            Event::Tick => (),
        }
        self.forget(now);
        self.show_due(now)
    }

    fn show_due(&mut self, now: Moment) -> Vec<Effect> {
        let Some(prices) = &self.prices else { return Vec::new() };
        let mut effects = Vec::new();
        for (name, feed) in &mut self.feeds {
            if matches!(feed.stage, Stage::Due(at) if at <= now) {
                feed.stage = Stage::Publishing { since: now };
                let bar = feed.bar(self.node, prices, feed.head + 1, &feed.columns);
                effects.push(Effect::Publish { feed: name.clone(), bar: Arc::new(bar) });
            }
        }
        effects
    }

    fn forget(&mut self, now: Moment) {
        let kept = self.limits.ended_kept;
        self.feeds
            .retain(|_, feed| !matches!(feed.stage, Stage::Over { since } if since + kept <= now));
    }

    /// The next moment at which time alone changes a decision.
    pub fn next_deadline(&self) -> Option<Moment> {
        let of = |feed: &Feed| match feed.stage {
            Stage::Due(at) => Some(at),
            Stage::Publishing { .. } => None,
            Stage::Over { since } => Some(since + self.limits.ended_kept),
        };
        self.feeds.values().filter_map(of).min()
    }
}

impl Feed {
    fn bar(&self, node: NodeId, prices: &Prices, seq: u64, columns: &[usize]) -> Bar {
        let (day, closes) = (String::new(), BTreeMap::new());
        let (history, last) = (seq <= self.history, seq == self.end);
        let mut bar = Bar { seq, node, day, closes, history, last };
        prices.fill(self.first + narrow(seq) - 1, columns, &mut bar);
        bar
    }

    fn published(&mut self, now: Moment) {
        let Stage::Publishing { since } = self.stage else { return };
        self.head += 1;
        self.stage = match self.head == self.end {
            true => Stage::Over { since: now },
            // From one publication to the next, whatever the publication took.
            false => Stage::Due(since + self.interval),
        };
    }
}

/// Which rows are replayed.
fn plan(now: Moment, prices: &Prices, ask: &StartReplay) -> Result<Feed, Refusal> {
    let columns = match &ask.symbols {
        None => (0..prices.symbols().len()).take(SYMBOLS_MAX).collect(),
        Some(symbols) if !(1..=SYMBOLS_MAX).contains(&symbols.len()) => {
            return Err(invalid("symbols", symbols.len(), format!("1 to {SYMBOLS_MAX}")));
        }
        Some(symbols) => symbols
            .iter()
            .map(|symbol| {
                let what = "instrument with prices called";
                let name = || symbol.chars().take(64).collect();
                prices.column(symbol).ok_or_else(|| Refusal::NoSuch { what, name: name() })
            })
            .collect::<Result<Vec<_>, _>>()?,
    };
    let days = prices.days();
    let known = format!("days from {} to {}", days[0], days[days.len() - 1]);
    for (field, day) in [("from", &ask.from), ("to", &ask.to)] {
        if let Some(day) = day.as_ref().filter(|day| !super::is_day(day)) {
            return Err(invalid(field, day, known));
        }
    }
    let to = ask.to.as_deref().map_or(days.len(), |to| days.partition_point(|day| &**day <= to));
    let from = match &ask.from {
        Some(from) => days.partition_point(|day| day < from),
        None => to.saturating_sub(TRADED_DEFAULT),
    };
    if from >= to {
        let came = format!(
            "{} to {}",
            ask.from.as_deref().unwrap_or("the first"),
            ask.to.as_deref().unwrap_or("the last")
        );
        return Err(invalid("from", came, known));
    }
    let history = ask.history.unwrap_or(HISTORY_DEFAULT);
    if history > HISTORY_MAX {
        return Err(invalid("history", history, format!("0 to {HISTORY_MAX}")));
    }
    let interval = ask.interval_ms.unwrap_or(0);
    if interval > INTERVAL_MAX_MS {
        return Err(invalid("interval_ms", interval, format!("0 to {INTERVAL_MAX_MS}")));
    }
    let first = from.saturating_sub(narrow(history.into()));
    Ok(Feed {
        ask: ask.clone(),
        columns,
        first,
        history: (from - first) as u64,
        end: (to - first) as u64,
        head: (from - first) as u64,
        interval: Duration::from_millis(interval.into()),
        stage: Stage::Due(now),
    })
}

fn no_prices() -> Refusal {
    let what =
        "market data: this node has no prices (see market.prices, or `sandpit market fetch`); it";
    Refusal::Unsupported { what: what.to_owned() }
}

fn narrow(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
