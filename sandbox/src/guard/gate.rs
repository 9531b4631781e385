//! All that guards one endpoint, behind one lock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandpit_messages::time::Moment;
use tokio::sync::oneshot;

use super::breaker::{self, Breaker, Pass, Position, Verdict};
use super::budget::{self, Budget};
use super::bulkhead::{self, Asked, Bulkhead, Ticket, Urgency};
use super::decision::{Counts, Decision, Hear};
use super::dice::Dice;
use super::hedge::{self, Hedge};
use super::pace::{Pace, Rate};
use super::{Time, retry};
use crate::ProviderError;

/// What guards one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How often it is asked again.
    pub retry: retry::Limits,
    /// How much of what it is asked may be asked again.
    pub budget: budget::Limits,
    /// When it is left alone.
    pub breaker: breaker::Limits,
    /// How many sandboxes it makes at once.
    pub bulkhead: bulkhead::Limits,
    /// When it is asked a second time beside the first.
    pub hedge: hedge::Limits,
    /// Creations in a time.
    pub creations: Option<Rate>,
    /// Calls about the life of sandboxes in a time.
    pub lifecycle: Option<Rate>,
    /// Calls to sandboxes in a time.
    pub operations: Option<Rate>,
    /// Sandboxes there at once.
    pub sandboxes_max: Option<usize>,
    /// Longest attempt at a creation.
    pub create_max: Duration,
    /// A creation that takes longer counts as failed for the breaker.
    pub create_slow: Duration,
    /// Longest attempt at a look: a list, a state.
    pub look_max: Duration,
    /// Longest attempt at anything else, up to its first answer.
    pub attempt_max: Duration,
    /// Longest a call may take with all its attempts, where its caller does not say.
    pub call_max: Duration,
}

impl Default for Limits {
    /// For a cloud.
    fn default() -> Self {
        Self {
            retry: retry::Limits::default(),
            budget: budget::Limits::default(),
            breaker: breaker::Limits::default(),
            bulkhead: bulkhead::Limits::default(),
            hedge: hedge::Limits::default(),
            creations: None,
            lifecycle: None,
            operations: None,
            sandboxes_max: None,
            create_max: Duration::from_secs(20),
            create_slow: Duration::from_secs(10),
            look_max: Duration::from_secs(2),
            attempt_max: Duration::from_secs(10),
            call_max: Duration::from_secs(30),
        }
    }
}

/// Which rate a call falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Creation,
    Lifecycle,
    Operation,
}

/// One endpoint's guards.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) name: String,
    pub(super) limits: Limits,
    time: Time,
    hear: Hear,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) budget: Budget,
    pub(super) breaker: Breaker,
    pub(super) bulkhead: Bulkhead,
    pub(super) hedge: Hedge,
    pub(super) dice: Dice,
    pub(super) counts: Counts,
    creations: Option<Pace>,
    lifecycle: Option<Pace>,
    operations: Option<Pace>,
    tickets: Ticket,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

impl Gate {
    pub(super) fn new(name: String, limits: Limits, time: Time, hear: Hear, seed: u64) -> Self {
        let state = State {
            budget: Budget::new(limits.budget),
            breaker: Breaker::new(limits.breaker, time.now()),
            bulkhead: Bulkhead::new(limits.bulkhead),
            hedge: Hedge::new(limits.hedge),
            dice: Dice::new(seed),
            counts: Counts::default(),
            creations: limits.creations.map(Pace::new),
            lifecycle: limits.lifecycle.map(Pace::new),
            operations: limits.operations.map(Pace::new),
            tickets: 0,
            waiting: BTreeMap::new(),
        };
        Self { name, limits, time, hear, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, decision: Decision) {
        self.hear.tell(&self.name, decision);
    }

    pub(super) fn position(&self) -> Position {
        self.state().breaker.position(self.time.now())
    }

    pub(super) fn closed_since(&self) -> Option<Moment> {
        self.state().breaker.closed_since()
    }

    /// Waits until the rate allows one more call.
    pub(super) async fn pace(&self, kind: Kind, deadline: Moment) -> Result<(), ProviderError> {
        let began = self.time.now();
        loop {
            let now = self.time.now();
            let taken = {
                let mut state = self.state();
                let pace = match kind {
                    Kind::Creation => &mut state.creations,
                    Kind::Lifecycle => &mut state.lifecycle,
                    Kind::Operation => &mut state.operations,
                };
                pace.as_mut().map_or(Ok(()), |pace| pace.take(now))
            };
            let Err(at) = taken else {
                let waited = now.since(began);
                if waited > Duration::ZERO {
                    self.tell(Decision::Paced { waited });
                }
                return Ok(());
            };
            let after = at.since(now);
            if at >= deadline {
                return Err(ProviderError::Throttled { after });
            }
            tokio::time::sleep(after).await;
        }
    }

    /// Asks the breaker for one call.
    pub(super) fn admit(&self) -> Option<Passing<'_>> {
        let pass = self.state().breaker.admit(self.time.now())?;
        Some(Passing { gate: self, pass: Some(pass) })
    }

    /// A place among those who create.
    pub(super) async fn place(
        &self,
        urgency: Urgency,
        deadline: Moment,
    ) -> Result<Place<'_>, ProviderError> {
        let (granted, mut place) = {
            let mut state = self.state();
            state.tickets += 1;
            let ticket = state.tickets;
            let place = || Place { gate: self, urgency, ticket, is_held: false };
            match state.bulkhead.ask(ticket, urgency, deadline) {
                Asked::Granted => (None, place()),
                Asked::Waits => {
                    let (grant, granted) = oneshot::channel();
                    state.waiting.insert(ticket, grant);
                    (Some(granted), place())
                }
                Asked::Full => {
                    let queued = state.bulkhead.waiting();
                    drop(state);
                    self.tell(Decision::Crowded);
                    return Err(ProviderError::Busy { queued });
                }
            }
        };
        if let Some(granted) = granted {
            let left = deadline.since(self.time.now());
            let heard = tokio::time::timeout(left, granted).await;
            if !matches!(heard, Ok(Ok(()))) {
                return Err(ProviderError::Timeout { maybe_done: false });
            }
        }
        place.is_held = true;
        Ok(place)
    }

    fn grant(&self, state: &mut State) {
        while let Some(ticket) = state.bulkhead.next(self.time.now()) {
            let grant = state.waiting.remove(&ticket);
            // Somebody who went away in this moment gives the place back when dropped.
            if grant.is_none_or(|grant| grant.send(()).is_err()) {
                tracing::debug!(endpoint = self.name, "a place for nobody");
            }
        }
    }
}

/// A place among those who create. Dropping it gives it to the next.
#[derive(Debug)]
pub(super) struct Place<'a> {
    gate: &'a Gate,
    urgency: Urgency,
    ticket: Ticket,
    is_held: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        let waited = state.waiting.remove(&self.ticket).is_some();
        if waited && !self.is_held {
            state.bulkhead.leave(self.ticket);
        } else {
            // Held, or granted in the moment in which it was given up.
            state.bulkhead.release(self.urgency);
        }
        self.gate.grant(&mut state);
    }
}

/// The right to one attempt. Dropping it says that nobody knows how it ended.
#[derive(Debug)]
pub(super) struct Passing<'a> {
    gate: &'a Gate,
    pass: Option<Pass>,
}

impl Passing<'_> {
    pub(super) fn ended(mut self, verdict: Verdict) {
        self.end(verdict);
    }

    fn end(&mut self, verdict: Verdict) {
        let Some(pass) = self.pass.take() else { return };
        let now = self.gate.time.now();
        let mut state = self.gate.state();
        let share = state.dice.share();
        let changed = state.breaker.ended(now, pass, verdict, share);
        let position = state.breaker.position(now);
        if changed && position == Position::Open {
            state.counts.openings += 1;
        }
        drop(state);
        if changed {
            let endpoint = &self.gate.name;
            tracing::warn!(endpoint, breaker = position.as_str(), "its breaker moved");
            self.gate.tell(Decision::Breaker { position });
        }
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.end(Verdict::Unknown);
    }
}
