//! Short work inside a sandbox that a fork of its init does: what it is asked and what it answers.
//!
//! Both travel on one stream socket per job, as frames: four bytes of length, least first, then
//! JSON. What a file contains follows its frame as it is. Who asks closes the socket to give up.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest frame in bytes. A batch of entries is ended far below it.
pub(super) const FRAME_MAX: u32 = 1024 * 1024;

/// Bytes of a file that travel at once.
pub(super) const PIECE: usize = 64 * 1024;

/// Seconds after which a job ends itself that did not go on. Whoever asked gives up a little
/// before, so that what was begun is still tidied up.
pub(super) const ALARM_S: u32 = 60;

/// What files carry their metadata under, as extended attributes. With the longest key of 246
/// bytes it makes the 255 that a kernel takes.
pub(super) const ATTRIBUTE: &str = "user.tag.";

/// How a file is called until it replaces another, and until it becomes a new one. Watches tell
/// of neither.
pub(super) const REPLACING: &str = ".sandpit-old-";
/// The other.
pub(super) const BECOMING: &str = ".sandpit-new-";

/// What is wanted. Paths are absolute.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// Answered with an entry.
    Stat {
        /// Of what.
        path: String,
    },
    /// Answered with batches of entries and an end.
    List {
        /// A directory.
        path: String,
        /// How far down; 1 is its own entries.
        depth: u32,
    },
    /// Answered with what it is, and its bytes.
    Read {
        /// A regular file.
        path: String,
        /// The first byte.
        start: u64,
        /// How many at most.
        length: Option<u64>,
    },
    /// Followed by pieces, each after its length in four bytes; a length of nothing makes it the
    /// file. Answered with its entry.
    Write {
        /// A regular file, or nothing.
        path: String,
        /// What is said about it from now on.
        metadata: BTreeMap<String, String>,
    },
    /// Answered with its entry.
    MakeDir {
        /// Nothing.
        path: String,
    },
    /// Answered with the entry at its new place.
    Rename {
        /// Something.
        source: String,
        /// Where it goes.
        destination: String,
    },
    /// Answered with an end.
    Remove {
        /// Something, or nothing.
        path: String,
    },
    /// Adds directories to the watch that came with the order. Answered with batches of them and
    /// an end.
    Watch {
        /// A directory.
        path: String,
        /// Whether those below are watched, too.
        recursive: bool,
        /// Whether what is in them already is told, because nobody could have seen it come.
        tell: bool,
    },
    /// Answered with an end and a connected socket.
    Dial {
        /// A port of the loopback address.
        port: u16,
    },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// What is there.
    Entry(Facts),
    /// Some of what is there.
    Entries(Vec<Facts>),
    /// A file, of which so many bytes follow.
    Contents {
        /// The file.
        entry: Facts,
        /// How many bytes.
        length: u64,
    },
    /// Some of what is watched: the kernel's number of a directory, and its path below the one
    /// asked for.
    Watched(Vec<(i32, String)>),
    /// Some of what is in watched directories already: its path below the one asked for.
    Found(Vec<String>),
    /// It was done.
    Done,
    /// It was not.
    Failed {
        /// The number of the error.
        errno: i32,
        /// With the second path of the job, not the first.
        second: bool,
    },
}

/// What kind of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link that leads nowhere.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// Something in a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The whole path.
    pub(super) path: String,
    /// What it is; of a link, what it leads to.
    pub(super) kind: Kind,
    /// Bytes.
    pub(super) size: u64,
    /// Permission bits.
    pub(super) mode: u32,
    /// Its owner's number inside.
    pub(super) uid: u32,
    /// Its group's number inside.
    pub(super) gid: u32,
    /// When it was modified: nanoseconds since the Unix epoch.
    pub(super) modified_ns: u64,
    /// Where a link leads.
    pub(super) target: Option<String>,
    /// What its writer said about it.
    pub(super) metadata: BTreeMap<String, String>,
}

/// A frame.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for one that is too long.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|length| *length <= FRAME_MAX);
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Writes one frame.
///
/// # Errors
/// As writing; `EPIPE` when nobody wants it any more.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// Reads one frame.
///
/// # Errors
/// As reading; [`io::ErrorKind::InvalidData`] for what is no such frame.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let length = read_length(from)?;
    if length > FRAME_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Reads the length of what follows.
///
/// # Errors
/// As reading.
pub(super) fn read_length(from: &mut impl Read) -> io::Result<u32> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    Ok(u32::from_le_bytes(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_and_one_that_is_too_long_is_refused() {
        let bytes = frame(&Job::Stat { path: "/home/user/ä \"b\"".to_owned() }).unwrap();
        let back: Job = read(&mut &bytes[..]).unwrap();
        assert!(matches!(back, Job::Stat { path } if path == "/home/user/ä \"b\""));

        let long = Job::Stat { path: "x".repeat(FRAME_MAX as usize) };
        assert_eq!(frame(&long).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let claimed = (FRAME_MAX + 1).to_le_bytes();
        let refused = read::<Job>(&mut &claimed[..]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
