//! One run of one agent, from its first bar to its last.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use sandpit_messages::agent::{AgentSignal, RunStatus};
use sandpit_messages::id::ExecId;
use sandpit_messages::market::{Bar, Bars, StartReplay};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use serde_json::{Map, Value};

use super::follow::{Asking, Following};
use super::{Agent, Answer, Effect, Limits, NoBars, Said, Work, has_not_run};
use crate::agent::account::PaperOrder;
use crate::agent::order::{Feed, Order};
use crate::shell::Ticket;

/// Signals about one bar.
const SIGNALS_MAX: usize = 500;

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) exec: ExecId,
    pub(super) order: Arc<Order>,
    pub(super) following: Following,
    pub(super) stage: Stage,
    /// Who wanted it, until it listens.
    pub(super) launching: Option<Ticket>,
    /// Who waits for its end.
    pub(super) awaiting: Vec<(Ticket, Moment)>,
    /// What the program was shown, the latest last: shown again if it must begin again.
    pub(super) history: VecDeque<Arc<Bar>>,
    /// Bars seen, history included.
    pub(super) rows: u64,
    /// The first day it could trade on, and the last day seen.
    pub(super) days: Option<(String, String)>,
    /// Placed on the last bar, filled on the next.
    orders: Vec<PaperOrder>,
    /// Cells begun.
    pub(super) cells: u64,
    restarts: u32,
    pub(super) started: Moment,
    pub(super) last_heartbeat: Option<Moment>,
    pub(super) signals: Vec<AgentSignal>,
    pub(super) metrics: Map<String, Value>,
    pub(super) notes: Vec<String>,
}

/// What a run is doing.
#[derive(Debug)]
pub(super) enum Stage {
    /// No program yet: it takes in history until there is a bar to trade on.
    Learning,
    /// The program begins; then it is shown that bar, if one was under way.
    Opening { then: Option<Arc<Bar>> },
    /// The program waits for a bar.
    Ready,
    /// The program was shown a bar.
    Shown { bar: Arc<Bar> },
    /// A cell could not be run; it is tried again.
    Pausing { until: Moment, opened: bool, then: Option<Arc<Bar>> },
    /// It is over.
    Ended { at: Moment, status: RunStatus, halted: bool, why: Option<String> },
}

impl Run {
    pub(super) fn begin(
        now: Moment,
        exec: ExecId,
        order: Arc<Order>,
        following: Following,
        ticket: Ticket,
    ) -> Self {
        Self {
            exec,
            order,
            following,
            stage: Stage::Learning,
            launching: Some(ticket),
            awaiting: Vec::new(),
            history: VecDeque::new(),
            rows: 0,
            days: None,
            orders: Vec::new(),
            cells: 0,
            restarts: 0,
            started: now,
            last_heartbeat: None,
            signals: Vec::new(),
            metrics: Map::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn is_at_work(&self) -> bool {
        !matches!(self.stage, Stage::Ended { .. })
    }

    pub(super) fn ended(&self) -> Option<Moment> {
        match self.stage {
            Stage::Ended { at, .. } => Some(at),
            _ => None,
        }
    }

    fn see(&mut self, limits: &Limits, bar: &Arc<Bar>) {
        self.rows += 1;
        self.history.push_back(Arc::clone(bar));
        while self.history.len() > limits.history_max {
            self.history.pop_front();
        }
        if let Some((_, to)) = &mut self.days {
            to.clone_from(&bar.day);
        }
    }

    fn cell(&mut self, work: Work, effects: &mut Vec<Effect>) {
        self.cells += 1;
        let (exec, cell, order) = (self.exec, self.cells, Arc::clone(&self.order));
        effects.push(Effect::Cell { exec, cell, order, work });
    }

    fn open(&mut self, then: Option<Arc<Bar>>, effects: &mut Vec<Effect>) {
        // A bar under way is shown again, so it is not yet history.
        let before = then.as_ref().map_or(u64::MAX, |bar| bar.seq);
        let history = self.history.iter().filter(|bar| bar.seq < before).cloned().collect();
        self.stage = Stage::Opening { then };
        self.cell(Work::Open { history }, effects);
    }
}

impl Agent {
    /// It listens to its feed.
    pub(super) fn listening(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let run = &mut self.run;
        if let Some(ticket) = run.launching.take() {
            effects.push(Effect::Launched { ticket, exec: run.exec });
        }
        match &run.order.feed {
            Feed::Named(_) => {
                run.following.asking = Asking::Again(now);
            }
            Feed::Own { from, to } => {
                let ask = StartReplay {
                    feed: run.following.feed.clone(),
                    from: from.clone(),
                    to: to.clone(),
                    history: None,
                    symbols: Some(run.order.symbols.clone()),
                    interval_ms: None,
                };
                effects.push(Effect::Replay { exec: run.exec, ask });
            }
        }
    }

    pub(super) fn not_replaying(
        &mut self,
        now: Moment,
        limits: &Limits,
        refusal: &Refusal,
        effects: &mut Vec<Effect>,
    ) {
        match refusal.problem().retry_after_ms {
            // The replay is asked for again.
            Some(_) => {
                let until = now + limits.retry_pause;
                self.run.following.asking = Asking::NotYet;
                self.run.stage = Stage::Pausing { until, opened: false, then: None };
            }
            None => self.end(now, RunStatus::Failed, Some(refusal.to_string()), effects),
        }
    }

    pub(super) fn fetched(
        &mut self,
        now: Moment,
        limits: &Limits,
        bars: Bars,
        effects: &mut Vec<Effect>,
    ) {
        let known: BTreeSet<_> = bars.symbols.iter().collect();
        let missing = self.run.order.symbols.iter().find(|symbol| !known.contains(symbol));
        if let Some(symbol) = missing {
            let all = bars.symbols.join(", ");
            let why = format!("there are no market data for {symbol}; the feed has {all}");
            self.end(now, RunStatus::Failed, Some(why), effects);
            return;
        }
        self.run.following.fetched(now, limits, bars);
    }

    pub(super) fn not_fetched(
        &mut self,
        now: Moment,
        limits: &Limits,
        why: &NoBars,
        effects: &mut Vec<Effect>,
    ) {
        let following = &mut self.run.following;
        match why {
            // Whoever was asked need not be the node that replays it, unless a bar said so.
            NoBars::NoSuchFeed if following.node.is_some() && following.next > 1 => {
                let why = "its feed ended before its last bar: the node that replayed it has \
                           started over";
                self.end(now, RunStatus::Failed, Some(why.to_owned()), effects);
            }
            NoBars::NoSuchFeed => following.not_begun(now, limits),
            NoBars::Later => following.asking = Asking::Again(now + limits.retry_pause),
        }
    }

    pub(super) fn answered(
        &mut self,
        now: Moment,
        limits: &Limits,
        cell: u64,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let run = &mut self.run;
        if cell != run.cells {
            return;
        }
        let (opened, bar) = match &run.stage {
            Stage::Opening { then } => (false, then.clone()),
            Stage::Shown { bar } => (true, Some(Arc::clone(bar))),
            // Only those two wait for a cell.
            Stage::Learning | Stage::Ready | Stage::Pausing { .. } | Stage::Ended { .. } => return,
        };
        match answer {
            Answer::Said(said) => {
                run.last_heartbeat = Some(now);
                match (opened, bar) {
                    (false, Some(bar)) => self.show(bar, effects),
                    (false, None) => {
                        run.note(said.notes);
                        run.stage = Stage::Ready;
                    }
                    (true, bar) => self.said(now, bar.as_deref(), *said, effects),
                }
            }
            Answer::Broken { why } => self.end(now, RunStatus::Failed, Some(why), effects),
            Answer::Refused(refusal) if has_not_run(&refusal) => {
                match refusal.problem().retry_after_ms {
                    Some(_) => {
                        let until = now + limits.retry_pause;
                        run.stage = Stage::Pausing { until, opened, then: bar };
                    }
                    None => {
                        let why = format!("its sandbox cannot be used: {refusal}");
                        self.end(now, RunStatus::Failed, Some(why), effects);
                    }
                }
            }
            // It may have run: only a new beginning leaves nothing in doubt.
            Answer::Lost | Answer::Refused(_) => {
                run.restarts += 1;
                if run.restarts > limits.restarts_max {
                    let why = format!("its program was lost {} times", run.restarts);
                    self.end(now, RunStatus::Failed, Some(why), effects);
                } else {
                    let note = "its program was lost and began again with its history; what it \
                                kept in memory is gone";
                    run.note([note.to_owned()]);
                    run.open(bar, effects);
                }
            }
        }
    }

    /// Takes in what the program says about a bar.
    fn said(&mut self, now: Moment, bar: Option<&Bar>, said: Said, effects: &mut Vec<Effect>) {
        let Said { signals, metrics, notes } = said;
        let run = &mut self.run;
        run.note(notes);
        if let Some(metrics) = metrics {
            run.metrics = metrics;
        }
        match orders(&run.order, &signals) {
            Ok(orders) => run.orders = orders,
            Err(why) => {
                self.end(now, RunStatus::Failed, Some(why), effects);
                return;
            }
        }
        run.signals = signals;
        run.stage = Stage::Ready;
        if bar.is_some_and(|bar| bar.last) {
            self.end(now, RunStatus::Completed, None, effects);
        }
    }

    /// Does what can be done without waiting.
    pub(super) fn go_on(&mut self, now: Moment, limits: &Limits, effects: &mut Vec<Effect>) {
        self.show_late(now, effects);
        if !self.run.is_at_work() {
            return;
        }
        if let Stage::Pausing { until, .. } = self.run.stage
            && until <= now
        {
            let paused = std::mem::replace(&mut self.run.stage, Stage::Learning);
            let Stage::Pausing { opened, then, .. } = paused else { return };
            match (opened, then) {
                (true, Some(bar)) => self.show(bar, effects),
                (_, then) if self.run.cells > 0 => self.run.open(then, effects),
                _ => self.listening(now, effects),
            }
        }
        self.learn(limits, effects);
        self.trade(now, limits, effects);
        let run = &mut self.run;
        if run.is_at_work() && run.following.wants_bars(now, limits) {
            let (feed, node) = (run.following.feed.clone(), run.following.node);
            let after = run.following.next - 1;
            let symbols = run.order.symbols.clone();
            effects.push(Effect::Fetch { exec: run.exec, feed, node, after, symbols });
        }
    }

    /// Takes in history; opens the program when there is something to trade on.
    fn learn(&mut self, limits: &Limits, effects: &mut Vec<Effect>) {
        if !matches!(self.run.stage, Stage::Learning) {
            return;
        }
        while self.run.following.next_is_history() == Some(true) {
            let Some(bar) = self.run.following.take(limits) else { return };
            self.account.mark(&bar);
            self.run.see(limits, &bar);
            if bar.last {
                self.run.note(["the feed had ended: there was nothing to trade on".to_owned()]);
            }
        }
        let over = self.run.following.over && !self.run.following.has_more();
        if over || self.run.following.next_is_history() == Some(false) {
            self.run.open(None, effects);
        }
    }

    /// Shows a program that is ready the next bar.
    fn trade(&mut self, now: Moment, limits: &Limits, effects: &mut Vec<Effect>) {
        if !matches!(self.run.stage, Stage::Ready) {
            return;
        }
        let Some(bar) = self.run.following.take(limits) else {
            if self.run.following.over {
                self.end(now, RunStatus::Completed, None, effects);
            }
            return;
        };
        let run = &mut self.run;
        run.days.get_or_insert_with(|| (bar.day.clone(), bar.day.clone()));
        run.see(limits, &bar);
        let before = self.account.journal().len() as u64;
        self.account.pass(&bar, std::mem::take(&mut run.orders));
        self.lived = Some((run.following.feed.clone(), bar.seq));
        let fills = self.fills(before, usize::MAX);
        if !fills.is_empty() {
            effects.push(Effect::Tell { fills });
        }
        if self.account.journal().len() >= limits.fills_max {
            let why = format!("it filled its journal of {} lines", limits.fills_max);
            self.end(now, RunStatus::Failed, Some(why), effects);
        } else if self.account.equity() <= 0 {
            let why = "its account is worth nothing any more".to_owned();
            self.end(now, RunStatus::Failed, Some(why), effects);
        } else {
            self.show(bar, effects);
        }
    }

    fn show(&mut self, bar: Arc<Bar>, effects: &mut Vec<Effect>) {
        let work = Work::Show {
            bar: Arc::clone(&bar),
            cash: self.account.cash(),
            equity: self.account.equity(),
            shares: self.account.shares().clone(),
            report: bar.last || !self.run.following.has_more(),
        };
        self.run.stage = Stage::Shown { bar };
        self.run.cell(work, effects);
    }

    /// Ends a run that is at work; one that has ended stays as it is.
    pub(super) fn end(
        &mut self,
        now: Moment,
        status: RunStatus,
        why: Option<String>,
        effects: &mut Vec<Effect>,
    ) {
        let run = &mut self.run;
        if !run.is_at_work() {
            return;
        }
        let done = run.following.over && !run.following.has_more();
        let halted = status == RunStatus::Completed && !done;
        run.stage = Stage::Ended { at: now, status, halted, why };
        run.orders.clear();
        run.history.clear();
        let agent = run.order.agent;
        effects.push(Effect::Leave { exec: run.exec });
        if let Some(ticket) = run.launching.take() {
            effects.push(Effect::Launched { ticket, exec: run.exec });
        }
        for (ticket, _) in run.awaiting.drain(..) {
            effects.push(Effect::Show { ticket, agent });
        }
        effects.push(Effect::Ended { agent });
    }

    /// Shows who waited long enough how it is.
    fn show_late(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let agent = self.run.order.agent;
        self.run.awaiting.retain(|(ticket, until)| {
            let late = *until <= now;
            if late {
                effects.push(Effect::Show { ticket: *ticket, agent });
            }
            !late
        });
    }

    pub(super) fn next_deadline(
        &self,
        limits: &Limits,
        kept: std::time::Duration,
    ) -> Option<Moment> {
        let run = &self.run;
        let stage = match run.stage {
            Stage::Ended { at, .. } => return Some(at + kept),
            Stage::Pausing { until, .. } => Some(until),
            Stage::Learning | Stage::Opening { .. } | Stage::Ready | Stage::Shown { .. } => None,
        };
        let awaiting = run.awaiting.iter().map(|(_, until)| *until).min();
        [stage, awaiting, run.following.next_deadline(limits)].into_iter().flatten().min()
    }
}

impl Run {
    /// What is to be known beside the results; each sentence once.
    fn note(&mut self, notes: impl IntoIterator<Item = String>) {
        const NOTES_MAX: usize = 16;
        for note in notes {
            if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}

/// The orders that signals stand for.
fn orders(order: &Order, signals: &[AgentSignal]) -> Result<Vec<PaperOrder>, String> {
    if signals.len() > SIGNALS_MAX {
        return Err(format!("its program gave {} signals, more than {SIGNALS_MAX}", signals.len()));
    }
    let mut orders = Vec::new();
    for signal in signals {
        if !order.symbols.contains(&signal.symbol) {
            let name: String = signal.symbol.chars().take(64).collect();
            return Err(format!("its program gave a signal for {name}, which it does not trade"));
        }
        orders.extend(PaperOrder::of(signal)?);
    }
    Ok(orders)
}
