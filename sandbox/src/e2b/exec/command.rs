//! Commands: a process whose output is read to its end.

use std::time::Duration;

use sandpit_messages::id::SandboxId;

use super::{Cut, Ended, Run, env};
use crate::ProviderError;
use crate::e2b::Cloud;
use crate::e2b::known::Remote;
use crate::e2b::stream::{Messages, Piece, fault_of};
use crate::e2b::wire::Base64;
use crate::e2b::wire::fault::Code;
use crate::e2b::wire::process::{
    Config, End, Event, Input, SERVICE, SelectRequest, Selector, SendInputRequest,
    SendSignalRequest, Signal, StartRequest, StreamResponse,
};
use crate::provider::{ExecEvent, ExecRequest, KilledBy, Outcome};

/// What a command gets between the polite signal and the other one.
const GRACE: Duration = Duration::from_millis(250);

/// Longest wait for an answer to a signal: whoever ran it waits for its end meanwhile.
const SIGNAL_MAX: Duration = Duration::from_secs(5);

/// What is left to the cloud beyond our own time limit, so that ours is the one that is told.
const MARGIN: Duration = Duration::from_secs(5);

/// Bytes of input per call: with base64 it stays below what an envelope may hold.
const INPUT_MAX: usize = 1 << 20;

impl Cloud {
    /// Starts a command, gives it its input, and has its output read.
    pub(super) async fn command(
        &self,
        mut run: Run,
        sandbox: SandboxId,
        remote: Remote,
        arguments: Vec<String>,
        request: ExecRequest,
    ) -> Result<(), ProviderError> {
        let mut arguments = arguments.into_iter();
        let Some(cmd) = arguments.next() else {
            return Err(ProviderError::Refused { why: "a program without a name".to_owned() });
        };
        let envs = env(&remote.env, &request.env);
        let has_input = !request.stdin.is_empty();
        let body = StartRequest {
            process: Config { cmd, args: arguments.collect(), envs, cwd: request.cwd.clone() },
            stdin: Some(has_input),
            tag: None,
            pty: None,
        };
        let lives = Some(request.time_max + MARGIN);
        let path = format!("{SERVICE}Start");
        let mut messages = self.stream(sandbox, &remote, &path, &body, lives).await?;
        let pid = started(&mut messages).await?;
        run.tell(ExecEvent::Started { pid, count: None }).await;
        let cloud = std::sync::Arc::clone(&run.listed.cloud);
        tokio::spawn(async move {
            let feeding = async {
                if has_input {
                    cloud.feed(&remote, pid, &request.stdin).await;
                }
            };
            let reading = async {
                let ended = run.command(&mut messages).await;
                if let Ok(Err(cut)) = ended {
                    let sandbox_usable = cloud.stop(&remote, pid).await;
                    return Ended { sandbox_usable, ..Ended::cleanly(cut.outcome()) };
                }
                match ended {
                    Ok(Ok(end)) => Ended::cleanly(outcome(&end)),
                    Err(ProviderError::Timeout { .. }) => {
                        Ended::cleanly(Outcome::Killed(KilledBy::Timeout))
                    }
                    Ok(Err(_)) | Err(_) => Ended::lost(),
                }
            };
            let ended = {
                let (mut reading, feeding) = (std::pin::pin!(reading), std::pin::pin!(feeding));
                // What has ended needs no input, and is not held up by input that nobody takes.
                tokio::select! {
                    biased;
                    ended = &mut reading => ended,
                    () = feeding => reading.await,
                }
            };
            run.end(ended).await;
        });
        Ok(())
    }

    /// Gives a process its whole input.
    async fn feed(&self, remote: &Remote, pid: u32, stdin: &bytes::Bytes) {
        let process = Selector { pid: Some(pid), tag: None };
        let mut rest = stdin.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(INPUT_MAX));
            let input = Input { stdin: Some(Base64(piece)), pty: None };
            let body = SendInputRequest { process: process.clone(), input };
            let sent = self.unary(remote, &format!("{SERVICE}SendInput"), &body).await;
            if !sent.is_ok_and(|answer| answer.is_success()) {
                // It ended, or does not read: its output says so.
                return;
            }
        }
        let body = SelectRequest { process };
        // The same.
        let _ = self.unary(remote, &format!("{SERVICE}CloseStdin"), &body).await;
    }

    /// Ends a process, politely first. Says whether it was told.
    async fn stop(&self, remote: &Remote, pid: u32) -> bool {
        let mut was_told = false;
        for signal in [Signal::Term, Signal::Kill] {
            let process = Selector { pid: Some(pid), tag: None };
            let body = SendSignalRequest { process, signal };
            let path = format!("{SERVICE}SendSignal");
            let sent = tokio::time::timeout(SIGNAL_MAX, self.unary(remote, &path, &body)).await;
            match sent {
                Ok(Ok(answer)) if answer.status == 404 => return true,
                Ok(Ok(answer)) => was_told = answer.is_success(),
                Ok(Err(_)) | Err(_) => was_told = false,
            }
            tokio::time::sleep(GRACE).await;
        }
        was_told
    }
}

/// The process that a stream is about: always its first message.
pub(crate) async fn started(messages: &mut Messages) -> Result<u32, ProviderError> {
    loop {
        return match messages.next::<StreamResponse>().await? {
            Piece::Message(StreamResponse { event: Event::Start { pid } }) => Ok(pid),
            Piece::Message(StreamResponse { event: Event::Keepalive {} }) => continue,
            Piece::Message(_) => Err(ProviderError::Failed {
                why: "output of a process that did not start".to_owned(),
                maybe_done: true,
            }),
            Piece::End(Some(error)) => Err(fault_of(&error, messages.sandbox())),
            Piece::End(None) => Err(ProviderError::Failed {
                why: "a process that did not start".to_owned(),
                maybe_done: true,
            }),
        };
    }
}

/// How a process ended.
pub(crate) fn outcome(end: &End) -> Outcome {
    match end.signal_number() {
        Some(signal) => Outcome::Signal(signal),
        None => Outcome::Exit(end.exit_code),
    }
}

impl Run {
    /// Reads a process to its end, or until something cuts it.
    async fn command(
        &mut self,
        messages: &mut Messages,
    ) -> Result<Result<End, Cut>, ProviderError> {
        loop {
            let piece = tokio::select! {
                piece = messages.next::<StreamResponse>() => piece?,
                cut = self.cut() => return Ok(Err(cut)),
            };
            let message = match piece {
                Piece::Message(message) => message,
                Piece::End(Some(error)) if error.code == Code::DeadlineExceeded => {
                    return Err(ProviderError::Timeout { maybe_done: true });
                }
                Piece::End(_) => {
                    let why = "the end of a process that did not end".to_owned();
                    return Err(ProviderError::Failed { why, maybe_done: true });
                }
            };
            match message.event {
                Event::Data(data) => {
                    let streams = [(data.stdout, true), (data.stderr.or(data.pty), false)];
                    for (bytes, to_stdout) in streams {
                        let Some(bytes) = bytes else { continue };
                        if !self.wrote(bytes.0, to_stdout).await {
                            return Ok(Err(Cut::TooMuch));
                        }
                    }
                }
                Event::End(end) => return Ok(Ok(end)),
                Event::Start { .. } | Event::Keepalive {} => (),
            }
        }
    }
}
