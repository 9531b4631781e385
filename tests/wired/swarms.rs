//! Swarms, as clients see them. Their agents wait for a feed that nobody publishes: alive, heard of,
//! and without a trade.

use sandpit_messages::deployment::{GetDeployments, ScaleStatus};
use sandpit_messages::id::SwarmId;
use sandpit_messages::problem::Problem;
use sandpit_messages::swarm::{
    AgentDeployed, AgentResources, AgentStatus, Aggregation, Coordination, DeployAgent,
    GetSwarmHealth, GetSwarmMetrics, GetSwarmStatus, InitSwarm, Metric, RunSwarm, ScaleMode,
    ScaleSwarm, StopStatus, StopSwarm, SwarmLevel, SwarmMade, SwarmState, TimeRange, Topology,
};
use sandpit_sandbox::fake::Script;
use serde_json::{Map, json};

use crate::rig::{Rig, SECOND, limits, on_one_thread};

async fn start() -> Rig {
    let mut limits = limits();
    limits.pool.total_max = 24;
    Rig::start(limits, Script::default()).await
}

fn init(agents: i64) -> InitSwarm {
    let ask = json!({"topology": "mesh", "maxAgents": agents});
    serde_json::from_value(ask).expect("a swarm")
}

async fn made(rig: &Rig, agents: i64) -> SwarmMade {
    rig.ask(&init(agents)).await.expect("a swarm")
}

fn agent(swarm_id: SwarmId, agent_type: &str) -> DeployAgent {
    DeployAgent {
        swarm_id,
        agent_type: agent_type.to_owned(),
        symbols: vec!["AAPL".to_owned()],
        strategy_params: Map::from_iter([("feed".to_owned(), json!("nobody"))]),
        resources: AgentResources::default(),
    }
}

async fn deployed(rig: &Rig, swarm: SwarmId, agents: usize) -> Vec<AgentDeployed> {
    let mut all = Vec::new();
    for _ in 0..agents {
        all.push(rig.ask(&agent(swarm, "trend_follower")).await.expect("an agent"));
    }
    tokio::time::sleep(2 * SECOND).await;
    all
}

fn status(swarm_id: SwarmId) -> GetSwarmStatus {
    GetSwarmStatus { swarm_id, include_metrics: true, include_agents: true }
}

fn stop(swarm_id: SwarmId) -> StopSwarm {
    StopSwarm { swarm_id, grace_period: 5, save_state: true, force: false }
}

fn field(problem: &Problem) -> Option<&str> {
    problem.detail.field.as_deref()
}

#[tokio::test(start_paused = true)]
async fn a_swarm_of_three_says_that_no_liar_is_tolerated_and_one_of_four_does_not() {
    on_one_thread(async {
        let rig = start().await;
        let three = made(&rig, 3).await;
        assert!(!three.decision.byzantine_tolerant);
        assert_eq!((three.decision.n, three.decision.f, three.decision.quorum), (3, 0, 2));
        assert_eq!(three.notes[0], "3 agents tolerate no liar: it takes four");
        let four = made(&rig, 4).await;
        assert!(four.decision.byzantine_tolerant);
        assert_eq!((four.decision.f, four.decision.quorum), (1, 3));
        assert!(four.notes.iter().all(|note| !note.contains("liar")), "{:?}", four.notes);
        assert_eq!(rig.fake.runs(), 0, "no agent is started by it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn its_agents_are_real_and_it_is_degraded_below_a_quorum() {
    on_one_thread(async {
        let rig = start().await;
        let swarm = made(&rig, 3).await.swarm_id;
        let none = rig.ask(&status(swarm)).await.expect("it is there");
        assert_eq!((none.status, none.agent_count), (SwarmState::Degraded, 0));
        let agents = deployed(&rig, swarm, 3).await;
        let all = rig.ask(&status(swarm)).await.expect("it is there");
        assert_eq!((all.status, all.agent_count, all.active_agents), (SwarmState::Active, 3, 3));
        let shown = all.agents.expect("asked for");
        assert_eq!(shown[0].agent_type, "trend_follower");
        assert_eq!((shown[0].trades, shown[0].pnl), (None, None), "nothing was traded");
        assert!(agents.iter().all(|one| rig.fake.alive().contains(&one.sandbox_id)));
        assert!(rig.ask(&GetDeployments::default()).await.expect("none").deployments.is_empty());
        let full = rig.ask(&agent(swarm, "trend")).await.expect_err("it is full");
        assert_eq!((full.kind.as_str(), full.detail.scope.as_deref()), ("conflict", Some("swarm")));
        // One whose sandbox dies comes back under its own name.
        rig.fake.kill(agents[0].sandbox_id);
        tokio::time::sleep(5 * SECOND).await;
        let healed = rig.ask(&status(swarm)).await.expect("it is there").agents.expect("agents");
        let same = healed.iter().find(|one| one.agent_id == agents[0].agent_id);
        let same = same.expect("it keeps its id");
        assert_ne!(same.sandbox_id, Some(agents[0].sandbox_id));
        assert_eq!(same.status, AgentStatus::Running, "{same:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_grows_and_shrinks_by_steps_and_never_past_what_it_was_made_for() {
    on_one_thread(async {
        let rig = start().await;
        let swarm_id = made(&rig, 6).await.swarm_id;
        let scale = |target_agents, scale_mode| ScaleSwarm {
            swarm_id,
            target_agents,
            scale_mode,
            preserve_state: true,
        };
        let empty = rig.ask(&scale(2, ScaleMode::Immediate)).await.expect_err("nobody to copy");
        assert_eq!(empty.kind, "conflict");
        deployed(&rig, swarm_id, 2).await;
        let up = rig.ask(&scale(5, ScaleMode::Gradual)).await.expect("it grows");
        assert_eq!((up.previous_agents, up.current_agents), (2, 5), "{up:?}");
        assert_eq!(up.status, ScaleStatus::Completed);
        let down = rig.ask(&scale(1, ScaleMode::Immediate)).await.expect("it shrinks");
        assert_eq!((down.current_agents, down.status), (1, ScaleStatus::Completed));
        for target in [0, -1, 51] {
            let refused = rig.ask(&scale(target, ScaleMode::Gradual)).await;
            assert_eq!(field(&refused.expect_err("out of range")), Some("target_agents"));
        }
        let refused = rig.ask(&scale(7, ScaleMode::Gradual)).await.expect_err("made for six");
        assert_eq!(refused.kind, "conflict");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn shut_down_it_is_gone_and_says_the_same_a_second_time() {
    on_one_thread(async {
        let rig = start().await;
        let swarm = made(&rig, 3).await.swarm_id;
        let agents = deployed(&rig, swarm, 2).await;
        let first = rig.ask(&stop(swarm)).await.expect("it ends");
        assert_eq!((first.status, first.agents_stopped), (StopStatus::Stopped, 2));
        assert!(first.state_saved && first.final_metrics.total_pnl.is_none());
        assert!(agents.iter().all(|one| !rig.fake.alive().contains(&one.sandbox_id)));
        tokio::time::sleep(5 * SECOND).await;
        assert_eq!(rig.ask(&stop(swarm)).await.expect("the same"), first);
        let after = rig.ask(&status(swarm)).await.expect("it is remembered");
        assert_eq!((after.status, after.agent_count), (SwarmState::Stopped, 0));
        let refused = rig.ask(&agent(swarm, "trend")).await.expect_err("it was shut down");
        assert_eq!(refused.kind, "conflict");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_swarm_survives_its_actor_and_the_scaler() {
    on_one_thread(async {
        let rig = start().await;
        let swarm = made(&rig, 3).await.swarm_id;
        let agents = deployed(&rig, swarm, 2).await;
        for actor in ["swarm", "scaler"] {
            assert!(rig.node.tree.hurt(actor), "{actor}");
            tokio::time::sleep(70 * SECOND).await;
            let after = rig.ask(&status(swarm)).await.expect("it is there");
            assert_eq!((after.agent_count, after.active_agents), (2, 2), "{actor}: {after:?}");
            let shown = after.agents.expect("asked for");
            assert!(shown.iter().all(|one| agents.iter().any(|old| old.agent_id == one.agent_id)));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_outcome_is_ever_invented() {
    on_one_thread(async {
        let rig = start().await;
        let swarm_id = made(&rig, 3).await.swarm_id;
        let run = RunSwarm {
            swarm_id,
            strategy: "trend".to_owned(),
            parameters: Map::from_iter([("feed".to_owned(), json!("nobody"))]),
            coordination: Coordination::Parallel,
            timeout: 3,
            decide: true,
        };
        let refused = rig.ask(&run).await.expect_err("it has no agent");
        assert_eq!(refused.kind, "conflict");
        deployed(&rig, swarm_id, 2).await;
        let ran = rig.ask(&run).await.expect("it answers");
        assert_eq!((ran.agents_executed, ran.per_agent.len()), (0, 2));
        assert_eq!((ran.total_trades, ran.total_pnl), (None, None));
        assert!(ran.notes[0].contains("no decision protocol"), "{:?}", ran.notes);
        let metrics = GetSwarmMetrics {
            swarm_id,
            time_range: TimeRange::Hour,
            metrics: vec![Metric::All],
            aggregation: Aggregation::Avg,
        };
        let all = rig.ask(&metrics).await.expect("it answers");
        assert_eq!((all.metrics.total_pnl, all.metrics.total_trades), (None, None));
        let odd = GetSwarmMetrics {
            metrics: vec![Metric::ErrorRate],
            aggregation: Aggregation::Sum,
            ..metrics
        };
        assert_eq!(field(&rig.ask(&odd).await.expect_err("no meaning")), Some("aggregation"));
        let health = GetSwarmHealth {
            swarm_id,
            interval: 60,
            alerts: serde_json::from_value(json!({})).expect("defaults"),
            include_system_metrics: true,
        };
        let healthy = rig.ask(&health).await.expect("it answers");
        assert_eq!(healthy.health_status, SwarmLevel::Healthy, "{healthy:?}");
        assert_eq!(healthy.agent_health.len(), 2);
        let soon = GetSwarmHealth { interval: 5, ..health };
        assert_eq!(field(&rig.ask(&soon).await.expect_err("too soon")), Some("interval"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_and_names_its_field() {
    on_one_thread(async {
        let rig = start().await;
        for agents in [0, -1, 51] {
            let refused = rig.ask(&init(agents)).await.expect_err("out of range");
            assert_eq!(field(&refused), Some("maxAgents"));
        }
        let elsewhere = InitSwarm { network: "live".to_owned(), ..init(3) };
        assert_eq!(rig.ask(&elsewhere).await.expect_err("paper only").kind, "unsupported");
        let unknown = SwarmId::numbered(9);
        assert_eq!(rig.ask(&status(unknown)).await.expect_err("none").kind, "not_found");
        assert_eq!(rig.ask(&stop(unknown)).await.expect_err("none").kind, "not_found");
        assert_eq!(rig.ask(&agent(unknown, "trend")).await.expect_err("none").kind, "not_found");
        let swarm = made(&rig, 3).await;
        assert_eq!(swarm.topology, Topology::Mesh);
        let refused = rig.ask(&agent(swarm.swarm_id, "guru")).await.expect_err("no such program");
        assert_eq!(field(&refused), Some("agent_type"));
        let key = "0123456789abcdef";
        let first = rig.ask_keyed(&init(4), key).await.expect("a swarm");
        assert_eq!(rig.ask_keyed(&init(4), key).await.expect("the same"), first);
    })
    .await;
}
