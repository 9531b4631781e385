//! A command: a program that runs below the sandbox's init, beside its cells.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use sandpit_messages::time::Moment;
use tokio::sync::mpsc;

use super::super::super::control::{Command, End, FromInit, Hindrance, ToInit};
use super::super::super::packet;
use super::super::super::state::{Effect, Event, ended};
use super::super::link::Skeleton;
use super::output::{Output, Read};
use super::{Ended, NotWritten, Run, command_env, listen, pass_one};
use crate::provider::{ExecEvent, ExecRequest, Outcome};

/// From the end of a command to the end of what its pipes still hold, for children that are about
/// to end as well.
const DRAIN_MAX: Duration = Duration::from_millis(50);

/// What shells answer for a program that is not there, and for one that cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_RUNNABLE: i32 = 126;

/// Our ends of a running command.
struct Ends {
    output: OwnedFd,
    errors: OwnedFd,
}

/// What init said last.
enum Last {
    Ended { end: End, survivors: u32 },
    NotStarted { hindrance: Hindrance, errno: i32 },
    Lost,
}

impl Run {
    /// Runs a command to its end, and reports what it left running.
    pub(super) async fn command(&mut self, request: &ExecRequest, arguments: &[String]) -> Ended {
        match self.write_files(request).await {
            Ok(()) => {}
            Err(NotWritten::Lost) => return Ended::before(Outcome::Lost),
            Err(NotWritten::Because(why)) => {
                let why = format!("the files of this execution could not be written: {why}\n");
                return self.not_run(why, 1).await;
            }
        }
        let number = self.engine.number();
        let mut events = self.sandbox.skeleton.watch_command(number);
        let ends = match self.order(number, request, arguments).await {
            Ok(ends) => ends,
            Err(error) => {
                tracing::debug!(sandbox = %self.sandbox.id, %error, "a command was not started");
                return Ended::before(Outcome::Lost);
            }
        };
        let kept = self.engine.options.bounds.output_kept;
        let mut streams = [Output::new(kept), Output::new(kept)];
        let last = self.watch_command(number, &mut events, &ends, &mut streams).await;
        let (outcome, end, survivors) = match last {
            Last::Ended { end, survivors } => (ended(end.status), Some(end), survivors),
            Last::NotStarted { hindrance, errno } => {
                let code = if errno == libc::ENOENT { NOT_FOUND } else { NOT_RUNNABLE };
                let error = std::io::Error::from_raw_os_error(errno);
                let name = match hindrance {
                    Hindrance::Folder => Self::cwd(request),
                    _ => arguments.first().map_or("", String::as_str),
                };
                return self.not_run(format!("{name}: {error}\n"), code).await;
            }
            Last::Lost => (Outcome::Lost, None, 0),
        };
        self.pass_on(&mut streams).await;
        if survivors > 0 {
            leave_draining(&self.sandbox.skeleton, ends);
        }
        let [out, err] = &streams;
        Ended {
            outcome: self.stopping.outcome(outcome),
            context_kept: true,
            stdout_dropped: out.dropped,
            stderr_dropped: err.dropped,
            cpu: Duration::from_nanos(end.map_or(0, |end| end.cpu_ns)),
            max_rss: end.map_or(0, |end| end.max_rss),
            survivors,
        }
    }

    /// Says why nothing ran, as a shell does.
    async fn not_run(&self, why: String, code: i32) -> Ended {
        // Whoever asked may have gone.
        let _ = self.events.send(ExecEvent::Stderr(Bytes::from(why))).await;
        Ended::before(Outcome::Exit(code))
    }

    async fn order(
        &self,
        number: u64,
        request: &ExecRequest,
        arguments: &[String],
    ) -> std::io::Result<Ends> {
        let command = Command {
            arguments: arguments.to_vec(),
            env: command_env(&self.engine, &self.sandbox, request),
            cwd: Self::cwd(request).to_owned(),
        };
        let order = packet::sealed_value(&command)?;
        let input = packet::sealed("stdin", &[&request.stdin])?;
        let (output, to_output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, to_errors) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        for ours in [&output, &errors] {
            rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
        }
        let files = [order.as_fd(), input.as_fd(), to_output.as_fd(), to_errors.as_fd()];
        self.sandbox.skeleton.order(&ToInit::Run { command: number }, &files).await?;
        Ok(Ends { output, errors })
    }

    async fn watch_command(
        &mut self,
        number: u64,
        said: &mut mpsc::Receiver<FromInit>,
        ends: &Ends,
        streams: &mut [Output; 2],
    ) -> Last {
        let events = self.events.clone();
        let interrupt = Arc::clone(&self.interrupt);
        let (Ok(out), Ok(err)) = (listen(&ends.output), listen(&ends.errors)) else {
            return Last::Lost;
        };
        let mut session = 0;
        let mut unheard = false;
        let mut last: Option<(Last, Moment)> = None;
        let mut clock = self.sandbox.pause.clock();
        loop {
            let look_at = match &last {
                Some((_, until)) => *until,
                None => self.deadline(),
            };
            // What stands still is asked to stop when it goes on.
            let goes = clock.goes();
            let over = look_at <= self.now();
            if last.is_some() && (over || streams.iter().all(|stream| stream.ended)) {
                break;
            }
            let event = tokio::select! {
                biased;
                Ok(mut ready) = out.readable(), if !streams[0].ended => {
                    if streams[0].read(ends.output.as_fd()) == Read::Dry { ready.clear_ready(); }
                    self.flooded(streams)
                }
                Ok(mut ready) = err.readable(), if !streams[1].ended => {
                    if streams[1].read(ends.errors.as_fd()) == Read::Dry { ready.clear_ready(); }
                    self.flooded(streams)
                }
                Ok(permit) = events.reserve(), if streams.iter().any(Output::is_pending) => {
                    pass_one(permit, streams);
                    None
                }
                message = said.recv(), if last.is_none() => match message {
                    Some(FromInit::Started { pid, .. }) => {
                        session = pid;
                        // Whoever asked may have gone, or not listen yet.
                        let _ = events.try_send(ExecEvent::Started { pid, count: None });
                        None
                    }
                    Some(FromInit::Ended { end, survivors, .. }) => {
                        last = Some((Last::Ended { end, survivors }, self.now() + DRAIN_MAX));
                        None
                    }
                    Some(FromInit::NotStarted { hindrance, errno, .. }) => {
                        return Last::NotStarted { hindrance, errno };
                    }
                    Some(FromInit::Counted { .. } | FromInit::Halted { .. }) => None,
                    None => return Last::Lost,
                },
                () = interrupt.notified(), if goes => Some(Event::Interrupted),
                () = events.closed(), if goes && !unheard => {
                    unheard = true;
                    Some(Event::Interrupted)
                }
                () = clock.until(look_at) => last.is_none().then_some(Event::Tick),
            };
            if last.is_none()
                && let Some(effect) = event.and_then(|event| self.step(event))
            {
                self.stop(effect, number, session);
            }
        }
        let [first, second] = streams;
        first.drain(&ends.output);
        second.drain(&ends.errors);
        last.map_or(Last::Lost, |(last, _)| last)
    }

    fn stop(&self, effect: Effect, number: u64, session: u32) {
        let skeleton = &self.sandbox.skeleton;
        // A full socket means that init is stuck; the next step is to destroy the sandbox.
        let _ = match effect {
            Effect::Ask => {
                skeleton.order_now(&ToInit::Signal { command: number, signal: libc::SIGINT })
            }
            Effect::Kill => skeleton.order_now(&ToInit::KillSession { session }),
            Effect::Destroy => {
                skeleton.condemn("a command could not be killed");
                Ok(())
            }
        };
    }
}

/// Reads and forgets what survivors still write, so that they are not killed by a closed pipe,
/// until they or the sandbox end.
fn leave_draining(skeleton: &Arc<Skeleton>, ends: Ends) {
    let skeleton = Arc::clone(skeleton);
    tokio::spawn(async move {
        let drained = async {
            for end in [&ends.output, &ends.errors] {
                let Ok(readable) = listen(end) else { return };
                let mut rest = Output::new(0);
                while !rest.ended {
                    let Ok(mut ready) = readable.readable().await else { return };
                    if rest.read(end.as_fd()) == Read::Dry {
                        ready.clear_ready();
                    }
                }
            }
        };
        tokio::select! {
            () = drained => {}
            _ = skeleton.gone() => {}
        }
    });
}
