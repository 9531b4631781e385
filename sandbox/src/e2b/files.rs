//! Files of sandboxes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::Frame;
use reqwest::header::{CONTENT_TYPE, RANGE};
use reqwest::{Method, RequestBuilder};
use sandpit_messages::id::SandboxId;
use serde::Serialize;
use tokio::sync::mpsc;

use super::http::{Answer, ask, broken, send, whole};
use super::known::Remote;
use super::stream::{Messages, Piece, fault_of};
use super::wire::filesystem::{
    Entry as Told, EntryResponse, EventType, FileType, ListDirRequest, ListDirResponse,
    MoveRequest, PathRequest, SERVICE, WatchRequest, WatchResponse,
};
use super::wire::{ENVD_PORT, OCTETS, header, words};
use super::{Cloud, E2b};
use crate::ProviderError;
use crate::provider::files::{
    Body, Change, ChangeKind, Entry, EntryKind, FileFault, Files, Pieces, Range, Reading, Watching,
};

/// Pieces of a file, or changes of a directory, that wait for whoever reads them.
const PIECES_ROOM: usize = 16;

/// Pieces that come, as the body of a request.
struct Sent(Pieces);

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = ProviderError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProviderError>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

impl Cloud {
    /// A call to the file API whose answer is one of its own.
    async fn file<T: serde::de::DeserializeOwned>(
        &self,
        sandbox: SandboxId,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ProviderError> {
        let remote = self.open(sandbox).await?;
        let answer = self.unary(&remote, &format!("{SERVICE}{method}"), body).await?;
        if answer.is_success() {
            return answer.read();
        }
        Err(self.file_fault(sandbox, path, &answer))
    }

    fn file_fault(&self, sandbox: SandboxId, path: &str, answer: &Answer) -> ProviderError {
        let fault = answer.connect_error().and_then(|error| words::file_fault(&error));
        match fault {
            Some(fault) if answer.status != 502 => {
                ProviderError::File { path: path.to_owned(), fault }
            }
            _ => self.unary_fault(sandbox, answer),
        }
    }

    /// What a plain path of the file API refuses.
    fn plain_fault(&self, sandbox: SandboxId, path: &str, answer: &Answer) -> ProviderError {
        let refused = answer.fault(Some(sandbox));
        let fault = match answer.status {
            404 => Some(FileFault::Missing),
            400 => Some(words::text_fault(&refused.to_string()).unwrap_or(FileFault::Invalid)),
            507 => Some(FileFault::Full),
            _ => None,
        };
        match fault {
            Some(fault) => ProviderError::File { path: path.to_owned(), fault },
            None => self.noted(sandbox, refused),
        }
    }

    /// A request to the plain path of one file.
    fn file_request(
        &self,
        remote: &Remote,
        method: Method,
        path: &str,
    ) -> Result<RequestBuilder, ProviderError> {
        let request = self.data(remote, ENVD_PORT, method, "/files");
        let (client, request) = request.build_split();
        let mut request =
            request.map_err(|error| ProviderError::Refused { why: error.to_string() })?;
        request.url_mut().query_pairs_mut().append_pair("path", path);
        Ok(RequestBuilder::from_parts(client, request))
    }

    /// Writes a file whole.
    pub(super) async fn write_file(
        &self,
        sandbox: SandboxId,
        remote: &Remote,
        path: &str,
        contents: Body,
        metadata: &[(String, String)],
    ) -> Result<(), ProviderError> {
        let mut request = self.file_request(remote, Method::POST, path)?;
        for (key, value) in metadata {
            request = request.header(format!("{}{key}", header::METADATA_PREFIX), value);
        }
        let body = match contents {
            Body::Whole(bytes) => reqwest::Body::from(bytes),
            Body::Streamed(pieces) => reqwest::Body::wrap(Sent(pieces)),
        };
        let answer = ask(request.header(CONTENT_TYPE, OCTETS).body(body)).await?;
        if answer.is_success() { Ok(()) } else { Err(self.plain_fault(sandbox, path, &answer)) }
    }

    async fn stat(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError> {
        let body = PathRequest { path: path.to_owned() };
        let told: EntryResponse = self.file(sandbox, "Stat", path, &body).await?;
        Ok(entry(told.entry))
    }
}

fn entry(told: Told) -> Entry {
    Entry {
        kind: match told.kind {
            FileType::File => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Unspecified => EntryKind::Other,
        },
        name: told.name,
        path: told.path,
        size: told.size,
        mode: told.mode,
        owner: told.owner,
        group: told.group,
        modified: Duration::from_micros(told.modified_time.0),
        symlink_target: told.symlink_target,
        metadata: told.metadata,
    }
}

#[async_trait]
impl Files for E2b {
    async fn stat(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError> {
        self.0.stat(sandbox, path).await
    }

    async fn list(
        &self,
        sandbox: SandboxId,
        path: &str,
        depth: u32,
    ) -> Result<Vec<Entry>, ProviderError> {
        let body = ListDirRequest { path: path.to_owned(), depth };
        let told: ListDirResponse = self.0.file(sandbox, "ListDir", path, &body).await?;
        Ok(told.entries.into_iter().map(entry).collect())
    }

    async fn read(
        &self,
        sandbox: SandboxId,
        path: &str,
        range: Range,
    ) -> Result<Reading, ProviderError> {
        let entry = self.0.stat(sandbox, path).await?;
        let rest = entry.size.saturating_sub(range.start);
        let length = range.length.map_or(rest, |most| most.min(rest));
        let (sender, pieces) = mpsc::channel(PIECES_ROOM);
        if entry.kind == EntryKind::File && length == 0 {
            return Ok(Reading { entry, length, pieces });
        }
        let remote = self.0.open(sandbox).await?;
        let mut request = self.0.file_request(&remote, Method::GET, path)?;
        if length < entry.size {
            let last = range.start + length.max(1) - 1;
            request = request.header(RANGE, format!("bytes={}-{last}", range.start));
        }
        let mut response = send(request).await?;
        if !response.status().is_success() {
            let answer = whole(response).await?;
            return Err(self.0.plain_fault(sandbox, path, &answer));
        }
        // A server that knows no ranges sends all of it.
        let skipped = if response.status().as_u16() == 206 { 0 } else { range.start };
        let reading = async move {
            let (mut skip, mut left) = (skipped, length);
            while left > 0 {
                let piece = match response.chunk().await {
                    Ok(Some(piece)) => cut(piece, &mut skip, &mut left),
                    Ok(None) => {
                        let why = "the file broke off".to_owned();
                        Err(ProviderError::Failed { why, maybe_done: false })
                    }
                    Err(error) => Err(broken(&error)),
                };
                let over = piece.is_err();
                if sender.send(piece).await.is_err() || over {
                    return;
                }
            }
        };
        tokio::spawn(reading);
        Ok(Reading { entry, length, pieces })
    }

    async fn write(
        &self,
        sandbox: SandboxId,
        path: &str,
        contents: Body,
        metadata: BTreeMap<String, String>,
    ) -> Result<Entry, ProviderError> {
        let remote = self.0.open(sandbox).await?;
        let metadata: Vec<_> = metadata.into_iter().collect();
        self.0.write_file(sandbox, &remote, path, contents, &metadata).await?;
        self.0.stat(sandbox, path).await
    }

    async fn make_dir(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError> {
        let body = PathRequest { path: path.to_owned() };
        let told: EntryResponse = self.0.file(sandbox, "MakeDir", path, &body).await?;
        Ok(entry(told.entry))
    }

    async fn rename(
        &self,
        sandbox: SandboxId,
        source: &str,
        destination: &str,
    ) -> Result<Entry, ProviderError> {
        let body = MoveRequest { source: source.to_owned(), destination: destination.to_owned() };
        let told: EntryResponse = self.0.file(sandbox, "Move", source, &body).await?;
        Ok(entry(told.entry))
    }

    async fn remove(&self, sandbox: SandboxId, path: &str) -> Result<(), ProviderError> {
        let body = PathRequest { path: path.to_owned() };
        let _: serde_json::Value = self.0.file(sandbox, "Remove", path, &body).await?;
        Ok(())
    }

    async fn watch(
        &self,
        sandbox: SandboxId,
        path: &str,
        recursive: bool,
    ) -> Result<Watching, ProviderError> {
        let remote = self.0.open(sandbox).await?;
        let body = WatchRequest { path: path.to_owned(), recursive, ..WatchRequest::default() };
        let method = format!("{SERVICE}WatchDir");
        let mut messages = self.0.stream(sandbox, &remote, &method, &body, None).await?;
        match messages.next::<WatchResponse>().await? {
            Piece::End(Some(error)) => {
                return Err(words::file_fault(&error).map_or_else(
                    || fault_of(&error, sandbox),
                    |fault| ProviderError::File { path: path.to_owned(), fault },
                ));
            }
            Piece::Message(_) | Piece::End(None) => (),
        }
        let (changes, watching) = mpsc::channel(PIECES_ROOM);
        tokio::spawn(watch(messages, changes));
        Ok(watching)
    }
}

/// What of a piece belongs to the range that is wanted.
fn cut(mut piece: Bytes, skip: &mut u64, left: &mut u64) -> Result<Bytes, ProviderError> {
    let length = |bytes: &Bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let before = (*skip).min(length(&piece));
    *skip -= before;
    let taken = (*left).min(length(&piece) - before);
    *left -= taken;
    let (before, taken) = (usize::try_from(before), usize::try_from(taken));
    piece = piece.slice(before.expect("within the piece")..);
    piece.truncate(taken.expect("within the piece"));
    Ok(piece)
}

/// Passes on what changes, until nobody listens or the stream ends.
async fn watch(mut messages: Messages, changes: mpsc::Sender<Result<Change, ProviderError>>) {
    loop {
        let piece = tokio::select! {
            piece = messages.next::<WatchResponse>() => piece,
            () = changes.closed() => return,
        };
        let change = match piece {
            Ok(Piece::Message(WatchResponse::Filesystem(event))) => {
                let kind = match event.kind {
                    EventType::Create => ChangeKind::Created,
                    EventType::Write => ChangeKind::Written,
                    EventType::Remove => ChangeKind::Removed,
                    EventType::Rename => ChangeKind::Renamed,
                    EventType::Chmod | EventType::Unspecified => ChangeKind::Changed,
                };
                Ok(Change { name: event.name, kind })
            }
            Ok(Piece::Message(WatchResponse::Start {} | WatchResponse::Keepalive {})) => continue,
            Ok(Piece::End(Some(error))) => match error.code {
                super::wire::fault::Code::DataLoss => {
                    Ok(Change { name: String::new(), kind: ChangeKind::Lost })
                }
                _ => Err(fault_of(&error, messages.sandbox())),
            },
            Ok(Piece::End(None)) => return,
            Err(error) => Err(error),
        };
        let over = change.is_err();
        if changes.send(change).await.is_err() || over {
            return;
        }
    }
}
