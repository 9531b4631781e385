//! The engine's side of a job: a fork of the sandbox's init does it, and talks to us through one
//! stream. Nothing it says is believed further than its bounds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit};

use super::super::control::ToInit;
use super::super::job::{self, ALARM_S, FRAME_MAX, PIECE, Said};
use super::super::packet;
use super::super::sys;
use super::sandbox::Sandbox;
use crate::provider::ProviderError;
use crate::provider::files::FileFault;

/// Jobs of one sandbox at once; more wait their turn. Each is a process of the sandbox, and its
/// holder's own must have room beside them.
pub(super) const JOBS_MAX: usize = 32;

/// Longest a job may say nothing. A little less than it lives by itself, so that it is the job
/// that tidies up.
const SILENT_MAX: Duration = Duration::from_secs(ALARM_S as u64 - 5);

/// A job that was begun. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Work {
    sandbox: Arc<Sandbox>,
    channel: AsyncFd<OwnedFd>,
    /// Read and not used yet.
    buffer: BytesMut,
    /// What came beside it.
    files: Vec<OwnedFd>,
    /// Until it is done or may stand still.
    moving: Option<OwnedRwLockReadGuard<()>>,
    _turn: OwnedSemaphorePermit,
}

/// Begins a job. `beside` goes with its order.
pub(super) async fn begin(
    sandbox: &Arc<Sandbox>,
    wanted: &job::Job,
    beside: Option<&OwnedFd>,
) -> Result<Work, ProviderError> {
    let turn = Arc::clone(&sandbox.io.jobs).acquire_owned();
    let turn = turn.await.map_err(|_| ProviderError::Gone(sandbox.id))?;
    let moving = Some(sandbox.keep_moving().await.ok_or(ProviderError::Gone(sandbox.id))?);
    let pair = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let (ours, theirs) = pair.map_err(|error| on_host(error.into()))?;
    let channel = sys::listen_to(ours).map_err(on_host)?;
    let (buffer, files) = (BytesMut::new(), Vec::new());
    let sandbox = Arc::clone(sandbox);
    let work = Work { sandbox, channel, buffer, files, moving, _turn: turn };
    work.send(&job::frame(wanted).map_err(on_host)?).await?;
    let files: Vec<_> = std::iter::once(theirs.as_fd()).chain(beside.map(AsFd::as_fd)).collect();
    let ordered = work.sandbox.skeleton.order(&ToInit::Job, &files).await;
    ordered.map_err(|_| ProviderError::Gone(work.sandbox.id))?;
    Ok(work)
}

impl Work {
    /// Sends all of it.
    pub(super) async fn send(&self, mut bytes: &[u8]) -> Result<(), ProviderError> {
        while !bytes.is_empty() {
            let send = |channel: &OwnedFd| -> io::Result<usize> {
                Ok(rustix::net::send(channel, bytes, SendFlags::NOSIGNAL)?)
            };
            let sent = match send(self.channel.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let sending = self.channel.async_io(Interest::WRITABLE, send);
                    self.in_time(sending).await?
                }
                sent => sent,
            };
            bytes = &bytes[sent.map_err(|_| self.broken())?..];
        }
        Ok(())
    }

    /// What it says next.
    pub(super) async fn answer(&mut self) -> Result<Said, ProviderError> {
        while self.buffer.len() < 4 {
            self.receive().await?;
        }
        let length = self.buffer.get_u32_le();
        if length > FRAME_MAX {
            return Err(self.broken());
        }
        let length = usize::try_from(length).map_err(|_| self.broken())?;
        while self.buffer.len() < length {
            self.receive().await?;
        }
        let text = self.buffer.split_to(length);
        serde_json::from_slice(&text).map_err(|_| self.broken())
    }

    /// Some of what follows an answer, at most `left` bytes.
    pub(super) async fn piece(&mut self, left: u64) -> Result<Bytes, ProviderError> {
        if self.buffer.is_empty() {
            self.receive().await?;
        }
        let length = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(self.buffer.split_to(length).freeze())
    }

    /// From here on it takes as long as its caller does. Its sandbox may be paused meanwhile, and
    /// then it is given up.
    pub(super) fn let_pause(&mut self) {
        self.moving = None;
    }

    /// Whether it has said something, or ended, although it was not its turn.
    pub(super) async fn interrupts(&self) {
        // An error is told by whoever reads next.
        let _ = self.channel.readable().await.map(drop);
    }

    /// What came beside its answers.
    pub(super) fn take_file(&mut self) -> Option<OwnedFd> {
        self.files.pop()
    }

    async fn receive(&mut self) -> Result<(), ProviderError> {
        let received = match receive_some(self.channel.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.in_time(self.channel.async_io(Interest::READABLE, receive_some)).await?
            }
            received => received,
        };
        match received {
            Ok((bytes, mut files)) if !bytes.is_empty() => {
                // Nearly always there was nothing.
                if self.buffer.is_empty() {
                    self.buffer = bytes;
                } else {
                    self.buffer.unsplit(bytes);
                }
                self.files.append(&mut files);
                Ok(())
            }
            Ok(_) | Err(_) => Err(self.broken()),
        }
    }

    async fn in_time<T>(&self, wait: impl Future<Output = T>) -> Result<T, ProviderError> {
        let late = |_| ProviderError::Timeout { maybe_done: true };
        tokio::time::timeout(SILENT_MAX, wait).await.map_err(late)
    }

    /// It ended before it was done.
    fn broken(&self) -> ProviderError {
        if !self.sandbox.skeleton.is_usable() {
            return ProviderError::Gone(self.sandbox.id);
        }
        if self.sandbox.ran_out_of_memory() {
            // Nobody knows what else the kernel chose to kill.
            self.sandbox.skeleton.condemn("out of memory");
            return ProviderError::Gone(self.sandbox.id);
        }
        let why = "it ended early inside the sandbox: killed, or the file became shorter";
        let why = why.to_owned();
        ProviderError::Failed { why, maybe_done: true }
    }
}

/// Receives what there is, a piece at most.
fn receive_some(channel: &OwnedFd) -> io::Result<(BytesMut, Vec<OwnedFd>)> {
    let mut piece = [0; PIECE];
    let mut files = Vec::new();
    let length = packet::receive_beside(channel, &mut piece, &mut files)?;
    Ok((BytesMut::from(&piece[..length]), files))
}

/// What an error of a job means to its caller.
pub(super) fn fault(errno: i32, path: &str) -> ProviderError {
    let fault = match errno {
        libc::ENOENT => FileFault::Missing,
        libc::EEXIST | libc::ENOTEMPTY => FileFault::Exists,
        libc::ENOTDIR => FileFault::NotDirectory,
        libc::EISDIR => FileFault::IsDirectory,
        libc::ENXIO | libc::ENODEV => FileFault::NotRegular,
        libc::EACCES | libc::EPERM | libc::EROFS | libc::EBUSY | libc::ETXTBSY => FileFault::Denied,
        libc::ENOSPC | libc::EDQUOT => FileFault::Full,
        libc::ENAMETOOLONG | libc::EINVAL | libc::EILSEQ => FileFault::Invalid,
        libc::ELOOP => FileFault::Loop,
        libc::EOPNOTSUPP => return ProviderError::unsupported("metadata of a file on this kernel"),
        libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE => {
            return ProviderError::Quota { what: "processes or memory of the sandbox".to_owned() };
        }
        _ => {
            let why = io::Error::from_raw_os_error(errno);
            return ProviderError::Failed { why: format!("{path}: {why}"), maybe_done: false };
        }
    };
    ProviderError::File { path: path.to_owned(), fault }
}

/// An answer that is none. A mistake in here or in the fork.
pub(super) fn another_question() -> ProviderError {
    let why = "a job answered another question".to_owned();
    ProviderError::Failed { why, maybe_done: true }
}

/// What this machine did not give us.
fn on_host(error: io::Error) -> ProviderError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
            ProviderError::Quota { what: format!("what this machine gives ({error})") }
        }
        _ => ProviderError::Failed { why: error.to_string(), maybe_done: false },
    }
}
