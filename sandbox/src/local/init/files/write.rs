//! Writes a file whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::super::super::job::{self, ALARM_S, ATTRIBUTE, BECOMING, Facts, PIECE, REPLACING};
use super::super::super::sys;
use super::{facts, make_parents, regular};

/// Links that lead from one to the next, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// What a new file may be used for.
const MODE: u32 = 0o644;

/// Writes what comes from `from` to a file beside, which takes its place when all of it is there;
/// who gives up before leaves nothing.
///
/// A file without a name would be tidier. But watches of its directory tell of those too, by
/// names that are none.
pub(in super::super) fn write(
    path: &str,
    metadata: &BTreeMap<String, String>,
    from: &mut File,
) -> io::Result<Facts> {
    let place = at_the_end_of_links(Path::new(path))?;
    let there = match fs::symlink_metadata(&place) {
        Ok(seen) => Some(seen),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    there.as_ref().map_or(Ok(()), regular)?;
    make_parents(&place)?;
    let folder = place.parent().ok_or(Errno::ISDIR)?;
    // Unique among those that are at it now.
    let word = if there.is_some() { REPLACING } else { BECOMING };
    let beside = folder.join(format!("{word}{}", std::process::id()));
    let mode = there.as_ref().map_or(MODE, |seen| seen.mode() & 0o777);
    let placed = fill(&beside, mode, metadata, from).and_then(|()| fs::rename(&beside, &place));
    if placed.is_err() {
        // The error is what matters.
        let _ = fs::remove_file(&beside);
    }
    placed?;
    facts(path)
}

/// Makes a file of what comes.
fn fill(
    path: &Path,
    mode: u32,
    metadata: &BTreeMap<String, String>,
    from: &mut File,
) -> io::Result<()> {
    // What an earlier one with this number could not remove is in nobody's way.
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    take(from, &mut file)?;
    for (key, value) in metadata {
        let name = format!("{ATTRIBUTE}{key}");
        rustix::fs::fsetxattr(&file, name, value.as_bytes(), XattrFlags::empty())?;
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// Where a path leads if every link at its end is followed, also to where nothing is.
fn at_the_end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut place = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&place) {
            Ok(target) => {
                place.pop();
                place.push(target);
            }
            // Not a link, or nothing.
            Err(_) => return Ok(place),
        }
    }
    Err(Errno::LOOP.into())
}

/// Writes pieces to a file, up to the one that says that these were all.
fn take(from: &mut File, file: &mut File) -> io::Result<()> {
    let mut piece = [0; PIECE];
    loop {
        let mut left = usize::try_from(job::read_length(from)?).map_err(io::Error::other)?;
        if left == 0 {
            return Ok(());
        }
        while left > 0 {
            sys::alarm(ALARM_S);
            let wanted = left.min(piece.len());
            let read = from.read(&mut piece[..wanted])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.write_all(&piece[..read])?;
            left -= read;
        }
    }
}
