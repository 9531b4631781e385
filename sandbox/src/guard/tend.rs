//! Looks after the endpoints: tries those that were left alone, and destroys what should not be
//! there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sandpit_messages::id::SandboxId;
use tokio::sync::broadcast;

use super::guarded::{Inner, Verb};

/// From one look to the next, at most.
const PERIOD_MAX: Duration = Duration::from_secs(1);

/// Leftovers destroyed at once.
const AT_ONCE: usize = 8;

/// Begins, until the endpoints are dropped.
pub(super) fn begin(inner: &Arc<Inner>) {
    for (at, provider) in inner.providers.iter().enumerate() {
        let mut heard = provider.endings();
        let (inner, endings) = (Arc::downgrade(inner), inner.endings.clone());
        tokio::spawn(async move {
            loop {
                match heard.recv().await {
                    Ok(ending) => {
                        let Some(inner) = inner.upgrade() else { return };
                        if inner.shared().places.gone(at, ending.sandbox) {
                            // Nobody has to listen.
                            let _ = endings.send(ending);
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => (),
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
    }
    // What hangs at one endpoint must not keep another from being tried.
    tokio::spawn(probe(Arc::downgrade(inner)));
    tokio::spawn(clear(Arc::downgrade(inner)));
}

/// Tries the endpoints that were left alone.
async fn probe(inner: Weak<Inner>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let period = inner.period();
        let ill = (0..inner.gates.len()).filter(|at| inner.wants_a_try(*at));
        for at in ill {
            inner.try_out(at).await;
        }
        drop(inner);
        tokio::time::sleep(period).await;
    }
}

/// Destroys what should not be there.
async fn clear(inner: Weak<Inner>) {
    use futures_util::StreamExt as _;
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let period = inner.period();
        let doubts: Vec<_> = inner.shared().places.doubts().collect();
        let open = doubts.into_iter().filter(|(at, _)| inner.gates[*at].closed_since().is_some());
        let ending =
            futures_util::stream::iter(open).map(|(at, sandbox)| inner.settle(at, sandbox));
        ending.buffer_unordered(AT_ONCE).collect::<()>().await;
        drop(inner);
        tokio::time::sleep(period).await;
    }
}

impl Inner {
    /// From one look to the next.
    fn period(&self) -> Duration {
        let shortest = self.gates.iter().map(|gate| gate.limits.breaker.open_min).min();
        PERIOD_MAX.min(shortest.unwrap_or(PERIOD_MAX) / 10)
    }

    fn wants_a_try(&self, at: usize) -> bool {
        let now = self.time.now();
        self.gates[at].state().breaker.next_try().is_some_and(|next| next <= now)
    }

    /// Asks an endpoint that was left alone whether it is well again: a list changes nothing.
    async fn try_out(&self, at: usize) {
        let list = |provider: Arc<dyn crate::Provider>| async move { provider.list().await };
        let deadline = self.time.now() + self.gates[at].limits.look_max;
        let limits = super::retry::Limits { attempts_max: 1, ..self.gates[at].limits.retry };
        let once =
            super::retry::Attempts::new(limits, super::retry::Repeat::Harmless, deadline, false);
        self.begin(at);
        // What comes of it is in the breaker.
        let _ = self.attempt(at, Verb::Look, &once, deadline, &list).await;
    }

    /// Destroys what may have been made at an endpoint and belongs to nobody, or to another one.
    async fn settle(&self, at: usize, sandbox: SandboxId) {
        let destroy =
            |provider: Arc<dyn crate::Provider>| async move { provider.destroy(sandbox).await };
        let destroyed = self.call(at, Verb::Life, destroy).await;
        match destroyed {
            Ok(destroyed) => {
                let endpoint = &self.gates[at].name;
                if destroyed.was_there {
                    tracing::info!(%sandbox, endpoint, "destroyed what a lost answer had left");
                }
                self.shared().places.gone(at, sandbox);
            }
            Err(error) => tracing::debug!(%sandbox, %error, "it stays in doubt"),
        }
    }
}
