//! Keeps sandboxes alive: the cloud ends whatever nobody asks for, so that a node that dies leaves
//! nothing behind for long.

use std::sync::Weak;
use std::time::Duration;

use super::Cloud;
use crate::ProviderError;

/// Renewals under way at once.
const AT_ONCE: usize = 8;

/// Extends the time of each sandbox before half of it is over, until the endpoint is dropped.
pub(super) async fn alive(cloud: Weak<Cloud>, lifetime: Duration) {
    use futures_util::StreamExt as _;
    loop {
        tokio::time::sleep(lifetime / 8).await;
        let Some(cloud) = cloud.upgrade() else { return };
        let now = cloud.options.time.now();
        let due = cloud.known().due(|renewed| now.since(renewed) >= lifetime / 4);
        let renewals = futures_util::stream::iter(due).map(|sandbox| {
            let cloud = &cloud;
            async move {
                // One that was paused meanwhile has no clock.
                if cloud.stands(sandbox) {
                    return;
                }
                // One that gets no answer must not keep the others from theirs.
                let late = Err(ProviderError::Timeout { maybe_done: true });
                let renewed = tokio::time::timeout(lifetime / 16, cloud.renew(sandbox)).await;
                if let Err(error) = renewed.unwrap_or(late) {
                    let endpoint = &cloud.options.name;
                    tracing::warn!(%sandbox, endpoint, %error, "its time could not be extended");
                }
            }
        });
        renewals.buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}
