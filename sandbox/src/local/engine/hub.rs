//! One thread that listens to launcher, keepers and inits, and tells whoever waits.
//!
//! It also starts launchers: an inner process asks the kernel to die with the thread that started
//! it, so that thread must be one that ends with the engine and not before.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::RecvFlags;

use super::super::control::{FromInit, FromKeeper, FromLauncher};
use super::super::packet;
use super::link::{Keeper, Skeleton, Stage, WorkerStage, lock};
use super::template::Template;
use super::{Engine, Job};

/// Events taken in one round.
const EVENTS_MAX: usize = 64;

/// Messages of one socket taken in one round, so that none keeps the others waiting.
const MESSAGES_MAX: usize = 16;

/// Whom a socket leads to.
#[derive(Clone, Debug)]
enum Peer {
    Launcher(Arc<OwnedFd>),
    Keeper(Arc<Keeper>),
    Init(Arc<Skeleton>),
    /// Readable when the engine ends.
    Close(Arc<OwnedFd>),
}

/// Sockets and whom they lead to.
#[derive(Debug)]
pub(super) struct Hub {
    epoll: OwnedFd,
    peers: Mutex<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    by_token: BTreeMap<u64, Peer>,
    last: u64,
}

impl Hub {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, peers: Mutex::default() })
    }

    pub(super) fn add_launcher(&self, socket: Arc<OwnedFd>) -> io::Result<()> {
        self.add(Peer::Launcher(socket))
    }

    pub(super) fn add_keeper(&self, keeper: Arc<Keeper>) -> io::Result<()> {
        self.add(Peer::Keeper(keeper))
    }

    pub(super) fn add_init(&self, skeleton: Arc<Skeleton>) -> io::Result<()> {
        self.add(Peer::Init(skeleton))
    }

    /// Makes the thread look up when `closed` becomes readable.
    pub(super) fn add_close(&self, closed: Arc<OwnedFd>) -> io::Result<()> {
        self.add(Peer::Close(closed))
    }

    fn add(&self, peer: Peer) -> io::Result<()> {
        let mut peers = lock(&self.peers);
        peers.last += 1;
        let token = peers.last;
        let data = EventData::new_u64(token);
        epoll::add(&self.epoll, peer.socket(), data, EventFlags::IN)?;
        peers.by_token.insert(token, peer);
        Ok(())
    }

    fn remove(&self, token: u64) {
        if let Some(peer) = lock(&self.peers).by_token.remove(&token) {
            // It is closed with its last owner in any case.
            let _ = epoll::delete(&self.epoll, peer.socket());
        }
    }

    /// No longer listens to an init.
    pub(super) fn remove_init(&self, slot: u32) {
        let found = lock(&self.peers).by_token.iter().find_map(|(token, peer)| match peer {
            Peer::Init(skeleton) if skeleton.slot == slot => Some(*token),
            _ => None,
        });
        found.into_iter().for_each(|token| self.remove(token));
    }

    fn peer(&self, token: u64) -> Option<Peer> {
        lock(&self.peers).by_token.get(&token).cloned()
    }
}

impl Peer {
    fn socket(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Launcher(socket) | Self::Close(socket) => socket.as_fd(),
            Self::Keeper(keeper) => keeper.socket.as_fd(),
            Self::Init(skeleton) => skeleton.socket.as_fd(),
        }
    }
}

/// Listens until the engine ends.
pub(super) fn run(hub: &Hub, engine: &Weak<Engine>) {
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        match epoll::wait(&hub.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the engine can no longer hear its processes");
                return;
            }
        }
        let Some(engine) = engine.upgrade() else { return };
        for event in &events {
            let token = event.data.u64();
            let Some(peer) = hub.peer(token) else { continue };
            if matches!(peer, Peer::Close(_)) {
                return;
            }
            if !engine.hear(&peer) {
                hub.remove(token);
            }
        }
    }
}

impl Engine {
    /// Takes in what a peer says; false when it is gone.
    fn hear(self: &Arc<Self>, peer: &Peer) -> bool {
        for _ in 0..MESSAGES_MAX {
            let heard = match peer {
                Peer::Launcher(socket) => {
                    packet::receive(socket, RecvFlags::DONTWAIT).map(|message| match message {
                        Some((message, _)) => self.launcher_said(message),
                        None => self.launcher_gone(socket),
                    })
                }
                Peer::Keeper(keeper) => packet::receive(&keeper.socket, RecvFlags::DONTWAIT).map(
                    |message| match message {
                        Some((message, files)) => self.keeper_said(keeper, message, files),
                        // The launcher says when it was reaped, and all below it.
                        None => {
                            self.let_die(keeper);
                            Heard::Gone
                        }
                    },
                ),
                Peer::Init(skeleton) => {
                    packet::receive::<FromInit>(&skeleton.socket, RecvFlags::DONTWAIT).map(
                        |message| match message {
                            Some((message, _)) => {
                                skeleton.command_said(message);
                                Heard::More
                            }
                            // The keeper says when it was reaped, and all below it.
                            None => Heard::Gone,
                        },
                    )
                }
                Peer::Close(_) => Ok(Heard::Gone),
            };
            match heard {
                Ok(Heard::More) => {}
                Ok(Heard::Gone) => return false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    tracing::warn!(%error, "an inner process closed its socket unasked");
                    return false;
                }
            }
        }
        true
    }

    fn launcher_said(self: &Arc<Self>, message: FromLauncher) -> Heard {
        match message {
            FromLauncher::Up => self.launcher_up(),
            FromLauncher::Failed { why, errno } => self.launcher_failed(why, errno),
            FromLauncher::KeeperGone { keeper, status } => self.keeper_gone(keeper, status),
        }
        Heard::More
    }

    fn keeper_said(
        self: &Arc<Self>,
        keeper: &Arc<Keeper>,
        message: FromKeeper,
        files: Vec<OwnedFd>,
    ) -> Heard {
        let handle = files.into_iter().next().map(Arc::new);
        match message {
            FromKeeper::Failed { why } => keeper.template.keeper_failed(why),
            FromKeeper::ZygoteUp { zygote } => self.zygote_up(keeper, zygote),
            FromKeeper::ZygoteGone { zygote, why, served } => {
                self.zygote_gone(keeper, zygote, &why, served);
            }
            FromKeeper::Skeleton { slot } => {
                if let (Some(skeleton), Some(handle)) = (self.skeleton(slot), handle) {
                    skeleton.stage.send_replace(Stage::Up(handle));
                    // It may have been given up while it was built.
                    if skeleton.ending.load(std::sync::atomic::Ordering::Acquire) {
                        skeleton.kill();
                    }
                }
            }
            FromKeeper::SkeletonFailed { slot, why } => {
                tracing::warn!(slot, why, "a sandbox could not be built");
                self.skeleton_gone(slot, &why);
            }
            FromKeeper::InitGone { slot, status } => {
                self.skeleton_gone(slot, &format!("its init ended (status {status:#x})"));
            }
            FromKeeper::Worker { slot, worker, pid } => {
                if let (Some(skeleton), Some(handle)) = (self.skeleton(slot), handle) {
                    skeleton.worker_is(worker, WorkerStage::Verified { pid, handle });
                }
            }
            FromKeeper::WorkerFailed { slot, worker, why, breach } => {
                if breach {
                    self.breach(keeper, &why);
                }
                if let Some(skeleton) = self.skeleton(slot) {
                    skeleton.worker_is(worker, WorkerStage::Failed(Arc::from(why)));
                }
            }
            FromKeeper::WorkerGone { slot, worker, end } => {
                if let Some(skeleton) = self.skeleton(slot) {
                    skeleton.worker_is(worker, WorkerStage::Gone(end));
                }
            }
        }
        Heard::More
    }
}

/// Whether there may be more to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    More,
    Gone,
}

/// How long nothing must have been asked of the engine before spares are made. Making one takes a
/// processor for a millisecond or two: right after a sandbox was wanted the next request is the
/// likeliest, and on a small machine it would wait for that processor.
const QUIET: Duration = Duration::from_millis(10);

/// Does what would keep the hub waiting, one job after the other: what is left of skeletons at
/// once, spares one at a time while it is quiet.
pub(super) fn keep_house(engine: &Weak<Engine>, jobs: &mpsc::Receiver<Job>) {
    let mut short: Vec<Arc<Template>> = Vec::new();
    loop {
        let job = if short.is_empty() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(QUIET)
        };
        let Some(engine) = engine.upgrade() else { return };
        match job {
            Ok(Job::Retire { skeleton, why }) => engine.retire(&skeleton, &why),
            Ok(Job::Spare { template }) => {
                if !short.iter().any(|other| Arc::ptr_eq(other, &template)) {
                    short.push(template);
                }
            }
            Err(RecvTimeoutError::Timeout) => short.retain(|template| engine.fill_spare(template)),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
