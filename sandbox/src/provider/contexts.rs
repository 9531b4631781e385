//! Interpreters of a sandbox: each keeps variables of its own.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use sandpit_messages::id::SandboxId;

use super::ProviderError;

/// Makes and ends contexts. The default one is always there; cells name another by its id. What
/// runs in one does not wait for what runs in another.
#[async_trait]
pub trait Contexts: Send + Sync {
    /// Makes one that starts in `cwd`; without it in `/home/user`. A folder that is not there is
    /// [`ProviderError::File`].
    async fn create(&self, sandbox: SandboxId, cwd: Option<&str>)
    -> Result<Context, ProviderError>;

    /// All of them, the default one first.
    async fn list(&self, sandbox: SandboxId) -> Result<Vec<Context>, ProviderError>;

    /// Begins one anew: its variables are gone, and what runs in it ends.
    async fn restart(&self, sandbox: SandboxId, context: &ContextId) -> Result<(), ProviderError>;

    /// Ends one. The default one begins anew when it is used next.
    async fn remove(&self, sandbox: SandboxId, context: &ContextId) -> Result<(), ProviderError>;
}

/// Names a context within its sandbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub String);

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An interpreter with variables of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its id.
    pub id: ContextId,
    /// What it understands: `python`.
    pub language: String,
    /// Where it started.
    pub cwd: String,
    /// Whether cells run in it that name none.
    pub is_default: bool,
}

/// Something that a cell shows: one thing in one or more representations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whether it is the value of the cell's last expression.
    pub is_main: bool,
    /// Each representation by its media type, `text/plain` first of all.
    pub data: BTreeMap<String, Media>,
}

/// One representation. What comes out of a sandbox is hostile: nobody renders it but in a frame
/// without rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// Text, JSON among it.
    Text(String),
    /// Of images.
    Bytes(Bytes),
}

/// The media type that every value has.
pub const TEXT: &str = "text/plain";

impl Shown {
    /// The value of a last expression, as text.
    pub fn value(text: impl Into<String>) -> Self {
        let data = BTreeMap::from([(TEXT.to_owned(), Media::Text(text.into()))]);
        Self { is_main: true, data }
    }

    /// Its text, if it has one.
    pub fn text(&self) -> Option<&str> {
        match self.data.get(TEXT) {
            Some(Media::Text(text)) => Some(text),
            Some(Media::Bytes(_)) | None => None,
        }
    }
}
