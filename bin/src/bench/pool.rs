//! `sandpit bench pool`: a sandbox from the warm pool over NATS, next to a raw echo on the same
//! server; then a rush of more callers than there are sandboxes.

use futures_util::future::join_all;
use sandpit_messages::id::SandboxId;
use sandpit_messages::sandbox::{Create, Terminate};
use serde::Serialize;

use super::bus::{Answering, ask_raw, raw_client};
use super::node::{self, Asker, TEMPLATE};
use super::stats::{Row, Times};
use super::{Bench, BenchError, Plan};
use crate::cli::failure::Failure;
use crate::client::{Call, Key};

/// Sandboxes kept ready.
const STOCK: usize = 10;
/// Callers at once in the rush.
const RUSH: usize = 100;
/// Acquires of one round.
const ROUND: u32 = 50;

/// What became of the rush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Rush {
    /// Callers.
    asked: usize,
    /// Sandboxes kept ready.
    stock: usize,
    /// Got a sandbox.
    granted: usize,
    /// Were told no.
    refused: usize,
    /// Got no answer.
    lost: usize,
}

impl Rush {
    /// For people.
    pub(super) fn sentence(self) -> String {
        let Self { asked, stock, granted, refused, lost } = self;
        format!(
            "rush: {asked} callers at once on a stock of {stock}: {granted} got a sandbox, \
             {refused} were refused, {lost} got no answer"
        )
    }
}

/// Both parts.
pub(super) fn run(bench: &Bench, plan: Plan) -> Result<(Vec<Row>, Rush), Failure> {
    node::with(bench, STOCK, async |node| {
        let (url, user) = node::raw(node)?;
        let echo = Answering::start(url.clone(), user.clone(), false).await?;
        let stages = bench.stages.clone();
        let measured = node::asking(node, async move |asker| {
            let raw = raw_client(&url, &user).await?;
            asker.stocked(STOCK).await?;
            let (mut keyed, mut plain) = (Times::new(), Times::new());
            let mut echoes = Times::new();
            // The first round warms up and does not count.
            for round in 0..=plan.rounds {
                stages.step("acquires from the pool and raw echoes in turns", plan.share(round));
                for turn in 0..ROUND {
                    let begun = asker.clock.now();
                    ask_raw(&raw).await?;
                    let echo = asker.clock.now().since(begun);
                    let key = if turn % 2 == 0 { Key::Made } else { Key::Without };
                    let into = if turn % 2 == 0 { &mut keyed } else { &mut plain };
                    let begun = asker.clock.now();
                    let sandbox = acquire(&asker, key).await?;
                    let took = asker.clock.now().since(begun);
                    if round > 0 {
                        echoes.add(echo);
                        into.add(took);
                    }
                    release(&asker, sandbox).await?;
                    asker.stocked(STOCK).await?;
                }
            }
            stages.step("a rush of more callers than sandboxes", None);
            let (waits, rush) = rush(&asker).await?;
            let peer = Row::peer("raw echo, 1 at once", &echoes);
            Ok((
                vec![
                    Row::ours("acquire from the pool", &plain).against(&peer),
                    Row::ours("acquire from the pool, with key", &keyed).against(&peer),
                    peer,
                    Row::ours(&format!("acquire, {RUSH} at once"), &waits),
                ],
                rush,
            ))
        });
        let measured = measured.await?;
        drop(echo);
        Ok(measured)
    })
}

async fn acquire(asker: &Asker, key: Key) -> Result<SandboxId, BenchError> {
    let create = Create { template: TEMPLATE.to_owned(), ..Create::default() };
    let created = asker.client.request(&create, Call { key, ..Call::default() }).await?;
    match created.from_pool {
        true => Ok(created.sandbox_id),
        false => Err(BenchError::new("the pool was empty although it had been full")),
    }
}

async fn release(asker: &Asker, sandbox_id: SandboxId) -> Result<(), BenchError> {
    asker.client.request(&Terminate::of(sandbox_id), Call::default()).await?;
    Ok(())
}

/// All ask at once, and each gives its sandbox back as soon as it has it, so that all can be
/// served.
async fn rush(asker: &Asker) -> Result<(Times, Rush), BenchError> {
    let caller = || async {
        let create = Create { template: TEMPLATE.to_owned(), ..Create::default() };
        let begun = asker.clock.now();
        let created = asker.client.request(&create, Call::default()).await;
        let took = asker.clock.now().since(begun);
        if let Ok(created) = &created {
            release(asker, created.sandbox_id).await?;
        }
        Ok::<_, BenchError>((created, took))
    };
    let mut rush = Rush { asked: RUSH, stock: STOCK, ..Rush::default() };
    let mut waits = Times::new();
    for outcome in join_all((0..RUSH).map(|_| caller())).await {
        let (created, took) = outcome?;
        match created {
            Ok(_) => {
                rush.granted += 1;
                waits.add(took);
            }
            Err(sandpit_actors::bus::AskError::Refused(_)) => rush.refused += 1,
            Err(_) => rush.lost += 1,
        }
    }
    Ok((waits, rush))
}
