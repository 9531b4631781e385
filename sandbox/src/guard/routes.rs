//! Which endpoint makes a new sandbox. A sandbox never moves; only new ones go elsewhere.
//!
//! The rule it keeps: away at once, back late. An earlier endpoint gets new sandboxes again only
//! after it has been well for a while, so that one that comes and goes is not chased.

use std::time::Duration;

use sandpit_messages::time::Moment;

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// An earlier endpoint must have been well for this long.
    pub well_min: Duration,
    /// One that was full is asked again after this, or once a sandbox ended there.
    pub full_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { well_min: Duration::from_secs(60), full_for: Duration::from_secs(30) }
    }
}

/// The endpoints in the order of the operator.
#[derive(Debug)]
pub struct Routes {
    limits: Limits,
    places: Vec<Place>,
    /// The one that new sandboxes go to.
    current: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    full_until: Option<Moment>,
    /// It does not accept our key. Somebody has to mend that and start again.
    locked: bool,
}

impl Routes {
    /// So many endpoints, the first one in use.
    pub fn new(limits: Limits, count: usize) -> Self {
        Self { limits, places: vec![Place::default(); count], current: 0 }
    }

    /// The endpoints to ask, best first. `closed_since` says of each since when its breaker has
    /// been closed, if it is.
    pub fn order(&mut self, now: Moment, closed_since: &[Option<Moment>]) -> Vec<usize> {
        let usable = |at: usize| {
            let place = self.places[at];
            let since = closed_since.get(at).copied().flatten();
            since.filter(|_| !place.locked && place.full_until.is_none_or(|until| until <= now))
        };
        let well =
            |at: usize| usable(at).is_some_and(|since| now.since(since) >= self.limits.well_min);
        let earlier = (0..self.current).find(|at| well(*at));
        if let Some(better) = earlier {
            self.current = better;
        } else if usable(self.current).is_none()
            && let Some(next) = (0..self.places.len()).find(|at| usable(*at).is_some())
        {
            self.current = next;
        }
        let rest = (0..self.places.len()).filter(|at| *at != self.current);
        let all = std::iter::once(self.current).chain(rest);
        let (usable, others): (Vec<_>, Vec<_>) = all.partition(|at| usable(*at).is_some());
        // That one is full is what it said a while ago: asking it again is better than giving up.
        let full = others.into_iter().filter(|at| {
            closed_since.get(*at).copied().flatten().is_some() && !self.places[*at].locked
        });
        usable.into_iter().chain(full).collect()
    }

    /// The one that new sandboxes go to.
    pub const fn current(&self) -> usize {
        self.current
    }

    /// It has no room.
    pub fn full(&mut self, now: Moment, at: usize) {
        self.places[at].full_until = Some(now + self.limits.full_for);
    }

    /// A sandbox ended there.
    pub fn released(&mut self, at: usize) {
        self.places[at].full_until = None;
    }

    /// It does not accept our key.
    pub fn locked(&mut self, at: usize) {
        self.places[at].locked = true;
    }

    /// Whether it is thought to have no room.
    pub fn is_full(&self, now: Moment, at: usize) -> bool {
        self.places[at].full_until.is_some_and(|until| until > now)
    }

    /// Whether it does not accept our key.
    pub fn is_locked(&self, at: usize) -> bool {
        self.places[at].locked
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    const WELL: Option<Moment> = Some(Moment::START);

    #[test]
    fn new_sandboxes_leave_at_once_and_come_back_late() {
        let mut routes = Routes::new(Limits::default(), 3);
        assert_eq!(routes.order(at(0), &[WELL, WELL, WELL]), [0, 1, 2]);
        assert_eq!(routes.order(at(100), &[None, WELL, WELL]), [1, 2]);
        let healed = Some(at(200));
        assert_eq!(routes.order(at(259), &[healed, WELL, WELL]), [1, 0, 2]);
        assert_eq!(routes.order(at(260), &[healed, WELL, WELL]), [0, 1, 2]);
    }

    #[test]
    fn a_full_endpoint_is_passed_over_until_something_ends_there() {
        let mut routes = Routes::new(Limits::default(), 2);
        routes.full(at(100), 0);
        assert_eq!(routes.order(at(101), &[WELL, WELL]), [1, 0], "and asked last");
        routes.released(0);
        assert_eq!(routes.order(at(102), &[WELL, WELL]), [0, 1]);
        routes.full(at(200), 0);
        assert_eq!(routes.order(at(230), &[WELL, WELL]), [0, 1]);
    }

    #[test]
    fn an_endpoint_that_refuses_our_key_is_not_asked_again() {
        let mut routes = Routes::new(Limits::default(), 2);
        routes.locked(0);
        assert_eq!(routes.order(at(9_999), &[WELL, WELL]), [1]);
    }

    proptest! {
        #[test]
        fn only_closed_endpoints_are_asked_each_once_and_full_ones_last(
            steps in prop::collection::vec(
                (0_u64..50, prop::collection::vec(prop::option::of(0_u64..1_000), 4), 0_usize..8),
                1..100,
            ),
        ) {
            let mut routes = Routes::new(Limits::default(), 4);
            let mut now = at(1_000);
            for (pause, closed, change) in steps {
                now = now + Duration::from_secs(pause);
                match change {
                    0..4 => routes.full(now, change),
                    _ => routes.released(change - 4),
                }
                let closed: Vec<_> = closed.into_iter().map(|since| since.map(at)).collect();
                let order = routes.order(now, &closed);
                for at in &order {
                    prop_assert!(closed[*at].is_some());
                    prop_assert_eq!(order.iter().filter(|other| *other == at).count(), 1);
                }
                prop_assert!(order.is_sorted_by_key(|at| routes.is_full(now, *at)));
                prop_assert_eq!(order.len(), (0..4).filter(|at| closed[*at].is_some()).count());
            }
        }
    }
}
