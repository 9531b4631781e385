//! One execution in the fake.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use tokio::sync::{Notify, broadcast, mpsc, watch};

use super::script::{Sentence, sentences};
use super::{Place, World, end, faces, now};
use crate::provider::contexts::Shown;
use crate::provider::{Done, Ending, ExecEvent, ExecRequest, KilledBy, Outcome, Work};

/// What a stubborn program gets between the interrupt and its end.
const GRACE: Duration = Duration::from_millis(250);

/// Bytes of each stream that are passed on.
const KEPT_MAX: usize = 1024 * 1024;

/// Bytes of one event.
const EVENT_MAX: usize = 64 * 1024;

/// Everything that one execution touches.
pub(super) struct Run {
    pub(super) sandbox: SandboxId,
    pub(super) place: Place,
    /// Where a cell runs.
    pub(super) context: faces::Place,
    /// Changes when the context begins anew.
    pub(super) life: watch::Receiver<u64>,
    pub(super) interrupt: Arc<Notify>,
    pub(super) events: mpsc::Sender<ExecEvent>,
    pub(super) world: Arc<Mutex<World>>,
    pub(super) endings: broadcast::Sender<Ending>,
    /// What is printed instead of a text, by what the text begins with.
    pub(super) says: BTreeMap<String, String>,
}

/// What ended a run early.
enum Cut {
    TimeIsOver,
    Interrupted,
    ContextEnded,
    SandboxEnded,
}

impl Run {
    pub(super) async fn play(self, request: ExecRequest) {
        let since = now();
        let (exec, is_cell) = (request.exec, matches!(request.work, Work::Cell { .. }));
        let code = match request.work {
            Work::Cell { code, .. } | Work::Line(code) => code,
            Work::Program(words) => words.join(" "),
        };
        let cells = Arc::clone(&self.context.cells);
        let playing = async {
            // Commands run beside the cells.
            let mut turn = if is_cell { Some(cells.lock().await) } else { None };
            let before = turn.as_deref().copied().unwrap_or_default();
            if let Some(cells) = turn.as_deref_mut() {
                *cells += 1;
            }
            self.tell(ExecEvent::Started { pid: 2, count: turn.as_deref().copied() }).await;
            self.speak(&code, before, is_cell).await
        };
        let (outcome, dropped) = tokio::select! {
            spoken = playing => spoken,
            cut = self.cut(request.time_max) => (self.cut_off(cut, &code).await, 0),
        };
        self.forget(exec);
        let done = Done {
            outcome,
            context_kept: !matches!(outcome, Outcome::Killed(_) | Outcome::Lost),
            sandbox_usable: outcome != Outcome::Lost,
            stdout_dropped: dropped,
            stderr_dropped: 0,
            wall: now() - since,
            cpu: Duration::from_millis(1),
            max_rss: 1 << 20,
            survivors: 0,
        };
        self.tell(ExecEvent::Done(done)).await;
    }

    async fn speak(&self, code: &str, before: u64, is_cell: bool) -> (Outcome, u64) {
        let mut dropped = 0;
        for sentence in sentences(code) {
            match sentence {
                Sentence::Print(text) => self.tell(ExecEvent::Stdout(self.said(text).into())).await,
                Sentence::Warn(text) => self.tell(ExecEvent::Stderr(text.into())).await,
                Sentence::Flood(bytes) => dropped += self.flood(bytes).await,
                Sentence::Sleep(time) | Sentence::Stubborn(time) => {
                    faces::sleep(&self.place.paused, time).await;
                }
                Sentence::Value(text) => self.tell(ExecEvent::Shown(Shown::value(text))).await,
                Sentence::Count => {
                    self.tell(ExecEvent::Shown(Shown::value(before.to_string()))).await
                }
                Sentence::Raise(name) => {
                    let (value, traceback) = ("as written".to_owned(), "line 1".to_owned());
                    self.tell(ExecEvent::Raised { name, value, traceback }).await;
                    return (Outcome::Raised, dropped);
                }
                Sentence::Exit(code) => return (Outcome::Exit(code), dropped),
                Sentence::Die => {
                    end(&self.world, &self.endings, self.sandbox);
                    return (Outcome::Lost, dropped);
                }
                Sentence::Panic => panic!("this fake panics on purpose"),
            }
        }
        (if is_cell { Outcome::Ok } else { Outcome::Exit(0) }, dropped)
    }

    fn said(&self, text: String) -> String {
        let says = self.says.iter().find(|(beginning, _)| text.starts_with(*beginning));
        says.map_or(text, |(_, says)| format!("{says}\n"))
    }

    async fn flood(&self, bytes: usize) -> u64 {
        let mut left = bytes.min(KEPT_MAX);
        while left > 0 {
            let size = left.min(EVENT_MAX);
            self.tell(ExecEvent::Stdout(Bytes::from(vec![b'x'; size]))).await;
            left -= size;
        }
        bytes.saturating_sub(KEPT_MAX) as u64
    }

    async fn cut(&self, time_max: Duration) -> Cut {
        let mut life = self.life.clone();
        let dropped = async {
            self.events.closed().await;
            faces::goes_on(&self.place.paused).await;
        };
        tokio::select! {
            () = faces::sleep(&self.place.paused, time_max) => Cut::TimeIsOver,
            () = self.interrupt.notified() => Cut::Interrupted,
            // Whoever drops the stream wants it to end.
            () = dropped => Cut::Interrupted,
            _ = life.changed() => Cut::ContextEnded,
            () = self.place.ended.notified() => Cut::SandboxEnded,
        }
    }

    async fn cut_off(&self, cut: Cut, code: &str) -> Outcome {
        let is_stubborn = code.contains("stubborn");
        if is_stubborn && !matches!(cut, Cut::SandboxEnded | Cut::ContextEnded) {
            tokio::time::sleep(GRACE).await;
        }
        match cut {
            Cut::SandboxEnded => Outcome::Lost,
            Cut::ContextEnded => Outcome::Killed(KilledBy::Restart),
            Cut::TimeIsOver if is_stubborn => Outcome::Killed(KilledBy::Timeout),
            Cut::TimeIsOver => Outcome::Interrupted { timed_out: true },
            Cut::Interrupted if is_stubborn => Outcome::Killed(KilledBy::Interrupt),
            Cut::Interrupted => Outcome::Interrupted { timed_out: false },
        }
    }

    fn forget(&self, exec: sandpit_messages::id::ExecId) {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = world.alive.get_mut(&self.sandbox) {
            place.running.remove(&exec);
        }
    }

    async fn tell(&self, event: ExecEvent) {
        faces::goes_on(&self.place.paused).await;
        // Whoever dropped the stream is noticed by `cut`.
        let _ = self.events.send(event).await;
    }
}
