//! An engine, two sandboxes, and what can be said about how something in them ended.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sandpit_actors::clock::Clock;
use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_messages::time::Moment;
use sandpit_sandbox::local::options::{Bounds, CgroupChoice, Layers, Options, TemplateSpec};
use sandpit_sandbox::local::{Launcher, LocalProvider, template};
use sandpit_sandbox::provider::{
    CreateRequest, Done, ExecEvent, ExecRequest, Limits, Outcome, Progress, Provider, Work,
};

/// Longest an execution of these tests may take.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(20);

/// Longest the sandbox beside may take to answer, on a machine that compiles at the same time.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The program that inner processes are started from.
pub(crate) fn launcher() -> Launcher {
    Launcher::Path(program())
}

/// The same, to be started by a test.
pub(crate) fn program() -> PathBuf {
    let program = std::env::var_os("SANDPIT_TEST_LAUNCHER");
    program.unwrap_or_else(|| env!("CARGO_BIN_EXE_sandpit-under-test").into()).into()
}

/// Where environments are built once for all tests.
pub(crate) fn store() -> PathBuf {
    match std::env::var_os("SANDPIT_TEST_STORE") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("engine-store"),
    }
}

/// A number that is used once in this run.
pub(crate) fn number() -> u32 {
    static NUMBERS: AtomicU32 = AtomicU32::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn options() -> Options {
    Options {
        node: NodeId::of_bits(number()),
        store: store(),
        python: None,
        uid_base: 200_000,
        cgroup: CgroupChoice::Auto,
        spare_skeletons: 0,
        sandboxes_max: 64,
        rotate_forks: 500,
        rotate_age: Duration::from_secs(1_800),
        huge_pages: true,
        bounds: Bounds::default(),
        templates: BTreeMap::from([("base".to_owned(), base())]),
        layers: Layers::default(),
    }
}

/// The standard library, with little memory, so that filling it is quick.
pub(crate) fn base() -> TemplateSpec {
    let limits = Limits { memory_mb: 256, cpu_count: 1 };
    TemplateSpec { limits, ..template::built_in().remove("base").expect("a built-in template") }
}

/// An engine.
pub(crate) struct Engine {
    pub(crate) provider: LocalProvider,
    node: NodeId,
}

/// What an execution said, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    /// What the last expression shows.
    pub(crate) shown: String,
    /// Name and text of what it raised.
    pub(crate) raised: Option<(String, String)>,
    pub(crate) done: Done,
}

impl Ran {
    pub(crate) fn outcome(&self) -> Outcome {
        self.done.outcome
    }

    /// What it raised, by name; empty if nothing.
    pub(crate) fn raised_name(&self) -> &str {
        self.raised.as_ref().map_or("", |(name, _)| name)
    }
}

impl Engine {
    pub(crate) async fn start() -> Self {
        Self::start_with(options()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let node = options.node;
        let provider = LocalProvider::start(options, launcher()).await.unwrap_or_else(|error| {
            panic!("no engine can be started here: {error}; `sandpit doctor` says more")
        });
        Self { provider, node }
    }

    /// What its groups are called after.
    pub(crate) fn word(&self) -> String {
        format!("{}-{}", self.node, std::process::id())
    }

    pub(crate) async fn create(&self) -> SandboxId {
        self.create_from("base").await
    }

    pub(crate) async fn create_from(&self, template: &str) -> SandboxId {
        self.provider.prepare(template, Progress::silent()).await.expect("a template");
        let sandbox = SandboxId::minted(self.node, u128::from(number()));
        let request = CreateRequest { sandbox, template: template.to_owned() };
        self.provider.create(request).await.expect("a sandbox").sandbox
    }

    /// A sandbox of an engine that has just lost a part of itself: as long as it says that it may
    /// work next time, it is asked again, as the pool does.
    pub(crate) async fn create_again(&self) -> SandboxId {
        let before = now();
        loop {
            let sandbox = SandboxId::minted(self.node, u128::from(number()));
            let request = CreateRequest { sandbox, template: "base".to_owned() };
            match self.provider.create(request).await {
                Ok(created) => return created.sandbox,
                Err(error) => {
                    let patient = since(before) < Duration::from_secs(10);
                    assert!(error.is_transient() && patient, "no sandbox again: {error}");
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    pub(crate) async fn run(&self, sandbox: SandboxId, work: Work, time_max: Duration) -> Ran {
        let request = ExecRequest { work, time_max, ..request() };
        let mut stream = self.provider.exec(sandbox, request).await.expect("an execution");
        let mut ran = Ran {
            out: String::new(),
            err: String::new(),
            shown: String::new(),
            raised: None,
            done: nothing(),
        };
        let mut ended = false;
        while let Some(event) = stream.next().await {
            assert!(!ended, "an event after the last: {event:?}");
            match event {
                ExecEvent::Started { .. } => {}
                ExecEvent::Stdout(bytes) => ran.out += &String::from_utf8_lossy(&bytes),
                ExecEvent::Stderr(bytes) => ran.err += &String::from_utf8_lossy(&bytes),
                ExecEvent::Shown(value) => ran.shown = value.text().unwrap_or_default().to_owned(),
                ExecEvent::Raised { name, value, .. } => ran.raised = Some((name, value)),
                ExecEvent::Done(done) => (ran.done, ended) = (done, true),
            }
        }
        assert!(ended, "the stream stopped without an end: {ran:?}");
        ran
    }

    pub(crate) async fn cell(&self, sandbox: SandboxId, code: &str) -> Ran {
        self.run(sandbox, cell(code), TIME_MAX).await
    }

    pub(crate) async fn line(&self, sandbox: SandboxId, line: &str) -> Ran {
        self.run(sandbox, Work::Line(line.to_owned()), TIME_MAX).await
    }

    /// What the last expression of `code` shows. Anything but a value fails the test.
    pub(crate) async fn value(&self, sandbox: SandboxId, code: &str) -> String {
        let ran = self.cell(sandbox, code).await;
        assert_eq!(ran.outcome(), Outcome::Ok, "{code}: {ran:?}");
        ran.shown
    }

    /// Destroys a sandbox, which must take less than a second and leave nothing in the list.
    pub(crate) async fn destroy(&self, sandbox: SandboxId) {
        let destroying = self.provider.destroy(sandbox);
        let destroyed = tokio::time::timeout(ANSWER_MAX, destroying).await;
        destroyed.expect("destroyed in time").expect("destroyed");
        let left = self.provider.list().await.expect("a list");
        assert!(left.iter().all(|info| info.sandbox != sandbox), "{left:?}");
    }

    pub(crate) async fn close(self) {
        self.provider.close().await;
    }
}

pub(crate) fn cell(code: &str) -> Work {
    Work::Cell { code: code.to_owned(), params: None, context: None }
}

pub(crate) fn request() -> ExecRequest {
    ExecRequest {
        exec: ExecId::minted(u128::from(number())),
        work: cell(""),
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        cwd: None,
        stdin: Bytes::new(),
        time_max: TIME_MAX,
    }
}

fn nothing() -> Done {
    Done {
        outcome: Outcome::Lost,
        context_kept: false,
        sandbox_usable: false,
        stdout_dropped: 0,
        stderr_dropped: 0,
        wall: Duration::ZERO,
        cpu: Duration::ZERO,
        max_rss: 0,
        survivors: 0,
    }
}

/// The steady clock of these tests.
fn clock() -> Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    *CLOCK.get_or_init(Clock::start)
}

pub(crate) fn now() -> Moment {
    clock().now()
}

pub(crate) fn since(before: Moment) -> Duration {
    Duration::from_nanos(now().as_nanos().saturating_sub(before.as_nanos()))
}

/// Runs `attack` on one sandbox while another one must keep answering; then destroys both, which
/// must work whatever the attack left behind.
pub(crate) async fn attacked<Fut>(attack: impl FnOnce(std::sync::Arc<Engine>, SandboxId) -> Fut)
where
    Fut: Future<Output = ()>,
{
    attacked_with(options(), attack).await;
}

pub(crate) async fn attacked_with<Fut>(
    options: Options,
    attack: impl FnOnce(std::sync::Arc<Engine>, SandboxId) -> Fut,
) where
    Fut: Future<Output = ()>,
{
    let engine = std::sync::Arc::new(Engine::start_with(options).await);
    let (victim, beside) = (engine.create().await, engine.create().await);
    let watch = async {
        let mut slowest = Duration::ZERO;
        loop {
            let before = now();
            assert_eq!(engine.value(beside, "1 + 1").await, "2", "the sandbox beside");
            slowest = slowest.max(since(before));
            assert!(slowest < ANSWER_MAX, "the sandbox beside took {slowest:?} to answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = attack(std::sync::Arc::clone(&engine), victim) => {}
        () = watch => {}
    }
    assert_eq!(engine.value(beside, "1 + 1").await, "2", "the sandbox beside, afterwards");
    engine.destroy(victim).await;
    engine.destroy(beside).await;
    std::sync::Arc::into_inner(engine).expect("the attack is over").close().await;
}
