use std::collections::BTreeSet;

use bytes::Bytes;
use sandpit_actors::bus::Headers;
use sandpit_messages::codec::Codec;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::problem::Problem;
use sandpit_messages::sandbox::{
    Create, GetStatus, List, Status, StatusFilter, Terminate, Terminated, Termination,
};
use sandpit_messages::subject::{Request, Verb};
use sandpit_sandbox::fake::Script;
use sandpit_sandbox::provider::Limits as Resources;

use crate::rig::{Rig, SECOND, cell, fresh, limits, on_one_thread};

#[tokio::test(start_paused = true)]
async fn the_life_of_a_sandbox_from_create_to_terminate() {
    on_one_thread(Box::pin(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let ask = Create {
            name: Some("desk".to_owned()),
            memory_mb: Some(1_024),
            env_vars: [("BOOK".to_owned(), "alpha".to_owned())].into(),
            metadata: [("team".to_owned(), "blue".to_owned())].into(),
            ..Create::default()
        };
        let created = rig.ask(&ask).await.unwrap();
        let sandbox = created.sandbox_id;
        assert!(created.from_pool && created.acquire_ms < 100.0, "{created:?}");
        assert_eq!(created.endpoint, format!("nats:sandpit.v1.node.000007.sbx.{sandbox}"));
        let lease = rig.fake.lease(sandbox).expect("it is leased");
        assert_eq!(lease.env["BOOK"], "alpha");
        assert_eq!(lease.limits, Some(Resources { memory_mb: 1_024, cpu_count: 1 }));

        let ran = rig.ask(&cell(sandbox, "print hello; warn beware; value 42")).await.unwrap();
        assert_eq!((&*ran.stdout, &*ran.stderr, ran.exit_code), ("hello\n", "beware\n", 0));
        assert_eq!((ran.result.as_deref(), ran.context_kept), (Some("42"), true));

        tokio::time::sleep(10 * SECOND).await;
        let status = rig.ask(&GetStatus::of(sandbox)).await.unwrap();
        assert_eq!((status.status, status.execution_count), (Status::Running, 1));
        assert!(status.idle_seconds >= 10.0 && status.resource_usage.is_some(), "{status:?}");
        let listing = rig.ask(&List::default()).await.unwrap();
        assert_eq!(listing.total_count, 1);
        assert_eq!(listing.sandboxes[0].metadata["team"], "blue");

        let ended = rig.ask(&Terminate::of(sandbox)).await.unwrap();
        assert_eq!(ended.status, Termination::Terminated);
        assert!(!rig.fake.alive().contains(&sandbox));
        tokio::time::sleep(5 * SECOND).await;
        let again = rig.ask(&Terminate::of(sandbox)).await.unwrap();
        assert_eq!(again.runtime_seconds, ended.runtime_seconds, "a second call answers the same");
        let status = rig.ask(&GetStatus::of(sandbox)).await.unwrap();
        assert_eq!(
            (status.status, status.ended.unwrap().reason.as_str()),
            (Status::Stopped, "terminated")
        );
        let gone = rig.ask(&cell(sandbox, "1")).await.unwrap_err();
        assert_eq!((gone.kind.as_str(), gone.code), ("gone", 410));
        let stopped = List { status_filter: StatusFilter::Stopped, ..List::default() };
        assert_eq!(rig.ask(&stopped).await.unwrap().total_count, 1);
        tokio::time::sleep(3_600 * SECOND).await;
        assert_eq!(rig.ask(&GetStatus::of(sandbox)).await.unwrap_err().code, 404);
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_warm_sandbox_costs_no_wait_and_the_stock_is_filled_again() {
    on_one_thread(async {
        let slow = Script { boot_takes: 2 * SECOND, ..Script::default() };
        let rig = Rig::start(limits(), slow).await;
        tokio::time::sleep(2 * SECOND).await;
        let before = rig.clock.now();
        rig.create().await;
        assert!(rig.clock.now().since(before) < SECOND / 100);
        tokio::time::sleep(3 * SECOND).await;
        let stock = &rig.pool().await.templates[0];
        assert_eq!((stock.ready, stock.leased, stock.hits, stock.misses), (2, 1, 1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_of_a_pool_of_ten_are_all_answered() {
    on_one_thread(async {
        let mut limits = limits();
        limits.pool.targets = [("base".to_owned(), 10)].into();
        limits.pool.total_max = 110;
        let rig = Rig::start(limits, Script::default()).await;
        let ask = Create::default();
        let asks = (0..100).map(|_| rig.ask(&ask));
        let answers = futures_util::future::join_all(asks).await;
        let granted: BTreeSet<_> =
            answers.into_iter().map(|answer| answer.expect("a sandbox").sandbox_id).collect();
        assert_eq!(granted.len(), 100, "nobody shares");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_wait_ends_is_refused_and_what_comes_for_it_is_kept_for_others() {
    on_one_thread(async {
        let slow = Script { boot_takes: 20 * SECOND, ..Script::default() };
        let rig = Rig::start(limits(), slow).await;
        let ask = Create { wait_ms: Some(3_000), ..Create::default() };
        let before = rig.clock.now();
        let problem = rig.ask(&ask).await.unwrap_err();
        assert_eq!((problem.kind.as_str(), problem.ran.as_str()), ("timeout", "no"));
        let waited = rig.clock.now().since(before);
        assert!(waited >= 2 * SECOND && waited < 4 * SECOND, "{waited:?}");
        tokio::time::sleep(40 * SECOND).await;
        assert_eq!(rig.fake.alive().len(), 3, "two of the stock and the one that nobody took");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_house_is_a_quota_and_names_the_setting() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        for _ in 0..4 {
            rig.create().await;
        }
        let ask = Create { wait_ms: Some(0), ..Create::default() };
        let problem = rig.ask(&ask).await.unwrap_err();
        assert_eq!((problem.kind.as_str(), problem.code), ("quota_exceeded", 429));
        assert_eq!(problem.detail.next[1], "raise pool.total_max");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn leases_end_by_lifetime_and_by_idleness_and_executions_put_both_off() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let short = Create { timeout: 100, ..Create::default() };
        let short = rig.ask(&short).await.unwrap().sandbox_id;
        let idle = Create { timeout: 86_400, idle_timeout: 200, ..Create::default() };
        let idle = rig.ask(&idle).await.unwrap().sandbox_id;
        tokio::time::sleep(99 * SECOND).await;
        assert!(rig.fake.alive().contains(&short));
        tokio::time::sleep(2 * SECOND).await;
        assert!(!rig.fake.alive().contains(&short), "its time is over");
        let gone = rig.ask(&cell(short, "1")).await.unwrap_err();
        assert!(gone.message.contains("expired"), "{}", gone.message);

        // 101 s idle; a run of 30 s begins the count anew.
        let running = Codec::MessagePack.encode(&cell(idle, "sleep 30000"));
        rig.send("sandpit.v1.req.exec", Headers::new(), running, 70 * SECOND).await.unwrap();
        tokio::time::sleep(199 * SECOND).await;
        assert!(rig.fake.alive().contains(&idle));
        tokio::time::sleep(2 * SECOND).await;
        assert!(!rig.fake.alive().contains(&idle), "nothing ran in it for too long");
        let reaped = rig.pool().await.reaper;
        assert_eq!((reaped.expired, reaped.idle), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn three_idle_hours_recycle_the_ready_ones_and_end_with_as_many() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let first = rig.fake.alive();
        tokio::time::sleep(3 * 3_600 * SECOND).await;
        let last = rig.fake.alive();
        assert_eq!((first.len(), last.len()), (2, 2));
        assert!(first.is_disjoint(&last));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_owner_is_asked_on_the_subject_of_its_sandbox() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        let at = |verb: &'static str| Verb::new(verb).of_sandbox(sandbox);
        let body = br#"{"code":"print hi"}"#.to_vec();
        let ran = rig.send(&at("exec"), Headers::new(), body, SECOND).await.unwrap();
        assert!(String::from_utf8_lossy(&ran.body).contains(r#""stdout":"hi\n""#));
        let tool = rig.send(&at("get_e2b_sandbox_status"), Headers::new(), "", SECOND).await;
        assert!(String::from_utf8_lossy(&tool.unwrap().body).contains(r#""status":"running""#));
        let other = SandboxId::numbered(3);
        let body = format!(r#"{{"sandbox_id":"{other}"}}"#);
        let problem = rig.send(&at("status"), Headers::new(), body, SECOND).await.unwrap_err();
        assert_eq!(problem.detail.field.as_deref(), Some("sandbox_id"));
    })
    .await;
}

async fn refused(
    rig: &Rig,
    subject: &str,
    headers: Headers,
    body: impl Into<Bytes>,
) -> (String, u16) {
    let Problem { kind, code, .. } =
        rig.send(subject, headers, body, 70 * SECOND).await.expect_err("it is refused");
    (kind, code)
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_gets_its_reason_and_costs_nothing() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let check = async |verb: &str, headers: Headers, body: Bytes, expected: (&str, u16)| {
            let subject = format!("sandpit.v1.req.{verb}");
            let (kind, code) = refused(&rig, &subject, headers, body.clone()).await;
            assert_eq!((kind.as_str(), code), expected, "{verb} {body:?}");
        };
        let none = Headers::new;
        let invalid = ("invalid_argument", 400);
        check("create", none(), "{not json".into(), invalid).await;
        check("create", none(), r#"{"template":"#.into(), invalid).await;
        check("create", none(), r#"{"timeout":0}"#.into(), invalid).await;
        check("create", none(), vec![0xc1, 0x00].into(), invalid).await;
        check("create", none().with("Content-Type", "text/xml"), "{}".into(), invalid).await;
        let typed = none().with("Content-Type", "application/vnd.msgpack");
        check("create", typed, "{}".into(), invalid).await;
        check("create", none(), r#"{"template":"nope"}"#.into(), ("not_found", 404)).await;
        check("fly", none(), "{}".into(), ("unsupported", 501)).await;
        check("exec", none(), "{}".into(), invalid).await;
        check("exec", none().with("Sandpit-Deadline", "soon"), "{}".into(), invalid).await;
        check("exec", none().with("Sandpit-Deadline", "1"), "{}".into(), ("timeout", 408)).await;
        let long = format!(r#"{{"template":"base","code":"{}"}}"#, "x".repeat(300_000));
        check("exec", none(), long.into(), ("too_large", 413)).await;
        check("create", none().with("Sandpit-Idempotency-Key", "short"), "{}".into(), invalid)
            .await;
        let unknown = format!(r#"{{"sandbox_id":"{}"}}"#, SandboxId::numbered(9));
        for verb in ["status", "terminate"] {
            check(verb, none(), unknown.clone().into(), ("not_found", 404)).await;
        }
        let unknown = cell(SandboxId::numbered(9), "1");
        assert_eq!(rig.ask(&unknown).await.unwrap_err().code, 404);
        let cancel = sandpit_messages::exec::Cancel {
            sandbox_id: SandboxId::numbered(9),
            execution_id: ExecId::numbered(9),
        };
        assert!(!rig.ask(&cancel).await.unwrap().was_running);
        assert_eq!(rig.fake.runs(), 0, "nothing ran");
        assert_eq!(rig.fake.alive().len(), 2, "nothing was taken");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_speaks_as_its_question_did() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let terminate = Terminate::of(rig.create().await);
        let json = Codec::Json.encode(&terminate);
        let subject = Terminate::VERB.subject();
        let answer = rig.send(&subject, Headers::new(), json, 20 * SECOND).await.unwrap();
        assert_eq!(answer.headers.get("content-type"), Some("application/json"));
        assert!(Codec::Json.decode::<Terminated>(&answer.body).is_ok());
        let packed = Codec::MessagePack.encode(&terminate);
        let answer = rig.send(&subject, Headers::new(), packed, 20 * SECOND).await.unwrap();
        assert_eq!(answer.headers.get("content-type"), Some("application/vnd.msgpack"));
        assert!(Codec::MessagePack.decode::<Terminated>(&answer.body).is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_page_follows_the_other_until_all_are_listed() {
    on_one_thread(async {
        let mut limits = limits();
        limits.pool.total_max = 12;
        let rig = Rig::start(limits, Script::default()).await;
        let mut made = BTreeSet::new();
        for _ in 0..5 {
            made.insert(rig.create().await);
        }
        let (mut listed, mut cursor) = (BTreeSet::new(), None);
        loop {
            let page = rig.ask(&List { limit: 2, cursor, ..List::default() }).await.unwrap();
            assert_eq!(page.total_count, 5);
            listed.extend(page.sandboxes.iter().map(|one| one.sandbox_id));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(listed, made);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fresh_run_leaves_no_sandbox_and_shares_none() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let one = rig.ask(&fresh("count")).await.unwrap();
        let other = rig.ask(&fresh("count")).await.unwrap();
        assert_ne!(one.sandbox_id, other.sandbox_id);
        assert_eq!(other.result.as_deref(), Some("0"), "no cell ran there before");
        tokio::time::sleep(SECOND).await;
        let alive = rig.fake.alive();
        assert!(!alive.contains(&one.sandbox_id) && !alive.contains(&other.sandbox_id));
    })
    .await;
}
