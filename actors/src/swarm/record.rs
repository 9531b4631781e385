//! Swarms as they are written down.

use std::sync::Arc;

use sandpit_messages::id::SwarmId;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::swarm::{Strategy, Topology};
use sandpit_messages::time::WallTime;
use serde::{Deserialize, Serialize};

use super::policy::{Order, Record, Stopped};
use crate::bus::KvError;
use crate::crew::Records;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    tenant: String,
    name: Option<String>,
    topology: Topology,
    strategy: Strategy,
    max_agents: usize,
    shared_memory: bool,
    auto_scale: bool,
    created: WallTime,
    stopped: Option<KeptEnd>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptEnd {
    at: WallTime,
    agents: usize,
    saved: bool,
    trades: Option<u64>,
    pnl: Option<f64>,
}

pub(super) async fn write(records: &Records, id: SwarmId, record: &Record) -> Result<(), Refusal> {
    let Record { order, created, stopped } = record;
    let end = |&Stopped { at, agents, saved, trades, pnl }: &Stopped| KeptEnd {
        at,
        agents,
        saved,
        trades,
        pnl,
    };
    let kept = Kept {
        tenant: order.tenant.as_str().to_owned(),
        name: order.name.clone(),
        topology: order.topology,
        strategy: order.strategy,
        max_agents: order.max_agents,
        shared_memory: order.shared_memory,
        auto_scale: order.auto_scale,
        created: *created,
        stopped: stopped.as_ref().map(end),
    };
    records.put(id.as_str(), &kept).await
}

pub(super) async fn read(records: &Records) -> Result<Vec<(SwarmId, Record)>, KvError> {
    let all = records.all::<Kept>().await?;
    let known = all.into_iter().filter_map(|(name, kept)| {
        let (Ok(id), Ok(tenant)) = (name.parse(), kept.tenant.parse()) else {
            tracing::error!(name, "a record is not of a swarm; it stays");
            return None;
        };
        let order = Order {
            tenant,
            name: kept.name,
            topology: kept.topology,
            strategy: kept.strategy,
            max_agents: kept.max_agents,
            shared_memory: kept.shared_memory,
            auto_scale: kept.auto_scale,
        };
        let stopped = kept.stopped.map(|KeptEnd { at, agents, saved, trades, pnl }| Stopped {
            at,
            agents,
            saved,
            trades,
            pnl,
        });
        Some((id, Record { order: Arc::new(order), created: kept.created, stopped }))
    });
    Ok(known.collect())
}
