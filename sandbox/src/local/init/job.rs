//! Does one job in a fork of its own, with init's own lockdown: a path may lead to something that
//! is slow, and whatever goes wrong there is not init's.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Pid;

use super::super::job::{self, ALARM_S, Job, Said};
use super::super::{packet, sys};
use super::files::{self, NotDone};

/// Longest a connection to somebody in the same namespace may take.
const CONNECT_MAX: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Starts it. `files`: the job's channel, and for a watch what it is added to.
///
/// # Errors
/// If there can be no fork; whoever asked was told.
pub(super) fn start(files: Vec<OwnedFd>) -> io::Result<Pid> {
    let mut files = files.into_iter();
    let channel = files.next().ok_or(io::ErrorKind::InvalidData)?;
    match sys::fork() {
        Ok(Some(child)) => Ok(child),
        Ok(None) => {
            let done = run(File::from(channel), files.next());
            sys::end(i32::from(done.is_err()))
        }
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
            // It may have gone.
            let _ = job::write(&mut File::from(channel), &Said::Failed { errno, second: false });
            Err(error)
        }
    }
}

fn run(mut channel: File, watched: Option<OwnedFd>) -> io::Result<()> {
    rustix::process::setsid()?;
    // A file that is too long and a caller who has gone are told as errors.
    sys::ignore_signal(libc::SIGXFSZ);
    sys::ignore_signal(libc::SIGPIPE);
    sys::alarm(ALARM_S);
    let wanted = job::read(&mut channel)?;
    match carry_out(wanted, &mut channel, watched) {
        Ok(()) => Ok(()),
        Err(NotDone { error, second }) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            job::write(&mut channel, &Said::Failed { errno, second })
        }
    }
}

fn carry_out(job: Job, channel: &mut File, watched: Option<OwnedFd>) -> Result<(), NotDone> {
    let said = match job {
        Job::Stat { path } => Said::Entry(files::facts(&path)?),
        Job::List { path, depth } => {
            files::list(&path, depth, channel)?;
            Said::Done
        }
        Job::Read { path, start, length } => return files::read(&path, start, length, channel),
        Job::Write { path, metadata } => Said::Entry(files::write(&path, &metadata, channel)?),
        Job::MakeDir { path } => Said::Entry(files::make_dir(&path)?),
        Job::Rename { source, destination } => Said::Entry(files::rename(&source, &destination)?),
        Job::Remove { path } => {
            files::remove(&path)?;
            Said::Done
        }
        Job::Watch { path, recursive, tell } => {
            let watched = watched.ok_or(Errno::BADF)?;
            files::watch(&path, recursive, tell, watched.as_fd(), channel)?;
            Said::Done
        }
        Job::Dial { port } => return dial(port, channel),
    };
    Ok(job::write(channel, &said)?)
}

/// Connects to a port of this sandbox, and gives the connection away.
fn dial(port: u16, channel: &mut File) -> Result<(), NotDone> {
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let connected = match connect(AddressFamily::INET, four) {
        // What listens on `localhost` may have chosen the newer address.
        Err(Errno::CONNREFUSED) => {
            connect(AddressFamily::INET6, six).map_err(|_| Errno::CONNREFUSED)?
        }
        connected => connected?,
    };
    let said = job::frame(&Said::Done)?;
    packet::send_beside(&*channel, &said, &[connected.as_fd()])?;
    Ok(channel.flush()?)
}

fn connect(family: AddressFamily, address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Err(Errno::INPROGRESS) => {
            let mut one = [PollFd::new(&socket, PollFlags::OUT)];
            if rustix::event::poll(&mut one, Some(&CONNECT_MAX))? == 0 {
                return Err(Errno::TIMEDOUT);
            }
            rustix::net::sockopt::socket_error(&socket)??;
        }
        connected => connected?,
    }
    Ok(socket)
}
