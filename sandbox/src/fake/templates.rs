//! Templates that callers ask for, as far as a fake has them: names, versions and what is refused.
//! Nothing is in them.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Fake;
use super::script::LIMITS;
use crate::ProviderError;
use crate::provider::{
    Archive, Arrival, Contents, ExportRequest, Layer, Piece, Progress, TemplateInfo,
};

/// What archives of the fake begin with.
const MAGIC: &[u8] = b"fake template ";

/// A setup command that fails.
const FAILS: &str = "fail";

fn digest(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id_of(digest: &str) -> String {
    format!("tpl-{}", digest.get(..20).unwrap_or(digest))
}

pub(super) fn resolve(fake: &Fake, template: &str) -> Option<String> {
    if fake.knows(template) {
        return Some(template.to_owned());
    }
    let world = fake.world();
    let newest = world.archives.iter().rev().find(|archive| archive.name == template);
    newest.map(|archive| archive.id.clone())
}

pub(super) fn title(fake: &Fake, template: &str) -> String {
    let world = fake.world();
    let named = world.archives.iter().rev().find(|archive| archive.id == template);
    named.map_or_else(|| template.to_owned(), |archive| archive.name.clone())
}

/// Goes on if nobody waits, as the real one does.
pub(super) async fn build(
    fake: &Fake,
    layer: &Layer,
    progress: &Progress,
) -> Result<TemplateInfo, ProviderError> {
    if !fake.knows(&layer.base) {
        return Err(ProviderError::NoSuchTemplate { name: layer.base.clone() });
    }
    if let Some(step) = layer.setup.iter().find(|line| line.starts_with(FAILS)) {
        let (step, said) = (step.clone(), "as scripted".to_owned());
        return Err(ProviderError::NotBuilt { field: "setup", step, said });
    }
    let digest = digest(format!("{layer:?}").as_bytes());
    let name = id_of(&digest);
    if !fake.knows(&name) {
        progress.say("building", None);
        let (world, built) = (std::sync::Arc::clone(&fake.world), name.clone());
        let takes: Duration = fake.script.build_takes;
        let building = tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            let mut world = world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            world.built.insert(built);
        });
        building.await.map_err(|error| super::failed(&error.to_string(), true))?;
    }
    Ok(TemplateInfo { name, digest, limits: LIMITS })
}

pub(super) fn export(fake: &Fake, request: ExportRequest) -> Result<Archive, ProviderError> {
    let mut world = fake.world();
    let gone = ProviderError::Gone(request.sandbox);
    let base = world.alive.get(&request.sandbox).ok_or(gone)?.template.clone();
    let text = [MAGIC, request.name.as_bytes()].concat();
    let sha256 = digest(&text);
    let contents = Contents {
        base,
        packages: Vec::new(),
        env_names: request.env_names,
        limits: request.limits,
        includes_data: request.data,
    };
    let archive = kept(&mut world.archives, request.name, sha256, text.len(), contents);
    world.built.insert(archive.id.clone());
    Ok(archive)
}

fn kept(
    archives: &mut Vec<Archive>,
    name: String,
    sha256: String,
    bytes: usize,
    contents: Contents,
) -> Archive {
    let versions = archives.iter().filter(|archive| archive.name == name).count();
    let archive = Archive {
        id: id_of(&sha256),
        name,
        version: u32::try_from(versions + 1).unwrap_or(u32::MAX),
        at_ms: 0,
        size: u64::try_from(bytes).unwrap_or(u64::MAX),
        sha256,
        contents,
        notes: Vec::new(),
    };
    archives.push(archive.clone());
    archive
}

pub(super) fn read(
    fake: &Fake,
    id: &str,
    offset: u64,
    bytes_max: usize,
) -> Result<Bytes, ProviderError> {
    let world = fake.world();
    let found = world.archives.iter().find(|archive| archive.id == id);
    let unknown = || ProviderError::NoSuchTemplate { name: id.to_owned() };
    let text = [MAGIC, found.ok_or_else(unknown)?.name.as_bytes()].concat();
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    let to = from.saturating_add(bytes_max).min(text.len());
    Ok(Bytes::copy_from_slice(&text[from..to]))
}

pub(super) fn import(fake: &Fake, piece: Piece) -> Result<Arrival, ProviderError> {
    let mut world = fake.world();
    let upload = world.uploads.entry(piece.sha256.clone()).or_default();
    let length = u64::try_from(upload.len()).unwrap_or(u64::MAX);
    if piece.offset != length {
        return Ok(Arrival::Wanted(length));
    }
    upload.extend_from_slice(&piece.bytes);
    let length = u64::try_from(upload.len()).unwrap_or(u64::MAX);
    if length < piece.size {
        return Ok(Arrival::Wanted(length));
    }
    let text = world.uploads.remove(&piece.sha256).unwrap_or_default();
    let name = text.strip_prefix(MAGIC).and_then(|name| String::from_utf8(name.to_vec()).ok());
    let Some(name) = name.filter(|_| digest(&text) == piece.sha256) else {
        return Err(ProviderError::Rejected { why: "it is not as scripted".to_owned() });
    };
    let contents = Contents {
        base: "base".to_owned(),
        packages: Vec::new(),
        env_names: Vec::new(),
        limits: LIMITS,
        includes_data: false,
    };
    let name = piece.name.unwrap_or(name);
    let archive = kept(&mut world.archives, name, piece.sha256, text.len(), contents);
    world.built.insert(archive.id.clone());
    Ok(Arrival::Whole(archive))
}
