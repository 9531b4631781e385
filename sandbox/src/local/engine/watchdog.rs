//! Holds sandboxes to their memory where no control group does: looks at all of them five times a
//! second, and ends those that have taken too much.

use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use super::super::cgroup::none::{self, WATCH_EVERY};
use super::link::lock;
use super::run::OUT_OF_MEMORY;
use super::{Engine, MIB};

/// Watches until the engine is gone.
pub(super) fn watch(engine: &Weak<Engine>, gone: &Receiver<()>) {
    while gone.recv_timeout(WATCH_EVERY) == Err(RecvTimeoutError::Timeout) {
        let Some(engine) = engine.upgrade() else { return };
        engine.watch_memory();
    }
}

impl Engine {
    fn watch_memory(&self) {
        let living: Vec<_> = lock(&self.slots).living.values().cloned().collect();
        let watched = living.iter().filter_map(|one| Some((one, *one.namespace.get()?)));
        let watched: Vec<_> = watched.collect();
        if watched.is_empty() {
            return;
        }
        let Ok(used) = none::survey() else { return };
        for (skeleton, namespace) in watched {
            let limit = u64::from(skeleton.keeper.template.info.limits.memory_mb) * MIB;
            if used.get(&namespace).is_some_and(|used| none::is_over(used, limit)) {
                skeleton.note_oom_kill();
                skeleton.condemn(OUT_OF_MEMORY);
            }
        }
    }
}
