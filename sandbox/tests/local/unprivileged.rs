//! The same tests once more, as an ordinary user, and in the background.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{LAUNCHER, STORE, launcher};

/// A user that owns nothing here.
const USER: &str = "54321";

/// Set in the run as that user.
const INNER: &str = "SANDPIT_TEST_ORDINARY_USER";

#[test]
fn everything_holds_for_an_ordinary_user_too() {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os(INNER).is_some() || rustix::process::geteuid().as_raw() != 0,
            "these tests run as an ordinary user already"
        );
        return;
    }
    let folder = std::env::temp_dir().join(format!("sandpit-ordinary-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = folder.join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let launcher = copy(&launcher(), "launcher");
    // As a shell starts what is to go on without it: nothing of that reaches what runs inside.
    let status = Command::new("sh")
        .args(["-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh"])
        .args(["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--"])
        .arg(&tests)
        .args(["--test-threads", "2"])
        .current_dir("/")
        .env("HOME", &folder)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env(INNER, "1")
        .env(LAUNCHER, &launcher)
        .env(STORE, folder.join("store"))
        .status()
        .expect("setpriv is part of util-linux");
    fs::remove_dir_all(&folder).unwrap();
    assert!(status.success(), "the tests fail for an ordinary user: {status}");
}
