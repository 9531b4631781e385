//! What a process gives up before it runs foreign code: resources, capabilities, files, system
//! calls. In this order, because each step takes what the one before it needs.
//!
//! Everything is computed once by the engine and travels to the processes that apply it. What is
//! applied between fork and exec allocates nothing and takes no lock.

use rustix::process::DumpableBehavior;
use serde::{Deserialize, Serialize};

use super::options::Bounds;

mod calls;
pub mod caps;
pub mod landlock;
pub mod rlimits;
pub mod seccomp;

#[cfg(test)]
mod tests;

use landlock::{Ruleset, Support};
use rlimits::{SumHeldBy, Values};
use seccomp::{AnonymousFiles, Filters, NotCompiled, ZygoteClone};

/// All that binds the processes of one template's sandboxes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lockdown {
    /// System calls.
    pub filters: Filters,
    /// Resources of every single process.
    pub limits: Values,
    /// Files, where the kernel has Landlock.
    pub landlock: Option<Support>,
}

impl Lockdown {
    /// For sandboxes with so many bytes of memory.
    ///
    /// # Errors
    /// [`NotCompiled`] on an architecture whose system calls are not known here.
    pub fn new(
        bounds: &Bounds,
        memory: u64,
        held_by: SumHeldBy,
        clone: ZygoteClone,
    ) -> Result<Self, NotCompiled> {
        let files = match held_by {
            SumHeldBy::Groups => AnonymousFiles::Allowed,
            SumHeldBy::Watchdog => AnonymousFiles::Forbidden,
        };
        Ok(Self {
            filters: Filters::compile(files, clone)?,
            limits: Values::new(bounds, memory, held_by),
            landlock: Support::find(),
        })
    }

    /// Binds a keeper before it starts anything. It must be root of its user namespace.
    ///
    /// # Errors
    /// What the kernel said; the process must then not go on.
    pub fn bind_keeper(&self) -> rustix::io::Result<()> {
        self.filters.keeper.iter().try_for_each(seccomp::Program::install)
    }

    /// Binds an init, which has one thread, and all it will start. It must have every
    /// capability in its own user namespace, and the ids it is to keep. `rules` were made for the
    /// root it has now.
    ///
    /// # Errors
    /// What the kernel said; the process must then not go on.
    pub fn bind(&self, rules: Option<&Ruleset>) -> rustix::io::Result<()> {
        self.limits.apply()?;
        caps::give_up()?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        caps::no_new_privileges()?;
        if let Some(rules) = rules {
            rules.restrict_self()?;
        }
        self.filters.init.iter().try_for_each(seccomp::Program::install)
    }

    /// Binds the calling process, which is about to become a zygote by exec.
    ///
    /// # Errors
    /// What the kernel said; the process must then not go on.
    pub fn bind_zygote(&self) -> rustix::io::Result<()> {
        caps::no_new_privileges()?;
        self.filters.zygote.iter().try_for_each(seccomp::Program::install)
    }
}
