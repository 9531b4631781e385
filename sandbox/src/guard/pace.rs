//! How fast an endpoint is asked, so that our own calls never meet its limit.
//!
//! The generic cell rate algorithm (ITU-T I.371): one number, the moment at which everything
//! taken so far would have been taken at an even pace.

use std::time::Duration;

use sandpit_messages::time::Moment;

/// A rate and what may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many calls..
    pub calls: u32,
    /// ..in this time.
    pub per: Duration,
    /// So many at once after a rest, at least 1.
    pub burst: u32,
}

/// Calls taken so far.
#[derive(Debug)]
pub struct Pace {
    rate: Rate,
    /// When the calls taken so far are paid for.
    paid: Moment,
}

impl Pace {
    /// Rested.
    pub const fn new(rate: Rate) -> Self {
        Self { rate, paid: Moment::START }
    }

    /// Takes one call.
    ///
    /// # Errors
    /// When to come again, if it is too early.
    pub fn take(&mut self, now: Moment) -> Result<(), Moment> {
        let each = self.rate.per / self.rate.calls.max(1);
        let paid = self.paid.max(now);
        let ahead = each * self.rate.burst.max(1).saturating_sub(1);
        let early = paid.since(now).saturating_sub(ahead);
        if early > Duration::ZERO {
            return Err(now + early);
        }
        self.paid = paid + each;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_an_even_pace() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(Rate { calls: 5, per: second, burst: 5 });
        let now = Moment::START + second;
        assert!((0..5).all(|_| pace.take(now).is_ok()));
        let next = pace.take(now).expect_err("the burst is used up");
        assert_eq!(next.since(now), Duration::from_millis(200));
        assert_eq!(pace.take(next), Ok(()));
        assert!(pace.take(next).is_err());
    }

    proptest! {
        #[test]
        fn no_window_sees_more_than_the_rate_and_the_burst(
            calls in 1_u32..50,
            burst in 1_u32..50,
            pauses in prop::collection::vec(0_u64..200, 1..300),
        ) {
            let per = Duration::from_secs(1);
            let mut pace = Pace::new(Rate { calls, per, burst });
            let (mut now, mut taken) = (Moment::START, Vec::new());
            for pause in pauses {
                now = now + Duration::from_millis(pause);
                match pace.take(now) {
                    Ok(()) => taken.push(now),
                    Err(at) => prop_assert!(at > now),
                }
            }
            for begin in &taken {
                let within = |at: &&Moment| **at >= *begin && at.since(*begin) < per;
                let most = usize::try_from(calls + burst).unwrap();
                prop_assert!(taken.iter().filter(within).count() <= most);
            }
        }
    }
}
