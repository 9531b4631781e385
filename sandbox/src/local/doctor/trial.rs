//! One real sandbox, attacked from inside, beside another that must not notice; then what making
//! and using sandboxes takes here; then whether anything is left.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::time::Moment;

use super::super::cgroup::Backend;
use super::super::cgroup::none::HeldNamespace;
use super::super::engine::LocalProvider;
use super::super::host::Launcher;
use super::super::options::{CgroupChoice, Options};
use super::super::{sys, template};
use super::Line;
use crate::provider::{
    CreateRequest, ExecEvent, ExecRequest, Progress, Provider, ProviderError, Work,
};

/// What hostile code tries first. Functions named by the rows of the list of attacks.
pub(super) const ESCAPES: &str = include_str!("../../../python/escapes.py");

/// The template that is tried: the standard library alone, so that nothing is downloaded.
const TEMPLATE: &str = "base";

/// Sandboxes made one after the other for their times.
const CREATES: usize = 20;

/// Executions in one sandbox for their times.
const EXECS: usize = 200;

/// Longest one attack may take.
const TIME_MAX: Duration = Duration::from_secs(10);

const MEND: &str = "do not run foreign code here; report this line and the kernel's version";

/// Tries a sandbox, and says what held.
pub(super) async fn run(options: &Options, launcher: &Launcher, say: &mut impl FnMut(Line)) {
    let options = Options {
        templates: template::built_in().into_iter().filter(|(name, _)| name == TEMPLATE).collect(),
        spare_skeletons: 4,
        ..options.clone()
    };
    let word = format!("{}-{}", options.node, std::process::id());
    let provider = match LocalProvider::start(options.clone(), launcher.clone()).await {
        Ok(provider) => provider,
        Err(error) => {
            let found = format!("the engine does not start: {}", explain(&error));
            return say(Line::fault("sandbox", found, "mend what is said above"));
        }
    };
    let mut trial =
        Trial { provider: &provider, options: &options, made: 0, namespaces: Vec::new() };
    let tried = trial.all(say).await;
    let namespaces = trial.namespaces;
    if let Err(error) = tried {
        say(Line::fault("sandbox", format!("a sandbox failed: {error}"), MEND));
    }
    provider.close().await;
    say(leftovers(&word, &namespaces));
}

/// The error and its causes in one line.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

struct Trial<'a> {
    provider: &'a LocalProvider,
    options: &'a Options,
    made: u32,
    /// Of processes, one for every sandbox that was attacked or timed.
    namespaces: Vec<HeldNamespace>,
}

impl Trial<'_> {
    async fn all(&mut self, say: &mut impl FnMut(Line)) -> Result<(), ProviderError> {
        let started = sys::now();
        self.provider.prepare(TEMPLATE, Progress::silent()).await?;
        let (victim, beside) = (self.create().await?, self.create().await?);
        let found = format!("two were made {} ms after the start", since(started).as_millis());
        say(Line::ok("sandbox", found));
        self.attack(victim, beside, say).await?;
        self.provider.destroy(victim).await?;
        self.provider.destroy(beside).await?;
        say(Line::ok("sandbox", "both are gone, as seen from outside"));
        self.time(say).await
    }

    async fn attack(
        &mut self,
        victim: SandboxId,
        beside: SandboxId,
        say: &mut impl FnMut(Line),
    ) -> Result<(), ProviderError> {
        let failed = |error: std::io::Error| ProviderError::Failed {
            why: format!("no server to attack: {error}"),
            maybe_done: false,
        };
        let server = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let port = server.local_addr().map_err(failed)?.port();
        let mark = format!("sandpit-{}-{port}", std::process::id());
        let name = SocketAddr::from_abstract_name(&mark).map_err(failed)?;
        let _abstract_server = UnixListener::bind_addr(&name).map_err(failed)?;
        let leave_marks = format!(
            "import socket\nfor folder in ('/tmp', '/dev/shm', '/home/user'):\n    \
             open(f'{{folder}}/{mark}', 'w').close()\n\
             _server = socket.socket(socket.AF_UNIX)\n_server.bind('\\0{mark}-b')\n\
             _server.listen()\n1 + 1"
        );
        self.cell(beside, &leave_marks).await?;
        self.cell(victim, ESCAPES).await?;
        let store = self.options.store.display();
        let attacks = [
            ("H16", "what its first process is made of", "h16()".to_owned()),
            ("H17", "what /proc tells about the host", "h17()".to_owned()),
            ("H20", "sockets that no namespace covers", "h20()".to_owned()),
            ("H21", "the host's loopback and metadata addresses", format!("h21({port})")),
            ("H22", "the host's abstract sockets", format!("h22({mark:?})")),
            ("H24", "memory and descriptors of other processes", "h24()".to_owned()),
            ("H26", "limits of its first process", "h26()".to_owned()),
            (
                "H31",
                "the host's environment and folders",
                format!("h31([{:?}])", store.to_string()),
            ),
            ("H32", "writing what is shared", "h32()".to_owned()),
            ("H33", "mounts and namespaces", "h33()".to_owned()),
            ("H35", "parts of the kernel it has no use for", "h35()".to_owned()),
            ("H59", "another sandbox", format!("h59({mark:?}) + h22('{mark}-b')")),
        ];
        for (row, what, code) in attacks {
            let found = self.cell(victim, &code).await?;
            say(if found == "[]" {
                Line::ok("escape", format!("{row} {what}: refused"))
            } else {
                Line::fault("escape", format!("{row} {what}: {found}"), MEND)
            });
        }
        let answer = self.cell(beside, "1 + 1").await?;
        say(if answer == "2" {
            Line::ok("sandbox", "the one beside it still answers")
        } else {
            Line::fault("sandbox", format!("the one beside it answers {answer}"), MEND)
        });
        Ok(())
    }

    /// Times creates and executions.
    async fn time(&mut self, say: &mut impl FnMut(Line)) -> Result<(), ProviderError> {
        let mut creates = Vec::with_capacity(CREATES);
        for _ in 0..CREATES {
            let before = sys::now();
            let sandbox = self.create_only().await?;
            creates.push(since(before));
            self.provider.destroy(sandbox).await?;
        }
        let sandbox = self.create().await?;
        let mut execs = Vec::with_capacity(EXECS);
        for _ in 0..EXECS {
            let before = sys::now();
            self.cell(sandbox, "1 + 1").await?;
            execs.push(since(before));
        }
        self.provider.destroy(sandbox).await?;
        for (what, mut times) in [("creates", creates), ("executions of 1 + 1", execs)] {
            times.sort_unstable();
            let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
            let (half, most) = (at(50), at(99));
            let found =
                format!("{} {what}: {half:.2} ms in the middle, {most:.2} ms at 99 %", times.len());
            say(Line::ok("times", found));
        }
        Ok(())
    }

    /// Makes a sandbox and holds its namespace.
    async fn create(&mut self) -> Result<SandboxId, ProviderError> {
        let sandbox = self.create_only().await?;
        let number = "__import__('os').stat('/proc/self/ns/pid').st_ino";
        // Where sandboxes see no processes there is no number, and groups alone are looked at.
        let shown = self.cell(sandbox, number).await?;
        if let Ok(number) = shown.parse() {
            let held = HeldNamespace::of(number).map_err(|error| ProviderError::Failed {
                why: format!("its processes cannot be looked at: {error}"),
                maybe_done: true,
            })?;
            self.namespaces.push(held);
        }
        Ok(sandbox)
    }

    async fn create_only(&mut self) -> Result<SandboxId, ProviderError> {
        self.made += 1;
        let sandbox = SandboxId::minted(self.options.node, u128::from(self.made));
        let request = CreateRequest { sandbox, template: TEMPLATE.to_owned() };
        self.provider.create(request).await.map(|created| created.sandbox)
    }

    /// Runs a cell and gives what its last expression shows, or what it raised.
    async fn cell(&mut self, sandbox: SandboxId, code: &str) -> Result<String, ProviderError> {
        self.made += 1;
        let request = ExecRequest {
            exec: ExecId::minted(u128::from(self.made)),
            work: Work::Cell { code: code.to_owned(), params: None, context: None },
            files: BTreeMap::new(),
            env: BTreeMap::new(),
            cwd: None,
            stdin: bytes::Bytes::new(),
            time_max: TIME_MAX,
        };
        let mut stream = self.provider.exec(sandbox, request).await?;
        let mut shown = String::new();
        while let Some(event) = stream.next().await {
            match event {
                ExecEvent::Shown(value) => shown = value.text().unwrap_or_default().to_owned(),
                ExecEvent::Raised { name, value, .. } => shown = format!("{name}: {value}"),
                ExecEvent::Started { .. }
                | ExecEvent::Stdout(_)
                | ExecEvent::Stderr(_)
                | ExecEvent::Done(_) => {}
            }
        }
        Ok(shown)
    }
}

fn since(before: Moment) -> Duration {
    Duration::from_nanos(sys::now().as_nanos().saturating_sub(before.as_nanos()))
}

/// Whether the engine that ran left processes in these namespaces, or groups.
fn leftovers(word: &str, namespaces: &[HeldNamespace]) -> Line {
    let mut left = Vec::new();
    for namespace in namespaces {
        match namespace.usage() {
            Ok(None) => {}
            Ok(Some(usage)) => left.push(format!("processes {:?}", usage.processes)),
            Err(error) => left.push(format!("processes cannot be listed: {error}")),
        }
    }
    let backend = Backend::detect(CgroupChoice::Auto, &format!("{word}-leftovers"), None);
    for folder in backend.folders() {
        let of_engine = folder.with_file_name(format!("sandpit-{word}"));
        if of_engine.exists() {
            left.push(of_engine.display().to_string());
        }
    }
    if let Err(error) = backend.retire() {
        left.push(error.to_string());
    }
    if left.is_empty() {
        Line::ok("leftovers", "no process and no control group is left")
    } else {
        Line::fault("leftovers", left.join(", "), MEND)
    }
}
