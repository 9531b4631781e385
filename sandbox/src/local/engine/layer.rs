//! Templates that callers ask for: built on top of others, written down from sandboxes, taken in
//! from other nodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sandpit_messages::id::{ExecId, SandboxId};
use tokio::sync::watch;

use super::super::options::TemplateSpec;
use super::super::template::library::{self, Work};
use super::super::template::recipe::{self, Blob, HOME, Recipe, WHEELS};
use super::super::template::{self as store, TemplateError, wheels};
use super::link::{Skeleton, lock};
use super::provider::failed;
use super::sandbox::Sandbox;
use super::template::{Template, Top};
use super::{Engine, run};
use crate::provider::{
    ExecEvent, ExecRequest, KilledBy, Layer, Outcome, Progress, ProviderError, TemplateInfo,
};

mod carry;
mod home;

/// Layers built at once. Each keeps pip, a compiler or a setup command busy.
const BUILDS_MAX: usize = 4;

/// Bytes of what a failed command said that are told.
const SAID_MAX: usize = 4_096;

/// A template that is on the disk and can be started.
pub(super) struct Ready {
    pub(super) info: TemplateInfo,
    pub(super) spec: TemplateSpec,
    pub(super) made: store::Template,
    pub(super) top: Top,
}

/// A layer as the library has it.
pub(super) struct Stored {
    recipe: Recipe,
    folder: PathBuf,
}

/// How a build went, for all who wait for it.
type Built = Option<Result<TemplateInfo, ProviderError>>;

/// Layers being built, by id.
pub(super) type Builds = BTreeMap<String, watch::Receiver<Built>>;

/// What is told when it cannot be used, and by which argument it was asked for.
fn not_built(field: &'static str, step: &str, said: impl Into<String>) -> ProviderError {
    ProviderError::NotBuilt { field, step: step.to_owned(), said: said.into() }
}

fn on_disk(error: TemplateError) -> ProviderError {
    failed(error.explain())
}

fn rejected(why: impl Into<String>) -> ProviderError {
    ProviderError::Rejected { why: why.into() }
}

// Building.
impl Engine {
    pub(super) fn stored_layer(&self, id: &str) -> Option<Stored> {
        let library = lock(&self.library);
        let recipe = library.recipe(id)?.clone();
        Some(Stored { recipe, folder: library.layer(id) })
    }

    /// Makes sure that everything a layer stands on is on the disk.
    pub(super) async fn ready_layer(
        &self,
        id: &str,
        Stored { recipe, folder }: Stored,
        progress: &Progress,
    ) -> Result<Ready, ProviderError> {
        let (spec, below) = self.below(&recipe, progress).await?;
        let home = recipe.home.is_some().then(|| folder.join(HOME));
        self.ready(id, &recipe, &folder, spec, &below, home, progress).await
    }

    /// The configured template below a recipe, on the disk.
    async fn below(
        &self,
        recipe: &Recipe,
        progress: &Progress,
    ) -> Result<(TemplateSpec, store::Template), ProviderError> {
        let base = &recipe.base;
        let spec = self.options.templates.get(base);
        let spec = spec.ok_or_else(|| rejected(format!("this node has no template `{base}`")))?;
        if store::spec_digest(spec) != recipe.base_digest {
            let why = format!("template `{base}` of this node has other packages or data");
            return Err(rejected(why));
        }
        let below = self.on_disk(base, spec, progress).await?;
        if !recipe.python.is_empty() && recipe.python != wheels::python_of(&below) {
            let (theirs, ours) = (&recipe.python, wheels::python_of(&below));
            return Err(rejected(format!(
                "its packages were made for Python {theirs}, and this node has {ours}"
            )));
        }
        Ok((TemplateSpec { limits: recipe.limits(), ..spec.clone() }, below))
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of one template")]
    async fn ready(
        &self,
        id: &str,
        recipe: &Recipe,
        folder: &Path,
        spec: TemplateSpec,
        below: &store::Template,
        home: Option<PathBuf>,
        progress: &Progress,
    ) -> Result<Ready, ProviderError> {
        let wheel = |blob: &Blob| (folder.join(WHEELS).join(&blob.name), blob.sha256.clone());
        let wheels: Vec<_> = recipe.wheels.iter().map(wheel).collect();
        let environment = store::extend(&self.options, below, &wheels, progress).await;
        let environment = environment.map_err(|error| {
            not_built("install_packages", "unpacking the packages", wheels::said(&error))
        })?;
        let digest = store::layered_digest(below, &environment, id);
        let made = store::Template { digest: digest.clone(), environment, ..below.clone() };
        let info = TemplateInfo { name: id.to_owned(), digest, limits: recipe.limits() };
        let top = Top {
            env: recipe.env.clone(),
            spares_max: Some(self.options.layers.spare_skeletons),
            ..Top::default()
        };
        if let Some(home) = home {
            top.home.get_or_init(|| home);
        }
        Ok(Ready { info, spec, made, top })
    }

    /// The recipe of what a layer is put on, and where its parts are.
    fn recipe_below(&self, base: &str) -> Result<Stored, ProviderError> {
        if let Some(spec) = self.options.templates.get(base) {
            let recipe = Recipe::of_base(base, store::spec_digest(spec), spec.limits);
            return Ok(Stored { recipe, folder: self.options.store.clone() });
        }
        let id = lock(&self.library).resolve(base).map(str::to_owned);
        let stored = id.and_then(|id| self.stored_layer(&id));
        stored.ok_or_else(|| ProviderError::NoSuchTemplate { name: base.to_owned() })
    }

    /// Builds a layer, or waits for whoever builds the same, or finds it built. The building goes
    /// on if nobody waits any more.
    pub(super) async fn build_layer(
        self: &Arc<Self>,
        layer: &Layer,
        progress: Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        let below = self.recipe_below(&layer.base)?;
        let id = recipe::id_of_layer(layer, &below.recipe, &self.interpreter.build);
        if lock(&self.library).recipe(&id).is_some() {
            return self.prepare(&id, &progress).await;
        }
        let mut built = self.join_build(&id, layer, below, progress)?;
        let settled = built.wait_for(Option::is_some).await;
        settled
            .ok()
            .and_then(|settled| settled.clone())
            .unwrap_or_else(|| Err(failed("building the template was interrupted")))
    }

    fn join_build(
        self: &Arc<Self>,
        id: &str,
        layer: &Layer,
        below: Stored,
        progress: Progress,
    ) -> Result<watch::Receiver<Built>, ProviderError> {
        let mut builds = lock(&self.builds);
        if let Some(built) = builds.get(id) {
            return Ok(built.clone());
        }
        if builds.len() >= BUILDS_MAX {
            return Err(ProviderError::Busy { queued: builds.len() });
        }
        self.room_for_one()?;
        let (tell, built) = watch::channel(None);
        builds.insert(id.to_owned(), built.clone());
        let (engine, id, layer) = (Arc::clone(self), id.to_owned(), layer.clone());
        tokio::spawn(async move {
            let building = Building { engine: &engine, id: &id };
            let outcome = engine.build_now(&id, &layer, below, &progress).await;
            // Why is for whoever asked: it may hold what their commands said.
            let built = outcome.is_ok();
            tracing::info!(template = id, built, "the build of a template ended");
            drop(building);
            // Nobody may be waiting any more.
            let _ = tell.send(Some(outcome));
        });
        Ok(built)
    }

    fn room_for_one(&self) -> Result<(), ProviderError> {
        let max = self.options.layers.kept_max;
        if lock(&self.library).count() < max {
            return Ok(());
        }
        let what = format!(
            "room for templates: {max} are kept at most; raise `provider.local.layers_max`, or \
             remove some from the data directory of a node that does not run"
        );
        Err(ProviderError::Quota { what })
    }

    async fn build_now(
        self: &Arc<Self>,
        id: &str,
        layer: &Layer,
        below: Stored,
        progress: &Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        let path = lock(&self.library).lock_path(id);
        let _lock = store::lock(&path, progress).await.map_err(on_disk)?;
        let work = lock(&self.library).begin(id).map_err(on_disk)?;
        let mut recipe = below.recipe.clone();
        recipe.name = String::new();
        recipe.memory_mb = layer.memory_mb.unwrap_or(recipe.memory_mb);
        recipe.cpu_count = layer.cpu_count.unwrap_or(recipe.cpu_count);
        recipe.env.extend(layer.env.clone());
        link_parts(&below, work.path())?;
        let (spec, base) = self.below(&recipe, progress).await?;
        self.add_packages(&mut recipe, layer, &below, &base, &work, progress).await?;
        let ready = self.ready(id, &recipe, work.path(), spec, &base, None, progress).await?;
        let template = {
            let _one = self.preparing.lock().await;
            self.start_template(ready, progress).await
        };
        let finished = match template {
            Ok(template) => self.finish_build(id, layer, recipe, &template, work, progress).await,
            Err(error) => Err(error),
        };
        if finished.is_err() {
            self.retire_template(id).await;
        }
        finished
    }

    /// Puts the wheels of a layer beside those below.
    async fn add_packages(
        &self,
        recipe: &mut Recipe,
        layer: &Layer,
        below: &Stored,
        base: &store::Template,
        work: &Work,
        progress: &Progress,
    ) -> Result<(), ProviderError> {
        if layer.packages.is_empty() {
            return Ok(());
        }
        // What is below keeps its versions, so its environment is what pip must know.
        let wheel = |blob: &Blob| (below.folder.join(WHEELS).join(&blob.name), blob.sha256.clone());
        let there: Vec<_> = below.recipe.wheels.iter().map(wheel).collect();
        let environment = store::extend(&self.options, base, &there, progress).await;
        let environment = environment.map_err(on_disk)?;
        let under = store::Template { environment, ..base.clone() };
        let (into, scratch) = (work.path().join("new"), work.path().join("scratch"));
        for folder in [&into, &scratch] {
            fs::create_dir(folder).map_err(failed)?;
        }
        let source = &self.options.layers.source;
        let found =
            wheels::download(&layer.packages, &under, source, &into, &scratch, progress).await;
        let found = found.map_err(|error| match error {
            // The index is not the caller's fault.
            TemplateError::Packages(crate::fetch::FetchError::Refused { .. })
            | TemplateError::Step { .. } => {
                let step = format!("finding the packages {}", layer.packages.join(", "));
                not_built("install_packages", &step, wheels::said(&error))
            }
            other => on_disk(other),
        })?;
        for blob in &found {
            let (from, to) = (into.join(&blob.name), work.path().join(WHEELS).join(&blob.name));
            fs::rename(from, to).map_err(failed)?;
        }
        for folder in [&into, &scratch] {
            fs::remove_dir_all(folder).map_err(failed)?;
        }
        recipe.wheels.extend(found);
        recipe.wheels.sort();
        recipe.python = wheels::python_for(&recipe.wheels, base);
        Ok(())
    }

    /// Runs what is to be run in a sandbox of the template, keeps what it leaves, and makes all of
    /// it a template.
    async fn finish_build(
        self: &Arc<Self>,
        id: &str,
        layer: &Layer,
        mut recipe: Recipe,
        template: &Arc<Template>,
        work: Work,
        progress: &Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        let has_home = recipe.home.is_some();
        if !layer.files.is_empty() || !layer.setup.is_empty() {
            let below = has_home.then(|| work.path().join(HOME));
            let trial = self.trial(template).await?;
            if let Some(below) = below {
                self.unpack_home(&trial.sandbox, &below).await?;
            }
            self.set_up(&trial.sandbox, layer, progress).await?;
            let home = work.path().join(HOME);
            // The one below is shared with its template, which must keep its own.
            let _ = fs::remove_file(&home);
            progress.say("keeping what the setup left", None);
            let (blob, _) = self.pack_home(&trial.sandbox, &home).await?;
            recipe.home = Some(blob);
            recipe.includes_data = false;
        }
        if recipe.home.is_some() {
            let place = lock(&self.library).layer(id).join(HOME);
            template.top.home.get_or_init(|| place);
        }
        let (engine, id) = (Arc::clone(self), id.to_owned());
        off_thread(move || engine.keep(&id, &recipe, work)).await?;
        Ok(template.info.clone())
    }

    /// Makes what was worked on a template.
    fn keep(&self, id: &str, recipe: &Recipe, work: Work) -> Result<(), ProviderError> {
        // Syncing the disk must keep nobody waiting who only looks.
        let place = lock(&self.library).layer(id);
        library::move_in(&place, recipe, work).map_err(on_disk)?;
        lock(&self.library).add(id, recipe);
        Ok(())
    }

    /// Writes the files of a layer and runs its commands, one after the other.
    async fn set_up(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        layer: &Layer,
        progress: &Progress,
    ) -> Result<(), ProviderError> {
        let all = layer.setup.len().max(1);
        let commands: Vec<&str> = match layer.setup.is_empty() {
            // Files alone.
            true => vec![":"],
            false => layer.setup.iter().map(String::as_str).collect(),
        };
        for (number, line) in commands.into_iter().enumerate() {
            progress.say(&format!("setup command {} of {all}", number + 1), None);
            let first = number == 0;
            let request = ExecRequest {
                exec: ExecId::minted(u128::from(self.number())),
                work: crate::provider::Work::Line(line.to_owned()),
                files: if first { layer.files.clone() } else { BTreeMap::new() },
                env: BTreeMap::new(),
                cwd: None,
                stdin: Bytes::new(),
                time_max: self.options.layers.setup_max,
            };
            let (outcome, said) = self.run_to_end(sandbox, request).await;
            let how = match outcome {
                Outcome::Ok | Outcome::Exit(0) => continue,
                Outcome::Exit(code) => format!("it ended with exit code {code}"),
                Outcome::Killed(KilledBy::Timeout) | Outcome::Interrupted { .. } => {
                    let max = self.options.layers.setup_max.as_secs();
                    format!("it took longer than {max} s")
                }
                Outcome::Killed(KilledBy::Memory) => {
                    format!("it needed more than {} MiB", sandbox.template.info.limits.memory_mb)
                }
                other => format!("it was ended ({other:?})"),
            };
            let line: String = line.chars().take(200).collect();
            let step = format!("setup command {} (`{line}`)", number + 1);
            let no_words = "nothing; commands run in /home/user, without a network";
            let said = if said.is_empty() { no_words.to_owned() } else { said };
            return Err(not_built("setup", &step, format!("{said} [{how}]")));
        }
        Ok(())
    }

    /// Runs a command to its end; what it wrote to standard error, or else to standard output.
    async fn run_to_end(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        request: ExecRequest,
    ) -> (Outcome, String) {
        sandbox.queued.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let place = run::Queued::new(Arc::clone(sandbox));
        let (events, mut heard) = tokio::sync::mpsc::channel(16);
        let turn = sandbox.contexts.default.turn();
        let running = run::run(Arc::clone(self), place, turn, request, Arc::default(), events);
        tokio::spawn(running);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let keep = |kept: &mut Vec<u8>, bytes: &Bytes| {
            kept.extend_from_slice(bytes);
            kept.drain(..kept.len().saturating_sub(SAID_MAX));
        };
        while let Some(event) = heard.recv().await {
            match event {
                ExecEvent::Stdout(bytes) => keep(&mut out, &bytes),
                ExecEvent::Stderr(bytes) => keep(&mut err, &bytes),
                ExecEvent::Done(done) => {
                    let said = if err.is_empty() { out } else { err };
                    let said = String::from_utf8_lossy(&said).trim().to_owned();
                    return (done.outcome, said);
                }
                ExecEvent::Started { .. } | ExecEvent::Shown(_) | ExecEvent::Raised { .. } => {}
            }
        }
        (Outcome::Lost, String::new())
    }

    /// A sandbox that nobody gets: it is on no list, and ends with what this gives.
    async fn trial(self: &Arc<Self>, template: &Arc<Template>) -> Result<Trial, ProviderError> {
        let keeper = template.up().await?;
        let id = SandboxId::minted(self.options.node, u128::from(self.number()));
        let mut kept = None;
        let made = self.try_make(id, template, &keeper, &mut kept).await;
        let skeleton = kept.map(TrialEnd);
        Ok(Trial { sandbox: made?, _end: skeleton })
    }

    /// Ends a template that was started and is not to be used.
    async fn retire_template(&self, id: &str) {
        let Some(template) = lock(&self.templates).remove(id) else { return };
        if let Some(keeper) = template.keeper() {
            // It ends with its socket, and everything below it.
            let _ = rustix::net::shutdown(&keeper.socket, rustix::net::Shutdown::Both);
        }
        for _ in 0..RETIRE_LOOKS {
            if template.group.remove().is_ok() {
                return;
            }
            tokio::time::sleep(RETIRE_PAUSE).await;
        }
        tracing::debug!(template = id, "the next start removes a template's group");
    }
}

/// How often, and after which pauses, it is tried to remove the group of a template that ends.
const RETIRE_LOOKS: u32 = 40;
const RETIRE_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A build is on the list as long as this lives.
struct Building<'a> {
    engine: &'a Engine,
    id: &'a str,
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        lock(&self.engine.builds).remove(self.id);
    }
}

/// A sandbox that nobody gets.
struct Trial {
    sandbox: Arc<Sandbox>,
    _end: Option<TrialEnd>,
}

struct TrialEnd(Arc<Skeleton>);

impl Drop for TrialEnd {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Puts the parts of a template into a folder, each of them the same on the disk.
fn link_parts(from: &Stored, to: &Path) -> Result<(), ProviderError> {
    for part in from.recipe.parts() {
        fs::hard_link(from.folder.join(&part.path), to.join(&part.path)).map_err(failed)?;
    }
    Ok(())
}

/// Runs what may take long on a disk where it keeps nobody waiting.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
