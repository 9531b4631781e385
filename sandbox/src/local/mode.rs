//! How strictly this machine lets sandboxes be held apart: facts in, a mode or the cause why there
//! is none out. Pure; the facts are gathered by trying (`probe`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What holds sandboxes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Run by root: every sandbox has a user id of its own on the host.
    Privileged,
    /// Run by an ordinary user: all sandboxes have that user's id, in namespaces of their own.
    Unprivileged,
    /// As unprivileged, inside a container.
    Container,
}

impl Mode {
    /// The word that stands in status, events and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Unprivileged => "unprivileged",
            Self::Container => "container",
        }
    }
}

/// One thing that was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attempt {
    /// Not tried: an earlier step that it needs failed, or it is not for this user.
    #[default]
    Untried,
    /// It worked.
    Worked,
    /// It failed with this error number.
    Failed(i32),
}

impl Attempt {
    /// Whether it was tried and failed.
    pub const fn failed(self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl From<std::io::Result<()>> for Attempt {
    fn from(result: std::io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Worked,
            Err(error) => Self::Failed(error.raw_os_error().unwrap_or(0)),
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untried => f.write_str("not tried"),
            Self::Worked => f.write_str("works"),
            Self::Failed(number) => write!(f, "{}", std::io::Error::from_raw_os_error(*number)),
        }
    }
}

/// Settings of the host that forbid user namespaces. `None` where this kernel has no such one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switches {
    /// `user.max_user_namespaces`
    pub max_user_namespaces: Option<u64>,
    /// `kernel.unprivileged_userns_clone`
    pub unprivileged_userns_clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`
    pub apparmor_restrict: Option<u64>,
}

/// A call of the kernel that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingCall {
    /// Which.
    pub name: String,
    /// The first kernel that has it.
    pub since: String,
}

/// What was tried in processes that ended right after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trials {
    /// Calls the engine cannot do without and this kernel lacks.
    pub missing_calls: Vec<MissingCall>,
    /// A user namespace.
    pub user_namespace: Attempt,
    /// Each other namespace within a user namespace, by name.
    pub namespaces: Vec<(String, Attempt)>,
    /// All of them in one call.
    pub together: Attempt,
    /// A map of 65,536 ids. Only root tries.
    pub wide_map: Attempt,
    /// A map of one's own id.
    pub own_map: Attempt,
    /// A file system in memory.
    pub mount: Attempt,
    /// A view of the processes of a new pid namespace.
    pub proc: Attempt,
    /// Another root.
    pub pivot: Attempt,
    /// A system call filter.
    pub seccomp: Attempt,
}

/// All that the mode depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Whether the engine is run by root.
    pub root: bool,
    /// The kernel's release, as `uname` says it.
    pub kernel: String,
    /// Settings of the host.
    pub switches: Switches,
    /// Whether a system call filter is on us already.
    pub filtered: bool,
    /// Whether parts of `/proc` are covered by mounts.
    pub proc_masked: bool,
    /// Whether this is a container.
    pub contained: bool,
    /// What was tried.
    pub trials: Trials,
}

/// Why there can be no sandboxes here. Its text says what was observed; [`Self::next`] what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// User namespaces are switched off altogether.
    #[error("user namespaces are switched off on this machine (user.max_user_namespaces is 0)")]
    UsernsOff,
    /// Namespaces of other kinds are switched off.
    #[error("no namespace of the kind {kind} can be made ({error})")]
    NamespaceRefused {
        /// Which kind.
        kind: String,
        /// What the kernel said.
        error: Attempt,
    },
    /// Only root may make user namespaces.
    #[error("only root may create user namespaces here (kernel.unprivileged_userns_clone is 0)")]
    UsernsUnprivilegedOff,
    /// AppArmor takes all rights away in them.
    #[error("AppArmor gives the namespace no rights (Ubuntu 23.10 and later)")]
    UsernsApparmor,
    /// A container's system call filter forbids them.
    #[error("a container's seccomp profile forbids unshare and clone of namespaces")]
    UsernsSeccomp,
    /// Nothing known forbids them, and yet.
    #[error("the kernel refuses user namespaces ({error}), and no known switch says why")]
    UsernsRefused {
        /// What the kernel said.
        error: Attempt,
    },
    /// A container covers parts of `/proc`.
    #[error("the container masks parts of /proc; the kernel then refuses a fresh one")]
    ProcMasked,
    /// Mounts are denied.
    #[error("mounts are denied ({step}: {error})")]
    MountDenied {
        /// Which.
        step: &'static str,
        /// What the kernel said.
        error: Attempt,
    },
    /// Root without the right to give ids away.
    #[error("running as root without SETUID and SETGID: 65,536 ids cannot be mapped ({error})")]
    RootWithoutIds {
        /// What the kernel said.
        error: Attempt,
    },
    /// A call is missing.
    #[error("the kernel has no {call}; found {kernel}, needed {since}")]
    KernelTooOld {
        /// Which call.
        call: String,
        /// The kernel.
        kernel: String,
        /// The first that has it.
        since: String,
    },
    /// System calls cannot be filtered.
    #[error("system calls cannot be filtered ({error})")]
    SeccompMissing {
        /// What the kernel said.
        error: Attempt,
    },
}

impl Cause {
    /// The code in errors and documents.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UsernsOff => "userns-off",
            Self::NamespaceRefused { .. } => "namespace-refused",
            Self::UsernsUnprivilegedOff => "userns-unprivileged-off",
            Self::UsernsApparmor => "userns-apparmor",
            Self::UsernsSeccomp => "userns-seccomp",
            Self::UsernsRefused { .. } => "userns-refused",
            Self::ProcMasked => "proc-masked",
            Self::MountDenied { .. } => "mount-denied",
            Self::RootWithoutIds { .. } => "root-without-ids",
            Self::KernelTooOld { .. } => "kernel-too-old",
            Self::SeccompMissing { .. } => "seccomp-missing",
        }
    }

    /// What to do about it.
    pub fn next(&self) -> String {
        match self {
            Self::UsernsOff => "sudo sysctl -w user.max_user_namespaces=15000; to keep it: echo \
                 user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/90-sandpit.conf"
                .to_owned(),
            Self::NamespaceRefused { kind, .. } => format!(
                "sudo sysctl -w user.max_{kind}_namespaces=15000; to keep it, write the same into \
                 /etc/sysctl.d/90-sandpit.conf"
            ),
            Self::UsernsUnprivilegedOff => {
                "sudo sysctl -w kernel.unprivileged_userns_clone=1, or run sandpit as root"
                    .to_owned()
            }
            Self::UsernsApparmor => format!(
                "write these lines to /etc/apparmor.d/sandpit and run `sudo apparmor_parser -r \
                 /etc/apparmor.d/sandpit`; last resort: sudo sysctl -w \
                 kernel.apparmor_restrict_unprivileged_userns=0\n{APPARMOR_PROFILE}"
            ),
            Self::UsernsSeccomp => "start the container with a seccomp profile that allows \
                 clone, unshare, setns, mount, umount2 and pivot_root, as docker-compose.yml does; \
                 --privileged and SYS_ADMIN are more and do not suffice"
                .to_owned(),
            Self::UsernsRefused { .. } => {
                "run sandpit as root, or ask whoever runs this machine what forbids user namespaces"
                    .to_owned()
            }
            Self::ProcMasked => {
                "start the container with --security-opt systempaths=unconfined".to_owned()
            }
            Self::MountDenied { .. } => "start the container with --security-opt \
                 apparmor=unconfined and a seccomp profile that allows mount and pivot_root"
                .to_owned(),
            Self::RootWithoutIds { .. } => {
                "run the container as an ordinary user: --user 10001:10001".to_owned()
            }
            Self::KernelTooOld { since, .. } => format!("upgrade to Linux {since} or later"),
            Self::SeccompMissing { .. } => {
                "use a kernel built with CONFIG_SECCOMP_FILTER".to_owned()
            }
        }
    }
}

/// What Ubuntu needs so that an ordinary user's namespaces have rights. The path is where the
/// program is usually installed.
pub const APPARMOR_PROFILE: &str = "\
abi <abi/4.0>,
include <tunables/global>
profile sandpit /usr/local/bin/sandpit flags=(unconfined) {
  userns,
}";

/// Chooses the strictest mode that works here.
///
/// # Errors
/// The first [`Cause`], in the order in which a sandbox would meet them.
pub fn choose(facts: &Facts) -> Result<Mode, Cause> {
    let Facts { trials, .. } = facts;
    if let Some(MissingCall { name, since }) = trials.missing_calls.first() {
        return Err(Cause::KernelTooOld {
            call: name.clone(),
            kernel: facts.kernel.clone(),
            since: since.clone(),
        });
    }
    if trials.seccomp != Attempt::Worked {
        return Err(Cause::SeccompMissing { error: trials.seccomp });
    }
    check_user_namespace(facts)?;
    let refused = trials.namespaces.iter().find(|(_, attempt)| *attempt != Attempt::Worked);
    if let Some((kind, error)) = refused {
        return Err(Cause::NamespaceRefused { kind: kind.clone(), error: *error });
    }
    check_ids(facts)?;
    for (step, error) in [
        ("making namespaces", trials.together),
        ("mounting a tmpfs", trials.mount),
        ("changing the root", trials.pivot),
    ] {
        if error != Attempt::Worked {
            return Err(denied(facts, step, error));
        }
    }
    match trials.proc {
        Attempt::Worked => {}
        _ if facts.proc_masked => return Err(Cause::ProcMasked),
        error => return Err(denied(facts, "mounting /proc", error)),
    }
    Ok(match (facts.root, facts.contained) {
        (true, _) => Mode::Privileged,
        (false, true) => Mode::Container,
        (false, false) => Mode::Unprivileged,
    })
}

fn check_user_namespace(facts: &Facts) -> Result<(), Cause> {
    const NO_ROOM: Attempt = Attempt::Failed(libc::ENOSPC);
    const NOT_ALLOWED: Attempt = Attempt::Failed(libc::EPERM);
    let Switches { max_user_namespaces, unprivileged_userns_clone, apparmor_restrict } =
        facts.switches;
    match facts.trials.user_namespace {
        Attempt::Worked => Ok(()),
        NO_ROOM => Err(Cause::UsernsOff),
        _ if max_user_namespaces == Some(0) => Err(Cause::UsernsOff),
        NOT_ALLOWED if !facts.root && unprivileged_userns_clone == Some(0) => {
            Err(Cause::UsernsUnprivilegedOff)
        }
        NOT_ALLOWED if facts.filtered => Err(Cause::UsernsSeccomp),
        NOT_ALLOWED if !facts.root && apparmor_restrict == Some(1) => Err(Cause::UsernsApparmor),
        error => Err(Cause::UsernsRefused { error }),
    }
}

fn check_ids(facts: &Facts) -> Result<(), Cause> {
    let Trials { wide_map, own_map, .. } = facts.trials;
    if facts.root {
        return match wide_map {
            Attempt::Worked => Ok(()),
            // Mapping root's own id instead would undo the limits on processes.
            error => Err(Cause::RootWithoutIds { error }),
        };
    }
    match own_map {
        Attempt::Worked => Ok(()),
        _ if facts.switches.apparmor_restrict == Some(1) => Err(Cause::UsernsApparmor),
        error => Err(Cause::UsernsRefused { error }),
    }
}

fn denied(facts: &Facts, step: &'static str, error: Attempt) -> Cause {
    if !facts.root && facts.switches.apparmor_restrict == Some(1) {
        return Cause::UsernsApparmor;
    }
    Cause::MountDenied { step, error }
}

#[cfg(test)]
mod tests;
