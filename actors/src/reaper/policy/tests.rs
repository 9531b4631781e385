use super::*;

fn at(seconds: u64) -> Moment {
    Moment::START + Duration::from_secs(seconds)
}

fn sandbox(number: u64) -> SandboxId {
    SandboxId::numbered(number)
}

fn ready(number: u64) -> Owned {
    Owned { sandbox: sandbox(number), stage: OwnedStage::Ready }
}

fn seen(look: u64, existing: &[u64], owned: &[Owned]) -> Event {
    let existing = existing.iter().map(|number| sandbox(*number)).collect();
    Event::Seen { look, existing, owned: owned.to_vec() }
}

fn reaper() -> Reaper {
    let (reaper, effects) = Reaper::recover(Limits::default(), at(0));
    assert_eq!(effects, [Effect::Look { look: 1 }]);
    reaper
}

#[test]
fn what_nobody_owned_in_two_looks_a_grace_apart_is_destroyed() {
    let mut reaper = reaper();
    assert_eq!(reaper.step(at(1), seen(1, &[7, 8], &[ready(8)])), []);
    assert_eq!(reaper.next_deadline(), Some(at(11)), "as soon as a look can settle it");
    assert_eq!(reaper.step(at(11), Event::Tick), [Effect::Look { look: 2 }]);
    let destroyed = reaper.step(at(11), seen(2, &[7, 8], &[ready(8)]));
    assert_eq!(destroyed, [Effect::Destroy { sandbox: sandbox(7) }]);
    assert_eq!(reaper.counts().orphaned, 1);
}

#[test]
fn two_looks_within_the_grace_settle_nothing() {
    let mut reaper = reaper();
    assert_eq!(reaper.step(at(1), seen(1, &[7], &[])), []);
    assert_eq!(reaper.step(at(1), Event::Nudged), []);
    assert_eq!(reaper.step(at(2), Event::Tick), [Effect::Look { look: 2 }]);
    assert_eq!(reaper.step(at(3), seen(2, &[7], &[])), []);
}

#[test]
fn what_is_owned_by_the_second_look_is_forgotten() {
    let mut reaper = reaper();
    assert_eq!(reaper.step(at(1), seen(1, &[7], &[])), []);
    let _ = reaper.step(at(11), Event::Tick);
    assert_eq!(reaper.step(at(11), seen(2, &[7], &[ready(7)])), []);
    assert_eq!(reaper.next_deadline(), Some(at(41)));
    let _ = reaper.step(at(41), Event::Tick);
    assert_eq!(reaper.step(at(41), seen(3, &[7], &[])), [], "a first look again");
}

#[test]
fn what_is_being_made_or_destroyed_may_exist_or_not() {
    let mut reaper = reaper();
    let coming = Owned { sandbox: sandbox(7), stage: OwnedStage::Coming };
    let going = Owned { sandbox: sandbox(8), stage: OwnedStage::Going };
    for (look, time) in [(1, 1), (2, 31), (3, 61)] {
        assert_eq!(reaper.step(at(time), seen(look, &[], &[coming, going])), []);
        assert_eq!(reaper.step(at(time + 30), Event::Tick), [Effect::Look { look: look + 1 }]);
    }
}

#[test]
fn what_is_owned_and_does_not_exist_is_lost_after_two_looks() {
    let mut reaper = reaper();
    assert_eq!(reaper.step(at(1), seen(1, &[], &[ready(7)])), []);
    let _ = reaper.step(at(11), Event::Tick);
    let lost = [Effect::Reap { sandbox: sandbox(7), cause: Cause::Lost }];
    assert_eq!(reaper.step(at(11), seen(2, &[], &[ready(7)])), lost);
}

#[test]
fn a_lease_that_is_over_is_named_at_every_look() {
    let mut reaper = reaper();
    let lease = |due| Owned { sandbox: sandbox(7), stage: OwnedStage::Leased { due } };
    assert_eq!(reaper.step(at(1), seen(1, &[7], &[lease(at(2))])), []);
    let _ = reaper.step(at(31), Event::Tick);
    let overdue = [Effect::Reap { sandbox: sandbox(7), cause: Cause::Expired }];
    assert_eq!(reaper.step(at(31), seen(2, &[7], &[lease(at(31))])), overdue);
}

#[test]
fn it_looks_every_period_and_sooner_when_nudged() {
    let mut reaper = reaper();
    let _ = reaper.step(at(1), seen(1, &[], &[]));
    assert_eq!(reaper.next_deadline(), Some(at(31)));
    assert_eq!(reaper.step(at(5), Event::Nudged), [Effect::Look { look: 2 }]);
    let _ = reaper.step(at(5), seen(2, &[], &[]));
    assert_eq!(reaper.step(at(5), Event::Nudged), [], "but not twice within the pause");
    assert_eq!(reaper.next_deadline(), Some(at(6)));
}

#[test]
fn a_look_that_failed_or_hangs_is_followed_by_another() {
    let mut reaper = reaper();
    assert_eq!(reaper.step(at(1), Event::NotSeen { look: 1 }), []);
    assert_eq!(reaper.next_deadline(), Some(at(31)));
    assert_eq!(reaper.step(at(31), Event::Tick), [Effect::Look { look: 2 }]);
    assert_eq!(reaper.step(at(41), Event::Tick), [Effect::Look { look: 3 }]);
    assert_eq!(reaper.step(at(42), seen(2, &[7], &[])), [], "the answer to one given up");
    assert_eq!(reaper.orphans(), 0);
}
