//! The server's process: one thread of its own starts it, waits for its end and starts it again.
//!
//! A thread of its own, because the kernel kills the server when the *thread* that started it
//! ends, and this one ends with the process.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::sync::watch;

use super::EmbedError;
use super::conf::{Conf, Place};
use super::guard;
use crate::clock::Clock;
use crate::supervise::policy::{End, Limits, Restarts, Verdict};

/// Longest time from starting it to its listening.
const LISTEN_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether it listens already.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Longest orderly end, after which it is killed.
const TERM_MAX: Duration = Duration::from_secs(5);
/// Bytes of its log that are looked at for the reason of a failed start.
const LOG_TAIL: usize = 4_096;

/// How the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// Being started, the first time or again.
    Starting,
    /// Running.
    Running {
        /// Its process.
        pid: u32,
    },
    /// Ended as it was asked to.
    Stopped,
    /// It died too often; the node ends with it.
    GaveUp {
        /// How it died last.
        why: String,
    },
}

pub(super) struct Start {
    pub(super) server: PathBuf,
    pub(super) guard: PathBuf,
    pub(super) place: Place,
    pub(super) conf: Conf,
    pub(super) clock: Clock,
}

#[derive(Debug)]
pub(super) struct Child {
    port: u16,
    life: watch::Receiver<Life>,
    kill: Arc<Kill>,
}

/// What ends it.
#[derive(Debug, Default)]
struct Kill {
    state: Mutex<KillState>,
}

#[derive(Debug, Default)]
struct KillState {
    /// Not to be started again.
    asked: bool,
    /// Names the process even after its number went to another.
    process: Option<OwnedFd>,
    /// Wakes the thread from its pause before a restart.
    wake: Option<mpsc::Sender<()>>,
}

impl Child {
    /// Returns when it listens.
    pub(super) async fn start(start: Start) -> Result<Self, EmbedError> {
        let log = start.place.log();
        let failed = |why: String| EmbedError::NotStarted { why, log: log.clone() };
        let (tell, life) = watch::channel(Life::Starting);
        let (wake, woken) = mpsc::channel();
        let kill = Arc::new(Kill::default());
        kill.lock().wake = Some(wake);
        let thread = Thread { start, tell, kill: Arc::clone(&kill), woken };
        let ports = thread.start.place.run();
        clear(&ports)?;
        thread.start.conf.write(&thread.start.place, None)?;
        let (first, begun) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("nats-server".to_owned())
            .spawn(move || thread.keep(first))
            .map_err(|error| failed(error.to_string()))?;
        let begun = begun.await.map_err(|_| failed("its thread ended".to_owned()))?;
        let Begun { pid, port_told } = begun.map_err(|error| failed(error.to_string()))?;
        let mut child = Self { port: 0, life, kill };
        let listening = tokio::time::timeout(LISTEN_MAX, child.listening(&ports, pid)).await;
        let port = match listening {
            Ok(Some(port)) => port,
            Ok(None) => return Err(failed(last_words(&log))),
            Err(_) => return Err(failed(format!("it does not listen after {LISTEN_MAX:?}"))),
        };
        child.port = port;
        port_told.send(port).ok();
        Ok(child)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn life(&self) -> watch::Receiver<Life> {
        self.life.clone()
    }

    /// The port it listens on; `None` if it ended first.
    async fn listening(&self, ports: &std::path::Path, pid: u32) -> Option<u16> {
        loop {
            if let Some(port) = told_port(ports, pid) {
                return Some(port);
            }
            let running = *self.life.borrow() == Life::Running { pid };
            if !running {
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn stop(self) {
        self.kill.signal(Signal::TERM);
        let mut life = self.life.clone();
        let gone = async |life: &mut watch::Receiver<Life>| {
            let over = |life: &Life| matches!(life, Life::Stopped | Life::GaveUp { .. });
            life.wait_for(over).await.map(|_| ()).ok();
        };
        if tokio::time::timeout(TERM_MAX, gone(&mut life)).await.is_err() {
            tracing::warn!("nats-server did not end in {TERM_MAX:?}; killing it");
            self.kill.signal(Signal::KILL);
            gone(&mut life).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After an orderly stop there is nothing left to kill.
        self.kill.signal(Signal::KILL);
    }
}

impl Kill {
    fn lock(&self) -> std::sync::MutexGuard<'_, KillState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends it, and has it not start again.
    fn signal(&self, signal: Signal) {
        let mut state = self.lock();
        state.asked = true;
        state.wake = None;
        if let Some(process) = &state.process {
            rustix::process::pidfd_send_signal(process, signal).ok();
        }
    }
}

/// The first start, told to whoever waits for it.
struct Begun {
    pid: u32,
    /// Where the thread is told which port to use again.
    port_told: mpsc::Sender<u16>,
}

struct Thread {
    start: Start,
    tell: watch::Sender<Life>,
    kill: Arc<Kill>,
    /// Ends when nobody wants a restart any more.
    woken: mpsc::Receiver<()>,
}

impl Thread {
    fn keep(self, first: tokio::sync::oneshot::Sender<io::Result<Begun>>) {
        let limits =
            Limits { failures_max: 5, window: Duration::from_secs(60), ..Limits::default() };
        let mut restarts = Restarts::new(limits, u64::from(std::process::id()));
        let (port_told, port) = mpsc::channel();
        let mut first = Some((first, port_told));
        let mut known = None;
        loop {
            let end = match self.spawn() {
                Ok(mut process) => {
                    let pid = process.id();
                    self.tell.send_replace(Life::Running { pid });
                    if let Some((first, port_told)) = first.take() {
                        first.send(Ok(Begun { pid, port_told })).ok();
                    }
                    let status = process.wait();
                    self.kill.lock().process = None;
                    status.map_or_else(|error| error.to_string(), |status| status.to_string())
                }
                Err(error) => match first.take() {
                    Some((first, _)) => return drop(first.send(Err(error))),
                    None => error.to_string(),
                },
            };
            if self.kill.lock().asked {
                self.tell.send_replace(Life::Stopped);
                return;
            }
            self.tell.send_replace(Life::Starting);
            match restarts.step(self.start.clock.now(), End::Failed) {
                Verdict::Again { after } => {
                    tracing::error!(end, ?after, "nats-server died; starting it again");
                    let pause = self.woken.recv_timeout(after);
                    if pause == Err(mpsc::RecvTimeoutError::Disconnected) {
                        self.tell.send_replace(Life::Stopped);
                        return;
                    }
                }
                Verdict::Done | Verdict::GiveUp => {
                    tracing::error!(end, ?limits, "nats-server dies again and again");
                    self.tell.send_replace(Life::GaveUp { why: end });
                    return;
                }
            }
            // The same port, so that those connected find it again. Whoever waited for the first
            // start has been told it failed if there is none.
            known = known.or_else(|| port.recv().ok());
            if known.is_none() {
                self.tell.send_replace(Life::GaveUp { why: end });
                return;
            }
            if let Err(error) = self.start.conf.write(&self.start.place, known) {
                tracing::error!(%error, "the configuration of nats-server was not written");
            }
        }
    }

    fn spawn(&self) -> io::Result<std::process::Child> {
        let Start { server, guard: program, place, .. } = &self.start;
        let mut options = OpenOptions::new();
        let log = options.create(true).append(true).mode(0o600).open(place.log())?;
        let mut kill = self.kill.lock();
        if kill.asked {
            return Err(io::Error::other("it was asked to end"));
        }
        let mut process = Command::new(program)
            .arg0(guard::NAME)
            .arg(std::process::id().to_string())
            .arg(server)
            .arg("-c")
            .arg(place.conf())
            .arg("--ports_file_dir")
            .arg(place.run())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("no process number"))?;
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(name) => kill.process = Some(name),
            // What cannot be ended later is not left running now.
            Err(error) => {
                process.kill().and_then(|()| process.wait()).ok();
                return Err(error.into());
            }
        }
        Ok(process)
    }
}

/// Ports files of servers that were killed.
fn clear(ports: &std::path::Path) -> Result<(), EmbedError> {
    let entries = fs::read_dir(ports).map_err(|error| EmbedError::file(ports, error))?;
    for entry in entries.filter_map(Result::ok) {
        fs::remove_file(entry.path()).ok();
    }
    Ok(())
}

/// What the server wrote to `<its file's name>_<pid>.ports`, once it is there and whole.
fn told_port(ports: &std::path::Path, pid: u32) -> Option<u16> {
    let end = format!("_{pid}.ports");
    let mut entries = fs::read_dir(ports).ok()?.filter_map(Result::ok);
    let entry = entries.find(|entry| entry.file_name().to_string_lossy().ends_with(&end))?;
    read_port(&fs::read(entry.path()).ok()?)
}

fn read_port(bytes: &[u8]) -> Option<u16> {
    let told: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let url = told.get("nats")?.get(0)?.as_str()?;
    url.rsplit(':').next()?.parse().ok()
}

/// The last thing it said, which is why it ended.
fn last_words(log: &std::path::Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL)..];
    let text = String::from_utf8_lossy(tail);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    last.unwrap_or("it ended without a word").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_once_the_file_is_whole() {
        let whole = br#"{"nats":["nats://127.0.0.1:34567"],"monitoring":[]}"#;
        assert_eq!(read_port(whole), Some(34_567));
        assert_eq!(read_port(&whole[..20]), None);
        assert_eq!(read_port(b""), None);
    }
}
