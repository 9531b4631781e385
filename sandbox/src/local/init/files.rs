//! What jobs do with files, as the sandbox's user and with no more rights than it has.
//!
//! Nothing here waits for a pipe or a device, follows a depth that the caller chose with its own
//! stack, or keeps more than one directory in memory.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::job::{self, ALARM_S, ATTRIBUTE, Facts, Kind, PIECE, Said};
use super::super::sys;

mod remove;
mod rename;
mod watch;
mod write;

pub(super) use remove::remove;
pub(super) use rename::rename;
pub(super) use watch::watch;
pub(super) use write::write;

/// Bytes of paths in one batch of entries. Escaped and with all that is said about the last of
/// them, it stays below what a frame may be.
const BATCH: usize = 16 * 1024;

/// Bytes of a file that has none by its own account: the kernel writes some as they are read.
const UNSIZED_MAX: u64 = 1024 * 1024;

/// Bytes of names of extended attributes that are looked at, and of one value. More than a caller
/// may set; what is beyond was not set by one.
const ATTRIBUTES_MAX: usize = 16 * 1024;
const VALUE_MAX: usize = 4 * 1024;

/// Something that was not done.
#[derive(Debug)]
pub(super) struct NotDone {
    /// Why.
    pub(super) error: io::Error,
    /// With the second path of the job, not the first.
    pub(super) second: bool,
}

impl<E: Into<io::Error>> From<E> for NotDone {
    fn from(error: E) -> Self {
        Self { error: error.into(), second: false }
    }
}

/// What is at a path. A link is followed, and one that leads nowhere is itself.
pub(super) fn facts(path: impl AsRef<Path>) -> io::Result<Facts> {
    let path = path.as_ref();
    let own = fs::symlink_metadata(path)?;
    if !own.is_symlink() {
        return Ok(describe(path, &own, None));
    }
    // Its text may not be ours to see, as with some of what the kernel shows.
    let target = fs::read_link(path).unwrap_or_default().to_string_lossy().into_owned();
    let seen = fs::metadata(path).unwrap_or(own);
    Ok(describe(path, &seen, Some(target)))
}

fn describe(path: &Path, seen: &Metadata, target: Option<String>) -> Facts {
    let kind = match seen.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    };
    // Before 1970 is as good as then.
    let seconds = u64::try_from(seen.mtime()).unwrap_or(0);
    let nanos = u64::try_from(seen.mtime_nsec()).unwrap_or(0);
    Facts {
        path: path.to_string_lossy().into_owned(),
        kind,
        size: seen.size(),
        mode: seen.mode() & 0o7777,
        uid: seen.uid(),
        gid: seen.gid(),
        modified_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        target,
        metadata: if kind == Kind::File { attributes(path) } else { BTreeMap::new() },
    }
}

/// What the writer of a file said about it. A file system without such attributes has none.
fn attributes(path: &Path) -> BTreeMap<String, String> {
    let mut names = [0; ATTRIBUTES_MAX];
    let Ok(length) = rustix::fs::listxattr(path, &mut names) else { return BTreeMap::new() };
    let names = names[..length].split(|byte| *byte == 0);
    let read = |name: &[u8]| {
        let name = std::str::from_utf8(name).ok()?;
        let key = name.strip_prefix(ATTRIBUTE)?;
        let mut value = [0; VALUE_MAX];
        let length = rustix::fs::getxattr(path, name, &mut value).ok()?;
        let value = std::str::from_utf8(&value[..length]).ok()?;
        Some((key.to_owned(), value.to_owned()))
    };
    names.filter_map(read).collect()
}

/// Tells what is in a directory, each before what is below it, sorted by name.
pub(super) fn list(path: &str, depth: u32, to: &mut File) -> io::Result<()> {
    let mut batch = Batch { entries: Vec::new(), bytes: 0 };
    // The last is the next.
    let mut waiting: Vec<(PathBuf, u32)> = sorted(Path::new(path), depth)?;
    while let Some((path, depth)) = waiting.pop() {
        // What is gone meanwhile is not there.
        let Ok(entry) = facts(&path) else { continue };
        let below = depth > 1 && entry.kind == Kind::Directory && entry.target.is_none();
        batch.add(entry, to)?;
        if below {
            // What may not be looked into, or has too long a path, is told without its entries.
            waiting.extend(sorted(&path, depth - 1).unwrap_or_default());
        }
    }
    batch.tell(to)
}

/// The entries of a directory, the last first.
fn sorted(path: &Path, depth: u32) -> io::Result<Vec<(PathBuf, u32)>> {
    let mut paths: Vec<_> = fs::read_dir(path)?.flatten().map(|one| (one.path(), depth)).collect();
    paths.sort_unstable_by(|one, other| other.cmp(one));
    Ok(paths)
}

/// Entries that are told together.
struct Batch {
    entries: Vec<Facts>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, entry: Facts, to: &mut File) -> io::Result<()> {
        self.bytes += entry.path.len();
        self.entries.push(entry);
        if self.bytes >= BATCH { self.tell(to) } else { Ok(()) }
    }

    fn tell(&mut self, to: &mut File) -> io::Result<()> {
        self.bytes = 0;
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() {
            return Ok(());
        }
        sys::alarm(ALARM_S);
        job::write(to, &Said::Entries(entries))
    }
}

/// Tells a regular file and its bytes.
pub(super) fn read(
    path: &str,
    start: u64,
    length: Option<u64>,
    to: &mut File,
) -> Result<(), NotDone> {
    regular(&fs::metadata(path)?)?;
    // It may have become a pipe since: never wait for it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let seen = file.metadata()?;
    regular(&seen)?;
    let link = fs::read_link(path).ok().map(|link| link.to_string_lossy().into_owned());
    let mut entry = describe(Path::new(path), &seen, link);
    if seen.size() == 0 {
        let mut bytes = Vec::new();
        (&file).take(UNSIZED_MAX).read_to_end(&mut bytes)?;
        entry.size = bytes.len() as u64;
        let from = usize::try_from(start).unwrap_or(usize::MAX).min(bytes.len());
        let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        let covered = &bytes[from..from.saturating_add(length).min(bytes.len())];
        job::write(to, &Said::Contents { entry, length: covered.len() as u64 })?;
        return Ok(io::Write::write_all(to, covered)?);
    }
    let covered = seen.size().saturating_sub(start).min(length.unwrap_or(u64::MAX));
    job::write(to, &Said::Contents { entry, length: covered })?;
    pass(&file, start, covered, to)?;
    Ok(())
}

/// Passes bytes on; ends early where the file has become shorter, which its reader can count.
fn pass(file: &File, mut at: u64, mut left: u64, to: &mut File) -> io::Result<()> {
    let mut piece = [0; PIECE];
    while left > 0 {
        sys::alarm(ALARM_S);
        let wanted = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = file.read_at(&mut piece[..wanted], at)?;
        if read == 0 {
            return Ok(());
        }
        io::Write::write_all(to, &piece[..read])?;
        at += read as u64;
        left -= read as u64;
    }
    Ok(())
}

/// Whether its bytes can be read and written.
fn regular(seen: &Metadata) -> io::Result<()> {
    match seen.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err(Errno::ISDIR.into()),
        _ => Err(Errno::NXIO.into()),
    }
}

/// Makes a directory and its parents.
pub(super) fn make_dir(path: &str) -> io::Result<Facts> {
    match fs::metadata(path) {
        Ok(seen) if seen.is_dir() => return Err(Errno::EXIST.into()),
        Ok(_) => return Err(Errno::NOTDIR.into()),
        Err(_) => make_all(Path::new(path))?,
    }
    facts(path)
}

/// Makes the directory that something is to be in.
fn make_parents(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), make_all)
}

fn make_all(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path).map_err(|error| match error.raw_os_error() {
        // A file is where a directory should be.
        Some(libc::EEXIST) => Errno::NOTDIR.into(),
        _ => error,
    })
}
