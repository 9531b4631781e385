//! How many sandboxes an endpoint makes at once, and who waits for whom.

use std::collections::{BTreeMap, VecDeque};

use sandpit_messages::time::Moment;

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At once.
    pub permits: usize,
    /// Waiting.
    pub waiting_max: usize,
}

impl Default for Limits {
    /// For a cloud.
    fn default() -> Self {
        Self { permits: 8, waiting_max: 256 }
    }
}

/// Who goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// An order depends on it.
    Order,
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// It is made ahead of need: these never hold more than half of the places.
    Ahead,
}

/// Names whoever waits.
pub type Ticket = u64;

/// What became of a request for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It has one now.
    Granted,
    /// It will hear.
    Waits,
    /// Too many wait already.
    Full,
}

/// The places of one endpoint.
#[derive(Debug)]
pub struct Bulkhead {
    limits: Limits,
    held: usize,
    held_ahead: usize,
    waiting: BTreeMap<Urgency, VecDeque<(Ticket, Moment)>>,
}

impl Bulkhead {
    /// Nobody is there.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, held: 0, held_ahead: 0, waiting: BTreeMap::new() }
    }

    /// Places held now.
    pub const fn in_use(&self) -> usize {
        self.held
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Asks for a place, which is of no use after `until`.
    pub fn ask(&mut self, ticket: Ticket, urgency: Urgency, until: Moment) -> Asked {
        let first = self.waiting.range(..=urgency).all(|(_, queue)| queue.is_empty());
        if first && self.fits(urgency) {
            self.hold(urgency);
            return Asked::Granted;
        }
        if self.waiting() >= self.limits.waiting_max {
            return Asked::Full;
        }
        self.waiting.entry(urgency).or_default().push_back((ticket, until));
        Asked::Waits
    }

    /// Gives a place back.
    pub const fn release(&mut self, urgency: Urgency) {
        self.held = self.held.saturating_sub(1);
        if matches!(urgency, Urgency::Ahead) {
            self.held_ahead = self.held_ahead.saturating_sub(1);
        }
    }

    /// Somebody does not wait any more.
    pub fn leave(&mut self, ticket: Ticket) {
        for queue in self.waiting.values_mut() {
            queue.retain(|(waiting, _)| *waiting != ticket);
        }
    }

    /// The next who gets a place; call until it gives nobody. Those whose time is over leave.
    pub fn next(&mut self, now: Moment) -> Option<Ticket> {
        for queue in self.waiting.values_mut() {
            queue.retain(|(_, until)| *until > now);
        }
        let filled = self.waiting.iter().find(|(_, queue)| !queue.is_empty());
        let urgency = filled.map(|(urgency, _)| *urgency).filter(|urgency| self.fits(*urgency))?;
        let (ticket, _) = self.waiting.get_mut(&urgency)?.pop_front()?;
        self.hold(urgency);
        Some(ticket)
    }

    fn fits(&self, urgency: Urgency) -> bool {
        let half = (self.limits.permits / 2).max(1);
        self.held < self.limits.permits && (urgency != Urgency::Ahead || self.held_ahead < half)
    }

    fn hold(&mut self, urgency: Urgency) {
        self.held += 1;
        self.held_ahead += usize::from(urgency == Urgency::Ahead);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LATER: Moment = Moment::from_nanos(u64::MAX);
    const LIMITS: Limits = Limits { permits: 4, waiting_max: 8 };

    #[test]
    fn orders_go_before_people_and_people_before_stock() {
        let mut bulkhead = Bulkhead::new(LIMITS);
        for ticket in 0..4 {
            assert_eq!(bulkhead.ask(ticket, Urgency::Interactive, LATER), Asked::Granted);
        }
        let waiting = [(5, Urgency::Ahead), (6, Urgency::Interactive), (7, Urgency::Order)];
        for (ticket, urgency) in waiting {
            assert_eq!(bulkhead.ask(ticket, urgency, LATER), Asked::Waits);
        }
        for expected in [7, 6, 5] {
            bulkhead.release(Urgency::Interactive);
            assert_eq!(bulkhead.next(Moment::START), Some(expected));
            assert_eq!(bulkhead.next(Moment::START), None);
        }
    }

    #[test]
    fn whoever_waited_too_long_gets_no_place() {
        let mut bulkhead = Bulkhead::new(Limits { permits: 1, waiting_max: 8 });
        let soon = Moment::START + Duration::from_secs(1);
        assert_eq!(bulkhead.ask(1, Urgency::Order, LATER), Asked::Granted);
        assert_eq!(bulkhead.ask(2, Urgency::Order, soon), Asked::Waits);
        bulkhead.release(Urgency::Order);
        assert_eq!(bulkhead.next(soon), None);
        assert_eq!(bulkhead.in_use(), 0);
    }

    proptest! {
        #[test]
        fn places_and_queue_stay_within_their_bounds(
            steps in prop::collection::vec((0_u8..4, 0_u8..3), 1..300),
        ) {
            let mut bulkhead = Bulkhead::new(LIMITS);
            let (mut held, mut waiting) = (Vec::new(), BTreeMap::new());
            for (ticket, (step, urgency)) in (0_u64..).zip(steps) {
                let urgency =
                    [Urgency::Order, Urgency::Interactive, Urgency::Ahead][usize::from(urgency)];
                match step {
                    0 | 1 => match bulkhead.ask(ticket, urgency, LATER) {
                        Asked::Granted => held.push(urgency),
                        Asked::Waits => drop(waiting.insert(ticket, urgency)),
                        Asked::Full => prop_assert_eq!(waiting.len(), LIMITS.waiting_max),
                    },
                    2 => {
                        if let Some(urgency) = held.pop() {
                            bulkhead.release(urgency);
                        }
                    }
                    _ => {
                        if let Some((ticket, _)) = waiting.pop_first() {
                            bulkhead.leave(ticket);
                        }
                    }
                }
                while let Some(ticket) = bulkhead.next(Moment::START) {
                    held.push(waiting.remove(&ticket).expect("it waited"));
                }
                prop_assert!(held.len() <= LIMITS.permits);
                let ahead = held.iter().filter(|urgency| **urgency == Urgency::Ahead).count();
                prop_assert!(ahead <= LIMITS.permits / 2);
                prop_assert_eq!(bulkhead.in_use(), held.len());
                prop_assert_eq!(bulkhead.waiting(), waiting.len());
            }
        }
    }
}
