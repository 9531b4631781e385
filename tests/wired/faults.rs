use sandpit_messages::id::SandboxId;
use sandpit_messages::sandbox::{Create, GetStatus};
use sandpit_sandbox::fake::Script;

use crate::rig::{Rig, SECOND, cell, fresh, limits, on_one_thread};

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_is_a_refusal_that_says_so() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script { boot_panics: true, ..Script::default() }).await;
        let ask = Create { wait_ms: Some(2_000), ..Create::default() };
        let problem = rig.ask(&ask).await.unwrap_err();
        assert_eq!(problem.kind, "provider_failed", "{problem:?}");
        assert!(problem.message.contains("a fault in the provider"), "{}", problem.message);
        assert_eq!(rig.ask(&ask).await.unwrap_err().kind, "provider_failed", "and it lives");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_provider_panics_is_a_failure_of_the_provider() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let problem = rig.ask(&fresh("panic")).await.unwrap_err();
        assert_eq!((problem.kind.as_str(), problem.ran.as_str()), ("provider_failed", "unknown"));
        assert_eq!(rig.ask(&fresh("value 1")).await.unwrap().exit_code, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_boot_that_fails_hangs_or_loses_its_answer_is_followed_by_one_that_works() {
    on_one_thread(async {
        let script = Script { boots_refused: 3, boots_lost: 2, boots_hung: 2, ..Script::default() };
        let rig = Rig::start(limits(), script).await;
        tokio::time::sleep(60 * SECOND).await;
        let stock = &rig.pool().await.templates[0];
        assert_eq!((stock.ready, stock.boot_failures), (2, 7));
        assert_eq!(rig.fake.alive().len(), 2, "what was made without an answer is gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_given_is_replaced_by_another() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script { adoptions_refused: 2, ..Script::default() }).await;
        assert!(rig.ask(&Create::default()).await.is_ok());
        let rig = Rig::start(limits(), Script { adoptions_refused: 3, ..Script::default() }).await;
        assert_eq!(rig.ask(&Create::default()).await.unwrap_err().kind, "provider_failed");
        let greedy = Create { memory_mb: Some(4_096), ..Create::default() };
        assert_eq!(rig.ask(&greedy).await.unwrap_err().kind, "unsupported");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_template_is_refused_at_once_with_its_reason() {
    on_one_thread(async {
        let broken = ["trading".to_owned()].into();
        let rig = Rig::start(limits(), Script { broken, ..Script::default() }).await;
        let ask = Create { template: "trading".to_owned(), ..Create::default() };
        for _ in 0..2 {
            let before = rig.clock.now();
            let problem = rig.ask(&ask).await.unwrap_err();
            assert!(problem.message.contains("mend the script"), "{}", problem.message);
            assert!(rig.clock.now().since(before) < SECOND);
        }
        assert!(rig.pool().await.templates[1].broken.is_some());
        assert!(rig.ask(&Create::default()).await.is_ok(), "the others are not broken");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_dies_while_it_is_ready_is_replaced_and_while_it_is_held_is_gone() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let ready = *rig.fake.alive().first().unwrap();
        rig.fake.kill(ready);
        tokio::time::sleep(SECOND).await;
        assert_eq!(rig.fake.alive().len(), 2);
        let held = rig.create().await;
        rig.fake.kill(held);
        tokio::time::sleep(SECOND).await;
        assert_eq!(rig.ask(&cell(held, "1")).await.unwrap_err().code, 410);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_owns_is_found_and_destroyed() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script { list_lag: SECOND, ..Script::default() }).await;
        let orphan = SandboxId::numbered(99);
        rig.fake.plant(orphan, "base");
        let held = rig.create().await;
        tokio::time::sleep(60 * SECOND).await;
        let alive = rig.fake.alive();
        assert!(!alive.contains(&orphan) && alive.contains(&held));
        assert_eq!(rig.pool().await.reaper.orphaned, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_fails_is_tried_until_it_does_not_and_takes_room_meanwhile() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script { ends_refused: 3, ..Script::default() }).await;
        let sandbox_id = rig.create().await;
        let ended = rig.ask(&sandpit_messages::sandbox::Terminate::of(sandbox_id)).await.unwrap();
        assert_eq!(ended.status, sandpit_messages::sandbox::Termination::Terminated);
        assert!(!rig.fake.alive().contains(&sandbox_id));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_met_a_fault_is_not_tried_again_for_ten_minutes() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script { sample_panics: true, ..Script::default() }).await;
        let ask = GetStatus::of(rig.create().await);
        for _ in 0..2 {
            let problem = rig.ask(&ask).await.unwrap_err();
            assert_eq!((problem.kind.as_str(), problem.retry_after_ms), ("internal", None));
        }
        assert!(rig.ask(&Create::default()).await.is_ok(), "everybody else is served");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_to_a_caller_that_hung_up_comes_back() {
    on_one_thread(async {
        let mut limits = limits();
        limits.pool.targets.clear();
        let slow = Script { boot_takes: 3 * SECOND, ..Script::default() };
        let rig = Rig::start(limits, slow).await;
        let order = sandpit_actors::pool::policy::Order {
            tenant: sandpit_messages::envelope::Tenant::local(),
            template: "base".to_owned(),
            name: None,
            memory_mb: None,
            cpu_count: None,
            lifetime: 300 * SECOND,
            idle_timeout: 300 * SECOND,
            env: [].into(),
            metadata: [].into(),
            at_expiry: Default::default(),
        };
        let until = rig.clock.now() + 10 * SECOND;
        let ask = sandpit_actors::pool::Acquire { order: order.into(), until };
        let gone = tokio::time::timeout(SECOND, rig.node.pool.ask(ask)).await;
        assert!(gone.is_err());
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(rig.fake.boots(), 1);
        assert!(rig.fake.alive().is_empty(), "a sandbox that nobody holds");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_ends_what_runs_and_leaves_nothing() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script { destroy_takes: SECOND, ..Script::default() }).await;
        let sandbox = rig.create().await;
        let Rig { node, fake, client, clock, .. } = rig;
        let (asker, entry) = (client.clone(), node.entry.clone());
        let running = tokio::task::spawn_local(async move {
            let body = sandpit_messages::codec::Codec::Json.encode(&cell(sandbox, "sleep 5000"));
            let subject = "sandpit.v1.req.exec".to_owned();
            let message =
                sandpit_actors::bus::Message { subject, body: body.into(), ..Default::default() };
            sandpit_actors::bus::Bus::ask(&asker, message, clock.now() + 60 * SECOND).await
        });
        tokio::time::sleep(SECOND).await;
        let left = node.drain(Default::default()).await;
        assert!(left.is_clean(), "{left:?}");
        assert!(running.await.unwrap().is_ok(), "what had begun is answered");
        assert!(fake.alive().is_empty());
        drop(entry);
    })
    .await;
}
