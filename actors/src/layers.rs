//! Templates built for a caller: what deployments, and sandboxes with packages of their own, are
//! made from.

use std::sync::Arc;

use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::{Layer, Progress, TemplateInfo};

use crate::clock::Clock;
use crate::pool::{Learn, PoolActor};
use crate::shell::refusal_of;
use crate::supervise::ActorRef;

/// When a template that is still being built is worth asking for again.
const BUILD_PAUSE: std::time::Duration = std::time::Duration::from_secs(2);

/// What ids of templates begin with that are made from contents. No other template may be called
/// so.
pub const ID_PREFIX: &str = "tpl-";

/// Whether a template is called by its id.
pub fn is_id(template: &str) -> bool {
    template.starts_with(ID_PREFIX)
}

/// Has a layer built, or finds it built, and makes it known to the pool: its name in the answer is
/// one to [`Acquire`](crate::pool::Acquire) from.
///
/// # Errors
/// [`Refusal::NotBuilt`] with what a package or a setup command said; [`Refusal::Building`] if it
/// takes longer than until `until`: it is built to its end all the same, and asking again for an
/// equal layer finds it.
pub async fn built(
    provider: &Arc<dyn Provider>,
    pool: &ActorRef<PoolActor>,
    clock: Clock,
    layer: Layer,
    until: Moment,
) -> Result<TemplateInfo, Refusal> {
    let progress = Progress::new(|step| {
        tracing::info!(stage = step.stage, share = step.share, "building a template");
    });
    let building = provider.build(&layer, progress);
    let built = tokio::time::timeout(until.since(clock.now()), building).await;
    let late = |_| Refusal::Building { retry_after: BUILD_PAUSE };
    let info = built.map_err(late)?.map_err(|error| refusal_of(&error))?;
    pool.ask_settled(Learn { template: info.name.clone() }).await?;
    Ok(info)
}
