//! Deployments: as many instances as wanted, whatever dies, as clients see it.

use std::collections::BTreeSet;
use std::time::Duration;

use sandpit_messages::deployment::{
    Category, Configuration, Deploy, DeployStatus, Deployed, DeploymentView, GetDeployments,
    InstanceStatus, Scale, ScaleStatus, Scaled, Undeploy,
};
use sandpit_messages::id::{DeploymentId, SandboxId};
use sandpit_messages::problem::{Problem, Ran};
use sandpit_messages::sandbox::{Create, List, StatusFilter};
use sandpit_sandbox::fake::Script;
use serde_json::json;

use crate::rig::{Rig, SECOND, cell, limits, on_one_thread};

/// A node with room for two dozen sandboxes.
async fn start() -> Rig {
    let mut limits = limits();
    limits.pool.total_max = 24;
    Rig::start(limits, Script::default()).await
}

fn deploy(configuration: &serde_json::Value) -> Deploy {
    Deploy {
        template_name: "mine".to_owned(),
        category: Category::Custom,
        configuration: serde_json::from_value(configuration.clone()).expect("a configuration"),
    }
}

async fn deployed(rig: &Rig, instances: usize) -> Deployed {
    let deployed = rig.ask(&deploy(&json!({"instances": instances}))).await.expect("a deployment");
    assert_eq!((deployed.status, deployed.sandboxes.len()), (DeployStatus::Deployed, instances));
    deployed
}

async fn scale(rig: &Rig, deployment_id: DeploymentId, count: i64) -> Result<Scaled, Problem> {
    rig.ask(&Scale { deployment_id, instance_count: count, auto_scale: false }).await
}

async fn view(rig: &Rig, id: DeploymentId) -> DeploymentView {
    let ask = GetDeployments { deployment_id: Some(id) };
    rig.ask(&ask).await.expect("it is there").deployments.remove(0)
}

fn running(view: &DeploymentView) -> BTreeSet<SandboxId> {
    let up = view.instances.iter().filter(|one| one.status == InstanceStatus::Running);
    up.map(|one| one.sandbox_id).collect()
}

#[tokio::test(start_paused = true)]
async fn ten_become_two_and_then_six_and_the_list_shows_them() {
    on_one_thread(async {
        let rig = start().await;
        let made = deployed(&rig, 10).await;
        assert_eq!(made.sandbox_id, made.sandboxes[0].sandbox_id);
        let id = made.deployment_id;
        let down = scale(&rig, id, 2).await.expect("it shrinks");
        assert_eq!((down.previous, down.stopped, down.total_instances), (10, 8, 2));
        assert_eq!((down.status, down.instances.len()), (ScaleStatus::Completed, 2));
        let up = scale(&rig, id, 6).await.expect("it grows");
        assert_eq!((up.previous, up.started, up.total_instances), (2, 4, 6));
        let shown: BTreeSet<_> = up.instances.iter().map(|one| one.sandbox_id).collect();
        let list = List { status_filter: StatusFilter::Running, ..List::default() };
        let listed = rig.ask(&list).await.expect("a list");
        let listed: BTreeSet<_> = listed.sandboxes.iter().map(|one| one.sandbox_id).collect();
        assert_eq!(listed, shown);
        assert!(listed.is_subset(&rig.fake.alive()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_in_an_instance_that_leaves_ends_as_it_would_and_nothing_new_begins() {
    on_one_thread(async {
        let rig = start().await;
        let made = deployed(&rig, 2).await;
        let all: Vec<_> = made.sandboxes.iter().map(|one| one.sandbox_id).collect();
        let [slow, slower] = [cell(all[0], "sleep 5000; value 1"), cell(all[1], "sleep 9000")];
        let shrinking = async {
            tokio::time::sleep(SECOND).await;
            scale(&rig, made.deployment_id, 1).await.expect("it shrinks")
        };
        let refused = async {
            tokio::time::sleep(2 * SECOND).await;
            let view = view(&rig, made.deployment_id).await;
            let leaving = view.instances.iter().find(|one| one.status == InstanceStatus::Draining);
            let leaving = leaving.expect("one is leaving").sandbox_id;
            rig.ask(&cell(leaving, "value 2")).await.expect_err("it takes nothing new")
        };
        let (first, second) = (rig.ask(&slow), rig.ask(&slower));
        let (first, second, scaled, refused) = tokio::join!(first, second, shrinking, refused);
        assert!(!first.expect("it ended").lost && !second.expect("it ended").lost);
        assert_eq!((refused.kind.as_str(), refused.ran), ("gone", Ran::No));
        assert_eq!((scaled.status, scaled.stopped), (ScaleStatus::Completed, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_dies_is_replaced_within_two_seconds() {
    on_one_thread(async {
        let rig = start().await;
        let id = deployed(&rig, 3).await.deployment_id;
        let before = running(&view(&rig, id).await);
        for dead in before.iter().take(2) {
            rig.fake.kill(*dead);
        }
        tokio::time::sleep(2 * SECOND).await;
        let after = view(&rig, id).await;
        assert_eq!((running(&after).len(), after.healed), (3, 2));
        assert_eq!(running(&after).intersection(&before).count(), 1);
        // One that its holder ends is replaced too: the deployment says how many there are.
        let ended = *running(&after).first().expect("three");
        let terminate = sandpit_messages::sandbox::Terminate { sandbox_id: ended, force: None };
        rig.ask(&terminate).await.expect("it ends");
        tokio::time::sleep(3 * SECOND).await;
        assert_eq!(running(&view(&rig, id).await).len(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_is_listed_and_comes_when_there_is_room() {
    on_one_thread(async {
        let mut limits = limits();
        limits.pool.total_max = 4;
        limits.pool.wait_max = 2 * SECOND;
        let rig = Rig::start(limits, Script::default()).await;
        let other = rig.create().await;
        let partial = rig.ask(&deploy(&json!({"instances": 5}))).await.expect("some of it");
        assert_eq!(partial.status, DeployStatus::Partial);
        assert_eq!(partial.sandboxes.len(), 3);
        assert_eq!(partial.failures[0].kind, "timeout", "{:?}", partial.failures);
        let terminate = sandpit_messages::sandbox::Terminate { sandbox_id: other, force: None };
        rig.ask(&terminate).await.expect("it ends");
        tokio::time::sleep(70 * SECOND).await;
        let view = view(&rig, partial.deployment_id).await;
        assert_eq!(running(&view).len(), 4, "{view:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_and_names_its_field() {
    on_one_thread(async {
        let rig = start().await;
        let id = deployed(&rig, 1).await.deployment_id;
        for count in [0, -5, 101] {
            let refused = scale(&rig, id, count).await.expect_err("out of range");
            assert_eq!((refused.kind.as_str(), refused.code), ("invalid_argument", 400));
            assert_eq!(refused.detail.field.as_deref(), Some("instance_count"));
            assert_eq!(refused.detail.expected.as_deref(), Some("1 to 100"));
        }
        let refused = rig.ask(&deploy(&json!({"instances": -1}))).await.expect_err("below one");
        assert_eq!(refused.detail.field.as_deref(), Some("instances"));
        let unknown = DeploymentId::numbered(7);
        let refused = scale(&rig, unknown, 1).await.expect_err("there is none");
        assert_eq!((refused.kind.as_str(), refused.code), ("not_found", 404));
        assert_eq!(refused.detail.handle.as_deref(), Some(unknown.as_str()));
        let over = scale(&rig, id, 11).await.expect_err("more than a tenant may have");
        assert_eq!((over.kind.as_str(), over.code), ("quota_exceeded", 429));
        assert_eq!(over.detail.scope.as_deref(), Some("instances"));
        let no_template = rig.ask(&deploy(&json!({"template": "none"}))).await;
        assert_eq!(no_template.expect_err("there is none").kind, "not_found");
        let reserved = Create {
            metadata: [("sandpit.deployment".to_owned(), id.to_string())].into(),
            ..Create::default()
        };
        let refused = rig.ask(&reserved).await.expect_err("the key is ours");
        assert_eq!(refused.detail.field.as_deref(), Some("metadata"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_setup_runs_in_each_instance_and_one_that_fails_fails_the_deployment() {
    on_one_thread(async {
        let rig = start().await;
        let fine =
            json!({"instances": 2, "files": {"a.txt": "x"}, "setup": ["print a", "print b"]});
        let made = rig.ask(&deploy(&fine)).await.expect("a deployment");
        assert_eq!(rig.fake.runs(), 4);
        let wrong = json!({"instances": 2, "setup": ["print a", "warn no such file; exit 3"]});
        let refused = rig.ask(&deploy(&wrong)).await.expect_err("its setup fails");
        assert_eq!((refused.kind.as_str(), refused.ran), ("invalid_argument", Ran::No));
        assert_eq!(refused.detail.field.as_deref(), Some("setup"));
        assert!(refused.message.contains("exited with 3: no such file"), "{}", refused.message);
        tokio::time::sleep(5 * SECOND).await;
        let all = rig.ask(&GetDeployments::default()).await.expect("a list").deployments;
        assert_eq!(all.len(), 1, "what was refused left nothing behind");
        assert_eq!(all[0].deployment_id, made.deployment_id);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rise_past_the_guard_waits_for_an_operator() {
    on_one_thread(async {
        let rig = start().await;
        let id = deployed(&rig, 1).await.deployment_id;
        let held = scale(&rig, id, 9).await.expect("held, not refused");
        assert_eq!((held.total_instances, held.status), (5, ScaleStatus::Completed));
        let approval = held.approval.expect("it waits");
        assert_eq!((approval.wanted, approval.held_at), (9, 5));
        assert!(held.notes[0].contains("waits for an operator"), "{:?}", held.notes);
        let again = scale(&rig, id, 9).await.expect("held again");
        assert_eq!(again.total_instances, 5);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_makes_one_deployment() {
    on_one_thread(async {
        let rig = start().await;
        let ask = deploy(&json!({"instances": 2}));
        let key = "0123456789abcdef";
        let first = rig.ask_keyed(&ask, key).await.expect("a deployment");
        let again = rig.ask_keyed(&ask, key).await.expect("the same");
        assert_eq!(first, again);
        let other = rig.ask_keyed(&deploy(&json!({"instances": 3})), key).await;
        assert_eq!(other.expect_err("another request").kind, "conflict");
        assert_eq!(rig.ask(&GetDeployments::default()).await.expect("one").deployments.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_survives_its_actor_and_the_actor_of_its_sandboxes() {
    on_one_thread(async {
        let rig = start().await;
        let id = deployed(&rig, 3).await.deployment_id;
        for actor in ["scaler", "pool"] {
            let before = running(&view(&rig, id).await);
            assert!(rig.node.tree.hurt(actor), "{actor}");
            tokio::time::sleep(10 * SECOND).await;
            let after = running(&view(&rig, id).await);
            assert_eq!(after.len(), 3, "{actor}");
            assert!(after.is_disjoint(&before), "made anew");
            assert!(before.is_disjoint(&rig.fake.alive()), "{actor}: the old ones are gone");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_is_not_wanted_any_more_leaves_nothing() {
    on_one_thread(async {
        let rig = start().await;
        let id = deployed(&rig, 4).await.deployment_id;
        let ended = rig.ask(&Undeploy { deployment_id: id }).await.expect("it ends");
        assert_eq!(ended.stopped, 4);
        tokio::time::sleep(3 * SECOND).await;
        assert_eq!(rig.fake.alive().len(), 2, "what is kept ready");
        let refused = rig.ask(&Undeploy { deployment_id: id }).await.expect_err("it is gone");
        assert_eq!(refused.kind, "not_found");
    })
    .await;
}

#[test]
fn what_a_configuration_does_not_say_is_not_there() {
    assert_eq!(deploy(&json!({})).configuration, Configuration::default());
    assert_eq!(SECOND, Duration::from_secs(1));
}
