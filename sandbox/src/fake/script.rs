//! What the fake is told to do, and what the code that runs in it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sandpit_messages::sandbox::LimitsEnforced;

use crate::provider::{Descriptor, Limits};

/// How the fake behaves. Plain fields: set what the test needs.
#[derive(Clone, Debug)]
pub struct Script {
    /// What is drawn is drawn from here: the same seed and the same calls are the same story.
    pub seed: u64,
    /// The templates it knows.
    pub templates: BTreeSet<String>,
    /// Those that cannot be used.
    pub broken: BTreeSet<String>,
    /// Time a template takes to be prepared, the first time.
    pub prepare_takes: Duration,
    /// Time a template on top of another one takes to be built, the first time.
    pub build_takes: Duration,
    /// Time a boot takes at least.
    pub boot_takes: Duration,
    /// What is added to it, at most.
    pub boot_spread: Duration,
    /// Time the end of a sandbox takes.
    pub destroy_takes: Duration,
    /// So many first boots are refused.
    pub boots_refused: u64,
    /// So many boots after those make a sandbox, and their answer is lost.
    pub boots_lost: u64,
    /// So many boots after those never answer.
    pub boots_hung: u64,
    /// Every boot panics, as a bug in a provider would.
    pub boot_panics: bool,
    /// Every look at what a sandbox uses panics.
    pub sample_panics: bool,
    /// So many first sandboxes cannot be given to a holder.
    pub adoptions_refused: u64,
    /// So many first ends of sandboxes fail; the sandboxes stay.
    pub ends_refused: u64,
    /// Of a hundred boots so many are refused, as drawn.
    pub percent_refused: u64,
    /// A list shows what was so long ago.
    pub list_lag: Duration,
    /// What is printed instead of a text, by what the text begins with.
    pub says: BTreeMap<String, String>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            seed: 7,
            templates: ["base", "trading"].map(str::to_owned).into(),
            broken: BTreeSet::new(),
            prepare_takes: Duration::ZERO,
            build_takes: Duration::ZERO,
            boot_takes: Duration::from_millis(5),
            boot_spread: Duration::ZERO,
            destroy_takes: Duration::ZERO,
            boots_refused: 0,
            boots_lost: 0,
            boots_hung: 0,
            boot_panics: false,
            sample_panics: false,
            adoptions_refused: 0,
            ends_refused: 0,
            percent_refused: 0,
            list_lag: Duration::ZERO,
            says: BTreeMap::new(),
        }
    }
}

/// What every sandbox of the fake gets.
pub(super) const LIMITS: Limits = Limits { memory_mb: 512, cpu_count: 1 };

/// Of what it has no second kind, the fake has one: this much memory cannot be had.
pub(super) const MEMORY_MAX: u32 = 4_000;

pub(super) fn descriptor() -> Descriptor {
    let held = || "fake".to_owned();
    Descriptor {
        kind: "fake",
        isolation: "none".to_owned(),
        limits_enforced: LimitsEnforced { memory: held(), cpu: held(), pids: held(), disk: held() },
    }
}

/// One thing that code in the fake can say. Sentences are separated by `;` or the end of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sentence {
    /// `print TEXT`
    Print(String),
    /// `warn TEXT`, to standard error.
    Warn(String),
    /// `flood BYTES`
    Flood(usize),
    /// `sleep MILLISECONDS`
    Sleep(Duration),
    /// `value TEXT`, the last expression.
    Value(String),
    /// `count`: how many cells ran in this sandbox before, as the value.
    Count,
    /// `raise NAME`
    Raise(String),
    /// `exit CODE`
    Exit(i32),
    /// `stubborn MILLISECONDS`, heeds no interrupt.
    Stubborn(Duration),
    /// `die`: the sandbox ends.
    Die,
    /// `panic`: the provider does.
    Panic,
}

/// Reads code. What it does not know is printed, so that any text runs.
pub(super) fn sentences(code: &str) -> Vec<Sentence> {
    let parts = code.split(['\n', ';']).map(str::trim).filter(|part| !part.is_empty());
    parts.map(sentence).collect()
}

fn sentence(text: &str) -> Sentence {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let number = || rest.parse().unwrap_or_default();
    let millis = || Duration::from_millis(number());
    match word {
        "print" => Sentence::Print(format!("{rest}\n")),
        "warn" => Sentence::Warn(format!("{rest}\n")),
        "flood" => Sentence::Flood(rest.parse().unwrap_or_default()),
        "sleep" => Sentence::Sleep(millis()),
        "value" => Sentence::Value(rest.to_owned()),
        "count" => Sentence::Count,
        "raise" => Sentence::Raise(rest.to_owned()),
        "exit" => Sentence::Exit(rest.parse().unwrap_or_default()),
        "stubborn" => Sentence::Stubborn(millis()),
        "die" => Sentence::Die,
        "panic" => Sentence::Panic,
        _ => Sentence::Print(format!("{text}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_read_sentence_by_sentence() {
        let read = sentences("print a b; sleep 5\nvalue 2;;what");
        let expected = [
            Sentence::Print("a b\n".to_owned()),
            Sentence::Sleep(Duration::from_millis(5)),
            Sentence::Value("2".to_owned()),
            Sentence::Print("what\n".to_owned()),
        ];
        assert_eq!(read, expected);
    }
}
