//! Where each sandbox is, and where one may be that should not be there.
//!
//! What endpoints list was true when they wrote it, not when it is read: in between a creation may
//! have moved on to another endpoint, and a sandbox may have ended. The rule this keeps: a list
//! gives nobody's sandbox away while it is being made, and brings none back that has ended.

use std::collections::{BTreeMap, BTreeSet};

use sandpit_messages::id::SandboxId;

/// The sandboxes of all endpoints, as far as we know. An endpoint is its place in the order.
#[derive(Debug, Default)]
pub struct Places {
    owners: BTreeMap<SandboxId, usize>,
    doubts: BTreeSet<(usize, SandboxId)>,
    /// Those that somebody makes right now: where they will be is not decided.
    making: Vec<SandboxId>,
    /// Lists under way, and what ended since the first of them began.
    looks: usize,
    ended: BTreeSet<SandboxId>,
}

impl Places {
    /// Where a sandbox is.
    pub fn owner(&self, sandbox: SandboxId) -> Option<usize> {
        self.owners.get(&sandbox).copied()
    }

    /// Those that are at an endpoint.
    pub fn at(&self, at: usize) -> impl Iterator<Item = SandboxId> {
        self.owners.iter().filter(move |(_, owner)| **owner == at).map(|(sandbox, _)| *sandbox)
    }

    /// Where a sandbox is or may be.
    pub fn perhaps(&self, sandbox: SandboxId) -> BTreeSet<usize> {
        let doubts = self.doubts.iter().filter(|(_, doubtful)| *doubtful == sandbox);
        self.owner(sandbox).into_iter().chain(doubts.map(|(at, _)| *at)).collect()
    }

    /// What may be somewhere where it should not be.
    pub fn doubts(&self) -> impl Iterator<Item = (usize, SandboxId)> {
        self.doubts.iter().filter(|(_, sandbox)| !self.making.contains(sandbox)).copied()
    }

    /// A creation begins.
    pub fn begin(&mut self, sandbox: SandboxId) {
        self.making.push(sandbox);
    }

    /// A creation has ended, one way or the other.
    pub fn end(&mut self, sandbox: SandboxId) {
        if let Some(nth) = self.making.iter().position(|one| *one == sandbox) {
            self.making.swap_remove(nth);
        }
    }

    /// An endpoint made it.
    pub fn made(&mut self, at: usize, sandbox: SandboxId) {
        self.doubts.remove(&(at, sandbox));
        self.ended.remove(&sandbox);
        self.owners.insert(sandbox, at);
    }

    /// An endpoint was asked to make it, and nobody waits for what became of that.
    pub fn doubt(&mut self, at: usize, sandbox: SandboxId) {
        self.doubts.insert((at, sandbox));
    }

    /// It is not there any more. Says whether that is where it was.
    pub fn gone(&mut self, at: usize, sandbox: SandboxId) -> bool {
        self.doubts.remove(&(at, sandbox));
        let was_there = self.owner(sandbox) == Some(at);
        if was_there {
            self.owners.remove(&sandbox);
            if self.looks > 0 {
                self.ended.insert(sandbox);
            }
        }
        was_there
    }

    /// Endpoints are asked for lists.
    pub fn begin_look(&mut self) {
        self.looks += 1;
    }

    /// Their lists were read.
    pub fn end_look(&mut self) {
        self.looks -= 1;
        if self.looks == 0 {
            self.ended.clear();
        }
    }

    /// A list has it. Says whether it is to be counted among those that are there.
    pub fn found(&mut self, at: usize, sandbox: SandboxId) -> bool {
        if self.ended.contains(&sandbox) {
            return false;
        }
        match self.owner(sandbox) {
            Some(owner) if owner == at => true,
            // Where it is being made, or was in vain, is not where it is.
            _ if self.making.contains(&sandbox) || self.doubts.contains(&(at, sandbox)) => true,
            Some(_) => {
                self.doubt(at, sandbox);
                false
            }
            None => {
                self.owners.insert(sandbox, at);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sandpit_messages::id::NodeId;

    use super::*;

    const EU: usize = 0;
    const US: usize = 1;

    fn sandbox() -> SandboxId {
        SandboxId::minted(NodeId::of_bits(7), 1)
    }

    #[test]
    fn what_is_being_made_is_not_destroyed_where_it_will_be() {
        let (mut places, sandbox) = (Places::default(), sandbox());
        places.begin(sandbox);
        // The first endpoint made it and its answer was lost; a list finds it there.
        assert!(places.found(EU, sandbox));
        places.doubt(EU, sandbox);
        // The second made it too, and another list is read before its answer.
        assert!(places.found(US, sandbox));
        assert_eq!(places.doubts().count(), 0, "nothing is settled before it is decided");
        places.made(US, sandbox);
        places.end(sandbox);
        assert_eq!(places.owner(sandbox), Some(US));
        assert_eq!(places.doubts().collect::<Vec<_>>(), [(EU, sandbox)]);
    }

    #[test]
    fn an_old_list_brings_nothing_back() {
        let (mut places, sandbox) = (Places::default(), sandbox());
        places.made(EU, sandbox);
        places.begin_look();
        assert!(places.gone(EU, sandbox));
        assert!(!places.found(EU, sandbox));
        places.end_look();
        assert_eq!(places.at(EU).count(), 0);
        assert!(places.found(EU, sandbox), "a list from afterwards is believed");
    }

    #[test]
    fn its_end_elsewhere_is_not_its_end() {
        let (mut places, sandbox) = (Places::default(), sandbox());
        places.made(US, sandbox);
        places.doubt(EU, sandbox);
        assert!(!places.gone(EU, sandbox));
        assert_eq!((places.owner(sandbox), places.doubts().count()), (Some(US), 0));
    }

    #[test]
    fn a_second_one_is_found_out_and_one_that_was_given_up_belongs_to_nobody() {
        let (mut places, sandbox) = (Places::default(), sandbox());
        places.made(US, sandbox);
        assert!(!places.found(EU, sandbox));
        assert_eq!(places.perhaps(sandbox), [EU, US].into());
        assert!(places.gone(US, sandbox));
        assert!(places.found(EU, sandbox), "it is there until it is destroyed");
        assert_eq!(places.owner(sandbox), None);
    }

    #[test]
    fn two_who_make_the_same_are_two() {
        let (mut places, sandbox) = (Places::default(), sandbox());
        places.begin(sandbox);
        places.begin(sandbox);
        places.doubt(EU, sandbox);
        places.end(sandbox);
        assert_eq!(places.doubts().count(), 0);
        places.end(sandbox);
        assert_eq!(places.doubts().count(), 1);
    }
}
