//! An engine, and what its executions said.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_sandbox::Provider;
use sandpit_sandbox::local::options::{Bounds, CgroupChoice, Layers, Options, TemplateSpec};
use sandpit_sandbox::local::{Launcher, LocalProvider, template};
use sandpit_sandbox::provider::contexts::{ContextId, Shown};
use sandpit_sandbox::provider::{
    CreateRequest, Done, ExecEvent, ExecRequest, ExecStream, Limits, Outcome, Progress,
    ProviderError, Work,
};

/// Longest an execution may take that is not about time.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(30);

/// Longest anything is waited for that is not an execution.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest what is asked to stop may take to do so, on a machine that also compiles: what would
/// stop is not killed because the machine stood still for a moment.
const GRACE: Duration = Duration::from_secs(2);

/// Names a program that these tests start inner processes from, where the one that was built
/// cannot be read by the user who runs them.
pub(crate) const LAUNCHER: &str = "SANDPIT_TEST_LAUNCHER";

/// Names the folder environments are kept in.
pub(crate) const STORE: &str = "SANDPIT_TEST_STORE";

pub(crate) fn launcher() -> PathBuf {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_sandbox-launcher"));
    std::env::var_os(LAUNCHER).map_or_else(built, PathBuf::from)
}

pub(crate) fn store() -> PathBuf {
    let own = || PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("local-store");
    std::env::var_os(STORE).map_or_else(own, PathBuf::from)
}

/// A number that is used once in this run.
pub(crate) fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn options() -> Options {
    let bits = u32::try_from(number()).unwrap() | (std::process::id() << 8);
    Options {
        node: NodeId::of_bits(bits),
        store: store(),
        python: None,
        uid_base: 200_000,
        cgroup: CgroupChoice::Auto,
        spare_skeletons: 0,
        sandboxes_max: 32,
        rotate_forks: 500,
        rotate_age: Duration::from_secs(1_800),
        huge_pages: false,
        bounds: Bounds { grace: GRACE, ..Bounds::default() },
        templates: BTreeMap::from([("base".to_owned(), base())]),
        layers: Layers::default(),
    }
}

/// The standard library, with little memory, so that filling it is quick.
pub(crate) fn base() -> TemplateSpec {
    let limits = Limits { memory_mb: 256, cpu_count: 1 };
    TemplateSpec { limits, ..template::built_in().remove("base").unwrap() }
}

/// An engine with the template `base`.
pub(crate) struct Engine {
    pub(crate) provider: LocalProvider,
}

/// What an execution said, and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) result: Option<String>,
    pub(crate) shown: Vec<Shown>,
    /// Name, text and traceback.
    pub(crate) raised: Option<(String, String, String)>,
    pub(crate) pid: u32,
    pub(crate) count: Option<u64>,
    pub(crate) done: Option<Done>,
}

impl Ran {
    /// All that comes until the end.
    pub(crate) async fn of(mut stream: ExecStream) -> Self {
        let mut ran = Self::default();
        while let Some(event) = stream.next().await {
            ran.take(event);
        }
        ran
    }

    pub(crate) fn done(&self) -> &Done {
        self.done.as_ref().expect("every execution ends with how it ended")
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.done().outcome
    }

    fn take(&mut self, event: ExecEvent) {
        assert_eq!(self.done, None, "nothing follows the end: {event:?}");
        match event {
            ExecEvent::Started { pid, count } => (self.pid, self.count) = (pid, count),
            ExecEvent::Stdout(bytes) => self.stdout.push_str(&String::from_utf8_lossy(&bytes)),
            ExecEvent::Stderr(bytes) => self.stderr.push_str(&String::from_utf8_lossy(&bytes)),
            ExecEvent::Shown(shown) => {
                if shown.is_main {
                    self.result = shown.text().map(str::to_owned);
                }
                self.shown.push(shown);
            }
            ExecEvent::Raised { name, value, traceback } => {
                self.raised = Some((name, value, traceback));
            }
            ExecEvent::Done(done) => self.done = Some(done),
        }
    }
}

pub(crate) fn request(work: Work) -> ExecRequest {
    ExecRequest {
        exec: ExecId::minted(u128::from(number())),
        work,
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        cwd: None,
        stdin: Bytes::new(),
        time_max: TIME_MAX,
    }
}

pub(crate) fn cell(code: &str) -> ExecRequest {
    request(Work::Cell { code: code.to_owned(), params: None, context: None })
}

pub(crate) fn cell_in(context: &ContextId, code: &str) -> ExecRequest {
    let context = Some(context.clone());
    request(Work::Cell { code: code.to_owned(), params: None, context })
}

pub(crate) fn line(line: &str) -> ExecRequest {
    request(Work::Line(line.to_owned()))
}

impl Engine {
    pub(crate) async fn start() -> Self {
        Self::start_with(options()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let provider = LocalProvider::start(options, Launcher::Path(launcher())).await;
        let provider = provider.unwrap_or_else(|error| panic!("no engine here: {error:?}"));
        provider.prepare("base", Progress::silent()).await.expect("the template is prepared");
        Self { provider }
    }

    pub(crate) async fn create(&self) -> SandboxId {
        self.create_from("base").await
    }

    pub(crate) async fn create_from(&self, template: &str) -> SandboxId {
        self.try_create_from(template).await.expect("a sandbox is made")
    }

    pub(crate) async fn try_create(&self) -> Result<SandboxId, ProviderError> {
        self.try_create_from("base").await
    }

    async fn try_create_from(&self, template: &str) -> Result<SandboxId, ProviderError> {
        let sandbox = SandboxId::minted(NodeId::of_bits(1), u128::from(number()));
        let request = CreateRequest { sandbox, template: template.to_owned() };
        self.provider.create(request).await.map(|made| made.sandbox)
    }

    pub(crate) async fn run(&self, sandbox: SandboxId, request: ExecRequest) -> Ran {
        Ran::of(self.provider.exec(sandbox, request).await.expect("an execution begins")).await
    }

    pub(crate) async fn cell(&self, sandbox: SandboxId, code: &str) -> Ran {
        self.run(sandbox, cell(code)).await
    }

    pub(crate) async fn line(&self, sandbox: SandboxId, text: &str) -> Ran {
        self.run(sandbox, line(text)).await
    }

    pub(crate) async fn close(self) {
        tokio::time::timeout(WAIT_MAX, self.provider.close()).await.expect("the engine closes");
    }
}
