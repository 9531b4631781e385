//! Pausing: everything in a sandbox stands still, and so does its time. What runs goes on where it
//! was when the sandbox is resumed, with the time it had left.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sandpit_messages::id::SandboxId;
use sandpit_messages::time::Moment;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use super::super::control::{FromInit, ToInit};
use super::super::state::Pauses;
use super::super::sys;
use super::link::{Keeper, Skeleton, lock};
use super::provider::failed;
use super::sandbox::Sandbox;
use super::{Engine, LocalProvider};
use crate::provider::{Pausing, ProviderError};

/// Longest it may take until everything stands still; it takes a tenth of a millisecond. Past this
/// a process is stuck in the kernel.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Looks at whether it does without a break: mostly it does by then, and the shortest break is
/// longer than all of them.
const FIRST_LOOKS: u32 = 64;

/// From one look to the next after that.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Whether one sandbox is paused, and its clock.
#[derive(Debug, Default)]
pub(super) struct Pause {
    pauses: watch::Sender<Pauses>,
    /// Held by whoever waits for something inside that would fail if it stood still; taken away
    /// from all of them by a pause.
    moving: Arc<RwLock<()>>,
    still: Mutex<Option<OwnedRwLockWriteGuard<()>>>,
    /// One pause or resumption at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Pause {
    /// Whether it is paused or about to be.
    pub(super) fn is_on(&self) -> bool {
        self.pauses.borrow().is_paused()
    }

    /// What time it is there.
    pub(super) fn now(&self) -> Moment {
        self.pauses.borrow().time(sys::now())
    }

    /// Its clock, to be waited for.
    pub(super) fn clock(&self) -> Clock {
        Clock { pauses: self.pauses.subscribe() }
    }

    fn begin(&self) {
        self.pauses.send_modify(|pauses| pauses.begin(sys::now()));
    }

    fn end(&self) {
        self.pauses.send_modify(|pauses| pauses.end(sys::now()));
        drop(lock(&self.still).take());
    }
}

/// The clock of a sandbox.
#[derive(Debug)]
pub(super) struct Clock {
    pauses: watch::Receiver<Pauses>,
}

impl Clock {
    /// Whether it goes. What is decided by that is to be decided again after [`Self::until`].
    pub(super) fn goes(&mut self) -> bool {
        !self.pauses.borrow_and_update().is_paused()
    }

    /// Waits until `at`, or until the clock stops or goes on since [`Self::goes`] was asked.
    pub(super) async fn until(&mut self, at: Moment) {
        let left = {
            let pauses = self.pauses.borrow();
            (!pauses.is_paused()).then(|| at.since(pauses.time(sys::now())))
        };
        // Its sender is in the sandbox, which whoever waits holds.
        match left {
            Some(left) => drop(tokio::time::timeout(left, self.pauses.changed()).await),
            None => drop(self.pauses.changed().await),
        }
    }

    /// Does `work` within so much time of the sandbox; `None` if it takes longer.
    pub(super) async fn within<T>(
        &mut self,
        pause: &Pause,
        max: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let at = pause.now() + max;
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                () = self.until(at) => if self.goes() && at <= pause.now() {
                    return None;
                }
            }
        }
    }
}

impl Sandbox {
    /// Keeps it from being paused; waits while it is. `None` if it ends, also while it is paused.
    pub(super) async fn keep_moving(&self) -> Option<OwnedRwLockReadGuard<()>> {
        tokio::select! {
            biased;
            _ = self.skeleton.gone() => None,
            guard = Arc::clone(&self.pause.moving).read_owned() => Some(guard),
        }
    }
}

impl Engine {
    /// Pauses a sandbox. Goes on when nobody waits for it, so that nothing is left half-done.
    async fn pause(self: Arc<Self>, sandbox: Arc<Sandbox>) -> Result<(), ProviderError> {
        let _turn = sandbox.pause.turn.lock().await;
        if sandbox.pause.is_on() {
            return Ok(());
        }
        let moving = Arc::clone(&sandbox.pause.moving).write_owned();
        let still = tokio::time::timeout(PAUSE_MAX, moving).await;
        let still = still.map_err(|_| failed("something in it is still being started"))?;
        *lock(&sandbox.pause.still) = Some(still);
        sandbox.pause.begin();
        let frozen = self.stand_still(&sandbox).await;
        // Whatever ended it meanwhile must find it able to end.
        if frozen.is_ok() && sandbox.skeleton.is_usable() {
            return Ok(());
        }
        let undone = self.go_on(&sandbox).await;
        sandbox.pause.end();
        match (frozen, undone) {
            (Err(error), Ok(())) => Err(failed(format!("it does not stand still: {error}"))),
            (Err(error), Err(other)) => Err(failed(format!("{error}; and undoing it: {other}"))),
            (Ok(()), _) => Err(ProviderError::Gone(sandbox.id)),
        }
    }

    async fn resume(self: Arc<Self>, sandbox: Arc<Sandbox>) -> Result<(), ProviderError> {
        let _turn = sandbox.pause.turn.lock().await;
        if !sandbox.pause.is_on() {
            return Ok(());
        }
        self.go_on(&sandbox).await.map_err(failed)?;
        sandbox.pause.end();
        Ok(())
    }

    /// Stops everything in it, and waits until it stands.
    async fn stand_still(&self, sandbox: &Arc<Sandbox>) -> io::Result<()> {
        let skeleton = &sandbox.skeleton;
        let stands = async {
            loop {
                let stands = match off_thread(skeleton, Skeleton::freeze).await {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        // Its init does it, which stops everything but itself.
                        self.halt(skeleton, true).await.map(|moving| moving == 0)
                    }
                    stands => stands,
                };
                if stands? {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let stands = tokio::time::timeout(PAUSE_MAX, stands).await;
        stands.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn go_on(&self, sandbox: &Arc<Sandbox>) -> io::Result<()> {
        match off_thread(&sandbox.skeleton, Skeleton::thaw).await {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.halt(&sandbox.skeleton, false).await.map(drop)
            }
            thawed => thawed,
        }
    }

    /// Has init stop everything, or let it go on; how much of it moves still.
    async fn halt(&self, skeleton: &Skeleton, still: bool) -> io::Result<u32> {
        let command = self.number();
        let mut answers = skeleton.watch_command(command);
        skeleton.order(&ToInit::Halt { command, still }, &[]).await?;
        match answers.recv().await {
            Some(FromInit::Halted { moving, .. }) => Ok(moving),
            Some(_) | None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// A keeper is ending, and with it its sandboxes: those that stand still could not.
    pub(super) fn let_die(&self, keeper: &Keeper) {
        let living: Vec<_> = lock(&self.slots).living.values().cloned().collect();
        for skeleton in living.iter().filter(|one| one.keeper.number == keeper.number) {
            // Where groups cannot freeze nothing is frozen.
            let _ = skeleton.thaw();
        }
    }
}

impl Skeleton {
    /// Has its group stop everything in it; whether it stands after a moment. If not it is to be
    /// told again: under version 1 the kernel tells each process once, and one that went to wait for
    /// its vforked child just then would wait for ever, since that child stands.
    fn freeze(&self) -> io::Result<bool> {
        {
            let mut frozen = lock(&self.frozen);
            // Whoever ends it has let it go on, for the last time.
            if !self.is_usable() {
                return Ok(true);
            }
            *frozen = true;
            self.group.freeze()?;
        }
        for _ in 0..FIRST_LOOKS {
            if self.group.is_frozen()? {
                return Ok(true);
            }
            std::thread::yield_now();
        }
        Ok(false)
    }

    /// Lets everything in it go on. Costs nothing if nothing was stopped.
    pub(super) fn thaw(&self) -> io::Result<()> {
        let mut frozen = lock(&self.frozen);
        if std::mem::take(&mut *frozen) { self.group.thaw() } else { Ok(()) }
    }
}

/// Does what may wait for the kernel where it keeps nobody waiting.
async fn off_thread<T: Send + 'static>(
    skeleton: &Arc<Skeleton>,
    work: impl FnOnce(&Skeleton) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let skeleton = Arc::clone(skeleton);
    tokio::task::spawn_blocking(move || work(&skeleton)).await.map_err(io::Error::other)?
}

#[async_trait]
impl Pausing for LocalProvider {
    async fn pause(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        let sandbox = self.engine.find_paused_too(sandbox)?;
        let engine = Arc::clone(&self.engine);
        tokio::spawn(engine.pause(sandbox)).await.map_err(failed)?
    }

    async fn resume(&self, sandbox: SandboxId) -> Result<(), ProviderError> {
        let sandbox = self.engine.find_paused_too(sandbox)?;
        let engine = Arc::clone(&self.engine);
        tokio::spawn(engine.resume(sandbox)).await.map_err(failed)?
    }
}
