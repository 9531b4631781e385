//! The first thing a program that embeds the engine does: find out whether it was started by the
//! engine itself, as one of the processes that hold sandboxes.
//!
//! Such a process has the one argument `init`, which is also all that sandboxes see of it, an
//! empty environment, and a packet socket on its standard input with its orders.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::net::{RecvFlags, SocketType};

use super::control::Boot;
use super::packet;
use super::{guardian, keeper, launcher, probe, sys};

/// The name of every inner process.
pub(super) const NAME: &std::ffi::CStr = c"init";

/// Ends of inner programs that could not even say what went wrong.
const NO_ORDERS: i32 = 70;

/// Becomes an inner process of the engine, and ends with it, if that is what this program was
/// started as; returns at once otherwise.
///
/// Must be the first call of `main` of every program that uses the local engine: nothing may have
/// started a thread, opened a file or read its standard input before.
pub fn entry() {
    if !is_inner() {
        return;
    }
    // Whatever the program that started us had open and did not close is none of ours. What is
    // ours arrives with the orders.
    let closed = sys::close_from(3);
    let code = match closed.and_then(|()| orders()) {
        Ok((Boot::Guardian(boot), files)) => guardian::run(&boot, files),
        Ok((Boot::Launcher(boot), files)) => launcher::run(&boot, files),
        Ok((Boot::Keeper(boot), files)) => keeper::run(*boot, files),
        Ok((Boot::Probe(boot), files)) => probe::run(&boot, files),
        Err(_) => NO_ORDERS,
    };
    sys::end(code)
}

fn is_inner() -> bool {
    let mut arguments = std::env::args_os();
    let named = arguments.next().is_some_and(|name| name == NAME.to_str().unwrap_or_default());
    let alone = arguments.next().is_none() && std::env::vars_os().next().is_none();
    named
        && alone
        && rustix::net::sockopt::socket_type(rustix::stdio::stdin())
            .is_ok_and(|kind| kind == SocketType::SEQPACKET)
}

/// Reads the orders, and gives the standard input up.
fn orders() -> io::Result<(Boot, Vec<OwnedFd>)> {
    let stdin = sys::take_from(0);
    let received = packet::receive::<()>(&stdin, RecvFlags::empty())?;
    let ((), mut files) = received.ok_or(io::ErrorKind::UnexpectedEof)?;
    let null = open_null()?;
    for number in 0..3 {
        sys::put_at(null.as_fd(), number)?;
    }
    // Its number is the null device now, which stays open.
    std::mem::forget(stdin);
    if files.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let boot = packet::read_sealed(files.remove(0))?;
    Ok((boot, files))
}

/// The null device, where the host's or the launcher's root has it.
fn open_null() -> io::Result<OwnedFd> {
    let open = |path: &str| {
        rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())
    };
    Ok(open("/dev/null").or_else(|_| open("/s/dev-null"))?)
}

/// What lists of processes call this one.
pub(super) fn call_it(name: &std::ffi::CStr) {
    // For people only.
    let _ = rustix::thread::set_name(name);
}

/// What a new inner process finds on its standard input: its orders, then its descriptors.
///
/// # Errors
/// As of [`packet::send`].
pub(super) fn prepare(boot: &Boot, files: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    let (ours, theirs) = packet::pair()?;
    let orders = packet::sealed_value(boot)?;
    let mut all = vec![orders.as_fd()];
    all.extend_from_slice(files);
    packet::send(&ours, &(), &all)?;
    Ok(theirs)
}

/// Becomes an inner program anew, so that its memory belongs to the namespace it is in. Returns
/// only when it failed.
pub(super) fn become_anew(
    image: BorrowedFd<'_>,
    boot: &Boot,
    files: &[BorrowedFd<'_>],
) -> io::Error {
    let stdin = match prepare(boot, files) {
        Ok(stdin) => stdin,
        Err(error) => return error,
    };
    if let Err(error) = sys::put_at(stdin.as_fd(), 0) {
        return error;
    }
    sys::exec_file(image, NAME)
}
