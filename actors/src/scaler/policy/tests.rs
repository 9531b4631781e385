use sandpit_messages::deployment::{Category, Configuration, InstanceStatus};
use sandpit_messages::time::WallTime;

use super::*;
use crate::scaler::plan;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Now {
    Now { moment: moment(seconds), wall: WallTime(seconds * 1_000) }
}

fn moment(seconds: u64) -> Moment {
    Moment::START + Duration::from_secs(seconds)
}

fn order(instances: usize) -> Arc<Order> {
    let configuration = Configuration::default();
    Arc::new(Order {
        template_name: "mine".to_owned(),
        category: Category::Custom,
        plan: Arc::new(plan(Tenant::local(), &configuration)),
        configuration,
        instances,
        seat: None,
    })
}

/// A world in which everything that is asked for happens at once, unless it is told otherwise.
struct World {
    scaler: Scaler,
    /// Sandboxes that are leased, and how many things run in each.
    leased: BTreeMap<SandboxId, usize>,
    sandboxes: u64,
    /// Nothing can be leased.
    refuses: bool,
    /// Retirements that have not ended.
    leaving: Vec<(Member, SandboxId)>,
    records: BTreeMap<DeploymentId, Arc<Record>>,
    told: Vec<Effect>,
    dismissed: Vec<SandboxId>,
}

impl World {
    fn new() -> Self {
        Self::with(Limits { instances_max: 20, ..Limits::default() }, BTreeMap::new())
    }

    fn with(limits: Limits, records: BTreeMap<DeploymentId, Arc<Record>>) -> Self {
        let (scaler, first) = Scaler::recover(limits, moment(0), [7; 32]);
        let mut world = Self {
            scaler,
            leased: BTreeMap::new(),
            sandboxes: 0,
            refuses: false,
            leaving: Vec::new(),
            records,
            told: Vec::new(),
            dismissed: Vec::new(),
        };
        world.play(0, first);
        world
    }

    fn step(&mut self, second: u64, event: Event) {
        let effects = self.scaler.step(at(second), event);
        self.play(second, effects);
    }

    fn play(&mut self, second: u64, effects: Vec<Effect>) {
        let mut to_do: std::collections::VecDeque<_> = effects.into();
        while let Some(effect) = to_do.pop_front() {
            let event = match effect {
                Effect::Restore => {
                    let records = self.records.iter();
                    let records = records.map(|(id, record)| (*id, (**record).clone()));
                    Some(Event::Restored { records: records.collect() })
                }
                Effect::Write { deployment, record } => {
                    match record {
                        Some(record) => drop(self.records.insert(deployment, record)),
                        None => drop(self.records.remove(&deployment)),
                    }
                    Some(Event::Written { deployment })
                }
                Effect::Place { member, .. } if self.refuses => {
                    let refusal = Refusal::Quota { max: 1, setting: "pool.total_max" };
                    Some(Event::NotPlaced { member, refusal })
                }
                Effect::Place { member, .. } => {
                    self.sandboxes += 1;
                    let sandbox = SandboxId::numbered(self.sandboxes);
                    self.leased.insert(sandbox, 0);
                    Some(Event::Placed { member, sandbox })
                }
                Effect::Furnish { member, .. } => Some(Event::Furnished { member }),
                Effect::Retire { member, sandbox, .. } => {
                    if self.leased[&sandbox] > 0 {
                        self.leaving.push((member, sandbox));
                        None
                    } else {
                        self.leased.remove(&sandbox);
                        Some(Event::Left { member })
                    }
                }
                Effect::Dismiss { sandbox, .. } => {
                    self.leased.remove(&sandbox);
                    self.dismissed.push(sandbox);
                    None
                }
                Effect::Look { look } => {
                    let seen = self.leased.iter().map(|(sandbox, running)| Seen {
                        sandbox: *sandbox,
                        tenant: Tenant::local(),
                        last_activity: moment(0),
                        running: *running,
                        stray: false,
                    });
                    Some(Event::Looked { look, seen: seen.collect() })
                }
                told @ (Effect::Answer { .. } | Effect::Refuse { .. }) => {
                    self.told.push(told);
                    None
                }
            };
            if let Some(event) = event {
                to_do.extend(self.scaler.step(at(second), event));
            }
        }
    }

    fn deploy(&mut self, second: u64, instances: usize) -> DeploymentId {
        let until = moment(second + 50);
        self.step(second, Event::Deploy { ticket: Ticket(1), order: order(instances), until });
        match self.told.pop() {
            Some(Effect::Answer { answer: Answer::Deployed(view), .. }) => view.id,
            other => panic!("{other:?}"),
        }
    }

    fn scale(&mut self, second: u64, deployment: DeploymentId, count: usize) {
        let (ticket, tenant) = (Ticket(2), Tenant::local());
        let until = moment(second + 50);
        let auto_scale = false;
        self.step(second, Event::Scale { ticket, tenant, deployment, count, auto_scale, until });
    }

    fn view(&self, deployment: DeploymentId) -> View {
        let views = self.scaler.views(moment(0), &Tenant::local(), Some(deployment));
        views.expect("it is there").remove(0)
    }

    fn running(&self, deployment: DeploymentId) -> Vec<SandboxId> {
        let view = self.view(deployment);
        let up = view.instances.into_iter();
        let up = up.filter(|(_, status, _)| *status == InstanceStatus::Running);
        up.map(|(sandbox, ..)| sandbox).collect()
    }

    fn refusal(&mut self) -> Refusal {
        match self.told.pop() {
            Some(Effect::Refuse { refusal, .. }) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_deployment_has_as_many_as_wanted_and_then_as_many_as_wanted_next() {
    let mut world = World::new();
    let id = world.deploy(1, 10);
    assert_eq!(world.running(id).len(), 10);
    world.scale(2, id, 2);
    assert_eq!(world.running(id).len(), 2);
    let Some(Effect::Answer { answer: Answer::Scaled { previous, since, view, .. }, .. }) =
        world.told.pop()
    else {
        panic!("{:?}", world.told);
    };
    assert_eq!((previous, since.stopped, since.started), (10, 8, 0));
    assert!(view.is_settled());
    world.scale(3, id, 6);
    assert_eq!((world.running(id).len(), world.leased.len()), (6, 6));
}

#[test]
fn no_more_are_made_at_once_than_the_bound() {
    let limits = Limits { starting_max: 3, instances_max: 20, ..Limits::default() };
    let (mut scaler, _) = Scaler::recover(limits, moment(0), [7; 32]);
    let _ = scaler.step(at(0), Event::Restored { records: vec![] });
    let deploy = Event::Deploy { ticket: Ticket(1), order: order(10), until: moment(50) };
    let written = scaler.step(at(0), deploy);
    let [Effect::Write { deployment, .. }, ..] = written[..] else { panic!("{written:?}") };
    let effects = scaler.step(at(0), Event::Written { deployment });
    let placing = |effects: &[Effect]| {
        effects.iter().filter(|effect| matches!(effect, Effect::Place { .. })).count()
    };
    assert_eq!(placing(&effects), 3);
    let member = Member { deployment, number: 1 };
    let sandbox = SandboxId::numbered(1);
    assert_eq!(placing(&scaler.step(at(0), Event::Placed { member, sandbox })), 0);
    assert_eq!(placing(&scaler.step(at(0), Event::Furnished { member })), 1);
}

#[test]
fn nothing_is_made_before_the_wish_for_it_is_written_down() {
    let (mut scaler, _) = Scaler::recover(Limits::default(), moment(0), [7; 32]);
    let _ = scaler.step(at(0), Event::Restored { records: vec![] });
    let deploy = Event::Deploy { ticket: Ticket(1), order: order(1), until: moment(50) };
    let written = scaler.step(at(0), deploy);
    assert!(written.iter().all(|effect| !matches!(effect, Effect::Place { .. })), "{written:?}");
    let [Effect::Write { deployment, .. }, ..] = written[..] else { panic!("{written:?}") };
    let refusal = Refusal::Unsettled { what: "the record" };
    let effects = scaler.step(at(0), Event::NotWritten { deployment, refusal: refusal.clone() });
    assert!(effects.contains(&Effect::Refuse { ticket: Ticket(1), refusal }));
    assert!(effects.contains(&Effect::Write { deployment, record: None }), "{effects:?}");
}

#[test]
fn idle_ones_leave_first_and_busy_ones_when_they_are_done() {
    let mut world = World::new();
    let id = world.deploy(1, 4);
    let all = world.running(id);
    let (busy, idle) = (&all[..3], all[3]);
    for sandbox in busy {
        world.leased.insert(*sandbox, 1);
    }
    world.scale(2, id, 3);
    assert!(!world.leased.contains_key(&idle));
    world.scale(3, id, 2);
    let (member, leaving) = world.leaving.pop().expect("a busy one");
    assert_eq!(world.view(id).staying(), 2);
    world.told.clear();
    world.leased.remove(&leaving);
    world.step(4, Event::Left { member });
    assert!(matches!(world.told[..], [Effect::Answer { .. }]), "answered when it has left");
}

#[test]
fn whoever_waits_too_long_is_told_how_things_stand() {
    let mut world = World::new();
    let id = world.deploy(1, 2);
    for running in world.leased.values_mut() {
        *running = 1;
    }
    world.scale(2, id, 1);
    assert!(world.told.is_empty());
    assert!(world.scaler.next_deadline().is_some());
    world.step(52, Event::Tick);
    let Some(Effect::Answer { answer: Answer::Scaled { view, .. }, .. }) = world.told.pop() else {
        panic!("no answer");
    };
    assert!(!view.is_settled());
    assert_eq!((view.staying(), view.instances.len()), (1, 2));
}

#[test]
fn what_dies_is_replaced_at_once_and_what_keeps_dying_after_a_pause_that_grows() {
    let mut world = World::new();
    let id = world.deploy(1, 3);
    let dead = world.running(id)[0];
    world.leased.remove(&dead);
    world.step(100, Event::Died { sandbox: dead });
    assert_eq!(world.running(id).len(), 3);
    assert_eq!(world.view(id).counts.healed, 1);
    for _ in 0..2 {
        let young = *world.running(id).last().expect("three");
        world.leased.remove(&young);
        world.step(101, Event::Died { sandbox: young });
    }
    let before = world.running(id).len();
    world.step(200, Event::Tick);
    assert!(before <= 3 && world.running(id).len() == 3);
}

#[test]
fn a_death_that_nobody_told_is_found_by_looking() {
    let mut world = World::new();
    let id = world.deploy(1, 2);
    let dead = world.running(id)[1];
    world.leased.remove(&dead);
    world.step(5, Event::Tick);
    assert_eq!(world.running(id).len(), 2);
    assert!(!world.running(id).contains(&dead));
}

#[test]
fn a_look_that_began_before_an_instance_came_up_does_not_miss_it() {
    let mut world = World::new();
    let id = world.deploy(1, 1);
    let effects = world.scaler.step(at(10), Event::Tick);
    let Some(Effect::Look { look }) = effects.first().cloned() else { panic!("{effects:?}") };
    let dead = world.running(id)[0];
    world.leased.remove(&dead);
    world.step(10, Event::Died { sandbox: dead });
    let fresh = world.running(id);
    world.step(10, Event::Looked { look, seen: vec![] });
    assert_eq!(world.running(id), fresh);
}

#[test]
fn a_deployment_of_which_nothing_comes_up_is_refused_and_leaves_nothing() {
    let mut world = World::new();
    world.refuses = true;
    let until = moment(50);
    world.step(1, Event::Deploy { ticket: Ticket(1), order: order(2), until });
    assert_eq!(world.refusal(), Refusal::Quota { max: 1, setting: "pool.total_max" });
    assert!(world.records.is_empty());
    assert_eq!(world.scaler.views(moment(1), &Tenant::local(), None), Ok(vec![]));
}

#[test]
fn what_could_not_be_started_is_named_and_tried_again() {
    let mut world = World::new();
    let id = world.deploy(1, 2);
    world.refuses = true;
    world.scale(2, id, 3);
    let Refusal::Provider { why, ran: Ran::Yes } = world.refusal() else { panic!("not so") };
    assert!(why.contains("the wish for 3 is kept"), "{why}");
    world.refuses = false;
    world.step(60, Event::Tick);
    assert_eq!(world.running(id).len(), 3);
}

#[test]
fn a_rise_past_the_guard_is_held_and_not_refused() {
    let mut world = World::new();
    let id = world.deploy(1, 2);
    world.scale(2, id, 12);
    assert_eq!(world.running(id).len(), 6);
    let held = world.view(id).held.expect("it waits");
    assert_eq!((held.wanted, held.held_at), (12, 6));
    world.scale(3, id, 20);
    assert_eq!(world.running(id).len(), 6, "asking again changes nothing");
}

#[test]
fn more_than_the_tenant_may_have_is_refused() {
    let mut world = World::with(Limits::default(), BTreeMap::new());
    let id = world.deploy(1, 8);
    world.scale(2, id, 11);
    let (scope, setting) = ("instances", "scaler.instances_max");
    assert_eq!(world.refusal(), Refusal::OverQuota { scope, wanted: 11, max: 10, setting });
    let other = Event::Deploy { ticket: Ticket(1), order: order(3), until: moment(50) };
    world.step(3, other);
    assert!(matches!(world.refusal(), Refusal::OverQuota { wanted: 11, .. }));
}

#[test]
fn what_was_wanted_survives_and_is_made_anew() {
    let mut before = World::new();
    let id = before.deploy(1, 3);
    before.scale(2, id, 5);
    let mut after = World::with(Limits::default(), before.records);
    assert_eq!(after.running(id).len(), 5);
    // What the life before had made is let go, once.
    let old = SandboxId::numbered(99);
    let member = |sandbox| Seen {
        sandbox,
        tenant: Tenant::local(),
        last_activity: Moment::START,
        running: 0,
        stray: true,
    };
    let (mut scaler, _) = Scaler::recover(Limits::default(), moment(10), [8; 32]);
    let effects = scaler.step(at(10), Event::Restored { records: vec![] });
    let [Effect::Look { look }] = effects[..] else { panic!("{effects:?}") };
    let effects = scaler.step(at(10), Event::Looked { look, seen: vec![member(old)] });
    assert!(matches!(effects[..], [Effect::Dismiss { sandbox, .. }] if sandbox == old));
    after.step(
        11,
        Event::Undeploy { ticket: Ticket(5), tenant: Tenant::local(), deployment: id, grace: None },
    );
    assert!(after.leased.is_empty() && after.records.is_empty());
}

#[test]
fn what_is_anothers_does_not_exist() {
    let mut world = World::new();
    let deployment = world.deploy(1, 1);
    let tenant: Tenant = "other".parse().unwrap();
    world.step(2, Event::Undeploy { ticket: Ticket(3), tenant, deployment, grace: None });
    let name = deployment.to_string();
    assert_eq!(world.refusal(), Refusal::NoSuch { what: "deployment", name });
}

#[test]
fn load_raises_a_deployment_that_was_handed_over_and_lets_it_fall_to_its_floor() {
    let mut world = World::new();
    let deployment = world.deploy(1, 2);
    let (ticket, tenant) = (Ticket(2), Tenant::local());
    let until = moment(50);
    let auto_scale = true;
    world.step(1, Event::Scale { ticket, tenant, deployment, count: 2, auto_scale, until });
    for second in 2..20 {
        for running in world.leased.values_mut() {
            *running = 1;
        }
        world.step(second, Event::Tick);
    }
    let raised = world.running(deployment).len();
    assert!(raised > 2, "{raised}");
    for running in world.leased.values_mut() {
        *running = 0;
    }
    for second in 20..1_200 {
        world.step(second, Event::Tick);
    }
    assert_eq!(world.running(deployment).len(), 2);
}

#[test]
fn a_scaler_that_closes_makes_nothing_and_lets_nobody_wait() {
    let mut world = World::new();
    let id = world.deploy(1, 2);
    for running in world.leased.values_mut() {
        *running = 1;
    }
    world.scale(2, id, 1);
    world.step(3, Event::Close);
    assert!(matches!(world.told[..], [Effect::Answer { .. }]), "{:?}", world.told);
    let dead = world.running(id)[0];
    world.leased.remove(&dead);
    world.step(4, Event::Died { sandbox: dead });
    assert_eq!(world.scaler.next_deadline(), None);
    world.scale(5, id, 2);
    assert_eq!(world.refusal(), Refusal::Draining);
    assert_eq!(SECOND, Limits::default().look_period);
}
