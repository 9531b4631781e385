//! The few system calls that no safe interface offers, each wrapped beside its reasons.
//!
//! Everything here is called by single-threaded processes (guardian, launcher, keeper, init), so
//! a copy of such a process may allocate and go on as if it had been started anew.
#![expect(unsafe_code, reason = "system calls that neither std nor rustix offers safely")]

use std::ffi::CStr;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::process::Pid;
use sandpit_messages::time::Moment;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// All namespaces of a sandbox but its view of control groups, which it leaves after it joined
/// its own.
pub(super) const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// Which side of a clone this is.
#[derive(Debug)]
pub(super) enum Cloned {
    /// The one that asked.
    Parent {
        /// The child, as the parent numbers it.
        child: Pid,
        /// A handle that outlives the number.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A copy of this process with new namespaces, born in `cgroup` (a group of the second hierarchy)
/// if there is one.
///
/// # Errors
/// What the kernel says; `ENOSPC` and `EPERM` mean that namespaces are not to be had.
pub(super) fn clone_process(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()) | u64::from(libc::CLONE_PIDFD.cast_unsigned()),
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    if let Some(group) = cgroup {
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
    }
    let ask: *mut CloneArgs = &raw mut args;
    // SAFETY: without CLONE_VM the child gets a copy of this memory, so it may go on on this
    // stack; `args` is as long as said and `pidfd` outlives the call. One thread runs here.
    // WHY: neither std nor rustix clones with namespaces.
    let result = unsafe { libc::syscall(libc::SYS_clone3, ask, size_of::<CloneArgs>()) };
    match result {
        0 => Ok(Cloned::Child),
        child if child > 0 => {
            let child = i32::try_from(child).ok().and_then(Pid::from_raw);
            // SAFETY: the kernel has just made this descriptor for us.
            // WHY: the number arrives through memory, not through a safe call.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let child = child.ok_or(io::ErrorKind::InvalidData)?;
            Ok(Cloned::Parent { child, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// A copy of this process in the same namespaces: 0 in the copy. Made by the old call, because
/// the newer one is refused inside sandboxes.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: one thread runs here, so the copy may allocate and go on.
    // WHY: neither std nor rustix forks without an exec.
    let child = unsafe { libc::fork() };
    if child < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(child)) }
}

/// Becomes the program in `file`, with this one argument and an empty environment.
///
/// # Errors
/// Returns only when it failed.
pub(super) fn exec_file(file: BorrowedFd<'_>, name: &CStr) -> io::Error {
    let arguments = [name.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: both arrays end with a null pointer and what they point to outlives the call.
    // WHY: the file has no path where this runs, and rustix's version is not public.
    unsafe { libc::fexecve(file.as_raw_fd(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Becomes the program at `path`.
///
/// # Errors
/// Returns only when it failed.
pub(super) fn exec_path(path: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> io::Error {
    let pointers = |texts: &[&CStr]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and what they point to outlives the call.
    // WHY: std's `Command::exec` resets signals and looks up `PATH` of this process.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: callers give up everything from `first` on and end by exec, exit or a loop that
    // uses lower descriptors only.
    // WHY: rustix does not offer it, because it breaks the ownership of descriptors.
    let result = unsafe { libc::close_range(first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `file` the descriptor `number`, open across exec.
pub(super) fn put_at(file: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if file.as_raw_fd() == number {
        // SAFETY: it only clears a flag of a descriptor that is open.
        // WHY: duplicating a descriptor onto itself would leave the flag set.
        let result = unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
        return if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    }
    // SAFETY: what was at `number` is given up by the caller, who is about to exec or to close
    // all others.
    // WHY: rustix wants an owned target, which a fixed number is not.
    let result = unsafe { libc::dup2(file.as_raw_fd(), number) };
    if result == number { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a descriptor that was put at a fixed number for us.
pub(super) fn take_from(number: RawFd) -> OwnedFd {
    // SAFETY: called once per number, by the program that was started with it open.
    // WHY: a number given across exec has no owner in Rust.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Lets a descriptor at a fixed number close by itself on exec.
pub(super) fn close_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: it only sets a flag of a descriptor that is open.
    // WHY: a number has no owner to borrow from.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends this process at once, without running anything.
pub(super) fn end(code: i32) -> ! {
    // SAFETY: it does not return.
    // WHY: a copy of a process must not run the exit handlers of the original.
    unsafe { libc::_exit(code) }
}

/// How a child ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    /// Its number here.
    pub(super) pid: i32,
    /// As `wait` encodes it.
    pub(super) status: i32,
    /// Processor time of it and of the children it waited for.
    pub(super) cpu: Duration,
    /// Most memory at once, in bytes.
    pub(super) max_rss: u64,
}

/// Reaps one child that ended, if there is one.
pub(super) fn reap() -> Option<Reaped> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for the call.
    // WHY: rustix's `waitpid` gives no usage.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    if pid <= 0 {
        return None;
    }
    // SAFETY: plain numbers, zeroed before and filled by the kernel.
    // WHY: it came through memory.
    let usage = unsafe { usage.assume_init() };
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.unsigned_abs())
            + Duration::from_micros(value.tv_usec.unsigned_abs())
    };
    Some(Reaped {
        pid,
        status,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        max_rss: usage.ru_maxrss.unsigned_abs() * 1024,
    })
}

/// Blocks `SIGCHLD` and makes a descriptor that becomes readable when a child ends.
pub(super) fn child_events() -> io::Result<OwnedFd> {
    let set = child_signal();
    // SAFETY: `set` is initialized; the old mask is not asked for.
    // WHY: neither std nor rustix changes signal masks.
    let masked =
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if masked != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `set` is initialized.
    // WHY: rustix has no signalfd.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(take_from(fd))
}

/// Signals as a program expects to find them: none blocked, none ignored.
pub(super) fn default_signals() -> io::Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is valid for the call.
    // WHY: a signal set has no safe constructor.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the mask is initialized; the old one is not asked for.
    // WHY: neither std nor rustix changes signal masks.
    let result =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    // An ignored signal stays ignored across exec: SIGPIPE, which Rust's runtime ignores before
    // `main`, and whatever the shell that started the node has ignored, as for `nohup` and for
    // commands in the background. Those two say where a stack overflowed.
    let handled = [libc::SIGSEGV, libc::SIGBUS];
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| !handled.contains(signal)) {
        // SAFETY: the default action needs no handler.
        // WHY: no safe interface sets dispositions. Those that cannot be changed are as they were.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a signal pass unheard.
pub(super) fn ignore_signal(signal: i32) {
    // SAFETY: ignoring needs no handler.
    // WHY: no safe interface sets dispositions.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Ends this process after so many seconds, unless it is set anew before.
pub(super) fn alarm(seconds: u32) {
    // SAFETY: it takes a number and changes nothing but a timer; its signal has no handler here.
    // WHY: rustix has no timers of this kind.
    unsafe { libc::alarm(seconds) };
}

fn child_signal() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is valid for the call.
    // WHY: a signal set has no safe constructor.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was emptied just now.
    // WHY: as above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD) };
    // SAFETY: plain numbers, zeroed before and filled by the two calls.
    // WHY: it came through memory.
    unsafe { set.assume_init() }
}

/// A new view of control groups, whose root is the group this process is in.
pub(super) fn unshare_cgroup_view() -> io::Result<()> {
    unshare(libc::CLONE_NEWCGROUP)
}

/// A mount namespace of its own.
pub(super) fn unshare_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)
}

fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: only namespaces are unshared, never descriptors or memory.
    // WHY: rustix's version is unsafe as well, because it takes any flag.
    let result = unsafe { libc::unshare(flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings the loopback interface of this network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    name[0] = b'l'.cast_signed();
    name[1] = b'o'.cast_signed();
    let flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("small flags");
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: the request is what this ioctl reads, and it outlives the call.
    // WHY: rustix cannot set the flags of an interface.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets flags of a whole mount tree that is attached nowhere yet.
///
/// # Errors
/// `ENOSYS` before kernel 5.12.
pub(super) fn set_tree_flags(tree: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attr = MountAttr { set: flags, clear: 0, propagation: 0, user_namespace: 0 };
    let everything = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is empty and terminated, the structure is as long as said.
    // WHY: rustix has no mount_setattr.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            everything,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The machine's steady clock.
pub(super) fn now() -> Moment {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is valid for the call, which cannot fail for this clock.
    // WHY: inner processes have no clock given to them, and none of them decides by it but when
    // to give up waiting.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr()) };
    // SAFETY: filled by the kernel.
    // WHY: it came through memory.
    let time = unsafe { time.assume_init() };
    let nanos = time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs();
    Moment::from_nanos(nanos)
}

/// The same in milliseconds.
pub(super) fn now_ms() -> u64 {
    now().as_nanos() / 1_000_000
}

/// Processor time of process `pid` so far; zero when it is gone.
pub(super) fn cpu_time_of(pid: i32) -> Duration {
    // The clock of another process is its number, turned around, and the kind of clock.
    let clock = (!pid << 3) | 2;
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is valid for the call.
    // WHY: rustix knows no clocks of other processes.
    let result = unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    if result != 0 {
        return Duration::ZERO;
    }
    // SAFETY: filled by the kernel.
    // WHY: it came through memory.
    let time = unsafe { time.assume_init() };
    Duration::from_secs(time.tv_sec.unsigned_abs())
        + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

/// Reads a file that the kernel writes as it is read and that fits one page: in three calls,
/// where the standard library takes a dozen. Text that is not UTF-8 is replaced.
///
/// # Errors
/// As opening and reading; [`io::ErrorKind::FileTooLarge`] past a page.
pub(super) fn read_page(path: impl AsRef<Path>) -> io::Result<String> {
    Page::open(path)?.read()
}

/// Such a file, for who reads it again and again: the way to it takes longer than reading it.
#[derive(Debug)]
pub(super) struct Page(OwnedFd);

impl Page {
    /// # Errors
    /// As opening.
    pub(super) fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path.as_ref(), flags, rustix::fs::Mode::empty())?))
    }

    /// What it says now.
    ///
    /// # Errors
    /// As reading, also when what it tells of is gone; [`io::ErrorKind::FileTooLarge`] past a page.
    pub(super) fn read(&self) -> io::Result<String> {
        let mut page = [0; 4096];
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&self.0, &mut page[..], 0))?;
        if read == page.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(String::from_utf8_lossy(&page[..read]).into_owned())
    }
}

/// Hears when `file` is ready, on the runtime that calls. The file stays its owner's.
///
/// # Errors
/// Outside a runtime's reach, or out of memory.
pub(super) fn listen(
    file: BorrowedFd<'_>,
    interest: Interest,
) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the descriptor is borrowed for as long as the registration lives, so its number
    // cannot come to mean another file meanwhile.
    // WHY: the constructor is unsafe for types that only name a descriptor, and has no other.
    let registered = unsafe { AsyncFd::register_with_interest(file, interest) };
    registered.map_err(io::Error::from)
}

/// The same for a file that goes along, which is made not to block. For reading and writing.
///
/// # Errors
/// As of [`listen`].
pub(super) fn listen_to(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK)?;
    // SAFETY: the descriptor is owned by what is registered, so it is open for as long.
    // WHY: as above.
    let registered =
        unsafe { AsyncFd::register_with_interest(file, Interest::READABLE | Interest::WRITABLE) };
    registered.map_err(io::Error::from)
}

/// Writes `text` to a file of the kernel's in one call, as such files want it.
pub(super) fn write_once(path: &Path, text: &str) -> io::Result<()> {
    let file = rustix::fs::open(
        path,
        rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let written = rustix::io::write(&file, text.as_bytes())?;
    if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
