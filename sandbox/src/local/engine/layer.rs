//! Templates that callers ask for: built on top of others, written down from sandboxes, taken in
//! from other nodes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sandpit_messages::id::{ExecId, SandboxId};
use tokio::sync::watch;

use super::super::options::TemplateSpec;
use super::super::template::archive::{self, ArchiveError, Written};
use super::super::template::library::{self, Entry, Received, Work};
use super::super::template::recipe::{self, Blob, HOME, Recipe, WHEELS};
use super::super::template::{self as store, TemplateError, wheels};
use super::link::{Skeleton, lock};
use super::provider::failed;
use super::run::transfer::{self, Moved, Stream};
use super::sandbox::Sandbox;
use super::template::{Template, Top};
use super::{Engine, run};
use crate::provider::{
    Archive, Arrival, ExecEvent, ExecRequest, ExportRequest, KilledBy, Layer, Limits, Outcome,
    Piece, Progress, ProviderError, TemplateInfo,
};

/// Layers built at once. Each keeps pip, a compiler or a setup command busy.
const BUILDS_MAX: usize = 4;

/// Bytes of what a failed command said that are told.
const SAID_MAX: usize = 4_096;

/// The program that packs and unpacks `/home/user`, as sandboxes see it.
const PROGRAM: &str = "/opt/sandpit/home.py";

/// Its exit codes.
const TOO_LARGE: i32 = 75;
const REFUSED: i32 = 76;

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
            if let Err(error) = &outcome {
                tracing::info!(template = id, %error, "a template was not built");
            }
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
        lock(&self.library).finish(id, &recipe, work).map_err(on_disk)?;
        Ok(template.info.clone())
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
        let running = run::run(Arc::clone(self), place, request, Arc::default(), events);
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
                ExecEvent::Started { .. } | ExecEvent::Result(_) | ExecEvent::Raised { .. } => {}
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

// What `/home/user` holds.
impl Engine {
    /// Fills the home of a sandbox that nobody holds yet.
    pub(super) async fn unpack_home(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        home: &Path,
    ) -> Result<(), ProviderError> {
        let file = File::open(home).map_err(failed)?;
        let arguments = ["/opt/env/bin/python3", "-I", "-S", "-B", PROGRAM, "unpack"];
        let moved = transfer::transfer(self, sandbox, &arguments, Stream::In(file)).await;
        let moved = moved.map_err(failed)?;
        match transfer::exit_code(moved.status) {
            Some(0) => Ok(()),
            // Full, or what nobody may unpack: the next one would end the same.
            Some(_) => Err(ProviderError::TemplateBroken {
                name: sandbox.template.info.name.clone(),
                why: format!("its files cannot be unpacked: {}", moved.said),
            }),
            None => Err(failed(format!("unpacking its files was ended: {}", moved.said))),
        }
    }

    /// Keeps what is in the home of a sandbox; what was left out is told.
    async fn pack_home(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        into: &Path,
    ) -> Result<(Blob, Vec<String>), ProviderError> {
        let max = self.options.layers.data_max;
        let file = File::options().write(true).create_new(true).open(into).map_err(failed)?;
        let room = max.to_string();
        let arguments = ["/opt/env/bin/python3", "-I", "-S", "-B", PROGRAM, "pack", &room];
        let moved = transfer::transfer(self, sandbox, &arguments, Stream::Out(file, max)).await;
        let Moved { status, said, too_large } = moved.map_err(failed)?;
        let what = "/home/user of the sandbox";
        match transfer::exit_code(status) {
            _ if too_large => Err(ProviderError::TooLarge { what, bytes: max + 1, max }),
            Some(TOO_LARGE) => Err(ProviderError::TooLarge { what, bytes: max + 1, max }),
            Some(0) => {
                let (size, sha256) = archive::fingerprint(into).map_err(failed)?;
                let notes = said.lines().take(20).map(str::to_owned).collect();
                Ok((Blob { name: HOME.to_owned(), sha256, size }, notes))
            }
            Some(REFUSED) | Some(_) => Err(failed(format!("its files cannot be packed: {said}"))),
            None => Err(failed(format!("packing its files was ended: {said}"))),
        }
    }
}

// Writing down and taking in.
impl Engine {
    pub(super) async fn export(
        self: &Arc<Self>,
        request: ExportRequest,
    ) -> Result<Archive, ProviderError> {
        let sandbox = self.find(request.sandbox)?;
        let below = self.recipe_below(&sandbox.template.info.name)?;
        let number = self.number();
        let work = lock(&self.library).begin(&format!("export-{number}")).map_err(on_disk)?;
        let mut recipe = below.recipe.clone();
        link_parts(&below, work.path())?;
        let Limits { memory_mb, cpu_count } = request.limits;
        recipe.env_names.extend(std::mem::take(&mut recipe.env).into_keys());
        recipe.env_names.extend(request.env_names);
        recipe.env_names.sort();
        recipe.env_names.dedup();
        recipe.name = request.name;
        (recipe.memory_mb, recipe.cpu_count) = (memory_mb, cpu_count);
        let mut notes = Vec::new();
        if request.data {
            let home = work.path().join(HOME);
            // That of its template is shared with it.
            let _ = fs::remove_file(&home);
            let (blob, left_out) = self.pack_home(&sandbox, &home).await?;
            (recipe.home, recipe.includes_data) = (Some(blob), true);
            notes = left_out;
        }
        if !recipe.env_names.is_empty() {
            let names = recipe.env_names.join(", ");
            notes.push(format!("values of environment variables are not exported: {names}"));
        }
        let engine = Arc::clone(self);
        off_thread(move || {
            let (file, path) = lock(&engine.library).begin_archive().map_err(on_disk)?;
            let written = archive::write(&recipe, work.path(), file);
            let written = written.map_err(|error| failed(explain(&error)))?;
            engine.publish(recipe, work, &path, &written, notes)
        })
        .await
    }

    /// Makes a folder and an archive a template with a name.
    fn publish(
        &self,
        recipe: Recipe,
        work: Work,
        path: &Path,
        written: &Written,
        notes: Vec<String>,
    ) -> Result<Archive, ProviderError> {
        let id = recipe::id_of(&written.sha256);
        let mut library = lock(&self.library);
        if library.recipe(&id).is_none() && library.count() >= self.options.layers.kept_max {
            drop(library);
            // What stays of the archive the next start removes.
            let _ = fs::remove_file(path);
            self.room_for_one()?;
            return Err(failed("another template took the last place"));
        }
        library.finish(&id, &recipe, work).map_err(on_disk)?;
        let entry = Entry {
            id,
            sha256: written.sha256.clone(),
            size: written.size,
            at_ms: wall_ms(),
            notes,
        };
        let version = library.publish(&recipe.name, path, written, entry.clone());
        let version = version.map_err(on_disk)?;
        Ok(told(&recipe.name, version, &entry, &recipe))
    }

    pub(super) fn archives(&self) -> Vec<Archive> {
        let library = lock(&self.library);
        let tell = |(name, version, entry): (&str, u32, &Entry)| {
            Some(told(name, version, entry, library.recipe(&entry.id)?))
        };
        library.exports().filter_map(tell).collect()
    }

    pub(super) async fn read_archive(
        &self,
        id: &str,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Bytes, ProviderError> {
        let path = {
            let library = lock(&self.library);
            let found = library.exports().find(|(_, _, entry)| entry.id == id);
            let unknown = || ProviderError::NoSuchTemplate { name: id.to_owned() };
            let (_, _, entry) = found.ok_or_else(unknown)?;
            library.archive(&entry.sha256)
        };
        off_thread(move || Ok(library::read_at(&path, offset, bytes_max).map_err(failed)?.into()))
            .await
    }

    pub(super) async fn import(self: &Arc<Self>, piece: Piece) -> Result<Arrival, ProviderError> {
        let max = self.options.layers.archive_max;
        if piece.size > max {
            return Err(ProviderError::TooLarge { what: "archive", bytes: piece.size, max });
        }
        if piece.offset + piece.bytes.len() as u64 > piece.size {
            return Err(rejected("it is longer than it was said to be"));
        }
        // Sent again because its answer was lost.
        let known = self.archives().into_iter().find(|known| {
            known.sha256 == piece.sha256 && piece.name.as_ref().is_none_or(|n| *n == known.name)
        });
        if let Some(known) = known {
            return Ok(Arrival::Whole(known));
        }
        let engine = Arc::clone(self);
        let (size, sha256, name) = (piece.size, piece.sha256.clone(), piece.name.clone());
        let received = off_thread(move || {
            let library = lock(&engine.library);
            library.receive(&piece.sha256, piece.offset, &piece.bytes).map_err(on_disk)
        });
        match received.await? {
            Received::Wanted(next) => Ok(Arrival::Wanted(next)),
            Received::TooMany(queued) => Err(ProviderError::Busy { queued }),
            Received::Length(length, _) if length < size => Ok(Arrival::Wanted(length)),
            Received::Length(_, path) => {
                let upload = Upload(path);
                self.take_in(&upload.0, &sha256, name).await.map(Arrival::Whole)
            }
        }
    }

    /// Checks a whole archive, tries it, and keeps it.
    async fn take_in(
        self: &Arc<Self>,
        path: &Path,
        sha256: &str,
        name: Option<String>,
    ) -> Result<Archive, ProviderError> {
        self.room_for_one()?;
        let id = recipe::id_of(sha256);
        let lock_path = lock(&self.library).lock_path(&id);
        let _lock = store::lock(&lock_path, &Progress::silent()).await.map_err(on_disk)?;
        let work = lock(&self.library).begin(&id).map_err(on_disk)?;
        let (from, into, wanted) = (path.to_owned(), work.path().to_owned(), sha256.to_owned());
        let recipe = off_thread(move || {
            let (_, found) = archive::fingerprint(&from).map_err(failed)?;
            if found != wanted {
                return Err(rejected(format!("its SHA-256 is {found}")));
            }
            // The folder for wheels is there already.
            fs::remove_dir(into.join(WHEELS)).map_err(failed)?;
            let mut file = std::io::BufReader::new(File::open(&from).map_err(failed)?);
            archive::read(&mut file, &into).map_err(|error| match error {
                ArchiveError::Wrong(why) => rejected(why),
                ArchiveError::Io(_) => failed(explain(&error)),
            })
        });
        let mut recipe = recipe.await?;
        if !recipe.env.is_empty() {
            return Err(rejected("it holds values of environment variables"));
        }
        let name = name.unwrap_or_else(|| recipe.name.clone());
        if !is_name(&name) || self.options.templates.contains_key(&name) {
            return Err(rejected(format!(
                "it cannot be called `{name}` here; give it another name"
            )));
        }
        let progress = Progress::silent();
        let (spec, below) = self.below(&recipe, &progress).await?;
        let ready = self.ready(&id, &recipe, work.path(), spec, &below, None, &progress).await;
        let ready = ready.map_err(|error| rejected(error.to_string()))?;
        let known = lock(&self.templates).contains_key(&id);
        let tried = self.try_out(ready, &recipe, work.path(), known).await;
        let published = match tried {
            Ok(()) => {
                recipe.name = name;
                self.keep_archive(&recipe, work, path, sha256)
            }
            Err(error) => Err(rejected(error.to_string())),
        };
        if published.is_err() && !known {
            self.retire_template(&id).await;
        }
        published
    }

    /// Makes one sandbox of a template before anybody may.
    async fn try_out(
        self: &Arc<Self>,
        ready: Ready,
        recipe: &Recipe,
        folder: &Path,
        known: bool,
    ) -> Result<(), ProviderError> {
        if known {
            return Ok(());
        }
        let id = ready.info.name.clone();
        let template = {
            let _one = self.preparing.lock().await;
            self.start_template(ready, &Progress::silent()).await?
        };
        let trial = self.trial(&template).await?;
        if recipe.home.is_some() {
            self.unpack_home(&trial.sandbox, &folder.join(HOME)).await?;
            let place = lock(&self.library).layer(&id).join(HOME);
            template.top.home.get_or_init(|| place);
        }
        Ok(())
    }

    fn keep_archive(
        &self,
        recipe: &Recipe,
        work: Work,
        path: &Path,
        sha256: &str,
    ) -> Result<Archive, ProviderError> {
        let size = fs::metadata(path).map_err(failed)?.len();
        let written = Written { size, sha256: sha256.to_owned() };
        // The recipe on the disk stays as the archive has it: the name is this node's affair.
        let kept = Recipe::read(&fs::read(work.path().join(recipe::RECIPE)).map_err(failed)?);
        let kept = kept.map_err(rejected)?;
        let id = recipe::id_of(sha256);
        let mut library = lock(&self.library);
        library.finish(&id, &kept, work).map_err(on_disk)?;
        let notes = match kept.env_names.is_empty() {
            true => Vec::new(),
            false => {
                let names = kept.env_names.join(", ");
                vec![format!("it expects values of these environment variables: {names}")]
            }
        };
        let entry = Entry { id, sha256: sha256.to_owned(), size, at_ms: wall_ms(), notes };
        let version = library.publish(&recipe.name, path, &written, entry.clone());
        Ok(told(&recipe.name, version.map_err(on_disk)?, &entry, &kept))
    }
}

/// An archive that came here, gone with this unless it was kept.
struct Upload(PathBuf);

impl Drop for Upload {
    fn drop(&mut self) {
        // Kept, it is not there any more.
        let _ = fs::remove_file(&self.0);
    }
}

fn told(name: &str, version: u32, entry: &Entry, recipe: &Recipe) -> Archive {
    Archive {
        id: entry.id.clone(),
        name: name.to_owned(),
        version,
        at_ms: entry.at_ms,
        size: entry.size,
        sha256: entry.sha256.clone(),
        contents: recipe.contents(),
        notes: entry.notes.clone(),
    }
}

/// Whether a template from elsewhere may be called so.
fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| letter(byte) || byte == b'-')
        && !name.starts_with('-')
        && !name.starts_with("tpl-")
}

fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "for people who read a list; decides nothing")]
fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Runs what may take long on a disk where it keeps nobody waiting.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
