//! Buckets in memory, with the failures of the real ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::RngExt;
use sandpit_messages::time::Moment;

use super::super::{Bucket, Entry, Kv, KvError, Revision};
use super::Inner;

/// How buckets fail.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvFaults {
    /// Share of reads that see the value before the last one, 0 to 1.
    pub stale: f64,
    /// Share of writes whose outcome nobody learns, 0 to 1. Half of them are done.
    pub unknown: f64,
}

#[derive(Debug)]
pub(super) struct BucketState {
    bucket: Bucket,
    revision: u64,
    /// The last two values of each key; `None` for one that was removed.
    keys: BTreeMap<String, [Option<Written>; 2]>,
}

#[derive(Clone, Debug)]
struct Written {
    value: Option<Bytes>,
    revision: u64,
    at: Moment,
}

#[derive(Debug)]
struct MemoryKv {
    inner: Arc<Inner>,
    name: String,
}

pub(super) fn open(inner: &Arc<Inner>, bucket: Bucket) -> Result<Arc<dyn Kv>, KvError> {
    inner.usable().map_err(|error| KvError::Unusable(error.to_string()))?;
    let name = bucket.name.clone();
    let fresh = BucketState { bucket, revision: 0, keys: BTreeMap::new() };
    inner.hub.world().buckets.entry(name.clone()).or_insert(fresh);
    Ok(Arc::new(MemoryKv { inner: Arc::clone(inner), name }))
}

impl BucketState {
    /// The newest value of a key, if it is there and not too old.
    fn living(&self, key: &str, now: Moment) -> Option<&Written> {
        self.alive(self.keys.get(key)?[0].as_ref()?, now)
    }

    fn alive<'a>(&self, written: &'a Written, now: Moment) -> Option<&'a Written> {
        let age_max = self.bucket.age_max;
        let expired = !age_max.is_zero() && now.since(written.at) >= age_max;
        (!expired && written.value.is_some()).then_some(written)
    }

    fn bytes(&self, now: Moment) -> usize {
        let living = self.keys.keys().filter_map(|key| self.living(key, now));
        living.filter_map(|written| written.value.as_ref()).map(Bytes::len).sum()
    }

    fn write(&mut self, key: &str, value: Option<Bytes>, now: Moment) -> Result<Revision, KvError> {
        let bytes = self.bytes(now) + value.as_ref().map_or(0, Bytes::len);
        let max = usize::try_from(self.bucket.bytes_max).ok().filter(|max| *max > 0);
        if max.is_some_and(|max| bytes > max) {
            return Err(KvError::Unusable("the bucket is full".to_owned()));
        }
        self.revision += 1;
        let revision = self.revision;
        let slot = self.keys.entry(key.to_owned()).or_default();
        let before = slot[0].take();
        *slot = [Some(Written { value, revision, at: now }), before];
        Ok(Revision(revision))
    }
}

impl MemoryKv {
    /// Does `act` to the bucket, unless something fails.
    async fn write(
        &self,
        act: impl FnOnce(&mut BucketState, Moment) -> Result<Revision, KvError> + Send,
    ) -> Result<Revision, KvError> {
        let Inner { hub, connection, .. } = &*self.inner;
        self.inner.usable().map_err(|error| KvError::Unusable(error.to_string()))?;
        tokio::time::sleep(hub.way(*connection)).await;
        let outcome = {
            let mut world = hub.world();
            let unknown = world.kv_faults.unknown;
            let unknown = unknown > 0.0 && world.random.random::<f64>() < unknown;
            let done = !unknown || world.random.random::<bool>();
            let now = hub.clock.now();
            let bucket = world.buckets.get_mut(&self.name).expect("made when it was opened");
            let outcome = if done { act(bucket, now) } else { Err(KvError::Unknown) };
            if unknown { Err(KvError::Unknown) } else { outcome }
        };
        tokio::time::sleep(hub.way(*connection)).await;
        // A connection that broke meanwhile brings no answer.
        self.inner.usable().map_err(|_| KvError::Unknown).and(outcome)
    }
}

impl Kv for MemoryKv {
    fn create(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>> {
        let key = key.to_owned();
        self.write(move |bucket, now| match bucket.living(&key, now) {
            Some(_) => Err(KvError::Exists),
            None => bucket.write(&key, Some(value), now),
        })
        .boxed()
    }

    fn update(
        &self,
        key: &str,
        value: Bytes,
        at: Revision,
    ) -> BoxFuture<'_, Result<Revision, KvError>> {
        let key = key.to_owned();
        self.write(move |bucket, now| match bucket.living(&key, now) {
            Some(written) if written.revision == at.0 => bucket.write(&key, Some(value), now),
            _ => Err(KvError::Stale),
        })
        .boxed()
    }

    fn delete(&self, key: &str, at: Revision) -> BoxFuture<'_, Result<(), KvError>> {
        let key = key.to_owned();
        let deleted = self.write(move |bucket, now| match bucket.living(&key, now) {
            Some(written) if written.revision == at.0 => bucket.write(&key, None, now),
            _ => Err(KvError::Stale),
        });
        async move { deleted.await.map(|_| ()) }.boxed()
    }

    fn keys(&self, prefix: &str) -> BoxFuture<'_, Result<Vec<String>, KvError>> {
        let prefix = prefix.to_owned();
        async move {
            let Inner { hub, connection, .. } = &*self.inner;
            self.inner.usable().map_err(|error| KvError::Unusable(error.to_string()))?;
            tokio::time::sleep(2 * hub.way(*connection)).await;
            let world = hub.world();
            let bucket = &world.buckets[&self.name];
            let now = hub.clock.now();
            let living = bucket.keys.keys().filter(|key| key.starts_with(&prefix));
            Ok(living.filter(|key| bucket.living(key, now).is_some()).cloned().collect())
        }
        .boxed()
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, KvError>> {
        let key = key.to_owned();
        async move {
            let Inner { hub, connection, .. } = &*self.inner;
            self.inner.usable().map_err(|error| KvError::Unusable(error.to_string()))?;
            tokio::time::sleep(2 * hub.way(*connection)).await;
            let mut world = hub.world();
            let stale = world.kv_faults.stale;
            let stale = stale > 0.0 && world.random.random::<f64>() < stale;
            let bucket = &world.buckets[&self.name];
            let Some(values) = bucket.keys.get(&key) else { return Ok(None) };
            let seen = values[usize::from(stale)].as_ref();
            let seen = seen.and_then(|written| bucket.alive(written, hub.clock.now()));
            Ok(seen.and_then(|Written { value, revision, .. }| {
                let value = value.clone()?;
                Some(Entry { value, revision: Revision(*revision) })
            }))
        }
        .boxed()
    }
}
