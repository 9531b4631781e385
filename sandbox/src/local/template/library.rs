//! Templates that are not in the settings, on the disk: `layers/<id>` holds the recipe and the
//! parts of each, `exports` the archives and, by name and version, what they are.
//!
//! A layer is filled beside its place and renamed into it; an archive likewise. A name and a
//! version are written once and never again. So whatever is found is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::build::make_shared_folder;
use super::recipe::{RECIPE, Recipe, is_id};
use super::{TemplateError, store_error};

/// Versions of one name. Past this somebody exports in a loop.
const VERSIONS_MAX: u32 = 10_000;

/// Archives that may be on their way here at once. Each takes room before it is known to be good.
const UPLOADS_MAX: usize = 4;

/// An archive, as it is kept beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its template.
    pub id: String,
    /// SHA-256 of the archive.
    pub sha256: String,
    /// Bytes of the archive.
    pub size: u64,
    /// When it was written down or came here, in Unix milliseconds.
    pub at_ms: u64,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// The templates of one store that are not in the settings.
#[derive(Debug)]
pub struct Library {
    store: PathBuf,
    layers: BTreeMap<String, Recipe>,
    exports: BTreeMap<(String, u32), Entry>,
}

impl Library {
    /// Finds what is there. What cannot be read is left alone and not offered.
    ///
    /// # Errors
    /// If the folders cannot be made.
    pub fn open(store: &Path) -> Result<Self, TemplateError> {
        let mut library =
            Self { store: store.to_owned(), layers: BTreeMap::new(), exports: BTreeMap::new() };
        for folder in [library.layers_folder(), library.exports_folder(), library.uploads_folder()]
        {
            make_private_folder(&folder).map_err(store_error(&folder))?;
        }
        let at = library.layers_folder();
        for id in names(&at).map_err(store_error(&at))? {
            if is_id(&id) {
                match read_recipe(&library.layer(&id)) {
                    Ok(recipe) => drop(library.layers.insert(id, recipe)),
                    Err(why) => tracing::warn!(template = id, why, "a template is not offered"),
                }
            }
        }
        let at = library.exports_folder();
        for name in names(&at).map_err(store_error(&at))? {
            library.find_versions(&name);
        }
        library.clear_away();
        Ok(library)
    }

    fn find_versions(&mut self, name: &str) {
        let folder = self.exports_folder().join(name);
        // Archives lie beside these folders.
        for file in names(&folder).unwrap_or_default() {
            let Some(version) = file.strip_suffix(".json").and_then(|text| text.parse().ok())
            else {
                continue;
            };
            let entry = fs::read(folder.join(&file)).ok();
            let entry: Option<Entry> = entry.and_then(|text| serde_json::from_slice(&text).ok());
            match entry.filter(|entry| self.layers.contains_key(&entry.id)) {
                Some(entry) => drop(self.exports.insert((name.to_owned(), version), entry)),
                None => tracing::warn!(name, version, "an exported template is not offered"),
            }
        }
    }

    /// Removes what builders left that were killed. What somebody works on is locked.
    fn clear_away(&self) {
        let layers = self.layers_folder();
        for name in names(&layers).unwrap_or_default() {
            let Some(id) = name.split('.').next().filter(|_| name.ends_with(".tmp")) else {
                continue;
            };
            let Ok(lock) = File::create(layers.join(format!("{id}.lock"))) else { continue };
            let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
            if rustix::fs::flock(&lock, operation).is_ok() {
                // The next start tries again.
                let _ = fs::remove_dir_all(layers.join(name));
            }
        }
        for name in names(&self.exports_folder()).unwrap_or_default() {
            if name.ends_with(".tmp") {
                let _ = fs::remove_file(self.exports_folder().join(name));
            }
        }
        for name in names(&self.uploads_folder()).unwrap_or_default() {
            // Whoever sent it is gone, and sends it again from its beginning.
            let _ = fs::remove_file(self.uploads_folder().join(name));
        }
    }

    /// Where the parts of a template are.
    pub fn layer(&self, id: &str) -> PathBuf {
        self.layers_folder().join(id)
    }

    /// The recipe of a template, by its id.
    pub fn recipe(&self, id: &str) -> Option<&Recipe> {
        self.layers.get(id)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.layers.len()
    }

    /// Their ids.
    pub fn ids(&self) -> impl Iterator<Item = &String> {
        self.layers.keys()
    }

    /// All exports, by name and version.
    pub fn exports(&self) -> impl Iterator<Item = (&str, u32, &Entry)> {
        self.exports.iter().map(|((name, version), entry)| (name.as_str(), *version, entry))
    }

    /// What `name`, `name@version` or an id stands for.
    pub fn resolve(&self, template: &str) -> Option<&str> {
        if let Some((id, _)) = self.layers.get_key_value(template) {
            return Some(id);
        }
        let (name, version) = match template.split_once('@') {
            Some((name, version)) => (name, Some(version.parse::<u32>().ok()?)),
            None => (template, None),
        };
        let range = (name.to_owned(), 0)..=(name.to_owned(), u32::MAX);
        let mut versions = self.exports.range(range);
        let found = match version {
            Some(version) => versions.find(|((_, known), _)| *known == version),
            None => versions.next_back(),
        };
        found.map(|(_, entry)| entry.id.as_str())
    }

    /// What people call the template of an id.
    pub fn title(&self, id: &str) -> Option<String> {
        let ((name, version), _) = self.exports.iter().rev().find(|(_, entry)| entry.id == id)?;
        let is_newest = self.resolve(name) == Some(id);
        Some(if is_newest { name.clone() } else { format!("{name}@{version}") })
    }

    /// An empty folder that a template can be made in. The caller holds its lock.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn begin(&self, id: &str) -> Result<Work, TemplateError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{id}.{}-{number}.tmp", std::process::id());
        let path = self.layers_folder().join(name);
        fs::create_dir_all(path.join(super::recipe::WHEELS)).map_err(store_error(&path))?;
        Ok(Work(path))
    }

    /// Where the lock of a template is.
    pub fn lock_path(&self, id: &str) -> PathBuf {
        self.layers_folder().join(format!("{id}.lock"))
    }

    /// Offers a template that was moved in.
    pub fn add(&mut self, id: &str, recipe: &Recipe) {
        self.layers.insert(id.to_owned(), recipe.clone());
    }

    /// Where an archive is.
    pub fn archive(&self, sha256: &str) -> PathBuf {
        self.exports_folder().join(format!("{sha256}.tar"))
    }

    /// A file to write an archive to.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn begin_archive(&self) -> Result<(File, PathBuf), TemplateError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let path = self.exports_folder().join(format!("{}-{number}.tmp", std::process::id()));
        let file = File::create(&path).map_err(store_error(&path))?;
        Ok((file, path))
    }

    /// Gives an archive a name, and the version after the newest of that name.
    ///
    /// # Errors
    /// If it cannot be moved or written down.
    pub fn publish(&mut self, name: &str, from: &Path, entry: Entry) -> Result<u32, TemplateError> {
        let place = self.archive(&entry.sha256);
        fs::rename(from, &place).map_err(store_error(&place))?;
        let folder = self.exports_folder().join(name);
        fs::create_dir_all(&folder).map_err(store_error(&folder))?;
        let range = (name.to_owned(), 0)..=(name.to_owned(), u32::MAX);
        let newest = self.exports.range(range).next_back().map_or(0, |((_, version), _)| *version);
        let text = serde_json::to_vec_pretty(&entry).expect("plain fields");
        for version in newest + 1..=VERSIONS_MAX {
            let path = folder.join(format!("{version}.json"));
            match write_new(&path, &text) {
                // One that could not be read when this began, or another process's.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(store_error(&path)(error)),
                Ok(()) => {
                    self.exports.insert((name.to_owned(), version), entry);
                    return Ok(version);
                }
            }
        }
        let full = io::Error::other(format!("{VERSIONS_MAX} versions of it exist"));
        Err(store_error(&folder)(full))
    }

    /// Adds a piece to an archive on its way here.
    ///
    /// # Errors
    /// If there are too many on their way, or it cannot be written.
    pub fn receive(
        &self,
        sha256: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Received, TemplateError> {
        let folder = self.uploads_folder();
        let path = folder.join(format!("{sha256}.part"));
        let receive = || -> io::Result<Received> {
            if !path.exists() && names(&folder)?.len() >= UPLOADS_MAX {
                return Ok(Received::TooMany(UPLOADS_MAX));
            }
            let file = File::options().create(true).append(true).open(&path)?;
            let length = file.metadata()?.len();
            if offset != length {
                return Ok(Received::Wanted(length));
            }
            (&file).write_all(bytes)?;
            Ok(Received::Length(length + bytes.len() as u64, path.clone()))
        };
        receive().map_err(store_error(&path))
    }

    fn layers_folder(&self) -> PathBuf {
        self.store.join("layers")
    }

    fn exports_folder(&self) -> PathBuf {
        self.store.join("exports")
    }

    fn uploads_folder(&self) -> PathBuf {
        self.store.join("uploads")
    }
}

/// Puts what was worked on into its place; another one of the same id is as good.
///
/// # Errors
/// If it cannot be written or moved.
pub fn move_in(place: &Path, recipe: &Recipe, work: Work) -> Result<(), TemplateError> {
    let Work(work) = &work;
    let moved = || -> io::Result<()> {
        if read_recipe(place).is_ok_and(|there| there == *recipe) {
            return Ok(());
        }
        fs::write(work.join(RECIPE), recipe.text())?;
        rustix::fs::syncfs(File::open(work)?)?;
        if place.exists() {
            // It was not offered, because it cannot be read.
            fs::remove_dir_all(place)?;
        }
        fs::rename(work, place)
    };
    moved().map_err(store_error(place))
}

/// What became of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes are here now, in this file.
    Length(u64, PathBuf),
    /// Not taken: this byte comes next.
    Wanted(u64),
    /// Not taken: so many archives are on their way already.
    TooMany(usize),
}

/// A folder that a template is made in, gone with this unless it was finished.
#[derive(Debug)]
pub struct Work(PathBuf);

impl Work {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Renamed, it is not there any more; else the next start removes what stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Reads a part of an archive.
///
/// # Errors
/// What reading says.
pub fn read_at(path: &Path, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; bytes_max];
    let mut length = 0;
    while length < bytes_max {
        match file.read_at(&mut bytes[length..], offset + length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn read_recipe(layer: &Path) -> Result<Recipe, String> {
    let text = fs::read(layer.join(RECIPE)).map_err(|error| error.to_string())?;
    let recipe = Recipe::read(&text)?;
    for part in recipe.parts() {
        let size = fs::metadata(layer.join(&part.path)).map(|found| found.len());
        if size.ok() != Some(part.size) {
            return Err(format!("{} is missing or was changed", part.path));
        }
    }
    Ok(recipe)
}

/// What holders left and what environments hold is the node's alone; sandboxes get it from there.
fn make_private_folder(folder: &Path) -> io::Result<()> {
    make_shared_folder(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Names in a folder; of something else, none.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        entries => entries?,
    };
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    Ok(entries.filter_map(name).collect())
}
