//! What a template is made of that is not in the settings: a configured template below, and on top
//! of it wheels, an environment, and what `/home/user` holds at first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest;
use crate::provider::{Contents, Layer, Limits};

/// The recipe among the files of a template.
pub const RECIPE: &str = "recipe.json";

/// The folder of its wheels.
pub const WHEELS: &str = "wheels";

/// What `/home/user` holds at first: a tar archive, made and read inside sandboxes only.
pub const HOME: &str = "home.tar";

/// The way recipes are written. Another one is refused, never guessed at.
const FORMAT: u32 = 1;

/// What ids begin with.
const ID_PREFIX: &str = "tpl-";

/// Digits of a digest that make an id: 80 bits, of which nobody finds two that are equal.
const ID_DIGITS: usize = 20;

/// Wheels of one template. A package brings what it depends on.
const WHEELS_MAX: usize = 256;

/// A file by its contents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Its name, without a folder.
    pub name: String,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A file of a template, by its place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it is.
    pub path: String,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// What a template is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// How this is written.
    pub(super) format: u32,
    /// What it was called when it was written down; empty for what was only built.
    pub name: String,
    /// The configured template below.
    pub base: String,
    /// What that one consists of, so that another node notices if its own differs.
    pub base_digest: String,
    /// The Python that its wheels were made for, as in `3.12 x86_64`; empty if any will do.
    pub python: String,
    /// Memory of its sandboxes in MiB.
    pub memory_mb: u32,
    /// Processors of its sandboxes.
    pub cpu_count: u32,
    /// Environment of what runs in its sandboxes. Empty in an archive.
    pub env: BTreeMap<String, String>,
    /// Names of environment variables that were set where it was written down.
    pub env_names: Vec<String>,
    /// Wheels on top of the base, by name.
    pub wheels: Vec<Blob>,
    /// What `/home/user` holds at first.
    pub home: Option<Blob>,
    /// Whether that is what a holder left there.
    pub includes_data: bool,
}

impl Recipe {
    /// A configured template and nothing on top.
    pub fn of_base(base: &str, base_digest: String, limits: Limits) -> Self {
        Self {
            format: FORMAT,
            name: String::new(),
            base: base.to_owned(),
            base_digest,
            python: String::new(),
            memory_mb: limits.memory_mb,
            cpu_count: limits.cpu_count,
            env: BTreeMap::new(),
            env_names: Vec::new(),
            wheels: Vec::new(),
            home: None,
            includes_data: false,
        }
    }

    /// What its sandboxes get unless asked otherwise.
    pub fn limits(&self) -> Limits {
        Limits { memory_mb: self.memory_mb, cpu_count: self.cpu_count }
    }

    /// As it is kept. The same recipe is always the same text.
    pub fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("plain fields and text keys");
        text.push(b'\n');
        text
    }

    /// Reads what [`Self::text`] wrote, and nothing else.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let recipe: Self = serde_json::from_slice(text)
            .map_err(|error| format!("its recipe cannot be read: {error}"))?;
        if recipe.format != FORMAT {
            let found = recipe.format;
            return Err(format!("its recipe is of format {found}; this version reads {FORMAT}"));
        }
        let sorted = recipe.wheels.windows(2).all(|pair| pair[0].name < pair[1].name);
        let named = recipe.wheels.iter().all(|wheel| is_wheel(&wheel.name));
        if !sorted || !named || recipe.wheels.len() > WHEELS_MAX {
            return Err(format!("it does not name up to {WHEELS_MAX} wheels in order"));
        }
        if recipe.home.as_ref().is_some_and(|home| home.name != HOME) {
            return Err(format!("what its home holds is not called {HOME}"));
        }
        let blobs = recipe.wheels.iter().chain(&recipe.home);
        if !blobs.map(|blob| &blob.sha256).all(|digits| is_digest(digits)) {
            return Err("a digest in its recipe is none".to_owned());
        }
        if recipe.text() != text {
            return Err("its recipe is not written as this version writes it".to_owned());
        }
        Ok(recipe)
    }

    /// Its files beside the recipe, in the order of an archive.
    pub fn parts(&self) -> Vec<Part> {
        let part =
            |path: String, blob: &Blob| Part { path, sha256: blob.sha256.clone(), size: blob.size };
        let wheels = self.wheels.iter().map(|blob| part(format!("{WHEELS}/{}", blob.name), blob));
        wheels.chain(self.home.iter().map(|blob| part(HOME.to_owned(), blob))).collect()
    }

    /// What may be told of it.
    pub fn contents(&self) -> Contents {
        let env_names = self.env.keys().chain(&self.env_names);
        let mut env_names: Vec<_> = env_names.cloned().collect();
        env_names.sort();
        env_names.dedup();
        let package = |blob: &Blob| format!("{} sha256:{}", blob.name, blob.sha256);
        Contents {
            base: self.base.clone(),
            packages: self.wheels.iter().map(package).collect(),
            env_names,
            limits: self.limits(),
            includes_data: self.includes_data,
        }
    }
}

/// The id of a layer on top of `below`: changes with everything that makes a difference to it.
pub fn id_of_layer(layer: &Layer, below: &Recipe, python: &str) -> String {
    let Layer { base: _, packages, env, files, setup, memory_mb, cpu_count } = layer;
    let mut packages: Vec<&str> = packages.iter().map(|text| text.trim()).collect();
    packages.sort_unstable();
    packages.dedup();
    let below = String::from_utf8_lossy(&below.text()).into_owned();
    let number = |number: &Option<u32>| number.map_or("as below".to_owned(), |n| n.to_string());
    let mut parts = vec!["sandpit layer 1".to_owned(), below, python.to_owned()];
    parts.push(packages.len().to_string());
    parts.extend(packages.into_iter().map(str::to_owned));
    parts.push(env.len().to_string());
    parts.extend(env.iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
    parts.push(files.len().to_string());
    for (name, contents) in files {
        parts.push(name.clone());
        parts.push(super::digest_of(contents));
    }
    parts.push(setup.len().to_string());
    parts.extend(setup.iter().cloned());
    parts.extend([number(memory_mb), number(cpu_count)]);
    id_of(&digest(&parts.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// The id made from a digest.
pub fn id_of(digest: &str) -> String {
    format!("{ID_PREFIX}{}", digest.get(..ID_DIGITS).unwrap_or(digest))
}

/// Whether a template is called by an id.
pub fn is_id(name: &str) -> bool {
    let digits = name.strip_prefix(ID_PREFIX);
    digits.is_some_and(|digits| digits.len() == ID_DIGITS && digits.bytes().all(is_digit))
}

/// Whether a template may be called so when it is written down or comes from elsewhere.
pub fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| letter(byte) || byte == b'-')
        && !name.starts_with('-')
        && !name.starts_with(ID_PREFIX)
}

/// Whether this names a wheel, and cannot name anything else.
pub fn is_wheel(name: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte);
    (5..=100).contains(&name.len())
        && name.ends_with(".whl")
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(fine)
        && (5..=6).contains(&name.split('-').count())
}

/// Whether a wheel runs on every Python on every machine.
pub fn is_for_all(wheel: &str) -> bool {
    wheel.ends_with("-none-any.whl") && wheel.contains("py3-")
}

/// Whether this is a SHA-256.
pub fn is_digest(digits: &str) -> bool {
    digits.len() == 64 && digits.bytes().all(is_digit)
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
#[path = "recipe/tests.rs"]
mod tests;
