//! Runs one execution from its turn to its end: a cell in the worker, or a command below init.
//!
//! Everything from inside is read here, with bounds, on the runtime of whoever asked; every wait
//! ends at a deadline that the sandbox cannot move.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandpit_messages::id::ExecId;
use sandpit_messages::time::Moment;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};

use super::super::cgroup::{GroupUsage, none};
use super::super::control::{Files, FromInit, ToInit};
use super::super::packet;
use super::super::state::{Effect, Event, Stopping};
use super::super::sys;
use super::Engine;
use super::contexts::Turn;
use super::link::lock;
use super::sandbox::Sandbox;
use crate::provider::{Done, ExecEvent, ExecRequest, KilledBy, Outcome, Work};

mod cell;
mod command;
mod output;
pub(super) mod transfer;

use output::Output;

/// Where everything runs that does not say where.
pub(super) const HOME: &str = "/home/user";

/// Why a sandbox is destroyed in which memory ran out.
pub(super) const OUT_OF_MEMORY: &str = "out of memory";

/// Longest an init that lives takes to answer. It does nothing that could keep it longer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A place in the queue of a sandbox.
#[derive(Debug)]
pub(super) struct Queued {
    sandbox: Arc<Sandbox>,
    exec: Option<ExecId>,
}

impl Queued {
    /// Counted already.
    pub(super) fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox, exec: None }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.sandbox.queued.fetch_sub(1, Ordering::AcqRel);
        if let Some(exec) = self.exec {
            lock(&self.sandbox.runs).remove(&exec);
        }
    }
}

/// What every execution needs.
struct Run {
    engine: Arc<Engine>,
    sandbox: Arc<Sandbox>,
    events: mpsc::Sender<ExecEvent>,
    interrupt: Arc<Notify>,
    stopping: Stopping,
    started: Moment,
}

/// What is known when an execution ends, beside how long it took.
struct Ended {
    outcome: Outcome,
    context_kept: bool,
    stdout_dropped: u64,
    stderr_dropped: u64,
    cpu: Duration,
    max_rss: u64,
    survivors: u32,
}

impl Ended {
    /// It ended before anything of it ran.
    fn before(outcome: Outcome) -> Self {
        Self {
            outcome,
            context_kept: true,
            stdout_dropped: 0,
            stderr_dropped: 0,
            cpu: Duration::ZERO,
            max_rss: 0,
            survivors: 0,
        }
    }
}

/// Runs it. The last event is always [`ExecEvent::Done`].
pub(super) async fn run(
    engine: Arc<Engine>,
    mut place: Queued,
    turn: Turn,
    request: ExecRequest,
    interrupt: Arc<Notify>,
    events: mpsc::Sender<ExecEvent>,
) {
    place.exec = Some(request.exec);
    let sandbox = Arc::clone(&place.sandbox);
    let started = sandbox.pause.now();
    let stopping = Stopping::new(started, request.time_max, engine.options.bounds.grace);
    let mut run = Run { engine, sandbox, events, interrupt, stopping, started };
    let mut ended = match &request.work {
        Work::Cell { code, params, .. } => run.cell(&request, turn, code, params.as_deref()).await,
        Work::Line(line) => {
            run.command(&request, &["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]).await
        }
        Work::Program(arguments) => run.command(&request, arguments).await,
    };
    // Whoever ran out of memory takes the sandbox along, because nobody knows what else the
    // kernel chose to kill.
    // A worker that was killed for its memory falls silent, which looks like a broken protocol.
    let explained = matches!(ended.outcome, Outcome::Killed(by) if by != KilledBy::Protocol);
    let fell_silent = matches!(
        ended.outcome,
        Outcome::Lost | Outcome::Signal(libc::SIGKILL) | Outcome::Killed(KilledBy::Protocol)
    );
    if run.sandbox.ran_out_of_memory() && !explained {
        ended.outcome = Outcome::Killed(KilledBy::Memory);
        run.sandbox.skeleton.condemn(OUT_OF_MEMORY);
    } else if run.sandbox.skeleton.condemned() == Some(OUT_OF_MEMORY) && fell_silent {
        // It ran beside the one that was noticed first.
        ended.outcome = Outcome::Killed(KilledBy::Memory);
    }
    let usable = ended.outcome != Outcome::Lost && run.sandbox.skeleton.is_usable();
    let done = Done {
        outcome: ended.outcome,
        context_kept: ended.context_kept && usable,
        sandbox_usable: usable,
        stdout_dropped: ended.stdout_dropped,
        stderr_dropped: ended.stderr_dropped,
        wall: run.now().since(run.started),
        cpu: ended.cpu,
        max_rss: ended.max_rss,
        survivors: ended.survivors,
    };
    drop(place);
    // Whoever asked may have gone.
    let _ = run.events.send(ExecEvent::Done(done)).await;
}

impl Run {
    /// What time it is in its sandbox, which may have stood still.
    fn now(&self) -> Moment {
        self.sandbox.pause.now()
    }

    /// When something has to be decided.
    fn deadline(&self) -> Moment {
        // When everything was decided the end is a matter of moments.
        self.stopping.next_deadline().unwrap_or_else(|| self.now() + Duration::from_secs(1))
    }

    /// Takes an event in; what is to be done is returned.
    fn step(&mut self, event: Event) -> Option<Effect> {
        let now = self.now();
        self.stopping.step(now, event)
    }

    /// The event that it wrote more than is ever read, if it did.
    fn flooded(&self, streams: &[Output; 2]) -> Option<Event> {
        let total: u64 = streams.iter().map(|stream| stream.total).sum();
        (total > self.engine.options.bounds.output_max).then_some(Event::Flooded)
    }

    /// Passes on all that was kept.
    async fn pass_on(&self, streams: &mut [Output; 2]) {
        let [out, err] = streams;
        // Whoever asked may have gone.
        if out.is_pending() {
            let _ = self.events.send(ExecEvent::Stdout(out.take_pending())).await;
        }
        if err.is_pending() {
            let _ = self.events.send(ExecEvent::Stderr(err.take_pending())).await;
        }
    }

    /// Whether the sandbox's init answers.
    async fn init_lives(&self) -> bool {
        let number = self.engine.number();
        let mut answers = self.sandbox.skeleton.watch_command(number);
        let asked = self.sandbox.skeleton.order(&ToInit::Count { command: number }, &[]).await;
        let pause = &self.sandbox.pause;
        let answer = pause.clock().within(pause, ANSWER_MAX, answers.recv()).await;
        asked.is_ok() && matches!(answer, Some(Some(_)))
    }

    /// Where it runs.
    fn cwd(request: &ExecRequest) -> &str {
        request.cwd.as_deref().unwrap_or(HOME)
    }

    /// Writes the files of a request. `Err` says why not all of them were.
    async fn write_files(&mut self, request: &ExecRequest) -> Result<(), NotWritten> {
        if request.files.is_empty() {
            return Ok(());
        }
        let list = request.files.iter();
        let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let files = list.map(|(name, bytes)| (name.clone(), length(bytes))).collect();
        let contents: Vec<&[u8]> = request.files.values().map(AsRef::as_ref).collect();
        let sealed = packet::sealed_value(&Files { files })
            .and_then(|order| Ok((order, packet::sealed("files", &contents)?)));
        let (order, contents) = sealed.map_err(|error| NotWritten::Because(error.to_string()))?;
        let number = self.engine.number();
        let mut events = self.sandbox.skeleton.watch_command(number);
        let files = [order.as_fd(), contents.as_fd()];
        let ordered = self.sandbox.skeleton.order(&ToInit::Write { command: number }, &files).await;
        ordered.map_err(|_| NotWritten::Lost)?;
        let mut clock = self.sandbox.pause.clock();
        loop {
            let (goes, deadline) = (clock.goes(), self.deadline());
            let event = tokio::select! {
                event = events.recv() => event,
                () = clock.until(deadline) => {
                    if !goes || self.now() < deadline {
                        continue;
                    }
                    let signal = libc::SIGKILL;
                    // It ends the writer; a full socket means that init is stuck.
                    let _ = self.sandbox.skeleton.order_now(&ToInit::Signal { command: number, signal });
                    return Err(NotWritten::Because("it took longer than the time limit".to_owned()));
                }
            };
            return match event {
                Some(FromInit::Started { .. }) => continue,
                Some(FromInit::Ended { end, .. }) if end.status == 0 => Ok(()),
                Some(FromInit::Ended { end, .. }) => {
                    let error = io::Error::from_raw_os_error((end.status >> 8) & 0xff);
                    Err(NotWritten::Because(error.to_string()))
                }
                Some(FromInit::NotStarted { errno, .. }) => {
                    Err(NotWritten::Because(io::Error::from_raw_os_error(errno).to_string()))
                }
                Some(FromInit::Counted { .. } | FromInit::Halted { .. }) | None => {
                    Err(NotWritten::Lost)
                }
            };
        }
    }
}

/// Why files were not written.
enum NotWritten {
    /// The sandbox ended.
    Lost,
    /// The reason, in the system's words.
    Because(String),
}

/// Passes on what one stream has.
fn pass_one(permit: mpsc::Permit<'_, ExecEvent>, streams: &mut [Output; 2]) {
    let [out, err] = streams;
    permit.send(if out.is_pending() {
        ExecEvent::Stdout(out.take_pending())
    } else {
        ExecEvent::Stderr(err.take_pending())
    });
}

/// Hears when something can be read, on the runtime that calls.
fn listen(file: &OwnedFd) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    sys::listen(file.as_fd(), Interest::READABLE)
}

/// What a sandbox uses where no group counts it.
pub(super) fn usage_by_proc(sandbox: &Sandbox) -> GroupUsage {
    let namespace = sandbox.skeleton.namespace.get();
    let used = namespace.and_then(|namespace| none::survey().ok()?.remove(namespace));
    let used = used.unwrap_or_default();
    GroupUsage { cpu: used.cpu, memory: used.resident, pids: used.threads, ..GroupUsage::default() }
}

/// Environment of a command: ours, its holder's, its own.
fn command_env(
    engine: &Engine,
    sandbox: &Sandbox,
    request: &ExecRequest,
) -> BTreeMap<String, String> {
    let mut env = engine.base_env();
    env.extend(lock(&sandbox.env).clone());
    env.extend(request.env.clone());
    env
}
