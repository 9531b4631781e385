//! Starts commands and writes files, each in a short-lived fork with init's own lockdown.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::super::control::{self, Command, Files};
use super::super::sys;

/// Where relative paths start.
const HOME: &str = "/home/user";

/// Searched when a command's environment has no `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What a shell answers for a program that is not there or cannot be run.
const NOT_RUN: i32 = 127;

/// Starts a command. `files`: the sealed [`Command`], standard input, output, error.
///
/// # Errors
/// Why the program could not be run.
pub(super) fn start(files: Vec<OwnedFd>) -> io::Result<Pid> {
    let Ok([order, input, output, errors]) = <[OwnedFd; 4]>::try_from(files) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (mut failure, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map(|(read, write)| (File::from(read), write))?;
    match sys::fork()? {
        None => {
            let error = run(order, &input, &output, &errors).unwrap_or_else(|error| error);
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            // Init then sees an end without a reason, which is not a success either.
            let _ = rustix::io::write(&report, &errno.to_ne_bytes());
            sys::end(NOT_RUN)
        }
        Some(child) => {
            drop(report);
            let mut errno = [0; 4];
            match failure.read_exact(&mut errno) {
                // Closed by a successful exec.
                Err(_) => Ok(child),
                Ok(()) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            }
        }
    }
}

fn run(
    order: OwnedFd,
    input: &OwnedFd,
    output: &OwnedFd,
    errors: &OwnedFd,
) -> io::Result<io::Error> {
    let command: Command = control::read_sealed(order)?;
    rustix::process::setsid()?;
    for (file, number) in [(input, 0), (output, 1), (errors, 2)] {
        sys::put_at(file.as_fd(), number)?;
    }
    sys::default_signals()?;
    rustix::process::chdir(home(&command.cwd))?;
    let program = command.arguments.first().ok_or(io::ErrorKind::InvalidInput)?;
    let texts = |texts: Vec<String>| -> io::Result<Vec<CString>> {
        Ok(texts.into_iter().map(CString::new).collect::<Result<_, _>>()?)
    };
    let candidates = texts(candidates(program, &command.env))?;
    let environment =
        texts(command.env.iter().map(|(name, value)| format!("{name}={value}")).collect())?;
    let arguments = texts(command.arguments.clone())?;
    Ok(exec_first(&candidates, &arguments, &environment))
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
    let order: Files = control::read_sealed(order)?;
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
