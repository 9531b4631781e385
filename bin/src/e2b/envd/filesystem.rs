//! Files and directories: looked at, moved, removed and watched.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::e2b::wire::Timestamp;
use sandpit_sandbox::e2b::wire::fault::{Code, ConnectError};
use sandpit_sandbox::e2b::wire::filesystem::{
    Entry, EntryResponse, Event, EventType, FileType, ListDirRequest, ListDirResponse, MoveRequest,
    PathRequest, WatchRequest, WatchResponse, Watcher, WatcherEvents,
};
use sandpit_sandbox::provider::files::{self, Change, ChangeKind, EntryKind, FileFault, Watching};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::Shared;
use super::stream::{self, Answering};
use super::watchers::Kept;
use super::{Call, answer, asked, told, unknown};

/// Calls that are answered at once.
pub(super) async fn unary(
    call: &Call,
    method: &str,
    request: Request,
) -> Result<Value, ConnectError> {
    let sandbox = call.sandbox();
    let files = call.shared.provider().files().map_err(|error| answer::connect(&error))?;
    let failed = |error| answer::connect(&error);
    match method {
        "Stat" => {
            let PathRequest { path } = asked(request).await?;
            let found = files.stat(sandbox, &path).await.map_err(failed)?;
            told(&EntryResponse { entry: entry(found) })
        }
        "ListDir" => {
            let ListDirRequest { path, depth } = asked(request).await?;
            let found = files.list(sandbox, &path, depth.max(1)).await.map_err(failed)?;
            told(&ListDirResponse { entries: found.into_iter().map(entry).collect() })
        }
        "MakeDir" => {
            let PathRequest { path } = asked(request).await?;
            let made = files.make_dir(sandbox, &path).await.map_err(failed)?;
            told(&EntryResponse { entry: entry(made) })
        }
        "Move" => {
            let MoveRequest { source, destination } = asked(request).await?;
            let moved = files.rename(sandbox, &source, &destination).await.map_err(failed)?;
            told(&EntryResponse { entry: entry(moved) })
        }
        "Remove" => {
            let PathRequest { path } = asked(request).await?;
            match files.remove(sandbox, &path).await {
                Ok(()) | Err(ProviderError::File { fault: FileFault::Missing, .. }) => {}
                Err(error) => return Err(failed(error)),
            }
            Ok(json!({}))
        }
        "CreateWatcher" => {
            let ask: WatchRequest = asked(request).await?;
            let watchers = call.shared.table.watchers(sandbox);
            let watching = files.watch(sandbox, &ask.path, ask.recursive).await.map_err(failed)?;
            let kept = Arc::new(Kept::default());
            let keeping = keep(Arc::clone(&call.shared), sandbox, ask, watching, Arc::clone(&kept));
            let watcher_id = watchers.insert(kept, tokio::spawn(keeping).abort_handle())?;
            told(&Watcher { watcher_id })
        }
        "GetWatcherEvents" => {
            let Watcher { watcher_id } = asked(request).await?;
            let events = call.shared.table.watchers(sandbox).events(&watcher_id)?;
            told(&WatcherEvents { events })
        }
        "RemoveWatcher" => {
            let Watcher { watcher_id } = asked(request).await?;
            call.shared.table.watchers(sandbox).remove(&watcher_id)?;
            Ok(json!({}))
        }
        method => Err(unknown(method)),
    }
}

/// Something in a directory, as SDKs read it.
pub(super) fn entry(found: files::Entry) -> Entry {
    let kind = match found.kind {
        EntryKind::File => FileType::File,
        EntryKind::Directory => FileType::Directory,
        EntryKind::Symlink => FileType::Symlink,
        EntryKind::Other => FileType::Unspecified,
    };
    let mode = found.mode & 0o7777;
    Entry {
        permissions: permissions(found.kind, mode),
        is_symlink: found.symlink_target.is_some().then_some(true),
        name: found.name,
        kind,
        path: found.path,
        size: found.size,
        mode,
        owner: found.owner,
        group: found.group,
        modified_time: Timestamp::from(found.modified),
        symlink_target: found.symlink_target,
        metadata: found.metadata,
    }
}

/// As `ls -l` shows them.
fn permissions(kind: EntryKind, mode: u32) -> String {
    let first = match kind {
        EntryKind::File | EntryKind::Other => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
    };
    let letters = "rwxrwxrwx".chars().rev().enumerate();
    let shown = letters.map(|(bit, letter)| if mode & (1 << bit) == 0 { '-' } else { letter });
    let shown: Vec<_> = shown.collect();
    [first].into_iter().chain(shown.into_iter().rev()).collect()
}

/// Keeps what happens until somebody asks.
async fn keep(
    shared: Arc<Shared>,
    sandbox: SandboxId,
    ask: WatchRequest,
    mut watching: Watching,
    kept: Arc<Kept>,
) {
    while let Some(Ok(change)) = watching.recv().await {
        if change.kind == ChangeKind::Lost {
            kept.lose();
        } else {
            kept.push(event(&shared, sandbox, &ask, change).await);
        }
    }
}

async fn event(shared: &Shared, sandbox: SandboxId, ask: &WatchRequest, change: Change) -> Event {
    let kind = match change.kind {
        ChangeKind::Created => EventType::Create,
        ChangeKind::Written => EventType::Write,
        ChangeKind::Removed => EventType::Remove,
        ChangeKind::Renamed => EventType::Rename,
        ChangeKind::Changed => EventType::Chmod,
        ChangeKind::Lost => EventType::Unspecified,
    };
    let is_there = matches!(kind, EventType::Create | EventType::Write | EventType::Chmod);
    let found = match (ask.include_entry && is_there, shared.provider().files()) {
        (true, Ok(files)) => {
            let path = format!("{}/{}", ask.path.trim_end_matches('/'), change.name);
            // What is gone again by now has no entry.
            files.stat(sandbox, &path).await.ok().map(entry)
        }
        _ => None,
    };
    Event { name: change.name, kind, entry: found }
}

/// Tells what happens as it happens.
pub(super) async fn watch(call: Call, request: Request) -> Response {
    let keepalive = stream::keepalive(request.headers());
    let begun = async {
        let ask: WatchRequest = stream::one(request).await?;
        let files = call.shared.provider().files().map_err(|error| answer::connect(&error))?;
        let watching = files.watch(call.sandbox(), &ask.path, ask.recursive).await;
        watching.map(|watching| (ask, watching)).map_err(|error| answer::connect(&error))
    };
    let (ask, watching) = match begun.await {
        Ok(begun) => begun,
        Err(error) => return stream::failed(error),
    };
    let (answering, response) = Answering::begin();
    tokio::spawn(tell(call, ask, watching, answering, keepalive));
    response
}

async fn tell(
    call: Call,
    ask: WatchRequest,
    mut watching: Watching,
    mut answering: Answering,
    keepalive: Duration,
) {
    if answering.send(&WatchResponse::Start {}).await.is_err() {
        return;
    }
    let error = loop {
        let change = tokio::select! {
            change = timeout(keepalive, watching.recv()) => change,
            () = answering.hung_up() => return,
        };
        let told = match change {
            Err(_) => answering.send(&WatchResponse::Keepalive {}).await,
            Ok(None) => break answer::not_found(),
            Ok(Some(Err(error))) => break answer::connect(&error),
            Ok(Some(Ok(Change { kind: ChangeKind::Lost, .. }))) => {
                let message = "more happened than is kept; look at the directory again";
                break ConnectError::new(Code::DataLoss, message);
            }
            Ok(Some(Ok(change))) => {
                let event = event(&call.shared, call.sandbox(), &ask, change).await;
                answering.send(&WatchResponse::Filesystem(Box::new(event))).await
            }
        };
        if told.is_err() {
            return;
        }
    };
    answering.end(Some(error)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_as_ls_shows_them() {
        assert_eq!(permissions(EntryKind::File, 0o644), "-rw-r--r--");
        assert_eq!(permissions(EntryKind::Directory, 0o755), "drwxr-xr-x");
        assert_eq!(permissions(EntryKind::Symlink, 0o777), "lrwxrwxrwx");
        assert_eq!(permissions(EntryKind::File, 0o001), "---------x");
    }
}
