//! Contexts and pausing, as far as a fake has them: a context counts its cells, and what is paused
//! says nothing and takes no time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sandpit_messages::id::SandboxId;
use tokio::sync::watch;

use super::{Fake, World, now};
use crate::ProviderError;
use crate::provider::Pausing;
use crate::provider::contexts::{Context, ContextId, Contexts};

/// Contexts of one sandbox at once, as in the embedded engine.
const CONTEXTS_MAX: usize = 16;

/// What the default context is called.
const DEFAULT: &str = "default";

/// One context.
#[derive(Clone, Debug)]
pub(super) struct Place {
    cwd: String,
    /// Those that ran; they run one after the other.
    pub(super) cells: Arc<tokio::sync::Mutex<u64>>,
    /// Changes when it begins anew.
    pub(super) life: watch::Sender<u64>,
}

impl Default for Place {
    fn default() -> Self {
        Self::at(None)
    }
}

impl Place {
    fn at(cwd: Option<&str>) -> Self {
        let cwd = cwd.unwrap_or("/home/user").to_owned();
        Self { cwd, cells: Arc::default(), life: watch::Sender::new(0) }
    }

    fn end(&self) {
        self.life.send_modify(|life| *life += 1);
    }
}

/// All of one sandbox.
#[derive(Clone, Debug)]
pub(super) struct Places {
    living: BTreeMap<ContextId, Place>,
    made: u64,
}

impl Default for Places {
    fn default() -> Self {
        let living = BTreeMap::from([(default_id(), Place::at(None))]);
        Self { living, made: 0 }
    }
}

impl Places {
    /// One of them; without a name the default one.
    pub(super) fn find(&self, id: Option<&ContextId>) -> Result<&Place, ProviderError> {
        let id = id.cloned().unwrap_or_else(default_id);
        self.living.get(&id).ok_or(ProviderError::NoSuchContext(id))
    }
}

fn default_id() -> ContextId {
    ContextId(DEFAULT.to_owned())
}

fn info(id: &ContextId, place: &Place) -> Context {
    Context {
        id: id.clone(),
        language: "python".to_owned(),
        cwd: place.cwd.clone(),
        is_default: id.0 == DEFAULT,
    }
}

impl World {
    /// A sandbox that may be used.
    pub(super) fn place(&mut self, sandbox: SandboxId) -> Result<&mut super::Place, ProviderError> {
        let place = self.alive.get_mut(&sandbox).ok_or(ProviderError::Gone(sandbox))?;
        if *place.paused.borrow() { Err(ProviderError::Paused(sandbox)) } else { Ok(place) }
    }
}

#[async_trait]
impl Contexts for Fake {
    async fn create(
        &self,
        sandbox: SandboxId,
        cwd: Option<&str>,
    ) -> Result<Context, ProviderError> {
        let mut world = self.world();
        let places = &mut world.place(sandbox)?.contexts;
        if places.living.len() >= CONTEXTS_MAX {
            return Err(ProviderError::Quota { what: format!("contexts: {CONTEXTS_MAX} at most") });
        }
        places.made += 1;
        let (id, place) = (ContextId(format!("c{}", places.made)), Place::at(cwd));
        let made = info(&id, &place);
        places.living.insert(id, place);
        Ok(made)
    }

    async fn list(&self, sandbox: SandboxId) -> Result<Vec<Context>, ProviderError> {
        let mut world = self.world();
        let places = &world.place(sandbox)?.contexts;
        let mut all: Vec<_> = places.living.iter().map(|(id, place)| info(id, place)).collect();
        all.sort_by_key(|one| !one.is_default);
        Ok(all)
    }

    async fn restart(&self, sandbox: SandboxId, id: &ContextId) -> Result<(), ProviderError> {
        let mut world = self.world();
        let places = &mut world.place(sandbox)?.contexts;
        let old = places.find(Some(id))?.clone();
        places.living.insert(id.clone(), Place::at(Some(&old.cwd)));
        old.end();
        Ok(())
    }

    async fn remove(&self, sandbox: SandboxId, id: &ContextId) -> Result<(), ProviderError> {
        let mut world = self.world();
        let places = &mut world.place(sandbox)?.contexts;
        places.find(Some(id))?.end();
        places.living.remove(id);
        if id.0 == DEFAULT {
            places.living.insert(id.clone(), Place::at(None));
        }
        Ok(())
    }
}

#[async_trait]
impl Pausing for Fake {
    async fn pause(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        self.set_paused(sandbox, true)
    }

    async fn resume(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        self.set_paused(sandbox, false)
    }
}

impl Fake {
    fn set_paused(&self, sandbox: SandboxId, paused: bool) -> Result<(), ProviderError> {
        let world = self.world();
        let place = world.alive.get(&sandbox).ok_or(ProviderError::Gone(sandbox))?;
        place.paused.send_replace(paused);
        Ok(())
    }
}

/// Waits until a sandbox is not paused.
pub(super) async fn goes_on(paused: &watch::Sender<bool>) {
    // Its sender is here.
    let _ = paused.subscribe().wait_for(|paused| !paused).await;
}

/// Sleeps for so long in the time of a sandbox, which stands still while it is paused.
pub(super) async fn sleep(paused: &watch::Sender<bool>, mut left: Duration) {
    let mut changes = paused.subscribe();
    loop {
        goes_on(paused).await;
        changes.mark_unchanged();
        let since = now();
        if tokio::time::timeout(left, changes.changed()).await.is_err() {
            return;
        }
        left = left.saturating_sub(now() - since);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sandpit_messages::id::ExecId;

    use super::*;
    use crate::Provider;
    use crate::fake::Script;
    use crate::provider::{ExecEvent, ExecRequest, ExecStream, KilledBy, Outcome, Work};

    const SANDBOX: SandboxId = SandboxId::numbered(1);

    async fn cell(fake: &Fake, context: Option<&ContextId>, code: &str) -> ExecStream {
        let (code, context) = (code.to_owned(), context.cloned());
        let request = ExecRequest {
            exec: ExecId::numbered(1),
            work: Work::Cell { code, params: None, context },
            files: BTreeMap::new(),
            env: BTreeMap::new(),
            cwd: None,
            stdin: Bytes::new(),
            time_max: Duration::from_secs(10),
        };
        fake.exec(SANDBOX, request).await.unwrap()
    }

    async fn end(mut stream: ExecStream) -> (Option<String>, Outcome) {
        let mut shown = None;
        loop {
            match stream.next().await.unwrap() {
                ExecEvent::Shown(value) => shown = value.text().map(str::to_owned),
                ExecEvent::Done(done) => return (shown, done.outcome),
                _ => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn contexts_count_their_cells_and_begin_anew() {
        let fake = Fake::new(Script::default());
        fake.plant(SANDBOX, "base");
        let made = Contexts::create(&fake, SANDBOX, None).await.unwrap().id;
        let count = async |id| end(cell(&fake, id, "count").await).await.0.unwrap();
        assert_eq!((count(None).await, count(None).await), ("0".to_owned(), "1".to_owned()));
        assert_eq!(count(Some(&made)).await, "0");
        let running = cell(&fake, Some(&made), "sleep 5000").await;
        fake.restart(SANDBOX, &made).await.unwrap();
        assert_eq!(end(running).await.1, Outcome::Killed(KilledBy::Restart));
        assert_eq!(count(Some(&made)).await, "0");
        fake.remove(SANDBOX, &made).await.unwrap();
        let unknown = fake.restart(SANDBOX, &made).await.unwrap_err();
        assert_eq!(unknown, ProviderError::NoSuchContext(made));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_paused_takes_no_time() {
        let fake = Fake::new(Script::default());
        fake.plant(SANDBOX, "base");
        let running = cell(&fake, None, "sleep 9000; value done").await;
        fake.pause(SANDBOX).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(fake.sample(SANDBOX).await.unwrap_err(), ProviderError::Paused(SANDBOX));
        fake.resume(SANDBOX).await.unwrap();
        assert_eq!(end(running).await, (Some("done".to_owned()), Outcome::Ok));
    }
}
