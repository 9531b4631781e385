//! Templates in one file: written down from sandboxes, read piece by piece, taken in from
//! elsewhere.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::super::super::template::archive::{self, ArchiveError, Written};
use super::super::super::template::library::{self, Entry, Received, Work};
use super::super::super::template::recipe::{self, HOME, Recipe, WHEELS};
use super::super::super::template::{self as store};
use super::super::Engine;
use super::super::link::lock;
use super::super::provider::failed;
use super::{Ready, link_parts, off_thread, on_disk, rejected};
use crate::provider::{Archive, Arrival, ExportRequest, Limits, Piece, Progress, ProviderError};

impl Engine {
    pub(in super::super) async fn export(
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
        let known = lock(&self.library).recipe(&id).is_some();
        if !known && let Err(full) = self.room_for_one() {
            // What stays of the archive the next start removes.
            let _ = fs::remove_file(path);
            return Err(full);
        }
        self.keep(&id, &recipe, work)?;
        let entry = Entry {
            id,
            sha256: written.sha256.clone(),
            size: written.size,
            at_ms: wall_ms(),
            notes,
        };
        let version = lock(&self.library).publish(&recipe.name, path, entry.clone());
        let version = version.map_err(on_disk)?;
        Ok(told(&recipe.name, version, &entry, &recipe))
    }

    pub(in super::super) fn archives(&self) -> Vec<Archive> {
        let library = lock(&self.library);
        let tell = |(name, version, entry): (&str, u32, &Entry)| {
            Some(told(name, version, entry, library.recipe(&entry.id)?))
        };
        library.exports().filter_map(tell).collect()
    }

    pub(in super::super) async fn read_archive(
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

    pub(in super::super) async fn import(
        self: &Arc<Self>,
        piece: Piece,
    ) -> Result<Arrival, ProviderError> {
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
        let recipe = recipe.await?;
        if !recipe.env.is_empty() {
            return Err(rejected("it holds values of environment variables"));
        }
        let name = name.unwrap_or_else(|| recipe.name.clone());
        if !recipe::is_name(&name) || self.options.templates.contains_key(&name) {
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
                let (engine, path, sha256) = (Arc::clone(self), path.to_owned(), sha256.to_owned());
                off_thread(move || engine.keep_archive(&name, &recipe, work, &path, &sha256)).await
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
        name: &str,
        recipe: &Recipe,
        work: Work,
        path: &Path,
        sha256: &str,
    ) -> Result<Archive, ProviderError> {
        let size = fs::metadata(path).map_err(failed)?.len();
        let id = recipe::id_of(sha256);
        self.keep(&id, recipe, work)?;
        let notes = match recipe.env_names.is_empty() {
            true => Vec::new(),
            false => {
                let names = recipe.env_names.join(", ");
                vec![format!("it expects values of these environment variables: {names}")]
            }
        };
        let entry = Entry { id, sha256: sha256.to_owned(), size, at_ms: wall_ms(), notes };
        let version = lock(&self.library).publish(name, path, entry.clone());
        Ok(told(name, version.map_err(on_disk)?, &entry, recipe))
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
