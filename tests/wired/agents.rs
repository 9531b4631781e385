//! Agents over the bus in memory, in sandboxes that obey a script: every question reaches them, and
//! every effect the world.

use std::collections::BTreeMap;

use sandpit_actors::bus::Bus;
use sandpit_actors::bus::memory::Link;
use sandpit_messages::agent::{AgentRun, Fill, GetFills, HaltAgent, RunAgent, RunStatus};
use sandpit_messages::codec::Codec;
use sandpit_messages::id::SandboxId;
use sandpit_messages::market::StartReplay;
use sandpit_messages::sandbox::{GetStatus, Terminate};
use sandpit_sandbox::fake::Script;
use serde_json::json;

use crate::rig::{Rig, SECOND, limits, on_one_thread};

/// Every program buys one share at every bar.
fn script() -> Script {
    let buys = json!({ "signals": [{ "symbol": "KO", "action": "buy", "qty": 1 }] });
    let says = [("sandpit_stage.begin", "{}".to_owned()), ("sandpit_stage.show", buys.to_string())];
    let says: BTreeMap<_, _> =
        says.into_iter().map(|(word, says)| (word.to_owned(), says)).collect();
    Script { says, ..Script::default() }
}

fn agent(sandbox: SandboxId, params: serde_json::Value) -> RunAgent {
    let ask = json!({
        "sandbox_id": sandbox, "agent_type": "monitor", "symbols": ["KO"], "strategy_params": params,
    });
    serde_json::from_value(ask).expect("an agent")
}

async fn status(rig: &Rig, run: &AgentRun) -> AgentRun {
    let status = rig.ask(&GetStatus::of_run(run.execution_id)).await.expect("a status");
    status.execution.expect("the run that was asked about")
}

#[tokio::test(start_paused = true)]
async fn an_agent_trades_its_replay_and_publishes_every_fill_in_order() {
    on_one_thread(async {
        let rig = Rig::start(limits(), script()).await;
        let mut heard = rig.client.listen("sandpit.v1.evt.agent.filled", 256).await.unwrap();
        let sandbox = rig.create().await;
        let run = rig.ask(&agent(sandbox, json!({ "from": "2022-02-01" }))).await.unwrap();
        assert_eq!(run.status, RunStatus::Completed, "{run:?}");
        let account = run.results.account.clone().unwrap();
        // The last bar's order has no next bar.
        assert_eq!((account.trades, account.holdings["KO"].shares), (71, 71));
        assert_eq!(run.executions, 1 + 72);
        let ask = GetFills { agent_id: run.agent_id, from: 0, limit: None };
        let kept = rig.ask(&ask).await.unwrap();
        let mut told = Vec::new();
        while told.len() < kept.fills.len() {
            let message = heard.messages.recv().await.unwrap();
            told.push(Codec::Json.decode::<Fill>(&message.body).unwrap());
        }
        assert_eq!(told, kept.fills);
        assert_eq!(rig.ask(&GetStatus::of(sandbox)).await.unwrap().execution, None);
        assert_eq!(status(&rig, &run).await.results, run.results);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_loses_and_delays_messages_costs_an_agent_no_bar() {
    on_one_thread(async {
        let rig = Rig::start(limits(), script()).await;
        let feed = "shared".parse().unwrap();
        let sandbox = rig.create().await;
        let mut ask = agent(sandbox, json!({ "feed": "shared" }));
        ask.wait = Some(0);
        let run = rig.ask(&ask).await.unwrap();
        assert_eq!(run.status, RunStatus::Running);
        let replay = StartReplay {
            feed,
            from: Some("2022-02-01".to_owned()),
            to: None,
            history: None,
            symbols: None,
            interval_ms: Some(1_000),
        };
        rig.ask(&replay).await.unwrap();
        let bad = Link {
            jitter: 3 * SECOND,
            reorder: true,
            loss: 0.3,
            duplicate: 0.3,
            ..Link::default()
        };
        rig.bus.set_link(bad);
        tokio::time::sleep(60 * SECOND).await;
        rig.bus.set_link(Link::default());
        tokio::time::sleep(60 * SECOND).await;
        let run = status(&rig, &run).await;
        assert_eq!(run.status, RunStatus::Completed, "{run:?}");
        assert_eq!(run.results.account.unwrap().trades, 71);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_halted_agent_stays_halted_and_one_without_a_sandbox_has_failed() {
    on_one_thread(async {
        let rig = Rig::start(limits(), script()).await;
        let (one, other) = (rig.create().await, rig.create().await);
        let mut runs = Vec::new();
        for sandbox in [one, other] {
            let ask = agent(sandbox, json!({ "feed": "slow" }));
            runs.push(rig.ask(&RunAgent { wait: Some(0), ..ask }).await.unwrap());
        }
        let replay = json!({ "feed": "slow", "interval_ms": 1_000 });
        rig.ask(&serde_json::from_value::<StartReplay>(replay).unwrap()).await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        let halted = rig.ask(&HaltAgent { agent_id: runs[0].agent_id }).await.unwrap();
        assert_eq!(halted.results.reason.as_deref(), Some("it was halted"));
        rig.ask(&Terminate { sandbox_id: other, force: None }).await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        assert_eq!(status(&rig, &runs[0]).await.executions, halted.executions);
        let failed = status(&rig, &runs[1]).await;
        assert_eq!(failed.status, RunStatus::Failed);
        assert!(failed.results.reason.unwrap().contains("its sandbox cannot be used"));
    })
    .await;
}
