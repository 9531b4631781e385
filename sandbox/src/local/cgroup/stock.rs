//! Groups made before they are needed: making one takes longer than anything else that a
//! skeleton needs from the engine.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Backend, Group, GroupLimits};

/// Groups kept ready. As many as may be created at once without waiting for the kernel.
const SPARE: usize = 8;

/// Hands out groups of sandboxes, `sbx-<n>`.
#[derive(Debug)]
pub struct Stock {
    backend: Backend,
    /// Limits that spare groups have already.
    usual: GroupLimits,
    spare: Mutex<VecDeque<Group>>,
    made: AtomicU64,
}

impl Stock {
    /// An empty stock; [`Self::refill`] fills it.
    pub const fn new(backend: Backend, usual: GroupLimits) -> Self {
        Self { backend, usual, spare: Mutex::new(VecDeque::new()), made: AtomicU64::new(0) }
    }

    /// Where its groups are.
    pub const fn backend(&self) -> &Backend {
        &self.backend
    }

    /// A group with these limits: a spare one, or a new one if none is left.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn take(&self, limits: GroupLimits) -> io::Result<Group> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match spare {
            Some(group) if limits == self.usual => Ok(group),
            Some(group) => group.set_limits(limits).map(|()| group),
            None => self.make(limits),
        }
    }

    /// Makes spare groups until there are eight.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn refill(&self) -> io::Result<()> {
        while self.spare.lock().unwrap_or_else(PoisonError::into_inner).len() < SPARE {
            let group = self.make(self.usual)?;
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push_back(group);
        }
        Ok(())
    }

    /// Removes the spare groups and this engine's folder. All other groups must be gone.
    ///
    /// # Errors
    /// What the kernel said; the next engine's start removes what is left.
    pub fn retire(self) -> io::Result<()> {
        let spare = self.spare.into_inner().unwrap_or_else(PoisonError::into_inner);
        spare.iter().try_for_each(Group::remove)?;
        self.backend.retire()
    }

    fn make(&self, limits: GroupLimits) -> io::Result<Group> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.backend.group(&format!("sbx-{number}"), limits)
    }
}
