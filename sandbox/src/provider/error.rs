//! What goes wrong at a provider, and what it means to whoever decides what to do about it.

use std::time::Duration;

use sandpit_messages::id::SandboxId;

use super::contexts::ContextId;
use super::files::FileFault;
use super::processes::ProcessFault;

/// What went wrong at a provider. What a program does is never one of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// No such sandbox, or it ended.
    #[error("there is no sandbox {0}")]
    Gone(SandboxId),
    /// No such template.
    #[error("there is no template `{name}`")]
    NoSuchTemplate {
        /// The name.
        name: String,
    },
    /// The template is there and cannot be used.
    #[error("template `{name}` is broken: {why}")]
    TemplateBroken {
        /// The name.
        name: String,
        /// What happened and what to do about it.
        why: String,
    },
    /// What was put on top of a template does not work, and will not the next time.
    #[error("{step} failed; it said: {said}")]
    NotBuilt {
        /// The argument that asked for it.
        field: &'static str,
        /// Which part of it.
        step: String,
        /// The end of what it said, and what to do about it.
        said: String,
    },
    /// An archive is not what it should be. Nothing of it was kept.
    #[error("this is not a template that can be used here: {why}")]
    Rejected {
        /// What is wrong with it.
        why: String,
    },
    /// More than the bound.
    #[error("the {what} is {bytes} bytes, more than {max}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many there are, or were seen so far.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// Not something this provider does.
    #[error("{what} is not supported by this provider")]
    Unsupported {
        /// What was asked.
        what: String,
    },
    /// Something cannot be done with a path.
    #[error("{path} {fault}")]
    File {
        /// The path as it was asked for.
        path: String,
        /// Why.
        fault: FileFault,
    },
    /// Something cannot be done with a process.
    #[error("{process} {fault}")]
    Process {
        /// Which, in words.
        process: String,
        /// Why.
        fault: ProcessFault,
    },
    /// No such context.
    #[error("there is no context {0}")]
    NoSuchContext(ContextId),
    /// The sandbox is paused. It has to be resumed first.
    #[error("sandbox {0} is paused")]
    Paused(SandboxId),
    /// It is asked too often, and says when to ask again.
    #[error("the provider wants to be asked again after {} ms", after.as_millis())]
    Throttled {
        /// How long not to ask.
        after: Duration,
    },
    /// It does not know who asks. Asking again changes nothing until the key is mended.
    #[error("the provider refuses our key: {why}")]
    Denied {
        /// In its words.
        why: String,
    },
    /// It says that what is asked is wrong. Asking again changes nothing.
    #[error("the provider refuses this: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
    /// Time was over before it answered.
    #[error("the provider did not answer in time")]
    Timeout {
        /// Whether it may have been done all the same.
        maybe_done: bool,
    },
    /// A bound of the machine or the plan is reached.
    #[error("out of {what}")]
    Quota {
        /// Of what.
        what: String,
    },
    /// The sandbox runs as many things as it may.
    #[error("{queued} executions are queued in this sandbox already")]
    Busy {
        /// The bound.
        queued: usize,
    },
    /// It failed, and may work next time.
    #[error("the provider failed: {why}")]
    Failed {
        /// The cause, in one line.
        why: String,
        /// Whether it may have been done all the same.
        maybe_done: bool,
    },
}

/// What a failure means to whoever decides what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same call may succeed a little later.
    Transient,
    /// It may succeed after this long, and not before.
    Throttled(Duration),
    /// A bound is reached: not here until something is given back, perhaps elsewhere.
    Quota,
    /// The call is wrong, wherever and whenever it is made.
    Permanent,
    /// Not here; perhaps at a provider that can.
    Unsupported,
    /// The provider does not accept us: somebody has to mend the key.
    Denied,
    /// The sandbox is not there any more.
    Gone,
}

impl ProviderError {
    /// Not something this provider does.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    /// What it means. The one table that everything else reads.
    pub const fn class(&self) -> Class {
        match self {
            Self::Failed { .. } | Self::Busy { .. } | Self::Timeout { .. } => Class::Transient,
            Self::Throttled { after } => Class::Throttled(*after),
            Self::Quota { .. } => Class::Quota,
            Self::Unsupported { .. } => Class::Unsupported,
            Self::Denied { .. } => Class::Denied,
            Self::Gone(_) => Class::Gone,
            Self::NoSuchTemplate { .. }
            | Self::TemplateBroken { .. }
            | Self::NotBuilt { .. }
            | Self::Rejected { .. }
            | Self::TooLarge { .. }
            | Self::File { .. }
            | Self::Process { .. }
            | Self::NoSuchContext(_)
            | Self::Paused(_)
            | Self::Refused { .. } => Class::Permanent,
        }
    }

    /// Whether the same call may succeed a little later.
    pub const fn is_transient(&self) -> bool {
        matches!(self.class(), Class::Transient | Class::Throttled(_) | Class::Quota)
    }

    /// Whether it may have been done although nobody said so.
    pub const fn maybe_done(&self) -> bool {
        matches!(self, Self::Failed { maybe_done: true, .. } | Self::Timeout { maybe_done: true })
    }
}
