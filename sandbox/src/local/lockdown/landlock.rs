//! Files a process may touch, whatever mounts and modes say: the second wall behind the mounts.
//!
//! The kernel's calls are made directly and not through a library, because rules name folders
//! inside the sandbox's root and so are added after the fork, where nothing may allocate.
#![expect(unsafe_code, reason = "three system calls that neither std nor rustix wraps")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use serde::{Deserialize, Serialize};

/// The first version of the interface that lets a file be moved between folders at all. On an
/// older kernel (before 5.19) Landlock counts as missing: every such move would fail.
const ABI_MIN: u32 = 2;

/// What may be done below a path. The kernel's numbers.
mod access {
    pub(super) const EXECUTE: u64 = 1;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const REMOVE_DIR: u64 = 1 << 4;
    pub(super) const REMOVE_FILE: u64 = 1 << 5;
    pub(super) const MAKE_CHAR: u64 = 1 << 6;
    pub(super) const MAKE_DIR: u64 = 1 << 7;
    pub(super) const MAKE_REG: u64 = 1 << 8;
    pub(super) const MAKE_SOCK: u64 = 1 << 9;
    pub(super) const MAKE_FIFO: u64 = 1 << 10;
    pub(super) const MAKE_BLOCK: u64 = 1 << 11;
    pub(super) const MAKE_SYM: u64 = 1 << 12;
    pub(super) const REFER: u64 = 1 << 13;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    pub(super) const IOCTL_DEV: u64 = 1 << 15;
}

use access::{
    EXECUTE, IOCTL_DEV, MAKE_BLOCK, MAKE_CHAR, MAKE_DIR, MAKE_FIFO, MAKE_REG, MAKE_SOCK, MAKE_SYM,
    READ_DIR, READ_FILE, REFER, REMOVE_DIR, REMOVE_FILE, TRUNCATE, WRITE_FILE,
};

/// Everything that is forbidden unless a rule allows it, under version 2 of the interface.
const HANDLED: u64 = EXECUTE
    | WRITE_FILE
    | READ_FILE
    | READ_DIR
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_CHAR
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SOCK
    | MAKE_FIFO
    | MAKE_BLOCK
    | MAKE_SYM
    | REFER;

const READ: u64 = READ_FILE | READ_DIR;
const RUN: u64 = READ | EXECUTE;
const DEVICE: u64 = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV;
/// All but device nodes.
const OWN: u64 = RUN
    | WRITE_FILE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SOCK
    | MAKE_FIFO
    | MAKE_SYM
    | REFER
    | TRUNCATE;

/// What every process of a sandbox may touch, and how. Paths that are not there are left out.
pub const RULES: [(&CStr, u64); 20] = [
    // Lists the root, and so whatever is mounted; that is all meant to be seen.
    (c"/", READ_DIR),
    (c"/usr", RUN),
    (c"/opt", RUN),
    (c"/bin", RUN),
    (c"/sbin", RUN),
    (c"/lib", RUN),
    (c"/lib64", RUN),
    (c"/lib32", RUN),
    (c"/etc", READ),
    (c"/data", READ),
    (c"/proc", READ),
    (c"/dev", READ | IOCTL_DEV),
    (c"/dev/null", DEVICE),
    (c"/dev/zero", DEVICE),
    (c"/dev/full", DEVICE),
    // Terminals of this sandbox.
    (c"/dev/pts", DEVICE),
    (c"/dev/tty", DEVICE),
    (c"/dev/shm", OWN),
    (c"/home/user", OWN),
    (c"/tmp", OWN),
];

/// What the kernel can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Support {
    abi: u32,
}

impl Support {
    /// Asks the kernel; `None` where it has no Landlock, or one that is too old or switched off.
    pub fn find() -> Option<Self> {
        const ASK_VERSION: libc::c_uint = 1;
        // WHY: no safe wrapper exists that does not allocate.
        // SAFETY: with this flag the kernel reads nothing from the null pointer, as documented.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<libc::c_void>(),
                0_usize,
                ASK_VERSION,
            )
        };
        let abi = u32::try_from(answer).ok()?;
        (abi >= ABI_MIN).then_some(Self { abi })
    }

    /// The version of the interface.
    pub const fn abi(self) -> u32 {
        self.abi
    }

    /// Kinds of access that are forbidden unless a rule allows them.
    pub const fn handled(self) -> u64 {
        HANDLED
            | if self.abi >= 3 { TRUNCATE } else { 0 }
            | if self.abi >= 5 { IOCTL_DEV } else { 0 }
    }

    /// The rules as this kernel takes them: it refuses bits that it does not know, and bits of
    /// folders on files that are none.
    pub fn rules(self) -> impl Iterator<Item = (&'static CStr, u64)> {
        RULES.into_iter().map(move |(path, access)| (path, access & self.handled()))
    }
}

/// Rules that can be laid upon any number of processes.
#[derive(Debug)]
pub struct Ruleset(OwnedFd);

impl Ruleset {
    /// Makes the rules for the root that this process has now. Allocates nothing. The descriptor
    /// is closed on exec, and may be sent to processes of the same sandbox.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(support: Support) -> Result<Self> {
        let handled = support.handled();
        // WHY: no safe wrapper exists that does not allocate.
        // SAFETY: the attribute is one u64 that outlives the call, and its size is passed.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const handled,
                size_of_val(&handled),
                0_u32,
            )
        };
        let raw = i32::try_from(check(answer)?).map_err(|_| Errno::BADF)?;
        // WHY: the kernel hands out a bare number.
        // SAFETY: it is a new descriptor that nobody else owns.
        let ruleset = Self(unsafe { OwnedFd::from_raw_fd(raw) });
        for (path, access) in support.rules() {
            ruleset.allow(path, access)?;
        }
        Ok(ruleset)
    }

    /// Allows `access` below `path`; nothing happens if it is not there.
    fn allow(&self, path: &CStr, access: u64) -> Result<()> {
        const PATH_BENEATH: libc::c_uint = 1;
        #[repr(C, packed)]
        struct Beneath {
            access: u64,
            parent: i32,
        }
        let folder = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error),
        };
        let rule = Beneath { access, parent: folder.as_raw_fd() };
        // WHY: no safe wrapper exists that does not allocate.
        // SAFETY: the rule is laid out as the kernel wants it and outlives the call.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.0.as_raw_fd(),
                PATH_BENEATH,
                &raw const rule,
                0_u32,
            )
        };
        check(answer).map(|_| ())
    }

    /// Binds the calling thread and all it will start. Wants `no_new_privs` to be set.
    ///
    /// # Errors
    /// What the kernel said; the process must then not go on.
    pub fn restrict_self(&self) -> Result<()> {
        // WHY: no safe wrapper exists that does not allocate.
        // SAFETY: takes a descriptor and a number; changes nothing but what this thread may do.
        let answer =
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0_u32) };
        check(answer).map(|_| ())
    }
}

impl AsFd for Ruleset {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(answer: libc::c_long) -> Result<libc::c_long> {
    if answer >= 0 {
        return Ok(answer);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
