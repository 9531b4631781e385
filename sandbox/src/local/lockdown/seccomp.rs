//! System calls that processes may make: one allow-list, and what each gives up of it.
//!
//! Compiling a long filter in the kernel takes a millisecond, so that is done once per template,
//! in its keeper; whatever the keeper starts is bound by it from its first instruction. Who then
//! needs less installs a short filter that takes something away:
//!
//! ```text
//! keeper   may build namespaces and roots
//! ├ init     gives up building, and all that a sandbox has no use for, before it serves
//! └ zygote   gives up building, before it runs python
//!   └ worker   gives up what locked it down
//! ```
//!
//! A filter has one answer for what it forbids, and three are needed. F1 says `ENOSYS` to calls
//! that libraries try first and have a substitute for; F2 says `EAFNOSUPPORT` to sockets of other
//! families; F3 allows what stands in the tables and says `EPERM` to all else. They are installed
//! in this order. Of two refusals the one installed later is given, so what F1 and F2 answer is
//! allowed by all others.
//!
//! Arguments are compared in 32 bits, because the kernel reads no more of them: a comparison in 64
//! could be evaded by setting higher bits. A call made as another architecture kills the process,
//! and numbers of the x32 interface match no table of what is allowed.
#![expect(unsafe_code, reason = "installs the filters on the calling thread")]

use std::collections::BTreeMap;

use rustix::io::{self, Errno};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::calls;

/// Hexadecimal digits of one instruction.
const DIGITS: usize = 16;

/// One filter, compiled.
#[derive(Clone, Debug)]
pub struct Program(Vec<sock_filter>);

/// The filters of one template: what each process adds to those of the process that started it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Filters {
    /// F1, F2 and F3 of the keeper.
    pub keeper: Vec<Program>,
    /// Of an init, and so of every command: after it a process may do what a sandbox may.
    pub init: Vec<Program>,
    /// Of the process that imports a template's packages and forks workers. Installed before its
    /// exec.
    pub zygote: Vec<Program>,
    /// Of a worker, on top of its zygote's: after it, as after `init`.
    pub worker: Vec<Program>,
}

/// Whether anonymous files in memory may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonymousFiles {
    /// A control group bounds them.
    Allowed,
    /// Nothing would bound them in sum.
    Forbidden,
}

/// How the zygote starts workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZygoteClone {
    /// `clone` only.
    Legacy,
    /// Also `clone3`, to clone into a control group of version 2. Its arguments cannot be seen by
    /// a filter.
    IntoGroup,
}

/// A table does not compile. A mistake in this file.
#[derive(Debug, thiserror::Error)]
#[error("the system call filter does not compile on this architecture")]
pub struct NotCompiled(#[from] BackendError);

impl Filters {
    /// Compiles all of them. Takes about a millisecond.
    ///
    /// # Errors
    /// [`NotCompiled`] on an architecture whose system calls are not known here.
    pub fn compile(files: AnonymousFiles, clone: ZygoteClone) -> Result<Self, NotCompiled> {
        let absent = calls::ABSENT.iter().copied().filter(|call| *call != libc::SYS_clone3);
        let absent: Vec<i64> = absent.collect();
        let no_clone3 = || refuse(&[libc::SYS_clone3], Errno::NOSYS);
        let inside = || without(&[calls::BUILDER, calls::ZYGOTE], Kept::Sandbox, files);
        let mut zygote = vec![without(&[calls::BUILDER], Kept::Zygote, files)?];
        let mut worker = vec![inside()?];
        match clone {
            ZygoteClone::Legacy => zygote.insert(0, no_clone3()?),
            ZygoteClone::IntoGroup => worker.insert(0, no_clone3()?),
        }
        Ok(Self {
            keeper: vec![refuse(&absent, Errno::NOSYS)?, families()?, allowed()?],
            init: vec![no_clone3()?, inside()?],
            zygote,
            worker,
        })
    }

    /// All that binds an init and what it starts, in the order of installation.
    pub fn of_init(&self) -> impl Iterator<Item = &Program> {
        self.keeper.iter().chain(&self.init)
    }

    /// All that binds a worker and what it starts, in the order of installation.
    pub fn of_worker(&self) -> impl Iterator<Item = &Program> {
        self.keeper.iter().chain(&self.zygote).chain(&self.worker)
    }
}

impl Program {
    /// The instructions as the kernel reads them, in the byte order of this machine, in
    /// hexadecimal digits.
    pub fn to_hex(&self) -> String {
        let mut text = String::with_capacity(self.0.len() * DIGITS);
        for instruction in &self.0 {
            let [c0, c1] = instruction.code.to_ne_bytes();
            let [k0, k1, k2, k3] = instruction.k.to_ne_bytes();
            for byte in [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3] {
                let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
                text.extend([digit(byte >> 4), digit(byte & 0xf)]);
            }
        }
        text
    }

    /// Operation, steps forward if it is met and if not, operand of each instruction.
    #[cfg(test)]
    pub(super) fn instructions(&self) -> impl Iterator<Item = (u16, u8, u8, u32)> {
        self.0.iter().map(|one| (one.code, one.jt, one.jf, one.k))
    }

    fn from_hex(text: &str) -> Option<Self> {
        let instructions = text.as_bytes().chunks(DIGITS).map(|digits| {
            let mut bytes = [0; DIGITS / 2];
            for (at, byte) in bytes.iter_mut().enumerate() {
                let pair = std::str::from_utf8(digits.get(2 * at..2 * at + 2)?).ok()?;
                *byte = u8::from_str_radix(pair, 16).ok()?;
            }
            let [c0, c1, jt, jf, k0, k1, k2, k3] = bytes;
            let (code, k) = (u16::from_ne_bytes([c0, c1]), u32::from_ne_bytes([k0, k1, k2, k3]));
            Some(sock_filter { code, jt, jf, k })
        });
        instructions.collect::<Option<_>>().map(Self)
    }

    /// Binds the calling thread and all it will start. Wants `no_new_privs` to be set. Allocates
    /// nothing.
    ///
    /// # Errors
    /// What the kernel said; the process must then not go on.
    pub fn install(&self) -> io::Result<()> {
        const MODE_FILTER: libc::c_uint = 1;
        let length = libc::c_ushort::try_from(self.0.len()).map_err(|_| Errno::TOOBIG)?;
        let program = libc::sock_fprog { len: length, filter: self.0.as_ptr().cast_mut().cast() };
        // WHY: rustix has no seccomp, and seccompiler's own call prepares more than it may here.
        // SAFETY: the program points to `length` instructions that outlive the call and are only
        // read; both types of instruction have the layout that the kernel defines.
        let answer =
            unsafe { libc::syscall(libc::SYS_seccomp, MODE_FILTER, 0_u32, &raw const program) };
        if answer == 0 {
            return Ok(());
        }
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

impl Serialize for Program {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Program {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| de::Error::custom("a filter in hexadecimal digits"))
    }
}

/// What somebody may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// What locks a worker down.
    Zygote,
    /// What foreign code may do.
    Sandbox,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refuses these calls, whatever their arguments.
fn refuse(calls: &[i64], answer: Errno) -> Result<Program, NotCompiled> {
    let rules = calls.iter().map(|call| (*call, vec![])).collect();
    compile(rules, SeccompAction::Allow, errno(answer))
}

/// F2: sockets of families other than UNIX, INET and INET6. Namespaces do not cover all of the
/// others: `AF_VSOCK` reaches the host.
fn families() -> Result<Program, NotCompiled> {
    let other = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6]
        .map(|family| when(0, Dword, Ne, u64::from(family.unsigned_abs())));
    let other = all(other.into_iter().collect::<Result<_, _>>()?)?;
    let rules = BTreeMap::from([
        (libc::SYS_socket, vec![other.clone()]),
        (libc::SYS_socketpair, vec![other]),
    ]);
    compile(rules, SeccompAction::Allow, errno(Errno::AFNOSUPPORT))
}

/// F3.
fn allowed() -> Result<Program, NotCompiled> {
    let tables = [calls::ALLOWED, calls::ALLOWED_OLD, calls::ABSENT, calls::ZYGOTE, calls::BUILDER];
    let mut rules: Rules = tables.concat().into_iter().map(|number| (number, vec![])).collect();
    rules.insert(libc::SYS_ioctl, ioctls()?);
    rules.insert(libc::SYS_socket, sockets()?);
    let mut pairs = sockets()?;
    pairs.push(packets()?);
    rules.insert(libc::SYS_socketpair, pairs);
    rules.insert(libc::SYS_personality, personalities()?);
    compile(rules, errno(Errno::PERM), SeccompAction::Allow)
}

/// Takes away the calls of `tables`, and arguments of others that are not for who is left.
fn without(tables: &[&[i64]], kept: Kept, files: AnonymousFiles) -> Result<Program, NotCompiled> {
    // Those that a sandbox keeps with some arguments, and `clone3`, which is refused in words of
    // its own.
    const BY_ARGUMENTS: [i64; 4] =
        [libc::SYS_clone3, libc::SYS_prctl, libc::SYS_setrlimit, libc::SYS_memfd_create];
    let calls = tables.concat().into_iter().filter(|call| !BY_ARGUMENTS.contains(call));
    let mut rules: Rules = calls.map(|call| (call, vec![])).collect();
    if files == AnonymousFiles::Forbidden {
        rules.insert(libc::SYS_memfd_create, vec![]);
    }
    rules.insert(libc::SYS_socketpair, vec![packets()?]);
    let others_limits = all(vec![when(0, Dword, Ne, 0)?])?;
    match kept {
        Kept::Zygote => {
            rules.insert(libc::SYS_clone, clones(calls::CLONE_FORBIDDEN_ZYGOTE)?);
            rules.insert(libc::SYS_prlimit64, vec![others_limits]);
        }
        Kept::Sandbox => {
            rules.insert(libc::SYS_clone, clones(calls::CLONE_FORBIDDEN)?);
            // With another's id a worker could set the limits of init. Core files stay as they
            // were set; asking for any limit of one's own is fine.
            let core_set = all(vec![core(1)?, when(2, Qword, Ne, 0)?])?;
            rules.insert(libc::SYS_prlimit64, vec![others_limits, core_set]);
            rules.insert(libc::SYS_setrlimit, vec![all(vec![core(0)?])?]);
            rules.insert(libc::SYS_prctl, other_process_options()?);
        }
    }
    compile(rules, SeccompAction::Allow, errno(Errno::PERM))
}

/// `clone` with any of these flags.
fn clones(forbidden: u64) -> Result<Vec<SeccompRule>, BackendError> {
    let flags = (0..u64::BITS).map(|bit| 1 << bit).filter(|flag| forbidden & flag != 0);
    flags.map(|flag| all(vec![when(0, Dword, MaskedEq(flag), flag)?])).collect()
}

/// Not those that put words into a terminal's mouth or change how it reads.
fn ioctls() -> Result<Vec<SeccompRule>, BackendError> {
    let others = calls::IOCTL_FORBIDDEN.map(|number| when(1, Dword, Ne, number));
    Ok(vec![all(others.into_iter().collect::<Result<_, _>>()?)?])
}

/// The type of a socket; above it are flags.
const TYPE_MASK: u64 = 0xf;

/// Pairs of sockets that keep packets apart, over which the processes of an engine speak.
fn packets() -> Result<SeccompRule, BackendError> {
    const KIND: u64 = libc::SOCK_SEQPACKET.unsigned_abs() as u64;
    all(vec![when(1, Dword, MaskedEq(TYPE_MASK), KIND)?])
}

/// Streams and datagrams of TCP, UDP and UNIX: no raw sockets, no ping, no MPTCP.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let types = [libc::SOCK_STREAM, libc::SOCK_DGRAM].map(|kind| u64::from(kind.unsigned_abs()));
    let protocols = [libc::IPPROTO_IP, libc::IPPROTO_TCP, libc::IPPROTO_UDP]
        .map(|which| u64::from(which.unsigned_abs()));
    let mut rules = Vec::with_capacity(types.len() * protocols.len());
    for kind in types {
        for protocol in protocols {
            rules.push(all(vec![
                when(1, Dword, MaskedEq(TYPE_MASK), kind)?,
                when(2, Dword, Eq, protocol)?,
            ])?);
        }
    }
    Ok(rules)
}

/// Linux, and the question which it is.
fn personalities() -> Result<Vec<SeccompRule>, BackendError> {
    const LINUX: u64 = 0;
    const ASK: u64 = 0xffff_ffff;
    [LINUX, ASK].into_iter().map(|which| all(vec![when(0, Dword, Eq, which)?])).collect()
}

fn core(argument: u8) -> Result<SeccompCondition, BackendError> {
    when(argument, Dword, Eq, u64::from(libc::RLIMIT_CORE))
}

/// `prctl` with an option that is not allowed.
fn other_process_options() -> Result<Vec<SeccompRule>, BackendError> {
    let options = calls::PRCTL_ALLOWED.iter();
    let others = options.map(|option| when(0, Dword, Ne, u64::from(option.unsigned_abs())));
    Ok(vec![all(others.collect::<Result<_, _>>()?)?])
}

fn when(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, length, operator, value)
}

fn all(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}

fn errno(errno: Errno) -> SeccompAction {
    SeccompAction::Errno(errno.raw_os_error().unsigned_abs())
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    on_match: SeccompAction,
) -> Result<Program, NotCompiled> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, otherwise, on_match, arch)?;
    Ok(Program(filter.try_into()?))
}
