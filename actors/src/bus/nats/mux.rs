//! Which answer belongs to which question: one inbox for all, a slot per question.
//!
//! The rule it keeps: a slot is free again when its question ends, however it ends. An answer that
//! comes later meets another generation of the slot, and is counted and dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Client, Subject};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::Counts;

/// Most questions waiting at once on one connection. What serves them would take seconds for as
/// many; a further one is refused now.
const PENDING_MAX: usize = 65_536;

/// The questions of one connection.
#[derive(Debug)]
pub(super) struct Mux {
    /// `_INBOX.<user>.<random>.`; what follows names the slot.
    prefix: String,
    slab: Mutex<Slab>,
}

#[derive(Debug, Default)]
struct Slab {
    slots: Vec<Slot>,
    free: Vec<u32>,
    late: u64,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// What was asked on.
    subject: Subject,
    tell: oneshot::Sender<Outcome>,
}

/// How a question ends; without one the connection broke.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(async_nats::Message),
    /// The server lets us not ask there.
    Forbidden,
}

/// A question that waits. Dropping it, answered or not, frees its slot.
#[derive(Debug)]
pub(super) struct Pending {
    mux: Arc<Mux>,
    slot: u32,
    generation: u32,
    outcome: oneshot::Receiver<Outcome>,
}

impl Mux {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, slab: Mutex::default() }
    }

    /// What to subscribe to.
    pub(super) fn wildcard(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// A slot for one question on `subject`; `None` if too many wait.
    pub(super) fn register(self: &Arc<Self>, subject: Subject) -> Option<Pending> {
        let (tell, outcome) = oneshot::channel();
        let mut slab = self.slab();
        let slot = match slab.free.pop() {
            Some(slot) => slot,
            None if slab.slots.len() < PENDING_MAX => {
                slab.slots.push(Slot { generation: 0, waiting: None });
                u32::try_from(slab.slots.len() - 1).ok()?
            }
            None => return None,
        };
        let entry = slab.slots.get_mut(slot as usize)?;
        entry.waiting = Some(Waiting { subject, tell });
        let generation = entry.generation;
        Some(Pending { mux: Arc::clone(self), slot, generation, outcome })
    }

    /// Takes in one answer.
    pub(super) fn deliver(&self, message: async_nats::Message) {
        let token = message.subject.strip_prefix(self.prefix.as_str()).and_then(read);
        let mut slab = self.slab();
        let waiting = token.and_then(|(slot, generation)| {
            let entry = slab.slots.get_mut(slot as usize)?;
            if entry.generation == generation { entry.waiting.take() } else { None }
        });
        // Whoever gave up in this very moment gets it no more either.
        if waiting.is_none_or(|waiting| waiting.tell.send(Outcome::Answered(message)).is_err()) {
            slab.late += 1;
        }
    }

    /// Ends every question: the connection over which its answer would come is gone.
    pub(super) fn interrupt(&self) {
        for slot in &mut self.slab().slots {
            slot.waiting = None;
        }
    }

    /// Ends the questions on a subject that is not ours to ask on.
    pub(super) fn forbid(&self, subject: &str) {
        for slot in &mut self.slab().slots {
            if let Some(waiting) = slot.waiting.take_if(|waiting| *waiting.subject == *subject) {
                waiting.tell.send(Outcome::Forbidden).ok();
            }
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let slab = self.slab();
        Counts { pending: slab.slots.len() - slab.free.len(), late: slab.late }
    }

    fn slab(&self) -> MutexGuard<'_, Slab> {
        // Nothing below a lock can panic half-way.
        self.slab.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// Where its answer goes.
    pub(super) fn inbox(&self) -> Subject {
        let Self { mux, slot, generation, .. } = self;
        Subject::from(format!("{}{slot:x}-{generation:x}", mux.prefix))
    }

    /// How it ended; `None` if the connection broke first.
    pub(super) async fn outcome(mut self) -> Option<Outcome> {
        (&mut self.outcome).await.ok()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut slab = self.mux.slab();
        if let Some(entry) = slab.slots.get_mut(self.slot as usize) {
            entry.generation = entry.generation.wrapping_add(1);
            entry.waiting = None;
        }
        slab.free.push(self.slot);
    }
}

/// Has the server send a word back over the same connection; it has then acted on all that was
/// sent before. `None` if the connection broke.
pub(super) async fn echo(mux: &Arc<Mux>, client: &Client) -> Option<()> {
    let pending = mux.register(Subject::from_static("echo"))?;
    client.publish(pending.inbox(), Bytes::new()).await.ok()?;
    match pending.outcome().await? {
        Outcome::Answered(_) => Some(()),
        Outcome::Forbidden => None,
    }
}

fn read(token: &str) -> Option<(u32, u32)> {
    let (slot, generation) = token.split_once('-')?;
    Some((u32::from_str_radix(slot, 16).ok()?, u32::from_str_radix(generation, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mux() -> Arc<Mux> {
        Arc::new(Mux::new("_INBOX.node.x.".to_owned()))
    }

    fn answer_to(subject: Subject) -> async_nats::Message {
        async_nats::Message {
            subject,
            reply: None,
            payload: Bytes::from_static(b"yes"),
            headers: None,
            status: None,
            description: None,
            length: 3,
        }
    }

    #[tokio::test]
    async fn an_answer_finds_its_question() {
        let mux = mux();
        let (first, second) =
            (mux.register("a.b".into()).unwrap(), mux.register("a.b".into()).unwrap());
        assert_ne!(first.inbox(), second.inbox());
        mux.deliver(answer_to(second.inbox()));
        let Some(Outcome::Answered(answer)) = second.outcome().await else { panic!("answered") };
        assert_eq!(answer.payload, "yes");
        assert_eq!(mux.counts(), Counts { pending: 1, late: 0 });
        drop(first);
        assert_eq!(mux.counts(), Counts { pending: 0, late: 0 });
    }

    #[tokio::test]
    async fn a_late_answer_never_reaches_the_next_question_in_its_slot() {
        let mux = mux();
        let first = mux.register("a.b".into()).unwrap();
        let stale = first.inbox();
        drop(first);
        let second = mux.register("a.b".into()).unwrap();
        assert_ne!(second.inbox(), stale, "the slot is the same, the generation is not");
        mux.deliver(answer_to(stale));
        mux.deliver(answer_to("_INBOX.node.x.nonsense".into()));
        mux.deliver(answer_to("_INBOX.node.x.ffffffff-0".into()));
        assert_eq!(mux.counts(), Counts { pending: 1, late: 3 });
        mux.deliver(answer_to(second.inbox()));
        assert!(second.outcome().await.is_some());
    }

    #[tokio::test]
    async fn questions_end_with_the_connection() {
        let mux = mux();
        let waiting = mux.register("a.b".into()).unwrap();
        mux.interrupt();
        assert!(waiting.outcome().await.is_none());
        assert_eq!(mux.counts().pending, 0);
    }

    #[tokio::test]
    async fn a_forbidden_subject_ends_its_questions_and_no_others() {
        let mux = mux();
        let (forbidden, other) = (mux.register("$KV.x".into()), mux.register("a.b".into()));
        mux.forbid("$KV.x");
        assert!(matches!(forbidden.unwrap().outcome().await, Some(Outcome::Forbidden)));
        assert_eq!(mux.counts().pending, 1);
        drop(other);
    }

    #[test]
    fn past_the_bound_a_question_is_refused() {
        let mux = mux();
        let waiting: Vec<Pending> =
            (0..PENDING_MAX).map(|_| mux.register("a.b".into()).unwrap()).collect();
        assert!(mux.register("a.b".into()).is_none());
        drop(waiting);
        assert!(mux.register("a.b".into()).is_some());
    }
}
