//! `sandpit bench exec`: `1+1` in a warm sandbox, over NATS and inside the engine, next to a
//! Jupyter kernel.

use std::time::Duration;

use sandpit_actors::clock::Clock;
use sandpit_messages::exec::Exec;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::sandbox::{Create, Terminate};
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::{ExecEvent, ExecRequest, Outcome, Work};

use super::bus::{Answering, ask_raw, raw_client};
use super::node::{self, Asker, TEMPLATE};
use super::peers::Peers;
use super::stats::{Row, Times};
use super::{Bench, BenchError, Plan};
use crate::cli::failure::Failure;
use crate::client::{Call, Key};

/// Executions of one turn.
const TURN: u32 = 100;
/// Longest an execution may take.
const TIME_MAX: Duration = Duration::from_secs(30);

/// All in turns.
pub(super) fn run(
    bench: &Bench,
    plan: Plan,
    install: bool,
) -> Result<(Vec<Row>, Vec<String>), Failure> {
    node::with(bench, 1, async |node| {
        let peers = Peers::find(bench, install).await?;
        let mut absent: Vec<String> =
            peers.absent.iter().filter(|why| !why.starts_with("bubblewrap")).cloned().collect();
        let mut jupyter = match peers.jupyter().transpose() {
            Ok(jupyter) => jupyter,
            Err(error) => {
                absent.push(format!("jupyter: {error}"));
                None
            }
        };
        let (url, user) = node::raw(node)?;
        let _echo = Answering::start(url.clone(), user.clone(), false).await?;
        let sandbox = node::asking(node, create).await?;
        let clock = Clock::start();
        let mut kernel = Times::new();
        let (mut over_nats, mut inside) = (Times::new(), Times::new());
        let (mut echoes, mut state) = (Times::new(), Times::new());
        for round in 0..=plan.rounds {
            bench.stages.step("executions in turns", plan.share(round));
            let (url, user) = (url.clone(), user.clone());
            let asked =
                node::asking(node, async move |asker| over(&asker, &url, &user, sandbox).await);
            let (ours, raw) = asked.await?;
            let direct = direct(node.provider(), sandbox, clock, "1+1").await?;
            let printed = direct_of(node.provider(), sandbox, clock).await?;
            let mut of_kernel = Vec::new();
            if let Some(driver) = &mut jupyter {
                of_kernel = driver.warm(TURN).await?;
            }
            if round > 0 {
                over_nats.take(&ours);
                echoes.take(&raw);
                inside.take(&direct);
                state.take(&printed);
                of_kernel.into_iter().for_each(|took| kernel.add(took));
            }
        }
        node::asking(node, async move |asker| end(asker, sandbox).await).await?;
        let echo = Row::peer("raw echo, 1 at once", &echoes);
        let mut rows = vec![Row::ours("1+1 over NATS", &over_nats).against(&echo), echo];
        let inside = Row::ours("1+1 inside the engine", &inside);
        let state = Row::ours("print 1 MB inside the engine", &state);
        if kernel.count() > 0 {
            let kernel = Row::peer("1+1 in a Jupyter kernel", &kernel);
            rows.extend([inside.against(&kernel), state, kernel]);
        } else {
            rows.extend([inside, state]);
        }
        Ok((rows, absent))
    })
}

async fn create(asker: Asker) -> Result<SandboxId, BenchError> {
    asker.stocked(1).await?;
    let create = Create { template: TEMPLATE.to_owned(), timeout: 3_600, ..Create::default() };
    Ok(asker.client.request(&create, Call::default()).await?.sandbox_id)
}

async fn end(asker: Asker, sandbox_id: SandboxId) -> Result<(), BenchError> {
    asker.client.request(&Terminate::of(sandbox_id), Call::default()).await?;
    Ok(())
}

/// Over NATS, each next to a raw echo.
async fn over(
    asker: &Asker,
    url: &str,
    user: &sandpit_actors::bus::nats::Credentials,
    sandbox: SandboxId,
) -> Result<(Times, Times), BenchError> {
    let raw = raw_client(url, user).await?;
    let (mut ours, mut echoes) = (Times::new(), Times::new());
    let ask = Exec { sandbox_id: Some(sandbox), code: Some("1+1".to_owned()), ..Exec::default() };
    let call = Call { key: Key::Without, owner_of: Some(sandbox), ..Call::default() };
    for _ in 0..TURN {
        let begun = asker.clock.now();
        ask_raw(&raw).await?;
        echoes.add(asker.clock.now().since(begun));
        let begun = asker.clock.now();
        let executed = asker.client.request(&ask, call.clone()).await?;
        ours.add(asker.clock.now().since(begun));
        if executed.result.as_deref() != Some("2") {
            return Err(BenchError::new(format!("1+1 was {:?}", executed.result)));
        }
    }
    Ok((ours, echoes))
}

/// Inside the engine, from the request to its end.
pub(super) async fn direct(
    provider: &dyn Provider,
    sandbox: SandboxId,
    clock: Clock,
    code: &str,
) -> Result<Times, BenchError> {
    let mut times = Times::new();
    for _ in 0..TURN {
        times.add(once(provider, sandbox, clock, code).await?);
    }
    Ok(times)
}

async fn direct_of(
    provider: &dyn Provider,
    sandbox: SandboxId,
    clock: Clock,
) -> Result<Times, BenchError> {
    let mut times = Times::new();
    for _ in 0..TURN / 10 {
        times.add(once(provider, sandbox, clock, "print('x' * 1_000_000)").await?);
    }
    Ok(times)
}

/// One execution.
pub(super) async fn once(
    provider: &dyn Provider,
    sandbox: SandboxId,
    clock: Clock,
    code: &str,
) -> Result<Duration, BenchError> {
    let request = ExecRequest {
        exec: ExecId::minted(rand::random()),
        work: Work::Cell { code: code.to_owned(), params: None, context: None },
        files: std::collections::BTreeMap::new(),
        env: std::collections::BTreeMap::new(),
        cwd: None,
        stdin: bytes::Bytes::new(),
        time_max: TIME_MAX,
    };
    let begun = clock.now();
    let stream = provider.exec(sandbox, request).await;
    let mut stream = stream.map_err(|error| BenchError::of("the engine", &error))?;
    while let Some(event) = stream.next().await {
        if let ExecEvent::Done(done) = event {
            let took = clock.now().since(begun);
            return match done.outcome {
                Outcome::Ok => Ok(took),
                other => Err(BenchError::new(format!("`{code}` ended as {other:?}"))),
            };
        }
    }
    Err(BenchError::new("the engine ended in the middle of an execution"))
}
