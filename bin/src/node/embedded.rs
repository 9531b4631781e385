//! The nats-server of a node that joins no other's.

use std::path::Path;
use std::sync::Arc;

use sandpit_actors::clock::Clock;
use sandpit_actors::embed::{EmbedError, Embedded, Options, Progress};
use sandpit_config::Config;

use crate::cli::progress::Stages;
use crate::settings;

/// What it is made from. `data` is where it keeps its own things; a server that was fetched is
/// kept in the configured data directory, for all to use.
pub fn options(config: &Config, data: &Path, stages: &Stages) -> Options {
    let stages = stages.clone();
    Options {
        server_path: config.bus.server_path.clone(),
        search_path: std::env::var_os("PATH"),
        cache: Some(settings::data_directory(config).join("cache")),
        python: config.provider.local.python.clone(),
        progress: Arc::new(move |progress| tell(&stages, progress)),
        ..Options::new(data.to_owned())
    }
}

/// Finds or fetches one and starts it.
///
/// # Errors
/// [`EmbedError`], naming what was tried and what to do.
pub async fn start(
    config: &Config,
    data: &Path,
    stages: &Stages,
    clock: Clock,
) -> Result<Embedded, EmbedError> {
    Embedded::start(options(config, data, stages), clock).await
}

#[expect(clippy::cast_precision_loss, reason = "a share for a bar")]
fn tell(stages: &Stages, progress: Progress) {
    match progress {
        Progress::Fetching { bytes, total } => {
            let share = (total > 0).then(|| bytes as f64 / total as f64);
            stages.step("fetching nats-server", share);
        }
        Progress::Unpacking => stages.step("checking and unpacking nats-server", None),
        Progress::Starting => stages.step("starting nats-server", None),
    }
}
