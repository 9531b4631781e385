//! What happens to questions when the link or the server goes.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal};
use sandpit_actors::bus::gate::Limits;
use sandpit_actors::bus::nats::{ConnectError, NatsBus, Options};
use sandpit_actors::bus::{
    Arrived, AskError, Bucket, Bus, BusState, Endpoint, Handler, Headers, Message, Reply,
    SendError, Service, Serving, VerbInfo,
};
use sandpit_actors::embed::Life;
use sandpit_messages::codec::Codec;
use sandpit_messages::envelope::{ACCEPT, CONTENT_TYPE, DEADLINE, SERVICE_ERROR_CODE};
use sandpit_messages::problem::{Problem, Ran};
use sandpit_messages::subject::Verb;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::proxy::Proxy;
use crate::support::{Server, guard};

const SOON: Duration = Duration::from_secs(10);
/// How much later than its deadline a call may end on a machine that does other things, too.
const SLACK: Duration = Duration::from_millis(150);

/// Writes down what it was asked, and says yes.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<BTreeSet<Bytes>>>);

impl Notes {
    fn hold(&self, body: &[u8]) -> bool {
        self.0.lock().unwrap().contains(body)
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Handler for Notes {
    fn handle(&self, request: Arrived) -> BoxFuture<'static, Reply> {
        let body = request.message.body;
        self.0.lock().unwrap().insert(body.clone());
        async move { Reply { headers: Headers::new(), body, error: None } }.boxed()
    }
}

fn note() -> String {
    Verb::new("note").subject()
}

async fn serve(bus: &NatsBus, notes: &Notes) -> Serving {
    let verb = VerbInfo {
        name: "note".to_owned(),
        subject: note(),
        request_schema: "{}".to_owned(),
        response_schema: "{}".to_owned(),
        patience_default: Duration::from_secs(2),
        patience_max: Duration::from_secs(10),
    };
    let endpoint = Endpoint {
        subject: sandpit_messages::subject::REQUESTS.to_owned(),
        group: Some("entry".to_owned()),
        verbs: vec![verb],
    };
    let service = Service {
        name: "notes".to_owned(),
        version: "0.1.0".to_owned(),
        description: "Takes notes.".to_owned(),
        metadata: Default::default(),
        endpoints: vec![endpoint],
    };
    bus.serve(service, Limits::default(), Arc::new(notes.clone())).await.unwrap()
}

fn to(subject: String, body: impl Into<Bytes>) -> Message {
    Message { subject, body: body.into(), ..Message::default() }
}

async fn until(bus: &NatsBus, what: impl Fn(&BusState) -> bool) {
    let mut changes = bus.changes();
    let reached = tokio::time::timeout(SOON, changes.wait_for(|state| what(state))).await;
    reached.expect("the state is reached").unwrap();
}

fn connected(state: &BusState) -> bool {
    matches!(state, BusState::Connected { .. })
}

/// A node beside the server, and a client behind a wire.
async fn behind_a_wire(server: &Server) -> (Arc<NatsBus>, Arc<NatsBus>, Proxy) {
    let proxy = Proxy::to(server.embedded.url()).await;
    let options = Options { urls: vec![proxy.url()], ..server.options(server.embedded.node()) };
    (server.node().await, server.connect(options).await, proxy)
}

#[tokio::test]
async fn what_is_asked_while_disconnected_is_refused_and_never_done() {
    let server = Server::start().await;
    let (node, client, proxy) = behind_a_wire(&server).await;
    let notes = Notes::default();
    let _serving = serve(&node, &notes).await;
    proxy.cut();
    until(&client, |state| *state == BusState::Down).await;
    for number in 0..64_u8 {
        let body = vec![number];
        let asked = client.ask(to(note(), body.clone()), server.clock.now() + SOON).await;
        assert_eq!(asked, Err(AskError::NotSent(SendError::NotConnected)));
        assert_eq!(client.publish(to(note(), body)).await, Err(SendError::NotConnected));
    }
    proxy.open();
    until(&client, connected).await;
    client.barrier().await.unwrap();
    let asked = client.ask(to(note(), "after"), server.clock.now() + SOON).await;
    assert_eq!(asked.unwrap().body, "after");
    assert_eq!(notes.len(), 1, "only what was asked when it could be");
}

#[tokio::test]
async fn what_the_library_kept_through_an_outage_is_answered_as_late_and_never_done() {
    let server = Server::start().await;
    let (node, client, proxy) = behind_a_wire(&server).await;
    let notes = Notes::default();
    let _serving = serve(&node, &notes).await;
    let mut answers = node.listen("sandpit.v1.evt.answers", 128).await.unwrap();
    node.barrier().await.unwrap();
    proxy.cut();
    until(&client, |state| *state == BusState::Down).await;
    // Past our own refusal, straight into the library, which keeps it and sends it later.
    let library = client.client();
    let deadline = server.clock.both().wall.plus(Duration::from_millis(20)).0;
    for number in 0..64_u8 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(DEADLINE, deadline.to_string());
        let sent = library.publish_with_reply_and_headers(
            note(),
            "sandpit.v1.evt.answers",
            headers,
            vec![number].into(),
        );
        sent.await.unwrap();
    }
    let mut every = tokio::time::interval(Duration::from_millis(1));
    while server.clock.both().wall.0 <= deadline {
        every.tick().await;
    }
    proxy.open();
    for _ in 0..64 {
        let answer = tokio::time::timeout(SOON, answers.messages.recv()).await;
        let answer = answer.expect("each is answered").unwrap();
        assert_eq!(answer.headers.get(SERVICE_ERROR_CODE), Some("408"));
    }
    assert_eq!(notes.len(), 0);
}

#[tokio::test]
async fn questions_end_with_the_connection_and_not_at_their_deadlines() {
    let server = Server::start().await;
    let (node, client, proxy) = behind_a_wire(&server).await;
    let mut heard = node.listen("sandpit.v1.evt.void", 64).await.unwrap();
    node.barrier().await.unwrap();
    let until = server.clock.now() + Duration::from_secs(60);
    let asking: Vec<_> = (0..32)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(
                async move { client.ask(to("sandpit.v1.evt.void".into(), ""), until).await },
            )
        })
        .collect();
    for _ in 0..32 {
        tokio::time::timeout(SOON, heard.messages.recv()).await.expect("asked").unwrap();
    }
    proxy.cut();
    for asked in asking {
        let ended = tokio::time::timeout(SOON, asked).await.expect("at once").unwrap();
        assert_eq!(ended, Err(AskError::Interrupted));
    }
    assert_eq!(client.counts().pending, 0);
}

#[tokio::test]
async fn with_the_link_stuck_and_every_buffer_full_no_call_outlasts_its_deadline() {
    let server = Server::start().await;
    let (_node, client, proxy) = behind_a_wire(&server).await;
    let bucket = Bucket { name: "stuck".to_owned(), age_max: Duration::ZERO, bytes_max: 1 << 20 };
    let _kv = client.kv(bucket).await.unwrap();
    proxy.freeze();
    let large = Bytes::from(vec![0; 256 * 1024]);
    let fill = async {
        let fill = || client.publish(to("sandpit.v1.evt.fill".into(), large.clone()));
        while fill().await != Err(SendError::Saturated) {}
    };
    tokio::time::timeout(SOON, fill).await.expect("buffers have an end");
    for _ in 0..8 {
        let began = server.clock.now();
        let patience = Duration::from_millis(200);
        let asked = client.ask(to(note(), "x"), began + patience).await;
        let took = server.clock.now().since(began);
        let ended = asked.unwrap_err();
        assert!(
            matches!(ended, AskError::NotSent(SendError::Saturated) | AskError::TimedOut(_)),
            "{ended:?}"
        );
        assert!(took < patience + SLACK, "asked for {took:?}");

        let began = server.clock.now();
        let short = Duration::from_millis(10);
        client.ask(to(note(), "x"), began + short).await.unwrap_err();
        let took = server.clock.now().since(began);
        assert!(took < short + SLACK, "asked for {took:?}");

        let began = server.clock.now();
        client.publish(to("sandpit.v1.evt.x".into(), "x")).await.ok();
        let took = server.clock.now().since(began);
        assert!(took < Duration::from_millis(50) + SLACK, "published for {took:?}");
    }
    assert_eq!(client.counts().pending, 0);
}

#[tokio::test]
async fn a_late_answer_is_counted_and_reaches_nobody() {
    let server = Server::start().await;
    let (node, client) = (server.node().await, server.node().await);
    let mut questions = node.client().subscribe("sandpit.v1.evt.slow").await.unwrap();
    node.barrier().await.unwrap();
    let slow = || to("sandpit.v1.evt.slow".into(), "");
    let asked = client.ask(slow(), server.clock.now() + Duration::from_millis(20)).await;
    assert!(matches!(asked, Err(AskError::TimedOut(_))), "{asked:?}");
    let reply = questions.next().await.unwrap().reply.unwrap();
    node.client().publish(reply, "late".into()).await.unwrap();
    node.barrier().await.unwrap();
    client.barrier().await.unwrap();
    assert_eq!((client.counts().late, client.counts().pending), (1, 0));
}

#[tokio::test]
async fn a_subject_that_is_not_ours_to_ask_on_is_refused_at_once() {
    let server = Server::start().await;
    let client = server.client().await;
    for foreign in ["$KV.sandpit_idem.x", "$JS.API.INFO", "sandpit.v1.sys.config"] {
        let began = server.clock.now();
        let asked = client.ask(to(foreign.into(), ""), began + SOON).await;
        let Err(AskError::Refused(problem)) = asked else { panic!("{foreign}: {asked:?}") };
        assert_eq!((problem.kind.as_str(), problem.code, problem.ran), ("forbidden", 403, Ran::No));
        assert!(server.clock.now().since(began) < SOON / 2);
    }
}

#[tokio::test]
async fn a_refusal_speaks_as_the_question_did() {
    let server = Server::start().await;
    let (node, client) = (server.node().await, server.client().await);
    let _serving = serve(&node, &Notes::default()).await;
    let check = async |name: &str, value: &str, body: &'static [u8], expected: Codec| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(name, value);
        let subject = Verb::new("nope").subject();
        let answer = client.client().request_with_headers(subject, headers, body.into()).await;
        let answer = answer.unwrap();
        let headers = answer.headers.unwrap();
        assert_eq!(headers.get(CONTENT_TYPE).unwrap().as_str(), expected.content_type());
        assert_eq!(headers.get(SERVICE_ERROR_CODE).unwrap().as_str(), "501");
        let problem: Problem = expected.decode(&answer.payload).unwrap();
        assert_eq!(problem.kind, "unsupported");
    };
    check("X", "", b"{}", Codec::Json).await;
    check("X", "", b"\x80", Codec::MessagePack).await;
    check(CONTENT_TYPE, "application/vnd.msgpack", b"", Codec::MessagePack).await;
    check(CONTENT_TYPE, "text/html", b"\x80", Codec::Json).await;
    check(ACCEPT, "application/json", b"\x80", Codec::Json).await;
}

#[tokio::test]
async fn headers_past_their_bounds_are_refused_unrun() {
    let server = Server::start().await;
    let (node, client) = (server.node().await, server.client().await);
    let notes = Notes::default();
    let _serving = serve(&node, &notes).await;
    let check = async |headers: async_nats::HeaderMap, code: &str| {
        let answer = client.client().request_with_headers(note(), headers, "{}".into()).await;
        let headers = answer.unwrap().headers.unwrap();
        assert_eq!(headers.get(SERVICE_ERROR_CODE).unwrap().as_str(), code);
    };
    let mut many = async_nats::HeaderMap::new();
    for number in 0..65 {
        many.append("Same", number.to_string());
    }
    check(many, "400").await;
    let mut long = async_nats::HeaderMap::new();
    long.insert("Long", "x".repeat(2_000));
    check(long, "413").await;
    assert_eq!(notes.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_is_back_on_its_port_and_every_question_ends_truly() {
    let server = Server::start().await;
    let (node, client) = (server.node().await, server.client().await);
    let notes = Notes::default();
    let _serving = serve(&node, &notes).await;
    let bucket = Bucket { name: "kept".to_owned(), age_max: Duration::ZERO, bytes_max: 1 << 20 };
    let kv = node.kv(bucket).await.unwrap();
    kv.create("key", "kept".into()).await.unwrap();
    let (url, clock) = (server.embedded.url().to_owned(), server.clock);
    let stop = Arc::new(tokio::sync::Notify::new());
    let asking: Vec<_> = (0..8)
        .map(|asker| {
            let (client, notes) = (Arc::clone(&client), notes.clone());
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let stopped = stop.notified();
                tokio::pin!(stopped);
                let (mut yes, mut errors) = (0_usize, Vec::new());
                // Bounded: five minutes at the pace of a refusal.
                for number in 0..300_000_u32 {
                    if stopped.as_mut().now_or_never().is_some() {
                        break;
                    }
                    let body = Bytes::from(format!("{asker}-{number}"));
                    let (began, patience) = (clock.now(), Duration::from_secs(2));
                    match client.ask(to(note(), body.clone()), began + patience).await {
                        Ok(answer) => {
                            assert_eq!(answer.body, body);
                            yes += 1;
                        }
                        Err(error) => {
                            let ran = error.ran();
                            assert!(
                                ran != Ran::No || !notes.hold(&body),
                                "{body:?} ran: {error:?}"
                            );
                            errors.push(error);
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    }
                    let took = clock.now().since(began);
                    assert!(took < patience + SLACK, "ended after {took:?}");
                }
                (yes, errors)
            })
        })
        .collect();
    let mut life = server.embedded.life();
    for _ in 0..3 {
        let pid = server.embedded.pid().unwrap();
        let noted = notes.len();
        let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(process, Signal::KILL).unwrap();
        let again = |life: &Life| matches!(life, Life::Running { pid: now } if *now != pid);
        tokio::time::timeout(SOON, life.wait_for(again)).await.expect("restarted").unwrap();
        let mut every = tokio::time::interval(Duration::from_millis(1));
        let served = async {
            while notes.len() < noted + 100 {
                every.tick().await;
            }
        };
        tokio::time::timeout(SOON, served).await.expect("questions are answered again");
    }
    stop.notify_waiters();
    let mut interrupted = 0;
    for asked in asking {
        let (yes, errors) = asked.await.unwrap();
        assert!(yes > 0);
        interrupted += errors.iter().filter(|error| error.ran() == Ran::Unknown).count();
        assert!(!errors.iter().any(|error| matches!(error, AskError::TimedOut(_))), "{errors:?}");
    }
    assert!(interrupted > 0, "a question under way when the server dies is interrupted");
    until(&node, connected).await;
    assert_eq!(kv.get("key").await.unwrap().unwrap().value, "kept");
    assert_eq!(server.embedded.url(), url);
}

/// Two members of a group, of which one leaves while 6,000 questions are asked.
async fn leave_under_load(delay: Duration) {
    const ASKERS: usize = 60;
    const EACH: usize = 100;
    let server = Server::start().await;
    let proxy = Proxy::slow(server.embedded.url(), delay).await;
    let options = Options { urls: vec![proxy.url()], ..server.options(server.embedded.node()) };
    let (leaver, stayer) = (server.connect(options).await, server.node().await);
    let client = server.node().await;
    let (left, stayed) = (Notes::default(), Notes::default());
    let leaving = serve(&leaver, &left).await;
    let _staying = serve(&stayer, &stayed).await;
    let clock = server.clock;
    let asking: Vec<_> = (0..ASKERS)
        .map(|asker| {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                let mut lost = Vec::new();
                for number in 0..EACH {
                    let body = format!("{asker}-{number}");
                    let asked = client.ask(to(note(), body), clock.now() + SOON).await;
                    lost.extend(asked.err());
                }
                lost
            })
        })
        .collect();
    let mut every = tokio::time::interval(Duration::from_millis(1));
    while left.len() < 300 {
        every.tick().await;
    }
    let began = clock.now();
    assert_eq!(leaving.leave().await.cut, 0);
    let took = clock.now().since(began);
    let answered = left.len();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), [], "after leaving in {took:?}");
    }
    assert_eq!(left.len(), answered, "who left is asked no more");
    assert_eq!(left.len() + stayed.len(), ASKERS * EACH);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_member_that_leaves_under_load_loses_nothing() {
    leave_under_load(Duration::ZERO).await;
}

#[tokio::test]
async fn a_member_that_leaves_behind_a_slow_wire_loses_nothing() {
    leave_under_load(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let old = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let info = r#"{"server_id":"x","server_name":"x","version":"2.10.25","go":"","host":"","port":1,"headers":true,"max_payload":1048576,"proto":1,"client_id":1}"#;
        stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
        let mut buffer = [0; 4_096];
        while let Ok(1..) = stream.read(&mut buffer).await {
            if stream.write_all(b"PONG\r\n").await.is_err() {
                return;
            }
        }
    });
    let clock = sandpit_actors::clock::Clock::start();
    let refused = NatsBus::connect(Options::new(vec![url.clone()], None, clock)).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TooOld { .. }), "{refused}");
    let told = refused.to_string();
    assert!(told.contains(&url) && told.contains("2.10.25") && told.contains("2.11"), "{told}");
    old.abort();
}

#[tokio::test]
async fn twenty_thousand_questions_without_answers_leave_nothing_behind() {
    let server = Server::start().await;
    let node = server.node().await;
    let _void = node.listen("sandpit.v1.evt.void", 1).await.unwrap();
    node.barrier().await.unwrap();
    // In a process of its own, so that the memory is that of the questions alone.
    let mut asker = tokio::process::Command::new(guard());
    asker.arg("timeouts").arg(server.embedded.endpoint()).args(["20000", "sandpit.v1.req.void"]);
    asker.stdout(Stdio::piped()).kill_on_drop(true);
    let mut asker = asker.spawn().unwrap();
    // Somebody hears them, and never answers.
    let heard = node.client().subscribe("sandpit.v1.req.void").await.unwrap();
    node.barrier().await.unwrap();
    let counting = tokio::spawn(heard.count());
    let mut told = BufReader::new(asker.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(Duration::from_secs(120), told.next_line()).await;
    let line = line.expect("it ends").unwrap().expect("it tells");
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(told["pending"], 0, "{told}");
    assert_eq!(told["timed_out"], 20_000, "{told}");
    assert!(told["grown_kib"].as_i64().unwrap() <= 16 * 1_024, "{told}");
    counting.abort();
}
