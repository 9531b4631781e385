use super::*;

fn at(millis: u64) -> Moment {
    Moment::START + Duration::from_millis(millis)
}

fn limits() -> Limits {
    Limits { inflight_max: 1, queue_max: 2, queue_wait_max: Duration::from_millis(100) }
}

fn arrived(ticket: u64, until: u64) -> Event {
    Event::Arrived { ticket: Ticket(ticket), until: at(until) }
}

fn begin(ticket: u64) -> Effect {
    Effect::Begin { ticket: Ticket(ticket) }
}

/// The tickets that were refused as busy, with the pauses they were told.
fn busy(effects: &[Effect]) -> Vec<(u64, Duration)> {
    let pause = |effect: &Effect| match effect {
        Effect::Refuse { ticket, refusal: Refusal::Busy { retry_after, .. } } => {
            Some((ticket.0, *retry_after))
        }
        _ => None,
    };
    effects.iter().filter_map(pause).collect()
}

#[test]
fn whoever_finds_a_place_begins_at_once() {
    let mut gate = Gate::recover(limits(), 0);
    assert_eq!(gate.step(at(0), arrived(1, 1_000)), [begin(1)]);
    assert_eq!(gate.next_deadline(), None);
}

#[test]
fn the_first_to_wait_is_the_first_to_begin() {
    let mut gate = Gate::recover(limits(), 0);
    assert_eq!(gate.step(at(0), arrived(1, 1_000)), [begin(1)]);
    assert_eq!(gate.step(at(1), arrived(2, 1_000)), []);
    assert_eq!(gate.step(at(2), arrived(3, 1_000)), []);
    assert_eq!(gate.step(at(3), Event::Ended { began: at(0) }), [begin(2)]);
    assert_eq!(gate.step(at(4), Event::Ended { began: at(3) }), [begin(3)]);
    assert_eq!((gate.inflight(), gate.queued()), (1, 0));
}

#[test]
fn past_the_bound_of_the_queue_a_caller_is_refused_at_once() {
    let mut gate = Gate::recover(limits(), 0);
    let _ = gate.step(at(0), arrived(1, 1_000));
    let _ = gate.step(at(0), arrived(2, 1_000));
    let _ = gate.step(at(0), arrived(3, 1_000));
    let refused = busy(&gate.step(at(0), arrived(4, 1_000)));
    assert_eq!(refused.len(), 1);
    let (ticket, pause) = refused[0];
    assert_eq!(ticket, 4);
    assert!((RETRY_AFTER_MIN.mul_f64(0.8)..RETRY_AFTER_MIN.mul_f64(1.2)).contains(&pause));
}

#[test]
fn a_caller_that_would_wait_too_long_is_refused_on_arrival() {
    let mut gate = Gate::recover(limits(), 0);
    let _ = gate.step(at(0), arrived(1, 10_000));
    // One answer took 80 ms, so the next two in line would wait 80 and 160.
    let _ = gate.step(at(80), Event::Ended { began: at(0) });
    let _ = gate.step(at(80), arrived(2, 10_000));
    assert_eq!(gate.step(at(80), arrived(3, 10_000)), []);
    let refused = busy(&gate.step(at(80), arrived(4, 10_000)));
    assert_eq!(refused.len(), 1, "160 ms is more than the 100 that are borne");
    assert!(refused[0].1 >= Duration::from_millis(128), "{:?}", refused[0].1);
    // Nobody waits past his own deadline either, however short the queue.
    let _ = gate.step(at(81), Event::Ended { began: at(80) });
    assert_eq!(busy(&gate.step(at(81), arrived(5, 91))).len(), 1);
}

#[test]
fn waiting_ends_at_its_bound_and_not_later() {
    let mut gate = Gate::recover(limits(), 0);
    let _ = gate.step(at(0), arrived(1, 1_000));
    let _ = gate.step(at(0), arrived(2, 1_000));
    assert_eq!(gate.next_deadline(), Some(at(100)));
    assert_eq!(gate.step(at(99), Event::Tick), []);
    assert_eq!(busy(&gate.step(at(100), Event::Tick)).len(), 1);
    assert_eq!(gate.next_deadline(), None);
}

#[test]
fn a_deadline_that_passed_is_told_as_such() {
    let mut gate = Gate::recover(limits(), 0);
    let late = |ticket, millis| {
        let refusal = Refusal::TooLate { late: Duration::from_millis(millis) };
        Effect::Refuse { ticket: Ticket(ticket), refusal }
    };
    assert_eq!(gate.step(at(10), arrived(1, 7)), [late(1, 3)]);
    let _ = gate.step(at(10), arrived(2, 1_000));
    let _ = gate.step(at(10), arrived(3, 30));
    assert_eq!(gate.step(at(31), Event::Tick), [late(3, 1)]);
}

#[test]
fn a_draining_gate_lets_nobody_in_and_sends_the_queue_away() {
    let mut gate = Gate::recover(limits(), 0);
    let _ = gate.step(at(0), arrived(1, 1_000));
    let _ = gate.step(at(0), arrived(2, 1_000));
    let away = |ticket| Effect::Refuse { ticket: Ticket(ticket), refusal: Refusal::Draining };
    assert_eq!(gate.step(at(1), Event::Drain), [away(2)]);
    assert_eq!(gate.step(at(2), Event::Ended { began: at(0) }), []);
    assert_eq!(gate.step(at(3), arrived(3, 1_000)), [away(3)]);
    assert_eq!((gate.inflight(), gate.queued()), (0, 0));
}

#[test]
fn the_same_seed_asks_for_the_same_pauses() {
    let pauses = |seed| {
        let mut gate = Gate::recover(Limits { inflight_max: 0, queue_max: 0, ..limits() }, seed);
        let one = |ticket| busy(&gate.step(at(0), arrived(ticket, 1_000)));
        (0..8).flat_map(one).collect::<Vec<_>>()
    };
    assert_eq!(pauses(1), pauses(1));
    assert_ne!(pauses(1), pauses(2));
}
