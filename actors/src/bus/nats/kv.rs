//! Buckets. Only the outcome of a write decides; what cannot be known is said to be unknown.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, context::KeyValueErrorKind, kv};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryStreamExt};

use super::super::{Bucket, Entry, Kv, KvError, Revision};
use super::Inner;

/// Longest wait for one answer of a bucket. The library's own bound starts only once it has found
/// room for the question.
const ANSWER_MAX: Duration = Duration::from_secs(5);

struct NatsKv {
    inner: Arc<Inner>,
    store: kv::Store,
}

impl fmt::Debug for NatsKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsKv").field("bucket", &self.store.name).finish_non_exhaustive()
    }
}

pub(super) async fn open(inner: Arc<Inner>, bucket: Bucket) -> Result<Arc<dyn Kv>, KvError> {
    let unusable = |error: &dyn fmt::Display| KvError::Unusable(error.to_string());
    let context = jetstream::new(inner.client.clone());
    let opened = inner.in_time(async {
        match context.get_key_value(&bucket.name).await {
            Err(error) if error.kind() == KeyValueErrorKind::GetBucket => {
                let config = kv::Config {
                    bucket: bucket.name.clone(),
                    history: 1,
                    max_age: bucket.age_max,
                    max_bytes: bucket.bytes_max,
                    storage: jetstream::stream::StorageType::File,
                    num_replicas: 1,
                    ..kv::Config::default()
                };
                // Whoever else made it in between made the same.
                let made = context.create_key_value(config).await;
                made.map_err(|error| unusable(&error))
            }
            other => other.map_err(|error| unusable(&error)),
        }
    });
    let store = opened.await.unwrap_or(Err(KvError::Unknown))?;
    Ok(Arc::new(NatsKv { inner, store }))
}

impl Inner {
    /// The outcome, or `None` when nobody knows it.
    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, KvError>>,
    ) -> Option<Result<T, KvError>> {
        if let Err(error) = self.connected() {
            return Some(Err(KvError::Unusable(error.to_string())));
        }
        let until = self.clock.instant(self.clock.now() + ANSWER_MAX);
        tokio::time::timeout_at(until, call).await.ok()
    }
}

impl Kv for NatsKv {
    fn create(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>> {
        let key = key.to_owned();
        async move {
            let call = async {
                let made = self.store.create(&key, value).await;
                made.map(Revision).map_err(|error| match error.kind() {
                    kv::CreateErrorKind::AlreadyExists => KvError::Exists,
                    kv::CreateErrorKind::InvalidKey => KvError::Unusable(error.to_string()),
                    _ => outcome(&error),
                })
            };
            self.inner.in_time(call).await.unwrap_or(Err(KvError::Unknown))
        }
        .boxed()
    }

    fn update(
        &self,
        key: &str,
        value: Bytes,
        at: Revision,
    ) -> BoxFuture<'_, Result<Revision, KvError>> {
        let key = key.to_owned();
        async move {
            let call = async {
                let written = self.store.update(&key, value, at.0).await;
                written.map(Revision).map_err(|error| refused(error.kind(), &error))
            };
            self.inner.in_time(call).await.unwrap_or(Err(KvError::Unknown))
        }
        .boxed()
    }

    fn delete(&self, key: &str, at: Revision) -> BoxFuture<'_, Result<(), KvError>> {
        let key = key.to_owned();
        async move {
            let call = async {
                let gone = self.store.delete_expect_revision(&key, Some(at.0)).await;
                gone.map_err(|error| refused(error.kind(), &error))
            };
            self.inner.in_time(call).await.unwrap_or(Err(KvError::Unknown))
        }
        .boxed()
    }

    fn keys(&self, prefix: &str) -> BoxFuture<'_, Result<Vec<String>, KvError>> {
        let prefix = prefix.to_owned();
        async move {
            let unusable = |error: &dyn fmt::Display| KvError::Unusable(error.to_string());
            let call = async {
                let all = self.store.keys().await.map_err(|error| unusable(&error))?;
                let all: Vec<String> = all.try_collect().await.map_err(|error| unusable(&error))?;
                let wanted = all.into_iter().filter(|key| key.starts_with(&prefix));
                // A key written meanwhile may come twice.
                Ok(wanted.collect::<BTreeSet<_>>().into_iter().collect())
            };
            let late = || Err(KvError::Unusable(format!("no answer in {ANSWER_MAX:?}")));
            self.inner.in_time(call).await.unwrap_or_else(late)
        }
        .boxed()
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, KvError>> {
        let key = key.to_owned();
        async move {
            let call = async {
                let found = self.store.entry(key).await;
                let found = found.map_err(|error| KvError::Unusable(error.to_string()))?;
                let put = found.filter(|entry| entry.operation == kv::Operation::Put);
                Ok(put
                    .map(|entry| Entry { value: entry.value, revision: Revision(entry.revision) }))
            };
            let late = || Err(KvError::Unusable(format!("no answer in {ANSWER_MAX:?}")));
            self.inner.in_time(call).await.unwrap_or_else(late)
        }
        .boxed()
    }
}

fn refused(kind: kv::UpdateErrorKind, error: &kv::UpdateError) -> KvError {
    match kind {
        kv::UpdateErrorKind::WrongLastRevision => KvError::Stale,
        kv::UpdateErrorKind::InvalidKey => KvError::Unusable(error.to_string()),
        kv::UpdateErrorKind::TimedOut | kv::UpdateErrorKind::Other => outcome(error),
    }
}

/// Whether the server said no, in which case nothing was written, or nothing at all.
fn outcome(error: &(dyn Error + 'static)) -> KvError {
    let mut causes = std::iter::successors(Some(error), |error| Error::source(*error));
    let no = causes.find_map(|cause| cause.downcast_ref::<jetstream::Error>());
    no.map_or(KvError::Unknown, |no| KvError::Unusable(no.to_string()))
}
