//! What is put on top of a template, and what a template becomes when it leaves its node.

use std::collections::BTreeMap;

use bytes::Bytes;
use sandpit_messages::id::SandboxId;

use super::Limits;

/// What is put on top of a template. Equal layers are one template, whoever asks and however
/// often: it is built once and named after everything that makes a difference to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// The template below: a configured one, another layer's, or an exported one.
    pub base: String,
    /// Requirements as in `scipy==1.15.2`; only wheels are taken.
    pub packages: Vec<String>,
    /// Environment of everything that runs in its sandboxes.
    pub env: BTreeMap<String, String>,
    /// Files, name (relative to `/home/user`) to contents.
    pub files: BTreeMap<String, Bytes>,
    /// Lines for `/bin/sh -c`, run once, in order, without a network, where the files are. What
    /// they leave in `/home/user` is part of the template.
    pub setup: Vec<String>,
    /// Memory of its sandboxes in MiB; without it, as below.
    pub memory_mb: Option<u32>,
    /// Processors of its sandboxes; without it, as below.
    pub cpu_count: Option<u32>,
}

impl Layer {
    /// Nothing on top of `base`.
    pub fn on(base: impl Into<String>) -> Self {
        Self { base: base.into(), ..Self::default() }
    }
}

/// A sandbox that is to be written down as a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRequest {
    /// Which. It goes on running.
    pub sandbox: SandboxId,
    /// What to call the template.
    pub name: String,
    /// What its sandboxes get unless asked otherwise.
    pub limits: Limits,
    /// Names of environment variables that its holder set.
    pub env_names: Vec<String>,
    /// Whether `/home/user` goes along as it is.
    pub data: bool,
}

/// A template in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its id, made from its contents.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Which of that name, from 1.
    pub version: u32,
    /// When it was written down or came here, in Unix milliseconds.
    pub at_ms: u64,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// What it is made of.
    pub contents: Contents,
    /// What a reader should know, as what could not be written down.
    pub notes: Vec<String>,
}

/// What a template is made of, as far as it may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The configured template below.
    pub base: String,
    /// Files of the packages on top of it, each with its SHA-256.
    pub packages: Vec<String>,
    /// Names of the environment variables that were set.
    pub env_names: Vec<String>,
    /// What its sandboxes get unless asked otherwise.
    pub limits: Limits,
    /// Whether `/home/user` as it was is part of it.
    pub includes_data: bool,
}

/// A piece of an archive on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What the template is to be called; without it, what it was called.
    pub name: Option<String>,
    /// Bytes of the whole archive.
    pub size: u64,
    /// SHA-256 of the whole archive in hexadecimal digits.
    pub sha256: String,
    /// From which byte on this is.
    pub offset: u64,
    /// The piece.
    pub bytes: Bytes,
}

/// How far an archive has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// This byte is wanted next.
    Wanted(u64),
    /// It is whole, was tried, and can be created from.
    Whole(Archive),
}
