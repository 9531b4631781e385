//! Makes an environment: downloads wheels, unpacks them, compiles them, renames the folder into
//! its place. Nothing of a package runs on the way (ADR 004).

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::interpreter::{Interpreter, PipSource};
use super::{INSIDE_ENVIRONMENT, INSIDE_PYTHON, Template, TemplateError, store_error, wheels};
use crate::fetch::{Pip, Requirements};
use crate::provider::Progress;

/// How often a builder that waits for another looks again.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Shares of the whole work after each stage, as measured on a line of 50 Mbit/s.
pub(super) const DOWNLOADED: f64 = 0.6;
pub(super) const UNPACKED: f64 = 0.75;
pub(super) const COMPILED: f64 = 0.98;

/// Bytes of what a failed step said that are kept.
const SAID_MAX: usize = 2_000;

/// Builds the environment `name` in `environments`, unless another builder did meanwhile.
pub(super) async fn build(
    environments: &Path,
    name: &str,
    interpreter: &Interpreter,
    requirements: &str,
    progress: &Progress,
) -> Result<(), TemplateError> {
    once(environments, name, progress, async |work| {
        fill(work, interpreter, requirements, progress).await
    })
    .await
}

/// Builds the environment `name` out of the one below and the wheels on top of it.
pub(super) async fn extend(
    environments: &Path,
    name: &str,
    below: &Template,
    wheels: &[PathBuf],
    progress: &Progress,
) -> Result<(), TemplateError> {
    once(environments, name, progress, async |work| {
        wheels::put_on_top(work, below, wheels, progress).await
    })
    .await
}

/// Has `fill` make `env` in a folder, and moves it into its place, unless another builder did
/// meanwhile.
async fn once(
    environments: &Path,
    name: &str,
    progress: &Progress,
    fill: impl AsyncFnOnce(&Path) -> Result<(), TemplateError>,
) -> Result<(), TemplateError> {
    make_shared_folder(environments).map_err(store_error(environments))?;
    let _lock = lock(&environments.join(format!("{name}.lock")), progress).await?;
    let place = environments.join(name);
    if place.exists() {
        return Ok(());
    }
    let work = environments.join(format!("{name}.{}.tmp", std::process::id()));
    clear_away(environments, name).map_err(store_error(environments))?;
    let filled = fill(&work).await;
    let finished = match filled {
        Ok(()) => {
            progress.say("moving the environment into its place", Some(COMPILED));
            let (from, to) = (work.clone(), place.clone());
            off_thread(move || finish(&from, &to)).await.map_err(store_error(&place))
        }
        Err(error) => Err(error),
    };
    if finished.is_err() {
        // The error to tell is the first one; what stays is cleared away by the next builder.
        let _ = off_thread(move || fs::remove_dir_all(work)).await;
    }
    finished
}

/// Fills the folder `work`.
async fn fill(
    work: &Path,
    interpreter: &Interpreter,
    requirements: &str,
    progress: &Progress,
) -> Result<(), TemplateError> {
    let environment = work.join("env");
    let packages = environment.join("lib").join(interpreter.name()).join("site-packages");
    fs::create_dir_all(&packages).map_err(store_error(&packages))?;
    lay_out(&environment, interpreter).map_err(store_error(&environment))?;
    if requirements.trim().is_empty() {
        return Ok(());
    }
    let (file, wheels) = (work.join("requirements.txt"), work.join("wheels"));
    fs::write(&file, requirements).map_err(store_error(&file))?;
    fs::create_dir(&wheels).map_err(store_error(&wheels))?;
    let pip = pip(interpreter, work).await?;

    let listed = Requirements::new(requirements, &file);
    let mut share = Downloads::of(requirements);
    let hear = |line: &str| {
        if let Some(stage) = share.hear(line) {
            progress.say(&stage, Some(share.done() * DOWNLOADED));
        }
    };
    progress.say("downloading packages", Some(0.0));
    pip.download(listed, &wheels, hear).await.map_err(TemplateError::Packages)?;

    progress.say("unpacking packages", Some(DOWNLOADED));
    pip.unpack(listed, &wheels, &packages).await.map_err(TemplateError::Packages)?;
    move_scripts(&packages.join("bin"), &environment.join("bin"))
        .map_err(store_error(&packages))?;
    write_lock(&wheels, &environment.join("lock.txt")).map_err(store_error(&wheels))?;

    progress.say("compiling packages", Some(UNPACKED));
    compile(interpreter, &environment).await
}

/// The interpreter's own pip, or one that it unpacks beside the environment.
pub(super) async fn pip(interpreter: &Interpreter, work: &Path) -> Result<Pip, TemplateError> {
    match interpreter.pip {
        PipSource::Own => Ok(Pip::of(interpreter.executable.clone())),
        PipSource::Bundled => {
            let tools = work.join("tools");
            let arguments = ["-I", "-m", "venv"].map(Into::into);
            let arguments = arguments.into_iter().chain([tools.clone()]);
            run(interpreter, arguments, "unpacking pip").await?;
            Ok(Pip::of(tools.join("bin/python3")))
        }
        PipSource::None => Err(TemplateError::NoPip { python: interpreter.executable.clone() }),
    }
}

/// What makes a folder a virtual environment, for the paths that are valid inside.
fn lay_out(environment: &Path, interpreter: &Interpreter) -> io::Result<()> {
    let version = interpreter.version.map(|part| part.to_string()).join(".");
    let home = interpreter.inside_prefix().join("bin");
    let text = format!(
        "home = {}\ninclude-system-site-packages = false\nversion = {version}\n",
        home.display()
    );
    fs::write(environment.join("pyvenv.cfg"), text)?;
    let bin = environment.join("bin");
    fs::create_dir(&bin)?;
    symlink(interpreter.inside_executable(), bin.join("python3"))?;
    symlink("python3", bin.join("python"))?;
    symlink("python3", bin.join(interpreter.name()))
}

/// Moves programs to where they are looked for. Their first line names the interpreter that
/// unpacked them, which is not there inside.
pub(super) fn move_scripts(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let Ok(text) = fs::read_to_string(entry.path()) else {
            fs::rename(entry.path(), target)?;
            continue;
        };
        let text = match text.split_once('\n') {
            Some((first, rest)) if first.starts_with("#!") && first.contains("python") => {
                format!("#!{INSIDE_PYTHON}\n{rest}")
            }
            Some(_) | None => text,
        };
        fs::write(&target, text)?;
        fs::set_permissions(&target, Permissions::from_mode(0o755))?;
    }
    fs::remove_dir_all(from)
}

/// Keeps the names of the wheels that went in.
fn write_lock(wheels: &Path, file: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(wheels)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    fs::write(file, names.join("\n") + "\n")
}

/// Compiles what was unpacked, because inside nothing can be written. Parses code and runs none.
/// Time stamps are not looked at later: they may change on the way into the store.
pub(super) async fn compile(
    interpreter: &Interpreter,
    environment: &Path,
) -> Result<(), TemplateError> {
    let mut arguments: Vec<PathBuf> =
        ["-I", "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash", "-s"]
            .map(Into::into)
            .into();
    arguments.push(environment.to_owned());
    arguments.extend(["-p", INSIDE_ENVIRONMENT].map(Into::into));
    arguments.push(environment.join("lib"));
    let compiled = run(interpreter, arguments, "compiling").await;
    if let Err(error) = compiled {
        // Packages ship files for other versions of Python. What did not compile is compiled, or
        // refused, when it is imported.
        tracing::debug!(%error, "some files of the packages do not compile");
    }
    Ok(())
}

pub(super) async fn run(
    interpreter: &Interpreter,
    arguments: impl IntoIterator<Item = PathBuf>,
    what: &'static str,
) -> Result<String, TemplateError> {
    let running = Command::new(&interpreter.executable)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        running.await.map_err(|error| TemplateError::Step { what, said: error.to_string() })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = output.stdout;
    said.extend(output.stderr);
    let from = said.len().saturating_sub(SAID_MAX);
    let said = said.get(from..).map(String::from_utf8_lossy).unwrap_or_default();
    Err(TemplateError::Step { what, said: said.trim().to_owned() })
}

/// Lets everybody read what was made, whatever the umask; puts it on the disk; moves it.
fn finish(work: &Path, place: &Path) -> io::Result<()> {
    let environment = work.join("env");
    open_for_reading(&environment)?;
    rustix::fs::syncfs(File::open(&environment)?)?;
    fs::rename(&environment, place)?;
    fs::remove_dir_all(work)
}

/// Folders can be walked, files read, and what its owner may run everybody may.
fn open_for_reading(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?;
    if kind.is_symlink() {
        return Ok(());
    }
    if !kind.is_dir() {
        let runs = kind.permissions().mode() & 0o100 != 0;
        return fs::set_permissions(path, Permissions::from_mode(if runs { 0o755 } else { 0o644 }));
    }
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(path)? {
        open_for_reading(&entry?.path())?;
    }
    Ok(())
}

/// Makes a folder and those above it that are missing, so that everybody can walk them.
pub(super) fn make_shared_folder(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_shared_folder(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o755)),
    }
}

/// Removes what builders left that did not finish. The caller holds the lock.
fn clear_away(environments: &Path, name: &str) -> io::Result<()> {
    for entry in fs::read_dir(environments)? {
        let entry = entry?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if file.starts_with(name) && file.ends_with(".tmp") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Waits until nobody else builds the same. The lock goes with the file, and with its process.
pub(in super::super) async fn lock(
    path: &Path,
    progress: &Progress,
) -> Result<File, TemplateError> {
    use rustix::fs::{FlockOperation, flock};
    let file = File::create(path).map_err(store_error(path))?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                progress.say("waiting for another process that builds the same", None);
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(error) => return Err(store_error(path)(error.into())),
        }
    }
}

/// Runs what may take long on a disk where it keeps nobody waiting.
pub(super) async fn off_thread(
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// How many of the packages are there, as heard from pip.
#[derive(Debug, PartialEq)]
pub(super) struct Downloads {
    all: u32,
    begun: u32,
}

impl Downloads {
    pub(super) fn of(requirements: &str) -> Self {
        let named = |line: &&str| line.starts_with(|first: char| first.is_ascii_alphanumeric());
        let all = requirements.lines().filter(named).count();
        Self { all: u32::try_from(all).unwrap_or(u32::MAX).max(1), begun: 0 }
    }

    /// What pip is doing, if this line tells.
    pub(super) fn hear(&mut self, line: &str) -> Option<String> {
        if line.starts_with("Collecting ") {
            self.begun += 1;
            return None;
        }
        let file =
            line.strip_prefix("Downloading ").or_else(|| line.strip_prefix("Using cached "))?;
        Some(format!("downloading {}", file.rsplit('/').next().unwrap_or(file)))
    }

    /// 0 to 1. Dependencies that were not listed make it stand still, not go beyond.
    pub(super) fn done(&self) -> f64 {
        f64::from(self.begun.saturating_sub(1).min(self.all)) / f64::from(self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_follows_what_pip_says() {
        let mut share = Downloads::of("# two\nnumpy==1 \\\n    --hash=sha256:00\npandas==2\n");

        let heard = [
            "Collecting numpy==1",
            "Downloading https://host/numpy-1-cp311.whl (16.6 MB)",
            "Collecting pandas==2",
            "Using cached pandas-2-cp311.whl (12 MB)",
            "Saved ./pandas-2-cp311.whl",
        ]
        .map(|line| (share.hear(line), share.done()));

        assert_eq!(
            heard,
            [
                (None, 0.0),
                (Some("downloading numpy-1-cp311.whl (16.6 MB)".to_owned()), 0.0),
                (None, 0.5),
                (Some("downloading pandas-2-cp311.whl (12 MB)".to_owned()), 0.5),
                (None, 0.5),
            ]
        );
    }
}
