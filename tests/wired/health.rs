//! Health, as clients see it.

use sandpit_messages::health::{GetHealth, Level};
use sandpit_sandbox::fake::Script;

use crate::rig::{Rig, SECOND, cell, limits, on_one_thread};

#[tokio::test(start_paused = true)]
async fn nothing_is_healthy_and_has_no_figures() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let health = rig.ask(&GetHealth::default()).await.expect("it answers");
        assert_eq!((health.overall_health, health.total_sandboxes), (Level::Healthy, 0));
        assert_eq!((health.average_cpu, health.performance), (None, None));
        assert!(health.notes[0].contains("no sandboxes"), "{:?}", health.notes);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_ran_and_what_was_used_is_told() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        for _ in 0..10 {
            rig.ask(&cell(sandbox, "sleep 100; value 1")).await.expect("it runs");
        }
        tokio::time::sleep(11 * SECOND).await;
        let ask = GetHealth { include_all_sandboxes: true };
        let health = rig.ask(&ask).await.expect("it answers");
        assert_eq!((health.overall_health, health.running_sandboxes), (Level::Healthy, 1));
        assert_eq!((health.average_memory, health.average_cpu), (Some(1.0), Some(0.0)));
        let performance = health.performance.expect("executions ended");
        assert!((99.0..=110.0).contains(&performance.p50_ms), "{performance:?}");
        assert_eq!(health.reliability.expect("they ended").error_rate, 0.0);
        let shown = &health.sandboxes.expect("asked for")[0];
        assert_eq!((shown.sandbox_id, shown.health), (sandbox, Level::Healthy));
        assert_eq!(shown.error_rate, Some(0.0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn executions_that_lose_their_sandbox_make_the_whole_unhealthy_and_say_why() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        for _ in 0..5 {
            let sandbox = rig.create().await;
            assert!(rig.ask(&cell(sandbox, "die")).await.expect("an answer").lost);
        }
        let health = rig.ask(&GetHealth::default()).await.expect("it answers");
        assert_eq!(health.overall_health, Level::Unhealthy);
        assert!(health.issues[0].contains("100.0 % of executions failed"), "{:?}", health.issues);
    })
    .await;
}
