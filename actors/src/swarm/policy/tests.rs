use super::*;
use crate::crew::AgentPlan;

fn at(seconds: u64) -> Now {
    let moment = Moment::START + Duration::from_secs(seconds);
    Now { moment, wall: WallTime(seconds * 1_000) }
}

fn moment(seconds: u64) -> Moment {
    at(seconds).moment
}

fn order(max_agents: usize) -> Arc<Order> {
    Arc::new(Order {
        tenant: Tenant::local(),
        name: None,
        topology: Topology::Mesh,
        strategy: Strategy::Balanced,
        max_agents,
        shared_memory: false,
        auto_scale: false,
    })
}

fn plan(agent_type: &str) -> Arc<Plan> {
    let agent = AgentPlan {
        agent_type: agent_type.to_owned(),
        symbols: vec!["AAPL".to_owned()],
        params: serde_json::Map::new(),
    };
    Arc::new(Plan {
        tenant: Tenant::local(),
        template: "base".to_owned(),
        memory_mb: None,
        cpu_count: None,
        lifetime: Duration::from_secs(60),
        env: BTreeMap::new(),
        files: BTreeMap::new(),
        setup: Vec::new(),
        agent: Some(agent),
    })
}

/// A world in which agents come and go as soon as they are asked to.
struct World {
    swarms: Swarms,
    id: SwarmId,
    members: Vec<Member>,
    told: Vec<Effect>,
    /// Agents that were told to leave stay as long as this is set.
    linger: bool,
    /// No agent can be made.
    refuses: bool,
    made: u64,
}

impl World {
    fn new(max_agents: usize) -> Self {
        let (mut swarms, _) = Swarms::recover(Limits::default(), moment(0), [7; 32]);
        let _ = swarms.step(at(0), Event::Restored { records: vec![] });
        let effects =
            swarms.step(at(0), Event::Init { ticket: Ticket(0), order: order(max_agents) });
        let [Effect::Write { swarm: id, .. }, ..] = effects[..] else { panic!("{effects:?}") };
        let (members, told) = (Vec::new(), Vec::new());
        let mut world = Self { swarms, id, members, told, linger: false, refuses: false, made: 0 };
        world.play(0, effects);
        assert!(matches!(world.told.pop(), Some(Effect::Answer { answer: Answer::Made(..), .. })));
        world
    }

    fn step(&mut self, second: u64, event: Event) {
        let effects = self.swarms.step(at(second), event);
        self.play(second, effects);
    }

    fn play(&mut self, second: u64, effects: Vec<Effect>) {
        let mut to_do = std::collections::VecDeque::from(effects);
        while let Some(effect) = to_do.pop_front() {
            let event = match effect {
                Effect::Restore => Event::Restored { records: vec![] },
                Effect::Write { swarm, .. } => Event::Written { swarm },
                Effect::Enlist { swarm, ticket, .. } if self.refuses => {
                    Event::NotEnlisted { swarm, ticket, refusal: Refusal::Draining }
                }
                Effect::Enlist { swarm, agent, plan, ticket, .. } => {
                    self.made += 1;
                    let member = Member {
                        agent,
                        deployment: DeploymentId::numbered(self.made),
                        plan,
                        status: AgentStatus::Running,
                        sandbox: Some(SandboxId::numbered(self.made)),
                        deployed: WallTime(second),
                        trades: Some(2),
                        pnl: Some(1.5),
                        heartbeat: None,
                        error: None,
                    };
                    self.members.push(member.clone());
                    Event::Enlisted { swarm, ticket, member: Box::new(member) }
                }
                Effect::Dismiss { deployment, .. } => {
                    if !self.linger {
                        self.members.retain(|member| member.deployment != deployment);
                    }
                    continue;
                }
                Effect::Look => {
                    let members = BTreeMap::from([(self.id, self.members.clone())]);
                    Event::Seen { members }
                }
                Effect::Forget { .. } => continue,
                told @ (Effect::Answer { .. } | Effect::Refuse { .. }) => {
                    self.told.push(told);
                    continue;
                }
            };
            to_do.extend(self.swarms.step(at(second), event));
        }
    }

    fn join(&mut self, second: u64, agent_type: &str) {
        let (ticket, swarm, until) = (Ticket(1), self.id, moment(second + 60));
        self.step(second, Event::Join { ticket, swarm, plan: plan(agent_type), until });
    }

    fn scale(&mut self, second: u64, target: usize, mode: ScaleMode) {
        let (ticket, tenant, swarm) = (Ticket(2), Tenant::local(), self.id);
        let until = moment(second + 60);
        self.step(second, Event::Scale { ticket, tenant, swarm, target, mode, until });
    }

    fn stop(&mut self, second: u64) {
        let (ticket, tenant, swarm) = (Ticket(3), Tenant::local(), self.id);
        let (grace, until) = (Duration::from_secs(1), moment(second + 60));
        let save = true;
        self.step(second, Event::Stop { ticket, tenant, swarm, grace, save, until });
    }

    fn run(&mut self, from: u64, to: u64) {
        for second in from..to {
            self.step(second, Event::Tick);
        }
    }

    fn stopped(&mut self) -> (Stopped, bool) {
        match self.told.pop() {
            Some(Effect::Answer { answer: Answer::Stopped { record, gone }, .. }) => {
                (record.stopped.expect("it was"), gone)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_swarm_has_no_more_agents_than_it_was_made_for() {
    let mut world = World::new(2);
    world.join(1, "trend");
    world.join(2, "trend");
    world.told.clear();
    world.join(3, "trend");
    let Some(Effect::Refuse { refusal: Refusal::Conflict { scope: "swarm", why }, .. }) =
        world.told.pop()
    else {
        panic!("not so");
    };
    assert!(why.contains("at most") || why.contains("full"), "{why}");
    world.scale(4, 3, ScaleMode::Immediate);
    assert!(matches!(world.told.pop(), Some(Effect::Refuse { .. })));
    assert_eq!(world.members.len(), 2);
}

#[test]
fn gradual_is_two_at_a_time_five_seconds_apart_and_takes_the_type_most_lacking() {
    let mut world = World::new(10);
    for agent_type in ["trend", "trend", "pairs"] {
        world.join(1, agent_type);
    }
    world.scale(2, 7, ScaleMode::Gradual);
    assert_eq!(world.members.len(), 5);
    world.run(3, 7);
    assert_eq!(world.members.len(), 5);
    world.run(7, 9);
    assert_eq!(world.members.len(), 7);
    let pairs = world.members.iter().filter(|one| one.agent_type() == "pairs").count();
    assert!((3..=4).contains(&pairs), "{pairs}");
    let Some(Effect::Answer { answer: Answer::Scaled(scaled), .. }) = world.told.pop() else {
        panic!("no answer");
    };
    assert_eq!((scaled.previous, scaled.target, scaled.current, scaled.done), (3, 7, 7, true));
}

#[test]
fn who_waits_for_another_size_is_told_after_ten_seconds() {
    let mut world = World::new(20);
    for _ in 0..7 {
        world.join(1, "trend");
    }
    world.told.clear();
    world.scale(2, 14, ScaleMode::Gradual);
    world.run(3, 13);
    let Some(Effect::Answer { answer: Answer::Scaled(scaled), .. }) = world.told.pop() else {
        panic!("no answer");
    };
    assert!(!scaled.done && scaled.estimated.is_some());
    world.run(13, 30);
    assert_eq!(world.members.len(), 14, "it goes on");
}

#[test]
fn immediate_is_all_at_once_and_shrinks_what_there_is_most_of() {
    let mut world = World::new(10);
    for agent_type in ["trend", "trend", "trend", "pairs"] {
        world.join(1, agent_type);
    }
    world.scale(2, 2, ScaleMode::Immediate);
    world.run(3, 6);
    let types: Vec<_> = world.members.iter().map(Member::agent_type).collect();
    assert_eq!(types, ["trend", "pairs"]);
}

#[test]
fn adaptive_waits_while_too_many_executions_fail() {
    let mut world = World::new(10);
    world.join(1, "trend");
    world.join(1, "trend");
    let sandbox = SandboxId::numbered(1);
    for _ in 0..10 {
        world.step(2, Event::Ran { sandbox, took: Duration::ZERO, failed: true });
    }
    world.scale(3, 4, ScaleMode::Adaptive);
    world.run(4, 20);
    assert_eq!(world.members.len(), 2);
    world.run(20, 80);
    assert_eq!(world.members.len(), 4, "what failed is long past");
}

#[test]
fn what_cannot_be_made_is_named_and_not_tried_for_ever() {
    let mut world = World::new(10);
    world.join(1, "trend");
    world.told.clear();
    world.refuses = true;
    world.scale(2, 3, ScaleMode::Gradual);
    let Some(Effect::Answer { answer: Answer::Scaled(scaled), .. }) = world.told.pop() else {
        panic!("no answer");
    };
    assert_eq!((scaled.done, scaled.current), (false, 1));
    assert_eq!(scaled.failures, [Refusal::Draining, Refusal::Draining]);
}

#[test]
fn it_is_gone_only_when_every_sandbox_is_and_says_the_same_a_second_time() {
    let mut world = World::new(3);
    world.join(1, "trend");
    world.join(1, "trend");
    world.told.clear();
    world.linger = true;
    world.stop(2);
    world.run(3, 20);
    assert!(world.told.is_empty());
    world.members.clear();
    world.run(20, 23);
    let (first, gone) = world.stopped();
    assert!(gone);
    assert_eq!((first.agents, first.trades, first.pnl), (2, Some(4), Some(3.0)));
    world.stop(30);
    world.run(31, 33);
    assert_eq!(world.stopped(), (first, true));
    world.join(40, "trend");
    assert!(matches!(
        world.told.pop(),
        Some(Effect::Refuse { refusal: Refusal::Conflict { .. }, .. })
    ));
}

#[test]
fn who_waits_too_long_for_the_end_is_told_that_it_is_under_way() {
    let mut world = World::new(3);
    world.join(1, "trend");
    world.linger = true;
    world.stop(2);
    world.run(3, 63);
    assert!(!world.stopped().1);
}

#[test]
fn a_swarm_that_was_shut_down_before_a_restart_is_ended_after_it() {
    let stopped = Stopped { at: WallTime(5), agents: 1, saved: true, trades: None, pnl: None };
    let record = Record { order: order(3), created: WallTime(1), stopped: Some(stopped) };
    let (mut swarms, _) = Swarms::recover(Limits::default(), moment(0), [7; 32]);
    let id = SwarmId::numbered(1);
    let effects = swarms.step(at(0), Event::Restored { records: vec![(id, record)] });
    assert_eq!(effects, [Effect::Look]);
    let left = Member {
        agent: AgentId::numbered(1),
        deployment: DeploymentId::numbered(1),
        plan: plan("trend"),
        status: AgentStatus::Running,
        sandbox: None,
        deployed: WallTime(2),
        trades: None,
        pnl: None,
        heartbeat: None,
        error: None,
    };
    let seen = Event::Seen { members: BTreeMap::from([(id, vec![left])]) };
    let effects = swarms.step(at(1), seen);
    assert!(matches!(effects[0], Effect::Dismiss { .. }), "{effects:?}");
}
