//! What is to survive a restart, in a bucket: one key for each, written by one node alone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::codec::Codec;
use sandpit_messages::id::NodeId;
use sandpit_messages::refusal::Refusal;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bus::{Bucket, Kv, KvError};

/// Bytes of all records.
const BYTES_MAX: i64 = 64 * 1024 * 1024;

/// How often a write is tried whose outcome nobody learned. A key has one writer, so anything but
/// an unknown outcome settles it in two.
const TRIES_MAX: usize = 5;

/// The bucket in which deployments and swarms are recorded. They stay until they are removed.
pub fn bucket() -> Bucket {
    Bucket { name: "sandpit_fleet".to_owned(), age_max: Duration::ZERO, bytes_max: BYTES_MAX }
}

/// The records of one kind, of one node.
#[derive(Clone)]
pub(crate) struct Records {
    bucket: Option<Arc<dyn Kv>>,
    prefix: String,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({})", self.prefix)
    }
}

impl Records {
    /// Of this kind and node. Without a bucket nothing is written and nothing survives.
    pub(crate) fn new(bucket: Option<Arc<dyn Kv>>, node: NodeId, kind: &str) -> Self {
        Self { bucket, prefix: format!("{node}.{kind}.") }
    }

    /// All of them, by the last word of their key. What cannot be read is left alone, and said.
    pub(crate) async fn all<T: DeserializeOwned>(&self) -> Result<Vec<(String, T)>, KvError> {
        let Some(bucket) = &self.bucket else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for key in bucket.keys(&self.prefix).await? {
            let Some(entry) = bucket.get(&key).await? else { continue };
            let name = key.trim_start_matches(&self.prefix).to_owned();
            match Codec::Json.decode(&entry.value) {
                Ok(record) => all.push((name, record)),
                Err(refusal) => tracing::error!(key, %refusal, "a record cannot be read; it stays"),
            }
        }
        Ok(all)
    }

    /// Writes one.
    pub(crate) async fn put<T: Serialize>(&self, name: &str, record: &T) -> Result<(), Refusal> {
        self.settle(name, Some(Codec::Json.encode(record).into())).await
    }

    /// Removes one.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), Refusal> {
        self.settle(name, None).await
    }

    async fn settle(&self, name: &str, wanted: Option<Bytes>) -> Result<(), Refusal> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let key = format!("{}{name}", self.prefix);
        let mut last = KvError::Unknown;
        for _ in 0..TRIES_MAX {
            let found = match bucket.get(&key).await {
                Ok(found) => found,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let outcome = match (found, &wanted) {
                (None, None) => return Ok(()),
                (Some(entry), Some(value)) if entry.value == *value => return Ok(()),
                (None, Some(value)) => bucket.create(&key, value.clone()).await.map(drop),
                (Some(entry), Some(value)) => {
                    bucket.update(&key, value.clone(), entry.revision).await.map(drop)
                }
                (Some(entry), None) => bucket.delete(&key, entry.revision).await,
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        tracing::warn!(key, error = %last, "a record could not be written");
        Err(Refusal::Unsettled { what: "the record of deployments and swarms" })
    }
}
