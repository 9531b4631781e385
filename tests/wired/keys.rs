use std::sync::Arc;

use futures_util::future::join_all;
use sandpit_actors::bus::memory::KvFaults;
use sandpit_messages::sandbox::{Create, Terminate};
use sandpit_sandbox::fake::Script;

use crate::rig::{Rig, SECOND, cell, fresh, limits, on_one_thread};

const KEY: &str = "one-key-of-a-request";

#[tokio::test(start_paused = true)]
async fn twenty_creates_with_one_key_are_one_sandbox() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let ask = Create { template: "trading".to_owned(), ..Create::default() };
        let answers = join_all((0..20).map(|_| rig.ask_keyed(&ask, KEY))).await;
        let first = answers[0].clone().unwrap();
        for answer in answers {
            assert_eq!(answer.unwrap(), first);
        }
        tokio::time::sleep(SECOND).await;
        assert_eq!(rig.ask_keyed(&ask, KEY).await.unwrap(), first);
        let problem = rig.ask_keyed(&Create::default(), KEY).await.unwrap_err();
        assert_eq!((problem.kind.as_str(), problem.code), ("conflict", 409));
        assert_eq!(rig.pool().await.templates[1].leased, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_known_to_the_next_process_of_the_node() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let first = rig.ask_keyed(&fresh("value 1"), KEY).await.unwrap();
        tokio::time::sleep(SECOND).await;
        let Rig { node, fake, client, keys, clock, .. } = rig;
        let left = node.drain(Default::default()).await;
        assert!(left.is_clean(), "{left:?}");
        assert!(fake.alive().is_empty());
        let rig =
            Rig::on(clock, client.connect(), client, keys, Arc::clone(&fake), limits(), 2).await;
        let again = rig.ask_keyed(&fresh("value 1"), KEY).await.unwrap();
        assert_eq!((again, fake.runs()), (first, 1));
        let other = rig.ask_keyed(&fresh("value 2"), KEY).await.unwrap_err();
        assert_eq!(other.kind, "conflict");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_done_may_be_asked_again_with_its_key() {
    on_one_thread(async {
        let rig =
            Rig::start(limits(), Script { boot_takes: 5 * SECOND, ..Script::default() }).await;
        let ask = Create { wait_ms: Some(1_000), ..Create::default() };
        assert_eq!(rig.ask_keyed(&ask, KEY).await.unwrap_err().ran.as_str(), "no");
        tokio::time::sleep(10 * SECOND).await;
        assert!(rig.ask_keyed(&ask, KEY).await.is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_run_in_a_held_sandbox_is_done_once_for_its_key() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        let ask = cell(sandbox, "sleep 500; count");
        let answers = join_all((0..5).map(|_| rig.ask_keyed(&ask, KEY))).await;
        assert!(answers.iter().all(|one| one.as_ref().unwrap().result.as_deref() == Some("0")));
        assert_eq!(rig.fake.runs(), 1);
        let end = Terminate::of(sandbox);
        let ended = rig.ask_keyed(&end, "another-key-of-mine").await.unwrap();
        assert_eq!(rig.ask_keyed(&end, "another-key-of-mine").await.unwrap(), ended);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_leaves_outcomes_unknown_changes_nothing_for_callers() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        rig.client.set_kv_faults(KvFaults { unknown: 0.5, ..KvFaults::default() });
        for number in 0..10 {
            let (ask, key) = (fresh("value 1"), format!("key-of-the-run-{number}"));
            let answers = join_all((0..3).map(|_| rig.ask_keyed(&ask, &key))).await;
            let first = answers[0].clone().unwrap().execution_id;
            assert!(answers.iter().all(|one| one.as_ref().unwrap().execution_id == first));
        }
        assert_eq!(rig.fake.runs(), 10);
    })
    .await;
}
