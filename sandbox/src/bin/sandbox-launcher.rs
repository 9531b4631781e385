//! The engine's inner processes, so that this crate's own tests have a program to start them
//! from; and with arguments an engine with sandboxes, so that they have one to kill. Not shipped.

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    sandpit_sandbox::local::entry();
    hold::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod hold {
    use std::io::Write;
    use std::time::Duration;

    use sandpit_messages::id::{NodeId, SandboxId};
    use sandpit_sandbox::Provider;
    use sandpit_sandbox::local::options::{Bounds, CgroupChoice, Layers, Options};
    use sandpit_sandbox::local::{Launcher, LocalProvider, template};
    use sandpit_sandbox::provider::{CreateRequest, Progress};

    /// Longest it lives when nobody kills it.
    const LIFE_MAX: Duration = Duration::from_secs(120);

    /// Arguments: the store, the number of a node, how many sandboxes, and how many of them are
    /// paused.
    pub(super) fn run() -> Result<(), Box<dyn std::error::Error>> {
        let mut arguments = std::env::args().skip(1);
        let mut next = || arguments.next().ok_or("four arguments: store, node, sandboxes, paused");
        let (store, node) = (next()?, next()?.parse()?);
        let (count, paused) = (next()?.parse()?, next()?.parse()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(hold(store.into(), NodeId::of_bits(node), count, paused))
    }

    async fn hold(
        store: std::path::PathBuf,
        node: NodeId,
        count: u64,
        paused: u64,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let options = Options {
            node,
            store,
            python: None,
            uid_base: 200_000,
            cgroup: CgroupChoice::Auto,
            spare_skeletons: 2,
            sandboxes_max: 64,
            rotate_forks: 500,
            rotate_age: Duration::from_secs(1_800),
            huge_pages: false,
            bounds: Bounds::default(),
            templates: template::built_in(),
            layers: Layers::default(),
        };
        let provider = LocalProvider::start(options, Launcher::CurrentExe).await?;
        provider.prepare("base", Progress::silent()).await?;
        for number in 0..count {
            let sandbox = SandboxId::minted(node, u128::from(number));
            provider.create(CreateRequest { sandbox, template: "base".to_owned() }).await?;
            if number < paused {
                provider.pausing()?.pause(sandbox).await?;
            }
        }
        writeln!(std::io::stdout(), "ready")?;
        tokio::time::sleep(LIFE_MAX).await;
        provider.close().await;
        Ok(())
    }
}
