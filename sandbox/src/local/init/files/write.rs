//! Writes a file whole or not at all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::super::super::job::{self, ALARM_S, ATTRIBUTE, BECOMING, Facts, PIECE, REPLACING};
use super::super::super::sys;
use super::{facts, make_parents, regular};

/// Links that lead from one to the next, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// What a new file may be used for.
const MODE: u32 = 0o644;

/// Writes what comes from `from` to a file without a name, and gives it its name when all of it
/// is there: who gives up before leaves nothing.
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
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
    take(from, &mut file)?;
    for (key, value) in metadata {
        let name = format!("{ATTRIBUTE}{key}");
        rustix::fs::fsetxattr(&file, name, value.as_bytes(), XattrFlags::empty())?;
    }
    let mode = there.as_ref().map_or(MODE, |seen| seen.mode() & 0o777);
    file.set_permissions(Permissions::from_mode(mode))?;
    give_name(&file, &place, folder, there.is_some())?;
    facts(path)
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

/// Gives a file without a name its name, in the place of whatever has it now.
fn give_name(file: &File, place: &Path, folder: &Path, replaces: bool) -> io::Result<()> {
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Unique among those that are at it now; what an earlier one left under it is in nobody's way.
    let word = if replaces { REPLACING } else { BECOMING };
    let other = folder.join(OsString::from(format!("{word}{}", std::process::id())));
    let link = || rustix::fs::linkat(CWD, &itself, CWD, &other, AtFlags::SYMLINK_FOLLOW);
    match link() {
        Err(Errno::EXIST) => {
            fs::remove_file(&other)?;
            link()?;
        }
        linked => linked?,
    }
    fs::rename(&other, place).inspect_err(|_| {
        // What could not be renamed was named a moment ago.
        let _ = fs::remove_file(&other);
    })
}
