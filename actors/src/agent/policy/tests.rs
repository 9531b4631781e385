use std::collections::BTreeSet;

use proptest::prelude::*;
use sandpit_messages::agent::{Action, RunAgent};
use sandpit_messages::time::{Now, WallTime};
use serde_json::json;

use super::*;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const FEED: &str = "year";

fn bar(seq: u64, history: u64, last: u64) -> Bar {
    Bar {
        seq,
        node: NodeId::of_bits(7),
        day: format!("2022-01-{seq:02}"),
        closes: [("KO".to_owned(), i64::try_from(seq).unwrap() * 1_000_000)].into(),
        history: seq <= history,
        last: seq == last,
    }
}

fn ask(sandbox: u64, params: Value) -> RunAgent {
    let Value::Object(strategy_params) = params else { panic!("{params} is no object") };
    RunAgent {
        sandbox_id: SandboxId::numbered(sandbox),
        agent_type: "trader".to_owned(),
        symbols: vec!["KO".to_owned()],
        strategy_params,
        use_gpu: false,
        wait: None,
        strategy_id: None,
    }
}

fn order(agent: u64, sandbox: u64) -> Arc<Order> {
    let ask = ask(sandbox, json!({ "feed": FEED }));
    Order::check(AgentId::numbered(agent), Tenant::local(), ask).unwrap()
}

fn buy(qty: u64) -> Answer {
    let symbol = "KO".to_owned();
    let signal = AgentSignal { symbol, action: Action::Buy, qty, limit: None, confidence: None };
    Answer::Said(Box::new(Said { signals: vec![signal], ..Said::default() }))
}

fn at(moment: Moment) -> Now {
    Now { moment, wall: WallTime(0) }
}

fn nothing() -> Answer {
    Answer::Said(Box::default())
}

/// Agents, a feed that has shown bars up to `head`, and everything the agents want done.
struct Rig {
    agents: Agents,
    now: Moment,
    tickets: u64,
    history: u64,
    last: u64,
    head: u64,
    /// What came of each step, the latest last.
    effects: Vec<Effect>,
}

impl Rig {
    fn new(history: u64, last: u64) -> Self {
        let limits = Limits { restarts_max: 2, agents_max: 2, ..Limits::default() };
        let agents = Agents::recover(limits, [7; 32]);
        let effects = Vec::new();
        Self { agents, now: Moment::START, tickets: 0, history, last, head: history, effects }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.agents.step(self.now, event);
        self.effects.extend(effects.iter().cloned());
        effects
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn launch(&mut self, order: Arc<Order>) -> ExecId {
        let ticket = self.ticket();
        let effects = self.step(Event::Launch { ticket, order });
        let [Effect::Listen { exec, .. }] = effects[..] else { panic!("{effects:?}") };
        let effects = self.step(Event::Listening { exec });
        assert!(matches!(effects[0], Effect::Launched { .. }), "{effects:?}");
        let mut asked = effects;
        while !asked.is_empty() {
            asked = self.fetch(&asked);
            assert!(asked.iter().all(|effect| !matches!(effect, Effect::Listen { .. })));
        }
        exec
    }

    /// Answers whoever asks for bars.
    fn fetch(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let mut then = Vec::new();
        for effect in effects {
            if let Effect::Fetch { exec, feed, after, .. } = effect {
                let bars = Bars {
                    feed: feed.clone(),
                    source: "a test".to_owned(),
                    symbols: vec!["KO".to_owned()],
                    head: self.head,
                    bars: (after + 1..=self.head)
                        .map(|seq| bar(seq, self.history, self.last))
                        .collect(),
                };
                let bars = Box::new(bars);
                then.extend(self.step(Event::Fetched { exec: *exec, bars }));
            }
        }
        then
    }

    /// Shows the next bar.
    fn show(&mut self, exec: ExecId) -> Vec<Effect> {
        self.head += 1;
        let bar = Arc::new(bar(self.head, self.history, self.last));
        self.step(Event::Heard { exec, bar })
    }

    fn answer(&mut self, exec: ExecId, cell: u64, answer: Answer) -> Vec<Effect> {
        self.step(Event::Answered { exec, cell, answer })
    }

    fn state(&self, agent: u64) -> AgentState {
        self.agents.look(&Tenant::local(), AgentId::numbered(agent)).unwrap()
    }

    fn fills(&self, agent: u64) -> Vec<(u64, i64)> {
        let fills = self.agents.fills(&Tenant::local(), AgentId::numbered(agent), 0, 100).unwrap();
        fills.fills.into_iter().map(|fill| (fill.bar, fill.shares)).collect()
    }
}

/// The cell that is wanted, and what it is about: nothing for an opening, else the bar.
fn cell(effects: &[Effect]) -> Option<(u64, Option<u64>)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Cell { cell, work: Work::Open { .. }, .. } => Some((*cell, None)),
        Effect::Cell { cell, work: Work::Show { bar, .. }, .. } => Some((*cell, Some(bar.seq))),
        _ => None,
    })
}

fn history(effects: &[Effect]) -> Vec<u64> {
    let opened = effects.iter().find_map(|effect| match effect {
        Effect::Cell { work: Work::Open { history }, .. } => Some(history),
        _ => None,
    });
    opened.expect("an opening").iter().map(|bar| bar.seq).collect()
}

/// An agent that has seen its first bar, number 3, and has not answered.
fn at_work() -> (Rig, ExecId) {
    let mut rig = Rig::new(2, 6);
    let exec = rig.launch(order(1, 1));
    let effects = rig.show(exec);
    assert_eq!(history(&effects), [1, 2]);
    let effects = rig.answer(exec, 1, nothing());
    assert_eq!(cell(&effects), Some((2, Some(3))));
    (rig, exec)
}

#[test]
fn what_is_ordered_on_one_bar_is_filled_on_the_next() {
    let (mut rig, exec) = at_work();
    assert_eq!(cell(&rig.answer(exec, 2, buy(10))), None, "there is no next bar");
    assert_eq!(rig.fills(1), []);
    let effects = rig.show(exec);
    assert_eq!(rig.fills(1), [(4, 10)]);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Tell { fills } if fills.len() == 1))
    );
    // The program is shown the bar with the account after it.
    let shown = effects.iter().find_map(|effect| match effect {
        Effect::Cell { work: Work::Show { shares, .. }, .. } => Some(shares["KO"]),
        _ => None,
    });
    assert_eq!(shown, Some(10));
    // What it ordered is filled once.
    let _ = rig.answer(exec, 3, nothing());
    let _ = rig.show(exec);
    assert_eq!(rig.fills(1), [(4, 10)]);
}

#[test]
fn the_last_bar_ends_the_run() {
    let (mut rig, exec) = at_work();
    for cell in 2..=4 {
        let _ = rig.answer(exec, cell, nothing());
        let _ = rig.show(exec);
    }
    assert_eq!(rig.state(1).status, RunStatus::Running);
    let effects = rig.answer(exec, 5, buy(1));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Ended { .. })), "{effects:?}");
    let state = rig.state(1);
    assert_eq!((state.status, state.halted, state.executions), (RunStatus::Completed, false, 5));
    assert_eq!(state.signals.len(), 1, "what it said last is kept");
}

#[test]
fn who_comes_late_learns_from_what_was_shown_and_does_not_trade_on_it() {
    let mut rig = Rig::new(2, 6);
    rig.head = 4;
    let exec = rig.launch(order(1, 1));
    assert_eq!(history(&rig.show(exec)), [1, 2, 3, 4]);
    assert_eq!(cell(&rig.answer(exec, 1, nothing())), Some((2, Some(5))));
}

#[test]
fn a_feed_that_has_not_begun_is_waited_for() {
    let mut rig = Rig::new(2, 6);
    let ticket = rig.ticket();
    let effects = rig.step(Event::Launch { ticket, order: order(1, 1) });
    let [Effect::Listen { exec, .. }] = effects[..] else { panic!("{effects:?}") };
    let _ = rig.step(Event::Listening { exec });
    let effects = rig.step(Event::NotFetched { exec, why: NoBars::NoSuchFeed });
    assert!(effects.is_empty(), "{effects:?}");
    // Its first bar says who has those before it.
    let effects = rig.show(exec);
    let asked = effects.iter().any(|effect| {
        matches!(effect, Effect::Fetch { node: Some(node), after: 0, .. } if *node == NodeId::of_bits(7))
    });
    assert!(asked, "{effects:?}");
    let effects = rig.fetch(&effects);
    assert_eq!(history(&effects), [1, 2], "and that bar is traded on");
}

#[test]
fn a_silent_feed_is_asked_whether_it_has_more() {
    let (mut rig, exec) = at_work();
    let _ = rig.answer(exec, 2, nothing());
    rig.head = 6;
    let silence = rig.agents.next_deadline().unwrap();
    assert_eq!(silence, rig.now + Limits::default().silence_max);
    rig.now = silence;
    let effects = rig.step(Event::Tick);
    assert_eq!(cell(&rig.fetch(&effects)), Some((3, Some(4))));
}

#[test]
fn a_lost_program_begins_again_with_its_history_and_is_shown_the_bar_again() {
    let (mut rig, exec) = at_work();
    let _ = rig.answer(exec, 2, buy(10));
    let _ = rig.show(exec);
    let effects = rig.answer(exec, 3, Answer::Lost);
    assert_eq!(history(&effects), [1, 2, 3], "the bar under way is not history yet");
    assert_eq!(cell(&rig.answer(exec, 4, nothing())), Some((5, Some(4))));
    let _ = rig.answer(exec, 5, buy(1));
    let _ = rig.show(exec);
    assert_eq!(rig.fills(1), [(4, 10), (5, 1)], "nothing is lost and nothing is done twice");
    let run = rig.agents.run_of(at(rig.now), AgentId::numbered(1)).unwrap();
    assert!(run.notes.iter().any(|note| note.contains("began again")), "{:?}", run.notes);
}

#[test]
fn a_program_that_is_lost_too_often_has_failed() {
    let (mut rig, exec) = at_work();
    for cell in 2..=3 {
        let _ = rig.answer(exec, cell, Answer::Lost);
    }
    let _ = rig.answer(exec, 4, Answer::Lost);
    let state = rig.state(1);
    assert_eq!(state.status, RunStatus::Failed);
    assert!(state.error.unwrap().contains("lost 3 times"));
}

#[test]
fn a_cell_that_was_not_run_is_run_later_and_one_that_cannot_be_ends_the_agent() {
    let (mut rig, exec) = at_work();
    let busy = Refusal::Busy { waiting: 1, retry_after: MILLI };
    assert_eq!(cell(&rig.answer(exec, 2, Answer::Refused(busy))), None);
    rig.now = rig.agents.next_deadline().unwrap();
    assert_eq!(cell(&rig.step(Event::Tick)), Some((3, Some(3))));
    let gone = Refusal::NoSuchSandbox { sandbox: SandboxId::numbered(1) };
    let _ = rig.answer(exec, 3, Answer::Refused(gone));
    assert!(rig.state(1).error.unwrap().contains("its sandbox cannot be used"));
}

#[test]
fn an_opening_that_was_not_run_is_tried_again() {
    let mut rig = Rig::new(2, 6);
    let exec = rig.launch(order(1, 1));
    let _ = rig.show(exec);
    let _ = rig.answer(exec, 1, Answer::Refused(Refusal::Restarting));
    rig.now = rig.agents.next_deadline().unwrap();
    assert_eq!(history(&rig.step(Event::Tick)), [1, 2]);
    assert_eq!(cell(&rig.answer(exec, 2, nothing())), Some((3, Some(3))));
}

#[test]
fn an_instrument_without_prices_fails_the_run_and_names_those_there_are() {
    let mut rig = Rig::new(2, 6);
    let mut ask = ask(1, json!({ "feed": FEED }));
    ask.symbols = vec!["NOPE".to_owned()];
    rig.launch(Order::check(AgentId::numbered(1), Tenant::local(), ask).unwrap());
    let why = rig.state(1).error.unwrap();
    assert_eq!(why, "there are no market data for NOPE; the feed has KO");
}

#[test]
fn a_signal_for_something_else_fails_the_run() {
    let (mut rig, exec) = at_work();
    let symbol = "PEP".to_owned();
    let signal = AgentSignal { symbol, action: Action::Buy, qty: 1, limit: None, confidence: None };
    let said = Said { signals: vec![signal], ..Said::default() };
    let _ = rig.answer(exec, 2, Answer::Said(Box::new(said)));
    assert!(rig.state(1).error.unwrap().contains("PEP"));
}

#[test]
fn a_halted_agent_does_nothing_more_and_whoever_waited_hears_it() {
    let (mut rig, exec) = at_work();
    let waiting = rig.ticket();
    let until = rig.now + SECOND;
    let _ = rig.step(Event::Await { ticket: waiting, tenant: Tenant::local(), exec, until });
    let ticket = rig.ticket();
    let agent = AgentId::numbered(1);
    let effects = rig.step(Event::Halt { ticket, tenant: Tenant::local(), agent });
    let shown: BTreeSet<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Show { ticket, .. } => Some(*ticket),
            _ => None,
        })
        .collect();
    assert_eq!(shown, BTreeSet::from([waiting, ticket]));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Leave { .. })));
    assert!(rig.answer(exec, 2, buy(10)).is_empty(), "its last answer comes too late");
    assert!(rig.show(exec).is_empty());
    let state = rig.state(1);
    assert_eq!((state.status, state.halted), (RunStatus::Completed, true));
}

#[test]
fn whoever_waits_is_answered_at_its_time() {
    let (mut rig, exec) = at_work();
    let ticket = rig.ticket();
    let until = rig.now + SECOND;
    let effects = rig.step(Event::Await { ticket, tenant: Tenant::local(), exec, until });
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(rig.agents.next_deadline(), Some(until));
    rig.now = until;
    let effects = rig.step(Event::Tick);
    assert!(matches!(effects[..], [Effect::Show { ticket: shown, .. }] if shown == ticket));
}

#[test]
fn an_agent_that_ended_goes_on_elsewhere_with_its_account() {
    let (mut rig, exec) = at_work();
    let _ = rig.answer(exec, 2, buy(10));
    let _ = rig.show(exec);
    let gone = Refusal::NoSuchSandbox { sandbox: SandboxId::numbered(1) };
    let _ = rig.answer(exec, 3, Answer::Refused(gone));
    assert_eq!(rig.state(1).status, RunStatus::Failed);
    rig.head = 5;
    let again = rig.launch(order(1, 2));
    // Bar 4 filled its order; bar 5 came while it was nowhere, and is traded on now.
    let opened = std::mem::take(&mut rig.effects);
    assert_eq!(history(&opened[opened.len() - 1..]), [1, 2, 3, 4]);
    let effects = rig.answer(again, 1, nothing());
    assert_eq!(cell(&effects), Some((2, Some(5))));
    assert_eq!(rig.fills(1), [(4, 10)], "its account is the one it had");
    let fills = rig.agents.fills(&Tenant::local(), AgentId::numbered(1), 0, 9).unwrap();
    assert_eq!(fills.fills[0].execution_id, exec, "and so is its journal");
}

#[test]
fn an_agent_works_once_at_a_time_and_a_full_node_says_so() {
    let (mut rig, _) = at_work();
    let refused = |rig: &mut Rig, order| {
        let ticket = rig.ticket();
        match rig.step(Event::Launch { ticket, order }).pop() {
            Some(Effect::Refuse { refusal, .. }) => refusal.problem().kind,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&mut rig, order(1, 2)), "conflict");
    rig.launch(order(2, 2));
    assert_eq!(refused(&mut rig, order(3, 3)), "busy");
    let unknown = rig.agents.look(&Tenant::local(), AgentId::numbered(9));
    assert_eq!(unknown.unwrap_err().problem().kind, "not_found");
}

#[test]
fn a_feed_that_its_node_has_forgotten_fails_the_run() {
    let (mut rig, exec) = at_work();
    let _ = rig.answer(exec, 2, nothing());
    let _ = rig.step(Event::NotFetched { exec, why: NoBars::NoSuchFeed });
    assert!(rig.state(1).error.unwrap().contains("its feed ended before its last bar"));
}

#[test]
fn an_agent_that_ended_is_forgotten_after_a_while() {
    let (mut rig, exec) = at_work();
    let why = "a test".to_owned();
    let _ = rig.answer(exec, 2, Answer::Broken { why });
    rig.now = rig.agents.next_deadline().unwrap();
    assert_eq!(rig.now, Moment::START + Limits::default().ended_kept);
    let _ = rig.step(Event::Tick);
    assert!(rig.agents.look(&Tenant::local(), AgentId::numbered(1)).is_err());
    assert_eq!(rig.agents.next_deadline(), None);
}

#[test]
fn a_replay_of_its_own_begins_when_it_listens() {
    let mut rig = Rig::new(2, 6);
    let ask = ask(1, json!({ "from": "2022-01-03" }));
    let order = Order::check(AgentId::numbered(1), Tenant::local(), ask).unwrap();
    let ticket = rig.ticket();
    let effects = rig.step(Event::Launch { ticket, order });
    let [Effect::Listen { exec, .. }] = effects[..] else { panic!("{effects:?}") };
    let effects = rig.step(Event::Listening { exec });
    let [Effect::Launched { .. }, Effect::Replay { ask, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((ask.feed.as_str(), ask.from.as_deref()), (exec.as_str(), Some("2022-01-03")));
    let what = "market data".to_owned();
    let refusal = Refusal::Unsupported { what };
    let _ = rig.step(Event::NotReplaying { exec, refusal });
    assert!(rig.state(1).error.unwrap().contains("market data"));
}

proptest! {
    /// Bars may be lost, doubled and come in any order: a program sees each once, in order.
    #[test]
    fn a_program_sees_every_bar_once_and_in_order(
        heard in prop::collection::vec(3_u64..=20, 0..60),
        pending_max in 1_usize..8,
    ) {
        let mut rig = Rig::new(2, 20);
        rig.agents.limits.pending_max = pending_max;
        let exec = rig.launch(order(1, 1));
        let mut seen = Vec::new();
        let mut todo: Vec<Effect> = Vec::new();
        let mut heard = heard.into_iter();
        for _ in 0..1_000 {
            if rig.state(1).status != RunStatus::Running {
                break;
            }
            if let Some((cell, shown)) = cell(&todo) {
                seen.extend(shown);
                todo.retain(|effect| !matches!(effect, Effect::Cell { .. }));
                todo.extend(rig.answer(exec, cell, nothing()));
            } else if let Some(seq) = heard.next() {
                rig.head = rig.head.max(seq);
                let bar = Arc::new(bar(seq, 2, 20));
                todo.extend(rig.step(Event::Heard { exec, bar }));
            } else if todo.iter().any(|effect| matches!(effect, Effect::Fetch { .. })) {
                let asked = std::mem::take(&mut todo);
                todo = rig.fetch(&asked);
            } else {
                rig.head = 20;
                rig.now = rig.agents.next_deadline().unwrap_or(rig.now + SECOND);
                todo.extend(rig.step(Event::Tick));
            }
        }
        prop_assert_eq!(rig.state(1).status, RunStatus::Completed);
        prop_assert_eq!(seen, (3..=20).collect::<Vec<_>>());
    }
}
