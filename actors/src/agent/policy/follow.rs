//! How one agent follows its feed: every bar once and in order, whatever the bus loses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sandpit_messages::id::{ExecId, NodeId};
use sandpit_messages::market::{Bar, Bars, FeedName, ReplayStarted};
use sandpit_messages::time::Moment;

use super::Limits;
use crate::agent::order::{Feed, Order};

/// The way of one agent through its feed.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) feed: FeedName,
    /// Where the prices are from, once somebody said so.
    pub(super) source: Option<String>,
    /// The node that replays the feed, once it is known.
    pub(super) node: Option<NodeId>,
    /// The number of the next bar.
    pub(super) next: u64,
    /// Bars up to this one are history: they were shown before it came, or it has traded on them.
    /// `None` until that is known.
    joined: Option<u64>,
    /// Bars that it has not been shown, in order.
    pending: VecDeque<Arc<Bar>>,
    /// Bars that came before others they come after.
    early: BTreeMap<u64, Arc<Bar>>,
    /// The highest number it heard of: up to it there are bars to be had.
    highest: u64,
    pub(super) asking: Asking,
    heard: Moment,
    /// Whether the last bar is among those it has.
    pub(super) over: bool,
}

/// Whether bars are being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// Not before its replay has begun, or it listens.
    NotYet,
    No,
    UnderWay,
    Again(Moment),
}

impl Following {
    /// At the beginning of a run. `lived` is where an earlier run got to.
    pub(super) fn begin(
        now: Moment,
        order: &Order,
        exec: ExecId,
        lived: Option<(FeedName, u64)>,
    ) -> Self {
        let own = || exec.as_str().parse().expect("letters and digits");
        let feed = match (&order.feed, &lived) {
            (Feed::Named(name), _) => name.clone(),
            // The replay of its earlier run, to go on where that ended.
            (Feed::Own { .. }, Some((feed, _))) => feed.clone(),
            (Feed::Own { .. }, None) => own(),
        };
        let joined = match (lived, &order.feed) {
            (Some((known, seq)), _) if known == feed => Some(seq),
            // Of its own replay it misses nothing.
            (_, Feed::Own { .. }) => Some(0),
            (_, Feed::Named(_)) => None,
        };
        Self {
            joined,
            feed,
            source: None,
            node: None,
            next: 1,
            pending: VecDeque::new(),
            early: BTreeMap::new(),
            highest: 0,
            asking: Asking::NotYet,
            heard: now,
            over: false,
        }
    }

    pub(super) fn replayed(&mut self, now: Moment, started: ReplayStarted) {
        self.node = Some(started.node);
        self.source = Some(started.source);
        self.asking = Asking::Again(now);
    }

    /// Takes in a bar that was published.
    pub(super) fn hear(&mut self, now: Moment, limits: &Limits, bar: Arc<Bar>) {
        self.heard = now;
        self.node = Some(bar.node);
        self.accept(limits, bar);
    }

    fn accept(&mut self, limits: &Limits, bar: Arc<Bar>) {
        self.highest = self.highest.max(bar.seq);
        if bar.seq >= self.next {
            self.early.insert(bar.seq, bar);
        }
        self.line_up(limits);
        // What finds no room is asked for again when there is: first the furthest away, so that the
        // next bar always finds some.
        while self.early.len() > limits.pending_max {
            self.early.pop_last();
        }
    }

    /// Lets the bars follow whose turn it is.
    fn line_up(&mut self, limits: &Limits) {
        while self.pending.len() < limits.pending_max
            && let Some(bar) = self.early.remove(&self.next)
        {
            self.next += 1;
            self.over |= bar.last;
            self.pending.push_back(bar);
        }
    }

    fn is_behind(&self) -> bool {
        self.next <= self.highest
    }

    /// Takes in bars that were asked for.
    pub(super) fn fetched(&mut self, now: Moment, limits: &Limits, bars: Bars) {
        self.heard = now;
        self.asking = Asking::No;
        self.source = Some(bars.source);
        if let Some(bar) = bars.bars.first() {
            self.node = Some(bar.node);
        }
        self.joined.get_or_insert(bars.head);
        self.highest = self.highest.max(bars.head);
        for bar in bars.bars {
            self.accept(limits, Arc::new(bar));
        }
    }

    /// The feed has not begun, or whoever was asked knows nothing of it.
    pub(super) fn not_begun(&mut self, now: Moment, limits: &Limits) {
        // Whatever it shows first comes after this agent.
        self.joined.get_or_insert(0);
        self.asking = match self.is_behind() {
            true => Asking::Again(now + limits.retry_pause),
            false => Asking::No,
        };
        self.heard = now;
    }

    /// Whether bars must be asked for now. If so, they are being asked for from then on.
    pub(super) fn wants_bars(&mut self, now: Moment, limits: &Limits) -> bool {
        let silent = self.heard + limits.silence_max <= now;
        let idle = self.pending.is_empty() && !self.over;
        let may = match self.asking {
            Asking::No => (self.is_behind() && self.pending.is_empty()) || (silent && idle),
            Asking::Again(at) => at <= now,
            Asking::NotYet | Asking::UnderWay => false,
        };
        if may {
            self.asking = Asking::UnderWay;
        }
        may
    }

    pub(super) fn next_deadline(&self, limits: &Limits) -> Option<Moment> {
        match self.asking {
            Asking::Again(at) => Some(at),
            Asking::No if self.pending.is_empty() && !self.over => {
                Some(self.heard + limits.silence_max)
            }
            Asking::No | Asking::NotYet | Asking::UnderWay => None,
        }
    }

    /// Whether the next bar is one to learn from only; `None` without a next bar.
    pub(super) fn next_is_history(&self) -> Option<bool> {
        let bar = self.pending.front()?;
        // Before the first answer nobody knows what was shown before this agent came.
        let joined = self.joined?;
        Some(bar.history || bar.seq <= joined)
    }

    pub(super) fn take(&mut self, limits: &Limits) -> Option<Arc<Bar>> {
        let bar = self.pending.pop_front();
        self.line_up(limits);
        bar
    }

    pub(super) fn has_more(&self) -> bool {
        !self.pending.is_empty()
    }
}
