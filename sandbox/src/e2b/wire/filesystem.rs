//! Messages of `filesystem.Filesystem` and of `/files`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::proto::{Named, int64};
use super::time::Timestamp;

/// Where its methods are.
pub const SERVICE: &str = "/filesystem.Filesystem/";

/// Body of `Stat`, `MakeDir` and `Remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRequest {
    /// Which.
    #[serde(default)]
    pub path: String,
}

/// Body of `ListDir`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListDirRequest {
    /// Which directory.
    #[serde(default)]
    pub path: String,
    /// How deep; 0 means 1.
    #[serde(default)]
    pub depth: u32,
}

/// Body of `Move`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// What.
    #[serde(default)]
    pub source: String,
    /// Where to.
    #[serde(default)]
    pub destination: String,
}

/// Answer of `Stat`, `MakeDir` and `Move`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryResponse {
    /// What is there.
    pub entry: Entry,
}

/// Answer of `ListDir`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListDirResponse {
    /// What is there.
    #[serde(default)]
    pub entries: Vec<Entry>,
}

/// Something in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Last component of the path.
    #[serde(default)]
    pub name: String,
    /// What it is; of a symbolic link, what it leads to.
    #[serde(default, rename = "type")]
    pub kind: FileType,
    /// The whole path.
    #[serde(default)]
    pub path: String,
    /// Bytes, written as text.
    #[serde(default, with = "int64")]
    pub size: u64,
    /// Permission bits.
    #[serde(default)]
    pub mode: u32,
    /// The same as `ls -l` shows them.
    #[serde(default)]
    pub permissions: String,
    /// Name of its owner.
    #[serde(default)]
    pub owner: String,
    /// Name of its group.
    #[serde(default)]
    pub group: String,
    /// When it was modified last.
    #[serde(default)]
    pub modified_time: Timestamp,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    /// What its writer said about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether it is a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_symlink: Option<bool>,
}

/// What kind of entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Named")]
pub enum FileType {
    /// Neither of the following.
    #[default]
    #[serde(rename = "FILE_TYPE_UNSPECIFIED")]
    Unspecified,
    /// A regular file.
    #[serde(rename = "FILE_TYPE_FILE")]
    File,
    /// A directory.
    #[serde(rename = "FILE_TYPE_DIRECTORY")]
    Directory,
    /// A symbolic link that leads nowhere.
    #[serde(rename = "FILE_TYPE_SYMLINK")]
    Symlink,
}

impl From<Named> for FileType {
    fn from(named: Named) -> Self {
        let table = [
            (1, "FILE_TYPE_FILE", Self::File),
            (2, "FILE_TYPE_DIRECTORY", Self::Directory),
            (3, "FILE_TYPE_SYMLINK", Self::Symlink),
        ];
        named.among(&table).unwrap_or_default()
    }
}

/// Body of `WatchDir` and `CreateWatcher`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchRequest {
    /// Which directory.
    #[serde(default)]
    pub path: String,
    /// Whether directories below it are watched, too.
    #[serde(default)]
    pub recursive: bool,
    /// Whether events say what is at the path now.
    #[serde(default)]
    pub include_entry: bool,
    /// Whether directories on a network may be watched.
    #[serde(default)]
    pub allow_network_mounts: bool,
}

/// One piece of the stream that answers `WatchDir`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchResponse {
    /// It watches from now on. Always the first.
    Start {},
    /// Something changed.
    Filesystem(Box<Event>),
    /// Nothing changed, and the stream lives.
    Keepalive {},
}

/// Something changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Path below the watched directory.
    #[serde(default)]
    pub name: String,
    /// What happened.
    #[serde(default, rename = "type")]
    pub kind: EventType,
    /// What is there now, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Named")]
#[expect(missing_docs, reason = "the words are the protocol's own")]
pub enum EventType {
    #[default]
    #[serde(rename = "EVENT_TYPE_UNSPECIFIED")]
    Unspecified,
    #[serde(rename = "EVENT_TYPE_CREATE")]
    Create,
    #[serde(rename = "EVENT_TYPE_WRITE")]
    Write,
    #[serde(rename = "EVENT_TYPE_REMOVE")]
    Remove,
    #[serde(rename = "EVENT_TYPE_RENAME")]
    Rename,
    #[serde(rename = "EVENT_TYPE_CHMOD")]
    Chmod,
}

impl From<Named> for EventType {
    fn from(named: Named) -> Self {
        let table = [
            (1, "EVENT_TYPE_CREATE", Self::Create),
            (2, "EVENT_TYPE_WRITE", Self::Write),
            (3, "EVENT_TYPE_REMOVE", Self::Remove),
            (4, "EVENT_TYPE_RENAME", Self::Rename),
            (5, "EVENT_TYPE_CHMOD", Self::Chmod),
        ];
        named.among(&table).unwrap_or_default()
    }
}

/// A watcher by its id: answer of `CreateWatcher`, body of the two calls on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watcher {
    /// Its id.
    #[serde(default)]
    pub watcher_id: String,
}

/// Answer of `GetWatcherEvents`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatcherEvents {
    /// What happened since the last call.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// A file that was written; `POST /files` answers with an array of these, for one file too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The whole path.
    pub path: String,
    /// Its last component.
    pub name: String,
    /// `file`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What its writer said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}
