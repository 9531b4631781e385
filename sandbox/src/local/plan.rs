//! What a sandbox sees as its root: a pure plan, carried out by `mounts`.
//!
//! The root of a template is built once by its keeper. A sandbox is born with a copy of the
//! keeper's mounts, which it cannot loosen, and adds only what is its own: folders to write to
//! and a view of its own processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The user inside every sandbox. No other id exists there, and none is 0.
pub(super) const USER: u32 = 1000;

/// Ids of one engine. Wide enough for every sandbox to have one of its own.
pub(super) const IDS: u32 = 65_536;

/// First id of sandboxes among those; below are the template's own.
const FIRST_SANDBOX_ID: u32 = 1_000;

/// Most sandboxes that can have an id of their own.
pub(super) const SLOTS_MAX: u32 = IDS - FIRST_SANDBOX_ID;

/// How ids are mapped below the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ids {
    /// Every sandbox has one of its own.
    Own,
    /// All share the one of the user who started us.
    Shared,
}

impl Ids {
    /// The map of a template's user namespace, as its parent numbers ids.
    pub(super) fn of_template(self) -> String {
        match self {
            Self::Own => format!("0 0 {IDS}"),
            Self::Shared => "0 0 1".to_owned(),
        }
    }

    /// The map of a sandbox's user namespace, as the template numbers ids.
    pub(super) fn of_sandbox(self, slot: u32) -> String {
        format!("{USER} {} 1", self.outside(slot))
    }

    /// The id of a sandbox, as the template numbers ids.
    pub(super) fn outside(self, slot: u32) -> u32 {
        match self {
            Self::Own => FIRST_SANDBOX_ID + slot,
            Self::Shared => 0,
        }
    }
}

/// Something of the host that is shown below, read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// What it is called below: one word.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Whether it is a device, which a mount may forbid.
    pub(super) device: bool,
}

/// Where sources are shown to the launcher and to keepers while they build a root.
pub(super) const SOURCES: &str = "/s";

/// Where a keeper builds its root.
pub(super) const NEW_ROOT: &str = "/t";

/// What may be done with a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Use {
    /// Read, and run programs.
    Run,
    /// Read only.
    Read,
    /// A device node.
    Device,
}

/// One entry of a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// A folder.
    Folder,
    /// A file with this text.
    File(String),
    /// A link.
    Link(String),
    /// A source, or something below it.
    Bind {
        /// The source's name, and what is below it.
        from: PathBuf,
        /// What for.
        allow: Use,
    },
    /// An empty folder over one that is there.
    Empty,
}

/// The root of a template: entries in the order they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Path inside, and what is there.
    pub(super) entries: Vec<(PathBuf, Entry)>,
}

/// How one of `/bin`, `/sbin`, `/lib`, .. is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TopFolder {
    /// A link to its place below `/usr`.
    Link(String),
    /// A folder of its own.
    Folder,
}

/// What a plan is made from.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Folders of the host's root that programs expect, by name.
    pub(super) top_folders: BTreeMap<String, TopFolder>,
    /// Files and folders of the host's `/etc` that are shown as they are.
    pub(super) etc: Vec<String>,
    /// Whether the interpreter is outside `/usr`, and so at `/opt/python`.
    pub(super) own_python: bool,
    /// Whether the interpreter is below `/usr/local`.
    pub(super) python_in_usr_local: bool,
    /// Folders below `/usr` that are hidden where the host has them.
    pub(super) usr_hidden: Vec<String>,
    /// Where the environment of the template is below the store.
    pub(super) environment: Option<PathBuf>,
    /// Data folders: name, and where they are among the sources.
    pub(super) data: BTreeMap<String, PathBuf>,
    /// Our own programs: name to text.
    pub(super) programs: BTreeMap<String, String>,
}

/// The user database of every sandbox.
const PASSWD: &str = "user:x:1000:1000:user:/home/user:/bin/bash\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "user:x:1000:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost sandbox\n::1 localhost\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// Devices that are of use to everybody and harmless. The last one is whatever terminal its user
/// has, and nothing to who has none.
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The root of a template.
pub(super) fn template_root(facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    for folder in
        ["proc", "dev", "dev/shm", "dev/pts", "etc", "opt", "opt/sandpit", "home", "home/user"]
    {
        plan.add(folder, Entry::Folder);
    }
    for folder in ["tmp", "data", "usr", "run", "var"] {
        plan.add(folder, Entry::Folder);
    }
    plan.bind("usr", "usr", Use::Run);
    for hidden in &facts.usr_hidden {
        if !(hidden == "local" && facts.python_in_usr_local) {
            plan.add(&format!("usr/{hidden}"), Entry::Empty);
        }
    }
    for (name, folder) in &facts.top_folders {
        match folder {
            TopFolder::Link(target) => plan.add(name, Entry::Link(target.clone())),
            TopFolder::Folder => {
                plan.add(name, Entry::Folder);
                plan.bind(name, name, Use::Run);
            }
        }
    }
    for (name, text) in [
        ("passwd", PASSWD),
        ("group", GROUP),
        ("hosts", HOSTS),
        ("nsswitch.conf", NSSWITCH),
        ("resolv.conf", ""),
    ] {
        plan.add(&format!("etc/{name}"), Entry::File(text.to_owned()));
    }
    for name in &facts.etc {
        plan.bind(&format!("etc/{name}"), etc_source(name), Use::Read);
    }
    if facts.own_python {
        plan.bind("opt/python", "python", Use::Run);
    }
    if let Some(environment) = &facts.environment {
        plan.bind("opt/env", Path::new("store").join(environment), Use::Run);
    }
    for (name, from) in &facts.data {
        plan.bind(&format!("data/{name}"), from, Use::Read);
    }
    // A folder comes before what is in it, and its name before longer ones.
    let folders = facts.programs.keys().flat_map(|name| Path::new(name).ancestors().skip(1));
    let folders: BTreeSet<&Path> = folders.filter(|path| *path != Path::new("")).collect();
    for folder in folders {
        plan.add(&format!("opt/sandpit/{}", folder.display()), Entry::Folder);
    }
    for (name, text) in &facts.programs {
        plan.add(&format!("opt/sandpit/{name}"), Entry::File(text.clone()));
    }
    for name in DEVICES {
        plan.bind(&format!("dev/{name}"), device_source(name), Use::Device);
    }
    plan.add("dev/ptmx", Entry::Link("pts/ptmx".to_owned()));
    for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        plan.add(&format!("dev/{name}"), Entry::Link(format!("/proc/self/{target}")));
    }
    plan
}

impl Plan {
    fn add(&mut self, at: &str, entry: Entry) {
        self.entries.push((PathBuf::from(at), entry));
    }

    fn bind(&mut self, at: &str, from: impl AsRef<Path>, allow: Use) {
        let from = from.as_ref().to_owned();
        self.entries.push((PathBuf::from(at), Entry::Bind { from, allow }));
    }
}

/// What a file of the host's `/etc` is called below.
pub(super) fn etc_source(name: &str) -> String {
    format!("etc-{name}")
}

/// What a data folder is called below.
pub(super) fn data_source(name: &str) -> String {
    format!("data-{name}")
}

/// What a device is called below.
pub(super) fn device_source(name: &str) -> String {
    format!("dev-{name}")
}

/// Parts of `/proc` that tell about the host or change it: files are covered by the null device,
/// folders by nothing at all.
pub(super) const PROC_MASKED: [&str; 14] = [
    "kcore",
    "keys",
    "kallsyms",
    "timer_list",
    "sched_debug",
    "sysrq-trigger",
    "key-users",
    "interrupts",
    "latency_stats",
    "acpi",
    "scsi",
    "irq",
    "bus",
    "fs",
];

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
