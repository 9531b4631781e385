//! Gets wheels from the package index with pip.
//!
//! A wheel is data: nothing in it runs here, neither while it is fetched nor while it is
//! unpacked. Source distributions, whose installation would run their code, are refused.
//! Index, mirror, certificates and proxies are whatever pip is configured for.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

/// Longest that pip may take for one call. A slow line gets 100 MB in this time.
const PIP_TIME_MAX: Duration = Duration::from_mins(15);

/// Bytes of what pip said that are kept for the error.
const SAID_MAX: usize = 2_000;

/// Words in pip's errors that mean it did not reach the index.
const UNREACHABLE: [&str; 8] = [
    "name resolution",
    "Name or service not known",
    "NewConnectionError",
    "ConnectTimeoutError",
    "Connection refused",
    "Network is unreachable",
    "ProxyError",
    "No route to host",
];

/// pip, as a module of an interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pip {
    python: PathBuf,
}

/// Wheels could not be fetched or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// pip did not start.
    #[error("cannot start {}; is it an interpreter that may be executed?", python.display())]
    NotStarted {
        /// What was started.
        python: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The interpreter has no pip.
    #[error(
        "{} has no pip; install it with `sudo apt install python3-pip`, or set `python` to an \
         interpreter that has it",
        python.display()
    )]
    NoPip {
        /// Which interpreter.
        python: PathBuf,
    },
    /// The index was not reached.
    #[error(
        "the package index cannot be reached; tried: {tried}; pip said: {said}; what was fetched \
         before is kept. Connect this machine, or name a mirror it can reach in PIP_INDEX_URL, and \
         start again"
    )]
    Unreachable {
        /// The command.
        tried: String,
        /// The end of what pip said.
        said: String,
    },
    /// pip refused.
    #[error("pip failed with {status}; tried: {tried}; pip said: {said}")]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// The command.
        tried: String,
        /// The end of what pip said.
        said: String,
    },
    /// pip took longer than it may.
    #[error("pip was stopped after {} min; tried: {tried}", PIP_TIME_MAX.as_secs() / 60)]
    TooSlow {
        /// The command.
        tried: String,
    },
    /// Files could not be read or written.
    #[error("cannot use {}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

/// A file of requirements, as pip reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirements<'a> {
    /// All that is needed stands there, pinned and with its hashes. Nothing else is taken.
    Locked(&'a Path),
    /// What they depend on is found out, and is what the index says it is.
    Open(&'a Path),
}

impl<'a> Requirements<'a> {
    /// A file with this text: locked if it has hashes.
    pub fn new(text: &str, file: &'a Path) -> Self {
        if text.contains("--hash=") { Self::Locked(file) } else { Self::Open(file) }
    }

    fn arguments(self) -> Vec<&'a OsStr> {
        let (more, file): (&[&str], _) = match self {
            Self::Locked(file) => (&["--require-hashes", "--no-deps"], file),
            Self::Open(file) => (&[], file),
        };
        let mut arguments = words(&["--only-binary=:all:", "--requirement"]);
        arguments.push(file.as_ref());
        arguments.extend(words(more));
        arguments
    }
}

/// Where packages are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Wherever pip is configured to look.
    #[default]
    Index,
    /// In this folder of wheels, and nowhere else.
    Folder(PathBuf),
}

impl Source {
    fn arguments(&self) -> Vec<&OsStr> {
        match self {
            Self::Index => Vec::new(),
            Self::Folder(folder) => {
                let mut arguments = words(&["--no-index", "--find-links"]);
                arguments.push(folder.as_ref());
                arguments
            }
        }
    }
}

fn words<'a>(words: &'a [&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(OsStr::new).collect()
}

impl Pip {
    /// The pip of an interpreter. Whether it has one shows at the first use.
    pub const fn of(python: PathBuf) -> Self {
        Self { python }
    }

    /// Downloads the wheels of `requirements` into the empty folder `into`. `hear` gets pip's
    /// lines.
    ///
    /// # Errors
    /// Any [`FetchError`]; what is in `into` is then not to be used.
    pub async fn download(
        &self,
        requirements: Requirements<'_>,
        into: &Path,
        hear: impl FnMut(&str) + Send,
    ) -> Result<(), FetchError> {
        let mut arguments = words(&["download", "--retries", "2", "--timeout", "15"]);
        arguments.extend(words(&["--progress-bar", "off", "--dest"]));
        arguments.push(into.as_ref());
        arguments.extend(requirements.arguments());
        self.run(&arguments, hear).await
    }

    /// Unpacks the wheels of `requirements` that lie in the folder `wheels` into `target`. Uses no
    /// network and runs nothing of what it unpacks.
    ///
    /// # Errors
    /// Any [`FetchError`]; what is in `target` is then not to be used.
    pub async fn unpack(
        &self,
        requirements: Requirements<'_>,
        wheels: &Path,
        target: &Path,
    ) -> Result<(), FetchError> {
        let mut arguments = words(&["install", "--no-index", "--no-compile", "--find-links"]);
        arguments.push(wheels.as_ref());
        arguments.push("--target".as_ref());
        arguments.push(target.as_ref());
        arguments.extend(requirements.arguments());
        self.run(&arguments, |_| ()).await
    }

    /// Downloads the wheels of the requirements in the file `wanted`, and of all they depend on,
    /// into the empty folder `into`. What the file `held` pins keeps its version.
    ///
    /// # Errors
    /// Any [`FetchError`]; what is in `into` is then not to be used.
    pub async fn download_on_top(
        &self,
        wanted: &Path,
        held: &Path,
        source: &Source,
        into: &Path,
        hear: impl FnMut(&str) + Send,
    ) -> Result<(), FetchError> {
        let mut arguments = words(&["download", "--retries", "2", "--timeout", "15"]);
        arguments.extend(words(&["--progress-bar", "off", "--only-binary=:all:", "--dest"]));
        arguments.push(into.as_ref());
        arguments.extend(source.arguments());
        arguments.push("--constraint".as_ref());
        arguments.push(held.as_ref());
        arguments.push("--requirement".as_ref());
        arguments.push(wanted.as_ref());
        self.run(&arguments, hear).await
    }

    /// Unpacks exactly these wheels into `target`. Uses no network and runs nothing of what it
    /// unpacks.
    ///
    /// # Errors
    /// Any [`FetchError`]; what is in `target` is then not to be used.
    pub async fn unpack_these(&self, wheels: &[PathBuf], target: &Path) -> Result<(), FetchError> {
        let mut arguments = words(&["install", "--no-index", "--no-compile", "--no-deps"]);
        arguments.extend(words(&["--only-binary=:all:", "--target"]));
        arguments.push(target.as_ref());
        arguments.extend(wheels.iter().map(|wheel| wheel.as_os_str()));
        self.run(&arguments, |_| ()).await
    }

    async fn run(
        &self,
        arguments: &[&OsStr],
        hear: impl FnMut(&str) + Send,
    ) -> Result<(), FetchError> {
        let mut command = Command::new(&self.python);
        command.args(["-I", "-m", "pip", "--no-input", "--disable-pip-version-check"]);
        command.args(arguments);
        let tried = {
            let words = command.as_std().get_args().map(OsStr::to_string_lossy);
            let words: Vec<_> = words.collect();
            format!("{} {}", self.python.display(), words.join(" "))
        };
        let ran = tokio::time::timeout(PIP_TIME_MAX, listen(command, hear)).await;
        let Ok(ended) = ran else { return Err(FetchError::TooSlow { tried }) };
        let (status, said) =
            ended.map_err(|cause| FetchError::NotStarted { python: self.python.clone(), cause })?;
        if status.success() {
            return Ok(());
        }
        if said.contains("No module named pip") {
            return Err(FetchError::NoPip { python: self.python.clone() });
        }
        if UNREACHABLE.iter().any(|words| said.contains(words)) {
            return Err(FetchError::Unreachable { tried, said: last_line(&said) });
        }
        Err(FetchError::Refused { status, tried, said })
    }
}

/// Runs a command to its end. Dropping the future ends the command.
async fn listen(
    mut command: Command,
    mut hear: impl FnMut(&str) + Send,
) -> io::Result<(ExitStatus, String)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let lines = async {
        if let Some(stdout) = stdout {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                hear(line.trim());
            }
        }
    };
    let said = async {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            // What cannot be read is not said; how the command ended is told apart from it.
            let _ = stderr.read_to_end(&mut said).await;
        }
        said
    };
    let ((), said) = tokio::join!(lines, said);
    let status = child.wait().await?;
    let from = said.len().saturating_sub(SAID_MAX);
    let said = said.get(from..).map(String::from_utf8_lossy);
    Ok((status, said.unwrap_or_default().trim().to_owned()))
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}
