//! What is done with files of a sandbox from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::ProviderError;
use sandpit_sandbox::provider::files::{Body, Entry, EntryKind, FileFault, Files, Range, Reading};
use tokio::sync::mpsc;

use crate::support::{Engine, WAIT_MAX};

fn whole(text: &str) -> Body {
    Body::Whole(Bytes::copy_from_slice(text.as_bytes()))
}

fn fault(path: &str, fault: FileFault) -> ProviderError {
    ProviderError::File { path: path.to_owned(), fault }
}

async fn bytes_of(mut reading: Reading) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = reading.pieces.recv().await {
        bytes.extend_from_slice(&piece.expect("the file is read to its end"));
    }
    assert_eq!(bytes.len() as u64, reading.length);
    bytes
}

/// A sandbox, and its files.
struct Place {
    engine: Engine,
    sandbox: SandboxId,
}

impl Place {
    async fn make() -> Self {
        let engine = Engine::start().await;
        let sandbox = engine.create().await;
        Self { engine, sandbox }
    }

    fn files(&self) -> &dyn Files {
        self.engine.provider.files().unwrap()
    }

    async fn sh(&self, line: &str) -> String {
        let ran = self.engine.line(self.sandbox, line).await;
        format!("{}{}", ran.stdout, ran.stderr)
    }

    async fn write(&self, path: &str, text: &str) -> Result<Entry, ProviderError> {
        self.files().write(self.sandbox, path, whole(text), BTreeMap::new()).await
    }

    async fn read(&self, path: &str) -> Result<String, ProviderError> {
        let reading = self.files().read(self.sandbox, path, Range::default());
        let reading = tokio::time::timeout(WAIT_MAX, reading).await.expect("an answer in time")?;
        Ok(String::from_utf8(bytes_of(reading).await).unwrap())
    }

    async fn stat(&self, path: &str) -> Result<Entry, ProviderError> {
        self.files().stat(self.sandbox, path).await
    }

    async fn list(&self, path: &str, depth: u32) -> Result<Vec<String>, ProviderError> {
        let entries = self.files().list(self.sandbox, path, depth).await?;
        Ok(entries.into_iter().map(|entry| entry.path).collect())
    }

    async fn close(self) {
        self.engine.close().await;
    }
}

#[tokio::test]
async fn what_is_written_is_read_by_programs_and_from_outside() {
    let place = Place::make().await;
    for path in ["a.txt", "new/deep/ä \"b\" %20.txt", "~/t", "/tmp/x y"] {
        let entry = place.write(path, "hello").await.unwrap();
        assert_eq!((entry.kind, entry.size, entry.mode), (EntryKind::File, 5, 0o644), "{path}");
        assert_eq!((entry.owner.as_str(), entry.group.as_str()), ("user", "user"));
        assert_eq!(place.read(path).await.unwrap(), "hello");
        assert_eq!(place.sh(&format!("cat '{}'", entry.path)).await, "hello");
    }
    let entry = place.write("a.txt", "").await.unwrap();
    assert_eq!((entry.name.as_str(), entry.path.as_str()), ("a.txt", "/home/user/a.txt"));
    assert_eq!(place.read("a.txt").await.unwrap(), "");
    assert_eq!(place.sh("ls -A /home/user").await, "a.txt\nnew\nt\n");
    place.close().await;
}
