//! One of our own programs in a sandbox, which reads or writes more than an execution may: what
//! `/home/user` holds, on its way to or from a file of the engine.
//!
//! The engine opens no path of a sandbox: everything goes through pipes, is bounded and is never
//! looked into. Whatever else runs in the sandbox may disturb the program, and harms itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::super::super::control::{Command, FromInit, ToInit};
use super::super::super::packet;
use super::super::Engine;
use super::super::sandbox::Sandbox;
use super::HOME;

/// Longest a transfer may take. 512 MiB take 2 s on an idle processor.
const TRANSFER_MAX: Duration = Duration::from_secs(120);

/// How often the thread that moves bytes looks whether the program has ended.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Bytes moved at once.
const PIECE: usize = 64 * 1024;

/// Bytes of what the program says that are kept.
const SAID_MAX: usize = 4_096;

/// What goes through the pipes.
pub(in super::super) enum Stream {
    /// This file becomes its standard input.
    In(File),
    /// Its standard output becomes this file, of so many bytes at most.
    Out(File, u64),
}

/// How it went.
#[derive(Debug)]
pub(in super::super) struct Moved {
    /// As `wait` encodes it.
    pub(in super::super) status: i32,
    /// What it wrote to standard error, at most 4 KiB.
    pub(in super::super) said: String,
    /// It wrote more than it might.
    pub(in super::super) too_large: bool,
}

/// Runs the program to its end.
///
/// # Errors
/// If the sandbox ended, or the program did not in time: it is killed then.
pub(in super::super) async fn transfer(
    engine: &Arc<Engine>,
    sandbox: &Sandbox,
    arguments: &[&str],
    stream: Stream,
) -> io::Result<Moved> {
    let command = Command {
        arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
        env: engine.base_env(),
        cwd: HOME.to_owned(),
    };
    let order = packet::sealed_value(&command)?;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (from_us, input) = pipe()?;
    let (output, to_output) = pipe()?;
    let (errors, to_errors) = pipe()?;
    for ours in [&input, &output, &errors] {
        rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
    }
    let number = engine.number();
    let mut said = sandbox.skeleton.watch_command(number);
    let files = [order.as_fd(), from_us.as_fd(), to_output.as_fd(), to_errors.as_fd()];
    sandbox.skeleton.order(&ToInit::Run { command: number }, &files).await?;
    drop((from_us, to_output, to_errors));
    let over = Over(Arc::new(AtomicBool::new(false)));
    let pump = Pump { input: Some(input), output, errors, over: Arc::clone(&over.0) };
    let pumping = tokio::task::spawn_blocking(move || pump.run(stream));
    let ended = tokio::time::timeout(TRANSFER_MAX, async {
        loop {
            match said.recv().await {
                Some(FromInit::Ended { end, .. }) => break Ok(end.status),
                Some(FromInit::NotStarted { errno, .. }) => {
                    break Err(io::Error::from_raw_os_error(errno));
                }
                Some(
                    FromInit::Started { .. } | FromInit::Counted { .. } | FromInit::Halted { .. },
                ) => {}
                None => break Err(io::Error::other("the sandbox ended")),
            }
        }
    });
    let ended = ended.await;
    if ended.is_err() {
        let signal = libc::SIGKILL;
        // A full socket means that init is stuck, and the sandbox is destroyed for that elsewhere.
        let _ = sandbox.skeleton.order_now(&ToInit::Signal { command: number, signal });
    }
    drop(over);
    let (said, too_large) = pumping.await.map_err(io::Error::other)??;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it took too long");
    Ok(Moved { status: ended.map_err(late)??, said, too_large })
}

/// Says that nothing more is waited for, also when whoever waited is gone.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Our ends of the pipes.
struct Pump {
    input: Option<OwnedFd>,
    output: OwnedFd,
    errors: OwnedFd,
    /// The program has ended: what the pipes hold is all there is.
    over: Arc<AtomicBool>,
}

impl Pump {
    /// Moves everything; answers with what the program said, and whether it wrote too much.
    fn run(mut self, stream: Stream) -> io::Result<(String, bool)> {
        let (mut source, mut sink) = match stream {
            Stream::In(file) => (Some(file), None),
            Stream::Out(file, max) => (None, Some((file, max))),
        };
        if source.is_none() {
            self.input = None;
        }
        let mut pending: Vec<u8> = Vec::new();
        let (mut said, mut too_large) = (Vec::new(), false);
        let (mut output_ended, mut errors_ended) = (false, false);
        while !(output_ended && errors_ended) {
            let over = self.over.load(Ordering::Acquire);
            let waited = self.wait(output_ended, errors_ended)?;
            if let (Some(input), Some(file)) = (&self.input, &mut source) {
                if pending.is_empty() {
                    pending.resize(PIECE, 0);
                    let read = file.read(&mut pending)?;
                    pending.truncate(read);
                }
                match rustix::io::write(input, &pending) {
                    // The end of the file, or nobody reads any more.
                    _ if pending.is_empty() => self.input = None,
                    Err(Errno::PIPE) => self.input = None,
                    Ok(written) => drop(pending.drain(..written)),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let mut piece = [0; PIECE];
            output_ended = take(&self.output, &mut piece, output_ended, |bytes| {
                if let Some((file, room)) = &mut sink
                    && !too_large
                {
                    let length = bytes.len() as u64;
                    too_large = length > *room;
                    *room = room.saturating_sub(length);
                    if !too_large {
                        file.write_all(bytes)?;
                    }
                }
                Ok(())
            })?;
            errors_ended = take(&self.errors, &mut piece, errors_ended, |bytes| {
                let room = SAID_MAX - said.len();
                said.extend_from_slice(&bytes[..room.min(bytes.len())]);
                Ok(())
            })?;
            // Somebody else in the sandbox may hold the pipes open.
            if (over && !waited) || too_large {
                break;
            }
        }
        if let Some((file, _)) = &sink {
            file.sync_all()?;
        }
        Ok((String::from_utf8_lossy(&said).trim().to_owned(), too_large))
    }

    /// Waits until something can be moved; whether it can.
    fn wait(&self, output_ended: bool, errors_ended: bool) -> io::Result<bool> {
        let mut asked = Vec::with_capacity(3);
        let mut ask = |fd, flags| asked.push(PollFd::from_borrowed_fd(fd, flags));
        if let Some(input) = &self.input {
            ask(input.as_fd(), PollFlags::OUT);
        }
        if !output_ended {
            ask(self.output.as_fd(), PollFlags::IN);
        }
        if !errors_ended {
            ask(self.errors.as_fd(), PollFlags::IN);
        }
        match rustix::event::poll(&mut asked, Some(&LOOK)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads once; whether the other end is closed.
fn take(
    from: &OwnedFd,
    piece: &mut [u8],
    ended: bool,
    mut keep: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    if ended {
        return Ok(true);
    }
    match rustix::io::read(from, &mut *piece) {
        Ok(0) => Ok(true),
        Ok(read) => keep(&piece[..read]).map(|()| false),
        Err(Errno::AGAIN | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The exit code of a status, if it is one.
pub(in super::super) fn exit_code(status: i32) -> Option<i32> {
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}
