//! Which requests are repeats of which. Decides; the entry does.
//!
//! The rule it keeps: of all requests with one key one is done, and all that ask the same get its
//! answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sandpit_messages::envelope::{IdempotencyKey, Tenant};
use sandpit_messages::time::Moment;

use crate::shell::Ticket;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Keys at once. At the bound the oldest answer is forgotten.
    pub keys_max: usize,
    /// How long an answer is given again.
    pub age_max: Duration,
    /// Bytes of all answers that are remembered.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { keys_max: 65_536, age_max: Duration::from_secs(600), bytes_max: 64 * 1024 * 1024 }
    }
}

/// A key and whose it is: two tenants may choose the same.
pub type Scoped = (Tenant, IdempotencyKey);

/// What stands for the verb and the arguments of a request.
pub type Fingerprint = [u8; 32];

/// What to do with a request that has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun<A> {
    /// It is the first: do it, then say [`Keys::finish`].
    First,
    /// The first is under way: wait for its answer.
    Wait,
    /// Here is the answer of the first.
    Again(A),
    /// The key was used for something else.
    Reused,
    /// Everything that is remembered is still under way.
    Full,
}

#[derive(Debug)]
enum State<A> {
    Running { waiting: Vec<Ticket> },
    Done { answer: A, bytes: usize },
}

#[derive(Debug)]
struct Entry<A> {
    request: Fingerprint,
    state: State<A>,
    /// Tells this use of the key from later ones.
    number: u64,
}

/// The keys of the last minutes.
#[derive(Debug)]
pub struct Keys<A> {
    limits: Limits,
    entries: BTreeMap<Scoped, Entry<A>>,
    /// Those with an answer, oldest first.
    done: VecDeque<(Moment, Scoped, u64)>,
    numbers: u64,
    bytes: usize,
}

impl<A: Clone> Keys<A> {
    /// Knows none.
    pub fn new(limits: Limits) -> Self {
        Self { limits, entries: BTreeMap::new(), done: VecDeque::new(), numbers: 0, bytes: 0 }
    }

    /// A request came. One that is told to wait is named by [`Self::finish`].
    pub fn begin(
        &mut self,
        now: Moment,
        ticket: Ticket,
        key: &Scoped,
        request: Fingerprint,
    ) -> Begun<A> {
        self.forget_old(now);
        if let Some(entry) = self.entries.get_mut(key) {
            return match &mut entry.state {
                _ if entry.request != request => Begun::Reused,
                State::Running { waiting } => {
                    waiting.push(ticket);
                    Begun::Wait
                }
                State::Done { answer, .. } => Begun::Again(answer.clone()),
            };
        }
        while self.entries.len() >= self.limits.keys_max {
            if !self.forget_oldest() {
                return Begun::Full;
            }
        }
        self.numbers += 1;
        let state = State::Running { waiting: Vec::new() };
        self.entries.insert(key.clone(), Entry { request, state, number: self.numbers });
        Begun::First
    }

    /// The first was answered. An answer that nothing was done is not kept, so that it can be
    /// tried again. Returns who waits for the same.
    pub fn finish(
        &mut self,
        now: Moment,
        key: &Scoped,
        answer: A,
        bytes: usize,
        keep: Keep,
    ) -> Vec<Ticket> {
        let Some(entry) = self.entries.get_mut(key) else { return Vec::new() };
        let State::Running { waiting } = &mut entry.state else { return Vec::new() };
        let waiting = std::mem::take(waiting);
        match keep {
            Keep::Forget => drop(self.entries.remove(key)),
            Keep::Remember => {
                entry.state = State::Done { answer, bytes };
                self.bytes += bytes;
                self.done.push_back((now, key.clone(), entry.number));
                while self.bytes > self.limits.bytes_max && self.forget_oldest() {}
            }
        }
        waiting
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget_old(&mut self, now: Moment) {
        while self.done.front().is_some_and(|(at, ..)| *at + self.limits.age_max <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((_, key, number)) = self.done.pop_front() else { return false };
        if self.entries.get(&key).is_some_and(|entry| entry.number == number)
            && let Some(Entry { state: State::Done { bytes, .. }, .. }) = self.entries.remove(&key)
        {
            self.bytes -= bytes;
        }
        true
    }
}

/// Whether an answer answers for later requests too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It does.
    Remember,
    /// Nothing was done: the next one is a first again.
    Forget,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Fingerprint = [1; 32];
    const OTHER: Fingerprint = [2; 32];

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    fn key(number: u32) -> Scoped {
        (Tenant::local(), format!("key-of-a-request-{number}").parse().expect("a key"))
    }

    fn begin(keys: &mut Keys<&'static str>, now: u64, ticket: u64) -> Begun<&'static str> {
        keys.begin(at(now), Ticket(ticket), &key(0), ONE)
    }

    #[test]
    fn a_repeat_waits_for_the_first_and_then_gets_its_answer() {
        let mut keys = Keys::new(Limits::default());
        assert_eq!(begin(&mut keys, 0, 1), Begun::First);
        assert_eq!(begin(&mut keys, 1, 2), Begun::Wait);
        assert_eq!(begin(&mut keys, 1, 3), Begun::Wait);
        let waiting = keys.finish(at(2), &key(0), "done", 4, Keep::Remember);
        assert_eq!(waiting, [Ticket(2), Ticket(3)]);
        assert_eq!(begin(&mut keys, 3, 4), Begun::Again("done"));
        assert_eq!(keys.begin(at(3), Ticket(5), &key(0), OTHER), Begun::Reused);
    }

    #[test]
    fn what_was_not_done_may_be_tried_again() {
        let mut keys = Keys::new(Limits::default());
        assert_eq!(begin(&mut keys, 0, 1), Begun::First);
        assert_eq!(begin(&mut keys, 0, 2), Begun::Wait);
        assert_eq!(keys.finish(at(1), &key(0), "no", 2, Keep::Forget), [Ticket(2)]);
        assert_eq!(begin(&mut keys, 1, 3), Begun::First);
    }

    #[test]
    fn an_answer_is_given_again_for_ten_minutes() {
        let mut keys = Keys::new(Limits::default());
        assert_eq!(begin(&mut keys, 0, 1), Begun::First);
        let _ = keys.finish(at(1), &key(0), "done", 4, Keep::Remember);
        assert_eq!(begin(&mut keys, 600, 2), Begun::Again("done"));
        assert_eq!(begin(&mut keys, 601, 3), Begun::First);
    }

    #[test]
    fn at_the_bound_the_oldest_answer_goes_and_nothing_under_way_does() {
        let mut keys = Keys::new(Limits { keys_max: 2, ..Limits::default() });
        for number in 0..2 {
            assert_eq!(keys.begin(at(0), Ticket(0), &key(number), ONE), Begun::First);
        }
        assert_eq!(keys.begin(at(0), Ticket(0), &key(2), ONE), Begun::Full);
        let _ = keys.finish(at(0), &key(1), "done", 4, Keep::Remember);
        assert_eq!(keys.begin(at(0), Ticket(0), &key(2), ONE), Begun::First);
        assert_eq!(keys.begin(at(0), Ticket(0), &key(0), ONE), Begun::Wait);

        let mut keys = Keys::new(Limits { bytes_max: 7, ..Limits::default() });
        for number in 0..2 {
            assert_eq!(keys.begin(at(0), Ticket(0), &key(number), ONE), Begun::First);
            let _ = keys.finish(at(0), &key(number), "done", 4, Keep::Remember);
        }
        assert_eq!(keys.len(), 1, "eight bytes do not fit into seven");
    }
}
