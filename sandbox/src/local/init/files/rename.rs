//! Moves files and directories, also between folders that are file systems of their own.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;

use super::super::super::job::{BECOMING, Facts};
use super::{NotDone, facts, make_parents, remove};

/// Copies trees with all that is known about what is in them.
const COPIER: &str = "/bin/cp";

/// Bytes of what it says that are looked at.
const SAID_MAX: u64 = 4_096;

/// Moves something; parents of the destination are made.
pub(in super::super) fn rename(source: &str, destination: &str) -> Result<Facts, NotDone> {
    let there = fs::symlink_metadata(source)?;
    let at_destination = |error: io::Error| NotDone { error, second: true };
    make_parents(Path::new(destination)).map_err(at_destination)?;
    match fs::rename(source, destination) {
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
            // Nothing is copied that could not take its place then.
            let taken = fs::symlink_metadata(destination).ok();
            if taken.is_some_and(|taken| taken.is_dir() || there.is_dir()) {
                return Err(at_destination(Errno::EXIST.into()));
            }
            move_across(source, Path::new(destination))?;
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::EISDIR | libc::ENOTDIR)) => {
            return Err(at_destination(error));
        }
        renamed => renamed?,
    }
    Ok(facts(destination)?)
}

/// Copies, lets the copy take its place, and removes what was copied. What fails before that
/// leaves the source as it was.
fn move_across(source: &str, destination: &Path) -> io::Result<()> {
    let folder = destination.parent().ok_or(Errno::INVAL)?;
    let copy = folder.join(format!("{BECOMING}{}", std::process::id()));
    let copied = copy_to(source, &copy).and_then(|()| fs::rename(&copy, destination));
    if copied.is_err() {
        // The error is what matters.
        let _ = remove(&copy.to_string_lossy());
    }
    copied?;
    remove(source)
}

fn copy_to(source: &str, copy: &Path) -> io::Result<()> {
    let mut copier = Command::new(COPIER)
        .args(["-aT", "--", source])
        .arg(copy)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = Vec::new();
    if let Some(errors) = copier.stderr.take() {
        let mut errors = errors.take(SAID_MAX);
        errors.read_to_end(&mut said)?;
        // It must not wait for somebody who reads no more.
        io::copy(&mut errors.into_inner(), &mut io::sink())?;
    }
    if copier.wait()?.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    let full = said.contains("No space left on device");
    Err(if full { Errno::NOSPC } else { Errno::ACCESS }.into())
}
