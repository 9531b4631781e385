//! The server's configuration: who may do what, and what it may keep. Secrets are in files that
//! only we can read, never on a command line.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;
use sandpit_messages::subject::{
    BANK_REQUESTS, EVENTS, MARKET, OUTPUT, OWNER_REQUESTS, REQUESTS, TEMPLATE_REQUESTS,
};

use super::{EmbedError, StoreLimits};
use crate::bus::nats::Credentials;

/// The user of nodes.
pub const NODE: &str = "node";
/// The user of clients on this machine.
pub const CLIENT: &str = "client";

/// What nodes send and hear. A wildcard is a whole word, so buckets cannot be named by prefix.
const NODE_MAY: &str = r#"["sandpit.>", "sdp.>", "$KV.>", "$O.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$SRV.>", "_R_.>", "_INBOX.>"]"#;
/// The folder of the bus in the data directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    folder: PathBuf,
}

impl Place {
    /// Makes it, or checks that what is there is nobody else's to read.
    pub(super) fn prepare(data: &Path) -> Result<Self, EmbedError> {
        let folder = data.join("bus");
        fs::create_dir_all(data).map_err(|error| EmbedError::file(data, error))?;
        let place = Self { folder };
        private(&place.folder)?;
        private(&place.run())?;
        Ok(place)
    }

    pub(super) fn conf(&self) -> PathBuf {
        self.folder.join("server.conf")
    }

    pub(super) fn endpoint(&self) -> PathBuf {
        self.folder.join("endpoint.json")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Where the server writes its ports.
    pub(super) fn run(&self) -> PathBuf {
        self.folder.join("run")
    }

    fn store(&self) -> PathBuf {
        self.folder.join("js")
    }
}

fn private(folder: &Path) -> Result<(), EmbedError> {
    let failed = |error| EmbedError::file(folder, error);
    if !folder.exists() {
        return DirBuilder::new().mode(0o700).create(folder).map_err(failed);
    }
    let metadata = fs::metadata(folder).map_err(failed)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let why = format!("belongs to user {}, not to us", metadata.uid());
        return Err(failed(std::io::Error::other(why)));
    }
    let mode = metadata.permissions().mode() & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(EmbedError::Open { path: folder.to_owned(), mode }),
    }
}

/// Writes a file that only we can read, whole or not at all.
pub(super) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), EmbedError> {
    let failed = |error| EmbedError::file(path, error);
    let fresh = path.with_extension("new");
    fs::remove_file(&fresh).ok();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh);
    file.and_then(|mut file| file.write_all(bytes)).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

/// Users with passwords of 32 random bytes, made anew at each start.
pub(super) fn credentials() -> [Credentials; 2] {
    [NODE, CLIENT].map(|user| {
        let secret: [u8; 32] = rand::rng().random();
        Credentials { user: user.to_owned(), password: URL_SAFE_NO_PAD.encode(secret) }
    })
}

/// What the configuration is made of.
#[derive(Clone, Debug)]
pub(super) struct Conf {
    pub(super) node: Credentials,
    pub(super) client: Credentials,
    pub(super) store: StoreLimits,
}

impl Conf {
    /// Writes it. `port` is the one it had before, or `None` for any that is free.
    pub(super) fn write(&self, place: &Place, port: Option<u16>) -> Result<(), EmbedError> {
        write_secret(&place.conf(), self.text(place, port).as_bytes())
    }

    fn text(&self, place: &Place, port: Option<u16>) -> String {
        let Self { node, client, store } = self;
        let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let sync = store
            .sync_every
            .map_or_else(|| "always".to_owned(), |every| format!("\"{}ms\"", every.as_millis()));
        let (log, folder) = (quoted(&place.log()), quoted(&place.store()));
        let (memory, disk) = (store.memory_mib, store.disk_mib);
        let user = |Credentials { user, password }: &Credentials, sends: &str, hears: &str| {
            format!(
                "{{ user: {user}, password: \"{password}\", permissions: {{ publish: {sends}, \
                 subscribe: {hears} }} }}"
            )
        };
        let node = user(node, NODE_MAY, NODE_MAY);
        // Its own inboxes, so that it can ask the server for an echo.
        let echo = format!("_INBOX.{CLIENT}.>");
        let [listed, given, taken] = TEMPLATE_REQUESTS;
        let requests = [REQUESTS, BANK_REQUESTS, OWNER_REQUESTS, listed, given, taken];
        let sends = list(&[&requests[..], &["$SRV.>", &echo]].concat());
        // Any inbox, because tools of other makes choose theirs without asking; but not the nodes'.
        let hears = list(&["_INBOX.>", EVENTS, OUTPUT, MARKET]);
        let hears = format!("{{ allow: {hears}, deny: [\"_INBOX.{NODE}.>\"] }}");
        let client = user(client, &sends, &hears);
        format!(
            r#"listen: "127.0.0.1:{port}"
log_file: {log}
logfile_size_limit: 8MB
logfile_max_num: 2
max_payload: 1MB
ping_interval: "10s"
ping_max: 2
write_deadline: "5s"
lame_duck_duration: "30s"
jetstream {{
  store_dir: {folder}
  max_memory_store: {memory}MB
  max_file_store: {disk}MB
  sync_interval: {sync}
}}
accounts {{
  SANDPIT {{
    jetstream: enabled
    users: [
      {node}
      {client}
    ]
  }}
  SYS {{}}
}}
system_account: SYS
"#
        )
    }
}

fn list(subjects: &[&str]) -> String {
    let quoted: Vec<String> = subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// A path as the server reads it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}
