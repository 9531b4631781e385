use super::*;
use crate::exec::cache::tests::result;

const SECOND: Duration = Duration::from_secs(1);
const HOME: SandboxId = SandboxId::numbered(1);

fn at(seconds: u64) -> Moment {
    Moment::START + Duration::from_secs(seconds)
}

fn order(place: Place, cache: Option<Duration>) -> Arc<Order> {
    Arc::new(Order {
        tenant: Tenant::local(),
        place,
        work: Work::Line("true".to_owned()),
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        cwd: None,
        stdin: Bytes::new(),
        time_max: 60 * SECOND,
        cache,
        output_max: 1_000,
        stream: false,
        id: None,
    })
}

fn execs() -> Execs {
    Execs::recover(Limits { callers_max: 4, ..Limits::default() }, [7; 32])
}

fn held(ticket: u64, until: u64) -> Event {
    let order = order(Place::Held(HOME), None);
    Event::Run { ticket: Ticket(ticket), order, until: at(until) }
}

fn cached(ticket: u64, until: u64) -> Event {
    let order = order(Place::Fresh("base".to_owned()), Some(100 * SECOND));
    Event::Run { ticket: Ticket(ticket), order, until: at(until) }
}

const fn described(ticket: u64) -> Event {
    Event::Described { ticket: Ticket(ticket), key: Key::numbered(1) }
}

/// The run that the effects ask a sandbox for.
fn asked(effects: &[Effect]) -> Option<ExecId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Use { exec, .. } | Effect::Acquire { exec, .. } => Some(*exec),
        _ => None,
    })
}

fn answered(effects: &[Effect]) -> Vec<(u64, Source)> {
    let answers = effects.iter().filter_map(|effect| match effect {
        Effect::Answer { ticket, source, .. } => Some((ticket.0, *source)),
        _ => None,
    });
    answers.collect()
}

fn refused(effects: &[Effect]) -> Vec<(u64, &Refusal)> {
    let refusals = effects.iter().filter_map(|effect| match effect {
        Effect::Refuse { ticket, refusal } => Some((ticket.0, refusal)),
        _ => None,
    });
    refusals.collect()
}

fn given(exec: ExecId, lent: Lent) -> Event {
    Event::Given { exec, sandbox: HOME, lent }
}

fn ended(exec: ExecId) -> Event {
    Event::Ended { exec, result: result(0, "out"), sandbox_usable: true }
}

/// A run in a held sandbox that has begun.
fn running(execs: &mut Execs, until: u64) -> ExecId {
    let exec = asked(&execs.step(at(0), held(1, until))).expect("it asks the pool");
    let effects = execs.step(at(0), given(exec, Lent::Held));
    assert!(matches!(effects[..], [Effect::Start { .. }]), "{effects:?}");
    exec
}

#[test]
fn a_run_asks_the_pool_begins_answers_and_gives_back() {
    let mut execs = execs();
    let exec = running(&mut execs, 60);
    let effects = execs.step(at(3), ended(exec));
    let used = Effect::Used { exec, sandbox: HOME, sandbox_usable: true };
    assert!(effects.contains(&used), "{effects:?}");
    assert_eq!(answered(&effects), [(1, Source::Ran)]);
    assert_eq!((execs.runs(), execs.callers()), (0, 0));
    assert_eq!(execs.step(at(3), ended(exec)), [], "an answer that comes twice");
}

#[test]
fn a_run_past_its_callers_deadline_is_stopped_and_given_back() {
    let mut execs = execs();
    let exec = running(&mut execs, 5);
    assert_eq!(execs.next_deadline(), Some(at(5)));
    assert_eq!(execs.step(at(4), Event::Tick), []);
    let effects = execs.step(at(5), Event::Tick);
    let used = Effect::Used { exec, sandbox: HOME, sandbox_usable: true };
    let refuse = Effect::Refuse { ticket: Ticket(1), refusal: Refusal::Unfinished };
    assert_eq!(effects, [refuse, Effect::Stop { exec }, used]);
    assert_eq!(execs.next_deadline(), None);
}

#[test]
fn a_caller_without_a_sandbox_in_time_knows_that_nothing_ran() {
    let mut execs = execs();
    let exec = asked(&execs.step(at(0), held(1, 5))).expect("it asks the pool");
    let effects = execs.step(at(5), Event::Tick);
    let refusal = Refusal::WaitedTooLong { waited: 5 * SECOND };
    assert_eq!(effects, [Effect::Refuse { ticket: Ticket(1), refusal }]);
    let used = Effect::Used { exec, sandbox: HOME, sandbox_usable: true };
    let effects = execs.step(at(6), given(exec, Lent::Held));
    assert_eq!(effects, [used], "what comes too late goes back, and only that");
    let fresh = asked(&execs.step(at(6), cached(2, 9)));
    assert_eq!(fresh, None, "it is compared first");
}

#[test]
fn what_was_lent_fresh_and_too_late_is_released() {
    let mut execs = execs();
    let release = Effect::Release { sandbox: HOME };
    let late = given(ExecId::numbered(9), Lent::Fresh);
    assert_eq!(execs.step(at(0), late), [release]);
}

#[test]
fn more_callers_than_the_bound_are_refused_at_once() {
    let mut execs = execs();
    for ticket in 0..4 {
        assert_eq!(refused(&execs.step(at(0), held(ticket, 60))), []);
    }
    let effects = execs.step(at(0), held(4, 60));
    assert!(matches!(refused(&effects)[..], [(4, Refusal::Busy { waiting: 4, .. })]));
}

#[test]
fn equal_runs_are_run_once_and_all_get_the_result() {
    let mut execs = execs();
    let _ = execs.step(at(0), cached(1, 60));
    let exec = asked(&execs.step(at(0), described(1))).expect("the first runs");
    for ticket in [2, 3] {
        let _ = execs.step(at(1), cached(ticket, 60));
        assert_eq!(execs.step(at(1), described(ticket)), []);
    }
    let _ = execs.step(at(1), given(exec, Lent::Fresh));
    let effects = execs.step(at(2), ended(exec));
    assert_eq!(answered(&effects), [(1, Source::Missed), (2, Source::Joined), (3, Source::Joined)]);
    assert!(effects.contains(&Effect::Release { sandbox: HOME }));
    assert_eq!(execs.counts(), Counts { hits: 0, joined: 2, misses: 1 });
}

#[test]
fn a_result_answers_for_equal_runs_until_it_is_too_old() {
    let mut execs = execs();
    let _ = execs.step(at(0), cached(1, 60));
    let exec = asked(&execs.step(at(0), described(1))).expect("the first runs");
    let _ = execs.step(at(0), given(exec, Lent::Fresh));
    let _ = execs.step(at(1), ended(exec));
    let _ = execs.step(at(100), cached(2, 160));
    let effects = execs.step(at(100), described(2));
    let [Effect::Answer { result, source: Source::Cached, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(result.cached && result.execution_id != result.original_exec_id.expect("it says"));
    assert_eq!(result.age_ms, Some(99_000));
    let _ = execs.step(at(101), cached(3, 160));
    assert!(asked(&execs.step(at(101), described(3))).is_some(), "it is a hundred seconds old");
}

#[test]
fn a_failure_of_the_first_is_told_to_all_and_nobody_herds() {
    let mut execs = execs();
    let _ = execs.step(at(0), cached(1, 60));
    let exec = asked(&execs.step(at(0), described(1))).expect("the first runs");
    let _ = execs.step(at(0), cached(2, 60));
    let _ = execs.step(at(0), described(2));
    let refusal = Refusal::Draining;
    let effects = execs.step(at(1), Event::NotGiven { exec, refusal });
    assert_eq!(refused(&effects), [(1, &Refusal::Draining), (2, &Refusal::Draining)]);
    assert_eq!(asked(&effects), None);
    let _ = execs.step(at(2), cached(3, 60));
    assert!(asked(&execs.step(at(2), described(3))).is_some(), "and is not remembered");
}

#[test]
fn whoever_waits_for_anothers_run_has_its_own_deadline_and_the_run_outlives_the_first() {
    let mut execs = execs();
    let _ = execs.step(at(0), cached(1, 10));
    let exec = asked(&execs.step(at(0), described(1))).expect("the first runs");
    let _ = execs.step(at(0), given(exec, Lent::Fresh));
    for (ticket, until) in [(2, 5), (3, 20)] {
        let _ = execs.step(at(0), cached(ticket, until));
        let _ = execs.step(at(0), described(ticket));
    }
    assert_eq!(refused(&execs.step(at(5), Event::Tick)), [(2, &Refusal::Unfinished)]);
    let effects = execs.step(at(10), Event::Tick);
    assert_eq!(refused(&effects), [(1, &Refusal::Unfinished)]);
    assert!(!effects.contains(&Effect::Stop { exec }), "somebody still wants it");
    assert_eq!(answered(&execs.step(at(11), ended(exec))), [(3, Source::Joined)]);
}

#[test]
fn a_run_is_cancelled_by_its_tenant_and_nobody_else() {
    let mut execs = execs();
    let exec = running(&mut execs, 60);
    let cancel = |tenant: &str, sandbox| Event::Cancel {
        ticket: Ticket(9),
        tenant: tenant.parse().expect("a tenant"),
        sandbox,
        exec,
    };
    let no = Effect::Cancelled { ticket: Ticket(9), was_running: false };
    assert_eq!(execs.step(at(1), cancel("other", HOME)), std::slice::from_ref(&no));
    assert_eq!(execs.step(at(1), cancel("local", SandboxId::numbered(2))), [no]);
    let effects = execs.step(at(1), cancel("local", HOME));
    assert!(effects.contains(&Effect::Stop { exec }));
    assert!(effects.contains(&Effect::Cancelled { ticket: Ticket(9), was_running: true }));
    assert_eq!(refused(&effects), [(1, &Refusal::Cancelled)]);
}

#[test]
fn a_sandbox_that_is_gone_is_reported_as_not_to_be_used_again() {
    let mut execs = execs();
    let exec = running(&mut execs, 60);
    let error = ProviderError::Gone(HOME);
    let effects = execs.step(at(1), Event::Failed { exec, error });
    let used = Effect::Used { exec, sandbox: HOME, sandbox_usable: false };
    assert!(effects.contains(&used), "{effects:?}");
    assert_eq!(refused(&effects), [(1, &Refusal::NoSuchSandbox { sandbox: HOME })]);
}

#[test]
fn closing_waits_for_what_runs_and_ends_it_at_its_deadline() {
    let mut execs = execs();
    let exec = running(&mut execs, 60);
    let close = Event::Close { ticket: Ticket(9), until: at(30) };
    assert_eq!(execs.step(at(1), close), []);
    assert_eq!(refused(&execs.step(at(2), held(2, 60))), [(2, &Refusal::Draining)]);
    assert_eq!(execs.next_deadline(), Some(at(30)));
    let effects = execs.step(at(30), Event::Tick);
    assert!(effects.contains(&Effect::Stop { exec }));
    assert_eq!(refused(&effects), [(1, &Refusal::Unfinished)]);
    assert_eq!(effects.last(), Some(&Effect::Closed { ticket: Ticket(9) }));
    assert_eq!(execs.next_deadline(), None);
}

#[test]
fn whoever_closes_again_sooner_is_heard_and_all_who_closed_are_answered() {
    let mut execs = execs();
    let exec = running(&mut execs, 60);
    let close = |ticket, until| Event::Close { ticket: Ticket(ticket), until };
    assert_eq!(execs.step(at(1), close(8, at(30))), []);
    let effects = execs.step(at(2), close(9, at(2)));
    assert!(effects.contains(&Effect::Stop { exec }), "{effects:?}");
    let closed = [8, 9].map(|ticket| Effect::Closed { ticket: Ticket(ticket) });
    assert!(effects.ends_with(&closed), "{effects:?}");
    let again = execs.step(at(3), close(10, at(40)));
    assert_eq!(again, [Effect::Closed { ticket: Ticket(10) }]);
}
