use futures_util::future::{join, join_all};
use sandpit_actors::bus::{Bus, Headers};
use sandpit_messages::codec::Codec;
use sandpit_messages::exec::{Cache, Cancel, Exec, Executed};
use sandpit_messages::subject::{Stream, Verb, read_output};
use sandpit_sandbox::fake::Script;

use crate::rig::{Rig, SECOND, cell, fresh, limits, on_one_thread};

fn cached(code: &str) -> Exec {
    Exec { cache: Some(Cache { max_age_s: 300 }), ..fresh(code) }
}

async fn run(rig: &Rig, ask: Exec) -> Executed {
    rig.ask(&ask).await.expect("a result")
}

#[tokio::test(start_paused = true)]
async fn a_program_that_fails_is_a_result_and_says_how() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        let raised = run(&rig, cell(sandbox, "raise ValueError")).await;
        assert_eq!((raised.exit_code, &*raised.error.unwrap().name), (1, "ValueError"));
        let command = Exec { code: None, command: Some("exit 3".to_owned()), ..cell(sandbox, "") };
        assert_eq!(run(&rig, command).await.exit_code, 3);
        let slow = Exec { timeout: Some(2), ..cell(sandbox, "print a; sleep 9000") };
        let slow = run(&rig, slow).await;
        assert_eq!((slow.exit_code, slow.timed_out, &*slow.stdout), (124, true, "a\n"));
        let stubborn = Exec { timeout: Some(2), ..cell(sandbox, "stubborn 9000") };
        let stubborn = run(&rig, stubborn).await;
        assert_eq!((stubborn.exit_code, stubborn.signal), (124, Some(9)));
        assert!(stubborn.timed_out && !stubborn.context_kept);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn output_past_the_bound_is_cut_and_says_so() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let ran = run(&rig, fresh("flood 1000000000")).await;
        assert_eq!((ran.stdout.len(), ran.truncated.stdout), (262_144, true));
        let little = Exec { max_output_bytes: Some(10), ..fresh("print 0123456789") };
        let ran = run(&rig, little).await;
        assert_eq!((&*ran.stdout, ran.truncated.stdout), ("0123456789", true));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_the_time_limit_ends_the_run() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        let subject = Verb::new("exec").subject();
        let slow = cell(sandbox, "sleep 30000");
        let problem = rig.ask_at(&subject, &slow, Headers::new(), 2 * SECOND).await.unwrap_err();
        assert_eq!((problem.code, problem.ran.as_str()), (408, "unknown"));
        tokio::time::sleep(SECOND).await;
        assert_eq!(rig.fake.running(), 0, "what nobody waits for does not run");
        assert_eq!(run(&rig, cell(sandbox, "value 1")).await.result.as_deref(), Some("1"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_ends_under_a_run_is_lost_and_gone() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        let ran = run(&rig, cell(sandbox, "print a; die")).await;
        assert!(ran.lost && !ran.context_kept, "{ran:?}");
        let gone = rig.ask(&cell(sandbox, "1")).await.unwrap_err();
        assert_eq!(gone.code, 410);
        assert!(gone.message.contains("lost"), "{}", gone.message);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn output_is_published_while_it_is_written_and_its_end_is_marked() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        let heard = format!("sandpit.v1.out.{sandbox}.*.*");
        let mut feed = rig.client.listen(&heard, 1_000).await.unwrap();
        let ask = Exec { stream: true, ..cell(sandbox, "print one; sleep 1000; flood 100000") };
        let ran = run(&rig, ask).await;
        let (mut stdout, mut ends, mut seq) = (Vec::new(), Vec::new(), 0);
        while ends.len() < 2 {
            let message = feed.messages.recv().await.expect("more output");
            let (at, exec, stream) = read_output(&message.subject).expect("an output subject");
            assert_eq!((at, exec), (sandbox, ran.execution_id));
            assert!(message.body.len() <= 32 * 1024);
            if stream == Stream::Stdout {
                assert_eq!(message.headers.get("Sandpit-Seq"), Some(&*seq.to_string()));
                seq += 1;
                stdout.extend_from_slice(&message.body);
            }
            ends.extend(message.headers.get("Sandpit-End").map(str::to_owned));
        }
        assert_eq!(ends, ["0", "0"], "nothing was dropped");
        assert_eq!(stdout, ran.stdout.as_bytes());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_run_is_cancelled_by_whoever_knows_it() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        let heard = format!("sandpit.v1.out.{sandbox}.*.*");
        let mut feed = rig.client.listen(&heard, 10).await.unwrap();
        let ask = Exec { stream: true, ..cell(sandbox, "print begun; sleep 30000") };
        let cancelling = async {
            let first = feed.messages.recv().await.expect("output");
            let (sandbox_id, execution_id, _) = read_output(&first.subject).unwrap();
            rig.ask(&Cancel { sandbox_id, execution_id }).await.unwrap()
        };
        let (ran, cancelled) = join(rig.ask(&ask), cancelling).await;
        assert!(cancelled.was_running);
        assert_eq!(ran.unwrap_err().kind, "cancelled");
        tokio::time::sleep(SECOND).await;
        assert_eq!(rig.fake.running(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn equal_runs_are_one_run_and_its_result_answers_for_five_minutes() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let ask = cached("sleep 1000; value 7");
        let runs = join_all((0..20).map(|_| run(&rig, ask.clone()))).await;
        assert_eq!(rig.fake.runs(), 1);
        assert_eq!(runs.iter().filter(|ran| !ran.cached).count(), 1);
        let original = runs.iter().find(|ran| !ran.cached).unwrap().execution_id;
        assert!(runs.iter().all(|ran| ran.result.as_deref() == Some("7")));
        tokio::time::sleep(290 * SECOND).await;
        let hit = run(&rig, ask.clone()).await;
        assert_eq!((hit.cached, hit.original_exec_id), (true, Some(original)));
        assert!(hit.age_ms.unwrap() >= 290_000, "{hit:?}");
        let young = Exec { cache: Some(Cache { max_age_s: 60 }), ..ask.clone() };
        assert!(!run(&rig, young).await.cached, "older than asked for");
        tokio::time::sleep(301 * SECOND).await;
        assert!(!run(&rig, ask).await.cached);
        assert_eq!(rig.fake.runs(), 3);
        let cache = rig.pool().await.cache;
        assert_eq!((cache.hits, cache.joined, cache.misses), (1, 19, 3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_or_was_not_declared_is_run_again() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        for _ in 0..2 {
            assert!(!run(&rig, cached("raise Oops")).await.cached);
            assert!(!run(&rig, fresh("value 1")).await.cached);
        }
        assert_eq!(rig.fake.runs(), 4);
        let held = Exec { cache: Some(Cache::default()), ..cell(rig.create().await, "value 1") };
        let problem = rig.ask(&held).await.unwrap_err();
        assert_eq!(problem.detail.field.as_deref(), Some("cache"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_could_not_travel_is_cut() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let body = Codec::Json.encode(&fresh(&"print \u{1};".repeat(30_000)));
        let answer = rig.send("sandpit.v1.req.exec", Headers::new(), body, 60 * SECOND).await;
        let ran: Executed = Codec::Json.decode(&answer.unwrap().body).unwrap();
        assert_eq!(ran.exit_code, 0);
    })
    .await;
}
