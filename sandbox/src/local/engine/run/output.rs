//! Output of an execution: read with a budget, passed on up to a bound, counted beyond it.

use std::os::fd::{BorrowedFd, OwnedFd};

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;

use super::super::sandbox::READ_MAX;

/// What is read at once.
const PIECE: usize = 16 * 1024;

/// One stream of one execution.
#[derive(Debug)]
pub(super) struct Output {
    /// Read and not passed on yet. At most `kept` bytes.
    pending: BytesMut,
    /// Bytes that may still be kept.
    room: u64,
    /// Everything that was read.
    pub(super) total: u64,
    /// What was read and not kept.
    pub(super) dropped: u64,
    /// Nothing more can come.
    pub(super) ended: bool,
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Everything there was.
    Dry,
    /// There may be more; others have their turn first.
    More,
}

impl Output {
    /// Of which so many bytes are passed on.
    pub(super) fn new(kept: u64) -> Self {
        Self { pending: BytesMut::new(), room: kept, total: 0, dropped: 0, ended: false }
    }

    /// Reads what is there, within the budget of one turn.
    pub(super) fn read(&mut self, from: BorrowedFd<'_>) -> Read {
        let mut piece = [0; PIECE];
        let mut budget = READ_MAX;
        while budget > 0 {
            match rustix::io::read(from, &mut piece) {
                Ok(0) => {
                    self.ended = true;
                    return Read::Dry;
                }
                Ok(read) => {
                    self.take(&piece[..read]);
                    budget = budget.saturating_sub(read);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Read::Dry,
                Err(_) => {
                    self.ended = true;
                    return Read::Dry;
                }
            }
        }
        Read::More
    }

    /// Reads everything that is there now, however much: its writer has stopped, so a pipe holds
    /// what it holds.
    pub(super) fn drain(&mut self, from: &OwnedFd) {
        use std::os::fd::AsFd;
        /// A pipe holds 64 KiB, or 1 MiB where its user asked for more.
        const TURNS_MAX: usize = 17;
        for _ in 0..TURNS_MAX {
            if self.read(from.as_fd()) == Read::Dry {
                return;
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let kept = length.min(self.room);
        self.total += length;
        self.room -= kept;
        self.dropped += length - kept;
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        self.pending.extend_from_slice(bytes.get(..kept).unwrap_or(bytes));
    }

    /// Whether something waits to be passed on.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What waits to be passed on.
    pub(super) fn take_pending(&mut self) -> Bytes {
        self.pending.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn written(bytes: &[u8]) -> OwnedFd {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, bytes).unwrap();
        read
    }

    #[test]
    fn what_is_over_the_bound_is_counted_and_dropped() {
        let mut output = Output::new(4);
        output.drain(&written(b"123456"));
        assert_eq!((output.total, output.dropped, output.ended), (6, 2, true));
        assert_eq!(output.take_pending(), "1234");
        assert!(!output.is_pending());
    }

    #[test]
    fn a_bound_counts_what_was_passed_on_before() {
        let mut output = Output::new(4);
        output.drain(&written(b"123"));
        assert_eq!(output.take_pending(), "123");
        output.drain(&written(b"456"));
        assert_eq!(output.take_pending(), "4");
        assert_eq!(output.dropped, 2);
    }

    #[test]
    fn one_turn_reads_no_more_than_its_budget() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&write, 4 * READ_MAX).unwrap();
        rustix::io::write(&write, &vec![b'x'; 2 * READ_MAX]).unwrap();
        let mut output = Output::new(u64::MAX);
        assert_eq!(output.read(read.as_fd()), Read::More);
        assert_eq!(usize::try_from(output.total), Ok(READ_MAX));
    }
}
