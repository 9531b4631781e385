//! Processes that live on their own: started below a sandbox's init, read by whoever attaches.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::net::RecvFlags;
use rustix::pipe::PipeFlags;
use sandpit_messages::id::SandboxId;

use super::super::control::{Command, FromInit, Hindrance, Stdio, ToInit};
use super::super::packet;
use super::super::sys;
use super::files::absolute;
use super::link::lock;
use super::provider::failed;
use super::sandbox::Sandbox;
use super::{Engine, LocalProvider, job};
use crate::provider::ProviderError;
use crate::provider::processes::{
    Attached, Input, ProcessFault, ProcessInfo, ProcessRef, ProcessSignal, Processes, StartRequest,
    Stdin, TerminalSize,
};

mod lifetime;
mod process;
mod streams;
mod table;

use lifetime::Lifetime;
use process::{End, Process, Writable};
use streams::{Kind, Stream};
pub(super) use table::Table;

/// Bytes of arguments, environment, folder and name of one process. They are kept while it runs,
/// and a kernel takes no more than half of it in one argument.
const TEXT_MAX: usize = 256 * 1024;

/// Longest from an order to a running program. It takes about 2 ms.
const START_MAX: Duration = Duration::from_secs(10);

#[async_trait]
impl Processes for LocalProvider {
    async fn start(
        &self,
        sandbox: SandboxId,
        request: StartRequest,
    ) -> Result<Attached, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let engine = Arc::clone(&self.engine);
        // Whoever asked may go at any moment, and what was started is known all the same.
        let starting = self.engine.runtime.spawn(start(engine, sandbox, request));
        starting.await.map_err(failed)?
    }

    async fn attach(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
    ) -> Result<Attached, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        sandbox.io.processes.find(process, sys::now())?.attach()
    }

    async fn list(&self, sandbox: SandboxId) -> Result<Vec<ProcessInfo>, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        Ok(sandbox.io.processes.running())
    }

    async fn input(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        input: Input,
    ) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let found = sandbox.io.processes.find_running(process)?;
        let fault = |fault| ProviderError::Process { process: process.to_string(), fault };
        let bytes = match (&found.writable, &input) {
            (Writable::Pipe(_), Input::Stdin(bytes))
            | (Writable::Terminal(_), Input::Terminal(bytes)) => bytes,
            (Writable::Nothing | Writable::Pipe(_), Input::Terminal(_)) => {
                return Err(fault(ProcessFault::NoTerminal));
            }
            (Writable::Terminal(_), Input::Stdin(_)) => {
                return Err(fault(ProcessFault::HasTerminal));
            }
            (Writable::Nothing, Input::Stdin(_)) => return Err(fault(ProcessFault::NoInput)),
        };
        found.write(bytes).await.map_err(fault)
    }

    async fn close_input(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
    ) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let found = sandbox.io.processes.find_running(process)?;
        let fault = |fault| ProviderError::Process { process: process.to_string(), fault };
        match &found.writable {
            Writable::Pipe(pipe) => {
                pipe.close();
                Ok(())
            }
            Writable::Terminal(_) => Err(fault(ProcessFault::HasTerminal)),
            Writable::Nothing => Err(fault(ProcessFault::NoInput)),
        }
    }

    async fn signal(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        signal: ProcessSignal,
    ) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let found = sandbox.io.processes.find_running(process)?;
        let signal = match signal {
            ProcessSignal::Term => libc::SIGTERM,
            ProcessSignal::Kill => libc::SIGKILL,
        };
        let order = ToInit::Signal { command: found.number, signal };
        sandbox.skeleton.order(&order, &[]).await.map_err(|_| ProviderError::Gone(sandbox.id))
    }

    async fn resize(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        size: TerminalSize,
    ) -> Result<(), ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let found = sandbox.io.processes.find_running(process)?;
        let fault = |fault| ProviderError::Process { process: process.to_string(), fault };
        found.resize(size).map_err(fault)
    }
}

/// Starts one, and has it watched until nothing is left of it.
async fn start(
    engine: Arc<Engine>,
    sandbox: Arc<Sandbox>,
    request: StartRequest,
) -> Result<Attached, ProviderError> {
    check(&request)?;
    let table = &sandbox.io.processes;
    table.admit(sys::now())?;
    let cwd = absolute(request.cwd.as_deref().unwrap_or_default())?;
    let mut env = engine.base_env();
    env.extend(lock(&sandbox.env).clone());
    env.extend(request.env.clone());
    let command = Command { arguments: request.arguments.clone(), env, cwd: cwd.clone() };
    let order = packet::sealed_value(&command).map_err(failed)?;
    let (ours, theirs) = Ours::make(request.stdin).map_err(failed)?;
    let moving = sandbox.keep_moving().await.ok_or(ProviderError::Gone(sandbox.id))?;
    let number = engine.number();
    let mut said = sandbox.skeleton.watch_command(number);
    let files: Vec<_> = std::iter::once(&order).chain(&theirs.files).map(AsFd::as_fd).collect();
    let ordered = ToInit::Start { command: number, stdio: theirs.stdio };
    let ordered = sandbox.skeleton.order(&ordered, &files).await;
    ordered.map_err(|_| ProviderError::Gone(sandbox.id))?;
    drop(files);
    drop(theirs);
    let started = sandbox.pause.now();
    let pid = match tokio::time::timeout(START_MAX, said.recv()).await {
        Ok(Some(FromInit::Started { pid, .. })) => pid,
        Ok(Some(FromInit::NotStarted { hindrance, errno, .. })) => {
            return Err(not_started(&request, &cwd, hindrance, errno));
        }
        Ok(Some(_) | None) => return Err(ProviderError::Gone(sandbox.id)),
        Err(_late) => return Err(ProviderError::Timeout { maybe_done: true }),
    };
    drop(moving);
    let (writable, streams) = ours.connect().map_err(failed)?;
    let info =
        ProcessInfo { pid, arguments: request.arguments, env: request.env, cwd, tag: request.tag };
    let process = Arc::new(Process::new(number, info, writable));
    let attached = process.attach()?;
    table.add(Arc::clone(&process));
    let lifetime = Lifetime::new(started, request.time_max);
    tokio::spawn(process::live(Arc::clone(&sandbox), process, said, streams, lifetime));
    Ok(attached)
}

/// What no kernel would take.
fn check(request: &StartRequest) -> Result<(), ProviderError> {
    let refused = |why: &str| Err(ProviderError::Refused { why: why.to_owned() });
    let others = request.cwd.iter().chain(&request.tag);
    let texts = request.arguments.iter().chain(request.env.keys()).chain(request.env.values());
    let bytes: usize = texts.chain(others).map(String::len).sum();
    if bytes > TEXT_MAX {
        let what = "text of a process (arguments, environment)";
        return Err(ProviderError::TooLarge { what, bytes: bytes as u64, max: TEXT_MAX as u64 });
    }
    if request.arguments.first().is_none_or(String::is_empty) {
        return refused("a process needs a program to run");
    }
    let texts = request.arguments.iter().chain(request.env.keys()).chain(request.env.values());
    if texts.into_iter().any(|text| text.contains('\0')) {
        return refused("arguments and environment have no NUL in them");
    }
    if request.env.keys().any(|name| name.is_empty() || name.contains('=')) {
        return refused("a name in the environment is not empty and has no `=`");
    }
    Ok(())
}

fn not_started(
    request: &StartRequest,
    cwd: &str,
    hindrance: Hindrance,
    errno: i32,
) -> ProviderError {
    let program = request.arguments.first().map_or("", String::as_str);
    match (hindrance, errno) {
        (Hindrance::Folder, _) => job::fault(errno, request.cwd.as_deref().unwrap_or(cwd)),
        (Hindrance::Terminal, libc::ENOSPC | libc::EAGAIN | libc::EMFILE | libc::ENFILE) => {
            ProviderError::Quota { what: "terminals of the sandbox".to_owned() }
        }
        (Hindrance::Terminal, _) => ProviderError::unsupported("a terminal on this kernel"),
        (Hindrance::Program, libc::E2BIG | libc::ENOEXEC) => {
            let why = std::io::Error::from_raw_os_error(errno);
            ProviderError::Refused { why: format!("{program}: {why}") }
        }
        (Hindrance::Program, _) => job::fault(errno, program),
    }
}

/// Our ends of what a process reads and writes.
enum Ours {
    Pipes {
        input: Option<OwnedFd>,
        output: OwnedFd,
        errors: OwnedFd,
    },
    /// Where the other end of its terminal arrives.
    Terminal(OwnedFd),
}

/// Its ends.
struct Theirs {
    stdio: Stdio,
    files: Vec<OwnedFd>,
}

impl Ours {
    fn make(stdin: Stdin) -> std::io::Result<(Self, Theirs)> {
        if let Stdin::Terminal(TerminalSize { columns, rows }) = stdin {
            let (ours, theirs) = packet::pair()?;
            let stdio = Stdio::Terminal { columns, rows };
            return Ok((Self::Terminal(ours), Theirs { stdio, files: vec![theirs] }));
        }
        let (output, to_output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, to_errors) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (input, stdio, files) = match stdin {
            Stdin::Piped => {
                let (from_us, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                (Some(input), Stdio::Files, vec![from_us, to_output, to_errors])
            }
            Stdin::Null | Stdin::Terminal(_) => (None, Stdio::NoInput, vec![to_output, to_errors]),
        };
        Ok((Self::Pipes { input, output, errors }, Theirs { stdio, files }))
    }

    /// Once it runs.
    fn connect(self) -> std::io::Result<(Writable, Vec<Stream>)> {
        match self {
            Self::Pipes { input, output, errors } => {
                let streams =
                    vec![Stream::new(Kind::Stdout, output)?, Stream::new(Kind::Stderr, errors)?];
                let writable = match input {
                    Some(input) => Writable::Pipe(End::new(sys::listen_to(input)?)),
                    None => Writable::Nothing,
                };
                Ok((writable, streams))
            }
            Self::Terminal(channel) => {
                // It was sent before the program began.
                let received = packet::receive::<()>(&channel, RecvFlags::DONTWAIT)?;
                let end = received.and_then(|((), files)| files.into_iter().next());
                let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
                let copy = rustix::io::fcntl_dupfd_cloexec(&end, 0)?;
                let streams = vec![Stream::new(Kind::Terminal, end)?];
                Ok((Writable::Terminal(End::new(sys::listen_to(copy)?)), streams))
            }
        }
    }
}
