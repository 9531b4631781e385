//! Files of a sandbox, as its holder works with them from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use tokio::sync::mpsc;

use super::ProviderError;

/// Reads and writes files of sandboxes. Paths start at `/home/user` unless they are absolute; `~`
/// and `~/..` expand. Everything happens with the rights of the sandbox's user, inside it.
#[async_trait]
pub trait Files: Send + Sync {
    /// What is at a path. A symbolic link is followed, and one that leads nowhere is itself.
    async fn stat(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError>;

    /// What is in a directory, down to `depth` (1: its own entries), without the directory itself.
    /// Paths are below the path as it was asked for.
    async fn list(
        &self,
        sandbox: SandboxId,
        path: &str,
        depth: u32,
    ) -> Result<Vec<Entry>, ProviderError>;

    /// The bytes of a regular file. A range that begins beyond the end is empty.
    async fn read(
        &self,
        sandbox: SandboxId,
        path: &str,
        range: Range,
    ) -> Result<Reading, ProviderError>;

    /// Writes a regular file whole, or leaves what is there: parents are made, and the last piece
    /// of `contents` replaces the file. An error among them leaves it, too. `metadata` replaces
    /// what the file had.
    async fn write(
        &self,
        sandbox: SandboxId,
        path: &str,
        contents: Body,
        metadata: BTreeMap<String, String>,
    ) -> Result<Entry, ProviderError>;

    /// Makes a directory and its parents. [`FileFault::Exists`] if it is there already.
    async fn make_dir(&self, sandbox: SandboxId, path: &str) -> Result<Entry, ProviderError>;

    /// Moves a file or directory; parents of the destination are made.
    async fn rename(
        &self,
        sandbox: SandboxId,
        source: &str,
        destination: &str,
    ) -> Result<Entry, ProviderError>;

    /// Removes a file or a directory with all that is in it. What is missing is no error.
    async fn remove(&self, sandbox: SandboxId, path: &str) -> Result<(), ProviderError>;

    /// What changes in a directory from now on, until the receiver is dropped or the sandbox ends.
    async fn watch(
        &self,
        sandbox: SandboxId,
        path: &str,
        recursive: bool,
    ) -> Result<Watching, ProviderError>;
}

/// Something in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Last component of the path.
    pub name: String,
    /// The whole path.
    pub path: String,
    /// What it is; of a symbolic link, what it leads to.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Name of its owner inside the sandbox.
    pub owner: String,
    /// Name of its group inside the sandbox.
    pub group: String,
    /// When it was modified last, since the Unix epoch.
    pub modified: Duration,
    /// Where a symbolic link leads, as it is written there.
    pub symlink_target: Option<String>,
    /// What its writer said about it.
    pub metadata: BTreeMap<String, String>,
}

/// What kind of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link that leads nowhere.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// Which bytes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: u64,
    /// How many at most; without it, all that follow.
    pub length: Option<u64>,
}

/// Pieces of a file, in order. An error ends them: what came before it is not the file.
pub type Pieces = mpsc::Receiver<Result<Bytes, ProviderError>>;

/// What a file is to contain.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// As it comes. The end is the end of the channel.
    Streamed(Pieces),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Self::Streamed(_) => f.write_str("Streamed"),
        }
    }
}

/// A file that is being read.
#[derive(Debug)]
pub struct Reading {
    /// What it was when it was opened.
    pub entry: Entry,
    /// Bytes that will come: what the range covers of the file.
    pub length: u64,
    /// The bytes. Dropping it ends the reading.
    pub pieces: Pieces,
}

/// Changes of a directory. Dropping it ends the watch.
pub type Watching = mpsc::Receiver<Result<Change, ProviderError>>;

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Path below the watched directory.
    pub name: String,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Created, or moved in.
    Created,
    /// Written to.
    Written,
    /// Deleted.
    Removed,
    /// Moved out.
    Renamed,
    /// Attributes changed.
    Changed,
    /// More happened than is kept; look again. `name` is empty.
    Lost,
}

/// Why something could not be done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFault {
    /// Nothing is there.
    Missing,
    /// Something is there already.
    Exists,
    /// It is no directory.
    NotDirectory,
    /// It is a directory.
    IsDirectory,
    /// It is neither a file nor a directory.
    NotRegular,
    /// The sandbox's user may not.
    Denied,
    /// No space, or no more files.
    Full,
    /// A path that cannot be.
    Invalid,
    /// Links that lead round in a circle.
    Loop,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "does not exist",
            Self::Exists => "exists already",
            Self::NotDirectory => "is not a directory",
            Self::IsDirectory => "is a directory",
            Self::NotRegular => "is neither a file nor a directory",
            Self::Denied => "may not be used by the sandbox's user",
            Self::Full => "does not fit: the sandbox's disk is full",
            Self::Invalid => "is not a path",
            Self::Loop => "leads round in a circle",
        })
    }
}
