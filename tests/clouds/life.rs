//! One endpoint on a fair way: the life of its sandboxes and what runs in them.

use std::time::Duration;

use sandpit_sandbox::provider::contexts::Shown;
use sandpit_sandbox::provider::{ExecEvent, Lease, Outcome, Progress, Work};
use sandpit_sandbox::{Provider, ProviderError};
use sandpit_tests::cloud::Cloud;
use sandpit_tests::cloud::proxy::{Proxy, Weather};
use sandpit_tests::cloud::rig::{self, cell, create, end_of, listed, run, sandbox};

#[tokio::test]
async fn a_sandbox_lives_at_a_cloud_under_the_id_we_gave_it() {
    let cloud = Cloud::start("eu", true, 7).await;
    let provider = rig::endpoint("eu", &cloud.url());
    provider.prepare("python", Progress::silent()).await.expect("it is there");
    let created = provider.create(create(1)).await.expect("a sandbox");
    assert_eq!(created.sandbox, sandbox(1));
    assert_eq!(cloud.leases(), [sandbox(1).to_string()]);
    assert_eq!(listed(&provider).await, [sandbox(1)]);

    provider.adopt(sandbox(1), Lease::default()).await.expect("it is ours");
    let (events, done) =
        end_of(provider.exec(sandbox(1), cell(1, "42")).await.expect("runs")).await;
    let began = ExecEvent::Started { pid: 0, count: Some(1) };
    assert_eq!(events, [began, ExecEvent::Shown(Shown::value("42"))]);
    assert_eq!((done.outcome, done.context_kept), (Outcome::Ok, true));
    let line = Work::Line("exit 3".to_owned());
    let (_, done) = end_of(provider.exec(sandbox(1), run(2, line)).await.expect("runs")).await;
    assert_eq!(done.outcome, Outcome::Exit(3));

    assert!(provider.destroy(sandbox(1)).await.expect("it ends").was_there);
    assert!(!provider.destroy(sandbox(1)).await.expect("it is gone").was_there);
    assert_eq!(cloud.leases(), Vec::<String>::new());
    let gone = provider.exec(sandbox(1), cell(3, "1")).await;
    assert_eq!(gone.err(), Some(ProviderError::Gone(sandbox(1))));
}

#[tokio::test]
async fn whoever_starts_again_finds_its_sandboxes_and_nobody_elses() {
    let cloud = Cloud::start("eu", true, 7).await;
    let before = rig::endpoint("eu", &cloud.url());
    for number in 1..=20 {
        before.create(create(number)).await.expect("a sandbox");
    }
    let foreign = rig::foreign(&cloud.url());
    foreign.create(create(99)).await.expect("a sandbox of somebody else");
    drop(before);
    let after = rig::endpoint("eu", &cloud.url());
    let mut expected: Vec<_> = (1..=20).map(sandbox).collect();
    expected.sort();
    assert_eq!(listed(&after).await, expected, "over several pages");
    let (_, done) = end_of(after.exec(sandbox(3), cell(1, "1")).await.expect("runs")).await;
    assert_eq!(done.outcome, Outcome::Ok, "with the token it has now");
}

#[tokio::test]
async fn an_answer_that_was_lost_makes_no_second_sandbox() {
    // A cloud that does not know what was sent before: the look-up alone must prevent it.
    let cloud = Cloud::start("eu", false, 7).await;
    let losing = Weather::Losing("POST /v2/sandboxes HTTP".to_owned());
    let way = Proxy::start(cloud.address(), losing, Duration::ZERO, 1).await;
    let provider = rig::endpoint("eu", &way.url());
    let lost = provider.create(create(1)).await.expect_err("its answer is lost");
    assert!(lost.maybe_done(), "{lost}");
    provider.create(create(1)).await.expect("it is found");
    assert_eq!((cloud.made(), cloud.leases().len()), (1, 1));
}

#[tokio::test]
async fn what_was_lost_and_given_up_can_be_destroyed() {
    let cloud = Cloud::start("eu", true, 7).await;
    let losing = Weather::Losing("POST /v2/sandboxes HTTP".to_owned());
    let way = Proxy::start(cloud.address(), losing, Duration::ZERO, 1).await;
    let provider = rig::endpoint("eu", &way.url());
    provider.create(create(1)).await.expect_err("its answer is lost");
    assert!(provider.destroy(sandbox(1)).await.expect("it is found").was_there);
    assert_eq!(cloud.leases(), Vec::<String>::new());
}

#[tokio::test]
async fn a_sandbox_that_nobody_has_yet_is_paused_where_that_is_free() {
    let cloud = Cloud::start("eu", true, 7).await;
    let mut options = rig::options("eu", &cloud.url());
    options.park = true;
    let provider = sandpit_sandbox::e2b::E2b::new(options).expect("an endpoint");
    provider.create(create(1)).await.expect("a sandbox");
    assert_eq!(cloud.paused(), 1);
    provider.adopt(sandbox(1), Lease::default()).await.expect("somebody has it");
    assert_eq!(cloud.paused(), 0);
    let (_, done) = end_of(provider.exec(sandbox(1), cell(1, "1")).await.expect("runs")).await;
    assert_eq!(done.outcome, Outcome::Ok);
    let pausing = provider.pausing().expect("it can pause");
    pausing.pause(sandbox(1)).await.expect("paused");
    pausing.pause(sandbox(1)).await.expect("once more is no error");
    let refused = provider.exec(sandbox(1), cell(2, "1")).await;
    assert_eq!(refused.err(), Some(ProviderError::Paused(sandbox(1))));
    pausing.resume(sandbox(1)).await.expect("it goes on");
    end_of(provider.exec(sandbox(1), cell(3, "1")).await.expect("runs")).await;
}

#[tokio::test]
async fn a_sandbox_that_is_being_paused_is_not_taken_for_gone() {
    let cloud = Cloud::start("eu", true, 7).await;
    // The cloud pauses it, and does not say so yet.
    let holding = Weather::Holding("POST /sandboxes/".to_owned());
    let way = Proxy::start(cloud.address(), holding, Duration::ZERO, 1).await;
    let provider = rig::endpoint("eu", &way.url());
    provider.create(create(1)).await.expect("a sandbox");
    let mut endings = provider.endings();
    let pausing = provider.pausing().expect("it can pause");
    let asked = async {
        while way.seen().held == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let files = provider.files().expect("it has files");
        files.stat(sandbox(1), "/home").await
    };
    let stat = tokio::select! {
        _ = pausing.pause(sandbox(1)) => panic!("its answer is held back"),
        stat = asked => stat,
    };
    assert_eq!(cloud.paused(), 1);
    assert_eq!(stat.err(), Some(ProviderError::Paused(sandbox(1))));
    assert!(endings.try_recv().is_err(), "it has not ended");
    way.change(Weather::Fair);
    pausing.resume(sandbox(1)).await.expect("it goes on");
    assert_eq!(listed(&provider).await, [sandbox(1)]);
}

#[tokio::test]
async fn a_sandbox_that_the_cloud_ended_is_told_as_ended() {
    let cloud = Cloud::start("eu", true, 7).await;
    let provider = rig::endpoint("eu", &cloud.url());
    let mut endings = provider.endings();
    provider.create(create(1)).await.expect("a sandbox");
    cloud.expire(&sandbox(1).to_string());
    let gone = provider.exec(sandbox(1), cell(1, "1")).await;
    assert_eq!(gone.err(), Some(ProviderError::Gone(sandbox(1))));
    assert_eq!(endings.recv().await.expect("an ending").sandbox, sandbox(1));
}

#[tokio::test]
async fn a_key_that_is_refused_is_told_and_not_shown() {
    let cloud = Cloud::start("eu", true, 7).await;
    let mut options = rig::options("eu", &cloud.url());
    options.key = sandpit_sandbox::e2b::ApiKey::read("e2b_wrong_secret").expect("a key");
    let provider = sandpit_sandbox::e2b::E2b::new(options).expect("an endpoint");
    let denied = provider.create(create(1)).await.expect_err("it is refused");
    assert!(matches!(denied, ProviderError::Denied { .. }), "{denied}");
    assert!(!format!("{denied:?} {denied} {provider:?}").contains("wrong_secret"));
}
