//! `sandpit bench engine`: what a sandbox with pandas takes from nothing to gone, and how much
//! memory an idle one holds, next to plain Python, bubblewrap and a Jupyter kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actix::System;
use sandpit_actors::clock::Clock;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::Provider;
use sandpit_sandbox::local::LocalProvider;
use sandpit_sandbox::provider::CreateRequest;
use serde::Serialize;

use super::machine::memory_kib;
use super::node::{TEMPLATE, config, failed};
use super::peers::{Jupyter, Peers};
use super::stats::{Row, Times};
use super::{Bench, BenchError, Plan, exec};
use crate::cli::failure::Failure;
use crate::node::identity::Identity;
use crate::node::local;

/// Sandboxes of one turn.
const TURN: u32 = 10;
/// Skeletons kept in the second half.
const SPARES: usize = 16;
/// Idle sandboxes whose memory is measured together.
const IDLE: u32 = 50;
/// What the kernel gets to settle its counts before memory is read.
const SETTLE: Duration = Duration::from_millis(500);

/// What one idle sandbox holds, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Idle {
    /// How many there were at once.
    sandboxes: u32,
    /// By what the machine had less of.
    available_mib: f64,
    /// By the proportional share of the pages of all its processes.
    pss_mib: f64,
}

impl Idle {
    /// For people.
    pub(super) fn sentence(self) -> String {
        let Self { sandboxes, available_mib, pss_mib } = self;
        format!(
            "idle: {available_mib:.2} MiB each of {sandboxes} sandboxes by MemAvailable, \
             {pss_mib:.2} MiB by PSS"
        )
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) rows: Vec<Row>,
    pub(super) idle: Idle,
    pub(super) absent: Vec<String>,
}

/// First without spare skeletons, then with.
pub(super) fn run(bench: &Bench, plan: Plan, install: bool) -> Result<Measured, Failure> {
    let mut config = config(bench, 0).map_err(|error| failed(&error))?;
    let identity = Identity::take(&config)?;
    System::new().block_on(async {
        let peers = Peers::find(bench, install).await.map_err(|error| failed(&error))?;
        let clock = Clock::start();
        let mut absent = peers.absent.clone();
        let mut jupyter = peers.jupyter().transpose().unwrap_or_else(|error| {
            absent.push(format!("jupyter: {error}"));
            None
        });
        config.provider.local.spare_skeletons = 0;
        let engine = local(&config, identity.node, &identity.data).await?;
        let prepared = engine.prepare(TEMPLATE, bench.stages.hearing()).await;
        prepared.map_err(|error| failed(&error))?;
        let cold = turns(bench, plan, &engine, Some((&peers, &mut jupyter)), clock).await;
        engine.close().await;
        let cold = cold.map_err(|error| failed(&error))?;
        config.provider.local.spare_skeletons = SPARES;
        let engine = local(&config, identity.node, &identity.data).await?;
        let prepared = engine.prepare(TEMPLATE, bench.stages.hearing()).await;
        prepared.map_err(|error| failed(&error))?;
        let spared = turns(bench, plan, &engine, None, clock).await;
        bench.stages.step("cells of one sandbox", None);
        let warm = warm(plan, &engine, clock).await;
        bench.stages.step("memory of idle sandboxes", None);
        let idle = idle(&engine).await;
        engine.close().await;
        let spared = spared.map_err(|error| failed(&error))?;
        let warm = warm.map_err(|error| failed(&error))?;
        let idle = idle.map_err(|error| failed(&error))?;
        let python = Row::peer("python with pandas, cold", &cold.python);
        let mut rows = Vec::new();
        let ours = Row::ours("create with pandas, cold", &cold.create);
        rows.push(if cold.python.count() > 0 { ours.against(&python) } else { ours });
        rows.push(Row::ours("create with pandas, from a spare skeleton", &spared.create));
        rows.push(Row::ours("first 1+1", &cold.first));
        rows.push(Row::ours("second 1+1", &cold.second));
        rows.push(Row::ours("warm 1+1", &warm));
        rows.push(Row::ours("teardown, verified gone", &cold.destroy));
        let others = [
            (cold.python, "python with pandas, cold"),
            (cold.bubblewrap, "bubblewrap + python with pandas, cold"),
            (cold.jupyter, "Jupyter kernel with pandas, cold"),
        ];
        let others = others.iter().filter(|(times, _)| times.count() > 0);
        rows.extend(others.map(|(times, what)| Row::peer(what, times)));
        Ok(Measured { rows, idle, absent })
    })
}

/// What was measured with one engine.
struct Taken {
    create: Times,
    first: Times,
    second: Times,
    destroy: Times,
    python: Times,
    bubblewrap: Times,
    jupyter: Times,
}

/// Ours and the peers in turns.
async fn turns(
    bench: &Bench,
    plan: Plan,
    engine: &LocalProvider,
    mut others: Option<(&Peers, &mut Option<Jupyter>)>,
    clock: Clock,
) -> Result<Taken, BenchError> {
    let fresh = Times::new;
    let mut taken = Taken {
        create: fresh(),
        first: fresh(),
        second: fresh(),
        destroy: fresh(),
        python: fresh(),
        bubblewrap: fresh(),
        jupyter: fresh(),
    };
    let stage = if others.is_some() { "cold creates and peers in turns" } else { "warm creates" };
    for round in 0..=plan.rounds {
        bench.stages.step(stage, plan.share(round));
        for _ in 0..TURN {
            let sandbox =
                SandboxId::minted(sandpit_messages::id::NodeId::of_bits(0), rand::random());
            let begun = clock.now();
            create(engine, sandbox).await?;
            let created = clock.now().since(begun);
            let first = exec::once(engine, sandbox, clock, "1+1").await?;
            let second = exec::once(engine, sandbox, clock, "1+1").await?;
            let begun = clock.now();
            destroy(engine, sandbox).await?;
            let destroyed = clock.now().since(begun);
            // The first round warms up and does not count.
            if round > 0 {
                taken.create.add(created);
                taken.first.add(first);
                taken.second.add(second);
                taken.destroy.add(destroyed);
            }
        }
        let Some((peers, jupyter)) = &mut others else { continue };
        for _ in 0..2 {
            if let Some(took) = peers.python(clock).await.transpose()? {
                taken.python.add(took);
            }
            if let Some(took) = peers.bubblewrap(clock).await.transpose()? {
                taken.bubblewrap.add(took);
            }
        }
        if let Some(jupyter) = jupyter {
            jupyter.cold().await?.into_iter().for_each(|took| taken.jupyter.add(took));
        }
    }
    Ok(taken)
}

/// Cells of a sandbox that is in use. The first round warms up and does not count.
async fn warm(plan: Plan, engine: &LocalProvider, clock: Clock) -> Result<Times, BenchError> {
    let sandbox = SandboxId::minted(sandpit_messages::id::NodeId::of_bits(0), rand::random());
    create(engine, sandbox).await?;
    let mut warm = Times::new();
    for round in 0..=plan.rounds {
        let taken = exec::direct(engine, sandbox, clock, "1+1").await?;
        if round > 0 {
            warm.take(&taken);
        }
    }
    destroy(engine, sandbox).await?;
    Ok(warm)
}

async fn create(engine: &LocalProvider, sandbox: SandboxId) -> Result<(), BenchError> {
    let request = CreateRequest { sandbox, template: TEMPLATE.to_owned() };
    engine.create(request).await.map_err(|error| BenchError::of("the engine", &error))?;
    Ok(())
}

async fn destroy(engine: &LocalProvider, sandbox: SandboxId) -> Result<(), BenchError> {
    engine.destroy(sandbox).await.map_err(|error| BenchError::of("the engine", &error))?;
    Ok(())
}

/// Many at once, because one is lost in what else the machine does.
#[expect(clippy::cast_precision_loss, reason = "KiB of one machine's memory")]
async fn idle(engine: &LocalProvider) -> Result<Idle, BenchError> {
    tokio::time::sleep(SETTLE).await;
    let (free, shared) = (memory_kib("MemAvailable"), pss_kib());
    let mut sandboxes = Vec::new();
    for _ in 0..IDLE {
        let sandbox = SandboxId::minted(sandpit_messages::id::NodeId::of_bits(0), rand::random());
        create(engine, sandbox).await?;
        sandboxes.push(sandbox);
    }
    tokio::time::sleep(SETTLE).await;
    let available = free as f64 - memory_kib("MemAvailable") as f64;
    let pss = pss_kib() as f64 - shared as f64;
    for sandbox in sandboxes {
        destroy(engine, sandbox).await?;
    }
    let each = |kib: f64| kib / 1024.0 / f64::from(IDLE);
    Ok(Idle { sandboxes: IDLE, available_mib: each(available), pss_mib: each(pss) })
}

/// The proportional share of all processes that descend from this one.
fn pss_kib() -> u64 {
    let share = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().split(' ').next()?.parse::<u64>().ok()
    };
    // What ended in between has no share.
    descendants(std::process::id()).into_iter().filter_map(share).sum()
}

fn descendants(of: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if let Some(parent) = parent.and_then(|parent| parent.trim().parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut open) = (BTreeSet::new(), vec![of]);
    while let Some(next) = open.pop() {
        for &child in children.get(&next).into_iter().flatten() {
            if found.insert(child) {
                open.push(child);
            }
        }
    }
    found
}
