//! Templates: which interpreter, which packages, and the folder that sandboxes see at
//! [`INSIDE_ENVIRONMENT`].
//!
//! An environment is made once and never changed: its folder is named by a digest of all that
//! went into it, filled beside its place and renamed into it. Whoever finds it finds it whole.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::options::{Options, TemplateSpec};
use crate::fetch::FetchError;
use crate::provider::{Limits, Progress};

pub mod archive;
mod build;
pub mod interpreter;
pub mod library;
pub mod recipe;
pub(super) mod wheels;

#[cfg(test)]
mod tests;

pub(super) use build::lock;
use interpreter::{Interpreter, NoInterpreter};

/// Where sandboxes see the environment of their template.
pub const INSIDE_ENVIRONMENT: &str = "/opt/env";

/// The interpreter of a template, as seen inside.
pub const INSIDE_PYTHON: &str = "/opt/env/bin/python3";

/// Part of every digest: raised when the way environments are made changes.
const FORMAT: &str = "sandpit environment 1";

/// The same for environments on top of others.
const EXTENDED: &str = "sandpit extended environment 1";

/// A template that is on the disk, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// SHA-256 in hexadecimal digits over everything that makes a difference to what runs in it.
    pub digest: String,
    /// The interpreter.
    pub interpreter: Interpreter,
    /// The environment on the host, to be mounted at [`INSIDE_ENVIRONMENT`].
    pub environment: PathBuf,
}

/// A template cannot be made. Says what happened and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// No Python.
    #[error(transparent)]
    Interpreter(#[from] NoInterpreter),
    /// No packages.
    #[error("the packages cannot be installed")]
    Packages(#[source] FetchError),
    /// The interpreter has no pip and cannot make one.
    #[error(
        "{} has neither pip nor ensurepip, so packages cannot be installed; run `sudo apt install \
         python3-pip`, or name another interpreter in the setting `python`",
        python.display()
    )]
    NoPip {
        /// Which interpreter.
        python: PathBuf,
    },
    /// Packages that do not go together.
    #[error("{wheel} holds {file}, which is there already and different")]
    Overlap {
        /// Which package.
        wheel: String,
        /// What both have.
        file: String,
    },
    /// More than a template may hold.
    #[error(
        "the packages are {bytes} bytes unpacked, more than {max}; ask for fewer, or put them into \
         a template of the settings"
    )]
    TooLarge {
        /// How many.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// A step of the interpreter's own failed.
    #[error("{what} failed; it said: {said}")]
    Step {
        /// Which step.
        what: &'static str,
        /// The end of what it said.
        said: String,
    },
    /// The store cannot be used.
    #[error(
        "cannot use {}; templates made before are untouched. Free some space or mend its \
         permissions, or choose another folder with the setting `store`",
        path.display()
    )]
    Store {
        /// Which file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

impl TemplateError {
    /// The error and all its causes in one line.
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// The templates that are always there: `base` and `python`, the standard library alone, `trading`,
/// with numpy and pandas, `code-interpreter-v1`, with matplotlib beside these, and `nodejs`, with the
/// Node.js of the machine.
pub fn built_in() -> BTreeMap<String, TemplateSpec> {
    /// Enough for a few million prices.
    const LIMITS: Limits = Limits { memory_mb: 512, cpu_count: 1 };
    let base = TemplateSpec {
        requirements: String::new(),
        warmup: String::new(),
        data: BTreeMap::new(),
        program: None,
        limits: LIMITS,
    };
    let nodejs = TemplateSpec { program: Some("node".to_owned()), ..base.clone() };
    let trading = TemplateSpec {
        requirements: include_str!("../../../python/trading.txt").to_owned(),
        warmup: include_str!("../../../python/trading_warmup.py").to_owned(),
        ..base.clone()
    };
    let interpreter = TemplateSpec {
        requirements: include_str!("../../../python/code_interpreter.txt").to_owned(),
        warmup: concat!(
            include_str!("../../../python/trading_warmup.py"),
            include_str!("../../../python/code_interpreter_warmup.py")
        )
        .to_owned(),
        ..base.clone()
    };
    let python = base.clone();
    [
        ("base", base),
        ("code-interpreter-v1", interpreter),
        ("nodejs", nodejs),
        ("python", python),
        ("trading", trading),
    ]
    .map(|(name, spec)| (name.to_owned(), spec))
    .into()
}

/// Makes sure that a template is on the disk: finds the interpreter, and builds the environment if
/// no earlier run did. Two that build the same wait for each other, in one process or in several.
/// Dropping the future stops the work; what is half-made is cleared away by the next one.
///
/// `worker` is the source of our own code that runs inside: it is part of the digest.
///
/// # Errors
/// Any [`TemplateError`]. Nothing half-made is ever used.
pub async fn prepare(
    options: &Options,
    spec: &TemplateSpec,
    worker: &str,
    progress: &Progress,
) -> Result<Template, TemplateError> {
    build::make_shared_folder(&options.store).map_err(store_error(&options.store))?;
    let memory = options.store.join("interpreter.json");
    let interpreter = Interpreter::recall(options.python.as_deref(), &memory).await?;
    let environments = options.store.join("environments");
    let name = environment_digest(&interpreter, &spec.requirements);
    let environment = environments.join(&name);
    if !environment.exists() {
        build::build(&environments, &name, &interpreter, &spec.requirements, progress).await?;
    }
    let digest = template_digest(&name, spec, worker);
    Ok(Template { digest, interpreter, environment })
}

/// Makes sure that an environment with these wheels on top of another template's is on the disk.
///
/// # Errors
/// Any [`TemplateError`]. Nothing half-made is ever used.
pub async fn extend(
    options: &Options,
    below: &Template,
    wheels: &[(PathBuf, String)],
    progress: &Progress,
) -> Result<PathBuf, TemplateError> {
    if wheels.is_empty() {
        return Ok(below.environment.clone());
    }
    let environments = options.store.join("environments");
    let under = below.environment.file_name().unwrap_or_default().to_string_lossy();
    let mut parts = vec![EXTENDED, &under];
    parts.extend(wheels.iter().map(|(_, sha256)| sha256.as_str()));
    let name = digest(&parts);
    let environment = environments.join(&name);
    if !environment.exists() {
        let files = wheels.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        build::extend(&environments, &name, below, &files, progress).await?;
    }
    Ok(environment)
}

/// Names a template by all that makes a difference to what runs in it: another one, its
/// environment, and its id, which was made from everything else.
pub fn layered_digest(below: &Template, environment: &Path, id: &str) -> String {
    let environment = environment.file_name().unwrap_or_default().to_string_lossy();
    digest(&[&below.digest, &environment, id])
}

/// What a configured template consists of, as another node can compare it: packages, warm-up, and
/// names of data folders and of a program.
pub fn spec_digest(spec: &TemplateSpec) -> String {
    let TemplateSpec { requirements, warmup, data, program, limits: _ } = spec;
    let program = program.as_deref().unwrap_or_default();
    let mut parts = vec![requirements.as_str(), warmup.as_str(), program];
    parts.extend(data.keys().map(String::as_str));
    digest(&parts)
}

/// Names an environment by what is in it.
fn environment_digest(interpreter: &Interpreter, requirements: &str) -> String {
    let version = interpreter.version.map(|part| part.to_string()).join(".");
    let prefix = interpreter.inside_prefix().to_string_lossy();
    digest(&[FORMAT, std::env::consts::ARCH, &version, &interpreter.build, &prefix, requirements])
}

/// Names a template by all that makes a difference to what runs in it.
fn template_digest(environment: &str, spec: &TemplateSpec, worker: &str) -> String {
    let TemplateSpec { requirements: _, warmup, data, program: _, limits } = spec;
    let limits = format!("{} MiB, {} processors", limits.memory_mb, limits.cpu_count);
    let mut parts = vec![environment.to_owned(), warmup.clone(), limits, worker.to_owned()];
    for (name, folder) in data {
        parts.push(name.clone());
        parts.push(folder.to_string_lossy().into_owned());
    }
    digest(&parts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// SHA-256 over parts, each with its length, so that no two lists of parts are alike.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 in hexadecimal digits.
fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn store_error(path: &Path) -> impl FnOnce(io::Error) -> TemplateError {
    let path = path.to_owned();
    move |cause| TemplateError::Store { path, cause }
}
