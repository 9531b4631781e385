//! What others take for the same, in the same run: plain Python, bubblewrap, a Jupyter kernel. A
//! peer that is not there is named absent; it never fails the run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sandpit_actors::clock::Clock;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Bench, BenchError};
use crate::cli::progress::Stages;
use crate::settings;

/// What the peers' environment holds, beside the packages of `trading`.
const PACKAGES: [&str; 2] = ["jupyter_client==8.6.3", "ipykernel==6.29.5"];
/// Says that pandas is there.
const READY: &str = "import pandas, sys; print('ready', flush=True); sys.stdin.read()";
/// Longest wait for one answer of a peer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Times Jupyter kernels.
const JUPYTER: &str = include_str!("jupyter.py");

/// The peers that are there, and why the others are not.
#[derive(Debug)]
pub(super) struct Peers {
    python: Option<PathBuf>,
    bubblewrap: Option<PathBuf>,
    /// One line each.
    pub(super) absent: Vec<String>,
}

impl Peers {
    /// Looks for them, and makes their environment if that is not there yet.
    pub(super) async fn find(bench: &Bench, install: bool) -> Result<Self, BenchError> {
        let mut absent = Vec::new();
        let place = bench.folder("peers")?;
        let python = match environment(bench, &place).await {
            Ok(python) => Some(python),
            Err(error) => {
                absent.push(format!("python + pandas and jupyter: {error}"));
                None
            }
        };
        if install && on_path("bwrap").is_none() {
            bench.stages.step("installing bubblewrap", None);
            if let Err(error) = install_bubblewrap().await {
                absent.push(format!("bubblewrap could not be installed: {error}"));
            }
        }
        let bubblewrap = on_path("bwrap");
        if bubblewrap.is_none() {
            absent.push("bubblewrap: not on PATH; `--install-peers` installs it".to_owned());
        }
        Ok(Self { python, bubblewrap, absent })
    }

    /// From nothing to a Python with pandas.
    pub(super) async fn python(&self, clock: Clock) -> Option<Result<Duration, BenchError>> {
        let mut command = Command::new(self.python.as_ref()?);
        command.args(["-c", READY]);
        Some(until_ready(command, clock).await)
    }

    /// The same in a bubblewrap sandbox.
    pub(super) async fn bubblewrap(&self, clock: Clock) -> Option<Result<Duration, BenchError>> {
        let python = self.python.as_ref()?;
        let mut command = Command::new(self.bubblewrap.as_ref()?);
        command.args(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]);
        command.args(["--tmpfs", "/tmp", "--unshare-all", "--die-with-parent", "--"]);
        command.arg(python).args(["-c", READY]);
        Some(until_ready(command, clock).await)
    }

    /// A driver of Jupyter kernels.
    pub(super) fn jupyter(&self) -> Option<Result<Jupyter, BenchError>> {
        self.python.as_ref().map(|python| Jupyter::start(python))
    }
}

/// Times Jupyter kernels; what it started ends with it.
#[derive(Debug)]
pub(super) struct Jupyter {
    _process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Jupyter {
    fn start(python: &Path) -> Result<Self, BenchError> {
        let mut command = Command::new(python);
        command.args(["-c", JUPYTER]).kill_on_drop(true).stderr(Stdio::null());
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| BenchError::of("jupyter", &error))?;
        let piped = || BenchError::new("jupyter has no pipes");
        let orders = process.stdin.take().ok_or_else(piped)?;
        let answers = BufReader::new(process.stdout.take().ok_or_else(piped)?).lines();
        Ok(Self { _process: process, orders, answers })
    }

    /// A kernel from nothing to pandas.
    pub(super) async fn cold(&mut self) -> Result<Vec<Duration>, BenchError> {
        self.order("start\n").await
    }

    /// `1+1`, so often.
    pub(super) async fn warm(&mut self, times: u32) -> Result<Vec<Duration>, BenchError> {
        self.order(&format!("run {times}\n")).await
    }

    async fn order(&mut self, line: &str) -> Result<Vec<Duration>, BenchError> {
        let at = |error: std::io::Error| BenchError::of("jupyter", &error);
        self.orders.write_all(line.as_bytes()).await.map_err(at)?;
        let answer = tokio::time::timeout(ANSWER_MAX, self.answers.next_line()).await;
        let answer = answer.map_err(|_| BenchError::new("jupyter did not answer"))?;
        let answer = answer.map_err(at)?.ok_or_else(|| BenchError::new("jupyter ended"))?;
        let millis: Vec<f64> =
            serde_json::from_str(&answer).map_err(|error| BenchError::of("jupyter", &error))?;
        Ok(millis.into_iter().map(|ms| Duration::from_secs_f64(ms / 1e3)).collect())
    }
}

/// From starting it to its word that it is ready.
async fn until_ready(mut command: Command, clock: Clock) -> Result<Duration, BenchError> {
    let at = |error: std::io::Error| BenchError::of("a peer", &error);
    let begun = clock.now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = command.kill_on_drop(true).spawn().map_err(at)?;
    let out = process.stdout.take().ok_or_else(|| BenchError::new("a peer has no pipes"))?;
    let line = tokio::time::timeout(ANSWER_MAX, BufReader::new(out).lines().next_line()).await;
    let took = clock.now().since(begun);
    let line = line.map_err(|_| BenchError::new("a peer did not answer"))?.map_err(at)?;
    // It ends when nobody holds the other end of its standard input.
    drop(process.stdin.take());
    let ended = tokio::time::timeout(ANSWER_MAX, process.wait()).await;
    ended.map_err(|_| BenchError::new("a peer did not end"))?.map_err(at)?;
    match line.as_deref() {
        Some("ready") => Ok(took),
        _ => Err(BenchError::new("a peer did not start")),
    }
}

/// A virtual environment with exactly these packages and what they need, made once.
pub(super) async fn python_with(
    bench: &Bench,
    place: &Path,
    packages: &[&str],
) -> Result<PathBuf, BenchError> {
    let venv = place.join(packages.join("+").replace("==", "-"));
    let (python, ready) = (venv.join("bin/python"), venv.join("ready"));
    if ready.exists() {
        return Ok(python);
    }
    // What an interrupted run left is not trusted; if it was never there, nothing is removed.
    drop(tokio::fs::remove_dir_all(&venv).await);
    let local = &bench.config.provider.local;
    let base = local.python.clone().unwrap_or_else(|| PathBuf::from("python3"));
    let stage = format!("installing {}", packages.join(" and "));
    run(&bench.stages, &stage, |command| command.args(["-m", "venv"]).arg(&venv), &base).await?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(&bench.stages, &stage, |command| command.args(pip).args(packages), &python).await?;
    let marked = tokio::fs::write(&ready, b"").await;
    marked.map_err(|error| BenchError::of("a file", &error))?;
    Ok(python)
}

/// A virtual environment with the packages of `trading` and a Jupyter kernel.
async fn environment(bench: &Bench, place: &Path) -> Result<PathBuf, BenchError> {
    let venv = place.join("venv");
    let (python, ready) = (venv.join("bin/python"), venv.join("ready"));
    if ready.exists() {
        return Ok(python);
    }
    // What an interrupted run left is not trusted; if it was never there, nothing is removed.
    drop(tokio::fs::remove_dir_all(&venv).await);
    let local = &bench.config.provider.local;
    let base = local.python.clone().unwrap_or_else(|| PathBuf::from("python3"));
    let requirements = place.join("requirements.txt");
    let written = tokio::fs::write(&requirements, trading()).await;
    written.map_err(|error| BenchError::of("a file", &error))?;
    run(
        &bench.stages,
        "making the peers' environment",
        |command| command.args(["-m", "venv"]).arg(&venv),
        &base,
    )
    .await?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(
        &bench.stages,
        "installing numpy and pandas for the peers",
        |command| command.args(pip).arg("-r").arg(&requirements),
        &python,
    )
    .await?;
    run(
        &bench.stages,
        "installing jupyter for the peers",
        |command| command.args(pip).args(PACKAGES),
        &python,
    )
    .await?;
    let marked = tokio::fs::write(&ready, b"").await;
    marked.map_err(|error| BenchError::of("a file", &error))?;
    Ok(python)
}

fn trading() -> String {
    let built_in = sandpit_sandbox::local::template::built_in();
    built_in.get("trading").map(|trading| trading.requirements.clone()).unwrap_or_default()
}

async fn install_bubblewrap() -> Result<(), BenchError> {
    let mut command = Command::new("apt-get");
    command.args(["install", "--yes", "--no-install-recommends", "bubblewrap"]);
    succeed(command).await
}

async fn run(
    stages: &Stages,
    stage: &str,
    arguments: impl FnOnce(&mut Command) -> &mut Command,
    program: &Path,
) -> Result<(), BenchError> {
    stages.step(stage, None);
    let mut command = Command::new(program);
    arguments(&mut command);
    succeed(command).await
}

async fn succeed(mut command: Command) -> Result<(), BenchError> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| BenchError::of("a command", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    Err(BenchError::new(format!("{}: {last}", output.status)))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = settings::variable("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(program));
    found.into_iter().find(|file| file.is_file())
}
