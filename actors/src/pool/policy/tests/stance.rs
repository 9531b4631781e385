use super::*;

fn ask(ticket: u64, sandbox: SandboxId, ask: Ask) -> Event {
    let (tenant, until) = (Tenant::local(), at(1_000));
    Event::Ask { ticket: Ticket(ticket), tenant, sandbox, ask, until }
}

fn pause(ticket: u64, sandbox: SandboxId) -> Event {
    ask(ticket, sandbox, Ask::Turn(Turn::Pause))
}

fn resume(ticket: u64, sandbox: SandboxId) -> Event {
    ask(ticket, sandbox, RESUME)
}

const RESUME: Ask = Ask::Turn(Turn::Resume { lifetime: Duration::from_secs(50) });

/// The turn of that round went well.
fn turned(sandbox: SandboxId, round: u64) -> Event {
    Event::Turned { sandbox, round, outcome: Ok(()) }
}

/// The facts that were told to `ticket`.
fn told(effects: &[Effect], ticket: u64) -> Option<&Facts> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer { ticket: Ticket(to), answer: Answer::Facts(facts) } if *to == ticket => {
            Some(facts)
        }
        _ => None,
    })
}

/// A pool with one sandbox, leased at second 1, paused at second 10.
fn paused() -> (Pool, SandboxId) {
    let (mut pool, sandbox) = leased(limits(0));
    let effects = pool.step(at(9), pause(2, sandbox));
    assert_eq!(effects, [Effect::Turn { sandbox, turn: Turn::Pause, round: 1 }]);
    let effects = pool.step(at(10), turned(sandbox, 1));
    assert!(told(&effects, 2).is_some_and(|facts| facts.paused));
    (pool, sandbox)
}

/// A pool with one sandbox that is paused when its lifetime is over, leased at second 1.
fn kept_at_expiry() -> (Pool, SandboxId) {
    let (mut pool, _) = opened(limits(0));
    let order =
        Order { at_expiry: AtExpiry::Pause, lifetime: 50 * SECOND, ..(*order("base")).clone() };
    let acquire = Event::Acquire { ticket: Ticket(1), order: Arc::new(order), until: at(10) };
    let sandbox = booted(&pool.step(at(1), acquire))[0];
    let _ = pool.step(at(1), Event::Booted { sandbox });
    let _ = pool.step(at(1), Event::Adopted { sandbox });
    (pool, sandbox)
}

#[test]
fn reaching_a_sandbox_is_activity_and_moves_no_end() {
    let (mut pool, sandbox) = leased(limits(0));
    let effects = pool.step(at(50), ask(2, sandbox, Ask::Enter));
    let facts = told(&effects, 2).expect("it runs");
    assert_eq!((facts.last_activity, facts.expires), (at(50), at(301)));
    assert_eq!(pool.next_deadline(), Some(at(150)), "idle for 100 s from then on");
}

#[test]
fn an_end_moves_either_way_unless_only_later_is_asked_for_and_never_past_the_longest() {
    let (mut pool, sandbox) = leased(limits(0));
    let set = |ticket, seconds, only_later| {
        ask(ticket, sandbox, Ask::SetExpiry { at: at(seconds), only_later })
    };
    assert_eq!(told(&pool.step(at(2), set(2, 90, true)), 2).map(|it| it.expires), Some(at(301)));
    assert_eq!(told(&pool.step(at(2), set(3, 90, false)), 3).map(|it| it.expires), Some(at(90)));
    assert_eq!(told(&pool.step(at(2), set(4, 99, true)), 4).map(|it| it.expires), Some(at(99)));
    let longest = Some(at(86_401));
    assert_eq!(told(&pool.step(at(2), set(5, 90_000, true)), 5).map(|it| it.expires), longest);
    let ended = pool.step(at(3), set(6, 3, false));
    let destroy = Effect::Destroy { sandbox, cause: Cause::Expired };
    assert!(ended.contains(&destroy), "{ended:?}");
}

#[test]
fn nothing_reaches_what_is_paused_and_only_its_retention_ends_it() {
    let (mut pool, sandbox) = paused();
    let there = Some(Refusal::Paused { sandbox });
    for (ticket, asked) in [
        (3, ask(3, sandbox, Ask::Enter)),
        (4, ask(4, sandbox, Ask::SetExpiry { at: at(400), only_later: false })),
        (5, begin(5, sandbox)),
    ] {
        assert_eq!(refusal(&pool.step(at(20), asked)).cloned(), there, "{ticket}");
    }
    let twice = pool.step(at(20), pause(6, sandbox));
    assert!(matches!(refusal(&twice), Some(Refusal::Conflict { .. })), "{twice:?}");
    assert_eq!(pool.next_deadline(), Some(at(86_410)), "no idle time, no lifetime");
    let ended = pool.step(at(86_410), Event::Tick);
    assert_eq!(ended, [Effect::Destroy { sandbox, cause: Cause::Expired }]);
}

#[test]
fn what_goes_on_has_a_new_lifetime_and_its_runs_have_the_time_they_had() {
    let (mut pool, sandbox) = leased(limits(0));
    let _ = pool.step(at(2), begin(2, sandbox));
    let before = pool.leased[&sandbox].running.values().copied().max().expect("it runs");
    let _ = pool.step(at(5), pause(3, sandbox));
    let _ = pool.step(at(5), turned(sandbox, 1));
    let effects = pool.step(at(25), resume(4, sandbox));
    let Ask::Turn(turn) = RESUME else { unreachable!("it is one") };
    assert_eq!(effects, [Effect::Turn { sandbox, turn, round: 2 }]);
    let effects = pool.step(at(25), turned(sandbox, 2));
    let facts = told(&effects, 4).expect("it goes on");
    assert_eq!((facts.paused, facts.expires), (false, at(75)));
    let after = pool.leased[&sandbox].running.values().copied().max().expect("it runs");
    assert_eq!(after.since(before), 20 * SECOND);
}

#[test]
fn who_comes_while_it_stops_waits_for_the_outcome() {
    let (mut pool, sandbox) = leased(limits(0));
    let _ = pool.step(at(2), pause(2, sandbox));
    assert_eq!(pool.step(at(2), ask(3, sandbox, Ask::Enter)), []);
    assert_eq!(pool.step(at(2), resume(4, sandbox)), []);
    let effects = pool.step(at(3), turned(sandbox, 1));
    assert!(told(&effects, 2).is_some());
    let refused = Effect::Refuse { ticket: Ticket(3), refusal: Refusal::Paused { sandbox } };
    assert!(effects.contains(&refused), "{effects:?}");
    let Ask::Turn(turn) = RESUME else { unreachable!("it is one") };
    assert!(
        effects.contains(&Effect::Turn { sandbox, turn, round: 2 }),
        "the second one's turn: {effects:?}"
    );
    assert!(told(&pool.step(at(3), turned(sandbox, 2)), 4).is_some());
}

#[test]
fn who_waits_too_long_is_told_so() {
    let (mut pool, sandbox) = leased(limits(0));
    let _ = pool.step(at(2), pause(2, sandbox));
    let (tenant, ask, until) = (Tenant::local(), Ask::Enter, at(4));
    let _ = pool.step(at(2), Event::Ask { ticket: Ticket(3), tenant, sandbox, ask, until });
    assert_eq!(pool.next_deadline(), Some(at(4)));
    assert_eq!(refusal(&pool.step(at(4), Event::Tick)), Some(&Refusal::Unfinished));
}

#[test]
fn whoever_asked_is_told_in_time_and_it_stops_all_the_same() {
    let (mut pool, sandbox) = leased(limits(0));
    let (tenant, turn, until) = (Tenant::local(), Ask::Turn(Turn::Pause), at(4));
    let event = Event::Ask { ticket: Ticket(2), tenant, sandbox, ask: turn, until };
    let _ = pool.step(at(2), event);
    assert_eq!(pool.next_deadline(), Some(at(4)));
    assert_eq!(refusal(&pool.step(at(4), Event::Tick)), Some(&Refusal::Unfinished));
    assert_eq!(pool.step(at(5), turned(sandbox, 1)), []);
    let refused = pool.step(at(6), ask(3, sandbox, Ask::Enter));
    assert_eq!(refusal(&refused), Some(&Refusal::Paused { sandbox }));
}

#[test]
fn a_pause_that_is_not_confirmed_is_undone() {
    let (mut pool, sandbox) = leased(limits(0));
    let _ = pool.step(at(2), pause(2, sandbox));
    assert_eq!(pool.next_deadline(), Some(at(32)));
    let effects = pool.step(at(32), Event::Tick);
    assert!(refusal(&effects).is_some(), "whoever asked is told: {effects:?}");
    let turn = Turn::Resume { lifetime: 269 * SECOND };
    assert!(effects.contains(&Effect::Turn { sandbox, turn, round: 2 }), "{effects:?}");
    assert_eq!(pool.step(at(33), turned(sandbox, 1)), [], "too late to count");
    let _ = pool.step(at(33), turned(sandbox, 2));
    assert!(told(&pool.step(at(34), ask(3, sandbox, Ask::Enter)), 3).is_some(), "it runs");
}

#[test]
fn what_may_stand_still_when_its_time_is_over_does() {
    let (mut pool, sandbox) = kept_at_expiry();
    assert_eq!(pool.next_deadline(), Some(at(51)));
    let effects = pool.step(at(51), Event::Tick);
    assert_eq!(effects, [Effect::Turn { sandbox, turn: Turn::Pause, round: 1 }]);
    assert_eq!(pool.step(at(51), turned(sandbox, 1)), []);
    let refused = pool.step(at(60), ask(2, sandbox, Ask::Enter));
    assert_eq!(refusal(&refused), Some(&Refusal::Paused { sandbox }));
}

#[test]
fn what_cannot_stand_still_when_its_time_is_over_ends() {
    let (mut pool, sandbox) = kept_at_expiry();
    let _ = pool.step(at(51), Event::Tick);
    let no = Err(ProviderError::unsupported("pausing"));
    let effects = pool.step(at(51), Event::Turned { sandbox, round: 1, outcome: no });
    assert_eq!(effects, [Effect::Destroy { sandbox, cause: Cause::Expired }]);
}

#[test]
fn an_end_in_the_middle_of_a_turn_answers_everybody() {
    let (mut pool, sandbox) = leased(limits(0));
    let _ = pool.step(at(2), pause(2, sandbox));
    let _ = pool.step(at(2), ask(3, sandbox, Ask::Enter));
    let effects = pool.step(at(3), terminate(4, sandbox));
    for asked in [2, 3] {
        let gone = |effect: &Effect| matches!(effect, Effect::Refuse { ticket, refusal: Refusal::Gone { .. } } if ticket.0 == asked);
        assert!(effects.iter().any(gone), "{asked}: {effects:?}");
    }
    assert_eq!(pool.step(at(4), turned(sandbox, 1)), []);
}

#[test]
fn what_is_paused_can_be_ended_and_belongs_to_its_tenant_alone() {
    let (mut pool, sandbox) = paused();
    let (tenant, until) = ("other".parse().expect("a name"), at(99));
    let theirs = Event::Ask { ticket: Ticket(7), tenant, sandbox, ask: RESUME, until };
    assert_eq!(refusal(&pool.step(at(20), theirs)), Some(&Refusal::NoSuchSandbox { sandbox }));
    let effects = pool.step(at(21), terminate(8, sandbox));
    assert!(effects.contains(&Effect::Destroy { sandbox, cause: Cause::Terminated }));
}
