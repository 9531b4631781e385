//! Starts commands and writes files, each in a short-lived fork with init's own lockdown.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::super::control::{Command, Files, Hindrance, Stdio};
use super::super::packet;
use super::super::sys;

/// Where relative paths start.
const HOME: &str = "/home/user";

/// Searched when a command's environment has no `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What a shell answers for a program that is not there or cannot be run.
const NOT_RUN: i32 = 127;

/// A command that was not started: because of what, and the error.
#[derive(Debug)]
pub(super) struct NotStarted {
    /// Because of what.
    pub(super) hindrance: Hindrance,
    /// The number of the error.
    pub(super) errno: i32,
}

impl NotStarted {
    /// As it travels from the fork to init.
    fn to_bytes(&self) -> [u8; REPORT] {
        let code = match self.hindrance {
            Hindrance::Folder => 0,
            Hindrance::Terminal => 1,
            Hindrance::Program => 2,
        };
        let [e0, e1, e2, e3] = self.errno.to_ne_bytes();
        [code, e0, e1, e2, e3]
    }

    fn from_bytes([code, errno @ ..]: [u8; REPORT]) -> Self {
        let hindrance = match code {
            0 => Hindrance::Folder,
            1 => Hindrance::Terminal,
            _ => Hindrance::Program,
        };
        Self { hindrance, errno: i32::from_ne_bytes(errno) }
    }

    fn because(hindrance: Hindrance) -> impl Fn(io::Error) -> Self {
        move |error| Self { hindrance, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

impl<E: Into<io::Error>> From<E> for NotStarted {
    fn from(error: E) -> Self {
        Self::because(Hindrance::Program)(error.into())
    }
}

/// Bytes of a report of the fork.
const REPORT: usize = 5;

/// Starts a command. `files`: the sealed [`Command`], and what `stdio` says.
///
/// # Errors
/// Why the program could not be run.
pub(super) fn start(files: Vec<OwnedFd>, stdio: Stdio) -> Result<Pid, NotStarted> {
    let mut files = files.into_iter();
    let order = files.next().ok_or(io::ErrorKind::InvalidData)?;
    let beside: Vec<OwnedFd> = files.collect();
    let (mut failure, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map(|(read, write)| (File::from(read), write))?;
    match sys::fork()? {
        None => {
            let failed = run(order, &beside, stdio).unwrap_or_else(|failed| failed);
            // Init then sees an end without a reason, which is not a success either.
            let _ = rustix::io::write(&report, &failed.to_bytes());
            sys::end(NOT_RUN)
        }
        Some(child) => {
            drop(report);
            let mut said = [0; REPORT];
            match failure.read_exact(&mut said) {
                // Closed by a successful exec.
                Err(_) => Ok(child),
                Ok(()) => Err(NotStarted::from_bytes(said)),
            }
        }
    }
}

fn run(order: OwnedFd, beside: &[OwnedFd], stdio: Stdio) -> Result<NotStarted, NotStarted> {
    let command: Command = packet::read_sealed(order)?;
    rustix::process::setsid()?;
    match (stdio, beside) {
        (Stdio::Files, [input, output, errors]) => {
            become_standard(&[(input.as_fd(), 0), (output.as_fd(), 1), (errors.as_fd(), 2)])?
        }
        // Init's own input is the null device.
        (Stdio::NoInput, [output, errors]) => {
            become_standard(&[(output.as_fd(), 1), (errors.as_fd(), 2)])?;
        }
        (Stdio::Terminal { columns, rows }, [channel]) => {
            let terminal = terminal(channel.as_fd(), columns, rows)
                .map_err(NotStarted::because(Hindrance::Terminal))?;
            become_standard(&[0, 1, 2].map(|number| (terminal.as_fd(), number)))?;
        }
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    }
    sys::default_signals()?;
    let moved = rustix::process::chdir(home(&command.cwd)).map_err(io::Error::from);
    moved.map_err(NotStarted::because(Hindrance::Folder))?;
    let program = command.arguments.first().ok_or(io::ErrorKind::InvalidInput)?;
    let texts = |texts: Vec<String>| -> io::Result<Vec<CString>> {
        Ok(texts.into_iter().map(CString::new).collect::<Result<_, _>>()?)
    };
    let candidates = texts(candidates(program, &command.env))?;
    let environment =
        texts(command.env.iter().map(|(name, value)| format!("{name}={value}")).collect())?;
    let arguments = texts(command.arguments.clone())?;
    Ok(exec_first(&candidates, &arguments, &environment).into())
}

fn become_standard(files: &[(BorrowedFd<'_>, i32)]) -> io::Result<()> {
    files.iter().try_for_each(|(file, number)| sys::put_at(*file, *number))
}

/// Makes a terminal of this size the controlling one of this session, and sends its other end
/// through `channel`.
fn terminal(channel: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size)?;
    rustix::process::ioctl_tiocsctty(&terminal)?;
    packet::send(channel, &(), &[master.as_fd()])?;
    Ok(terminal)
}

/// Where a program may be: as said if it has a slash, else in each folder of `PATH`.
fn candidates(program: &str, env: &BTreeMap<String, String>) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.get("PATH").map_or(PATH, String::as_str);
    path.split(':').map(|folder| format!("{folder}/{program}")).collect()
}

fn exec_first(candidates: &[CString], arguments: &[CString], environment: &[CString]) -> io::Error {
    let arguments: Vec<&CStr> = arguments.iter().map(CString::as_c_str).collect();
    let environment: Vec<&CStr> = environment.iter().map(CString::as_c_str).collect();
    let mut kept = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates {
        let error = sys::exec_path(candidate, &arguments, &environment);
        // A folder without the program says less than one that has it and cannot run it.
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            kept = error;
        }
    }
    kept
}

/// Writes files in a fork of its own, because a path may lead to something that never answers.
/// `files`: the sealed [`Files`] and their contents. The fork ends with 0, or with the number of
/// the first error.
///
/// # Errors
/// If there can be no fork.
pub(super) fn write(files: Vec<OwnedFd>) -> io::Result<Pid> {
    let Ok([order, contents]) = <[OwnedFd; 2]>::try_from(files) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    match sys::fork()? {
        None => match write_all(order, contents) {
            Ok(()) => sys::end(0),
            Err(error) => sys::end(error.raw_os_error().unwrap_or(libc::EIO)),
        },
        Some(child) => Ok(child),
    }
}

fn write_all(order: OwnedFd, contents: OwnedFd) -> io::Result<()> {
    let order: Files = packet::read_sealed(order)?;
    rustix::process::setsid()?;
    sys::default_signals()?;
    let mut contents = File::from(contents);
    for (name, length) in order.files {
        let path = home(&name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // What is there may be a pipe that nobody reads: never wait for it.
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        io::copy(&mut Read::by_ref(&mut contents).take(length), &mut file)?;
    }
    Ok(())
}

/// A path as the user means it.
fn home(path: &str) -> PathBuf {
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            Path::new(HOME).join(rest.trim_start_matches('/'))
        }
        _ => Path::new(HOME).join(path),
    }
}
