//! Watches of directories. A sandbox has one inotify instance for all of its watches, because a
//! machine has few; jobs add directories to it from inside, and the engine reads it.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::super::job::{Job, Said};
use super::super::sys;
use super::link::lock;
use super::sandbox::Sandbox;
use super::{Engine, job};
use crate::provider::ProviderError;
use crate::provider::files::{Change, ChangeKind, Watching};

mod tree;

use tree::{Effect, Happened, Tree, join};

/// Watches of one sandbox at once.
const WATCHES_MAX: usize = 64;

/// Changes that wait for one who watches. The last place is for the word that more were lost.
const CHANGES_MAX: usize = 4_096;

/// Bytes of events that are read at once.
const EVENTS_BYTES: usize = 16 * 1024;

/// All watches of one sandbox.
#[derive(Debug)]
pub(super) struct Watches {
    places: Arc<Semaphore>,
    /// While somebody watches.
    shared: Mutex<Option<Arc<Shared>>>,
}

impl Default for Watches {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(WATCHES_MAX)), shared: Mutex::default() }
    }
}

/// What they share.
#[derive(Debug)]
struct Shared {
    inotify: AsyncFd<OwnedFd>,
    state: Mutex<State>,
    /// Nobody watches any more.
    over: Notify,
}

#[derive(Debug, Default)]
struct State {
    tree: Tree,
    /// The directory each asked for, and where its changes go.
    watchers: BTreeMap<u64, (String, mpsc::Sender<Result<Change, ProviderError>>)>,
}

/// Begins a watch. `path` is absolute, `asked` what the caller called it.
pub(super) async fn watch(
    engine: &Engine,
    sandbox: &Arc<Sandbox>,
    path: String,
    asked: &str,
    recursive: bool,
) -> Result<Watching, ProviderError> {
    let place = Arc::clone(&sandbox.io.watches.places).try_acquire_owned().map_err(|_| {
        let what = format!("watches of the sandbox: {WATCHES_MAX} at most");
        ProviderError::Quota { what }
    })?;
    let (changes, watching) = mpsc::channel(CHANGES_MAX);
    let number = engine.number();
    let shared = join_in(engine, sandbox, number, &path, recursive, changes.clone())?;
    let leaving = Leaving { sandbox: Arc::clone(sandbox), number, _place: place };
    let found = look(sandbox, &shared, number, "", &path, recursive, false).await;
    found.map_err(|errno| match errno {
        NotLooked::Errno(libc::ENOSPC) => {
            ProviderError::Quota { what: "directories that can be watched".to_owned() }
        }
        NotLooked::Errno(errno) => job::fault(errno, asked),
        NotLooked::Because(error) => error,
    })?;
    let gone = Arc::clone(&sandbox.skeleton);
    engine.runtime.spawn(async move {
        let leaving = leaving;
        tokio::select! {
            () = changes.closed() => {}
            _ = gone.gone() => {}
        }
        drop(leaving);
    });
    Ok(watching)
}

/// Counts one more in, and begins to read if it is the first.
fn join_in(
    engine: &Engine,
    sandbox: &Arc<Sandbox>,
    number: u64,
    path: &str,
    recursive: bool,
    changes: mpsc::Sender<Result<Change, ProviderError>>,
) -> Result<Arc<Shared>, ProviderError> {
    let mut shared = lock(&sandbox.io.watches.shared);
    let shared = match &*shared {
        Some(shared) => Arc::clone(shared),
        None => {
            let made = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
            let inotify = made.map_err(io::Error::from).and_then(sys::listen_to).map_err(|_| {
                let what = "watches of this machine (fs.inotify.max_user_instances)".to_owned();
                ProviderError::Quota { what }
            })?;
            let made = Arc::new(Shared { inotify, state: Mutex::default(), over: Notify::new() });
            engine.runtime.spawn(read(Arc::clone(sandbox), Arc::clone(&made)));
            Arc::clone(shared.insert(made))
        }
    };
    let mut state = lock(&shared.state);
    state.tree.add(number, recursive);
    state.watchers.insert(number, (path.to_owned(), changes));
    drop(state);
    Ok(shared)
}

/// Ends a watch.
struct Leaving {
    sandbox: Arc<Sandbox>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut shared = lock(&self.sandbox.io.watches.shared);
        let Some(ours) = shared.clone() else { return };
        let mut state = lock(&ours.state);
        state.watchers.remove(&self.number);
        for effect in state.tree.remove(self.number) {
            if let Effect::Forget { number } = effect {
                forget(&ours, number);
            }
        }
        if state.tree.is_empty() {
            *shared = None;
            ours.over.notify_one();
        }
    }
}

fn forget(shared: &Shared, number: i32) {
    // The directory may be gone, which is as good.
    let _ = inotify::remove_watch(shared.inotify.get_ref(), number);
}

/// Reads events until nobody watches, or the sandbox is gone.
async fn read(sandbox: Arc<Sandbox>, shared: Arc<Shared>) {
    loop {
        let events = tokio::select! {
            events = shared.inotify.async_io(Interest::READABLE, read_some) => events,
            () = shared.over.notified() => return,
            _ = sandbox.skeleton.gone() => return,
        };
        let Ok(events) = events else { return };
        for event in events {
            let effects = decide(&mut lock(&shared.state).tree, &event);
            for effect in effects {
                carry_out(&sandbox, &shared, effect).await;
            }
        }
    }
}

/// An event as the kernel tells it.
struct Event {
    number: i32,
    flags: ReadFlags,
    cookie: u32,
    name: String,
}

fn read_some(file: &OwnedFd) -> io::Result<Vec<Event>> {
    let mut space = [MaybeUninit::uninit(); EVENTS_BYTES];
    let mut reader = inotify::Reader::new(file, &mut space);
    let mut events = Vec::new();
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
        events.push(Event {
            number: event.wd(),
            flags: event.events(),
            cookie: event.cookie(),
            name: name.unwrap_or_default(),
        });
        if reader.is_buffer_empty() {
            return Ok(events);
        }
    }
}

fn decide(tree: &mut Tree, event: &Event) -> Vec<Effect> {
    let Event { number, flags, cookie, name } = event;
    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
        return tree.overflowed();
    }
    if flags.contains(ReadFlags::IGNORED) {
        tree.ignored(*number);
        return Vec::new();
    }
    let all = [
        (ReadFlags::CREATE, Happened::Created),
        (ReadFlags::MOVED_TO, Happened::MovedIn(*cookie)),
        (ReadFlags::MOVED_FROM, Happened::MovedOut(*cookie)),
        (ReadFlags::MODIFY, Happened::Written),
        (ReadFlags::DELETE, Happened::Removed),
        (ReadFlags::ATTRIB, Happened::Changed),
    ];
    let happened = all.into_iter().find(|(flag, _)| flags.contains(*flag));
    match happened {
        // What happens to a watched directory itself is told by the one it is in.
        Some((_, happened)) if !name.is_empty() => {
            tree.happened(*number, name, flags.contains(ReadFlags::ISDIR), happened)
        }
        _ => Vec::new(),
    }
}

async fn carry_out(sandbox: &Arc<Sandbox>, shared: &Arc<Shared>, effect: Effect) {
    match effect {
        Effect::Tell { watcher, name, kind } => tell(shared, watcher, name, kind),
        Effect::Forget { number } => forget(shared, number),
        Effect::Look { watcher, below } => {
            let top = lock(&shared.state).watchers.get(&watcher).map(|(path, _)| path.clone());
            let Some(top) = top else { return };
            let path = format!("{}/{below}", top.trim_end_matches('/'));
            match look(sandbox, shared, watcher, &below, &path, true, true).await {
                Ok(found) => {
                    for name in found {
                        tell(shared, watcher, name, ChangeKind::Created);
                    }
                }
                // It is gone already, or has become something else.
                Err(NotLooked::Errno(libc::ENOENT | libc::ENOTDIR)) => {}
                Err(_) => tell(shared, watcher, String::new(), ChangeKind::Lost),
            }
        }
    }
}

/// Tells one who watches; what does not fit is lost, which is told once.
fn tell(shared: &Shared, watcher: u64, name: String, kind: ChangeKind) {
    let changes = lock(&shared.state).watchers.get(&watcher).map(|(_, changes)| changes.clone());
    let Some(changes) = changes else { return };
    let change = match changes.capacity() {
        0 => return,
        1 => Change { name: String::new(), kind: ChangeKind::Lost },
        _ => Change { name, kind },
    };
    // It may have gone.
    let _ = changes.try_send(Ok(change));
}

/// Why a directory was not looked into.
enum NotLooked {
    Errno(i32),
    Because(ProviderError),
}

impl From<ProviderError> for NotLooked {
    fn from(error: ProviderError) -> Self {
        Self::Because(error)
    }
}

/// Has a directory watched; answers with what is in it already, if that is wanted. Nothing is
/// read meanwhile where this is called by the reader, so no event of a directory comes before its
/// name is known.
async fn look(
    sandbox: &Arc<Sandbox>,
    shared: &Shared,
    watcher: u64,
    below: &str,
    path: &str,
    recursive: bool,
    tell: bool,
) -> Result<Vec<String>, NotLooked> {
    let wanted = Job::Watch { path: path.to_owned(), recursive, tell };
    let mut work = job::begin(sandbox, &wanted, Some(shared.inotify.get_ref())).await?;
    let mut all = Vec::new();
    let named = |name: &str| match name {
        "" => below.to_owned(),
        name => join(below, name),
    };
    loop {
        match work.answer().await? {
            Said::Watched(directories) => {
                let mut state = lock(&shared.state);
                for (number, name) in directories {
                    state.tree.watches(watcher, number, named(&name));
                }
            }
            Said::Found(names) => all.extend(names.iter().map(|name| named(name))),
            Said::Done => return Ok(all),
            Said::Failed { errno, .. } => return Err(NotLooked::Errno(errno)),
            _ => return Err(NotLooked::Because(job::another_question())),
        }
    }
}
