//! Keeps sandboxes alive: the cloud ends whatever nobody asks for, so that a node that dies leaves
//! nothing behind for long.

use std::sync::Weak;
use std::time::Duration;

use super::Cloud;

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
                if let Err(error) = cloud.renew(sandbox).await {
                    let endpoint = &cloud.options.name;
                    tracing::warn!(%sandbox, endpoint, %error, "its time could not be extended");
                }
            }
        });
        renewals.buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}
