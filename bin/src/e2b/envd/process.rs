//! Processes: started, attached to, fed and ended.

use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::e2b::wire::Base64;
use sandpit_sandbox::e2b::wire::fault::{Code, ConnectError};
use sandpit_sandbox::e2b::wire::process::{
    Config, Data, End, Event, Info, ListResponse, Pty, SelectRequest, Selector, SendInputRequest,
    SendSignalRequest, Signal, StartRequest, StreamInputRequest, StreamResponse, UpdateRequest,
};
use sandpit_sandbox::provider::files::FileFault;
use sandpit_sandbox::provider::processes::{
    self, Attached, Input, ProcessEnd, ProcessEvent, ProcessRef, ProcessSignal, Stdin, TerminalSize,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::stream::{self, Answering, Asking, HungUp};
use super::{Call, answer, asked, told, unknown};

/// Bytes of output in one message, and of what a terminal shows.
const DATA_MAX: usize = 32 << 10;
const TERMINAL_MAX: usize = 16 << 10;

/// Bytes that go out together, if they are there already.
const TOGETHER_MAX: usize = 128 << 10;

/// Size of a terminal whose holder names none.
const TERMINAL: TerminalSize = TerminalSize { columns: 80, rows: 24 };

pub(super) async fn start(call: Call, request: Request) -> Response {
    let (time_max, keepalive) =
        (stream::time_max(request.headers()), stream::keepalive(request.headers()));
    let started = async {
        let ask: StartRequest = stream::one(request).await?;
        let cwd = ask.process.cwd.clone();
        let wanted = wanted(ask, time_max)?;
        let processes = call.shared.provider().processes();
        let processes = processes.map_err(|error| answer::connect(&error))?;
        let started = processes.start(call.sandbox(), wanted).await;
        started.map_err(|error| not_started(&error, cwd.as_deref()))
    };
    match started.await {
        // Its deadline is its own, and it lives on without its reader.
        Ok(attached) => follow(attached, keepalive, None),
        Err(error) => stream::failed(error),
    }
}

pub(super) async fn connect(call: Call, request: Request) -> Response {
    let (time_max, keepalive) =
        (stream::time_max(request.headers()), stream::keepalive(request.headers()));
    let attached = async {
        let ask: SelectRequest = stream::one(request).await?;
        let process = which(ask.process)?;
        let processes = call.shared.provider().processes();
        let processes = processes.map_err(|error| answer::connect(&error))?;
        let attached = processes.attach(call.sandbox(), &process).await;
        attached.map_err(|error| failed(&process, &error))
    };
    match attached.await {
        Ok(attached) => follow(attached, keepalive, time_max),
        Err(error) => stream::failed(error),
    }
}

fn wanted(
    ask: StartRequest,
    time_max: Option<Duration>,
) -> Result<processes::StartRequest, ConnectError> {
    let StartRequest { process: Config { cmd, args, envs, cwd }, stdin, tag, pty } = ask;
    if cmd.is_empty() {
        return Err(ConnectError::new(Code::InvalidArgument, "process.cmd is missing"));
    }
    let stdin = match (pty, stdin) {
        (Some(pty), _) => Stdin::Terminal(size(pty)?.unwrap_or(TERMINAL)),
        (None, Some(false)) => Stdin::Null,
        // What does not say is from before there was a choice.
        (None, Some(true) | None) => Stdin::Piped,
    };
    let arguments = [cmd].into_iter().chain(args).collect();
    let cwd = cwd.filter(|cwd| !cwd.is_empty());
    Ok(processes::StartRequest { arguments, env: envs, cwd, tag, stdin, time_max })
}

fn size(pty: Pty) -> Result<Option<TerminalSize>, ConnectError> {
    let Some(size) = pty.size else { return Ok(None) };
    let side = |side: u32| u16::try_from(side).ok().filter(|side| *side > 0);
    match (side(size.cols), side(size.rows)) {
        (Some(columns), Some(rows)) => Ok(Some(TerminalSize { columns, rows })),
        _ => {
            let message = "a terminal has 1 to 65535 columns and rows";
            Err(ConnectError::new(Code::InvalidArgument, message))
        }
    }
}

/// A directory that is not there is an argument that is wrong.
fn not_started(error: &ProviderError, cwd: Option<&str>) -> ConnectError {
    match (error, cwd) {
        (ProviderError::File { path, fault: FileFault::Missing }, Some(cwd)) if path == cwd => {
            let message = format!("cwd '{cwd}' does not exist");
            ConnectError::new(Code::InvalidArgument, message)
        }
        (ProviderError::File { fault, .. }, Some(cwd)) if *fault != FileFault::Missing => {
            ConnectError::new(Code::InvalidArgument, format!("cwd '{cwd}' {fault}"))
        }
        _ => answer::connect(error),
    }
}

fn which(selector: Selector) -> Result<ProcessRef, ConnectError> {
    match (selector.pid, selector.tag) {
        (Some(pid), _) => Ok(ProcessRef::Pid(pid)),
        (None, Some(tag)) => Ok(ProcessRef::Tag(tag)),
        (None, None) => {
            Err(ConnectError::new(Code::InvalidArgument, "process names neither pid nor tag"))
        }
    }
}

fn failed(process: &ProcessRef, error: &ProviderError) -> ConnectError {
    match answer::connect(error) {
        // The words that E2B uses, for readers of logs.
        ConnectError { code: Code::NotFound, .. } => {
            ConnectError::new(Code::NotFound, format!("{process} not found"))
        }
        other => other,
    }
}

/// Tells what a process does until it ends, its reader goes, or the reader's time is over.
fn follow(attached: Attached, keepalive: Duration, time_max: Option<Duration>) -> Response {
    let (answering, response) = Answering::begin();
    tokio::spawn(async move {
        match time_max {
            None => tell(attached, answering, keepalive).await,
            Some(time) => {
                let (bounded, pieces) = (answering.also(), answering);
                tokio::select! {
                    () = tell(attached, pieces, keepalive) => {}
                    () = sleep(time) => bounded.end(Some(over())).await,
                }
            }
        }
    });
    response
}

fn over() -> ConnectError {
    ConnectError::new(Code::DeadlineExceeded, "the time of this call is over")
}

async fn tell(mut attached: Attached, mut answering: Answering, keepalive: Duration) {
    let ended = loop {
        let event = tokio::select! {
            event = timeout(keepalive, attached.recv()) => event,
            () = answering.hung_up() => return,
        };
        let Ok(event) = event else {
            let alive = StreamResponse { event: Event::Keepalive {} };
            if answering.send(&alive).await.is_err() {
                return;
            }
            continue;
        };
        match told_of(&mut attached, event, &mut answering).await {
            Ok(None) => {}
            Ok(Some(ended)) => break ended,
            Err(HungUp) => return,
        }
    };
    let error = match ended {
        ProcessEnd::Exit(code) => {
            answering.add(&StreamResponse { event: Event::End(End::exit(code)) });
            None
        }
        ProcessEnd::Signal(number) => {
            answering.add(&StreamResponse { event: Event::End(End::signal(number)) });
            None
        }
        ProcessEnd::Deadline => Some(over()),
        ProcessEnd::Lost => Some(answer::not_found()),
    };
    answering.end(error).await;
}

/// Tells one event and those that are there already. Says how it ended, if it did.
async fn told_of(
    attached: &mut Attached,
    first: Option<ProcessEvent>,
    answering: &mut Answering,
) -> Result<Option<ProcessEnd>, HungUp> {
    let mut next = first.or(Some(ProcessEvent::Ended(ProcessEnd::Lost)));
    while let Some(event) = next {
        match event {
            ProcessEvent::Started { pid } => {
                // Flushed alone: whoever reads wants to see it before anything else.
                answering.send(&StreamResponse { event: Event::Start { pid } }).await?;
            }
            ProcessEvent::Stdout(bytes) => add(answering, bytes, DATA_MAX, |stdout| Data {
                stdout: Some(stdout),
                ..Data::default()
            }),
            ProcessEvent::Stderr(bytes) => add(answering, bytes, DATA_MAX, |stderr| Data {
                stderr: Some(stderr),
                ..Data::default()
            }),
            ProcessEvent::Terminal(bytes) => add(answering, bytes, TERMINAL_MAX, |pty| Data {
                pty: Some(pty),
                ..Data::default()
            }),
            ProcessEvent::Ended(end) => return Ok(Some(end)),
        }
        next = (answering.waiting() < TOGETHER_MAX).then(|| attached.try_recv().ok()).flatten();
    }
    answering.flush().await?;
    Ok(None)
}

fn add(answering: &mut Answering, mut bytes: Bytes, max: usize, data: impl Fn(Base64) -> Data) {
    while !bytes.is_empty() {
        let piece = bytes.split_to(max.min(bytes.len()));
        answering.add(&StreamResponse { event: Event::Data(data(Base64(piece))) });
    }
}

/// Feeds a process from a stream.
pub(super) async fn stream_input(call: Call, request: Request) -> Response {
    match feed(&call, Asking::of(request)).await {
        Ok(()) => {
            let (mut answering, response) = Answering::begin();
            answering.add(&json!({}));
            answering.end(None).await;
            response
        }
        Err(error) => stream::failed(error),
    }
}

async fn feed(call: &Call, mut asking: Asking) -> Result<(), ConnectError> {
    let processes = call.shared.provider().processes();
    let processes = processes.map_err(|error| answer::connect(&error))?;
    let mut process = None;
    while let Some(message) = asking.next().await? {
        match (message, &process) {
            (StreamInputRequest::Start(start), _) => process = Some(which(start.process)?),
            (StreamInputRequest::Data { input }, Some(process)) => {
                let Some(input) = fed(input) else { continue };
                let written = processes.input(call.sandbox(), process, input).await;
                written.map_err(|error| failed(process, &error))?;
            }
            (StreamInputRequest::Data { .. }, None) => {
                let message = "the first message of this stream says which process";
                return Err(ConnectError::new(Code::InvalidArgument, message));
            }
            (StreamInputRequest::Keepalive {}, _) => {}
        }
    }
    Ok(())
}

fn fed(input: sandpit_sandbox::e2b::wire::process::Input) -> Option<Input> {
    match (input.stdin, input.pty) {
        (Some(Base64(bytes)), _) => Some(Input::Stdin(bytes)),
        (None, Some(Base64(bytes))) => Some(Input::Terminal(bytes)),
        (None, None) => None,
    }
}

/// Calls that are answered at once.
pub(super) async fn unary(
    call: &Call,
    method: &str,
    request: Request,
) -> Result<Value, ConnectError> {
    let sandbox = call.sandbox();
    let processes = call.shared.provider().processes();
    let processes = processes.map_err(|error| answer::connect(&error))?;
    match method {
        "List" => {
            let all = processes.list(sandbox).await.map_err(|error| answer::connect(&error))?;
            let processes = all.into_iter().map(info).collect();
            told(&ListResponse { processes })
        }
        "SendInput" => {
            let ask: SendInputRequest = asked(request).await?;
            let process = which(ask.process)?;
            if let Some(input) = fed(ask.input) {
                let written = processes.input(sandbox, &process, input).await;
                written.map_err(|error| failed(&process, &error))?;
            }
            Ok(json!({}))
        }
        "CloseStdin" => {
            let ask: SelectRequest = asked(request).await?;
            let process = which(ask.process)?;
            let closed = processes.close_input(sandbox, &process).await;
            closed.map_err(|error| failed(&process, &error))?;
            Ok(json!({}))
        }
        "SendSignal" => {
            let ask: SendSignalRequest = asked(request).await?;
            let signal = match ask.signal {
                Signal::Term => ProcessSignal::Term,
                Signal::Kill => ProcessSignal::Kill,
                Signal::Other => {
                    let message = "only SIGTERM and SIGKILL can be sent";
                    return Err(ConnectError::new(Code::Unimplemented, message));
                }
            };
            let process = which(ask.process)?;
            let sent = processes.signal(sandbox, &process, signal).await;
            sent.map_err(|error| failed(&process, &error))?;
            Ok(json!({}))
        }
        "Update" => {
            let ask: UpdateRequest = asked(request).await?;
            let process = which(ask.process)?;
            if let Some(size) = ask.pty.map(size).transpose()?.flatten() {
                let resized = processes.resize(sandbox, &process, size).await;
                resized.map_err(|error| failed(&process, &error))?;
            }
            Ok(json!({}))
        }
        method => Err(unknown(method)),
    }
}

fn info(process: processes::ProcessInfo) -> Info {
    let processes::ProcessInfo { pid, arguments, env, cwd, tag } = process;
    let mut words = arguments.into_iter();
    let cmd = words.next().unwrap_or_default();
    let config = Config { cmd, args: words.collect(), envs: env, cwd: Some(cwd) };
    Info { config, pid, tag }
}
