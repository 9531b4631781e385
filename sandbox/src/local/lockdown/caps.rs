//! Gives up every capability, and every way to get one back.
#![expect(unsafe_code, reason = "prctl and capset on the calling thread, between fork and exec")]

use rustix::io::{Errno, Result};

/// Root gets no capabilities by exec, a change of id keeps none, none can be made ambient, and
/// none of this can be changed again.
const SECUREBITS: libc::c_ulong = {
    const NOROOT: libc::c_ulong = 0b11;
    const NO_SETUID_FIXUP: libc::c_ulong = 0b11 << 2;
    /// Locked, and off.
    const KEEP_CAPS_LOCKED: libc::c_ulong = 0b10 << 4;
    const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 0b11 << 6;
    NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | NO_CAP_AMBIENT_RAISE
};

/// Version of the `capset` call that takes 64 bits in two halves.
const CAPSET_VERSION: u32 = 0x2008_0522;

/// No kernel has more capabilities than fit the two halves.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// Empties the bounding set, locks the secure bits, drops all five sets. Wants `CAP_SETPCAP` in
/// its user namespace.
///
/// # Errors
/// What the kernel said; the process must then not go on.
pub fn give_up() -> Result<()> {
    empty_bounding_set()?;
    prctl(libc::PR_SET_SECUREBITS, SECUREBITS)?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    drop_all()
}

/// Stays true through every exec: no set-id program and no file capability has an effect.
///
/// # Errors
/// What the kernel said; the process must then not go on.
pub fn no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

fn empty_bounding_set() -> Result<()> {
    for capability in 0..CAPABILITIES_MAX {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // One past the last capability this kernel has.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> Result<()> {
    const UNUSED: libc::c_ulong = 0;
    // WHY: rustix wraps each option apart, with types that differ by option; here they are alike.
    // SAFETY: the options used here take integers only and change this thread alone.
    let answer = unsafe { libc::prctl(option, value, UNUSED, UNUSED, UNUSED) };
    if answer == 0 { Ok(()) } else { Err(last_errno()) }
}

fn drop_all() -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const EMPTY: Sets = Sets { effective: 0, permitted: 0, inheritable: 0 };
    let header = Header { version: CAPSET_VERSION, pid: 0 };
    let sets = [EMPTY, EMPTY];
    // WHY: rustix refuses bits it does not know and asks the kernel for its version first.
    // SAFETY: both point to memory laid out as the call's version says, and are only read.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if answer == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
