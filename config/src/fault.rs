//! Why a configuration is not one: what is wrong, where it was written, what would be valid.

use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// In `default.toml`.
    Default,
    /// In the operator's file.
    File {
        /// Its name, as the operator gave it.
        name: String,
        /// From 1.
        line: usize,
    },
    /// In an environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// On the command line.
    Flag {
        /// As it was given.
        text: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default.toml"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment { name } => f.write_str(name),
            Self::Flag { text } => f.write_str(text),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not TOML.
    #[error("{at}: {why}")]
    NotToml {
        /// Where it stops making sense.
        at: Source,
        /// What the reader of TOML says.
        why: String,
    },
    /// Nothing is set by this name.
    #[error("{at}: `{key}` is not a setting{}", suggestion(nearest.as_deref()))]
    Unknown {
        /// Where.
        at: Source,
        /// The name.
        key: String,
        /// The setting that is written most like it.
        nearest: Option<String>,
    },
    /// The value is of another kind, or out of its range.
    #[error("{at}: {key} is {came}; expected {expected}")]
    Invalid {
        /// Where.
        at: Source,
        /// The setting.
        key: String,
        /// The value, shortened.
        came: String,
        /// What would be valid.
        expected: String,
    },
    /// Each value is fine, together they are not.
    #[error("{at}: {key} is {came}, {relation} {other}, which is {other_came} ({other_at})")]
    Contradiction {
        /// Where the first was written.
        at: Source,
        /// The first.
        key: String,
        /// Its value.
        came: String,
        /// What is wrong between them, as in `more than`.
        relation: &'static str,
        /// The second.
        other: String,
        /// Its value.
        other_came: String,
        /// Where the second was written.
        other_at: Source,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// A configuration with at least one fault. All of them are named, so that one run is enough to
/// mend them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines())]
pub struct Rejected {
    /// In the order they were found.
    pub faults: Vec<Fault>,
}

impl Rejected {
    fn lines(&self) -> String {
        let lines: Vec<_> = self.faults.iter().map(Fault::to_string).collect();
        lines.join("\n")
    }
}
