//! How one actor asks another: through a slot that always holds the living incarnation.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::prelude::*;
use sandpit_messages::refusal::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tracing::Span;

/// What one part of a node asks another. It is answered once.
pub trait Question: fmt::Debug + Send + 'static {
    /// The answer.
    type Answer: Send + 'static;
}

/// A question as it reaches an actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Asked<Q: Question> {
    question: Q,
    caller: Caller<Q::Answer>,
    begun: Arc<AtomicBool>,
}

impl<Q: Question> Asked<Q> {
    /// What is asked, and by whom. A handler's first line: from here on it has begun.
    pub fn open(self) -> (Q, Caller<Q::Answer>) {
        self.begun.store(true, Ordering::Release);
        (self.question, self.caller)
    }
}

/// Whoever asked. Dropped without an answer, as when an actor dies, it says so by itself.
#[derive(Debug)]
pub struct Caller<T> {
    answer: oneshot::Sender<T>,
    span: Span,
    _place: OwnedSemaphorePermit,
}

impl<T> Caller<T> {
    /// The span the question was asked in; an actor's own task is in none.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Answers.
    ///
    /// # Errors
    /// Hands the answer back if nobody waits for it any more.
    pub fn answer(self, answer: T) -> Result<(), T> {
        self.answer.send(answer)
    }
}

/// Why a question got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnswered {
    /// Nothing was done.
    #[error("{waiting} questions are inside the actor already")]
    Busy {
        /// The bound.
        waiting: usize,
    },
    /// Nothing was done: no handler had begun.
    #[error("the actor was starting over")]
    NotBegun,
    /// It may or may not have been done.
    #[error("the actor failed while it was at it")]
    Interrupted,
}

/// When a full actor is worth asking again: an actor that moves at all empties in this time.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

impl From<NotAnswered> for Refusal {
    fn from(why: NotAnswered) -> Self {
        match why {
            NotAnswered::Busy { waiting } => Self::Busy { waiting, retry_after: BUSY_PAUSE },
            NotAnswered::NotBegun => Self::Restarting,
            NotAnswered::Interrupted => Self::Interrupted,
        }
    }
}

/// A reference to an actor that survives its restarts. Clone it freely.
#[derive(Debug)]
pub struct ActorRef<A: Actor> {
    slot: watch::Receiver<Option<Addr<A>>>,
    room: Arc<Semaphore>,
    room_max: usize,
}

impl<A: Actor> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        let Self { slot, room, room_max } = self;
        Self { slot: slot.clone(), room: Arc::clone(room), room_max: *room_max }
    }
}

/// How long a question waits for the next incarnation of an actor that was starting over. The
/// first restart is at once; who waits longer hears that the actor is in trouble.
const SETTLE_MAX: Duration = Duration::from_secs(1);

impl<A: Actor> ActorRef<A> {
    pub(crate) fn new(slot: watch::Receiver<Option<Addr<A>>>, room_max: usize) -> Self {
        Self { slot, room: Arc::new(Semaphore::new(room_max)), room_max }
    }

    /// Asks, and waits for the answer. Never waits for room: a full actor is a refusal now, not
    /// an answer too late.
    ///
    /// # Errors
    /// [`NotAnswered`]
    pub async fn ask<Q>(&self, question: Q) -> Result<Q::Answer, NotAnswered>
    where
        Q: Question,
        A: Handler<Asked<Q>>,
        A::Context: ToEnvelope<A, Asked<Q>>,
    {
        let busy = NotAnswered::Busy { waiting: self.room_max };
        // Ours, because a mailbox's own bound does not hold: each clone of an address gets one
        // message past it.
        let place = Arc::clone(&self.room).try_acquire_owned().map_err(|_| busy)?;
        let address = self.slot.borrow().clone().ok_or(NotAnswered::NotBegun)?;
        let (answer, answered) = oneshot::channel();
        let caller = Caller { answer, span: Span::current(), _place: place };
        let begun = Arc::new(AtomicBool::new(false));
        let asked = Asked { question, caller, begun: Arc::clone(&begun) };
        address.try_send(asked).map_err(|error| match error {
            SendError::Full(_) => busy,
            SendError::Closed(_) => NotAnswered::NotBegun,
        })?;
        answered.await.map_err(|_| match begun.load(Ordering::Acquire) {
            true => NotAnswered::Interrupted,
            false => NotAnswered::NotBegun,
        })
    }

    /// Asks; if the actor was starting over and had not begun, asks its next incarnation, once.
    ///
    /// # Errors
    /// [`NotAnswered`]
    pub async fn ask_settled<Q>(&self, question: Q) -> Result<Q::Answer, NotAnswered>
    where
        Q: Question + Clone,
        A: Actor + Handler<Asked<Q>>,
        A::Context: ToEnvelope<A, Asked<Q>>,
    {
        match self.ask(question.clone()).await {
            Err(NotAnswered::NotBegun) => {
                let mut slot = self.slot.clone();
                let living = slot.wait_for(|address| address.as_ref().is_some_and(Addr::connected));
                // Whether it lives by now is what the second question finds out.
                let _ = tokio::time::timeout(SETTLE_MAX, living).await;
                self.ask(question).await
            }
            settled => settled,
        }
    }
}
