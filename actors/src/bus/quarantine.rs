//! Requests that met a fault of ours. Sent again they meet it again: six of them in a minute would
//! end the node, and the queue group would hand the seventh to the next node.

use std::collections::VecDeque;
use std::time::Duration;

use sandpit_messages::time::Moment;

/// How long a poisonous request is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How many are remembered. More kinds of faults than that within ten minutes are not survived by
/// remembering them.
const REMEMBERED_MAX: usize = 1_024;

/// What was asked: the verb, and what stands for the body.
pub type Fingerprint = [u8; 32];

/// The requests that met a fault.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// Oldest first.
    met: VecDeque<(Moment, Fingerprint)>,
}

impl Quarantine {
    /// Remembers a request that met a fault.
    pub fn put(&mut self, now: Moment, request: Fingerprint) {
        self.forget(now);
        if self.met.len() == REMEMBERED_MAX {
            self.met.pop_front();
        }
        self.met.push_back((now, request));
    }

    /// Whether it met one within the last ten minutes.
    pub fn holds(&mut self, now: Moment, request: &Fingerprint) -> bool {
        self.forget(now);
        self.met.iter().any(|(_, met)| met == request)
    }

    /// Whether there is nothing to compare with, as nearly always.
    pub fn is_empty(&self) -> bool {
        self.met.is_empty()
    }

    fn forget(&mut self, now: Moment) {
        while self.met.pop_front_if(|(at, _)| *at + REMEMBERED <= now).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_request_is_remembered_for_ten_minutes() {
        let mut quarantine = Quarantine::default();
        quarantine.put(at(0), [1; 32]);
        assert!(quarantine.holds(at(599), &[1; 32]));
        assert!(!quarantine.holds(at(599), &[2; 32]));
        assert!(!quarantine.holds(at(600), &[1; 32]));
        assert!(quarantine.is_empty());
    }

    #[test]
    fn the_oldest_is_forgotten_at_the_bound() {
        let mut quarantine = Quarantine::default();
        quarantine.put(at(0), [1; 32]);
        for _ in 0..REMEMBERED_MAX {
            quarantine.put(at(1), [2; 32]);
        }
        assert!(!quarantine.holds(at(1), &[1; 32]));
    }
}
