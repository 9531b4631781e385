//! Which Python runs in sandboxes, and where it really lives.
//!
//! What is on `PATH` may be a shim or a virtual environment. The interpreter itself is asked for
//! its prefix, and that is what sandboxes see: at its own place below `/usr`, else at
//! [`INSIDE_PREFIX`].

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

/// Where an interpreter that lives outside `/usr` is seen inside.
pub const INSIDE_PREFIX: &str = "/opt/python";

/// Longest an interpreter may take to say what it is. A shim on a cold disk takes a second.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// Minor versions of Python 3 that the worker is written for.
const MINOR_VERSIONS: std::ops::RangeInclusive<u32> = 9..=14;

/// Names looked for on `PATH`, then places that a broken shim may hide. Since 3.12 a fork is ready
/// in two thirds of the time.
const CANDIDATES: [&str; 9] = [
    "python3.13",
    "python3.12",
    "python3.14",
    "python3",
    "python3.11",
    "python3.10",
    "python3.9",
    "/usr/local/bin/python3",
    "/usr/bin/python3",
];

/// Printed by the interpreter itself. Needs nothing outside the standard library.
const QUESTION: &str = "\
import importlib.util, json, os, sys, sysconfig
def has(name):
    return importlib.util.find_spec(name) is not None
try:
    import ctypes
except ImportError:
    ctypes = None
print(json.dumps({
    'implementation': sys.implementation.name,
    'executable': sys.executable,
    'prefix': os.path.realpath(sys.base_prefix),
    'exec_prefix': os.path.realpath(sys.base_exec_prefix),
    'version': list(sys.version_info[:3]),
    'build': sys.version,
    'shared': bool(sysconfig.get_config_var('Py_ENABLE_SHARED')),
    'ctypes': ctypes is not None,
    'pip': has('pip'),
    'ensurepip': has('ensurepip'),
}))";

/// A Python that can run in sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Interpreter {
    /// What was asked; runs pip.
    pub executable: PathBuf,
    /// Its real prefix on the host.
    pub prefix: PathBuf,
    /// Major, minor, micro.
    pub version: [u32; 3],
    /// All it says about its build.
    pub build: String,
    /// How it gets pip.
    pub pip: PipSource,
    shared: bool,
}

/// How an interpreter gets pip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum PipSource {
    /// It has it.
    Own,
    /// It can unpack one into an environment.
    Bundled,
    /// It has none: templates with packages cannot be built with it.
    None,
}

/// What an interpreter says.
#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    implementation: String,
    executable: PathBuf,
    prefix: PathBuf,
    exec_prefix: PathBuf,
    version: [u32; 3],
    build: String,
    shared: bool,
    ctypes: bool,
    pip: bool,
    ensurepip: bool,
}

/// No Python can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoInterpreter {
    /// The one that was configured cannot be used.
    #[error(
        "the configured interpreter {}: {why}. Change the setting `python`, or leave it out to \
         search on PATH",
        path.display()
    )]
    Configured {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: Unfit,
    },
    /// There is Python, but without ctypes.
    #[error(
        "no Python here has the module ctypes, which forking into sandboxes needs; tried: {tried}. \
         Install one that has it with `sudo apt install python3`, or build yours again after `sudo \
         apt install libffi-dev`"
    )]
    CtypesMissing {
        /// Each candidate and what it said.
        tried: String,
    },
    /// There is none.
    #[error(
        "no CPython 3.9 to 3.14 on PATH; tried: {tried}. Install one with `sudo apt install \
         python3`, or name it in the setting `python`"
    )]
    Missing {
        /// Each candidate and what it said.
        tried: String,
    },
}

/// Why one interpreter cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is not there.
    Absent,
    /// It gave no answer.
    Silent(String),
    /// Not a CPython that the worker is written for.
    Version(String),
    /// It has no ctypes.
    Ctypes,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("not found"),
            Self::Silent(why) => write!(f, "does not answer ({why})"),
            Self::Version(which) => write!(f, "is {which}"),
            Self::Ctypes => f.write_str("has no ctypes"),
        }
    }
}

impl Interpreter {
    /// The configured interpreter, or the best one there is. One without pip only if all are.
    ///
    /// # Errors
    /// [`NoInterpreter`], which says what was tried and what to do.
    pub async fn find(configured: Option<&Path>) -> Result<Self, NoInterpreter> {
        if let Some(path) = configured {
            let found = Self::ask(path).await;
            return found.map_err(|why| NoInterpreter::Configured { path: path.to_owned(), why });
        }
        let mut tried: Vec<(&str, Unfit)> = Vec::new();
        let mut without_pip = None;
        for candidate in CANDIDATES {
            match Self::ask(Path::new(candidate)).await {
                Ok(found) if found.pip != PipSource::None => return Ok(found),
                Ok(found) => without_pip = without_pip.or(Some(found)),
                Err(why) => tried.push((candidate, why)),
            }
        }
        without_pip.ok_or_else(|| none_of(&tried))
    }

    /// As [`Self::find`], but remembers the answer in the file `memory`: a shim takes half a
    /// second to ask. The answer holds until the interpreter's own file changes or another one is
    /// configured; whoever installs a better one and wants it deletes the file.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn recall(configured: Option<&Path>, memory: &Path) -> Result<Self, NoInterpreter> {
        if let Some(found) = Remembered::read(memory, configured) {
            return Ok(found);
        }
        let found = Self::find(configured).await?;
        if let Err(error) = Remembered::write(memory, configured, &found) {
            tracing::debug!(?memory, %error, "the interpreter is not remembered");
        }
        Ok(found)
    }

    /// Asks one interpreter what it is.
    async fn ask(path: &Path) -> Result<Self, Unfit> {
        let answering = Command::new(path)
            .args(["-I", "-c", QUESTION])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let output = match tokio::time::timeout(ANSWER_TIME_MAX, answering).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(Unfit::Absent),
            Ok(Err(error)) => return Err(Unfit::Silent(error.to_string())),
            Err(_) => return Err(Unfit::Silent("too slow".to_owned())),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().next().unwrap_or_default();
            return Err(Unfit::Silent(format!("{}: {first}", output.status)));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .map_err(|error| Unfit::Silent(error.to_string()))?;
        Self::judge(answer)
    }

    fn judge(answer: Answer) -> Result<Self, Unfit> {
        let [major, minor, micro] = answer.version;
        let fits = answer.implementation == "cpython"
            && major == 3
            && MINOR_VERSIONS.contains(&minor)
            && answer.prefix == answer.exec_prefix;
        if !fits {
            let Answer { implementation, .. } = answer;
            return Err(Unfit::Version(format!("{implementation} {major}.{minor}.{micro}")));
        }
        if !answer.ctypes {
            return Err(Unfit::Ctypes);
        }
        Ok(Self {
            executable: answer.executable,
            prefix: answer.prefix,
            version: answer.version,
            build: answer.build,
            pip: match (answer.pip, answer.ensurepip) {
                (true, _) => PipSource::Own,
                (false, true) => PipSource::Bundled,
                (false, false) => PipSource::None,
            },
            shared: answer.shared,
        })
    }

    /// Whether it lives outside `/usr`, and so is seen at [`INSIDE_PREFIX`].
    pub fn is_elsewhere(&self) -> bool {
        !self.prefix.starts_with("/usr")
    }

    /// Its prefix as seen inside.
    pub fn inside_prefix(&self) -> &Path {
        if self.is_elsewhere() { Path::new(INSIDE_PREFIX) } else { &self.prefix }
    }

    /// Its executable as seen inside.
    pub fn inside_executable(&self) -> PathBuf {
        self.inside_prefix().join("bin").join(self.name())
    }

    /// `python3.13`
    pub fn name(&self) -> String {
        let [major, minor, _] = self.version;
        format!("python{major}.{minor}")
    }

    /// Where the loader must look for its library inside; `None` where it finds it by itself.
    pub fn library_path(&self) -> Option<PathBuf> {
        (self.shared && self.is_elsewhere()).then(|| self.inside_prefix().join("lib"))
    }
}

/// What was found, and how it is known again.
#[derive(Debug, Deserialize, Serialize)]
struct Remembered {
    configured: Option<PathBuf>,
    found: Interpreter,
    file: FileIdentity,
}

/// Changes when a file is replaced.
#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Remembered {
    /// `None` if nothing is remembered, or it no longer holds.
    fn read(memory: &Path, configured: Option<&Path>) -> Option<Interpreter> {
        let remembered: Self = serde_json::from_slice(&fs::read(memory).ok()?).ok()?;
        let holds = remembered.configured.as_deref() == configured
            && FileIdentity::of(&remembered.found.executable).ok()? == remembered.file;
        holds.then_some(remembered.found)
    }

    fn write(memory: &Path, configured: Option<&Path>, found: &Interpreter) -> io::Result<()> {
        let file = FileIdentity::of(&found.executable)?;
        let remembered =
            Self { configured: configured.map(Path::to_owned), found: found.clone(), file };
        let beside = memory.with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&beside, serde_json::to_vec(&remembered)?)?;
        fs::rename(beside, memory)
    }
}

impl FileIdentity {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        })
    }
}

/// Says what is wrong with all of them.
fn none_of(tried: &[(&str, Unfit)]) -> NoInterpreter {
    let one = |(candidate, why): &(&str, Unfit)| format!("{candidate} {why}");
    let list = tried.iter().map(one).collect::<Vec<_>>().join(", ");
    if tried.iter().any(|(_, why)| *why == Unfit::Ctypes) {
        NoInterpreter::CtypesMissing { tried: list }
    } else {
        NoInterpreter::Missing { tried: list }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        Answer {
            implementation: "cpython".to_owned(),
            executable: "/home/ann/env/bin/python3".into(),
            prefix: "/home/ann/.pyenv/versions/3.12.1".into(),
            exec_prefix: "/home/ann/.pyenv/versions/3.12.1".into(),
            version: [3, 12, 1],
            build: "3.12.1 (main)".to_owned(),
            shared: true,
            ctypes: true,
            pip: true,
            ensurepip: true,
        }
    }

    #[test]
    fn an_interpreter_outside_usr_is_seen_at_a_neutral_place() {
        let elsewhere = Interpreter::judge(answer()).unwrap();
        let usr = Answer { prefix: "/usr".into(), exec_prefix: "/usr".into(), ..answer() };
        let usr = Interpreter::judge(usr).unwrap();

        assert_eq!(elsewhere.inside_executable(), Path::new("/opt/python/bin/python3.12"));
        assert_eq!(elsewhere.library_path(), Some("/opt/python/lib".into()));
        assert_eq!(usr.inside_executable(), Path::new("/usr/bin/python3.12"));
        assert_eq!(usr.library_path(), None);
    }

    #[test]
    fn interpreters_that_cannot_work_are_refused_with_the_reason() {
        let old = Interpreter::judge(Answer { version: [3, 8, 18], ..answer() });
        let other = Answer { implementation: "pypy".to_owned(), ..answer() };
        let bare = Interpreter::judge(Answer { ctypes: false, ..answer() });

        assert_eq!(old, Err(Unfit::Version("cpython 3.8.18".to_owned())));
        assert_eq!(Interpreter::judge(other), Err(Unfit::Version("pypy 3.12.1".to_owned())));
        assert_eq!(bare, Err(Unfit::Ctypes));
    }

    #[test]
    fn without_any_interpreter_the_error_says_what_was_tried_and_what_to_do() {
        let missing = none_of(&[("python3", Unfit::Absent)]).to_string();
        let bare = none_of(&[("python3.13", Unfit::Absent), ("python3", Unfit::Ctypes)]);

        assert!(missing.contains("python3 not found"), "{missing}");
        assert!(missing.contains("sudo apt install python3"), "{missing}");
        assert!(bare.to_string().contains("libffi-dev"), "{bare}");
    }

    #[test]
    fn what_is_remembered_holds_until_the_file_changes_or_another_is_configured() {
        let folder = std::env::temp_dir().join(format!("sandpit-memory-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (memory, executable) = (folder.join("interpreter.json"), folder.join("python3"));
        fs::write(&executable, "one").unwrap();
        let found =
            Interpreter::judge(Answer { executable: executable.clone(), ..answer() }).unwrap();
        Remembered::write(&memory, None, &found).unwrap();

        let recalled = Remembered::read(&memory, None);
        let other = Remembered::read(&memory, Some(Path::new("/usr/bin/python3")));
        fs::write(&executable, "other").unwrap();
        let changed = Remembered::read(&memory, None);
        fs::remove_file(&executable).unwrap();
        let gone = Remembered::read(&memory, None);

        fs::remove_dir_all(&folder).unwrap();
        assert_eq!([recalled, other, changed, gone], [Some(found), None, None, None]);
    }

    #[tokio::test]
    async fn a_configured_interpreter_that_is_not_there_is_named() {
        let error = Interpreter::find(Some(Path::new("/nowhere/python3"))).await.unwrap_err();

        assert_eq!(
            error.to_string(),
            "the configured interpreter /nowhere/python3: not found. Change the setting `python`, \
             or leave it out to search on PATH"
        );
    }
}
