//! Bounds of every single process of a sandbox, whatever its group may use in sum.

use rustix::io::Result;
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};

use super::super::options::Bounds;

const MIB: u64 = 1024 * 1024;

/// Data beyond the memory of the sandbox: what is mapped and never touched. numpy maps far more
/// than it uses.
const DATA_SLACK: u64 = 64 * MIB;

/// Addresses beyond the memory of the sandbox: libraries and file maps.
const ADDRESS_SLACK: u64 = 1024 * MIB;

/// Bytes of stack of the first thread.
const STACK: u64 = 8 * MIB;

/// One bound: `resource` is the kernel's number (`RLIMIT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Which.
    pub resource: Resource,
    /// Soft and hard alike.
    pub limit: u64,
}

/// All bounds of a process. Plain data, so that a fork can apply it without allocating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    values: [Option<Value>; COUNT],
    /// Niceness, so that the node itself is served first.
    pub nice: i32,
}

const COUNT: usize = 11;

/// What holds the sum of a sandbox's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumHeldBy {
    /// Control groups.
    Groups,
    /// Nothing but these bounds and the watchdog.
    Watchdog,
}

impl Values {
    /// The bounds of a sandbox with so many bytes of memory.
    ///
    /// Core files are bounded by 1 and not 0, because a kernel that pipes them to a helper
    /// ignores 0 and would hand a hostile process to a root program of the host. `NPROC` is
    /// counted per user namespace and so per sandbox, as long as the id is not 0 on the host.
    pub fn new(bounds: &Bounds, memory: u64, held_by: SumHeldBy) -> Self {
        let value = |resource, limit| Some(Value { resource, limit });
        let (address_space, nice) = match held_by {
            SumHeldBy::Groups => (None, 5),
            SumHeldBy::Watchdog => (value(Resource::As, memory + ADDRESS_SLACK), 10),
        };
        Self {
            values: [
                value(Resource::Core, 1),
                value(Resource::Data, memory + DATA_SLACK),
                value(Resource::Nproc, u64::from(bounds.pids)),
                value(Resource::Fsize, bounds.file_bytes),
                value(Resource::Nofile, u64::from(bounds.open_files)),
                value(Resource::Stack, STACK),
                value(Resource::Memlock, 0),
                value(Resource::Msgqueue, 0),
                value(Resource::Rtprio, 0),
                value(Resource::Nice, 0),
                address_space,
            ],
            nice,
        }
    }

    /// Each bound.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.values.iter().filter_map(|value| *value)
    }

    /// The bounds as pairs of the kernel's number and the value, as Python's `resource` wants
    /// them.
    pub fn numbers(&self) -> Vec<(u32, u64)> {
        self.iter().map(|value| (value.resource as u32, value.limit)).collect()
    }

    /// Binds the calling process. Allocates nothing.
    ///
    /// # Errors
    /// What the kernel said; the process must then not go on.
    pub fn apply(&self) -> Result<()> {
        for Value { resource, limit } in self.iter() {
            setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        }
        setpriority_process(None, self.nice)
    }
}
