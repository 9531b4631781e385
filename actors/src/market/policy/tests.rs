use std::fmt::Write as _;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

/// Ten days of two instruments.
fn prices() -> Arc<Prices> {
    let mut text = "Date,A,B\n".to_owned();
    for day in 1..=10 {
        writeln!(text, "2022-01-{day:02},{day}.5,{day}0").unwrap();
    }
    Arc::new(Prices::read(&text, "a test".to_owned()).unwrap())
}

fn replays() -> Replays {
    Replays::recover(Limits::default(), NodeId::of_bits(7), Some(prices()))
}

fn ask() -> StartReplay {
    StartReplay {
        feed: "f".parse().unwrap(),
        from: Some("2022-01-05".to_owned()),
        to: Some("2022-01-07".to_owned()),
        history: Some(2),
        symbols: None,
        interval_ms: None,
    }
}

fn bars(replays: &Replays, after: u64) -> Vec<(u64, String, bool)> {
    let (feed, limit, symbols) = ("f".parse().unwrap(), None, None);
    let bars = replays.bars(&GetBars { feed, after, limit, symbols }).unwrap().bars;
    bars.into_iter().map(|bar| (bar.seq, bar.day, bar.history)).collect()
}

fn shown(effects: &[Effect]) -> Vec<(u64, bool)> {
    effects.iter().map(|Effect::Publish { bar, .. }| (bar.seq, bar.last)).collect()
}

fn published() -> Event {
    Event::Published { feed: "f".parse().unwrap() }
}

#[test]
fn a_replay_shows_every_day_once_and_says_which_is_the_last() {
    let (mut replays, now) = (replays(), Moment::START);
    let started = replays.start(now, ask()).unwrap();
    assert_eq!((started.from.as_str(), started.to.as_str()), ("2022-01-05", "2022-01-07"));
    assert_eq!((started.history, started.bars), (2, 3));
    assert_eq!(shown(&replays.step(now, Event::Tick)), [(3, false)]);
    assert_eq!(shown(&replays.step(now, Event::Tick)), [], "one at a time");
    assert_eq!(shown(&replays.step(now, published())), [(4, false)]);
    assert_eq!(shown(&replays.step(now, published())), [(5, true)]);
    assert_eq!(shown(&replays.step(now, published())), []);
}

#[test]
fn nobody_is_shown_the_future() {
    let (mut replays, now) = (replays(), Moment::START);
    replays.start(now, ask()).unwrap();
    let day = |day: u32| format!("2022-01-{day:02}");
    assert_eq!(bars(&replays, 0), [(1, day(3), true), (2, day(4), true)]);
    let _ = replays.step(now, Event::Tick);
    assert_eq!(bars(&replays, 2), [], "it is still on its way out");
    let _ = replays.step(now, published());
    assert_eq!(bars(&replays, 2), [(3, day(5), false)]);
}

#[test]
fn what_could_not_be_published_is_published_later() {
    let (mut replays, now) = (replays(), Moment::START);
    replays.start(now, ask()).unwrap();
    let _ = replays.step(now, Event::Tick);
    assert_eq!(replays.step(now, Event::NotPublished { feed: "f".parse().unwrap() }), []);
    let later = replays.next_deadline().unwrap();
    assert_eq!(later, now + Limits::default().retry_pause);
    assert_eq!(shown(&replays.step(later, Event::Tick)), [(3, false)]);
}

#[test]
fn bars_come_at_their_interval_whatever_their_publication_takes() {
    let (mut replays, now) = (replays(), Moment::START);
    replays.start(now, StartReplay { interval_ms: Some(10), ..ask() }).unwrap();
    let _ = replays.step(now, Event::Tick);
    assert_eq!(shown(&replays.step(now + 3 * MILLI, published())), []);
    assert_eq!(replays.next_deadline(), Some(now + 10 * MILLI));
    assert_eq!(shown(&replays.step(now + 10 * MILLI, Event::Tick)), [(4, false)]);
}

#[test]
fn a_feed_that_ended_is_forgotten_after_a_while() {
    let (mut replays, now) = (replays(), Moment::START);
    replays.start(now, ask()).unwrap();
    for event in [Event::Tick, published(), published(), published()] {
        let _ = replays.step(now, event);
    }
    assert_eq!(bars(&replays, 0).len(), 5);
    let later = replays.next_deadline().unwrap();
    let _ = replays.step(later, Event::Tick);
    assert_eq!(replays.next_deadline(), None);
    assert!(replays.start(later, ask()).is_ok(), "its name is free again");
}

#[test]
fn the_same_question_has_the_same_answer_and_another_conflicts() {
    let (mut replays, now) = (replays(), Moment::START);
    let first = replays.start(now, ask()).unwrap();
    assert_eq!(replays.start(now, ask()), Ok(first));
    let other = replays.start(now, StartReplay { to: None, ..ask() });
    assert!(matches!(other, Err(Refusal::Conflict { scope: "feed", .. })), "{other:?}");
}

#[test]
fn days_and_instruments_that_there_are_not_are_refused() {
    let day = |day: &str| Some(day.to_owned());
    let field = |ask: StartReplay| match replays().start(Moment::START, ask) {
        Err(Refusal::Invalid { field, .. }) => field,
        Err(Refusal::NoSuch { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(StartReplay { from: day("2023-01-01"), to: None, ..ask() }), "from");
    assert_eq!(field(StartReplay { from: day("2022-01-08"), ..ask() }), "from");
    assert_eq!(field(StartReplay { to: day("soon"), ..ask() }), "to");
    assert_eq!(field(StartReplay { history: Some(1_261), ..ask() }), "history");
    assert_eq!(field(StartReplay { interval_ms: Some(86_400_001), ..ask() }), "interval_ms");
    let symbols = Some(vec!["C".to_owned()]);
    assert_eq!(field(StartReplay { symbols, ..ask() }), "instrument with prices called");
    let mut empty = Replays::recover(Limits::default(), NodeId::of_bits(7), None);
    assert!(matches!(empty.start(Moment::START, ask()), Err(Refusal::Unsupported { .. })));
}
