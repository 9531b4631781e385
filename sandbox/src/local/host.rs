//! What of this machine sandboxes may see, and what inner processes are started from.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;

use super::options::Options;
use super::packet;
use super::plan::{self, DEVICES, Facts, Source, TopFolder};
use super::template::interpreter::Interpreter;

/// Folders of the root that programs expect beside `/usr`.
const TOP_FOLDERS: [&str; 5] = ["bin", "sbin", "lib", "lib32", "lib64"];

/// What of `/etc` says nothing about this machine and is needed to run its programs.
const ETC: [&str; 3] = ["ld.so.cache", "alternatives", "localtime"];

/// Folders of `/usr` that hold what the machine's owner put there.
const USR_HIDDEN: [&str; 2] = ["local", "src"];

/// Where inner processes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// The program that calls this. Its `main` begins with [`super::entry`].
    CurrentExe,
    /// Another one, for tests.
    Path(PathBuf),
}

impl Launcher {
    /// A copy of the program in memory that nobody can change: what runs in a sandbox must not
    /// reach a file of the host through it. Where the machine forbids programs in memory, the
    /// file itself.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn image(&self) -> io::Result<OwnedFd> {
        let path = match self {
            Self::CurrentExe => Path::new("/proc/self/exe"),
            Self::Path(path) => path,
        };
        let mut program = File::open(path)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let made = rustix::fs::memfd_create("init", flags | MemfdFlags::EXEC)
            // Kernels before 6.3 do not know the flag, and need none.
            .or_else(|_| rustix::fs::memfd_create("init", flags));
        let Ok(memory) = made else { return Ok(program.into()) };
        let mut memory = File::from(memory);
        io::copy(&mut program, &mut memory)?;
        memory.set_permissions(fs::Permissions::from_mode(0o555))?;
        packet::seal(&memory)?;
        // A program that is open for writing cannot be run.
        let number = std::os::fd::AsRawFd::as_raw_fd(&memory);
        Ok(File::open(format!("/proc/self/fd/{number}"))?.into())
    }
}

/// Whether sandboxes see a program of this machine.
pub(super) fn is_visible(program: &str) -> bool {
    ["/usr/bin", "/bin"].iter().any(|folder| Path::new(folder).join(program).is_file())
}

/// Everything that is shown to the launcher. Made once per engine: what comes later must lie
/// below one of these.
pub(super) fn sources(options: &Options, interpreter: &Interpreter) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut show = |name: String, path: PathBuf, device: bool| {
        if path.exists() {
            sources.push(Source { name, path, device });
        }
    };
    show("usr".to_owned(), PathBuf::from("/usr"), false);
    for name in TOP_FOLDERS {
        let path = Path::new("/").join(name);
        if !path.is_symlink() {
            show(name.to_owned(), path, false);
        }
    }
    for name in ETC {
        show(plan::etc_source(name), Path::new("/etc").join(name), false);
    }
    if interpreter.is_elsewhere() {
        show("python".to_owned(), interpreter.prefix.clone(), false);
    }
    show("store".to_owned(), options.store.clone(), false);
    for (name, folder) in data(options) {
        show(plan::data_source(&name), folder, false);
    }
    for name in DEVICES {
        show(plan::device_source(name), Path::new("/dev").join(name), true);
    }
    sources
}

/// Data folders of all templates. A name stands for one folder, whichever template has it.
fn data(options: &Options) -> BTreeMap<String, PathBuf> {
    options.templates.values().flat_map(|spec| spec.data.clone()).collect()
}

/// What the root of a template is planned from. `environment` is where its environment is below
/// the store, `data` its data folders among the
/// sources.
pub(super) fn facts(
    interpreter: &Interpreter,
    environment: PathBuf,
    data: BTreeMap<String, PathBuf>,
    programs: BTreeMap<String, String>,
) -> Facts {
    let mut top_folders = BTreeMap::new();
    for name in TOP_FOLDERS {
        let path = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&path) {
            top_folders.insert(name.to_owned(), TopFolder::Link(target.to_string_lossy().into()));
        } else if path.is_dir() {
            top_folders.insert(name.to_owned(), TopFolder::Folder);
        }
    }
    let there = |folder: &str, names: &[&str]| -> Vec<String> {
        let exists = |name: &&&str| Path::new(folder).join(name).exists();
        names.iter().filter(exists).map(|name| (*name).to_owned()).collect()
    };
    Facts {
        top_folders,
        etc: there("/etc", &ETC),
        own_python: interpreter.is_elsewhere(),
        python_in_usr_local: interpreter.prefix.starts_with("/usr/local"),
        usr_hidden: there("/usr", &USR_HIDDEN),
        environment: Some(environment),
        data,
        programs,
    }
}
