//! All of it once more as an ordinary user, if root runs the tests.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use super::support::launcher;

/// An id that nobody has.
const SPARE_ID: u32 = 64_999;

#[test]
fn everything_holds_for_an_ordinary_user_as_well() {
    if !rustix::process::geteuid().is_root() {
        println!("run by an ordinary user: the other tests are this test");
        return;
    }
    let sandpit_sandbox::local::Launcher::Path(program) = launcher() else {
        panic!("tests name their launcher")
    };
    let folder = std::env::temp_dir().join(format!("sandpit-as-user-{}", std::process::id()));
    fs::create_dir_all(folder.join("store")).expect("a folder");
    // The folder of the build may be closed to others.
    let copy = |from: &Path, name: &str| {
        let to = folder.join(name);
        fs::copy(from, &to).expect("a copy");
        fs::set_permissions(&to, Permissions::from_mode(0o755)).expect("everybody may run it");
        to
    };
    let tests = copy(&std::env::current_exe().expect("own path"), "tests");
    let launcher = copy(&program, "launcher");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("everybody may enter");
    chown(folder.join("store"), Some(SPARE_ID), Some(SPARE_ID)).expect("its own store");

    let output = Command::new("setpriv")
        .args(["--reuid", &SPARE_ID.to_string(), "--regid", &SPARE_ID.to_string()])
        .args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"])
        .arg(tests)
        .args(["--test-threads=2", "--skip", "as_user::"])
        // Nodes have their folders in the build's, and are not about whom sandboxes belong to.
        .args(["--skip", "fleet::"])
        .current_dir("/")
        .env("SANDPIT_TEST_STORE", folder.join("store"))
        .env("SANDPIT_TEST_LAUNCHER", launcher)
        .env("HOME", folder.join("store"))
        .output()
        .expect("this test needs setpriv (util-linux)");

    fs::remove_dir_all(&folder).expect("removed");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "as an ordinary user: {said}");
}
