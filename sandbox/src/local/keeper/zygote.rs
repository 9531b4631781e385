//! The zygote of a template, as its keeper sees it: started, asked for one worker at a time,
//! killed when it does not answer. Nothing it says is believed.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::RecvFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use serde::Serialize;

use super::super::control::{ForkOrder, FromKeeper, FromZygote};
use super::super::lockdown::seccomp::Program;
use super::super::mounts::{self, Failed, at_step};
use super::super::packet;
use super::super::plan::Ids;
use super::super::sys::{self, Cloned};
use super::skeleton::Up;
use super::{Keeper, verify};

/// Longest a zygote may take to fork, in milliseconds. It takes about 3 ms; with ten busy sandboxes
/// and a compiler on two processors it took more than 250, and a zygote that is given up too early
/// costs a second of imports. One that hangs is found all the same.
const FORK_MAX_MS: u64 = 5_000;

/// Bytes of its standard error that are kept, the last ones.
const ERRORS_KEPT: usize = 8 * 1024;

/// Forks between two looks at how many threads it has.
const FORKS_PER_LOOK: u32 = 50;

/// Process ids of zygotes begin here, far above those that a sandbox gives out: a worker whose
/// number equals its zygote's would repeat random numbers.
const LAST_PID: &str = "30000";

const COULD_NOT_START: i32 = 77;

/// A worker that is wanted.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) order: u64,
    pub(super) slot: u32,
    pub(super) worker: u64,
    pub(super) into: bool,
    /// Its channel, standard output and standard error, then its groups.
    pub(super) files: Vec<OwnedFd>,
}

/// What the zygote is at.
#[derive(Debug)]
pub(super) struct Asked {
    order: u64,
    pub(super) slot: u32,
    pub(super) worker: u64,
    /// Where the worker hears that its sandbox stands, and says that it is locked down.
    pub(super) sync: OwnedFd,
    /// Whether it was told the first already.
    pub(super) let_in: bool,
    deadline: u64,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Zygote {
    zygote: u64,
    pid: Pid,
    handle: OwnedFd,
    socket: OwnedFd,
    errors: Option<OwnedFd>,
    said: VecDeque<u8>,
    /// When it must be ready; `None` once it is.
    warm_by: Option<u64>,
    waiting: VecDeque<Order>,
    asked: Option<Asked>,
    forks: u32,
    why: Option<String>,
}

/// What a zygote is told, in its own words.
#[derive(Serialize)]
struct Told<'a> {
    filters: &'a [Program],
    rlimits: &'a [(u32, u64)],
    data_hard: u64,
    nice: i32,
    drop_groups: bool,
    warmup: &'a str,
    huge_pages: bool,
}

impl Zygote {
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn errors(&self) -> Option<BorrowedFd<'_>> {
        self.errors.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.warm_by.or_else(|| self.asked.as_ref().map(|asked| asked.deadline))
    }

    pub(super) fn is_late(&self, now: u64) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn queue(&mut self, order: Order) {
        self.waiting.push_back(order);
    }

    /// The next order, if it is at none.
    pub(super) fn next_order(&mut self) -> Option<Order> {
        if self.asked.is_some() { None } else { self.waiting.pop_front() }
    }

    /// Asks for a worker. Where its sandbox is still standing up, whoever forks it lets it in
    /// later: the two take about as long, and need not wait for one another.
    pub(super) fn ask(
        &mut self,
        order: Order,
        init: BorrowedFd<'_>,
        up: Option<Up<'_>>,
        now: u64,
    ) -> io::Result<()> {
        let (sync, theirs) = packet::pair()?;
        if let Some(up) = up {
            up.let_in(sync.as_fd())?;
        }
        let [channel, output, errors, groups @ ..] = &order.files[..] else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut files = vec![init, theirs.as_fd(), channel.as_fd(), output.as_fd(), errors.as_fd()];
        files.extend(groups.iter().map(AsFd::as_fd));
        let message = ForkOrder { order: order.order, clone_into: order.into };
        packet::send(&self.socket, &message, &files)?;
        let Order { order, slot, worker, .. } = order;
        let (let_in, deadline) = (up.is_some(), now + FORK_MAX_MS);
        self.asked = Some(Asked { order, slot, worker, sync, let_in, deadline });
        Ok(())
    }

    /// Keeps the end of what it wrote to standard error.
    pub(super) fn read_errors(&mut self) {
        let Some(errors) = &self.errors else { return };
        let mut bytes = [0; 4096];
        match rustix::io::read(errors, &mut bytes) {
            Ok(read @ 1..) => {
                self.said.extend(&bytes[..read]);
                let over = self.said.len().saturating_sub(ERRORS_KEPT);
                self.said.drain(..over);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => self.errors = None,
        }
    }

    fn kill(&self) {
        // It may have ended, which is what is wanted.
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Why it is gone: what happened, and what it wrote last that still fits a packet.
    fn last_words(&self) -> String {
        const FIT: usize = 2_000;
        let (front, back) = self.said.as_slices();
        let said = [front, back].concat();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(FIT)..]).into_owned();
        let why = self.why.as_deref().unwrap_or("it ended by itself");
        format!("{why}; it wrote: {}", said.trim())
    }
}

impl Keeper {
    /// Starts one; it takes over as soon as it is ready.
    pub(super) fn start_zygote(
        &mut self,
        zygote: u64,
        into: bool,
        groups: &[OwnedFd],
    ) -> Result<(), Failed> {
        self.drop_warming("another one was asked for")?;
        match self.begin_zygote(zygote, into, groups) {
            Ok(warming) => {
                self.warming = Some(warming);
                Ok(())
            }
            Err((step, error)) => {
                let why = format!("{step}: {error}");
                self.say(&FromKeeper::ZygoteGone { zygote, why, served: false }, &[])
            }
        }
    }

    fn begin_zygote(&self, zygote: u64, into: bool, groups: &[OwnedFd]) -> Result<Zygote, Failed> {
        // Older kernels, or a view without it: the worker looks at its number by itself.
        let _ = sys::write_once(Path::new("/proc/sys/kernel/ns_last_pid"), LAST_PID);
        let (ours, theirs) = at_step("making a socket", packet::pair())?;
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let (errors, their_errors) = at_step("making a pipe", pipe)?;
        let lockdown = &self.boot.lockdown;
        let told = Told {
            filters: &lockdown.filters.worker,
            rlimits: &lockdown.limits.numbers,
            data_hard: lockdown.limits.data_hard,
            nice: lockdown.limits.nice,
            drop_groups: self.boot.ids == Ids::Own,
            warmup: &self.boot.zygote.warmup,
            huge_pages: self.boot.zygote.huge_pages,
        };
        let told = at_step("writing its orders", packet::sealed_value(&told))?;
        at_step("sending its orders", packet::send(&ours, &(), &[told.as_fd()]))?;
        let group = groups.first().filter(|_| into).map(AsFd::as_fd);
        let cloned = at_step("forking", sys::clone_process(0, group))?;
        let Cloned::Parent { child, pidfd } = cloned else {
            let groups = if into { &[] } else { groups };
            let (step, error) = self
                .become_zygote(&theirs, &their_errors, groups)
                .map_or_else(|failed| failed, |error| ("starting python".to_owned(), error));
            let text = format!("{step}: {error}\n");
            // Nobody else can be told.
            let _ = rustix::io::write(&their_errors, text.as_bytes());
            sys::end(COULD_NOT_START);
        };
        Ok(Zygote {
            zygote,
            pid: child,
            handle: pidfd,
            socket: ours,
            errors: Some(errors),
            said: VecDeque::new(),
            warm_by: Some(sys::now_ms() + self.boot.zygote.warm_max_ms),
            waiting: VecDeque::new(),
            asked: None,
            forks: 0,
            why: None,
        })
    }

    /// What the fork does until it is Python. Returns only if that failed.
    fn become_zygote(
        &self,
        control: &OwnedFd,
        errors: &OwnedFd,
        groups: &[OwnedFd],
    ) -> Result<io::Error, Failed> {
        for group in groups {
            at_step("joining a control group", rustix::io::write(group, b"0"))?;
        }
        // What it imports may be hostile: the keeper's memory is a file below `/proc`.
        at_step("leaving the keeper's mounts", sys::unshare_mounts())?;
        mounts::hide_processes()?;
        at_step("starting a session", rustix::process::setsid())?;
        at_step("resetting signals", sys::default_signals())?;
        let spec = &self.boot.zygote;
        let texts = |texts: Vec<String>| -> io::Result<Vec<CString>> {
            Ok(texts.into_iter().map(CString::new).collect::<Result<_, _>>()?)
        };
        let mut arguments = vec![spec.python.clone()];
        arguments.extend(spec.arguments.iter().cloned());
        let env = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (arguments, env) = (at_step("reading orders", texts(arguments))?, texts(env));
        let env = at_step("reading orders", env)?;
        for (file, number) in [(errors, 1), (errors, 2), (control, 3)] {
            at_step("placing descriptors", sys::put_at(file.as_fd(), number))?;
        }
        at_step("locking down", self.boot.lockdown.bind_zygote())?;
        let program = arguments[0].clone();
        let arguments: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
        let env: Vec<_> = env.iter().map(CString::as_c_str).collect();
        Ok(sys::exec_path(&program, &arguments, &env))
    }

    /// The one that serves says something.
    pub(super) fn hear_zygote(&mut self) -> Result<(), Failed> {
        let Some(zygote) = &mut self.zygote else { return Ok(()) };
        let said = packet::receive::<FromZygote>(&zygote.socket, RecvFlags::DONTWAIT);
        let asked = match said {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Ok(Some((FromZygote::Forked { order, pid }, _))) => {
                zygote.asked.take_if(|asked| asked.order == order).map(|asked| (asked, Ok(pid)))
            }
            Ok(Some((FromZygote::Failed { order, why }, _))) => {
                zygote.asked.take_if(|asked| asked.order == order).map(|asked| (asked, Err(why)))
            }
            Ok(Some((FromZygote::Ready, _)) | None) | Err(_) => None,
        };
        match asked {
            Some((asked, Ok(pid))) => {
                zygote.forks += 1;
                let look = zygote.forks % FORKS_PER_LOOK == 0;
                let pid_of_zygote = zygote.pid.as_raw_nonzero().get();
                self.worker_forked(asked, pid)?;
                if look && verify::threads(pid_of_zygote) != Some(1) {
                    return self.drop_zygote("it has started threads");
                }
                self.take_over()?;
                self.ask_zygote()
            }
            Some((asked, Err(why))) => {
                self.worker_failed(asked.slot, asked.worker, why)?;
                self.take_over()?;
                self.ask_zygote()
            }
            None => self.drop_zygote("it said what was not asked, or closed its socket"),
        }
    }

    /// The one that warms up says something.
    pub(super) fn hear_warming(&mut self) -> Result<(), Failed> {
        let Some(warming) = &mut self.warming else { return Ok(()) };
        let said = packet::receive::<FromZygote>(&warming.socket, RecvFlags::DONTWAIT);
        match said {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Ok(Some((FromZygote::Ready, _))) => {}
            _ => return self.drop_warming("it ended while it warmed up"),
        }
        // A second thread could hold a lock at a fork, and cannot enter other namespaces.
        if verify::threads(warming.pid.as_raw_nonzero().get()) != Some(1) {
            return self.drop_warming("its imports have started threads");
        }
        warming.warm_by = None;
        self.take_over()
    }

    /// Lets a fresh one serve that is ready, unless the old one is at a worker: nobody is to
    /// notice.
    fn take_over(&mut self) -> Result<(), Failed> {
        let busy = self.zygote.as_ref().is_some_and(|old| old.asked.is_some());
        let Some(mut fresh) = self.warming.take_if(|fresh| !busy && fresh.warm_by.is_none()) else {
            return Ok(());
        };
        let zygote = fresh.zygote;
        if let Some(mut old) = self.zygote.take() {
            // Its workers are ours; what it was not asked yet the fresh one does.
            fresh.waiting.append(&mut old.waiting);
            old.why = Some("a fresh one took over".to_owned());
            self.bury(old)?;
        }
        self.zygote = Some(fresh);
        self.say(&FromKeeper::ZygoteUp { zygote }, &[])?;
        self.ask_zygote()
    }

    /// Kills the one that serves.
    pub(super) fn drop_zygote(&mut self, why: &str) -> Result<(), Failed> {
        let Some(mut zygote) = self.zygote.take() else { return Ok(()) };
        zygote.why = Some(why.to_owned());
        self.bury(zygote)?;
        self.take_over()
    }

    /// Kills the one that warms up.
    pub(super) fn drop_warming(&mut self, why: &str) -> Result<(), Failed> {
        let Some(mut zygote) = self.warming.take() else { return Ok(()) };
        zygote.why = Some(why.to_owned());
        self.bury(zygote)
    }

    /// Kills one and answers what it was asked. It is told when it was reaped.
    fn bury(&mut self, mut zygote: Zygote) -> Result<(), Failed> {
        zygote.kill();
        zygote.read_errors();
        let why = zygote.why.clone().unwrap_or_default();
        if let Some(asked) = zygote.asked.take() {
            self.worker_failed(asked.slot, asked.worker, format!("the zygote is gone: {why}"))?;
        }
        for order in zygote.waiting.drain(..) {
            self.worker_failed(order.slot, order.worker, format!("the zygote is gone: {why}"))?;
        }
        self.dying.push(zygote);
        Ok(())
    }

    /// A zygote was reaped, if it was one.
    pub(super) fn zygote_ended(&mut self, reaped: sys::Reaped) -> Result<bool, Failed> {
        let is = |zygote: &Zygote| zygote.pid.as_raw_nonzero().get() == reaped.pid;
        let ended = format!("it ended (status {:#x})", reaped.status);
        if self.zygote.as_ref().is_some_and(is) {
            self.drop_zygote(&ended)?;
        }
        if self.warming.as_ref().is_some_and(is) {
            self.drop_warming(&ended)?;
        }
        let Some(at) = self.dying.iter().position(is) else { return Ok(false) };
        let mut zygote = self.dying.swap_remove(at);
        while zygote.errors.is_some() {
            let before = zygote.said.len();
            zygote.read_errors();
            if zygote.said.len() == before || zygote.said.len() == ERRORS_KEPT {
                break;
            }
        }
        let why = zygote.last_words();
        let served = zygote.warm_by.is_none();
        self.say(&FromKeeper::ZygoteGone { zygote: zygote.zygote, why, served }, &[])?;
        Ok(true)
    }
}
