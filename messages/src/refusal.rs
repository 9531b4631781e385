//! Why a request is not granted, as an enum with fields. On the wire it is a [`Problem`].

use std::time::Duration;

use crate::id::SandboxId;
use crate::problem::{Detail, Problem, Ran};

/// What a client is told when the answer is no. What an operator reads is the logged error chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes, the version or a header made no sense; `at` says where.
    #[error("not understood: {at}")]
    Malformed {
        /// The place and what was wrong with it.
        at: String,
    },
    /// A field is out of its range.
    #[error("{field} is {came}; expected {expected}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What came, shortened.
        came: String,
        /// What would have been accepted.
        expected: String,
    },
    /// An argument is not what it has to be: of another type, out of its range, missing, or named
    /// twice with different values.
    #[error("{field} is {came}; expected {expected}")]
    Argument {
        /// Its name, with the names of what it is part of before dots.
        field: String,
        /// What came, shortened.
        came: String,
        /// What would have been accepted.
        expected: String,
    },
    /// There is no such argument.
    #[error("`{field}` is not an argument of {verb}; it takes {}", accepted.join(", "))]
    UnknownArgument {
        /// What came, shortened.
        field: String,
        /// The verb, or the tool it was asked as.
        verb: String,
        /// Those that there are.
        accepted: Vec<String>,
    },
    /// Neither the id nor the name of a sandbox that runs.
    #[error("there is no sandbox `{name}`")]
    NoSuchName {
        /// What came, shortened.
        name: String,
    },
    /// More than one sandbox has this name.
    #[error("{} sandboxes are called `{name}`", ids.len())]
    AmbiguousName {
        /// The name.
        name: String,
        /// Those it may mean, at most 16.
        ids: Vec<SandboxId>,
    },
    /// Nobody answers this verb.
    #[error("`{verb}` is not a verb of this version")]
    UnknownVerb {
        /// What came, shortened.
        verb: String,
    },
    /// Understood, but not to be had here.
    #[error("{what} is not supported here")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// More bytes than the bound.
    #[error("the {what} is {bytes} bytes, more than {max}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many came.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The request arrived after its own deadline.
    #[error("the request arrived {late:?} after its deadline")]
    TooLate {
        /// How long after.
        late: Duration,
    },
    /// The caller's patience ended first.
    #[error("no sandbox became free within {waited:?}")]
    WaitedTooLong {
        /// How long the caller waited.
        waited: Duration,
    },
    /// The deadline passed while it was being done.
    #[error("the deadline passed while it was being done")]
    Unfinished,
    /// No such sandbox, or not the caller's.
    #[error("there is no sandbox {sandbox}")]
    NoSuchSandbox {
        /// The id that was given.
        sandbox: SandboxId,
    },
    /// No such template.
    #[error("there is no template `{template}`")]
    NoSuchTemplate {
        /// The name that was given, shortened.
        template: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// No such thing of another kind, or not the caller's.
    #[error("there is no {what} {name}")]
    NoSuch {
        /// Of what kind: `agent`, `feed`, ..
        what: &'static str,
        /// The name or id that was given, shortened.
        name: String,
    },
    /// It cannot be done beside what is there or under way.
    #[error("{why}")]
    Conflict {
        /// In what: `feed`, `agent`, ..
        scope: &'static str,
        /// One sentence.
        why: String,
    },
    /// What was put on top of a template does not work.
    #[error("{step} failed; it said: {said}")]
    NotBuilt {
        /// The argument that asked for it.
        field: &'static str,
        /// Which part of it.
        step: String,
        /// The end of what it said.
        said: String,
    },
    /// An archive is not what it should be.
    #[error("this is not a template that can be used here: {why}; nothing of it was kept")]
    NotATemplate {
        /// What is wrong with it.
        why: String,
    },
    /// A template is being built, and will be whether or not its caller waits.
    #[error("the template is still being built; ask again for the same")]
    Building {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The sandbox ended within the last hour.
    #[error("sandbox {sandbox} ended {ago:?} ago: {why}")]
    Gone {
        /// Which.
        sandbox: SandboxId,
        /// How it ended.
        why: &'static str,
        /// When.
        ago: Duration,
    },
    /// The sandbox is leaving: what runs in it may end, nothing new begins.
    #[error("sandbox {sandbox} is leaving: its deployment or swarm needs it no more")]
    Leaving {
        /// Which.
        sandbox: SandboxId,
    },
    /// A bound on how many there may be.
    #[error("{wanted} {scope} were wanted; at most {max} are allowed")]
    OverQuota {
        /// Of what.
        scope: &'static str,
        /// How many there would be.
        wanted: usize,
        /// The bound.
        max: usize,
        /// The setting that holds it.
        setting: &'static str,
    },
    /// A line of a deployment's `setup` failed.
    #[error("the setup failed: `{command}` exited with {exit_code}: {stderr}")]
    SetupFailed {
        /// The line, shortened.
        command: String,
        /// What it exited with.
        exit_code: i32,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// The idempotency key was used before, for something else.
    #[error("this idempotency key was used for a different request")]
    KeyReused,
    /// A bound on what exists at once.
    #[error("{max} sandboxes are alive, which is the most allowed at once")]
    Quota {
        /// The bound.
        max: usize,
        /// The setting that holds it.
        setting: &'static str,
    },
    /// The sandbox stands still.
    #[error("sandbox {sandbox} is paused; resume it first")]
    Paused {
        /// Which.
        sandbox: SandboxId,
    },
    /// A queue is at its bound, or the wait would outlast the caller's patience.
    #[error("{waiting} requests are waiting already")]
    Busy {
        /// How many.
        waiting: usize,
        /// When to ask again.
        retry_after: Duration,
    },
    /// The node is leaving.
    #[error("this node is draining")]
    Draining,
    /// Not ready yet: the node is starting, or lost its connection.
    #[error("not ready yet: {what}")]
    Unsettled {
        /// What is missing.
        what: &'static str,
    },
    /// Whoever would answer is starting over, and had not begun.
    #[error("starting over; ask again")]
    Restarting,
    /// Whoever would answer had begun and is starting over.
    #[error("interrupted; ask again only with the same idempotency key")]
    Interrupted,
    /// This request met a bug of ours. Asking again meets it again.
    #[error("this request met a fault of ours; it was written down")]
    Fault,
    /// Where code runs failed.
    #[error("no sandbox could be provided: {why}")]
    Provider {
        /// The cause, in one line.
        why: String,
        /// Whether it was done.
        ran: Ran,
    },
    /// Somebody who may ended it.
    #[error("cancelled")]
    Cancelled,
}

impl Refusal {
    /// For the wire. Every refusal is named here: a new one does not compile without its row.
    pub fn problem(&self) -> Problem {
        use Ran::{No, Unknown};
        let (kind, code, ran, retry_after) = match self {
            Self::Malformed { .. }
            | Self::Invalid { .. }
            | Self::NotBuilt { .. }
            | Self::NotATemplate { .. }
            | Self::SetupFailed { .. }
            | Self::Argument { .. }
            | Self::UnknownArgument { .. } => ("invalid_argument", 400, No, None),
            Self::NoSuchSandbox { .. }
            | Self::NoSuchTemplate { .. }
            | Self::NoSuchName { .. }
            | Self::NoSuch { .. } => ("not_found", 404, No, None),
            Self::AmbiguousName { .. } => ("conflict", 409, No, None),
            Self::TooLate { .. } | Self::WaitedTooLong { .. } => ("timeout", 408, No, None),
            Self::Unfinished => ("timeout", 408, Unknown, None),
            Self::KeyReused | Self::Conflict { .. } | Self::Paused { .. } => {
                ("conflict", 409, No, None)
            }
            Self::Gone { .. } | Self::Leaving { .. } => ("gone", 410, No, None),
            Self::TooLarge { .. } => ("too_large", 413, No, None),
            Self::Quota { .. } | Self::OverQuota { .. } => ("quota_exceeded", 429, No, None),
            Self::Cancelled => ("cancelled", 499, Unknown, None),
            Self::Interrupted | Self::Fault => ("internal", 500, Unknown, None),
            Self::UnknownVerb { .. } | Self::Unsupported { .. } => ("unsupported", 501, No, None),
            Self::Provider { ran, .. } => ("provider_failed", 502, *ran, None),
            Self::Busy { retry_after, .. } | Self::Building { retry_after } => {
                ("busy", 503, No, Some(*retry_after))
            }
            Self::Draining => ("draining", 503, No, Some(Duration::ZERO)),
            Self::Unsettled { .. } => ("unsettled", 503, No, Some(Duration::from_millis(100))),
            Self::Restarting => ("unsettled", 503, No, Some(Duration::from_millis(20))),
        };
        Problem {
            kind: kind.to_owned(),
            code,
            message: self.to_string(),
            ran,
            retry_after_ms: retry_after
                .map(|after| after.as_millis().try_into().unwrap_or(u32::MAX)),
            detail: self.detail(),
            trace_id: None,
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::Invalid { field, expected, .. } => Detail {
                field: Some((*field).to_owned()),
                expected: Some(expected.clone()),
                ..Detail::default()
            },
            Self::NotBuilt { field, .. } => Detail {
                field: Some((*field).to_owned()),
                expected: Some("packages and commands that work without a network".to_owned()),
                ..Detail::default()
            },
            Self::NotATemplate { .. } => Detail {
                field: Some("content".to_owned()),
                expected: Some("an archive as a node of this version writes it".to_owned()),
                next: vec!["export the template again and send it again".to_owned()],
                ..Detail::default()
            },
            Self::Argument { field, expected, .. } => Detail {
                field: Some(field.clone()),
                expected: Some(expected.clone()),
                ..Detail::default()
            },
            Self::UnknownArgument { field, accepted, .. } => Detail {
                field: Some(field.clone()),
                expected: Some(format!("one of {}", accepted.join(", "))),
                ..Detail::default()
            },
            Self::NoSuchName { name } => Detail {
                handle: Some(name.clone()),
                next: vec!["list sandboxes, or create another".to_owned()],
                ..Detail::default()
            },
            Self::AmbiguousName { name, ids } => Detail {
                handle: Some(name.clone()),
                scope: Some("name".to_owned()),
                next: ids.iter().map(|id| format!("say {id}")).collect(),
                ..Detail::default()
            },
            Self::NoSuchTemplate { known, .. } => Detail {
                field: Some("template".to_owned()),
                expected: Some(format!("one of {}", known.join(", "))),
                ..Detail::default()
            },
            Self::NoSuchSandbox { sandbox }
            | Self::Paused { sandbox }
            | Self::Gone { sandbox, .. } => Detail {
                handle: Some(sandbox.to_string()),
                next: vec!["create another sandbox".to_owned()],
                ..Detail::default()
            },
            Self::NoSuch { name, .. } => Detail { handle: Some(name.clone()), ..Detail::default() },
            Self::Conflict { scope, .. } => {
                Detail { scope: Some((*scope).to_owned()), ..Detail::default() }
            }
            Self::KeyReused => Detail {
                scope: Some("key".to_owned()),
                next: vec!["use a new key for a new request".to_owned()],
                ..Detail::default()
            },
            Self::Quota { setting, .. } => Detail {
                scope: Some("sandboxes".to_owned()),
                next: vec![
                    "terminate a sandbox that is not needed".to_owned(),
                    format!("raise {setting}"),
                ],
                ..Detail::default()
            },
            Self::Leaving { sandbox } => Detail {
                handle: Some(sandbox.to_string()),
                next: vec!["ask another instance of the deployment".to_owned()],
                ..Detail::default()
            },
            Self::OverQuota { scope, setting, .. } => Detail {
                scope: Some((*scope).to_owned()),
                next: vec![format!("raise {setting}")],
                ..Detail::default()
            },
            Self::SetupFailed { .. } => Detail {
                field: Some("setup".to_owned()),
                expected: Some("lines that exit with 0".to_owned()),
                ..Detail::default()
            },
            _ => Detail::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_thing_the_bound_and_the_way_out() {
        let quota = Refusal::Quota { max: 64, setting: "pool.total_max" }.problem();
        assert_eq!((quota.kind.as_str(), quota.code), ("quota_exceeded", 429));
        assert_eq!(quota.message, "64 sandboxes are alive, which is the most allowed at once");
        assert_eq!(quota.detail.next[1], "raise pool.total_max");
    }

    #[test]
    fn only_what_may_help_says_when_to_ask_again() {
        let busy = Refusal::Busy { waiting: 3, retry_after: Duration::from_millis(40) };
        assert_eq!(busy.problem().retry_after_ms, Some(40));
        assert_eq!(Refusal::Fault.problem().retry_after_ms, None);
    }
}
