//! `sandpit bench bus`: what our bus adds to the client library's own request, on one server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, StreamExt};
use sandpit_actors::bus::nats::{self, Credentials, NatsBus};
use sandpit_actors::bus::{
    Arrived, AskError, Bus, Endpoint, Handler, Headers, Message, Reply, Service, VerbInfo, gate,
};
use sandpit_actors::clock::Clock;
use sandpit_messages::pool::GetPool;
use sandpit_messages::subject::{self, Request, Verb};
use tokio::sync::oneshot;

use super::stats::{Row, Times};
use super::{Bench, BenchError, Plan};
use crate::node::embedded;

/// Bytes of a question and its answer.
const BODY: usize = 256;
/// Askers at once in the second half.
const MANY: usize = 128;
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The verb that our echo answers. No node is on this bus.
const ECHO: Verb = GetPool::VERB;

/// Where the library's own echo listens: where no node does, so that it may stand beside one.
fn raw_subject() -> String {
    subject::event("bench", "echo")
}

/// Gives back what came.
#[derive(Debug)]
struct Echo;

impl Handler for Echo {
    fn handle(&self, request: Arrived) -> BoxFuture<'static, Reply> {
        let reply = Reply { headers: Headers::new(), body: request.message.body, error: None };
        std::future::ready(reply).boxed()
    }
}

fn echoing() -> Service {
    let info = VerbInfo {
        name: ECHO.as_str().to_owned(),
        subject: ECHO.subject(),
        request_schema: "{}".to_owned(),
        response_schema: "{}".to_owned(),
        patience_default: ANSWER_MAX,
        patience_max: ANSWER_MAX,
    };
    Service {
        name: "echo".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        description: "Gives back what came.".to_owned(),
        metadata: std::collections::BTreeMap::new(),
        endpoints: vec![Endpoint { subject: ECHO.subject(), group: None, verbs: vec![info] }],
    }
}

/// Answers on a thread of its own until it is dropped.
pub(super) struct Answering {
    _stop: oneshot::Sender<()>,
}

impl Answering {
    /// Both echoes, or the library's alone.
    pub(super) async fn start(
        url: String,
        node: Credentials,
        ours: bool,
    ) -> Result<Self, BenchError> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = oneshot::channel();
        let answer = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(BenchError::of("a runtime", &error)))),
            };
            runtime.block_on(async {
                match answer(url, node, ours).await {
                    Ok(_serving) => {
                        // Nobody waits for it any more if this fails.
                        let _ = ready.send(Ok(()));
                        // Dropped with what it belongs to.
                        let _ = stopped.await;
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
        };
        let thread = std::thread::Builder::new().name("echo".to_owned()).spawn(answer);
        thread.map_err(|error| BenchError::of("a thread", &error))?;
        started.await.map_err(|_| BenchError::new("the echo ended"))??;
        Ok(Self { _stop: stop })
    }
}

/// Keeps what answers alive.
type Kept = (tokio::task::JoinHandle<()>, Option<(NatsBus, sandpit_actors::bus::Serving)>);

async fn answer(url: String, node: Credentials, ours: bool) -> Result<Kept, BenchError> {
    let raw = raw_client(&url, &node).await?;
    let mut asked = raw.subscribe(raw_subject()).await.map_err(BenchError::raw)?;
    raw.flush().await.map_err(BenchError::raw)?;
    let echo = tokio::spawn(async move {
        while let Some(question) = asked.next().await {
            let Some(reply) = question.reply else { continue };
            // Who waits for it notices.
            drop(raw.publish(reply, question.payload).await);
        }
    });
    if !ours {
        return Ok((echo, None));
    }
    let bus = ours_at(url, node).await?;
    let serving = bus.serve(echoing(), gate::Limits::default(), Arc::new(Echo)).await;
    let serving = serving.map_err(|error| BenchError::of("our echo", &error))?;
    bus.barrier().await.map_err(|error| BenchError::of("our echo", &error))?;
    Ok((echo, Some((bus, serving))))
}

pub(super) async fn raw_client(
    url: &str,
    node: &Credentials,
) -> Result<async_nats::Client, BenchError> {
    let options = async_nats::ConnectOptions::new()
        .user_and_password(node.user.clone(), node.password.clone());
    options.connect(url).await.map_err(BenchError::raw)
}

async fn ours_at(url: String, node: Credentials) -> Result<NatsBus, BenchError> {
    let options = nats::Options::new(vec![url], Some(node), Clock::start());
    NatsBus::connect(options).await.map_err(|error| BenchError::of("our bus", &error))
}

/// One question to the library's own echo.
pub(super) async fn ask_raw(client: &async_nats::Client) -> Result<(), BenchError> {
    let asked = client.request(raw_subject(), Bytes::from_static(&[b'x'; BODY]));
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(answer)) if answer.payload.len() == BODY => Ok(()),
        Ok(Ok(_)) => Err(BenchError::new("the echo was not what was asked")),
        Ok(Err(error)) => Err(BenchError::raw(error)),
        Err(_) => Err(BenchError::new("the echo did not answer")),
    }
}

async fn ask_ours(bus: &NatsBus, clock: Clock) -> Result<(), AskError> {
    let body = Bytes::from_static(&[b'x'; BODY]);
    let question = Message { subject: ECHO.subject(), headers: Headers::new(), body };
    bus.ask(question, clock.now() + ANSWER_MAX).await.map(drop)
}

/// Asks with so many askers until the time is over, and takes each time.
async fn load<E: Into<BenchError>>(
    askers: usize,
    time: Duration,
    clock: Clock,
    ask: impl AsyncFn() -> Result<(), E>,
) -> Result<(Times, Duration), BenchError> {
    let begun = clock.now();
    let until = begun + time;
    let asker = || async {
        let mut times = Times::new();
        while clock.now() < until {
            let asked = clock.now();
            ask().await.map_err(Into::into)?;
            times.add(clock.now().since(asked));
        }
        Ok::<_, BenchError>(times)
    };
    let mut all = Times::new();
    for times in join_all((0..askers).map(|_| asker())).await {
        all.take(&times?);
    }
    Ok((all, clock.now().since(begun)))
}

/// Raw and ours in turns.
pub(super) async fn run(bench: &Bench, plan: Plan) -> Result<Vec<Row>, BenchError> {
    let clock = Clock::start();
    let folder = bench.folder("bus")?;
    let server = embedded::start(&bench.config, &folder, &bench.stages, clock).await;
    let server = server.map_err(|error| BenchError::of("the nats-server", &error))?;
    bench.stages.step("raw client and our bus in turns", None);
    let (url, node) = (server.url().to_owned(), server.node().clone());
    let answering = Answering::start(url.clone(), node.clone(), true).await?;
    let raw = raw_client(&url, &node).await?;
    let ours = ours_at(url, node).await?;
    let mut rows = Vec::new();
    for askers in [1, MANY] {
        let mut totals = [(Times::new(), Duration::ZERO), (Times::new(), Duration::ZERO)];
        // The first round warms both up and does not count.
        for round in 0..=plan.rounds {
            let time = if round == 0 { plan.warm_up } else { plan.time };
            let turns = [
                load(askers, time, clock, async || ask_raw(&raw).await).await?,
                load(askers, time, clock, async || ask_ours(&ours, clock).await).await?,
            ];
            for (total, (times, took)) in totals.iter_mut().zip(turns).filter(|_| round > 0) {
                total.0.take(&times);
                total.1 += took;
            }
            bench.stages.step("raw client and our bus in turns", plan.share(round));
        }
        let [(raw_times, raw_took), (our_times, our_took)] = &totals;
        let peer = Row::peer(&format!("raw echo, {askers} at once"), raw_times).over(*raw_took);
        let ours = Row::ours(&format!("bus echo, {askers} at once"), our_times).over(*our_took);
        rows.extend([ours.against(&peer), peer]);
    }
    drop(answering);
    server.stop().await;
    Ok(rows)
}
