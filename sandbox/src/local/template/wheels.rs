//! Wheels on top of a template: found, counted, unpacked beside its packages. Nothing in them runs
//! on the way (ADR 004).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::build::{COMPILED, DOWNLOADED, Downloads, UNPACKED, compile, move_scripts, pip};
use super::recipe::{Blob, is_for_all, is_wheel};
use super::{Template, TemplateError, archive, build, store_error};
use crate::fetch::{FetchError, Source};
use crate::provider::Progress;

/// Bytes of all packages of one template, unpacked. numpy and pandas are 100 MB.
pub(crate) const UNPACKED_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Says how many bytes wheels are unpacked, as they claim and as unpacking holds them to.
const COUNT: &str = "\
import sys, zipfile
total = 0
for name in sys.argv[1:]:
    with zipfile.ZipFile(name) as wheel:
        total += sum(member.file_size for member in wheel.infolist())
print(total)";

/// Downloads the wheels of `packages` and all they depend on that `below` does not have, into the
/// empty folder `into`.
///
/// # Errors
/// Any [`TemplateError`]; what is in `into` is then not to be used.
pub(crate) async fn download(
    packages: &[String],
    below: &Template,
    source: &Source,
    into: &Path,
    scratch: &Path,
    progress: &Progress,
) -> Result<Vec<Blob>, TemplateError> {
    let there = installed(&below.environment);
    let (wanted, held) = (scratch.join("wanted.txt"), scratch.join("held.txt"));
    let text = packages.join("\n") + "\n";
    fs::write(&wanted, &text).map_err(store_error(&wanted))?;
    fs::write(&held, pins(&there)).map_err(store_error(&held))?;
    let pip = pip(&below.interpreter, scratch).await?;
    let mut share = Downloads::of(&text);
    let hear = |line: &str| {
        if let Some(stage) = share.hear(line) {
            progress.say(&stage, Some(share.done() * DOWNLOADED));
        }
    };
    progress.say("downloading packages", Some(0.0));
    let downloaded = pip.download_on_top(&wanted, &held, source, into, hear).await;
    downloaded.map_err(TemplateError::Packages)?;
    let mut wheels = Vec::new();
    for entry in fs::read_dir(into).map_err(store_error(into))? {
        let path = entry.map_err(store_error(into))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if there.contains(&name) {
            fs::remove_file(&path).map_err(store_error(&path))?;
        } else if is_wheel(&name) {
            let (size, sha256) = archive::fingerprint(&path).map_err(store_error(&path))?;
            wheels.push(Blob { name, sha256, size });
        } else {
            let said = format!("{name} is not a wheel that can be kept");
            return Err(TemplateError::Step { what: "downloading packages", said });
        }
    }
    wheels.sort();
    Ok(wheels)
}

/// The Python that wheels were made for, as a recipe says it.
pub(crate) fn python_for(wheels: &[Blob], below: &Template) -> String {
    if wheels.iter().all(|wheel| is_for_all(&wheel.name)) {
        return String::new();
    }
    python_of(below)
}

/// The Python of a template, as a recipe says it.
pub(crate) fn python_of(template: &Template) -> String {
    let [major, minor, _] = template.interpreter.version;
    format!("{major}.{minor} {}", std::env::consts::ARCH)
}

/// Fills `work/env` with the environment of `below` and with `wheels`.
pub(super) async fn put_on_top(
    work: &Path,
    below: &Template,
    wheels: &[PathBuf],
    progress: &Progress,
) -> Result<(), TemplateError> {
    let interpreter = &below.interpreter;
    let (environment, new) = (work.join("env"), work.join("new"));
    let site = PathBuf::from("lib").join(interpreter.name()).join("site-packages");
    fs::create_dir_all(new.join("bin")).map_err(store_error(&new))?;
    fs::create_dir_all(new.join(&site)).map_err(store_error(&new))?;
    count(below, wheels).await?;

    progress.say("unpacking packages", Some(DOWNLOADED));
    let pip = pip(interpreter, work).await?;
    pip.unpack_these(wheels, &new.join(&site)).await.map_err(TemplateError::Packages)?;
    move_scripts(&new.join(&site).join("bin"), &new.join("bin")).map_err(store_error(&new))?;

    progress.say("compiling packages", Some(UNPACKED));
    compile(interpreter, &new).await?;

    progress.say("putting them on top", Some(COMPILED));
    let mut names: Vec<String> = installed(&below.environment);
    let name = |path: &PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    names.extend(wheels.iter().filter_map(name));
    names.sort();
    let from = below.environment.clone();
    let what = wheels.iter().filter_map(name).collect::<Vec<_>>().join(", ");
    let merged = {
        let environment = environment.clone();
        tokio::task::spawn_blocking(move || -> Result<(), TemplateError> {
            let at = |error| store_error(&environment)(error);
            link_tree(&from, &environment).map_err(at)?;
            merge(&new, &environment, &what)?;
            let lock = environment.join("lock.txt");
            // It is shared with the environment below, which must keep its own.
            match fs::remove_file(&lock) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
                _ => {}
            }
            fs::write(&lock, names.join("\n") + "\n").map_err(at)
        })
        .await
    };
    merged.map_err(|error| store_error(&environment)(io::Error::other(error)))?
}

/// Refuses wheels that would fill the disk.
async fn count(below: &Template, wheels: &[PathBuf]) -> Result<(), TemplateError> {
    let mut arguments: Vec<PathBuf> = ["-I", "-c", COUNT].map(Into::into).into();
    arguments.extend(wheels.iter().cloned());
    let said = build::run(&below.interpreter, arguments, "counting what the packages hold").await?;
    let bytes: u64 = said.trim().parse().unwrap_or(u64::MAX);
    if bytes <= UNPACKED_MAX {
        return Ok(());
    }
    Err(TemplateError::TooLarge { bytes, max: UNPACKED_MAX })
}

/// The files of the wheels in an environment.
fn installed(environment: &Path) -> Vec<String> {
    // Without packages there is no such file.
    let text = fs::read_to_string(environment.join("lock.txt")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// What pip must not change: each wheel there, at its version.
fn pins(wheels: &[String]) -> String {
    let pin = |wheel: &String| {
        let mut words = wheel.split('-');
        Some(format!("{}=={}\n", words.next()?, words.next()?))
    };
    wheels.iter().filter_map(pin).collect()
}

/// Makes a tree of the same files, each of them the same on the disk.
fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            link_tree(&path, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&path)?, &target)?;
        } else {
            fs::hard_link(&path, &target)?;
        }
    }
    Ok(())
}

/// Moves a tree into another one. A file that is there already may be there again, the same.
fn merge(from: &Path, to: &Path, what: &str) -> Result<(), TemplateError> {
    let at = store_error;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(at(&path))?;
        match fs::symlink_metadata(&target) {
            Ok(there) if there.is_dir() && kind.is_dir() => merge(&path, &target, what)?,
            Ok(_) => {
                let same = |path| fs::read(path).ok();
                if kind.is_dir() || kind.is_symlink() || same(&path) != same(&target) {
                    let file = entry.file_name().to_string_lossy().into_owned();
                    return Err(TemplateError::Overlap { wheel: what.to_owned(), file });
                }
            }
            Err(_) => fs::rename(&path, &target).map_err(at(&target))?,
        }
    }
    Ok(())
}

/// The remedy for packages that cannot be had, where pip's own words do not name one.
pub(crate) fn said(error: &TemplateError) -> String {
    let remedy = match error {
        TemplateError::Packages(FetchError::Refused { said, .. })
            if said.contains("No matching distribution") =>
        {
            "; only wheels are taken, so ask for a version that has one for this Python"
        }
        TemplateError::Packages(FetchError::Refused { said, .. })
            if said.contains("ResolutionImpossible") || said.contains("conflict") =>
        {
            "; the versions of the template below stay as they are"
        }
        _ => "",
    };
    format!("{}{remedy}", error.explain())
}
