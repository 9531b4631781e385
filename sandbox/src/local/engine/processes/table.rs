//! The processes of one sandbox, those that run and those whose end is still told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sandpit_messages::time::Moment;

use super::super::link::lock;
use super::process::Process;
use crate::provider::ProviderError;
use crate::provider::processes::{ProcessFault, ProcessInfo, ProcessRef};

/// Processes of one sandbox that were started on their own and run, at once. Its bound of
/// processes is about as high.
const RUNNING_MAX: usize = 128;

/// How long the end of one is told.
const KEPT: Duration = Duration::from_secs(600);

/// Ends that are kept at once; the oldest makes room.
const KEPT_MAX: usize = 1_024;

/// In the order they were started.
#[derive(Debug, Default)]
pub(in super::super) struct Table(Mutex<Vec<Arc<Process>>>);

impl Table {
    /// Forgets those that ended long ago; whether there is room for one more.
    pub(super) fn admit(&self, now: Moment) -> Result<(), ProviderError> {
        let mut all = lock(&self.0);
        all.retain(|process| !process.ended_before(now, KEPT));
        let running = all.iter().filter(|process| process.is_running()).count();
        if running >= RUNNING_MAX {
            let what = format!("processes of the sandbox: {RUNNING_MAX} at most");
            return Err(ProviderError::Quota { what });
        }
        if all.len() - running > KEPT_MAX
            && let Some(oldest) = all.iter().position(|process| !process.is_running())
        {
            all.remove(oldest);
        }
        Ok(())
    }

    pub(super) fn add(&self, process: Arc<Process>) {
        lock(&self.0).push(process);
    }

    /// Those that run.
    pub(super) fn running(&self) -> Vec<ProcessInfo> {
        lock(&self.0).iter().filter_map(|process| process.info()).collect()
    }

    /// One that runs, or else the last of this name that did.
    pub(super) fn find(
        &self,
        which: &ProcessRef,
        now: Moment,
    ) -> Result<Arc<Process>, ProviderError> {
        let all = lock(&self.0);
        let mut called = all.iter().rev().filter(|process| process.is_called(which));
        let first = called.clone().find(|process| process.is_running());
        let found = first.or_else(|| called.find(|process| !process.ended_before(now, KEPT)));
        found.cloned().ok_or_else(|| missing(which))
    }

    /// One that runs.
    pub(super) fn find_running(&self, which: &ProcessRef) -> Result<Arc<Process>, ProviderError> {
        let all = lock(&self.0);
        let mut called = all.iter().rev().filter(|process| process.is_called(which));
        called.find(|process| process.is_running()).cloned().ok_or_else(|| missing(which))
    }
}

fn missing(which: &ProcessRef) -> ProviderError {
    ProviderError::Process { process: which.to_string(), fault: ProcessFault::Missing }
}
