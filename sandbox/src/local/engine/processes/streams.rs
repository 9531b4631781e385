//! What a process writes.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::super::sys;
use crate::provider::processes::ProcessEvent;

/// Bytes of one event, at most.
const PIECE: usize = 32 * 1024;

/// The same of a terminal.
const TERMINAL_PIECE: usize = 16 * 1024;

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stdout,
    Stderr,
    Terminal,
}

/// Our end of one.
#[derive(Debug)]
pub(super) struct Stream {
    kind: Kind,
    /// `None` when nothing more can come.
    file: Option<AsyncFd<OwnedFd>>,
}

impl Stream {
    pub(super) fn new(kind: Kind, file: OwnedFd) -> io::Result<Self> {
        Ok(Self { kind, file: Some(sys::listen_to(file)?) })
    }

    /// Whether more may come.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// What it says next; never, if nothing more can come. `None` is its end.
    pub(super) async fn next(&mut self) -> Option<ProcessEvent> {
        let kind = self.kind;
        let Some(file) = &self.file else { return std::future::pending().await };
        let read = file.async_io(Interest::READABLE, |file| read(kind, file)).await;
        self.take(read)
    }

    /// The same without waiting. `None` if there is nothing.
    pub(super) fn next_now(&mut self) -> Option<ProcessEvent> {
        let read = read(self.kind, self.file.as_ref()?.get_ref());
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            read => self.take(read),
        }
    }

    fn take(&mut self, read: io::Result<Bytes>) -> Option<ProcessEvent> {
        match read {
            Ok(bytes) if !bytes.is_empty() => Some(match self.kind {
                Kind::Stdout => ProcessEvent::Stdout(bytes),
                Kind::Stderr => ProcessEvent::Stderr(bytes),
                Kind::Terminal => ProcessEvent::Terminal(bytes),
            }),
            // A terminal whose other side is closed says so as an error.
            Ok(_) | Err(_) => {
                self.file = None;
                None
            }
        }
    }
}

fn read(kind: Kind, file: &OwnedFd) -> io::Result<Bytes> {
    let mut piece = [0; PIECE];
    let room = if kind == Kind::Terminal { TERMINAL_PIECE } else { PIECE };
    let length = rustix::io::retry_on_intr(|| rustix::io::read(file, &mut piece[..room]))?;
    Ok(Bytes::copy_from_slice(&piece[..length]))
}
