//! A nats-server of our own: found or fetched, started on a free port of loopback with passwords
//! nobody chose, restarted when it dies alone, and gone when we are, however we end.

mod child;
mod conf;
mod fetch;
mod find;
mod guard;
mod lock;
mod version;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandpit_messages::time::WallTime;
use tokio::sync::watch;

use crate::bus::nats::Credentials;
use crate::clock::Clock;
pub use child::Life;
pub use conf::{CLIENT, NODE};
pub use fetch::{FetchError, PINNED};
pub use find::{Found, Source};
pub use guard::entry;
pub use lock::{DataLock, LockError};
pub use version::Version;

/// Where to look, and where to keep things.
#[derive(Clone)]
pub struct Options {
    /// The node's data directory.
    pub data: PathBuf,
    /// A nats-server named by the operator; then no other is looked for.
    pub server_path: Option<PathBuf>,
    /// The folders of `PATH`.
    pub search_path: Option<OsString>,
    /// Where a fetched server is kept; `cache` in the data directory if not said.
    pub cache: Option<PathBuf>,
    /// The Python with whose pip it is fetched; `python3` from the search path if not said.
    pub python: Option<PathBuf>,
    /// The program that starts the server and calls [`entry`] first: this one.
    pub guard: PathBuf,
    /// What JetStream may keep in memory and on disk.
    pub store: StoreLimits,
    /// Told what is done, for a progress bar.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("data", &self.data).finish_non_exhaustive()
    }
}

impl Options {
    /// The values that fit a node: this program is its own guard, and nobody watches.
    pub fn new(data: PathBuf) -> Self {
        Self {
            data,
            server_path: None,
            search_path: None,
            cache: None,
            python: None,
            // Names the running program even after its file was replaced.
            guard: PathBuf::from("/proc/self/exe"),
            store: StoreLimits::default(),
            progress: Arc::new(|_| ()),
        }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| self.data.join("cache"))
    }
}

/// What JetStream may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Mebibytes in memory.
    pub memory_mib: u32,
    /// Mebibytes on disk.
    pub disk_mib: u32,
    /// Between syncs to disk; `None` syncs every write.
    pub sync_every: Option<Duration>,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { memory_mib: 256, disk_mib: 2_048, sync_every: Some(Duration::from_secs(10)) }
    }
}

/// What is being done, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The server is being fetched.
    Fetching {
        /// Bytes here.
        bytes: u64,
        /// Of so many.
        total: u64,
    },
    /// It is being checked against its pin and unpacked.
    Unpacking,
    /// It is being started.
    Starting,
}

/// Why there is no server of our own.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// None found and none fetched.
    #[error(
        "no nats-server {}.{} or later: {tried}. Install one, name it in bus.server_path, or set \
         bus.url to one that runs already",
        version::MIN.0, version::MIN.1
    )]
    NotFound {
        /// The four places and what was wrong with each.
        tried: String,
    },
    /// A file or folder is not as it must be.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Secrets lie open.
    #[error(
        "{path} has mode {mode:03o}: others could read the bus's passwords. Run: chmod go= {path}"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It does not start.
    #[error("nats-server did not start: {why}. Its log: {log}")]
    NotStarted {
        /// In one line.
        why: String,
        /// Its file.
        log: PathBuf,
    },
}

impl EmbedError {
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

/// A running server of our own.
#[derive(Debug)]
pub struct Embedded {
    found: Found,
    url: String,
    node: Credentials,
    client: Credentials,
    endpoint: PathBuf,
    child: child::Child,
}

impl Embedded {
    /// Finds or fetches a server and starts it. Returns when it listens; that it also works is
    /// what [`crate::bus::nats::NatsBus::connect`] checks.
    ///
    /// # Errors
    /// [`EmbedError`], naming what was tried and what to do.
    pub async fn start(options: Options, clock: Clock) -> Result<Self, EmbedError> {
        let found = find::find(&options).await?;
        (options.progress)(Progress::Starting);
        let place = conf::Place::prepare(&options.data)?;
        let [node, client] = conf::credentials();
        let conf = conf::Conf { node: node.clone(), client: client.clone(), store: options.store };
        let child = child::Child::start(child::Start {
            server: found.path.clone(),
            guard: options.guard.clone(),
            place: place.clone(),
            conf,
            clock,
        })
        .await?;
        let url = format!("nats://127.0.0.1:{}", child.port());
        let endpoint = place.endpoint();
        let embedded = Self { found, url, node, client, endpoint, child };
        embedded.write_endpoint(clock.both().wall)?;
        Ok(embedded)
    }

    /// Where it listens. The same after it was restarted.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Which server it is, and where it was found.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// As whom this node connects.
    pub fn node(&self) -> &Credentials {
        &self.node
    }

    /// As whom clients on this machine connect.
    pub fn client(&self) -> &Credentials {
        &self.client
    }

    /// The file in which clients find the bus: URL, user and password, readable by us alone.
    pub fn endpoint(&self) -> &Path {
        &self.endpoint
    }

    /// How it is, and every later change. [`Life::GaveUp`] is final.
    pub fn life(&self) -> watch::Receiver<Life> {
        self.child.life()
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match *self.child.life().borrow() {
            Life::Running { pid } => Some(pid),
            _ => None,
        }
    }

    /// Ends it: SIGTERM, and SIGKILL where that does not help. Returns when it is gone.
    pub async fn stop(self) {
        std::fs::remove_file(&self.endpoint).ok();
        self.child.stop().await;
    }

    fn write_endpoint(&self, started: WallTime) -> Result<(), EmbedError> {
        let endpoint = serde_json::json!({
            "url": self.url,
            "user": self.client.user,
            "password": self.client.password,
            "server": self.found.version.to_string(),
            "node_pid": std::process::id(),
            "started": started.rfc3339(),
        });
        conf::write_secret(&self.endpoint, format!("{endpoint:#}\n").as_bytes())
    }
}
