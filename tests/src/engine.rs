//! An engine in a process that tests may kill.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_sandbox::fetch::Source;
use sandpit_sandbox::local::mode;
use sandpit_sandbox::local::options::{Bounds, CgroupChoice, Layers, Options};
use sandpit_sandbox::local::{Launcher, LocalProvider, probe, template};
use sandpit_sandbox::provider::{CreateRequest, ExecRequest, Layer, Progress, Provider, Work};

/// Sandboxes that are held.
const SANDBOXES: u32 = 4;

/// Starts an engine and sandboxes in which something runs, says each step, and stays until it is
/// killed.
pub(crate) fn hold_sandboxes(store: &str, node: &str) -> ExitCode {
    let node = NodeId::of_bits(node.parse().expect("a number"));
    println!("engine {node}-{}", std::process::id());
    let options = options(store, node);
    runtime().block_on(async {
        let engine = LocalProvider::start(options, Launcher::CurrentExe).await.expect("an engine");
        println!("started");
        engine.prepare("base", Progress::silent()).await.expect("a template");
        let mut streams = Vec::new();
        for number in 1..=SANDBOXES {
            let sandbox = SandboxId::minted(node, u128::from(number));
            let request = CreateRequest { sandbox, template: "base".to_owned() };
            engine.create(request).await.expect("a sandbox");
            println!("created {number}");
            let line = "setsid sleep 1000 & while :; do :; done".to_owned();
            let request = ExecRequest {
                exec: ExecId::minted(u128::from(number)),
                work: Work::Line(line),
                files: BTreeMap::new(),
                env: BTreeMap::new(),
                cwd: None,
                stdin: bytes::Bytes::new(),
                time_max: Duration::from_mins(10),
            };
            let mut stream = engine.exec(sandbox, request).await.expect("an execution");
            stream.next().await;
            streams.push(stream);
        }
        println!("busy");
        std::future::pending::<ExitCode>().await
    })
}

fn options(store: &str, node: NodeId) -> Options {
    Options {
        node,
        store: store.into(),
        python: None,
        uid_base: 200_000,
        cgroup: CgroupChoice::Auto,
        spare_skeletons: 2,
        sandboxes_max: 16,
        rotate_forks: 500,
        rotate_age: Duration::from_mins(30),
        huge_pages: true,
        bounds: Bounds::default(),
        templates: template::built_in(),
        layers: Layers::default(),
    }
}

/// Builds a template on top of another one, and says each step, so that it can be killed in any.
pub(crate) fn build_layer(store: &str, wheels: &str) -> ExitCode {
    let layers = Layers { source: Source::Folder(wheels.into()), ..Layers::default() };
    let options = Options { layers, ..options(store, NodeId::of_bits(7)) };
    let progress = Progress::new(|step| println!("{}", step.stage));
    let layer = Layer {
        packages: vec!["paper".to_owned()],
        setup: vec!["echo whole > file; sleep 0.3".to_owned()],
        ..Layer::on("base")
    };
    runtime().block_on(async {
        let engine = LocalProvider::start(options, Launcher::CurrentExe).await.expect("an engine");
        let built = engine.build(&layer, progress).await.expect("a template");
        println!("built {}", built.name);
        std::future::pending::<ExitCode>().await
    })
}

/// Says how sandboxes would be held apart here, or why they cannot be.
pub(crate) fn say_mode(uid_base: &str) -> ExitCode {
    let uid_base = uid_base.parse().expect("a number");
    let facts = runtime().block_on(probe::gather(uid_base, &Launcher::CurrentExe));
    match mode::choose(&facts.expect("facts")) {
        Ok(mode) => println!("{}", mode.name()),
        Err(cause) => println!("{}: {cause}\n{}", cause.code(), cause.next()),
    }
    ExitCode::SUCCESS
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}
