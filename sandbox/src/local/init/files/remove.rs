//! Removes trees of any depth without depth of its own.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes a file, or a directory with all that is in it. What is missing is no error.
///
/// Directories that are not empty are moved up to the one that is removed, so that each can be
/// reached in one step, however deep it was.
pub(in super::super) fn remove(path: &str) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !there.is_dir() {
        return missing_is_fine(rustix::fs::unlink(path));
    }
    let parent = Path::new(path).parent().ok_or(Errno::BUSY)?;
    if fs::metadata(parent)?.dev() != there.dev() {
        // It cannot go, so what is in it stays.
        return Err(Errno::BUSY.into());
    }
    let top = open(CWD, path)?;
    let mut moved = 0;
    while !empty(top.as_fd(), top.as_fd(), &mut moved)? {}
    missing_is_fine(rustix::fs::rmdir(path))
}

/// Removes what is in `folder`, or moves it to `top`; whether nothing was there.
fn empty(folder: BorrowedFd<'_>, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<bool> {
    let mut nothing = true;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        nothing = false;
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            unlinked => {
                missing_is_fine(unlinked)?;
                continue;
            }
        }
        let remove = || rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR);
        match remove() {
            Err(Errno::NOTEMPTY) => {
                let inner = open(folder, name)?;
                lift(inner.as_fd(), top, moved)?;
                match remove() {
                    // Somebody puts things there meanwhile: the next round sees them.
                    Err(Errno::NOTEMPTY) => {}
                    removed => missing_is_fine(removed)?,
                }
            }
            removed => missing_is_fine(removed)?,
        }
    }
    Ok(nothing)
}

/// Removes the files of a directory and moves its directories to `top`.
fn lift(folder: BorrowedFd<'_>, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => loop {
                *moved += 1;
                let place = format!(".sandpit-gone-{}-{moved}", std::process::id());
                match rustix::fs::renameat(folder, name, top, place) {
                    Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                    renamed => break missing_is_fine(renamed)?,
                }
            },
            unlinked => missing_is_fine(unlinked)?,
        }
    }
    Ok(())
}

fn open(folder: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn missing_is_fine(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}
