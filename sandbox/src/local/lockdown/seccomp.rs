//! System calls a sandbox may make: an allow-list in three filters.
//!
//! A filter has one answer for what it forbids, and three are needed. F1 says `ENOSYS` to calls
//! that libraries try first and have a substitute for; F2 says `EAFNOSUPPORT` to sockets of other
//! families; F3 allows what stands in the tables below and says `EPERM` to all else. They are
//! installed in this order. Of two refusals the one installed later is given, so what F1 and F2
//! answer is allowed by F3.
//!
//! Arguments are compared in 32 bits, because the kernel reads no more of them: a comparison in 64
//! could be evaded by setting higher bits. A call made as another architecture kills the process,
//! and numbers of the x32 interface match no table.
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

/// The filters of one engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Filters {
    /// F1, F2, F3 of everything that runs foreign code: workers, commands, and init itself.
    pub sandbox: [Program; 3],
    /// The same for the process that imports a template's packages and forks workers. Installed
    /// before its exec, and still in force in workers.
    pub zygote: [Program; 3],
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
        let sandbox = [absent(None)?, families()?, allowed(files, Who::Sandbox)?];
        let zygote = match clone {
            ZygoteClone::Legacy => [absent(None)?, families()?, allowed(files, Who::Zygote(&[]))?],
            ZygoteClone::IntoGroup => {
                let clone3 = libc::SYS_clone3;
                [absent(Some(clone3))?, families()?, allowed(files, Who::Zygote(&[clone3]))?]
            }
        };
        Ok(Self { sandbox, zygote })
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

/// Whose F3 it is.
#[derive(Clone, Copy, Debug)]
enum Who<'a> {
    Sandbox,
    /// With further calls.
    Zygote(&'a [i64]),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// F1: calls with a substitute, but `except`.
fn absent(except: Option<i64>) -> Result<Program, NotCompiled> {
    let calls = calls::ABSENT.iter().copied();
    let rules: Rules =
        calls.filter(|call| Some(*call) != except).map(|call| (call, vec![])).collect();
    compile(rules, SeccompAction::Allow, errno(Errno::NOSYS))
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
fn allowed(files: AnonymousFiles, who: Who<'_>) -> Result<Program, NotCompiled> {
    let mut rules: Rules = calls::ALLOWED
        .iter()
        .chain(calls::ALLOWED_OLD)
        .chain(calls::ABSENT)
        .map(|number| (*number, vec![]))
        .collect();
    if files == AnonymousFiles::Allowed {
        rules.insert(libc::SYS_memfd_create, vec![]);
    }
    rules.insert(libc::SYS_ioctl, ioctls()?);
    rules.insert(libc::SYS_socket, sockets()?);
    rules.insert(libc::SYS_socketpair, sockets()?);
    rules.insert(libc::SYS_personality, personalities()?);
    match who {
        Who::Sandbox => {
            rules.insert(libc::SYS_clone, clones(calls::CLONE_FORBIDDEN)?);
            rules.insert(libc::SYS_prlimit64, own_limits_but_core()?);
            rules.insert(libc::SYS_setrlimit, vec![all(vec![not_core(0)?])?]);
            rules.insert(libc::SYS_prctl, process_options()?);
        }
        Who::Zygote(more) => {
            rules.insert(libc::SYS_clone, clones(calls::CLONE_FORBIDDEN_ZYGOTE)?);
            rules.insert(libc::SYS_prlimit64, vec![all(vec![when(0, Dword, Eq, 0)?])?]);
            let calls = calls::ALLOWED_ZYGOTE.iter().copied();
            rules.extend(calls.chain(more.iter().copied()).map(|call| (call, vec![])));
        }
    }
    compile(rules, errno(Errno::PERM), SeccompAction::Allow)
}

/// `clone` with none of these flags.
fn clones(forbidden: u64) -> Result<Vec<SeccompRule>, BackendError> {
    Ok(vec![all(vec![when(0, Dword, MaskedEq(forbidden), 0)?])?])
}

/// Not those that put words into a terminal's mouth or change how it reads.
fn ioctls() -> Result<Vec<SeccompRule>, BackendError> {
    let others = calls::IOCTL_FORBIDDEN.map(|number| when(1, Dword, Ne, number));
    Ok(vec![all(others.into_iter().collect::<Result<_, _>>()?)?])
}

/// Streams and datagrams of TCP, UDP and UNIX: no raw sockets, no ping, no MPTCP.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    /// Above it are flags.
    const TYPE_MASK: u64 = 0xf;
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

/// Of this process only: with another's id a worker could set the limits of init. Core files stay
/// as they were set; asking for any limit is fine.
fn own_limits_but_core() -> Result<Vec<SeccompRule>, BackendError> {
    let own = || when(0, Dword, Eq, 0);
    Ok(vec![all(vec![own()?, not_core(1)?])?, all(vec![own()?, when(2, Qword, Eq, 0)?])?])
}

fn not_core(argument: u8) -> Result<SeccompCondition, BackendError> {
    when(argument, Dword, Ne, u64::from(libc::RLIMIT_CORE))
}

fn process_options() -> Result<Vec<SeccompRule>, BackendError> {
    let options = calls::PRCTL_ALLOWED.iter();
    options.map(|option| all(vec![when(0, Dword, Eq, u64::from(option.unsigned_abs()))?])).collect()
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
