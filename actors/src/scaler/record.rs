//! Deployments as they are written down, and what their instances are made of.

use std::sync::Arc;
use std::time::Duration;

use sandpit_messages::deployment::{Category, Configuration};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, DeploymentId, SwarmId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::WallTime;
use serde::{Deserialize, Serialize};

use super::policy::{Order, Record, Seat};
use crate::bus::KvError;
use crate::crew::{AgentPlan, Plan, Records};

/// Longest an instance lives before a fresh one takes its place, and without a wish how long.
pub const LIFETIME_MAX: Duration = Duration::from_secs(86_400);

/// The template of what names none.
const TEMPLATE: &str = "base";

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    tenant: String,
    template_name: String,
    category: Category,
    configuration: Configuration,
    instances: usize,
    created: WallTime,
    desired: usize,
    auto_scale: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seat: Option<(SwarmId, AgentId)>,
}

/// What the instances of a configuration are made of. The configuration is valid already.
pub fn plan(tenant: Tenant, configuration: &Configuration) -> Plan {
    let asked = configuration.clone();
    let timeout = asked.timeout.map(|seconds| Duration::from_secs(seconds.into()));
    let agent = asked.agent.map(|agent| {
        let mut params = agent.strategy_params;
        for (name, value) in asked.more {
            // What is said of the agent itself wins.
            params.entry(name).or_insert(value);
        }
        AgentPlan { agent_type: agent.agent_type, symbols: agent.symbols, params }
    });
    Plan {
        tenant,
        template: asked.template.unwrap_or_else(|| TEMPLATE.to_owned()),
        memory_mb: asked.memory_mb,
        cpu_count: asked.cpu_count,
        lifetime: timeout.unwrap_or(LIFETIME_MAX).min(LIFETIME_MAX),
        env: asked.env_vars,
        files: asked.files,
        setup: asked.setup,
        agent,
    }
}

pub(super) async fn write(
    records: &Records,
    id: DeploymentId,
    record: &Record,
) -> Result<(), Refusal> {
    let Record { order, created, desired, auto_scale } = record;
    let kept = Kept {
        tenant: order.plan.tenant.as_str().to_owned(),
        template_name: order.template_name.clone(),
        category: order.category,
        configuration: order.configuration.clone(),
        instances: order.instances,
        created: *created,
        desired: *desired,
        auto_scale: *auto_scale,
        seat: order.seat.map(|Seat { swarm, agent }| (swarm, agent)),
    };
    records.put(id.as_str(), &kept).await
}

pub(super) async fn read(records: &Records) -> Result<Vec<(DeploymentId, Record)>, KvError> {
    let all = records.all::<Kept>().await?;
    let known = all.into_iter().filter_map(|(name, kept)| {
        let (Ok(id), Ok(tenant)) = (name.parse(), kept.tenant.parse()) else {
            tracing::error!(name, "a record is not of a deployment; it stays");
            return None;
        };
        let order = Order {
            template_name: kept.template_name,
            category: kept.category,
            plan: Arc::new(plan(tenant, &kept.configuration)),
            configuration: kept.configuration,
            instances: kept.instances,
            seat: kept.seat.map(|(swarm, agent)| Seat { swarm, agent }),
        };
        let Kept { created, desired, auto_scale, .. } = kept;
        Some((id, Record { order: Arc::new(order), created, desired, auto_scale }))
    });
    Ok(known.collect())
}
