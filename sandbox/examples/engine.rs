//! Measures the local engine on this machine: create, execute, destroy, memory.
//!
//! `cargo run --release -p sandpit-sandbox --example engine -- [template] [sandboxes] [executions]`

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_sandbox::Provider;
use sandpit_sandbox::local::options::{Bounds, CgroupChoice, Layers, Options};
use sandpit_sandbox::local::{Launcher, LocalProvider, entry, template};
use sandpit_sandbox::provider::contexts::Shown;
use sandpit_sandbox::provider::{
    CreateRequest, ExecEvent, ExecRequest, Progress, ProviderError, Work,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    entry();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure())
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn now() -> Instant {
    Instant::now()
}

async fn measure() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let template = arguments.next().unwrap_or_else(|| "base".to_owned());
    let sandboxes: u64 = arguments.next().map_or(Ok(50), |text| text.parse())?;
    let executions: u64 = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let store = std::env::var_os("SANDPIT_STORE")
        .map_or_else(|| std::env::temp_dir().join("sandpit-example"), PathBuf::from);
    let options = Options {
        node: NodeId::of_bits(std::process::id()),
        store,
        python: None,
        uid_base: 200_000,
        cgroup: CgroupChoice::Auto,
        spare_skeletons: 0,
        sandboxes_max: 1_000,
        rotate_forks: 500,
        rotate_age: Duration::from_secs(1_800),
        huge_pages: true,
        bounds: Bounds::default(),
        templates: template::built_in(),
        layers: Layers::default(),
    };
    for spares in [0, 16] {
        let options = Options { spare_skeletons: spares, ..options.clone() };
        println!("spare skeletons: {spares}");
        let started = now();
        let provider = LocalProvider::start(options, Launcher::CurrentExe).await?;
        println!("  start        {:?} {:?}", started.elapsed(), provider.descriptor());
        let started = now();
        provider.prepare(&template, Progress::silent()).await?;
        println!("  prepare      {:?}", started.elapsed());
        cycle(&provider, &template, sandboxes, executions).await?;
        provider.close().await;
    }
    Ok(())
}

async fn cycle(
    provider: &LocalProvider,
    template: &str,
    sandboxes: u64,
    executions: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let (mut create, mut first, mut destroy) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..sandboxes {
        let sandbox = SandboxId::numbered(number);
        let started = now();
        make(provider, sandbox, template).await?;
        create.push(started.elapsed());
        let started = now();
        run(provider, sandbox, 0, "1+1").await?;
        first.push(started.elapsed());
        let started = now();
        provider.destroy(sandbox).await?;
        destroy.push(started.elapsed());
    }
    show("create", create);
    show("first exec", first);
    show("destroy", destroy);

    let sandbox = SandboxId::numbered(sandboxes);
    make(provider, sandbox, template).await?;
    let mut warm = Vec::new();
    for number in 0..executions {
        let started = now();
        run(provider, sandbox, number, "1+1").await?;
        warm.push(started.elapsed());
    }
    show("warm exec", warm);
    let mut shell = Vec::new();
    for number in 0..sandboxes {
        let started = now();
        work(provider, sandbox, number, Work::Program(vec!["/bin/true".to_owned()])).await?;
        shell.push(started.elapsed());
    }
    show("/bin/true", shell);
    provider.destroy(sandbox).await?;

    let before = available()?;
    let started = now();
    for number in 0..sandboxes {
        make(provider, SandboxId::numbered(number), template).await?;
    }
    println!("  {sandboxes} at once   {:?}", started.elapsed());
    let used = before.saturating_sub(available()?);
    println!("  idle memory  {} KiB each", used / sandboxes.max(1));
    let started = now();
    for number in 0..sandboxes {
        provider.destroy(SandboxId::numbered(number)).await?;
    }
    println!("  destroyed    {:?}", started.elapsed());
    Ok(())
}

fn available() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    Ok(line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0))
}

async fn make(
    provider: &LocalProvider,
    sandbox: SandboxId,
    template: &str,
) -> Result<(), ProviderError> {
    let request = CreateRequest { sandbox, template: template.to_owned() };
    provider.create(request).await.map(drop)
}

async fn run(
    provider: &LocalProvider,
    sandbox: SandboxId,
    number: u64,
    code: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let cell = Work::Cell { code: code.to_owned(), params: None, context: None };
    let events = work(provider, sandbox, number, cell).await?;
    if !events.contains(&ExecEvent::Shown(Shown::value("2"))) {
        return Err(format!("{events:?}").into());
    }
    Ok(())
}

async fn work(
    provider: &LocalProvider,
    sandbox: SandboxId,
    number: u64,
    work: Work,
) -> Result<Vec<ExecEvent>, ProviderError> {
    let request = ExecRequest {
        exec: ExecId::numbered(number),
        work,
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        cwd: None,
        stdin: Bytes::new(),
        time_max: Duration::from_secs(10),
    };
    let mut stream = provider.exec(sandbox, request).await?;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    Ok(events)
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    println!("  {what:<12} p50 {:?} p90 {:?} p99 {:?}", at(50), at(90), at(99));
}
