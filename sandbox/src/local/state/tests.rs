use super::*;

const GRACE: Duration = Duration::from_millis(250);

fn at(ms: u64) -> Moment {
    Moment::from_nanos(ms * 1_000_000)
}

fn running() -> Stopping {
    Stopping::new(at(0), Duration::from_secs(1), GRACE)
}

#[test]
fn nothing_happens_before_the_time_limit() {
    let mut stopping = running();
    assert_eq!(stopping.next_deadline(), Some(at(1_000)));
    assert_eq!(stopping.step(at(999), Event::Tick), None);
    assert_eq!(stopping.outcome(Outcome::Ok), Outcome::Ok);
}

#[test]
fn it_is_asked_then_killed_then_its_sandbox_is_destroyed() {
    let mut stopping = running();
    assert_eq!(stopping.step(at(1_000), Event::Tick), Some(Effect::Ask));
    assert_eq!(stopping.outcome(Outcome::Raised), Outcome::Interrupted { timed_out: true });
    assert_eq!(stopping.next_deadline(), Some(at(1_250)));
    assert_eq!(stopping.step(at(1_249), Event::Tick), None);
    assert_eq!(stopping.step(at(1_250), Event::Tick), Some(Effect::Kill));
    assert_eq!(stopping.next_deadline(), Some(at(1_750)));
    assert_eq!(stopping.step(at(1_750), Event::Tick), Some(Effect::Destroy));
    assert_eq!(stopping.next_deadline(), None);
    assert_eq!(stopping.outcome(Outcome::Lost), Outcome::Killed(KilledBy::Timeout));
}

#[test]
fn an_interrupt_is_told_apart_from_the_time_limit() {
    let mut stopping = running();
    assert_eq!(stopping.step(at(10), Event::Interrupted), Some(Effect::Ask));
    assert_eq!(stopping.step(at(20), Event::Interrupted), None);
    assert_eq!(stopping.outcome(Outcome::Ok), Outcome::Interrupted { timed_out: false });
    assert_eq!(stopping.step(at(260), Event::Tick), Some(Effect::Kill));
    assert_eq!(stopping.outcome(Outcome::Ok), Outcome::Killed(KilledBy::Interrupt));
}

#[test]
fn a_flood_and_a_forger_are_not_asked_first() {
    for (event, by) in [(Event::Flooded, KilledBy::Output), (Event::Garbled, KilledBy::Protocol)] {
        let mut stopping = running();
        assert_eq!(stopping.step(at(10), event), Some(Effect::Kill));
        assert_eq!(stopping.step(at(11), event), None);
        assert_eq!(stopping.outcome(Outcome::Ok), Outcome::Killed(by));
    }
}

#[test]
fn ends_are_told_as_programs_and_shells_do() {
    for (status, outcome) in [
        (0x0000, Outcome::Exit(0)),
        (0x0300, Outcome::Exit(3)),
        (0x000b, Outcome::Signal(11)),
        (0x0089, Outcome::Signal(9)),
    ] {
        assert_eq!(ended(status), outcome);
    }
}

#[test]
fn five_deaths_in_a_minute_are_forgiven_and_the_sixth_is_not() {
    let mut restarts = Restarts::new();
    for second in 0..5 {
        assert!(restarts.again(at(second * 1_000)));
    }
    assert!(!restarts.again(at(5_000)));
    assert!(restarts.again(at(120_000)));
}
