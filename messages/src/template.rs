//! The conversation about templates: write a sandbox down as one, list them, carry them from node
//! to node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{NodeId, SandboxId};
use crate::sandbox::Resources;
use crate::subject::{Patience, Replay, Request, Verb};

/// Most bytes of an archive in one message. In base64 it is a third more, and the bound on a body
/// is 512 KiB.
pub const CHUNK_MAX: usize = 256 * 1024;

/// "Write my sandbox down, so that others can be made like it."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Export {
    /// Which sandbox. It goes on running.
    pub sandbox_id: SandboxId,
    /// What to call the template: a letter or digit, then at most 62 of `a-z`, `0-9` and `-`. A
    /// name that is taken gets a new version.
    pub template_name: String,
    /// Whether /home/user goes along as it is now, 512 MiB at most. Without it, only what its own
    /// template put there does.
    #[serde(default)]
    pub include_data: bool,
    /// What makes repeating it safe; the header of that name wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// What a template was made of, as it is told. Values of environment variables are never told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Configuration {
    /// The configured template below it.
    pub base: String,
    /// What sandboxes get unless asked otherwise.
    pub resources: Resources,
    /// The wheels on top of the base, each pinned by its version and its digest.
    pub packages: Vec<String>,
    /// Names of the environment variables that were set.
    pub env_names: Vec<String>,
}

/// What was measured in the sandbox that a template was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Performance {
    /// Executions in it.
    pub executions: u64,
}

/// The template, ready to create from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Exported {
    /// Its id, made from its contents: the same on every node.
    pub template_id: String,
    /// What it is called.
    pub template_name: String,
    /// Which of that name, from 1.
    pub version: u32,
    /// When, RFC 3339.
    pub exported_at: String,
    /// Size of its archive in MiB.
    pub size_mb: f64,
    /// SHA-256 of its archive in hexadecimal digits.
    pub sha256: String,
    /// The sandbox it was made from.
    pub created_from: SandboxId,
    /// What it is made of.
    pub configuration: Configuration,
    /// What was measured in that sandbox.
    pub performance: Performance,
    /// Whether /home/user as it was is part of it.
    pub includes_data: bool,
    /// What a reader should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Request for Export {
    type Reply = Exported;
    const VERB: Verb = Verb::new("export");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::secs(60, 300);
}

/// "Which templates are there?"
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TemplateList {}

/// Where a template comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Origin {
    /// The node's settings.
    Configured,
    /// Built because somebody asked for packages, files or commands on top of another one.
    Layer,
    /// Written down from a sandbox, here or on another node.
    Exported,
}

/// One template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct TemplateLine {
    /// What `create` calls it.
    pub template: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Its id, if it is made from contents rather than from settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    /// Which of that name, if it was exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// When it was written down or carried here, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported_at: Option<String>,
    /// Size of its archive in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_mb: Option<f64>,
    /// SHA-256 of its archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// The templates of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Templates {
    /// The node that answered.
    pub node: NodeId,
    /// By name and version.
    pub templates: Vec<TemplateLine>,
}

impl Request for TemplateList {
    type Reply = Templates;
    const VERB: Verb = Verb::new("template-list");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

/// "Give me the archive of a template, from there on."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateGet {
    /// Its name (the newest version), `name@version`, or its id.
    pub template_name: String,
    /// From which byte on.
    #[serde(default)]
    pub offset: u64,
}

/// A piece of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateChunk {
    /// What it is called.
    pub template_name: String,
    /// Bytes of the whole archive.
    pub size: u64,
    /// SHA-256 of the whole archive.
    pub sha256: String,
    /// From which byte on this is.
    pub offset: u64,
    /// Base64, of at most 262,144 bytes; empty at the end.
    pub content: String,
}

impl Request for TemplateGet {
    type Reply = TemplateChunk;
    const VERB: Verb = Verb::new("template-get");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

/// "Take this piece of an archive; with the last one, the template is yours."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateImport {
    /// What to call it; without it, as it was called where it was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_name: Option<String>,
    /// SHA-256 of the whole archive.
    pub sha256: String,
    /// Bytes of the whole archive.
    pub size: u64,
    /// From which byte on this is.
    pub offset: u64,
    /// Base64, of at most 262,144 bytes.
    pub content: String,
}

/// How far an archive has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateImported {
    /// The byte that is wanted next. Less than what was sent when pieces came out of order.
    pub next_offset: u64,
    /// The template, once it is whole and was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateLine>,
}

impl Request for TemplateImport {
    type Reply = TemplateImported;
    const VERB: Verb = Verb::new("template-import");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::secs(60, 300);
}
