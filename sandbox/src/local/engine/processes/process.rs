//! One process: who reads it, what is written to it, and how it ends.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rustix::termios::Winsize;
use sandpit_messages::time::Moment;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use super::super::super::control::{FromInit, ToInit};
use super::super::super::sys;
use super::super::link::lock;
use super::super::sandbox::Sandbox;
use super::lifetime::{Effect, Lifetime};
use super::streams::Stream;
use crate::provider::ProviderError;
use crate::provider::processes::{
    Attached, ProcessEnd, ProcessEvent, ProcessFault, ProcessInfo, ProcessRef, TerminalSize,
};

/// Readers of one process at once.
const READERS_MAX: usize = 16;

/// Events that wait for a reader. With 32 KiB each, half a MiB.
const EVENTS_MAX: usize = 16;

/// Longest a reader may read nothing while there is something. The process waits for it until
/// then.
const STALLED_MAX: Duration = Duration::from_secs(60);

/// From the end of a process to the end of what it wrote, for children that are about to end as
/// well.
const DRAIN_MAX: Duration = Duration::from_millis(50);

/// Later than any sandbox lives.
const NEVER: Moment = Moment::from_nanos(u64::MAX);

/// Events that a stream may hold when its process ends: 1 MiB, which is as large as a pipe gets.
const HELD_MAX: usize = 32;

/// Where input goes.
#[derive(Debug)]
pub(super) enum Writable {
    /// Nowhere.
    Nothing,
    /// To its standard input.
    Pipe(End),
    /// To its terminal.
    Terminal(End),
}

/// Our end of something that is written to.
#[derive(Debug)]
pub(super) struct End {
    /// `None` once it is closed.
    file: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    /// What comes in one call stays together.
    turn: tokio::sync::Mutex<()>,
}

impl End {
    pub(super) fn new(file: AsyncFd<OwnedFd>) -> Self {
        Self { file: Mutex::new(Some(Arc::new(file))), turn: tokio::sync::Mutex::default() }
    }

    /// Once more changes nothing.
    pub(super) fn close(&self) {
        lock(&self.file).take();
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<(), ProcessFault> {
        let _turn = self.turn.lock().await;
        let file = lock(&self.file).clone().ok_or(ProcessFault::NoInput)?;
        while !bytes.is_empty() {
            let write =
                |file: &OwnedFd| Ok(rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?);
            let written = file.async_io(Interest::WRITABLE, write).await;
            // Nobody can read it any more.
            bytes = &bytes[written.map_err(|_| ProcessFault::NoInput)?..];
        }
        Ok(())
    }
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    /// How we call it.
    pub(super) number: u64,
    /// Its process id inside.
    pid: u32,
    tag: Option<String>,
    pub(super) writable: Writable,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    /// While it runs: it may be long.
    info: Option<ProcessInfo>,
    readers: Vec<mpsc::Sender<ProcessEvent>>,
    /// How and when it ended.
    end: Option<(ProcessEnd, Moment)>,
}

impl Process {
    pub(super) fn new(number: u64, info: ProcessInfo, writable: Writable) -> Self {
        let (pid, tag) = (info.pid, info.tag.clone());
        let state = Mutex::new(State { info: Some(info), readers: Vec::new(), end: None });
        Self { number, pid, tag, writable, state, ended: watch::Sender::new(false) }
    }

    /// What it is, while it runs.
    pub(super) fn info(&self) -> Option<ProcessInfo> {
        lock(&self.state).info.clone()
    }

    pub(super) fn is_running(&self) -> bool {
        lock(&self.state).end.is_none()
    }

    /// Whether it ended this long ago or longer.
    pub(super) fn ended_before(&self, now: Moment, ago: Duration) -> bool {
        lock(&self.state).end.is_some_and(|(_, at)| at + ago <= now)
    }

    pub(super) fn is_called(&self, which: &ProcessRef) -> bool {
        match which {
            ProcessRef::Pid(pid) => self.pid == *pid,
            ProcessRef::Tag(tag) => self.tag.as_ref() == Some(tag),
        }
    }

    /// Reads it from now on.
    pub(super) fn attach(&self) -> Result<Attached, ProviderError> {
        let (reader, attached) = mpsc::channel(EVENTS_MAX);
        // There is room for these two.
        let _ = reader.try_send(ProcessEvent::Started { pid: self.pid });
        let mut state = lock(&self.state);
        match state.end {
            Some((end, _)) => drop(reader.try_send(ProcessEvent::Ended(end))),
            None => {
                state.readers.retain(|reader| !reader.is_closed());
                if state.readers.len() >= READERS_MAX {
                    let what = format!("readers of one process: {READERS_MAX} at most");
                    return Err(ProviderError::Quota { what });
                }
                state.readers.push(reader);
            }
        }
        Ok(attached)
    }

    /// Writes all of it, unless the process ends before.
    pub(super) async fn write(&self, bytes: &Bytes) -> Result<(), ProcessFault> {
        let (Writable::Pipe(end) | Writable::Terminal(end)) = &self.writable else {
            return Err(ProcessFault::NoInput);
        };
        let mut ended = self.ended.subscribe();
        let ended = async { ended.wait_for(|ended| *ended).await.map(drop) };
        tokio::select! {
            written = end.write(bytes) => written,
            _ = ended => Err(ProcessFault::Missing),
        }
    }

    /// Changes the size of its terminal.
    pub(super) fn resize(&self, size: TerminalSize) -> Result<(), ProcessFault> {
        let Writable::Terminal(end) = &self.writable else {
            return Err(ProcessFault::NoTerminal);
        };
        let file = lock(&end.file).clone().ok_or(ProcessFault::Missing)?;
        let TerminalSize { columns, rows } = size;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let resized = rustix::termios::tcsetwinsize(file.get_ref(), size);
        resized.map_err(|_| ProcessFault::Missing)
    }

    /// Passes an event on to whoever reads, and waits for those who are slow.
    async fn tell(&self, event: ProcessEvent) {
        let readers = lock(&self.state).readers.clone();
        let slow = readers.into_iter().filter_map(|reader| match reader.try_send(event.clone()) {
            Ok(()) => None,
            Err(TrySendError::Full(event)) => Some((reader, event)),
            Err(TrySendError::Closed(_)) => Some((reader, event.clone())),
        });
        let sending = slow.map(async |(reader, event)| {
            let sent = reader.send_timeout(event, STALLED_MAX).await;
            sent.err().map(|_| reader)
        });
        let lost: Vec<_> = join_all(sending).await.into_iter().flatten().collect();
        if !lost.is_empty() {
            let is_lost =
                |reader: &mpsc::Sender<_>| lost.iter().any(|one| one.same_channel(reader));
            lock(&self.state).readers.retain(|reader| !is_lost(reader));
        }
    }

    /// Its sandbox is paused: whoever reads hears nothing more, and may come again later.
    fn let_go(&self) {
        let readers = std::mem::take(&mut lock(&self.state).readers);
        if readers.is_empty() {
            return;
        }
        // Those who are slow get what they have not read before.
        tokio::spawn(async move {
            let lost = || ProcessEvent::Ended(ProcessEnd::Lost);
            join_all(readers.iter().map(|reader| reader.send_timeout(lost(), STALLED_MAX))).await;
        });
    }

    /// It ended: whoever reads is told, and whoever comes later will be.
    async fn tell_end(&self, end: ProcessEnd) {
        let readers = {
            let mut state = lock(&self.state);
            state.end = Some((end, sys::now()));
            state.info = None;
            std::mem::take(&mut state.readers)
        };
        self.ended.send_replace(true);
        if let Writable::Pipe(end) | Writable::Terminal(end) = &self.writable {
            end.close();
        }
        let telling = readers.iter().map(|reader| {
            // Who does not read is not told.
            reader.send_timeout(ProcessEvent::Ended(end), STALLED_MAX)
        });
        join_all(telling).await;
    }
}

/// Watches a process from its start until nothing of what it wrote can come any more.
pub(super) async fn live(
    sandbox: Arc<Sandbox>,
    process: Arc<Process>,
    said: mpsc::Receiver<FromInit>,
    streams: Vec<Stream>,
    lifetime: Lifetime,
) {
    let (ended, end) = watch::channel(None);
    let watched = watch_end(&sandbox, &process, said, lifetime, ended);
    let passed = async {
        let mut streams = streams;
        let end = pass_on(&process, &mut streams, end).await;
        process.tell_end(end).await;
        streams
    };
    let ((), mut streams) = tokio::join!(watched, passed);
    // Children may go on and write: a closed pipe would end them.
    tokio::select! {
        () = async { while any_open(&streams) { next(&mut streams).await; } } => {}
        _ = sandbox.skeleton.gone() => {}
    }
}

/// Waits for the end of a process, and brings it about when its time is over.
async fn watch_end(
    sandbox: &Sandbox,
    process: &Process,
    mut said: mpsc::Receiver<FromInit>,
    mut lifetime: Lifetime,
    ended: watch::Sender<Option<ProcessEnd>>,
) {
    let skeleton = &sandbox.skeleton;
    let mut clock = sandbox.pause.clock();
    let end = loop {
        if !clock.goes() {
            process.let_go();
        } else if let Some(effect) = lifetime.step(sandbox.pause.now()) {
            let signal = match effect {
                Effect::Ask => libc::SIGTERM,
                Effect::Kill => libc::SIGKILL,
            };
            let order = ToInit::Signal { command: process.number, signal };
            // An init that does not listen is dead or will be, and its processes with it.
            let _ = skeleton.order(&order, &[]).await;
        }
        tokio::select! {
            message = said.recv() => match message {
                Some(FromInit::Ended { end, .. }) => break end_of(end.status),
                Some(_) => {}
                None => break ProcessEnd::Lost,
            },
            () = clock.until(lifetime.next().unwrap_or(NEVER)) => {}
        }
    };
    if end != ProcessEnd::Lost && sandbox.ran_out_of_memory() {
        // Nobody knows what else the kernel chose to kill.
        skeleton.condemn("out of memory");
    }
    let over = lifetime.is_over() && end != ProcessEnd::Lost;
    ended.send_replace(Some(if over { ProcessEnd::Deadline } else { end }));
    if over {
        // Others of its session have what is left of the two seconds.
        let rest = async {
            while let Some(at) = lifetime.next()
                && (!clock.goes() || sandbox.pause.now() < at)
            {
                clock.until(at).await;
            }
        };
        tokio::select! {
            () = rest => {}
            _ = skeleton.gone() => return,
        }
        // As above.
        let _ = skeleton.order(&ToInit::KillLeft { session: process.pid }, &[]).await;
    }
}

/// Passes on what a process writes until it has ended, and what it wrote before that.
async fn pass_on(
    process: &Process,
    streams: &mut [Stream],
    mut end: watch::Receiver<Option<ProcessEnd>>,
) -> ProcessEnd {
    let end = loop {
        tokio::select! {
            end = ended(&mut end) => break end,
            event = next(streams) => if let Some(event) = event {
                process.tell(event).await;
            }
        }
    };
    let until = sys::now() + DRAIN_MAX;
    while any_open(streams) {
        match tokio::time::timeout(until.since(sys::now()), next(streams)).await {
            Ok(Some(event)) => process.tell(event).await,
            Ok(None) => {}
            Err(_late) => break,
        }
    }
    for stream in streams {
        for _ in 0..HELD_MAX {
            let Some(event) = stream.next_now() else { break };
            process.tell(event).await;
        }
    }
    end
}

async fn ended(end: &mut watch::Receiver<Option<ProcessEnd>>) -> ProcessEnd {
    let found = end.wait_for(Option::is_some).await;
    // The sender sends before it is dropped.
    found.ok().and_then(|end| *end).unwrap_or(ProcessEnd::Lost)
}

fn any_open(streams: &[Stream]) -> bool {
    streams.iter().any(Stream::is_open)
}

/// What one of them says next; never, if nothing more can come. `None` is the end of one.
async fn next(streams: &mut [Stream]) -> Option<ProcessEvent> {
    let [first, others @ ..] = streams else { return std::future::pending().await };
    match others.first_mut() {
        Some(second) => tokio::select! {
            event = first.next() => event,
            event = second.next() => event,
        },
        None => first.next().await,
    }
}

/// How a status reads.
fn end_of(status: i32) -> ProcessEnd {
    if libc::WIFSIGNALED(status) {
        ProcessEnd::Signal(libc::WTERMSIG(status))
    } else {
        ProcessEnd::Exit(libc::WEXITSTATUS(status))
    }
}
