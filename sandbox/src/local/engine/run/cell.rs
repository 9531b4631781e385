//! A cell: code that runs in the sandbox's worker and finds the variables of the cells before it.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use sandpit_messages::time::Moment;
use tokio::sync::watch;

use super::super::super::state::{Effect, Event, Stopping, ended};
use super::super::super::wire::{Decoder, Frame, Order};
use super::super::super::{control, sys};
use super::super::contexts::Turn;
use super::super::link::WorkerStage;
use super::super::sandbox::{NoWorker, READ_MAX, Worker, write_all};
use super::output::{Output, Read};
use super::{Ended, NotWritten, Run, listen, pass_one};
use crate::provider::contexts::Shown;
use crate::provider::{ExecEvent, ExecRequest, KilledBy, Outcome};

/// From the end of a worker's channel to the keeper's word that it ended. Past this it closed
/// its channel and lives.
const END_MAX: Duration = Duration::from_millis(250);

/// What one cell shows beside its value.
const SHOWN_MAX: usize = 64;

/// Bytes of all that one cell shows.
const SHOWN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the worker has said of its cell.
#[derive(Debug, Default)]
struct Said {
    /// What it showed and wrote before that, in this order, and was not passed on yet.
    pending: VecDeque<ExecEvent>,
    shown: usize,
    shown_bytes: usize,
    has_value: bool,
    raised: Option<ExecEvent>,
    done: bool,
}

impl Said {
    /// Whether something waits to be passed on.
    fn is_pending(&self, streams: &[Output; 2]) -> bool {
        !self.pending.is_empty() || streams.iter().any(Output::is_pending)
    }

    /// Takes in what a cell shows; false if that is more than a worker lets it.
    fn show(&mut self, shown: Shown, bytes: usize, streams: &mut [Output; 2]) -> bool {
        self.shown_bytes = self.shown_bytes.saturating_add(bytes);
        let is_second_value = shown.is_main && std::mem::replace(&mut self.has_value, true);
        self.shown += usize::from(!shown.is_main);
        if self.raised.is_some()
            || is_second_value
            || self.shown > SHOWN_MAX
            || self.shown_bytes > SHOWN_BYTES_MAX
        {
            return false;
        }
        self.pending.extend(pending_of(streams));
        self.pending.push_back(ExecEvent::Shown(shown));
        true
    }
}

/// Everything that was read and not passed on.
fn pending_of(streams: &mut [Output; 2]) -> impl Iterator<Item = ExecEvent> {
    let [out, err] = streams;
    let out = out.is_pending().then(|| ExecEvent::Stdout(out.take_pending()));
    let err = err.is_pending().then(|| ExecEvent::Stderr(err.take_pending()));
    out.into_iter().chain(err)
}

/// Why the loop around a cell ended.
enum End {
    /// The worker said so.
    Done,
    /// The worker ended.
    Gone(control::End),
    /// The sandbox ended.
    Lost,
}

impl Run {
    /// Waits for its turn, runs the cell, leaves the worker for the next one if it is still fit.
    pub(super) async fn cell(
        &mut self,
        request: &ExecRequest,
        turn: Turn,
        code: &str,
        params: Option<&str>,
    ) -> Ended {
        let sandbox = Arc::clone(&self.sandbox);
        let Turn { context, mut life } = turn;
        let restarted =
            || Ended { context_kept: false, ..Ended::before(Outcome::Killed(KilledBy::Restart)) };
        let mut place = tokio::select! {
            biased;
            // Its sender is in the context.
            _ = life.changed() => return restarted(),
            place = context.worker.lock() => place,
            _ = sandbox.skeleton.gone() => return Ended::before(Outcome::Lost),
            () = self.interrupt.notified() => {
                return Ended::before(Outcome::Interrupted { timed_out: false });
            }
            () = self.events.closed() => {
                return Ended::before(Outcome::Interrupted { timed_out: false });
            }
        };
        // The time of a cell begins with its turn.
        self.started = self.now();
        let grace = self.engine.options.bounds.grace;
        self.stopping = Stopping::new(self.started, request.time_max, grace);
        if let Some(unread) = self.before_cell(request).await {
            return unread;
        }
        let worker = match place.take().filter(Worker::is_alive) {
            Some(worker) => Ok(worker),
            // Where its folder is gone it begins at home.
            None => self.engine.attach_again(&sandbox, &context).await.map(|(worker, _)| worker),
        };
        let mut worker = match worker {
            Ok(worker) => worker,
            Err(NoWorker(why)) => {
                tracing::warn!(sandbox = %sandbox.id, %why, "a sandbox has no worker");
                return Ended { context_kept: false, ..Ended::before(Outcome::Lost) };
            }
        };
        let (ended, fit) = self.cell_in(&mut worker, &mut life, request, code, params).await;
        if fit {
            *place = Some(worker);
        }
        ended
    }

    /// Files first. What keeps them from being written is the cell's own failure.
    async fn before_cell(&mut self, request: &ExecRequest) -> Option<Ended> {
        match self.write_files(request).await {
            Ok(()) => None,
            Err(NotWritten::Lost) => Some(Ended::before(Outcome::Lost)),
            Err(NotWritten::Because(why)) => {
                let value = format!("the files of this execution could not be written: {why}");
                let name = "OSError".to_owned();
                let traceback = format!("{name}: {value}\n");
                // Whoever asked may have gone.
                let _ = self.events.send(ExecEvent::Raised { name, value, traceback }).await;
                Some(Ended::before(Outcome::Raised))
            }
        }
    }

    async fn cell_in(
        &mut self,
        worker: &mut Worker,
        life: &mut watch::Receiver<u64>,
        request: &ExecRequest,
        code: &str,
        params: Option<&str>,
    ) -> (Ended, bool) {
        worker.cells += 1;
        let id = worker.cells;
        let cpu_before = sys::cpu_time_of(worker.outer);
        let order = Order::Run {
            id,
            env: &request.env,
            cwd: request.cwd.as_deref(),
            code: code.len(),
            params: params.is_some(),
        };
        let order = order.encode(&[code.as_bytes(), params.unwrap_or_default().as_bytes()]);
        let kept = self.engine.options.bounds.output_kept;
        let mut streams = [Output::new(kept), Output::new(kept)];
        let mut said = Said::default();
        // Whoever asked may have gone, and then the loop finds out.
        let started = ExecEvent::Started { pid: worker.pid, count: Some(id) };
        let _ = self.events.try_send(started);
        let mut decoder = std::mem::take(&mut worker.decoder);
        let order = (id, &order[..]);
        let end = self.watch(worker, life, &mut decoder, order, &mut streams, &mut said).await;
        worker.decoder = decoder;
        let [out, err] = &mut streams;
        out.drain(&worker.output);
        err.drain(&worker.errors);
        for event in said.pending.drain(..) {
            // Whoever asked may have gone.
            let _ = self.events.send(event).await;
        }
        self.pass_on(&mut streams).await;
        let [out, err] = &streams;
        let mut told = Ended {
            outcome: Outcome::Lost,
            context_kept: false,
            stdout_dropped: out.dropped,
            stderr_dropped: err.dropped,
            cpu: Duration::ZERO,
            max_rss: 0,
            survivors: 0,
        };
        match end {
            End::Done => {
                told.outcome = if said.raised.is_some() { Outcome::Raised } else { Outcome::Ok };
                told.cpu = sys::cpu_time_of(worker.outer).saturating_sub(cpu_before);
                told.max_rss = worker.peak_memory();
                told.context_kept = !self.stopping.killed();
                // Whoever asked may have gone.
                if let Some(raised) = said.raised {
                    let _ = self.events.send(raised).await;
                }
            }
            End::Gone(end) => {
                worker.kill();
                told.outcome = ended(end.status);
                // The end of init looks the same from here: the kernel kills what is left.
                if told.outcome == Outcome::Signal(libc::SIGKILL) && !self.init_lives().await {
                    told.outcome = Outcome::Lost;
                }
                told.cpu = Duration::from_nanos(end.cpu_ns).saturating_sub(cpu_before);
                told.max_rss = end.max_rss;
            }
            End::Lost => {}
        }
        told.outcome = self.stopping.outcome(told.outcome);
        let fit = told.context_kept;
        (told, fit)
    }

    /// Until the worker is done or gone: reads what it says and writes, and stops it when it must
    /// be stopped.
    async fn watch(
        &mut self,
        worker: &Worker,
        life: &mut watch::Receiver<u64>,
        decoder: &mut Decoder,
        order: (u64, &[u8]),
        streams: &mut [Output; 2],
        said: &mut Said,
    ) -> End {
        let mut stage = worker.stage.clone();
        let events = self.events.clone();
        let interrupt = Arc::clone(&self.interrupt);
        let (Ok(heard), Ok(out), Ok(err)) =
            (listen(&worker.channel), listen(&worker.output), listen(&worker.errors))
        else {
            // Out of descriptors, or no runtime: neither leaves a way to know how it ends.
            return End::Lost;
        };
        let (id, order) = order;
        let mut writing = pin!(write_all(&worker.channel, order));
        let mut written = false;
        let mut ask = false;
        let mut unheard = false;
        let mut closed: Option<Moment> = None;
        let mut clock = self.sandbox.pause.clock();
        loop {
            let look_at = match closed {
                Some(at) => self.deadline().min(at + END_MAX),
                None => self.deadline(),
            };
            // What stands still is asked to stop when it goes on.
            let goes = clock.goes();
            let event = tokio::select! {
                biased;
                Ok(mut ready) = heard.readable(), if closed.is_none() => {
                    let frames = read_frames(worker, decoder, id, streams, said);
                    if said.done && frames != Frames::Garbled && !self.stopping.killed() {
                        return End::Done;
                    }
                    match frames {
                        Frames::Dry => { ready.clear_ready(); None }
                        Frames::More => None,
                        Frames::Closed => { closed = Some(self.now()); None }
                        Frames::Garbled => { closed = Some(self.now()); Some(Event::Garbled) }
                    }
                }
                _ = &mut writing, if !written => { written = true; None }
                Ok(mut ready) = out.readable(), if !streams[0].ended => {
                    if streams[0].read(worker.output.as_fd()) == Read::Dry { ready.clear_ready(); }
                    self.flooded(streams)
                }
                Ok(mut ready) = err.readable(), if !streams[1].ended => {
                    if streams[1].read(worker.errors.as_fd()) == Read::Dry { ready.clear_ready(); }
                    self.flooded(streams)
                }
                Ok(permit) = events.reserve(), if said.is_pending(streams) => {
                    match said.pending.pop_front() {
                        Some(event) => permit.send(event),
                        None => pass_one(permit, streams),
                    }
                    None
                }
                end = gone(&mut stage) => return end,
                _ = life.changed() => Some(Event::Restarted),
                () = interrupt.notified(), if goes => Some(Event::Interrupted),
                () = events.closed(), if goes && !unheard => {
                    unheard = true;
                    Some(Event::Interrupted)
                }
                () = clock.until(look_at) => Some(Event::Tick),
            };
            // A worker that lives and has closed its channel can never say that it is done.
            let silent = closed.is_some_and(|at| at + END_MAX <= self.now());
            let event =
                if silent && !self.stopping.killed() { Some(Event::Garbled) } else { event };
            match event.and_then(|event| self.step(event)) {
                Some(Effect::Ask) => ask = true,
                Some(Effect::Kill) => worker.kill(),
                Some(Effect::Destroy) => {
                    self.sandbox.skeleton.condemn("a cell could not be killed")
                }
                None => {}
            }
            if written && std::mem::take(&mut ask) {
                worker.interrupt(id);
            }
        }
    }
}

/// What reading the channel came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frames {
    /// Everything there was.
    Dry,
    /// There may be more; others have their turn first.
    More,
    /// The worker closed it.
    Closed,
    /// The worker wrote what no worker writes.
    Garbled,
}

fn read_frames(
    worker: &Worker,
    decoder: &mut Decoder,
    id: u64,
    streams: &mut [Output; 2],
    said: &mut Said,
) -> Frames {
    let mut piece = [0; 16 * 1024];
    let mut budget = READ_MAX;
    while budget > 0 {
        match rustix::io::read(&worker.channel, &mut piece) {
            Ok(0) => return Frames::Closed,
            Ok(read) => {
                decoder.push(&piece[..read]);
                budget = budget.saturating_sub(read);
                if !take_frames(worker, decoder, id, streams, said) {
                    return Frames::Garbled;
                }
                // What is there has been read: a short read saves asking once more.
                if read < piece.len() {
                    return Frames::Dry;
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Frames::Dry,
            Err(_) => return Frames::Closed,
        }
    }
    Frames::More
}

/// Takes frames in; false if they are not what a worker says about this cell, once and in order.
fn take_frames(
    worker: &Worker,
    decoder: &mut Decoder,
    id: u64,
    streams: &mut [Output; 2],
    said: &mut Said,
) -> bool {
    loop {
        match decoder.next() {
            Ok(None) => return !said.done || decoder.is_empty(),
            Ok(Some(_)) if said.done => return false,
            Ok(Some(Frame::Shown { id: of, shown, bytes })) if of == id => {
                // What it wrote before comes before.
                let [out, err] = &mut *streams;
                out.drain(&worker.output);
                err.drain(&worker.errors);
                if !said.show(shown, bytes, streams) {
                    return false;
                }
            }
            Ok(Some(Frame::Raised { id: of, name, value, traceback }))
                if of == id && said.raised.is_none() =>
            {
                said.raised = Some(ExecEvent::Raised { name, value, traceback });
            }
            Ok(Some(Frame::Done { id: of })) if of == id => said.done = true,
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}

async fn gone(stage: &mut watch::Receiver<WorkerStage>) -> End {
    let ended = stage.wait_for(|stage| matches!(stage, WorkerStage::Gone(_))).await;
    match ended.as_deref() {
        Ok(WorkerStage::Gone(end)) => End::Gone(*end),
        Ok(_) | Err(_) => End::Lost,
    }
}
