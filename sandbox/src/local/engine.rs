//! The engine: starts the processes that hold sandboxes, and is the [`Provider`] of them.
//!
//! What is waited for arrives on one thread, the hub; what may take long is done on another, the
//! housekeeper. Executions run on whatever runtime calls, which is never blocked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::Duration;

use sandpit_messages::id::SandboxId;
use sandpit_messages::sandbox::LimitsEnforced;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};

use super::cgroup::{Backend, GroupLimits, Stock};
use super::control::{Boot, GuardianBoot};
use super::entry;
use super::host::{self, Launcher};
use super::lockdown::rlimits::SumHeldBy;
use super::lockdown::seccomp::ZygoteClone;
use super::mode::{self, Cause};
use super::options::Options;
use super::packet;
use super::plan::{Ids, SLOTS_MAX};
use super::probe;
use super::state::Restarts;
use super::template::TemplateError;
use super::template::interpreter::{Interpreter, NoInterpreter};
use super::template::library::Library;
use crate::provider::{Ending, Limits};

mod contexts;
mod files;
mod hub;
mod job;
mod layer;
mod life;
mod link;
mod pause;
mod ports;
mod prepare;
mod processes;
mod provider;
mod run;
mod sandbox;
mod template;
mod watchdog;
mod watches;

use hub::Hub;
use link::{Skeleton, lock};
use sandbox::Entry;
use template::Template;

/// Endings that a listener may be behind.
const ENDINGS_KEPT: usize = 1024;

/// Longest the first inner processes may take. They take about 30 ms.
const START_MAX: Duration = Duration::from_secs(10);

/// Bytes of memory in a MiB.
const MIB: u64 = 1024 * 1024;

/// The local engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No Python.
    #[error(transparent)]
    Interpreter(#[from] NoInterpreter),
    /// The store cannot be made.
    #[error("cannot make the folder {}; choose another with the setting `store`", path.display())]
    Store {
        /// Which folder.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The templates that are kept there cannot be.
    #[error(transparent)]
    Library(#[from] TemplateError),
    /// A thread, a socket or the copy of the program could not be made.
    #[error("cannot {what}")]
    Host {
        /// What failed.
        what: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The machine does not have what holds sandboxes apart, and it is known why.
    #[error("no sandbox can be built on this machine [{}]: {cause}; next: {}", cause.code(), cause.next())]
    Impossible {
        /// Why.
        cause: Cause,
    },
    /// The machine refused what holds sandboxes apart, and nothing known says why.
    #[error(
        "this machine does not let sandboxes be built: {why}; `sandpit doctor` says what to do"
    )]
    Refused {
        /// Which step, and the error.
        why: String,
        /// The number of the error; 0 when there is none.
        errno: i32,
    },
}

/// Sandboxes on this machine.
///
/// Cheap to clone. When the last one is dropped every sandbox dies; [`LocalProvider::close`] also
/// waits for that and removes what is left of it.
#[derive(Clone, Debug)]
pub struct LocalProvider {
    engine: Arc<Engine>,
    _open: Arc<Open>,
}

/// Ends the engine when nobody uses it any more.
struct Open {
    engine: Arc<Engine>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Open")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.engine.shut();
    }
}

/// What the housekeeper does.
#[derive(Debug)]
enum Job {
    /// Removes what is left of a skeleton that is gone.
    Retire { skeleton: Arc<Skeleton>, why: Arc<str> },
    /// Orders spare skeletons.
    Spare { template: Arc<Template> },
}

/// How the launcher is.
#[derive(Clone, Debug)]
enum LauncherStage {
    Starting,
    Up,
    Gone { why: Arc<str>, errno: i32 },
}

/// Numbers of sandboxes.
#[derive(Debug, Default)]
struct Slots {
    living: BTreeMap<u32, Arc<Skeleton>>,
    /// Taken, and not a skeleton yet; or never to be used again.
    reserved: BTreeSet<u32>,
}

#[derive(Debug)]
struct Engine {
    options: Options,
    interpreter: Interpreter,
    ids: Ids,
    image: OwnedFd,
    /// How limits hold here.
    enforced: LimitsEnforced,
    held_by: SumHeldBy,
    zygote_clone: ZygoteClone,
    /// Taken away when the engine is closed.
    stock: RwLock<Option<Stock>>,
    hub: Arc<Hub>,
    jobs: mpsc::Sender<Job>,
    spawns: mpsc::Sender<()>,
    launcher: Mutex<Option<Arc<OwnedFd>>>,
    launcher_stage: watch::Sender<LauncherStage>,
    launcher_restarts: Mutex<Restarts>,
    /// What of the host the launcher was shown, by name.
    shown: Mutex<BTreeSet<String>>,
    closing: AtomicBool,
    /// Its other end tells the hub that the engine is gone.
    _alive: OwnedFd,
    /// Its other end tells the watchdog.
    _watched: mpsc::Sender<()>,
    templates: Mutex<BTreeMap<String, Arc<Template>>>,
    /// One preparation at a time.
    preparing: tokio::sync::Mutex<()>,
    /// Templates that are not in the settings.
    library: Mutex<Library>,
    /// Layers being built, and who waits for them.
    builds: Mutex<layer::Builds>,
    slots: Mutex<Slots>,
    sandboxes: Mutex<BTreeMap<SandboxId, Arc<Entry>>>,
    endings: broadcast::Sender<Ending>,
    numbers: AtomicU64,
    /// What lives longer than the call that began it, as processes do, is watched here.
    runtime: Handle,
}

impl LocalProvider {
    /// Starts the engine: finds Python, starts the processes that hold sandboxes, waits until
    /// they serve. Takes about 50 ms, and half a second more the first time.
    ///
    /// The program that is started is `launcher`'s; its `main` must begin with
    /// [`super::entry`]. Groups that dead engines left are removed on the way.
    ///
    /// # Errors
    /// [`StartError`]; nothing of it is left running.
    pub async fn start(mut options: Options, launcher: Launcher) -> Result<Self, StartError> {
        let store = options.store.clone();
        let made = make_store(&store).and_then(|()| std::path::absolute(&store));
        options.store = made.map_err(|cause| StartError::Store { path: store, cause })?;
        let store = &options.store;
        let memory = store.join("interpreter.json");
        let interpreter = Interpreter::recall(options.python.as_deref(), &memory).await?;
        let at = |what| move |cause| StartError::Host { what, cause };
        let (uid_base, prober) = (options.uid_base, launcher.clone());
        let image = tokio::task::spawn_blocking(move || launcher.image())
            .await
            .map_err(io::Error::other)
            .and_then(|image| image)
            .map_err(at("copy the program that holds sandboxes"))?;
        let engine = Engine::build(options, interpreter, image)?;
        let open = Arc::new(Open { engine: Arc::clone(&engine) });
        let provider = Self { engine: Arc::clone(&engine), _open: open };
        engine.ask_for_launcher();
        let mut stage = engine.launcher_stage.subscribe();
        let settled = stage.wait_for(|stage| !matches!(stage, LauncherStage::Starting));
        // Late or not, the stage says what there is to say.
        let _ = tokio::time::timeout(START_MAX, settled).await.map(drop);
        let settled = engine.launcher_stage.borrow().clone();
        match settled {
            LauncherStage::Up => Ok(provider),
            LauncherStage::Gone { why, errno } => {
                let facts = probe::gather(uid_base, &prober).await;
                Err(match facts.ok().and_then(|facts| mode::choose(&facts).err()) {
                    Some(cause) => StartError::Impossible { cause },
                    None => StartError::Refused { why: why.to_string(), errno },
                })
            }
            LauncherStage::Starting => {
                Err(StartError::Refused { why: "it did not start in time".to_owned(), errno: 0 })
            }
        }
    }

    /// Destroys every sandbox, ends all inner processes, removes their control groups. What it
    /// could not remove the next start removes.
    pub async fn close(self) {
        self.engine.shut();
        let mut stage = self.engine.launcher_stage.subscribe();
        let gone = stage.wait_for(|stage| matches!(stage, LauncherStage::Gone { .. }));
        // Past this the kernel is stuck with a process, and nothing more can be done about it.
        let _ = tokio::time::timeout(START_MAX, gone).await;
        let engine = Arc::clone(&self.engine);
        drop(self);
        // Blocks for a few milliseconds per group.
        let _ = tokio::task::spawn_blocking(move || engine.remove_groups()).await;
    }
}

fn make_store(store: &Path) -> io::Result<()> {
    if store.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(store)?;
    // The umask must not close it to the ids of sandboxes.
    fs::set_permissions(store, fs::Permissions::from_mode(0o755))
}

impl Engine {
    fn build(
        options: Options,
        interpreter: Interpreter,
        image: OwnedFd,
    ) -> Result<Arc<Self>, StartError> {
        let library = Library::open(&options.store)?;
        let at = |what| move |cause| StartError::Host { what, cause };
        let root = rustix::process::geteuid().is_root();
        let ids = if root { Ids::Own } else { Ids::Shared };
        let word = format!("{}-{}", options.node, std::process::id());
        let owner = root.then_some(options.uid_base);
        let backend = Backend::detect(options.cgroup, &word, owner);
        let usual = options
            .templates
            .values()
            .next()
            .map_or(Limits { memory_mb: 512, cpu_count: 1 }, |template| template.limits);
        let usual = group_limits(usual, options.bounds.pids);
        let hub = Arc::new(Hub::new().map_err(at("watch its processes"))?);
        let (closed, alive) = packet::pair().map_err(at("make a socket"))?;
        hub.add_close(Arc::new(closed)).map_err(at("watch its processes"))?;
        let (jobs, todo) = mpsc::channel();
        let (spawns, wanted) = mpsc::channel();
        let (watched, gone) = mpsc::channel();
        let engine = Arc::new(Self {
            options,
            interpreter,
            ids,
            image,
            enforced: backend.enforced(),
            held_by: match backend.why_none() {
                None => SumHeldBy::Groups,
                Some(why) => {
                    tracing::warn!(why, "sandboxes are not held by control groups");
                    SumHeldBy::Watchdog
                }
            },
            zygote_clone: match backend.name() {
                "v2" => ZygoteClone::IntoGroup,
                _ => ZygoteClone::Legacy,
            },
            stock: RwLock::new(Some(Stock::new(backend, usual))),
            hub: Arc::clone(&hub),
            jobs,
            spawns,
            launcher: Mutex::new(None),
            launcher_stage: watch::Sender::new(LauncherStage::Starting),
            launcher_restarts: Mutex::new(Restarts::new()),
            shown: Mutex::default(),
            closing: AtomicBool::new(false),
            _alive: alive,
            _watched: watched,
            templates: Mutex::default(),
            preparing: tokio::sync::Mutex::default(),
            library: Mutex::new(library),
            builds: Mutex::default(),
            slots: Mutex::default(),
            sandboxes: Mutex::default(),
            endings: broadcast::Sender::new(ENDINGS_KEPT),
            numbers: AtomicU64::new(0),
            runtime: Handle::current(),
        });
        let start = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
        };
        let weak = Arc::downgrade(&engine);
        start("sandpit-hub", Box::new(move || hub::run(&hub, &weak)))
            .map_err(at("start a thread"))?;
        let weak = Arc::downgrade(&engine);
        start("sandpit-keeps-house", Box::new(move || hub::keep_house(&weak, &todo)))
            .map_err(at("start a thread"))?;
        let weak = Arc::downgrade(&engine);
        start(
            "sandpit-starts-launchers",
            Box::new(move || {
                while wanted.recv().is_ok() {
                    let Some(engine) = weak.upgrade() else { return };
                    engine.spawn_launcher();
                }
            }),
        )
        .map_err(at("start a thread"))?;
        if engine.held_by == SumHeldBy::Watchdog {
            let weak = Arc::downgrade(&engine);
            start("sandpit-watches-memory", Box::new(move || watchdog::watch(&weak, &gone)))
                .map_err(at("start a thread"))?;
        }
        Ok(engine)
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Does something with the groups; `None` once the engine is closed.
    fn stock<T>(&self, body: impl FnOnce(&Stock) -> T) -> Option<T> {
        self.stock.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(body)
    }

    /// Most sandboxes at once.
    fn sandboxes_max(&self) -> usize {
        self.options.sandboxes_max.min(usize::try_from(SLOTS_MAX).unwrap_or(usize::MAX))
    }

    /// Has a launcher started by the one thread that may.
    fn ask_for_launcher(&self) {
        self.launcher_stage.send_replace(LauncherStage::Starting);
        // The thread ends with the engine only.
        let _ = self.spawns.send(());
    }

    fn spawn_launcher(&self) {
        if let Err(error) = self.try_spawn_launcher() {
            let why = format!("starting the first inner process: {error}");
            self.launcher_failed(why, error.raw_os_error().unwrap_or(0));
        }
    }

    fn try_spawn_launcher(&self) -> io::Result<()> {
        let uid_base = (self.ids == Ids::Own).then_some(self.options.uid_base);
        let sources = host::sources(&self.options, &self.interpreter);
        *lock(&self.shown) = sources.iter().map(|source| source.name.clone()).collect();
        let groups = self.stock(|stock| stock.backend().folders()).unwrap_or_default();
        let boot = Boot::Guardian(GuardianBoot { uid_base, sources, groups });
        let (ours, theirs) = packet::pair()?;
        let stdin = entry::prepare(&boot, &[theirs.as_fd(), self.image.as_fd()])?;
        drop(theirs);
        let program = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.image));
        let child = Command::new(program)
            .arg0("init")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal is for the program, which ends its sandboxes in order.
            .process_group(0)
            .spawn()?;
        let ours = Arc::new(ours);
        *lock(&self.launcher) = Some(Arc::clone(&ours));
        self.hub.add_launcher(ours)?;
        if self.closing.load(Ordering::Acquire) {
            self.shut();
        }
        wait_elsewhere(child)
    }

    /// Ends everything; returns at once.
    fn shut(&self) {
        self.closing.store(true, Ordering::Release);
        if let Some(launcher) = &*lock(&self.launcher) {
            // Both ends hear of it: the guardian kills the launcher, and it ends by itself.
            let _ = rustix::net::shutdown(launcher, rustix::net::Shutdown::Both);
        }
    }
}

/// Reaps the guardian when it ends.
fn wait_elsewhere(mut child: std::process::Child) -> io::Result<()> {
    let wait = move || {
        // Whatever it ended with, its socket has told more.
        let _ = child.wait();
    };
    thread::Builder::new().name("sandpit-waits".to_owned()).spawn(wait).map(drop)
}

/// Limits of a group that holds a sandbox.
fn group_limits(limits: Limits, pids: u32) -> GroupLimits {
    GroupLimits {
        memory: u64::from(limits.memory_mb) * MIB,
        pids,
        cpu_milli: limits.cpu_count.saturating_mul(1000),
    }
}
