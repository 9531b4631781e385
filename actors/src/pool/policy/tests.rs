use super::*;

mod stance;

const SECOND: Duration = Duration::from_secs(1);

fn node() -> NodeId {
    NodeId::of_bits(7)
}

fn limits(target: usize) -> Limits {
    Limits {
        targets: BTreeMap::from([("base".to_owned(), target)]),
        total_max: 4,
        booting_max: 2,
        waiting_max: 2,
        wait_max: 10 * SECOND,
        idle_max: 600 * SECOND,
        retry_pause: 2 * SECOND,
        broken_pause: 30 * SECOND,
        boot_max: 20 * SECOND,
        destroy_max: 5 * SECOND,
        ..Limits::default()
    }
}

fn at(seconds: u64) -> Moment {
    Moment::START + Duration::from_secs(seconds)
}

fn order(template: &str) -> Arc<Order> {
    Arc::new(Order {
        tenant: Tenant::local(),
        template: template.to_owned(),
        name: None,
        memory_mb: None,
        cpu_count: None,
        lifetime: 300 * SECOND,
        idle_timeout: 100 * SECOND,
        env: BTreeMap::new(),
        metadata: BTreeMap::new(),
        at_expiry: AtExpiry::End,
    })
}

fn acquire(ticket: u64, until: u64) -> Event {
    Event::Acquire { ticket: Ticket(ticket), order: order("base"), until: at(until) }
}

fn info(template: &str) -> TemplateInfo {
    let limits = provider::Limits { memory_mb: 512, cpu_count: 1 };
    TemplateInfo { name: template.to_owned(), digest: "d".to_owned(), limits }
}

fn prepared(template: &str) -> Event {
    Event::Prepared { template: template.to_owned(), info: info(template) }
}

/// A pool that has heard at second 0 that no sandbox exists and that `base` can be used.
fn opened(limits: Limits) -> (Pool, Vec<Effect>) {
    let templates = ["base", "trading"].map(str::to_owned);
    let (mut pool, _) = Pool::recover(limits, node(), templates, [7; 32]);
    let _ = pool.step(at(0), Event::Listed { survivors: vec![] });
    let (template, ticket) = ("base".to_owned(), Ticket(0));
    let _ = pool.step(at(0), Event::Describe { ticket, template, until: at(1) });
    let effects = pool.step(at(0), prepared("base"));
    (pool, effects)
}

fn booted(effects: &[Effect]) -> Vec<SandboxId> {
    let boots = effects.iter().filter_map(|effect| match effect {
        Effect::Boot { sandbox, .. } => Some(*sandbox),
        _ => None,
    });
    boots.collect()
}

fn granted(effects: &[Effect]) -> Vec<SandboxId> {
    let grants = effects.iter().filter_map(|effect| match effect {
        Effect::Answer { answer: Answer::Granted(granted), .. } => Some(granted.sandbox),
        _ => None,
    });
    grants.collect()
}

fn refusal(effects: &[Effect]) -> Option<&Refusal> {
    effects.iter().find_map(|effect| match effect {
        Effect::Refuse { refusal, .. } => Some(refusal),
        _ => None,
    })
}

/// A pool with one sandbox, leased at second 1.
fn leased(limits: Limits) -> (Pool, SandboxId) {
    let (mut pool, _) = opened(limits);
    let sandbox = booted(&pool.step(at(1), acquire(1, 10)))[0];
    let adopt = pool.step(at(1), Event::Booted { sandbox });
    assert!(matches!(adopt[..], [Effect::Adopt { .. }]), "{adopt:?}");
    assert_eq!(granted(&pool.step(at(1), Event::Adopted { sandbox })), [sandbox]);
    (pool, sandbox)
}

fn failed(maybe_done: bool) -> ProviderError {
    ProviderError::Failed { why: "no".to_owned(), maybe_done }
}

fn terminate(ticket: u64, sandbox: SandboxId) -> Event {
    let (tenant, until) = (Tenant::local(), at(1_000));
    Event::Terminate { ticket: Ticket(ticket), tenant, sandbox, until }
}

#[test]
fn what_is_ready_is_given_at_once_and_replaced() {
    let (mut pool, effects) = opened(limits(1));
    let sandbox = booted(&effects)[0];
    assert_eq!(pool.step(at(1), Event::Booted { sandbox }), []);
    let effects = pool.step(at(2), acquire(1, 10));
    assert!(matches!(effects[0], Effect::Adopt { sandbox: given, .. } if given == sandbox));
    assert_eq!(booted(&effects).len(), 1, "the stock is filled while the caller is served");
    let effects = pool.step(at(2), Event::Adopted { sandbox });
    let [Effect::Answer { answer: Answer::Granted(granted), .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(granted.from_pool);
    assert_eq!((granted.at, granted.expires), (at(2), at(302)));
}

#[test]
fn a_caller_is_refused_at_its_deadline_and_not_before() {
    let (mut pool, _) = opened(Limits { total_max: 0, ..limits(0) });
    let _ = pool.step(at(0), acquire(1, 5));
    assert_eq!(pool.next_deadline(), Some(at(5)));
    assert_eq!(pool.step(at(4), Event::Tick), []);
    let waited = Refusal::WaitedTooLong { waited: 5 * SECOND };
    assert_eq!(
        pool.step(at(5), Event::Tick),
        [Effect::Refuse { ticket: Ticket(1), refusal: waited }]
    );
}

#[test]
fn a_template_that_came_later_is_prepared_when_somebody_asks_and_not_before() {
    let (mut pool, _) = opened(limits(0));
    let order = |ticket| match acquire(ticket, 10) {
        Event::Acquire { ticket, order, until } => {
            let order = Arc::new(Order { template: "tpl-1".to_owned(), ..(*order).clone() });
            Event::Acquire { ticket, order, until }
        }
        other => other,
    };
    let effects = pool.step(at(0), order(1));
    assert!(matches!(refusal(&effects), Some(Refusal::NoSuchTemplate { .. })), "{effects:?}");
    let learn = || Event::Learn { template: "tpl-1".to_owned() };
    assert_eq!(pool.step(at(1), learn()), []);
    let effects = pool.step(at(2), order(2));
    assert_eq!(effects, [Effect::Prepare { template: "tpl-1".to_owned() }]);
    assert_eq!(pool.step(at(3), learn()), [], "told again, it stays as it is");
    assert_eq!(booted(&pool.step(at(4), prepared("tpl-1"))).len(), 1);
}

#[test]
fn a_caller_past_the_bound_is_refused_at_once() {
    let (mut pool, _) = opened(limits(0));
    let _ = pool.step(at(0), acquire(1, 9));
    let _ = pool.step(at(0), acquire(2, 9));
    let effects = pool.step(at(0), acquire(3, 9));
    assert!(matches!(refusal(&effects), Some(Refusal::Busy { waiting: 2, .. })), "{effects:?}");
}

#[test]
fn no_caller_waits_longer_than_anybody_may() {
    let (mut pool, _) = opened(Limits { total_max: 0, ..limits(0) });
    let _ = pool.step(at(0), acquire(1, 1_000));
    assert_eq!(pool.next_deadline(), Some(at(10)));
}

#[test]
fn where_every_place_is_leased_who_cannot_wait_hears_which_setting_it_is() {
    let (mut pool, _) = leased(Limits { total_max: 1, ..limits(0) });
    let effects = pool.step(at(2), acquire(2, 2));
    let quota = Refusal::Quota { max: 1, setting: "pool.total_max" };
    assert_eq!(refusal(&effects), Some(&quota));
}

#[test]
fn what_had_a_holder_is_destroyed_and_takes_room_until_it_is_gone() {
    let (mut pool, sandbox) = leased(Limits { total_max: 1, ..limits(0) });
    let _ = pool.step(at(2), acquire(2, 12));
    let release = Event::Release { sandbox, cause: Cause::Finished };
    let destroy = Effect::Destroy { sandbox, cause: Cause::Finished };
    assert_eq!(pool.step(at(3), release), [destroy]);
    assert_eq!(pool.total(), 1);
    let effects = pool.step(at(4), Event::Destroyed { sandbox });
    assert_eq!(booted(&effects).len(), 1, "now there is room");
    assert!(!booted(&effects).contains(&sandbox), "ids are not used twice");
}

#[test]
fn an_answer_that_comes_twice_changes_nothing_the_second_time() {
    let (mut pool, sandbox) = leased(limits(0));
    assert_eq!(pool.step(at(2), Event::Booted { sandbox }), []);
    assert_eq!(pool.step(at(2), Event::Adopted { sandbox }), []);
    let (sandbox_again, error) = (sandbox, failed(true));
    assert_eq!(pool.step(at(2), Event::BootFailed { sandbox: sandbox_again, error }), []);
    assert_eq!((pool.alive(), pool.total()), (1, 1));
}

#[test]
fn survivors_of_a_restart_are_destroyed_and_their_holders_learn_why() {
    let (mut pool, _) = Pool::recover(limits(0), node(), [], [7; 32]);
    let survivor = SandboxId::numbered(9);
    assert_eq!(pool.step(at(1), Event::ListFailed), []);
    assert_eq!(pool.next_deadline(), Some(at(3)));
    assert_eq!(pool.step(at(3), Event::Tick), [Effect::List]);
    let effects = pool.step(at(4), Event::Listed { survivors: vec![survivor] });
    assert_eq!(effects, [Effect::Destroy { sandbox: survivor, cause: Cause::Survived }]);
    let gone = pool.fact(at(5), &Tenant::local(), survivor);
    assert!(matches!(gone, Err(Refusal::Gone { why: "restarted", .. })), "{gone:?}");
    let again = pool.step(at(5), Event::Listed { survivors: vec![survivor] });
    assert_eq!(again, [], "once open, a list changes nothing");
}

#[test]
fn no_more_boots_at_once_than_the_bound_and_callers_come_first() {
    let (mut pool, effects) = opened(limits(4));
    assert_eq!(booted(&effects).len(), 2);
    let _ = pool.step(at(0), acquire(1, 9));
    let first = booted(&effects)[0];
    let effects = pool.step(at(1), Event::Booted { sandbox: first });
    assert!(matches!(effects[0], Effect::Adopt { .. }), "{effects:?}");
    assert_eq!((booted(&effects).len(), pool.booting()), (1, 2));
}

#[test]
fn a_provider_that_failed_is_left_alone_for_a_while() {
    let (mut pool, effects) = opened(limits(1));
    let sandbox = booted(&effects)[0];
    assert_eq!(pool.step(at(1), Event::BootFailed { sandbox, error: failed(false) }), []);
    assert_eq!(pool.next_deadline(), Some(at(3)));
    assert_eq!(pool.step(at(2), Event::Tick), []);
    assert_eq!(booted(&pool.step(at(3), Event::Tick)).len(), 1);
}

#[test]
fn a_boot_in_doubt_is_destroyed_and_takes_room_until_it_is_gone() {
    let (mut pool, effects) = opened(Limits { total_max: 1, ..limits(1) });
    let sandbox = booted(&effects)[0];
    let effects = pool.step(at(1), Event::BootFailed { sandbox, error: failed(true) });
    assert_eq!(effects, [Effect::Destroy { sandbox, cause: Cause::NotBooted }]);
    assert_eq!(booted(&pool.step(at(3), Event::Tick)), []);
    assert_eq!(booted(&pool.step(at(4), Event::Destroyed { sandbox })).len(), 1);
}

#[test]
fn a_boot_that_hangs_is_given_up() {
    let (mut pool, effects) = opened(limits(1));
    let sandbox = booted(&effects)[0];
    assert_eq!(pool.next_deadline(), Some(at(20)));
    let effects = pool.step(at(20), Event::Tick);
    assert_eq!(effects, [Effect::Destroy { sandbox, cause: Cause::NotBooted }]);
    assert_eq!(pool.step(at(21), Event::Booted { sandbox }), [], "too late");
}

#[test]
fn who_waited_while_the_provider_failed_hears_that_it_failed() {
    let (mut pool, _) = opened(limits(0));
    let sandbox = booted(&pool.step(at(0), acquire(1, 1)))[0];
    let _ = pool.step(at(0), Event::BootFailed { sandbox, error: failed(false) });
    let effects = pool.step(at(1), Event::Tick);
    assert!(matches!(refusal(&effects), Some(Refusal::Provider { .. })), "{effects:?}");
}

#[test]
fn a_broken_template_refuses_at_once_and_is_tried_again_after_a_pause() {
    let (mut pool, _) = opened(limits(0));
    let want = |ticket, now: u64| {
        let until = at(now + 9);
        Event::Acquire { ticket: Ticket(ticket), order: order("trading"), until }
    };
    let prepare = Effect::Prepare { template: "trading".to_owned() };
    assert_eq!(pool.step(at(0), want(1, 0)), std::slice::from_ref(&prepare));
    let (name, why) = ("trading".to_owned(), "no network".to_owned());
    let error = ProviderError::TemplateBroken { name: name.clone(), why };
    let effects = pool.step(at(1), Event::PrepareFailed { template: name, error });
    assert!(matches!(refusal(&effects), Some(Refusal::Provider { .. })), "{effects:?}");
    let effects = pool.step(at(30), want(2, 30));
    assert!(refusal(&effects).is_some(), "{effects:?}");
    assert_eq!(pool.step(at(31), want(3, 31)), [prepare]);
    let effects = pool
        .step(at(31), Event::Acquire { ticket: Ticket(4), order: order("nope"), until: at(40) });
    assert!(matches!(refusal(&effects), Some(Refusal::NoSuchTemplate { .. })), "{effects:?}");
}

#[test]
fn a_template_that_is_not_to_be_had_here_is_unsupported_and_not_a_failure() {
    let (mut pool, _) = opened(limits(0));
    let want = |ticket| {
        let order = order("trading");
        Event::Acquire { ticket: Ticket(ticket), order, until: at(9) }
    };
    let _ = pool.step(at(0), want(1));
    let error = ProviderError::Unsupported { what: "it".to_owned() };
    let failed = Event::PrepareFailed { template: "trading".to_owned(), error };
    let unsupported = Refusal::Unsupported { what: "it".to_owned() };
    assert_eq!(refusal(&pool.step(at(1), failed)), Some(&unsupported));
    assert_eq!(refusal(&pool.step(at(2), want(2))), Some(&unsupported));
}

#[test]
fn who_only_asks_what_a_template_is_has_it_prepared_and_hears_it() {
    let (mut pool, _) = opened(limits(0));
    let ask = |ticket| Event::Describe {
        ticket: Ticket(ticket),
        template: "trading".to_owned(),
        until: at(9),
    };
    assert_eq!(pool.step(at(0), ask(1)), [Effect::Prepare { template: "trading".to_owned() }]);
    let answer = Answer::Described(info("trading"));
    let heard = Effect::Answer { ticket: Ticket(1), answer: answer.clone() };
    assert_eq!(pool.step(at(1), prepared("trading")), [heard]);
    assert_eq!(pool.step(at(2), ask(2)), [Effect::Answer { ticket: Ticket(2), answer }]);
}

#[test]
fn a_ready_sandbox_of_another_template_gives_way_to_a_caller() {
    let (mut pool, effects) = opened(Limits { total_max: 1, ..limits(1) });
    let ready = booted(&effects)[0];
    let _ = pool.step(at(0), Event::Booted { sandbox: ready });
    let want = Event::Acquire { ticket: Ticket(1), order: order("trading"), until: at(9) };
    let _ = pool.step(at(1), want);
    let effects = pool.step(at(1), prepared("trading"));
    assert_eq!(effects, [Effect::Destroy { sandbox: ready, cause: Cause::Displaced }]);
    let effects = pool.step(at(2), Event::Destroyed { sandbox: ready });
    let [Effect::Boot { template, for_caller, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((&**template, *for_caller), ("trading", Some(Ticket(1))));
}

#[test]
fn the_last_place_goes_to_one_caller_and_one_is_made_for_the_next_at_once() {
    let (mut pool, effects) = opened(Limits { total_max: 2, ..limits(1) });
    let ready = booted(&effects)[0];
    let _ = pool.step(at(0), Event::Booted { sandbox: ready });
    for ticket in [1, 2] {
        let (ticket, order) = (Ticket(ticket), order("trading"));
        let _ = pool.step(at(1), Event::Acquire { ticket, order, until: at(9) });
    }
    let effects = pool.step(at(1), prepared("trading"));
    assert_eq!(booted(&effects).len(), 1);
    assert!(effects.contains(&Effect::Destroy { sandbox: ready, cause: Cause::Displaced }));
    assert!(pool.next_deadline() > Some(at(1)), "a deadline lies ahead");
}

#[test]
fn what_cannot_be_given_is_replaced_twice_and_then_refused() {
    let (mut pool, _) = opened(limits(0));
    let mut sandbox = booted(&pool.step(at(0), acquire(1, 9)))[0];
    for attempt in 0..3 {
        let _ = pool.step(at(0), Event::Booted { sandbox });
        let error = failed(false);
        let effects = pool.step(at(0), Event::AdoptFailed { sandbox, error });
        let destroy = Effect::Destroy { sandbox, cause: Cause::NotAdopted };
        assert!(effects.contains(&destroy), "{effects:?}");
        match booted(&effects)[..] {
            [next] => sandbox = next,
            _ => assert_eq!((attempt, refusal(&effects).is_some()), (2, true)),
        }
    }
}

#[test]
fn a_lease_ends_at_its_time_and_an_execution_puts_that_off() {
    let (mut pool, sandbox) = leased(limits(0));
    assert_eq!(pool.next_deadline(), Some(at(101)), "idle before it is over");
    let use_it = |ticket, until| {
        let (tenant, exec) = (Tenant::local(), ExecId::numbered(ticket));
        Event::Use { ticket: Ticket(ticket), tenant, sandbox, exec, until: at(until) }
    };
    let allowed = pool.step(at(50), use_it(2, 280));
    assert!(matches!(allowed[..], [Effect::Answer { answer: Answer::Allowed(_), .. }]));
    assert_eq!(pool.next_deadline(), Some(at(340)), "sixty seconds after the end of the run");
    assert_eq!(pool.step(at(339), Event::Tick), []);
    let effects = pool.step(at(340), Event::Tick);
    assert_eq!(effects, [Effect::Destroy { sandbox, cause: Cause::Expired }]);
    let effects = pool.step(at(341), use_it(3, 400));
    assert!(matches!(refusal(&effects), Some(Refusal::Gone { why: "expired", .. })));
    assert_eq!(pool.swept(), Swept { expired: 1, idle: 0 });
}

#[test]
fn a_sandbox_in_which_something_runs_is_not_idle() {
    let (mut pool, sandbox) = leased(limits(0));
    let exec = ExecId::numbered(1);
    let until = at(90);
    let tenant = Tenant::local();
    let _ = pool.step(at(2), Event::Use { ticket: Ticket(2), tenant, sandbox, exec, until });
    assert_eq!(pool.step(at(102), Event::Tick), [], "it ran until 90, as far as is known");
    let _ = pool.step(at(110), Event::Used { sandbox, exec, sandbox_usable: true });
    assert_eq!(pool.next_deadline(), Some(at(210)));
    let effects = pool.step(at(210), Event::Tick);
    assert_eq!(effects, [Effect::Destroy { sandbox, cause: Cause::Idle }]);
}

#[test]
fn nothing_lives_longer_than_anything_may() {
    let (mut pool, sandbox) = leased(Limits { lifetime_max: 400 * SECOND, ..limits(0) });
    let (tenant, exec) = (Tenant::local(), ExecId::numbered(1));
    let until = at(3_000);
    let _ = pool.step(at(2), Event::Use { ticket: Ticket(2), tenant, sandbox, exec, until });
    assert_eq!(pool.next_deadline(), Some(at(401)));
}

#[test]
fn ending_a_sandbox_is_answered_when_it_is_gone_and_the_same_a_second_time() {
    let (mut pool, sandbox) = leased(limits(0));
    let destroy = Effect::Destroy { sandbox, cause: Cause::Terminated };
    assert_eq!(pool.step(at(5), terminate(2, sandbox)), [destroy]);
    assert_eq!(pool.step(at(6), terminate(3, sandbox)), []);
    let (cause, held) = (Cause::Terminated, 6 * SECOND);
    let ended = Ended { sandbox, cause, at: at(7), held, verified: true };
    let told = |ticket| Effect::Answer { ticket: Ticket(ticket), answer: Answer::Ended(ended) };
    assert_eq!(pool.step(at(7), Event::Destroyed { sandbox }), [told(2), told(3)]);
    assert_eq!(pool.step(at(3_606), terminate(4, sandbox)), [told(4)]);
    let effects = pool.step(at(3_607), terminate(5, sandbox));
    assert!(matches!(refusal(&effects), Some(Refusal::NoSuchSandbox { .. })), "an hour later");
}

#[test]
fn an_end_that_takes_long_is_asked_for_again_and_told_as_under_way() {
    let (mut pool, sandbox) = leased(limits(0));
    let destroy = Effect::Destroy { sandbox, cause: Cause::Terminated };
    let _ = pool.step(at(5), terminate(2, sandbox));
    assert_eq!(pool.step(at(6), Event::DestroyFailed { sandbox }), []);
    assert_eq!(pool.step(at(8), Event::Tick), std::slice::from_ref(&destroy));
    assert_eq!(pool.step(at(13), Event::Tick), [destroy], "no answer at all");
    let effects = pool.step(at(15), Event::Tick);
    let [Effect::Answer { answer: Answer::Ended(ended), .. }] = effects[..] else {
        panic!("{effects:?}");
    };
    assert!(!ended.verified);
    assert_eq!(pool.ending(), 1, "it is still there, and takes room");
}

#[test]
fn what_is_anothers_does_not_exist() {
    let (mut pool, sandbox) = leased(limits(0));
    let other: Tenant = "other".parse().expect("a tenant");
    let missing = Refusal::NoSuchSandbox { sandbox };
    assert_eq!(pool.fact(at(2), &other, sandbox), Err(missing.clone()));
    assert_eq!(pool.facts(at(2), &other), []);
    let event = Event::Terminate { ticket: Ticket(2), tenant: other, sandbox, until: at(9) };
    assert_eq!(refusal(&pool.step(at(2), event)), Some(&missing));
    assert_eq!(pool.facts(at(2), &Tenant::local()).len(), 1);
}

#[test]
fn what_died_while_ready_is_replaced_and_on_the_way_to_a_caller_too() {
    let (mut pool, effects) = opened(limits(1));
    let sandbox = booted(&effects)[0];
    let _ = pool.step(at(1), Event::Booted { sandbox });
    let effects = pool.step(at(1), Event::Died { sandbox });
    assert_eq!(effects[0], Effect::Destroy { sandbox, cause: Cause::Lost });
    let next = booted(&effects)[0];
    let _ = pool.step(at(2), Event::Booted { sandbox: next });
    let _ = pool.step(at(2), acquire(1, 9));
    let effects = pool.step(at(2), Event::Died { sandbox: next });
    assert_eq!(refusal(&effects), None, "the caller gets another one");
    assert_eq!(pool.step(at(2), Event::Adopted { sandbox: next }), [], "not the dead one");
}

#[test]
fn a_sandbox_that_cannot_be_used_again_ends() {
    let (mut pool, sandbox) = leased(limits(0));
    let used = Event::Used { sandbox, exec: ExecId::numbered(1), sandbox_usable: false };
    let destroy = Effect::Destroy { sandbox, cause: Cause::Lost };
    assert_eq!(pool.step(at(2), used), [destroy]);
}

#[test]
fn the_reaper_ends_only_what_is_over() {
    let (mut pool, sandbox) = leased(limits(0));
    let reap = |cause| Event::Reap { sandbox, cause };
    assert_eq!(pool.step(at(100), reap(Cause::Expired)), []);
    let destroy = Effect::Destroy { sandbox, cause: Cause::Lost };
    assert_eq!(pool.step(at(100), reap(Cause::Lost)), [destroy]);
}

#[test]
fn what_nobody_wanted_for_long_is_made_anew() {
    let (mut pool, effects) = opened(limits(1));
    let sandbox = booted(&effects)[0];
    let _ = pool.step(at(1), Event::Booted { sandbox });
    assert_eq!(pool.next_deadline(), Some(at(601)));
    let effects = pool.step(at(601), Event::Tick);
    assert_eq!(effects[0], Effect::Destroy { sandbox, cause: Cause::Unused });
    assert_eq!(booted(&effects).len(), 1);
}

#[test]
fn a_pool_that_closes_refuses_callers_ends_everything_and_says_when() {
    let (mut pool, sandbox) = leased(limits(0));
    let _ = pool.step(at(2), acquire(2, 9));
    let close = Event::Close { ticket: Ticket(3), until: at(20) };
    let effects = pool.step(at(3), close);
    assert_eq!(refusal(&effects), Some(&Refusal::Draining));
    assert!(effects.contains(&Effect::Destroy { sandbox, cause: Cause::Closing }));
    assert_eq!(refusal(&pool.step(at(3), acquire(4, 9))), Some(&Refusal::Draining));
    let booting = *pool.booting.keys().next().expect("for the caller that was refused");
    let effects = pool.step(at(4), Event::Booted { sandbox: booting });
    assert_eq!(effects, [Effect::Destroy { sandbox: booting, cause: Cause::Closing }]);
    let _ = pool.step(at(5), Event::Destroyed { sandbox });
    let closed = Answer::Closed { left: 0 };
    let last = pool.step(at(6), Event::Destroyed { sandbox: booting });
    assert_eq!(last, [Effect::Answer { ticket: Ticket(3), answer: closed }]);
    assert_eq!(pool.next_deadline(), None);
}

fn begin(exec: u64, sandbox: SandboxId) -> Event {
    let (ticket, tenant, exec) = (Ticket(100 + exec), Tenant::local(), ExecId::numbered(exec));
    Event::Use { ticket, tenant, sandbox, exec, until: at(200) }
}

fn retire(ticket: u64, sandbox: SandboxId, drained: u64) -> Event {
    let tenant = Tenant::local();
    Event::Retire { ticket: Ticket(ticket), tenant, sandbox, drained: at(drained) }
}

#[test]
fn what_retires_ends_with_its_last_run_and_begins_nothing_new() {
    let (mut pool, sandbox) = leased(limits(0));
    let _ = pool.step(at(2), begin(1, sandbox));
    assert_eq!(pool.step(at(3), retire(2, sandbox, 60)), []);
    let refused = pool.step(at(4), begin(2, sandbox));
    assert_eq!(refusal(&refused), Some(&Refusal::Leaving { sandbox }));
    let used = Event::Used { sandbox, exec: ExecId::numbered(1), sandbox_usable: true };
    let destroy = Effect::Destroy { sandbox, cause: Cause::Terminated };
    assert_eq!(pool.step(at(5), used), [destroy]);
    let gone = pool.step(at(6), Event::Destroyed { sandbox });
    let [Effect::Answer { ticket: Ticket(2), answer: Answer::Ended(ended) }] = gone[..] else {
        panic!("{gone:?}");
    };
    assert!(ended.verified);
}

#[test]
fn what_does_not_end_while_it_retires_is_ended_then() {
    let (mut pool, sandbox) = leased(limits(0));
    let _ = pool.step(at(2), begin(1, sandbox));
    let _ = pool.step(at(3), retire(2, sandbox, 60));
    assert_eq!(pool.next_deadline(), Some(at(60)));
    assert_eq!(pool.step(at(59), Event::Tick), []);
    let destroy = Effect::Destroy { sandbox, cause: Cause::Terminated };
    assert_eq!(pool.step(at(60), Event::Tick), [destroy]);
    assert_eq!(pool.swept(), Swept::default(), "its time was not over");
}

#[test]
fn what_is_idle_retires_at_once() {
    let (mut pool, sandbox) = leased(limits(0));
    let destroy = Effect::Destroy { sandbox, cause: Cause::Terminated };
    assert_eq!(pool.step(at(3), retire(2, sandbox, 60)), [destroy]);
}
