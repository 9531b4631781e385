//! Bounds of every single process of a sandbox, whatever its group may use in sum.

#![expect(unsafe_code, reason = "setrlimit by number")]

use rustix::io::{Errno, Result};
use rustix::process::{Resource, setpriority_process, setrlimit};
use serde::{Deserialize, Serialize};

use super::super::options::Bounds;

const MIB: u64 = 1024 * 1024;

/// Data beyond the memory of the sandbox: what is mapped and never touched. numpy maps far more
/// than it uses.
const DATA_SLACK: u64 = 64 * MIB;

/// Addresses beyond the memory of the sandbox: libraries and file maps.
const ADDRESS_SLACK: u64 = 1024 * MIB;

/// Most bytes of memory a holder may ask for.
pub const MEMORY_MAX: u64 = 4096 * MIB;

/// Bytes of stack of the first thread.
const STACK: u64 = 8 * MIB;

/// All bounds of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// The kernel's number (`RLIMIT_*`) and the limit, soft and hard alike but for data.
    pub numbers: Vec<(u32, u64)>,
    /// How far a sandbox's holder may be given more data than that. Beyond `numbers` only where
    /// control groups hold the sum, because the processes can then raise it themselves.
    pub data_hard: u64,
    /// Niceness, so that the node itself is served first.
    pub nice: i32,
}

/// Bytes of data of one process of a sandbox with so many bytes of memory.
pub const fn data_of(memory: u64) -> u64 {
    memory + DATA_SLACK
}

/// Lets the calling process, and what it will start, have so many bytes of data.
///
/// # Errors
/// What the kernel said: more than the hard limit, for example.
pub fn set_data(bytes: u64) -> Result<()> {
    let mut limits = rustix::process::getrlimit(Resource::Data);
    limits.current = Some(bytes);
    setrlimit(Resource::Data, limits)
}

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
        let mut numbers = vec![
            (libc::RLIMIT_CORE, 1),
            (libc::RLIMIT_DATA, data_of(memory)),
            (libc::RLIMIT_NPROC, u64::from(bounds.pids)),
            (libc::RLIMIT_FSIZE, bounds.file_bytes),
            (libc::RLIMIT_NOFILE, u64::from(bounds.open_files)),
            (libc::RLIMIT_STACK, STACK),
            (libc::RLIMIT_MEMLOCK, 0),
            (libc::RLIMIT_MSGQUEUE, 0),
            (libc::RLIMIT_RTPRIO, 0),
            (libc::RLIMIT_NICE, 0),
        ];
        let nice = match held_by {
            SumHeldBy::Groups => 5,
            SumHeldBy::Watchdog => {
                numbers.push((libc::RLIMIT_AS, memory + ADDRESS_SLACK));
                10
            }
        };
        let memory_max = match held_by {
            SumHeldBy::Groups => memory.max(MEMORY_MAX),
            SumHeldBy::Watchdog => memory,
        };
        Self { numbers, data_hard: data_of(memory_max), nice }
    }

    /// Binds the calling process. Allocates nothing.
    ///
    /// # Errors
    /// What the kernel said; the process must then not go on.
    pub fn apply(&self) -> Result<()> {
        for (resource, limit) in &self.numbers {
            let hard = if *resource == libc::RLIMIT_DATA { self.data_hard } else { *limit };
            let both = libc::rlimit { rlim_cur: *limit, rlim_max: hard };
            // WHY: rustix names resources by an enum that cannot travel between processes.
            // SAFETY: the limits outlive the call and are only read.
            let answer = unsafe { libc::setrlimit(*resource, &raw const both) };
            if answer != 0 {
                return Err(
                    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
                );
            }
        }
        setpriority_process(None, self.nice)
    }
}
