//! Hostile packages: in the zygote, which imports them, and before that in the archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandpit_sandbox::local::options::TemplateSpec;
use sandpit_sandbox::provider::{CreateRequest, Progress, Provider, ProviderError};

use super::support::{Engine, base, number, options};

/// What a worker that is locked down sees of itself: ids, capabilities, filter.
const LOCKED: &str = "
import os
with open('/proc/self/status') as file:
    status = {name: value.strip() for name, _, value in (line.partition(':') for line in file)}
(os.getresuid(), os.getresgid(), [name for name in status if name.startswith('Cap') and int(status[name], 16)],
 status['Seccomp'] == '2' and status['NoNewPrivs'] == '1')
";

async fn engine_with(spec: TemplateSpec) -> Engine {
    let templates = BTreeMap::from([("base".to_owned(), base()), ("hostile".to_owned(), spec)]);
    Engine::start_with(sandpit_sandbox::local::options::Options { templates, ..options() }).await
}

fn warming_up(warmup: &str) -> TemplateSpec {
    TemplateSpec { warmup: warmup.to_owned(), ..base() }
}

/// The template is refused, with this in the reason; others go on.
async fn refused(spec: TemplateSpec, reason: &str) {
    let engine = engine_with(spec).await;
    let beside = engine.create().await;

    let error = engine.provider.prepare("hostile", Progress::silent()).await.expect_err("refused");

    let ProviderError::TemplateBroken { name, why } = error else { panic!("{error:?}") };
    assert_eq!(name, "hostile");
    assert!(why.contains(reason), "{why}");
    assert_eq!(engine.value(beside, "1 + 1").await, "2");
    engine.close().await;
}

#[tokio::test]
async fn hostile_h57_a_package_that_starts_a_thread_while_it_is_imported_is_refused() {
    let warmup =
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()";
    refused(warming_up(warmup), "thread").await;
}

#[tokio::test]
async fn hostile_h57_a_package_that_fails_or_ends_the_interpreter_is_refused_with_what_it_said() {
    refused(warming_up("raise ValueError('bad package')"), "bad package").await;
    refused(
        warming_up("import os, sys\nsys.stderr.write('so long')\nsys.stderr.flush()\nos._exit(3)"),
        "so long",
    )
    .await;
}

#[tokio::test]
async fn hostile_h57_a_package_that_disarms_the_lockdown_gets_no_sandbox() {
    let disarmed = [
        "import sys\nsys.modules['__main__'].Locks.apply = lambda *a, **k: None",
        "import sys\nmain = sys.modules['__main__']\nmain.prctl = lambda *a: 0\nmain.syscall = lambda *a: 0",
        "import os\nos.setresuid = os.setresgid = os.setgroups = lambda *a: None",
    ];
    for warmup in disarmed {
        let engine = engine_with(warming_up(warmup)).await;
        let beside = engine.create().await;
        let prepared = engine.provider.prepare("hostile", Progress::silent()).await;

        if prepared.is_ok() {
            let sandbox =
                sandpit_messages::id::SandboxId::minted(options().node, u128::from(number()));
            let request = CreateRequest { sandbox, template: "hostile".to_owned() };
            // Where there is one id only, a worker that does not change it is locked all the same.
            if engine.provider.create(request).await.is_ok() {
                let held = engine.value(sandbox, LOCKED).await;
                assert_eq!(held, "((1000, 1000, 1000), (1000, 1000, 1000), [], True)", "{warmup}");
            }
        }

        assert_eq!(engine.value(beside, "1 + 1").await, "2");
        engine.close().await;
    }
}

#[tokio::test]
async fn hostile_h57_a_package_is_under_a_filter_and_without_a_network_while_it_is_imported() {
    let warmup = "
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def errno(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return ctypes.get_errno()
assert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == -1
assert errno(lambda: None) == 1, 'mount'
assert libc.unshare(0x10000000) == -1 and ctypes.get_errno() == 1, 'unshare'
assert libc.ptrace(16, 1, 0, 0) == -1 and ctypes.get_errno() == 1, 'ptrace'
assert errno(lambda: socket.socket(40, 1)) == 97, 'vsock'
assert errno(lambda: socket.create_connection(('1.1.1.1', 53), 2)) == 101, 'network'
for path in ('/usr/x', '/opt/env/x', '/tmp/x', '/home/user/x', '/opt/sandpit/x'):
    try:
        open(path, 'w').close()
        raise SystemExit(path + ' can be written')
    except OSError:
        pass
assert not os.path.exists('/root') and set(os.listdir('/home')) <= {'user'}
";
    let engine = engine_with(warming_up(warmup)).await;

    let sandbox = engine.create_from("hostile").await;

    assert_eq!(engine.value(sandbox, "1 + 1").await, "2");
    engine.close().await;
}

/// A wheel with these files beside its papers, in a new folder.
fn wheel(files: &[(&str, &str)]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let folder = std::env::var_os("SANDPIT_TEST_STORE").map_or(folder, PathBuf::from);
    let folder = folder.join(format!("wheels-{}-{}", std::process::id(), number()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let make = "
import json, sys, zipfile
target, files = sys.argv[1], json.loads(sys.argv[2])
papers = 'hostile-1.0.dist-info/'
files += [[papers + 'METADATA', 'Metadata-Version: 2.1\\nName: hostile\\nVersion: 1.0\\n'],
          [papers + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n']]
record = ''.join(name + ',,\\n' for name, _ in files) + papers + 'RECORD,,\\n'
with zipfile.ZipFile(target, 'w') as archive:
    for name, text in files + [[papers + 'RECORD', record]]:
        archive.writestr(name, text)
";
    let made = Command::new("python3")
        .args(["-c", make])
        .arg(folder.join("hostile-1.0-py3-none-any.whl"))
        .arg(serde_json::to_string(files).expect("text"))
        .status();
    assert!(made.expect("this test needs python3 on PATH").success());
    folder
}

fn from_folder(folder: &Path) -> TemplateSpec {
    let requirements = format!("--no-index\n--find-links {}\nhostile==1.0\n", folder.display());
    TemplateSpec { requirements, ..base() }
}

#[tokio::test]
async fn hostile_h58_nothing_of_an_archive_runs_on_the_host() {
    let folder = wheel(&[("hostile/__init__.py", "VALUE = 42")]);
    let marker = folder.join("marker");
    std::fs::remove_file(folder.join("hostile-1.0-py3-none-any.whl")).expect("removed");
    let touch = format!("open({:?}, 'w').close()", marker.to_string_lossy());
    let line = format!("import os; {touch}");
    let files = [
        ("hostile/__init__.py", &*format!("{touch}\nVALUE = 42")),
        ("hostile.pth", &*line),
        ("setup.py", &*touch),
        ("sitecustomize.py", &*touch),
        ("numpy.py", &*touch),
    ];
    let again = wheel(&files);
    let engine = engine_with(from_folder(&again)).await;

    engine.provider.prepare("base", Progress::silent()).await.expect("a template");
    let built = engine.provider.prepare("hostile", Progress::silent()).await;

    assert!(!marker.exists(), "code of the package ran on the host: {built:?}");
    engine.close().await;
    std::fs::remove_dir_all(folder).expect("removed");
    std::fs::remove_dir_all(again).expect("removed");
}

#[tokio::test]
async fn hostile_h58_members_that_climb_out_of_an_archive_do_not() {
    let folder = wheel(&[
        ("hostile/__init__.py", "VALUE = 42"),
        ("../../../../../../climbed", "out"),
        ("/tmp/climbed-absolute", "out"),
    ]);
    let engine = engine_with(from_folder(&folder)).await;

    let error = engine.provider.prepare("hostile", Progress::silent()).await;

    assert!(!Path::new("/tmp/climbed-absolute").exists() && !folder.join("../climbed").exists());
    assert!(matches!(error, Err(ProviderError::TemplateBroken { .. })), "{error:?}");
    engine.close().await;
    std::fs::remove_dir_all(folder).expect("removed");
}

#[tokio::test]
async fn hostile_h58_packages_that_must_be_compiled_are_refused() {
    let folder = wheel(&[]);
    std::fs::remove_file(folder.join("hostile-1.0-py3-none-any.whl")).expect("removed");
    std::fs::write(folder.join("hostile-1.0.tar.gz"), "anything").expect("written");
    let engine = engine_with(from_folder(&folder)).await;

    let error = engine.provider.prepare("hostile", Progress::silent()).await.expect_err("refused");

    assert!(error.to_string().contains("No matching distribution"), "{error}");
    engine.close().await;
    std::fs::remove_dir_all(folder).expect("removed");
}
