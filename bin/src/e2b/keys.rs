//! Who may use the face: API keys, and the tokens of single sandboxes.
//!
//! Keys are kept in the data directory, readable by the node's user alone. Tokens are kept
//! nowhere: each is made from the node's secret and the sandbox's id whenever it is needed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::e2b::wire::signature::same;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The keys of a data directory, each with the tenant it stands for.
#[derive(Clone)]
pub(crate) struct Keys {
    tenants: BTreeMap<String, Tenant>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.tenants.len())
    }
}

/// What a node writes down for programs of its own user.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    /// Where the face is.
    pub(crate) url: String,
    /// A key of it.
    pub(crate) key: String,
}

impl Keys {
    /// Those of this data directory; where there are none, one is minted.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds something else.
    pub(crate) fn of(data: &Path) -> io::Result<Self> {
        let path = folder(data)?.join("keys.json");
        let texts: BTreeMap<String, String> = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                io::Error::other(format!("{} is damaged: {error}", path.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = format!("e2b_{}", hex(&rand::random::<[u8; 20]>()));
                let keys = BTreeMap::from([(key, Tenant::local().as_str().to_owned())]);
                write(&path, &keys)?;
                keys
            }
            Err(error) => return Err(error),
        };
        let tenant = |(key, name): (String, String)| {
            let tenant = name.parse();
            tenant.map(|tenant| (key, tenant)).map_err(|error| io::Error::other(format!("{error}")))
        };
        let tenants: io::Result<BTreeMap<_, _>> = texts.into_iter().map(tenant).collect();
        Ok(Self { tenants: tenants? })
    }

    /// Whose a key is.
    pub(crate) fn tenant(&self, given: &str) -> Option<&Tenant> {
        // All of them, so that how long it takes tells nothing.
        let compared = self.tenants.iter().map(|(key, tenant)| same(key, given).then_some(tenant));
        compared.fold(None, |found, fits| fits.or(found))
    }

    /// Writes down where the face is and a key of it. Gone when the answer is dropped.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, data: &Path, url: String) -> io::Result<Note> {
        let path = endpoint(data);
        let key = self.tenants.keys().next().cloned().unwrap_or_default();
        write(&path, &Written { url, key })?;
        Ok(Note { path })
    }
}

/// A file that lives as long as this.
#[derive(Debug)]
pub(crate) struct Note {
    path: PathBuf,
}

impl Drop for Note {
    fn drop(&mut self) {
        // One that stays leads to a port where nobody listens: its reader says so.
        fs::remove_file(&self.path).ok();
    }
}

impl Written {
    /// What the node of this data directory wrote; `None` if none serves there.
    pub(crate) fn of(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(endpoint(data)).ok()?;
        serde_json::from_str(&text).ok()
    }
}

fn endpoint(data: &Path) -> PathBuf {
    data.join("e2b/endpoint.json")
}

fn folder(data: &Path) -> io::Result<PathBuf> {
    let folder = data.join("e2b");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// On disk, under its name, readable by its owner alone.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // What an interrupted start left may have other rights.
    fs::remove_file(&fresh).ok();
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// Makes the tokens of sandboxes.
#[derive(Clone)]
pub(super) struct Tokens {
    secret: [u8; 32],
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Other ones with each start of a node: no sandbox outlives it.
    pub(super) fn new() -> Self {
        Self { secret: rand::random() }
    }

    /// What files, processes and cells of a sandbox want to see.
    pub(super) fn access(&self, sandbox: SandboxId) -> String {
        self.made(b'a', sandbox)
    }

    /// What its other ports want to see, if it is closed to strangers.
    pub(super) fn traffic(&self, sandbox: SandboxId) -> String {
        self.made(b't', sandbox)
    }

    /// All parts have fixed lengths, so no two of them are ever hashed as the same bytes.
    fn made(&self, kind: u8, sandbox: SandboxId) -> String {
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update([kind]);
        hash.update(sandbox.as_str());
        hex(&hash.finalize())
    }
}

/// In lower-case digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_minted_once_and_is_its_owners_alone() {
        let data =
            std::env::temp_dir().join(format!("sandpit-keys-{:016x}", rand::random::<u64>()));
        let keys = Keys::of(&data).unwrap();
        let key = keys.tenants.keys().next().unwrap().clone();
        assert!(key.len() == 44 && key.starts_with("e2b_"), "{key}");
        let mode = fs::metadata(data.join("e2b/keys.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Keys::of(&data).unwrap();
        assert_eq!(again.tenant(&key), Some(&Tenant::local()));
        assert_eq!(again.tenant("e2b_"), None);
        let note = again.write(&data, "http://127.0.0.1:1".to_owned()).unwrap();
        assert_eq!(Written::of(&data).map(|written| written.key), Some(key));
        drop(note);
        assert!(Written::of(&data).is_none());
        fs::remove_dir_all(&data).unwrap();
    }

    #[test]
    fn tokens_differ_by_sandbox_and_by_use() {
        let tokens = Tokens::new();
        let (one, two) = (SandboxId::numbered(1), SandboxId::numbered(2));
        assert_eq!(tokens.access(one), tokens.access(one));
        assert_eq!(tokens.access(one).len(), 64);
        assert_ne!(tokens.access(one), tokens.access(two));
        assert_ne!(tokens.access(one), tokens.traffic(one));
        assert_ne!(tokens.access(one), Tokens::new().access(one));
    }
}
