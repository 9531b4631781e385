//! Requests with an idempotency key: of all with one key one is done. Remembered by this process,
//! and claimed in a bucket where a repeat may reach another node or a later process.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join;
use sandpit_messages::codec::Codec;
use sandpit_messages::envelope::{IDEMPOTENCY_KEY, IdempotencyKey};
use sandpit_messages::id::NodeId;
use sandpit_messages::problem::Ran;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::subject::Request;
use sandpit_messages::time::Moment;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::{Call, Ports};
use crate::bus::idempotency::{Begun, Fingerprint, Keep, Keys, Limits, Scoped};
use crate::bus::{Bucket, Kv, KvError, Revision};
use crate::clock::Clock;
use crate::exec::cache::canonical;
use crate::shell::Ticket;

/// How long a claimed key is remembered.
const CLAIMS_AGE: Duration = Duration::from_secs(24 * 3_600);

/// Bytes of all claims.
const CLAIMS_BYTES: i64 = 256 * 1024 * 1024;

/// Bytes of an answer that is kept with its claim.
const CLAIMED_ANSWER_MAX: usize = 64 * 1024;

/// How often a claim is looked at that another node is working on.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The bucket in which keys are claimed.
pub fn bucket() -> Bucket {
    Bucket { name: "sandpit_idem".to_owned(), age_max: CLAIMS_AGE, bytes_max: CLAIMS_BYTES }
}

/// A request that is done once, however often it comes.
#[derive(Debug)]
pub(super) struct Idempotent {
    pub(super) key: Scoped,
    /// What it asks: another one with this key is another one's.
    pub(super) request: Fingerprint,
}

/// What makes a request one that is done once: its key. `None` where it has none.
///
/// # Errors
/// [`Refusal::Invalid`] for what is no key.
pub(super) fn idempotent<R: Request>(call: &Call, ask: &R) -> Result<Option<Idempotent>, Refusal> {
    let key = key_of(call)?;
    Ok(key.map(|key| Idempotent { key, request: fingerprint(ask) }))
}

/// What stands for a verb and its arguments, however they were written.
fn fingerprint<R: Request>(ask: &R) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update(R::VERB.as_str());
    hash.update([0]);
    if let Ok(value) = serde_json::to_value(ask) {
        hash.update(canonical(&value));
    }
    hash.finalize().into()
}

/// The answer of the first, as it is kept: MessagePack, or why not.
type Kept = Result<Bytes, Refusal>;

#[derive(Clone)]
pub(super) struct Keyed {
    clock: Clock,
    node: NodeId,
    run: u64,
    bucket: Option<Arc<dyn Kv>>,
    memory: Arc<Mutex<Memory>>,
}

struct Memory {
    keys: Keys<Kept>,
    waiting: BTreeMap<Ticket, oneshot::Sender<Kept>>,
    tickets: u64,
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed")
    }
}

/// What becomes of a key whose request was dropped unanswered.
#[derive(Clone, Copy)]
enum Dropped {
    /// It left nothing behind: the next one is a first again.
    IsForgotten,
    /// Nobody knows what it did: the same answer to all.
    IsUnknown,
}

impl Keyed {
    pub(super) fn new(ports: &Ports, limits: Limits) -> Self {
        let Ports { clock, node, run, keys, .. } = ports;
        let keyed = Keys::new(limits);
        let memory = Memory { keys: keyed, waiting: BTreeMap::new(), tickets: 0 };
        Self {
            clock: *clock,
            node: *node,
            run: *run,
            bucket: keys.clone(),
            memory: Arc::new(Mutex::new(memory)),
        }
    }

    /// Does `work` once for its key, as far as this process knows. For what concerns one sandbox:
    /// its owner hears every repeat.
    pub(super) async fn once_here<R: Request>(
        &self,
        asked: Option<Idempotent>,
        work: impl Future<Output = Result<R::Reply, Refusal>>,
    ) -> Result<R::Reply, Refusal> {
        let Some(asked) = asked else { return work.await };
        self.once::<R>(asked, Dropped::IsUnknown, Box::pin(work)).await
    }

    /// The same for what makes something new: the key is claimed first, so that a repeat on
    /// another node or after a restart is noticed.
    pub(super) async fn once_claimed<R: Request>(
        &self,
        asked: Option<Idempotent>,
        until: Moment,
        work: impl Future<Output = Result<R::Reply, Refusal>>,
    ) -> Result<R::Reply, Refusal> {
        let Some(asked) = asked else { return work.await };
        let work = Box::pin(work);
        let Some(bucket) = self.bucket.clone() else {
            return self.once::<R>(asked, Dropped::IsForgotten, work).await;
        };
        let (name, request) = (claim_name(&asked.key), asked.request);
        let claimed = async {
            match self.claim(&*bucket, &name, request, until).await? {
                Claimed::ByOther(answer) => read::<R>(&Ok(answer)),
                Claimed::Ours(revision) => {
                    let answer = work.await;
                    self.settle_claim::<R>(bucket, name, request, revision, &answer);
                    answer
                }
            }
        };
        self.once::<R>(asked, Dropped::IsForgotten, Box::pin(claimed)).await
    }

    /// The same, claiming and working at the same time: for work that `undo` takes back.
    pub(super) async fn once_claimed_meanwhile<R: Request>(
        &self,
        asked: Idempotent,
        until: Moment,
        work: impl Future<Output = Result<R::Reply, Refusal>>,
        undo: impl FnOnce(R::Reply),
    ) -> Result<R::Reply, Refusal> {
        let work = Box::pin(work);
        let Some(bucket) = self.bucket.clone() else {
            return self.once::<R>(asked, Dropped::IsForgotten, work).await;
        };
        let (name, request) = (claim_name(&asked.key), asked.request);
        let claimed = async {
            let claiming = self.claim(&*bucket, &name, request, until);
            let (claimed, answer) = join(claiming, work).await;
            match claimed {
                Ok(Claimed::Ours(revision)) => {
                    self.settle_claim::<R>(bucket, name, request, revision, &answer);
                    answer
                }
                Ok(Claimed::ByOther(first)) => {
                    // Nothing of a no has to be taken back.
                    let _ = answer.map(undo);
                    read::<R>(&Ok(first))
                }
                Err(refusal) => {
                    let _ = answer.map(undo);
                    Err(refusal)
                }
            }
        };
        self.once::<R>(asked, Dropped::IsForgotten, Box::pin(claimed)).await
    }

    async fn once<R: Request>(
        &self,
        Idempotent { key, request }: Idempotent,
        dropped: Dropped,
        // A future that takes another one by value has room for it twice.
        work: Pin<Box<impl Future<Output = Result<R::Reply, Refusal>>>>,
    ) -> Result<R::Reply, Refusal> {
        let (begun, answered) = {
            let mut memory = self.memory();
            let ticket = Ticket(memory.tickets);
            memory.tickets += 1;
            let begun = memory.keys.begin(self.clock.now(), ticket, &key, request);
            let (tell, answered) = oneshot::channel();
            if begun == Begun::Wait {
                memory.waiting.insert(ticket, tell);
            }
            (begun, answered)
        };
        match begun {
            Begun::First => {
                let mut owed = Owed { keyed: self, key, dropped, settled: false };
                let answer = work.await;
                owed.settle(kept::<R>(&answer));
                answer
            }
            // The deadline of whoever waits is the bus's affair.
            Begun::Wait => match answered.await {
                Ok(kept) => read::<R>(&kept),
                Err(_) => Err(Refusal::Interrupted),
            },
            Begun::Again(kept) => read::<R>(&kept),
            Begun::Reused => Err(Refusal::KeyReused),
            Begun::Full => {
                let waiting = self.memory().keys.len();
                Err(Refusal::Busy { waiting, retry_after: LOOK_PAUSE })
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Whoever panicked here did so between two whole steps.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(
        &self,
        bucket: &dyn Kv,
        name: &str,
        request: Fingerprint,
        until: Moment,
    ) -> Result<Claimed, Refusal> {
        let running = self.record(request, State::Running);
        loop {
            match bucket.create(name, running.clone()).await {
                Ok(revision) => return Ok(Claimed::Ours(revision)),
                // Also after an unknown outcome only the record says whose it is.
                Err(KvError::Exists | KvError::Stale | KvError::Unknown) => (),
                Err(KvError::Unusable(why)) => return Err(unusable(&why)),
            }
            match bucket.get(name).await {
                Ok(None) => (),
                Ok(Some(entry)) => {
                    let claim: Claim = serde_json::from_slice(&entry.value)
                        .map_err(|error| unusable(&error.to_string()))?;
                    match claim.judged(self, request)? {
                        Judged::Answered(answer) => return Ok(Claimed::ByOther(answer)),
                        Judged::Ours => return Ok(Claimed::Ours(entry.revision)),
                        // What an earlier process of this node began ended with it.
                        Judged::Left => {
                            let taken = bucket.update(name, running.clone(), entry.revision).await;
                            if let Ok(revision) = taken {
                                return Ok(Claimed::Ours(revision));
                            }
                        }
                        Judged::UnderWay => (),
                    }
                }
                Err(error) => return Err(unusable(&error.to_string())),
            }
            if until <= self.clock.now() + LOOK_PAUSE {
                return Err(Refusal::Busy { waiting: 1, retry_after: LOOK_PAUSE });
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Writes the answer to the claim, or takes the claim back if nothing was done. Not waited
    /// for: until it is written a repeat meets this process, which remembers.
    fn settle_claim<R: Request>(
        &self,
        bucket: Arc<dyn Kv>,
        name: String,
        request: Fingerprint,
        at: Revision,
        answer: &Result<R::Reply, Refusal>,
    ) {
        let record = match kept::<R>(answer) {
            Ok(answer) if answer.len() <= CLAIMED_ANSWER_MAX => {
                Some(self.record(request, State::Answered(STANDARD.encode(answer))))
            }
            Ok(_) => Some(self.record(request, State::TooLarge)),
            Err(_) => None,
        };
        tokio::spawn(async move {
            let written = match record {
                Some(record) => bucket.update(&name, record, at).await.map(drop),
                None => bucket.delete(&name, at).await,
            };
            if let Err(error) = written {
                tracing::debug!(%error, "the answer to a claimed key was not recorded");
            }
        });
    }

    fn record(&self, request: Fingerprint, state: State) -> Bytes {
        let Self { node, run, .. } = self;
        let claim = Claim { request: hex(&request), node: *node, run: *run, state };
        Codec::Json.encode(&claim).into()
    }
}

/// The first with a key owes its answer to those who wait for it.
struct Owed<'a> {
    keyed: &'a Keyed,
    key: Scoped,
    dropped: Dropped,
    settled: bool,
}

impl Owed<'_> {
    fn settle(&mut self, kept: Kept) {
        let keep = match &kept {
            Err(refusal) if refusal.problem().ran == Ran::No => Keep::Forget,
            _ => Keep::Remember,
        };
        self.finish(kept, keep);
    }

    fn finish(&mut self, kept: Kept, keep: Keep) {
        self.settled = true;
        let bytes = kept.as_ref().map_or(0, Bytes::len);
        let now = self.keyed.clock.now();
        let mut memory = self.keyed.memory();
        let told = memory.keys.finish(now, &self.key, kept.clone(), bytes, keep);
        for ticket in told {
            if let Some(waiting) = memory.waiting.remove(&ticket) {
                // Whoever hung up asks again, or does not want to know.
                let _ = waiting.send(kept.clone());
            }
        }
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let keep = match self.dropped {
                Dropped::IsForgotten => Keep::Forget,
                Dropped::IsUnknown => Keep::Remember,
            };
            self.finish(Err(Refusal::Unfinished), keep);
        }
    }
}

/// Who does what a key stands for.
enum Claimed {
    Ours(Revision),
    /// Done already, with this answer.
    ByOther(Bytes),
}

/// A claim as it is kept in the bucket.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    request: String,
    node: NodeId,
    run: u64,
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Running,
    /// MessagePack in base64.
    Answered(String),
    /// Done, with an answer that was too large to be kept.
    TooLarge,
}

enum Judged {
    Answered(Bytes),
    Ours,
    Left,
    UnderWay,
}

impl Claim {
    fn judged(self, keyed: &Keyed, request: Fingerprint) -> Result<Judged, Refusal> {
        if self.request != hex(&request) {
            return Err(Refusal::KeyReused);
        }
        match self.state {
            State::Answered(text) => {
                let answer = STANDARD.decode(text).map_err(|error| unusable(&error.to_string()))?;
                Ok(Judged::Answered(answer.into()))
            }
            State::TooLarge => {
                let what = format!("repeating an answer of over {CLAIMED_ANSWER_MAX} bytes");
                Err(Refusal::Unsupported { what })
            }
            State::Running if self.node != keyed.node => Ok(Judged::UnderWay),
            State::Running if self.run != keyed.run => Ok(Judged::Left),
            State::Running => Ok(Judged::Ours),
        }
    }
}

fn key_of(call: &Call) -> Result<Option<Scoped>, Refusal> {
    let of_headers = call.request.message.headers.get(IDEMPOTENCY_KEY);
    let of_arguments = call.key.get().map(String::as_str);
    let Some(text) = of_headers.or(of_arguments) else { return Ok(None) };
    let key: Result<IdempotencyKey, _> = text.parse();
    let key = key.map_err(|error| Refusal::Invalid {
        field: IDEMPOTENCY_KEY,
        came: text.chars().take(64).collect(),
        expected: error.to_string(),
    })?;
    Ok(Some((call.tenant.clone(), key)))
}

/// A tenant's keys are its own, and a key of a bucket holds fewer characters than ours.
fn claim_name((tenant, key): &Scoped) -> String {
    let digest: [u8; 32] = Sha256::digest(key.as_str()).into();
    format!("{}.{}", tenant.as_str(), hex(&digest))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unusable(why: &str) -> Refusal {
    tracing::warn!(why, "idempotency keys cannot be claimed");
    Refusal::Unsettled { what: "the record of idempotency keys" }
}

fn kept<R: Request>(answer: &Result<R::Reply, Refusal>) -> Kept {
    match answer {
        Ok(reply) => Ok(Codec::MessagePack.encode(reply).into()),
        Err(refusal) => Err(refusal.clone()),
    }
}

fn read<R: Request>(kept: &Kept) -> Result<R::Reply, Refusal> {
    match kept {
        Ok(bytes) => Codec::MessagePack.decode(bytes),
        Err(refusal) => Err(refusal.clone()),
    }
}
