//! Processes that live on their own.

use async_trait::async_trait;
use sandpit_messages::id::SandboxId;
use serde::Serialize;
use tokio::sync::mpsc;

use super::exec::{outcome, started};
use super::http::Answer;
use super::stream::{Messages, Piece};
use super::wire::Base64;
use super::wire::fault::Code;
use super::wire::process::{
    Config, Event, Input as Sent, ListResponse, Pty, SERVICE, SelectRequest, Selector,
    SendInputRequest, SendSignalRequest, Signal, Size, StartRequest as Start, StreamResponse,
    UpdateRequest,
};
use super::wire::words;
use super::{Cloud, E2b};
use crate::ProviderError;
use crate::provider::Outcome;
use crate::provider::processes::{
    Attached, Input, ProcessEnd, ProcessEvent, ProcessFault, ProcessInfo, ProcessRef,
    ProcessSignal, Processes, StartRequest, Stdin, TerminalSize,
};

/// Events that wait for whoever reads them.
const EVENTS_ROOM: usize = 64;

fn selector(process: &ProcessRef) -> Selector {
    match process {
        ProcessRef::Pid(pid) => Selector { pid: Some(*pid), tag: None },
        ProcessRef::Tag(tag) => Selector { pid: None, tag: Some(tag.clone()) },
    }
}

fn size(size: TerminalSize) -> Pty {
    let (cols, rows) = (u32::from(size.columns), u32::from(size.rows));
    Pty { size: Some(Size { cols, rows }) }
}

impl Cloud {
    /// A call about one process that answers nothing.
    async fn about(
        &self,
        sandbox: SandboxId,
        method: &str,
        process: &ProcessRef,
        body: &impl Serialize,
    ) -> Result<(), ProviderError> {
        let remote = self.open(sandbox).await?;
        let answer = self.unary(&remote, &format!("{SERVICE}{method}"), body).await?;
        if answer.is_success() {
            return Ok(());
        }
        Err(self.process_fault(sandbox, process, &answer))
    }

    fn process_fault(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        answer: &Answer,
    ) -> ProviderError {
        let fault = answer.connect_error().and_then(|error| words::process_fault(&error));
        match fault {
            Some(fault) if answer.status != 502 => {
                ProviderError::Process { process: process.to_string(), fault }
            }
            _ => self.unary_fault(sandbox, answer),
        }
    }
}

/// Passes on what a process does. Whoever reads may go: that changes nothing for the process.
async fn follow(mut messages: Messages, events: mpsc::Sender<ProcessEvent>) {
    loop {
        let piece = tokio::select! {
            piece = messages.next::<StreamResponse>() => piece,
            () = events.closed() => return,
        };
        let event = match piece {
            Ok(Piece::Message(StreamResponse { event })) => event,
            Ok(Piece::End(Some(error))) if error.code == Code::DeadlineExceeded => {
                // Nobody has to listen, here and below.
                let _ = events.send(ProcessEvent::Ended(ProcessEnd::Deadline)).await;
                return;
            }
            Ok(Piece::End(_)) | Err(_) => {
                let _ = events.send(ProcessEvent::Ended(ProcessEnd::Lost)).await;
                return;
            }
        };
        match event {
            Event::Data(data) => {
                let told = [
                    data.stdout.map(|bytes| ProcessEvent::Stdout(bytes.0)),
                    data.stderr.map(|bytes| ProcessEvent::Stderr(bytes.0)),
                    data.pty.map(|bytes| ProcessEvent::Terminal(bytes.0)),
                ];
                for event in told.into_iter().flatten() {
                    let _ = events.send(event).await;
                }
            }
            Event::End(end) => {
                let end = match outcome(&end) {
                    Outcome::Signal(signal) => ProcessEnd::Signal(signal),
                    _ => ProcessEnd::Exit(end.exit_code),
                };
                let _ = events.send(ProcessEvent::Ended(end)).await;
                return;
            }
            Event::Start { .. } | Event::Keepalive {} => (),
        }
    }
}

/// Waits for the first message of a stream, and follows the rest.
async fn attached(mut messages: Messages) -> Result<Attached, ProviderError> {
    let pid = started(&mut messages).await?;
    let (events, attached) = mpsc::channel(EVENTS_ROOM);
    // There is room, and a reader.
    let _ = events.send(ProcessEvent::Started { pid }).await;
    tokio::spawn(follow(messages, events));
    Ok(attached)
}

#[async_trait]
impl Processes for E2b {
    async fn start(
        &self,
        sandbox: SandboxId,
        request: StartRequest,
    ) -> Result<Attached, ProviderError> {
        let remote = self.0.open(sandbox).await?;
        let mut arguments = request.arguments.into_iter();
        let Some(cmd) = arguments.next() else {
            return Err(ProviderError::Refused { why: "a program without a name".to_owned() });
        };
        let mut envs = remote.env.clone();
        envs.extend(request.env);
        let body = Start {
            process: Config { cmd, args: arguments.collect(), envs, cwd: request.cwd },
            stdin: Some(request.stdin == Stdin::Piped),
            tag: request.tag,
            pty: match request.stdin {
                Stdin::Terminal(wanted) => Some(size(wanted)),
                Stdin::Null | Stdin::Piped => None,
            },
        };
        let method = format!("{SERVICE}Start");
        let lives = request.time_max;
        attached(self.0.stream(sandbox, &remote, &method, &body, lives).await?).await
    }

    async fn attach(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
    ) -> Result<Attached, ProviderError> {
        let remote = self.0.open(sandbox).await?;
        let body = SelectRequest { process: selector(process) };
        let method = format!("{SERVICE}Connect");
        let missing = |error: ProviderError| match error {
            // What is not there is told within the stream, as a refusal.
            ProviderError::Refused { .. } => ProviderError::Process {
                process: process.to_string(),
                fault: ProcessFault::Missing,
            },
            other => other,
        };
        let messages = self.0.stream(sandbox, &remote, &method, &body, None).await?;
        attached(messages).await.map_err(missing)
    }

    async fn list(&self, sandbox: SandboxId) -> Result<Vec<ProcessInfo>, ProviderError> {
        let remote = self.0.open(sandbox).await?;
        let answer =
            self.0.unary(&remote, &format!("{SERVICE}List"), &serde_json::json!({})).await?;
        if !answer.is_success() {
            return Err(self.0.unary_fault(sandbox, &answer));
        }
        let told: ListResponse = answer.read()?;
        let info = |told: super::wire::process::Info| ProcessInfo {
            pid: told.pid,
            arguments: std::iter::once(told.config.cmd).chain(told.config.args).collect(),
            env: told.config.envs,
            cwd: told.config.cwd.unwrap_or_default(),
            tag: told.tag,
        };
        Ok(told.processes.into_iter().map(info).collect())
    }

    async fn input(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        input: Input,
    ) -> Result<(), ProviderError> {
        let input = match input {
            Input::Stdin(bytes) => Sent { stdin: Some(Base64(bytes)), pty: None },
            Input::Terminal(bytes) => Sent { stdin: None, pty: Some(Base64(bytes)) },
        };
        let body = SendInputRequest { process: selector(process), input };
        self.0.about(sandbox, "SendInput", process, &body).await
    }

    async fn close_input(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
    ) -> Result<(), ProviderError> {
        let body = SelectRequest { process: selector(process) };
        self.0.about(sandbox, "CloseStdin", process, &body).await
    }

    async fn signal(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        signal: ProcessSignal,
    ) -> Result<(), ProviderError> {
        let signal = match signal {
            ProcessSignal::Term => Signal::Term,
            ProcessSignal::Kill => Signal::Kill,
        };
        let body = SendSignalRequest { process: selector(process), signal };
        self.0.about(sandbox, "SendSignal", process, &body).await
    }

    async fn resize(
        &self,
        sandbox: SandboxId,
        process: &ProcessRef,
        wanted: TerminalSize,
    ) -> Result<(), ProviderError> {
        let body = UpdateRequest { process: selector(process), pty: Some(size(wanted)) };
        self.0.about(sandbox, "Update", process, &body).await
    }
}
