//! A nats-server of its own for every test, in a folder of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sandpit_actors::bus::nats::{Credentials, NatsBus, Options};
use sandpit_actors::clock::Clock;
use sandpit_actors::embed::{self, Embedded};

/// A folder that is gone when the test is done.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cluster-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a folder of its own");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Where all tests keep the one server they fetch.
pub(crate) fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("nats-server")
}

/// The program that becomes the server; a test program cannot.
pub(crate) fn guard() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_sandpit-under-test"))
}

pub(crate) fn embed_options(folder: &Folder) -> embed::Options {
    embed::Options {
        search_path: std::env::var_os("PATH"),
        cache: Some(cache()),
        guard: guard(),
        ..embed::Options::new(folder.path().join("data"))
    }
}

/// A server, and the clock of the test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) embedded: Embedded,
    pub(crate) clock: Clock,
    _folder: Folder,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let clock = Clock::start();
        let folder = Folder::new();
        let started = Embedded::start(embed_options(&folder), clock).await;
        Self { embedded: started.unwrap_or_else(|error| panic!("{error}")), clock, _folder: folder }
    }

    pub(crate) fn options(&self, credentials: &Credentials) -> Options {
        let urls = vec![self.embedded.url().to_owned()];
        Options::new(urls, Some(credentials.clone()), self.clock)
    }

    /// A node's connection.
    pub(crate) async fn node(&self) -> Arc<NatsBus> {
        self.connect(Options { jetstream: true, ..self.options(self.embedded.node()) }).await
    }

    /// A client's.
    pub(crate) async fn client(&self) -> Arc<NatsBus> {
        self.connect(self.options(self.embedded.client())).await
    }

    pub(crate) async fn connect(&self, options: Options) -> Arc<NatsBus> {
        Arc::new(NatsBus::connect(options).await.unwrap_or_else(|error| panic!("{error}")))
    }
}
