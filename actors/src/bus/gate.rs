//! Which requests are let in, which wait a moment, and which are refused at once.
//!
//! The rule it keeps: whoever would wait in vain is told so now, and nobody waits past his own
//! deadline or past [`Limits::queue_wait_max`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;

#[cfg(test)]
mod tests;

/// How much is let in. One gate per service and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests being answered at once.
    pub inflight_max: usize,
    /// Requests waiting for a place.
    pub queue_max: usize,
    /// Longest wait for a place. An answer that had to queue longer would come too late to trade
    /// on.
    pub queue_wait_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { inflight_max: 1_024, queue_max: 2_048, queue_wait_max: Duration::from_millis(250) }
    }
}

/// Shortest pause a refused caller is asked to make: below it, asking again costs more than the
/// place is worth.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(5);
/// Longest pause a refused caller is asked to make: past it, the estimate says nothing any more.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// Share of the newest service time in the average: one in eight follows a change of load within
/// a dozen requests and is not thrown by one outlier.
const AVERAGE_OVER: u32 = 8;

/// One request; the shell knows whose. Later requests have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Everything that can happen to the gate.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request whose caller listens until `until`.
    Arrived { ticket: Ticket, until: Moment },
    /// A request that was let in at `began` has its answer.
    Ended { began: Moment },
    /// Nobody is let in any more.
    Drain,
    /// The deadline is here.
    Tick,
}

/// Everything the gate can want done.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Have it answered.
    Begin { ticket: Ticket },
    /// Answer it with this.
    Refuse { ticket: Ticket, refusal: Refusal },
}

/// The gate's state.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    inflight: usize,
    /// In the order of arrival, because tickets count upwards.
    queue: BTreeMap<Ticket, Waiting>,
    /// The same requests by the moment at which each gives up.
    expiry: BTreeSet<(Moment, Ticket)>,
    service_time: Duration,
    draining: bool,
    random: ChaCha8Rng,
}

#[derive(Debug)]
struct Waiting {
    /// The caller's own deadline.
    until: Moment,
    /// That, or the end of the longest wait.
    patience: Moment,
}

impl Gate {
    /// An open gate. `seed` decides the jitter of the pauses it asks for.
    pub fn recover(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            inflight: 0,
            queue: BTreeMap::new(),
            expiry: BTreeSet::new(),
            service_time: Duration::ZERO,
            draining: false,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Arrived { ticket, until } => self.admit(now, ticket, until, &mut effects),
            Event::Ended { began } => {
                self.inflight = self.inflight.saturating_sub(1);
                self.learn(now.since(began));
            }
            Event::Drain => self.drain(&mut effects),
            Event::Tick => (),
        }
        if !self.queue.is_empty() {
            self.refuse_late(now, &mut effects);
            self.begin_waiting(&mut effects);
        }
        effects
    }

    /// The next moment at which time alone changes a decision.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.expiry.first().map(|(patience, _)| *patience)
    }

    /// Requests being answered.
    pub fn inflight(&self) -> usize {
        self.inflight
    }

    /// Requests waiting for a place.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    fn admit(&mut self, now: Moment, ticket: Ticket, until: Moment, effects: &mut Vec<Effect>) {
        if until <= now {
            let refusal = Refusal::TooLate { late: now.since(until) };
            return effects.push(Effect::Refuse { ticket, refusal });
        }
        if self.draining {
            return effects.push(Effect::Refuse { ticket, refusal: Refusal::Draining });
        }
        if self.inflight < self.limits.inflight_max && self.queue.is_empty() {
            self.inflight += 1;
            return effects.push(Effect::Begin { ticket });
        }
        let bearable = self.limits.queue_wait_max.min(until.since(now));
        if self.queue.len() >= self.limits.queue_max || self.estimated_wait() > bearable {
            let refusal = self.busy();
            return effects.push(Effect::Refuse { ticket, refusal });
        }
        let patience = until.min(now + self.limits.queue_wait_max);
        self.queue.insert(ticket, Waiting { until, patience });
        self.expiry.insert((patience, ticket));
    }

    fn learn(&mut self, took: Duration) {
        self.service_time = match self.service_time {
            Duration::ZERO => took,
            average => (average * (AVERAGE_OVER - 1) + took) / AVERAGE_OVER,
        };
    }

    fn drain(&mut self, effects: &mut Vec<Effect>) {
        self.draining = true;
        self.expiry.clear();
        let waiting = std::mem::take(&mut self.queue).into_keys();
        effects.extend(waiting.map(|ticket| Effect::Refuse { ticket, refusal: Refusal::Draining }));
    }

    fn refuse_late(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        while let Some((patience, ticket)) = self.expiry.first().copied() {
            if now < patience {
                break;
            }
            self.expiry.remove(&(patience, ticket));
            let Some(Waiting { until, .. }) = self.queue.remove(&ticket) else { continue };
            let refusal = if until <= now {
                Refusal::TooLate { late: now.since(until) }
            } else {
                self.busy()
            };
            effects.push(Effect::Refuse { ticket, refusal });
        }
    }

    fn begin_waiting(&mut self, effects: &mut Vec<Effect>) {
        while self.inflight < self.limits.inflight_max {
            let Some((ticket, Waiting { patience, .. })) = self.queue.pop_first() else { break };
            self.expiry.remove(&(patience, ticket));
            self.inflight += 1;
            effects.push(Effect::Begin { ticket });
        }
    }

    /// How long the next to queue would wait: everybody before it, at the pace of the last ones.
    fn estimated_wait(&self) -> Duration {
        let ahead = u32::try_from(self.queue.len() + 1).unwrap_or(u32::MAX);
        let at_once = u32::try_from(self.limits.inflight_max.max(1)).unwrap_or(u32::MAX);
        self.service_time.saturating_mul(ahead) / at_once
    }

    fn busy(&mut self) -> Refusal {
        let pause = self.estimated_wait().clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
        // Refused callers would all come back in the same moment.
        let retry_after = pause.mul_f64(self.random.random_range(0.8..1.2));
        Refusal::Busy { waiting: self.queue.len(), retry_after }
    }
}
