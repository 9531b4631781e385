//! Files of sandboxes. The engine opens none of them: each call is a job inside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use tokio::sync::mpsc;

use super::super::job::{Facts, Job, Kind, Said};
use super::super::plan::USER;
use super::job::{self, Work};
use super::sandbox::Sandbox;
use super::{LocalProvider, watches};
use crate::provider::ProviderError;
use crate::provider::files::{Body, Entry, EntryKind, Files, Pieces, Range, Reading, Watching};

mod path;

pub(super) use path::absolute;

/// Bytes that a directory may fill with what is said about its entries. 30,000 of usual length,
/// which is about as many as a sandbox may make.
const LISTING_MAX: u64 = 16 * 1024 * 1024;

/// Pieces of a file that wait for their reader.
const PIECES_MAX: usize = 4;

/// Longest a reader may not read, and a writer may send nothing.
const STALLED_MAX: Duration = Duration::from_secs(50);

/// Bytes of all keys and values of one file's metadata, and of one key: what fits beside its
/// prefix into the name of an extended attribute.
const METADATA_MAX: usize = 4_096;
const KEY_MAX: usize = 246;

#[async_trait]
impl Files for LocalProvider {
    async fn stat(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        entry_of(&sandbox, path, &Job::Stat { path: absolute(path)? }).await
    }

    async fn list(
        &self,
        sandbox: SandboxId,
        path: &str,
        depth: u32,
    ) -> Result<Vec<Entry>, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let wanted = Job::List { path: absolute(path)?, depth: depth.max(1) };
        let mut work = job::begin(&sandbox, &wanted, None).await?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        loop {
            match work.answer().await? {
                Said::Entries(batch) => {
                    bytes += batch.iter().map(size_of_facts).sum::<u64>();
                    if bytes > LISTING_MAX {
                        let (what, max) = ("listing", LISTING_MAX);
                        return Err(ProviderError::TooLarge { what, bytes, max });
                    }
                    entries.extend(batch.into_iter().map(entry));
                }
                Said::Done => return Ok(entries),
                other => return Err(unexpected(other, path)),
            }
        }
    }

    async fn read(
        &self,
        sandbox: SandboxId,
        path: &str,
        range: Range,
    ) -> Result<Reading, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let Range { start, length } = range;
        let wanted = Job::Read { path: absolute(path)?, start, length };
        let mut work = job::begin(&sandbox, &wanted, None).await?;
        let (facts, length) = match work.answer().await? {
            Said::Contents { entry, length } => (entry, length),
            other => return Err(unexpected(other, path)),
        };
        let max = self.engine.options.bounds.file_bytes;
        if length > max {
            return Err(ProviderError::TooLarge { what: "file", bytes: length, max });
        }
        work.let_pause();
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let reading = Reading { entry: entry(facts), length, pieces };
        tokio::spawn(pass(work, length, sender));
        Ok(reading)
    }

    async fn write(
        &self,
        sandbox: SandboxId,
        path: &str,
        contents: Body,
        metadata: BTreeMap<String, String>,
    ) -> Result<Entry, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        check_metadata(&metadata)?;
        let max = self.engine.options.bounds.file_bytes;
        let too_large = |bytes| ProviderError::TooLarge { what: "file", bytes, max };
        if let Body::Whole(bytes) = &contents
            && bytes.len() as u64 > max
        {
            return Err(too_large(bytes.len() as u64));
        }
        let wanted = Job::Write { path: absolute(path)?, metadata };
        let mut work = job::begin(&sandbox, &wanted, None).await?;
        if matches!(contents, Body::Streamed(_)) {
            work.let_pause();
        }
        let mut sent = 0;
        let sending = async {
            match contents {
                Body::Whole(bytes) => send_piece(&work, &bytes).await?,
                Body::Streamed(mut pieces) => {
                    while let Some(piece) = next(&mut pieces).await? {
                        sent += piece.len() as u64;
                        if sent > max {
                            return Err(too_large(sent));
                        }
                        send_piece(&work, &piece).await?;
                    }
                }
            }
            work.send(&0_u32.to_le_bytes()).await
        };
        let sending = tokio::select! {
            biased;
            sent = sending => sent,
            // It gives up before all was sent, and says why.
            () = work.interrupts() => Ok(()),
        };
        // Who cannot take more has said why, too.
        let answer = match sending {
            Ok(()) | Err(ProviderError::Failed { .. }) => work.answer().await?,
            Err(error) => return Err(error),
        };
        match answer {
            Said::Entry(facts) => Ok(entry(facts)),
            Said::Failed { errno: libc::EFBIG, .. } => Err(too_large(sent.max(max + 1))),
            other => Err(unexpected(other, path)),
        }
    }

    async fn make_dir(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        entry_of(&sandbox, path, &Job::MakeDir { path: absolute(path)? }).await
    }

    async fn rename(
        &self,
        sandbox: SandboxId,
        source: &str,
        destination: &str,
    ) -> Result<Entry, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let wanted = Job::Rename { source: absolute(source)?, destination: absolute(destination)? };
        match job::begin(&sandbox, &wanted, None).await?.answer().await? {
            Said::Entry(facts) => Ok(entry(facts)),
            Said::Failed { errno, second: true } => Err(job::fault(errno, destination)),
            other => Err(unexpected(other, source)),
        }
    }

    async fn remove(&self, sandbox: SandboxId, path: &str) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let wanted = Job::Remove { path: absolute(path)? };
        match job::begin(&sandbox, &wanted, None).await?.answer().await? {
            Said::Done => Ok(()),
            other => Err(unexpected(other, path)),
        }
    }

    async fn watch(
        &self,
        sandbox: SandboxId,
        path: &str,
        recursive: bool,
    ) -> Result<Watching, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        watches::watch(&self.engine, &sandbox, absolute(path)?, path, recursive).await
    }
}

/// Does a job that is answered with an entry.
async fn entry_of(
    sandbox: &Arc<Sandbox>,
    path: &str,
    wanted: &Job,
) -> Result<Entry, ProviderError> {
    match job::begin(sandbox, wanted, None).await?.answer().await? {
        Said::Entry(facts) => Ok(entry(facts)),
        other => Err(unexpected(other, path)),
    }
}

/// An answer that is none.
fn unexpected(said: Said, path: &str) -> ProviderError {
    match said {
        Said::Failed { errno, .. } => job::fault(errno, path),
        _ => job::another_question(),
    }
}

/// Passes a file on to whoever reads it.
async fn pass(mut work: Work, mut left: u64, to: mpsc::Sender<Result<Bytes, ProviderError>>) {
    while left > 0 {
        let piece = work.piece(left).await;
        let ended = piece.is_err();
        left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        // A reader who is gone or does not read ends it.
        if to.send_timeout(piece, STALLED_MAX).await.is_err() || ended {
            return;
        }
    }
}

async fn next(pieces: &mut Pieces) -> Result<Option<Bytes>, ProviderError> {
    let late = |_| ProviderError::Timeout { maybe_done: false };
    tokio::time::timeout(STALLED_MAX, pieces.recv()).await.map_err(late)?.transpose()
}

/// Sends some of a file. Nothing would be taken for its end.
async fn send_piece(work: &Work, bytes: &[u8]) -> Result<(), ProviderError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let length = u32::try_from(bytes.len()).map_err(|_| ProviderError::TooLarge {
        what: "piece of a file",
        bytes: bytes.len() as u64,
        max: u64::from(u32::MAX),
    })?;
    work.send(&length.to_le_bytes()).await?;
    work.send(bytes).await
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), ProviderError> {
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > METADATA_MAX {
        let (what, max) = ("metadata", METADATA_MAX as u64);
        return Err(ProviderError::TooLarge { what, bytes: bytes as u64, max });
    }
    let key =
        metadata.keys().find(|key| key.is_empty() || key.len() > KEY_MAX || key.contains('\0'));
    key.map_or(Ok(()), |key| {
        let why = format!("a key of metadata has 1 to {KEY_MAX} bytes, this one {}", key.len());
        Err(ProviderError::Refused { why })
    })
}

fn size_of_facts(facts: &Facts) -> u64 {
    let metadata = facts.metadata.iter().map(|(key, value)| key.len() + value.len());
    let text = facts.path.len() + facts.target.as_ref().map_or(0, String::len);
    (text + metadata.sum::<usize>() + size_of::<Entry>()) as u64
}

fn entry(facts: Facts) -> Entry {
    let name = facts.path.rsplit('/').next().unwrap_or_default().to_owned();
    Entry {
        name,
        kind: match facts.kind {
            Kind::File => EntryKind::File,
            Kind::Directory => EntryKind::Directory,
            Kind::Symlink => EntryKind::Symlink,
            Kind::Other => EntryKind::Other,
        },
        size: facts.size,
        mode: facts.mode,
        // As the user database inside calls them.
        owner: if facts.uid == USER { "user" } else { "nobody" }.to_owned(),
        group: if facts.gid == USER { "user" } else { "nogroup" }.to_owned(),
        modified: Duration::from_nanos(facts.modified_ns),
        symlink_target: facts.target,
        metadata: facts.metadata,
        path: facts.path,
    }
}
