//! How the embedded engine is set up. Valid already: the configuration was checked when it was
//! read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sandpit_messages::id::NodeId;

use crate::fetch::Source;
use crate::provider::Limits;

/// Everything the engine is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Who owns the sandboxes.
    pub node: NodeId,
    /// Where templates and their wheels are kept. World-readable below, so that mapped ids can
    /// walk it.
    pub store: PathBuf,
    /// The interpreter; without it the best one on `PATH`.
    pub python: Option<PathBuf>,
    /// First of the 65,536 ids that sandboxes are mapped to when run by root.
    pub uid_base: u32,
    /// Whether control groups are used where they can be.
    pub cgroup: CgroupChoice,
    /// Skeletons (namespaces and root without a worker) kept ready per template.
    pub spare_skeletons: usize,
    /// Sandboxes at once, at most.
    pub sandboxes_max: usize,
    /// Forks after which a zygote is replaced by a fresh one.
    pub rotate_forks: u32,
    /// Age at which a zygote is replaced by a fresh one.
    pub rotate_age: Duration,
    /// Whether malloc uses huge pages where the kernel lets it.
    pub huge_pages: bool,
    /// Bounds of every sandbox that no template changes.
    pub bounds: Bounds,
    /// The templates, by name.
    pub templates: BTreeMap<String, TemplateSpec>,
    /// What is built on top of them.
    pub layers: Layers,
}

/// Templates that callers ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// Where their packages come from.
    pub source: Source,
    /// How many are kept, those written down and imported among them. Each takes room on the disk
    /// and, once used, memory for its warm interpreter.
    pub kept_max: usize,
    /// Skeletons kept ready for each that is used.
    pub spare_skeletons: usize,
    /// Longest one setup command may take.
    pub setup_max: Duration,
    /// Bytes of `/home/user` that are written down at most.
    pub data_max: u64,
    /// Bytes of an archive that comes from elsewhere.
    pub archive_max: u64,
}

impl Default for Layers {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            source: Source::Index,
            kept_max: 64,
            spare_skeletons: 2,
            setup_max: Duration::from_secs(120),
            data_max: 512 * MIB,
            archive_max: 2048 * MIB,
        }
    }
}

/// Whether control groups are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupChoice {
    /// Where they can be written.
    #[default]
    Auto,
    /// Never.
    None,
}

/// Bounds of every sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Processes and threads.
    pub pids: u32,
    /// Bytes in `/home/user`.
    pub home_bytes: u64,
    /// Bytes in `/tmp`.
    pub tmp_bytes: u64,
    /// Bytes in `/dev/shm`.
    pub shm_bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Files open in one process.
    pub open_files: u32,
    /// Bytes of each output stream of one execution that are passed on; the rest is counted.
    pub output_kept: u64,
    /// Bytes of output of one execution after which it is killed.
    pub output_max: u64,
    /// Executions waiting in one sandbox.
    pub queued_max: usize,
    /// From the polite interrupt to the kill.
    pub grace: Duration,
    /// Longest a teardown may take before the sandbox counts as stuck.
    pub destroy_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            pids: 128,
            home_bytes: 256 * MIB,
            tmp_bytes: 128 * MIB,
            shm_bytes: 64 * MIB,
            file_bytes: 256 * MIB,
            open_files: 512,
            output_kept: MIB,
            output_max: 64 * MIB,
            queued_max: 64,
            grace: Duration::from_millis(250),
            destroy_max: Duration::from_secs(1),
        }
    }
}

/// What a template is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSpec {
    /// Requirements as pip reads them, versions pinned, hashes where they are known. Empty: the
    /// standard library alone.
    pub requirements: String,
    /// Python run once in the zygote after the imports, so that every sandbox is born warm.
    pub warmup: String,
    /// Folders mounted read-only at `/data/<name>`.
    pub data: BTreeMap<String, PathBuf>,
    /// A program of this machine that its sandboxes need beside Python, as in `node`.
    pub program: Option<String>,
    /// What its sandboxes get unless asked otherwise.
    pub limits: Limits,
}
