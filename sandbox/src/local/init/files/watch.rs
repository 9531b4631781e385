//! Adds directories to a watch that the engine reads.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, WatchFlags};
use rustix::io::Errno;

use super::super::super::job::{self, Said};
use super::BATCH;

/// Directories of one watch. The kernel's own bound is the machine's, and is not for one sandbox.
const DIRECTORIES_MAX: usize = 4_096;

/// Watches a directory, and those below it if that is wanted; with what is in them already.
pub(in super::super) fn watch(
    path: &str,
    recursive: bool,
    tell: bool,
    watched: BorrowedFd<'_>,
    to: &mut File,
) -> io::Result<()> {
    let flags = WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::ONLYDIR;
    let top = Path::new(path);
    let mut waiting = vec![PathBuf::new()];
    let mut said = Telling { watched: Vec::new(), found: Vec::new(), bytes: 0, to };
    let mut count = 0;
    while let Some(below) = waiting.pop() {
        count += 1;
        if count > DIRECTORIES_MAX {
            return Err(Errno::NOSPC.into());
        }
        let first = below.as_os_str().is_empty();
        let place = if first { top.to_owned() } else { top.join(&below) };
        let follow = if first { WatchFlags::empty() } else { WatchFlags::DONT_FOLLOW };
        match inotify::add_watch(watched, &place, flags | follow) {
            Ok(number) => said.directory(number, &below)?,
            Err(error) if first => return Err(error.into()),
            // All that can be had is used up.
            Err(Errno::NOSPC) => return Err(Errno::NOSPC.into()),
            // It is gone or not ours to see.
            Err(_) => continue,
        }
        if !recursive && !tell {
            break;
        }
        // Looked at after it is watched, so that nothing comes unseen between the two.
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            let name = below.join(entry.file_name());
            if tell {
                said.found(&name)?;
            }
            if recursive && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(name);
            }
        }
    }
    said.tell()
}

struct Telling<'a> {
    watched: Vec<(i32, String)>,
    found: Vec<String>,
    bytes: usize,
    to: &'a mut File,
}

impl Telling<'_> {
    fn directory(&mut self, number: i32, below: &Path) -> io::Result<()> {
        let text = self.text(below);
        self.watched.push((number, text));
        self.tell_if_much()
    }

    fn found(&mut self, below: &Path) -> io::Result<()> {
        let text = self.text(below);
        self.found.push(text);
        self.tell_if_much()
    }

    fn text(&mut self, below: &Path) -> String {
        let text = below.to_string_lossy().into_owned();
        self.bytes += text.len() + 8;
        text
    }

    fn tell_if_much(&mut self) -> io::Result<()> {
        if self.bytes >= BATCH { self.tell() } else { Ok(()) }
    }

    fn tell(&mut self) -> io::Result<()> {
        self.bytes = 0;
        let (watched, found) = (std::mem::take(&mut self.watched), std::mem::take(&mut self.found));
        job::write(self.to, &Said::Watched(watched))?;
        job::write(self.to, &Said::Found(found))
    }
}
