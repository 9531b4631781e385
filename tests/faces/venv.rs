//! Programs from the Python package index, each set in a virtual environment of its own, made once
//! and kept between runs.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

/// The `bin` folder of an environment that holds exactly these packages and what they need. The
/// versions are part of the names, so that a run today and one in a year use the same programs.
pub(crate) fn with(packages: &[&str]) -> PathBuf {
    made(&packages.join("+").replace("==", "-"), packages)
}

/// The same with the Python client of this repository, installed from a copy of its sources: what
/// builds it leaves things beside them.
pub(crate) fn with_our_client() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/python");
    let files = [
        "pyproject.toml",
        "README.md",
        "src/sandpit/py.typed",
        "src/sandpit/__init__.py",
        "src/sandpit/sync.py",
    ];
    let texts = files.map(|file| fs::read(source.join(file)).expect("a file of the client"));
    let mut hash = std::hash::DefaultHasher::new();
    texts.hash(&mut hash);
    let name = format!("client-{:016x}", hash.finish());
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    for (file, text) in files.iter().zip(texts) {
        let place = copy.join(file);
        fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        fs::write(place, text).expect("a copy");
    }
    let copy = copy.to_str().expect("a name").to_owned();
    made(&name, &["nats-py==2.16.0", &copy])
}

fn made(name: &str, packages: &[&str]) -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("venvs");
    fs::create_dir_all(&all).expect("a folder for environments");
    let place = all.join(name);
    // Several test programs may want the same one at once.
    let lock = File::create(all.join(format!("{name}.lock"))).expect("a lock file");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock");
    let ready = place.join("ready");
    if !ready.exists() {
        // What an interrupted run left is not trusted.
        fs::remove_dir_all(&place).ok();
        run(Command::new("python3").args(["-m", "venv"]).arg(&place));
        let mut pip = Command::new(place.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        run(pip.args(packages));
        File::create(&ready).expect("a mark");
    }
    place.join("bin")
}

/// Runs a program to its end and returns what it printed.
///
/// # Panics
/// If it cannot be run or fails, with all it said.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out
}
