//! What every bus promises. [`bus_contract`](crate::bus_contract) runs it on one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sandpit_actors::bus::gate::Limits;
use sandpit_actors::bus::{
    Arrived, AskError, Bucket, Bus, Endpoint, Feed, Handler, Headers, KvError, Message, Reply,
    SendError, Service, Serving, VerbInfo,
};
use sandpit_actors::clock::Clock;
use sandpit_messages::codec::BODY_MAX;
use sandpit_messages::envelope::{DEADLINE, TRACEPARENT};
use sandpit_messages::problem::{Problem, Ran};
use tokio::sync::Semaphore;

/// Two connections to one bus.
#[derive(Clone, Debug)]
pub struct Rig {
    /// That of a node.
    pub node: Arc<dyn Bus>,
    /// That of somebody else.
    pub other: Arc<dyn Bus>,
    /// The clock of both.
    pub clock: Clock,
}

/// Runs every promise as a test of its own. `$with` takes a promise and gives it a rig; the
/// attribute in front is put on each test.
#[macro_export]
macro_rules! bus_contract {
    (#[$test:meta] $with:path) => {
        $crate::bus_contract! { @ #[$test] $with:
            one_member_of_a_group_answers,
            a_question_nobody_hears_ends_at_once,
            a_full_feed_drops_what_is_new_and_counts_it,
            what_is_published_arrives_whole_and_in_order,
            a_question_ends_at_its_deadline,
            a_handler_that_panics_is_answered_for,
            a_handler_that_hangs_is_answered_for_before_its_caller_gives_up,
            a_deadline_that_passed_is_refused_unrun,
            a_deadline_past_the_most_a_verb_allows_is_cut_to_it,
            a_header_that_is_no_deadline_is_refused,
            a_verb_that_is_not_known_is_refused,
            past_the_gate_a_caller_is_refused_at_once,
            whoever_waits_at_the_gate_begins_when_a_place_is_free,
            the_context_of_a_trace_comes_back,
            what_cannot_be_written_is_not_sent,
            an_answer_that_cannot_be_sent_is_told,
            a_service_is_discovered_and_counts,
            a_service_that_leaves_answers_what_it_took,
            a_service_that_is_dropped_is_heard_no_more,
            a_key_is_written_only_at_the_revision_its_writer_saw,
            an_entry_vanishes_when_it_is_old,
            a_bucket_refuses_what_does_not_fit,
        }
    };
    (@ #[$test:meta] $with:path: $($promise:ident,)*) => {
        $(
            #[$test]
            async fn $promise() {
                $with($crate::contract::bus::$promise).await;
            }
        )*
    };
}

/// Answers by verb: `echo` at once, `wait` when let, `panic` and `hang` never, `large` with more
/// than can be sent, `left` with the milliseconds that are left.
#[derive(Debug)]
struct Actions {
    calls: AtomicUsize,
    began: Semaphore,
    let_go: Semaphore,
}

impl Actions {
    fn new() -> Arc<Self> {
        let (began, let_go) = (Semaphore::new(0), Semaphore::new(0));
        Arc::new(Self { calls: AtomicUsize::new(0), began, let_go })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    async fn until_begun(&self, how_many: u32) {
        let begun = tokio::time::timeout(SOON, self.began.acquire_many(how_many)).await;
        begun.expect("handlers begin").expect("never closed").forget();
    }
}

#[derive(Clone, Debug)]
struct Acting(Arc<Actions>);

impl Handler for Acting {
    fn handle(&self, request: Arrived) -> BoxFuture<'static, Reply> {
        let actions = Arc::clone(&self.0);
        actions.calls.fetch_add(1, Ordering::Relaxed);
        actions.began.add_permits(1);
        let Message { subject, headers, body } = request.message;
        let verb = subject.rsplit('.').next().unwrap_or_default().to_owned();
        assert_ne!(verb, "panic", "as it was asked to");
        let left = request.until.since(request.at).as_millis();
        async move {
            match verb.as_str() {
                "wait" => actions.let_go.acquire().await.expect("never closed").forget(),
                "hang" => std::future::pending().await,
                _ => (),
            }
            let body = match verb.as_str() {
                "large" => vec![0; BODY_MAX + 1].into(),
                "left" => left.to_string().into(),
                _ => body,
            };
            let kept = headers.get("Kept").unwrap_or_default();
            Reply { headers: Headers::new().with("Kept", kept), body, error: None }
        }
        .boxed()
    }
}

/// Longer than anything here takes that works.
const SOON: Duration = Duration::from_secs(10);

fn service() -> Service {
    let verb = |name: &str| VerbInfo {
        name: name.to_owned(),
        subject: format!("sandpit.v1.req.{name}"),
        request_schema: r#"{"type":"object"}"#.to_owned(),
        response_schema: r#"{"type":"string"}"#.to_owned(),
        patience_default: Duration::from_millis(300),
        patience_max: Duration::from_secs(5),
    };
    let endpoint = Endpoint {
        subject: "sandpit.v1.req.*".to_owned(),
        group: Some("entry".to_owned()),
        verbs: ["echo", "wait", "panic", "hang", "large", "left"].map(verb).to_vec(),
    };
    Service {
        name: "contract".to_owned(),
        version: "1.2.3".to_owned(),
        description: "Keeps its promises.".to_owned(),
        metadata: BTreeMap::from([("node".to_owned(), "one".to_owned())]),
        endpoints: vec![endpoint],
    }
}

impl Rig {
    async fn serve(&self, actions: &Arc<Actions>) -> Serving {
        self.serve_within(Limits::default(), actions).await
    }

    async fn serve_within(&self, limits: Limits, actions: &Arc<Actions>) -> Serving {
        let handler = Arc::new(Acting(Arc::clone(actions)));
        self.node.serve(service(), limits, handler).await.expect("it serves")
    }

    async fn ask(&self, verb: &str, body: &[u8]) -> Result<Message, AskError> {
        self.ask_with(verb, body, Headers::new(), SOON).await
    }

    async fn ask_with(
        &self,
        verb: &str,
        body: &[u8],
        headers: Headers,
        patience: Duration,
    ) -> Result<Message, AskError> {
        let subject = format!("sandpit.v1.req.{verb}");
        let body = Bytes::copy_from_slice(body);
        self.other.ask(Message { subject, headers, body }, self.clock.now() + patience).await
    }

    async fn discover(&self, what: &str) -> serde_json::Value {
        let subject = format!("$SRV.{what}.contract");
        let message = Message { subject, ..Message::default() };
        let answer = self.other.ask(message, self.clock.now() + SOON).await.expect("an answer");
        serde_json::from_slice(&answer.body).expect("JSON")
    }
}

#[track_caller]
fn refused(answer: Result<Message, AskError>) -> Problem {
    match answer {
        Err(AskError::Refused(problem)) => *problem,
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[track_caller]
fn check(problem: &Problem, kind: &str, code: u16, ran: Ran) {
    assert_eq!(
        (problem.kind.as_str(), problem.code, problem.ran),
        (kind, code, ran),
        "{problem:?}"
    );
}

async fn next(feed: &mut Feed) -> Message {
    let message = tokio::time::timeout(SOON, feed.messages.recv()).await;
    message.expect("a message in time").expect("a living feed")
}

/// Of two members both are asked at times, and each question by one of them.
pub async fn one_member_of_a_group_answers(rig: Rig) {
    let (first, second) = (Actions::new(), Actions::new());
    let _one = rig.serve(&first).await;
    let other = Acting(Arc::clone(&second));
    let _two = rig.other.serve(service(), Limits::default(), Arc::new(other)).await.unwrap();
    for _ in 0..64 {
        assert_eq!(rig.ask("echo", b"who?").await.unwrap().body, "who?");
    }
    assert_eq!(first.calls() + second.calls(), 64);
    assert!(first.calls() > 0 && second.calls() > 0, "{} of 64", first.calls());
}

/// Not at the deadline.
pub async fn a_question_nobody_hears_ends_at_once(rig: Rig) {
    let began = rig.clock.now();
    let answer = rig.ask("echo", b"").await;
    assert_eq!(answer, Err(AskError::NoResponders("sandpit.v1.req.echo".to_owned())));
    assert_eq!(answer.unwrap_err().ran(), Ran::No);
    assert!(rig.clock.now().since(began) < SOON / 2);
}

/// What came first is kept.
pub async fn a_full_feed_drops_what_is_new_and_counts_it(rig: Rig) {
    let mut feed = rig.node.listen("sandpit.v1.evt.contract.tick", 4).await.unwrap();
    rig.node.barrier().await.unwrap();
    for number in 0..10_u8 {
        let body = Bytes::copy_from_slice(&[number]);
        let tick = Message {
            subject: "sandpit.v1.evt.contract.tick".to_owned(),
            body,
            ..Message::default()
        };
        rig.other.publish(tick).await.unwrap();
    }
    let all = tokio::time::timeout(SOON, feed.dropped.wait_for(|dropped| *dropped == 6)).await;
    all.expect("six are dropped").unwrap();
    for number in 0..4_u8 {
        assert_eq!(next(&mut feed).await.body[..], [number]);
    }
}

/// Headers, body and order.
pub async fn what_is_published_arrives_whole_and_in_order(rig: Rig) {
    let mut feed = rig.node.listen("sandpit.v1.out.>", 256).await.unwrap();
    rig.node.barrier().await.unwrap();
    let chunk = |number: usize| Message {
        subject: format!("sandpit.v1.out.stdout.{number}"),
        headers: Headers::new().with("Sandpit-Seq", number.to_string()),
        body: vec![b'x'; number * 100].into(),
    };
    for number in 0..100 {
        rig.other.publish(chunk(number)).await.unwrap();
    }
    for number in 0..100 {
        let Message { subject, headers, body } = next(&mut feed).await;
        let expected = chunk(number);
        assert_eq!((&subject, &body), (&expected.subject, &expected.body));
        assert_eq!(headers.get("Sandpit-Seq"), expected.headers.get("sandpit-seq"));
    }
}

/// Whatever becomes of it.
pub async fn a_question_ends_at_its_deadline(rig: Rig) {
    // Heard, but never answered.
    let mut heard = rig.node.listen("sandpit.v1.evt.contract.void", 4).await.unwrap();
    rig.node.barrier().await.unwrap();
    let question =
        Message { subject: "sandpit.v1.evt.contract.void".to_owned(), ..Message::default() };
    let began = rig.clock.now();
    let patience = Duration::from_millis(80);
    let answer = rig.other.ask(question, began + patience).await;
    assert!(matches!(answer, Err(AskError::TimedOut(_))), "{answer:?}");
    let took = rig.clock.now().since(began);
    assert!((patience..patience * 5).contains(&took), "{took:?}");
    next(&mut heard).await;
}

/// And the service goes on.
pub async fn a_handler_that_panics_is_answered_for(rig: Rig) {
    let actions = Actions::new();
    let _serving = rig.serve(&actions).await;
    let problem = refused(rig.ask("panic", b"").await);
    check(&problem, "internal", 500, Ran::Unknown);
    assert_eq!(rig.ask("echo", b"alive").await.unwrap().body, "alive");
}

/// So that the caller hears why, and not nothing.
pub async fn a_handler_that_hangs_is_answered_for_before_its_caller_gives_up(rig: Rig) {
    let actions = Actions::new();
    let _serving = rig.serve(&actions).await;
    let patience = Duration::from_millis(200);
    let problem = refused(rig.ask_with("hang", b"", Headers::new(), patience).await);
    check(&problem, "timeout", 408, Ran::Unknown);
    assert_eq!(actions.calls(), 1);
}

/// Its caller is gone.
pub async fn a_deadline_that_passed_is_refused_unrun(rig: Rig) {
    let actions = Actions::new();
    let _serving = rig.serve(&actions).await;
    let past = rig.clock.both().wall.0 - 1_000;
    let headers = Headers::new().with(DEADLINE, past.to_string());
    let problem = refused(rig.ask_with("echo", b"", headers, SOON).await);
    check(&problem, "timeout", 408, Ran::No);
    assert_eq!(actions.calls(), 0);
}

/// Five seconds here; nobody holds a place for a day.
pub async fn a_deadline_past_the_most_a_verb_allows_is_cut_to_it(rig: Rig) {
    let _serving = rig.serve(&Actions::new()).await;
    let left = async |patience: Duration| {
        let deadline = rig.clock.both().wall.plus(patience).0.to_string();
        let headers = Headers::new().with(DEADLINE, deadline);
        let answer = rig.ask_with("left", b"", headers, SOON).await.unwrap();
        str::from_utf8(&answer.body).unwrap().parse::<u64>().unwrap()
    };
    assert!((4_900..=5_000).contains(&left(Duration::from_hours(24)).await));
    assert!((1_000..=2_000).contains(&left(Duration::from_secs(2)).await));
}

/// Rather than guessed at.
pub async fn a_header_that_is_no_deadline_is_refused(rig: Rig) {
    let actions = Actions::new();
    let _serving = rig.serve(&actions).await;
    for bad in ["tomorrow", "-1", "1e9", ""] {
        let headers = Headers::new().with(DEADLINE, bad);
        let problem = refused(rig.ask_with("echo", b"", headers, SOON).await);
        check(&problem, "invalid_argument", 400, Ran::No);
    }
    assert_eq!(actions.calls(), 0);
}

/// Also the padding of a group that is left is never a request.
pub async fn a_verb_that_is_not_known_is_refused(rig: Rig) {
    let actions = Actions::new();
    let _serving = rig.serve(&actions).await;
    let problem = refused(rig.ask("ecoh", b"").await);
    check(&problem, "unsupported", 501, Ran::No);
    assert!(problem.message.contains("ecoh"), "{}", problem.message);
    assert_eq!(actions.calls(), 0);
}

/// With the time after which asking again may help.
pub async fn past_the_gate_a_caller_is_refused_at_once(rig: Rig) {
    let actions = Actions::new();
    let limits = Limits { inflight_max: 1, queue_max: 0, ..Limits::default() };
    let _serving = rig.serve_within(limits, &actions).await;
    let held = tokio::spawn({
        let rig = rig.clone();
        async move { rig.ask_with("wait", b"first", Headers::new(), Duration::from_secs(4)).await }
    });
    actions.until_begun(1).await;
    let problem = refused(rig.ask("echo", b"").await);
    check(&problem, "busy", 503, Ran::No);
    assert!(problem.retry_after_ms.is_some(), "{problem:?}");
    actions.let_go.add_permits(1);
    assert_eq!(held.await.unwrap().unwrap().body, "first");
    assert_eq!(actions.calls(), 1);
}

/// In the order in which they came, or not at all.
pub async fn whoever_waits_at_the_gate_begins_when_a_place_is_free(rig: Rig) {
    let actions = Actions::new();
    let queue_wait_max = Duration::from_secs(3);
    let limits = Limits { inflight_max: 2, queue_max: 64, queue_wait_max };
    let _serving = rig.serve_within(limits, &actions).await;
    let asking = (0..10_u8).map(|number| {
        let rig = rig.clone();
        let patience = Duration::from_secs(4);
        tokio::spawn(async move { rig.ask_with("wait", &[number], Headers::new(), patience).await })
    });
    let asking: Vec<_> = asking.collect();
    actions.until_begun(2).await;
    assert_eq!(actions.calls(), 2, "no more than have a place");
    actions.let_go.add_permits(10);
    for (number, asked) in asking.into_iter().enumerate() {
        assert_eq!(asked.await.unwrap().unwrap().body[..], [u8::try_from(number).unwrap()]);
    }
    assert_eq!(actions.calls(), 10);
}

/// In the answer, too, when nobody here collects traces.
pub async fn the_context_of_a_trace_comes_back(rig: Rig) {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let _serving = rig.serve(&Actions::new()).await;
    let headers = Headers::new().with(TRACEPARENT, PARENT);
    let answer = rig.ask_with("echo", b"", headers, SOON).await.unwrap();
    assert_eq!(answer.headers.get(TRACEPARENT), Some(PARENT));
}

/// And says so.
pub async fn what_cannot_be_written_is_not_sent(rig: Rig) {
    let message = |subject: &str, headers: Headers, body: Vec<u8>| Message {
        subject: subject.to_owned(),
        headers,
        body: body.into(),
    };
    let large = message("sandpit.v1.evt.x", Headers::new(), vec![0; BODY_MAX + 1]);
    let expected = SendError::TooLarge { bytes: BODY_MAX + 1, max: BODY_MAX };
    assert_eq!(rig.node.publish(large).await, Err(expected));
    for broken in [
        message("", Headers::new(), vec![]),
        message("sandpit.v1.evt. x", Headers::new(), vec![]),
        message("sandpit.v1.evt.x\r\nPUB y 0", Headers::new(), vec![]),
        message("sandpit.v1.evt.x", Headers::new().with("Name", "two\r\nlines"), vec![]),
        message("sandpit.v1.evt.x", Headers::new().with("No: name", "x"), vec![]),
    ] {
        let sent = rig.node.publish(broken.clone()).await;
        assert!(matches!(sent, Err(SendError::Malformed { .. })), "{broken:?}: {sent:?}");
    }
    rig.node.barrier().await.unwrap();
}

/// The caller hears that it was done.
pub async fn an_answer_that_cannot_be_sent_is_told(rig: Rig) {
    let _serving = rig.serve(&Actions::new()).await;
    let problem = refused(rig.ask("large", b"").await);
    check(&problem, "internal", 500, Ran::Yes);
}

/// `PING`, `INFO` and `STATS` of ADR-32.
pub async fn a_service_is_discovered_and_counts(rig: Rig) {
    let _serving = rig.serve(&Actions::new()).await;
    for _ in 0..3 {
        rig.ask("echo", b"").await.unwrap();
    }
    refused(rig.ask("panic", b"").await);

    let ping = rig.discover("PING").await;
    assert_eq!(ping["type"], "io.nats.micro.v1.ping_response");
    assert_eq!((&ping["name"], &ping["version"]), (&"contract".into(), &"1.2.3".into()));
    assert_eq!(ping["metadata"]["node"], "one");
    let info = rig.discover("INFO").await;
    assert_eq!(info["type"], "io.nats.micro.v1.info_response");
    assert_eq!(info["id"], ping["id"]);
    let echo = &info["endpoints"][0];
    assert_eq!((&echo["name"], &echo["subject"]), (&"echo".into(), &"sandpit.v1.req.echo".into()));
    assert_eq!(echo["queue_group"], "entry");
    assert_eq!(echo["metadata"]["request_schema"], r#"{"type":"object"}"#);
    assert_eq!(echo["metadata"]["response_schema"], r#"{"type":"string"}"#);

    // The answer to a question may be here before it is counted.
    let counted = async {
        loop {
            let stats = rig.discover("STATS").await;
            let rows = stats["endpoints"].as_array().expect("a list").clone();
            let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap().clone();
            let (echo, panic) = (row("echo"), row("panic"));
            if echo["num_requests"] == 3 && panic["num_requests"] == 1 {
                return (stats, echo, panic);
            }
            tokio::task::yield_now().await;
        }
    };
    let (stats, echo, panic) = tokio::time::timeout(SOON, counted).await.expect("counted");
    assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
    assert!(stats["started"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&echo["num_errors"], &panic["num_errors"]), (&0.into(), &1.into()));
    assert!(panic["last_error"].as_str().unwrap().starts_with("500:"));
    let [total, average] = ["processing_time", "average_processing_time"]
        .map(|name| echo[name].as_u64().expect("nanoseconds"));
    assert_eq!(average, total / 3);
}

/// And takes no more.
pub async fn a_service_that_leaves_answers_what_it_took(rig: Rig) {
    let actions = Actions::new();
    let serving = rig.serve(&actions).await;
    let held = tokio::spawn({
        let rig = rig.clone();
        async move { rig.ask_with("wait", b"held", Headers::new(), Duration::from_secs(4)).await }
    });
    actions.until_begun(1).await;
    let leaving = tokio::spawn(serving.leave());
    let gone =
        async { while !matches!(rig.ask("echo", b"").await, Err(AskError::NoResponders(_))) {} };
    tokio::time::timeout(SOON, gone).await.expect("nobody listens any more");
    actions.let_go.add_permits(1);
    assert_eq!(held.await.unwrap().unwrap().body, "held");
    assert_eq!(leaving.await.unwrap().cut, 0);
}

/// At the latest when the server has acted on it.
pub async fn a_service_that_is_dropped_is_heard_no_more(rig: Rig) {
    let serving = rig.serve(&Actions::new()).await;
    rig.ask("echo", b"").await.unwrap();
    drop(serving);
    // What is on its way in this moment may be lost.
    let ask = || rig.ask_with("echo", b"", Headers::new(), Duration::from_millis(100));
    let gone = async { while !matches!(ask().await, Err(AskError::NoResponders(_))) {} };
    tokio::time::timeout(SOON, gone).await.expect("nobody listens any more");
}

fn bucket(name: &str) -> Bucket {
    Bucket { name: name.to_owned(), age_max: Duration::ZERO, bytes_max: 64 * 1024 }
}

/// There is no blind write.
pub async fn a_key_is_written_only_at_the_revision_its_writer_saw(rig: Rig) {
    let kv = rig.node.kv(bucket("contract_cas")).await.unwrap();
    let again = rig.node.kv(bucket("contract_cas")).await.unwrap();
    assert_eq!(kv.get("key").await, Ok(None));
    let first = kv.create("key", "one".into()).await.unwrap();
    assert_eq!(again.create("key", "other".into()).await, Err(KvError::Exists));
    let second = again.update("key", "two".into(), first).await.unwrap();
    assert!(first < second);
    assert_eq!(kv.update("key", "three".into(), first).await, Err(KvError::Stale));
    let entry = kv.get("key").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (Bytes::from("two"), second));
    assert_eq!(kv.delete("key", first).await, Err(KvError::Stale));
    kv.delete("key", second).await.unwrap();
    assert_eq!(kv.get("key").await, Ok(None));
    assert!(kv.create("key", "anew".into()).await.unwrap() > second);
    kv.create("kept.one", "one".into()).await.unwrap();
    kv.create("kept.two", "two".into()).await.unwrap();
    let gone = kv.create("kept.gone", "gone".into()).await.unwrap();
    kv.delete("kept.gone", gone).await.unwrap();
    assert_eq!(kv.keys("kept.").await.unwrap(), ["kept.one", "kept.two"]);
    assert_eq!(kv.keys("nothing.").await.unwrap(), [""; 0]);
}

/// Without anybody removing it.
pub async fn an_entry_vanishes_when_it_is_old(rig: Rig) {
    let aging = Bucket { age_max: Duration::from_secs(1), ..bucket("contract_age") };
    let kv = rig.node.kv(aging).await.unwrap();
    kv.create("lease", "mine".into()).await.unwrap();
    assert_eq!(kv.create("lease", "yours".into()).await, Err(KvError::Exists));
    let mut every = tokio::time::interval(Duration::from_millis(50));
    let expired = async {
        while kv.create("lease", "yours".into()).await == Err(KvError::Exists) {
            every.tick().await;
        }
    };
    tokio::time::timeout(SOON, expired).await.expect("it expires");
    assert_eq!(kv.get("lease").await.unwrap().unwrap().value, "yours");
}

/// Rather than forget what is in it.
pub async fn a_bucket_refuses_what_does_not_fit(rig: Rig) {
    let kv = rig.node.kv(bucket("contract_full")).await.unwrap();
    kv.create("small", "kept".into()).await.unwrap();
    let large = Bytes::from(vec![0; 60 * 1024]);
    kv.create("large", large.clone()).await.unwrap();
    let refused = kv.create("larger", large).await;
    assert!(matches!(refused, Err(KvError::Unusable(_))), "{refused:?}");
    assert_eq!(kv.get("small").await.unwrap().unwrap().value, "kept");
}
