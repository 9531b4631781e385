//! Watches that are asked for their events, for SDKs that cannot listen to a stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandpit_sandbox::e2b::wire::fault::{Code, ConnectError};
use sandpit_sandbox::e2b::wire::filesystem::Event;
use tokio::task::AbortHandle;

/// Watches of one sandbox at once.
const WATCHERS_MAX: usize = 64;

/// Events of one watch that wait to be asked for.
const EVENTS_MAX: usize = 4_096;

/// Watches by their ids.
#[derive(Debug, Default)]
pub(in super::super) struct Watchers(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<String, (Arc<Kept>, AbortHandle)>,
    numbers: u64,
}

/// Events of one watch.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Events>);

#[derive(Debug, Default)]
struct Events {
    events: VecDeque<Event>,
    /// Whether more happened than was kept.
    lost: bool,
}

impl Kept {
    fn events(&self) -> MutexGuard<'_, Events> {
        // Whoever panicked here did so between two whole steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an event until it is asked for.
    pub(super) fn push(&self, event: Event) {
        let mut kept = self.events();
        if kept.events.len() < EVENTS_MAX {
            kept.events.push_back(event);
        } else {
            kept.lost = true;
        }
    }

    /// More happened than anybody knows.
    pub(super) fn lose(&self) {
        self.events().lost = true;
    }
}

impl Watchers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked here did so between two whole steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a watch in, and names it. Where there is no room for it, it ends.
    pub(super) fn insert(
        &self,
        kept: Arc<Kept>,
        task: AbortHandle,
    ) -> Result<String, ConnectError> {
        let mut inner = self.inner();
        if inner.all.len() >= WATCHERS_MAX {
            // What those saw whose directory is gone has waited long enough.
            inner.all.retain(|_, (_, task)| !task.is_finished());
        }
        if inner.all.len() >= WATCHERS_MAX {
            task.abort();
            let message = format!("{WATCHERS_MAX} directories are watched; remove a watcher");
            return Err(ConnectError::new(Code::ResourceExhausted, message));
        }
        inner.numbers += 1;
        let id = format!("w{}", inner.numbers);
        inner.all.insert(id.clone(), (kept, task));
        Ok(id)
    }

    /// What happened since the last time.
    pub(super) fn events(&self, id: &str) -> Result<Vec<Event>, ConnectError> {
        let kept = self.inner().all.get(id).map(|(kept, _)| Arc::clone(kept));
        let kept = kept.ok_or_else(|| unknown(id))?;
        let mut events = kept.events();
        if std::mem::take(&mut events.lost) {
            events.events.clear();
            let message = "more happened than is kept; look at the directory again";
            return Err(ConnectError::new(Code::DataLoss, message));
        }
        Ok(events.events.drain(..).collect())
    }

    /// Ends one.
    pub(super) fn remove(&self, id: &str) -> Result<(), ConnectError> {
        let (_, task) = self.inner().all.remove(id).ok_or_else(|| unknown(id))?;
        task.abort();
        Ok(())
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for (_, task) in self.inner().all.values() {
            task.abort();
        }
    }
}

fn unknown(id: &str) -> ConnectError {
    let id: String = id.chars().take(64).collect();
    ConnectError::new(Code::NotFound, format!("watcher {id} not found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_told_once_and_too_many_are_told_as_such() {
        let (watchers, kept) = (Watchers::default(), Arc::new(Kept::default()));
        let task = tokio::spawn(std::future::pending::<()>());
        let id = watchers.insert(Arc::clone(&kept), task.abort_handle()).unwrap();
        let event = |name: &str| Event { name: name.to_owned(), ..Event::default() };
        kept.push(event("a"));
        assert_eq!(watchers.events(&id), Ok(vec![event("a")]));
        assert_eq!(watchers.events(&id), Ok(Vec::new()));
        (0..=EVENTS_MAX).for_each(|_| kept.push(event("b")));
        assert_eq!(watchers.events(&id).map_err(|error| error.code), Err(Code::DataLoss));
        assert_eq!(watchers.events(&id), Ok(Vec::new()));
        assert_eq!(watchers.remove(&id), Ok(()));
        assert_eq!(watchers.events(&id).map_err(|error| error.code), Err(Code::NotFound));
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }

    #[tokio::test]
    async fn there_are_so_many_and_those_that_ended_make_room() {
        let watchers = Watchers::default();
        let over = tokio::spawn(async {});
        let handle = over.abort_handle();
        over.await.unwrap();
        watchers.insert(Arc::default(), handle).unwrap();
        let begin = || tokio::spawn(std::future::pending::<()>());
        let mut begun: Vec<_> = (0..WATCHERS_MAX).map(|_| begin()).collect();
        for task in &begun {
            watchers.insert(Arc::default(), task.abort_handle()).unwrap();
        }
        let refused = begin();
        let error = watchers.insert(Arc::default(), refused.abort_handle()).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(refused.await.is_err_and(|error| error.is_cancelled()));
        drop(watchers);
        assert!(begun.pop().unwrap().await.is_err_and(|error| error.is_cancelled()));
    }
}
