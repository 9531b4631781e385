//! The rules of the house, checked on the source text. Each says what must be absent.

use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::vec::IntoIter;

use serde_json::Value;

/// Which of our crates a crate may name in its dependencies.
const MAY_USE: &[(&str, &[&str])] = &[
    ("messages", &[]),
    ("config", &["sandpit-messages"]),
    ("sandbox", &["sandpit-messages"]),
    ("actors", &["sandpit-messages", "sandpit-sandbox"]),
    ("bin", &["sandpit-actors", "sandpit-config", "sandpit-messages", "sandpit-sandbox"]),
];

/// What `messages` must stay free of, so that any language can re-implement it.
const NOT_IN_MESSAGES: &[&str] = &["actix", "async-nats", "tokio", "sled", "reqwest", "rand"];

/// A policy decides. It never waits, reads a clock, draws without a seed, or touches the world.
const NOT_IN_POLICIES: &[&str] = &[
    "async ",
    ".await",
    "actix",
    "tokio",
    "async_nats",
    "reqwest",
    "sled::",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "rand::rng",
    "tracing::",
    "println!",
];

/// Nor is what an actor decides ever written down as it is: the bus and the disk have types of
/// their own. The engine's pure files are another matter: plans travel to its inner processes.
const NOT_IN_ACTORS: &str = "Serialize";

/// Files that decide under another name.
const ALSO_POLICIES: &[&str] = &[
    "actors/src/bus/gate.rs",
    "sandbox/src/guard/breaker.rs",
    "sandbox/src/guard/budget.rs",
    "sandbox/src/guard/bulkhead.rs",
    "sandbox/src/guard/dice.rs",
    "sandbox/src/guard/hedge.rs",
    "sandbox/src/guard/pace.rs",
    "sandbox/src/guard/retry.rs",
    "sandbox/src/guard/routes.rs",
    "sandbox/src/local/mode.rs",
    "sandbox/src/local/plan.rs",
    "sandbox/src/local/state.rs",
];

/// Words with a home: nowhere else do they appear in code.
const AT_HOME: &[(&str, &[&str])] = &[
    ("async_nats", &["actors/src/bus/nats/", "bin/src/bench/"]),
    ("env::var(", &["bin/src/"]),
    ("env::var_os(", &["bin/src/"]),
    ("opentelemetry", &["actors/src/bus/trace.rs", "actors/src/metrics.rs", "bin/src/telemetry/"]),
    ("unsafe ", &["sandbox/src/local/"]),
    ("catch_unwind", &["actors/src/bus/", "actors/src/shell.rs"]),
    ("\"sandpit.v1", &["messages/src/subject.rs"]),
];

/// What says that something is not done yet. Not done is not merged; later is an issue.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "TODO", "FIXME", "XXX", "HACK"];

/// Licenses under which others' code may be part of ours.
const LICENSES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Of these a second version would mean two of what must be one: runtimes, clients, exporters.
const ONCE: &[&str] = &["actix", "async-nats", "reqwest", "tokio", "tonic", "tracing"];

/// Longest comfortable file, and the files that are longer, each for a reason.
const LINES_MAX: usize = 600;
const LONGER: &[&str] = &[];

#[test]
fn crates_depend_in_one_direction() {
    for (krate, may_use) in MAY_USE {
        let text = read(&root().join(krate).join("Cargo.toml"));
        let manifest: toml::Table = text.parse().expect("a manifest");
        let uses = manifest["dependencies"].as_table().expect("a table");
        for ours in uses.keys().filter(|name| name.starts_with("sandpit")) {
            assert!(may_use.contains(&ours.as_str()), "{krate} must not depend on {ours}");
        }
        if *krate == "messages" {
            for foreign in NOT_IN_MESSAGES {
                assert!(!uses.contains_key(*foreign), "messages must not depend on {foreign}");
            }
        }
    }
}

#[test]
fn every_dependency_may_be_shipped_and_some_exist_once() {
    let mut cargo = Command::new(env!("CARGO"));
    // What would only be built for platforms that sandpit does not run on is not shipped.
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(root());
    let output = cargo.output().expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo speaks JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        let license = package["license"].as_str().unwrap_or("none").replace('/', " OR ");
        let spaced = license.replace('(', " ( ").replace(')', " ) ");
        let words: Vec<_> = spaced.split_whitespace().collect();
        let fine = allowed(&mut words.into_iter().peekable());
        assert!(fine, "{} is licensed under {license}", package["name"]);
    }
    for name in ONCE {
        let copies = packages.iter().filter(|package| package["name"] == *name).count();
        assert!(copies <= 1, "{copies} versions of {name}");
    }
}

#[test]
fn policies_are_pure_and_tested() {
    let is_policy = |file: &PathBuf| {
        file.ends_with("policy.rs") || ALSO_POLICIES.iter().any(|name| file.ends_with(name))
    };
    let policies: Vec<_> = sources().into_iter().filter(is_policy).collect();
    assert!(!policies.is_empty(), "found no policy.rs: has the layout changed?");
    for file in policies {
        for word in NOT_IN_POLICIES {
            absent(&file, word);
        }
        if file.starts_with(root().join("actors")) {
            absent(&file, NOT_IN_ACTORS);
        }
        assert!(read(&file).contains("mod tests"), "{} has no tests", file.display());
    }
}

#[test]
fn words_stay_at_home() {
    for file in sources() {
        let name = file.strip_prefix(root()).expect("under the root").to_str().expect("a name");
        for (word, homes) in AT_HOME {
            if !homes.iter().any(|home| name.starts_with(home)) {
                absent(&file, word);
            }
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    for file in sources() {
        for (number, line) in read(&file).lines().enumerate() {
            let found = UNFINISHED.iter().find(|word| line.contains(**word));
            assert_eq!(found, None, "{}:{}", file.display(), number + 1);
        }
    }
}

#[test]
fn no_file_outgrows_a_sitting() {
    for file in sources() {
        let lines = read(&file).lines().count();
        let known = LONGER.iter().any(|name| file.ends_with(name));
        assert!(lines <= LINES_MAX || known, "{} has {lines} lines: two things?", file.display());
    }
}

#[test]
fn every_setting_says_what_it_is() {
    let text = read(&root().join("config/default.toml"));
    let mut above = "";
    for line in text.lines() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(above.starts_with('#') && above.ends_with('.'), "undocumented: {line}");
        }
        above = line;
    }
}

#[test]
fn every_verb_is_in_the_protocol() {
    let protocol = read(&root().join("docs/protocol.md"));
    for file in sources() {
        for verb in read(&file).split("Verb::new(\"").skip(1) {
            let verb = verb.split('"').next().expect("up to the quote");
            assert!(protocol.contains(&format!("`{verb}`")), "{verb} is not documented");
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for file in files(&root(), "md") {
        for link in read(&file).split("](").skip(1) {
            let target = link.split([')', '#']).next().expect("up to the bracket");
            if !target.is_empty() && !target.contains("://") {
                let folder = file.parent().expect("a file is in a folder");
                assert!(folder.join(target).exists(), "{}: dead link {target}", file.display());
            }
        }
    }
}

type Words<'a> = Peekable<IntoIter<&'a str>>;

/// Reads a license expression, in which `AND` binds tighter than `OR`.
fn allowed(words: &mut Words<'_>) -> bool {
    let mut any = false;
    loop {
        let mut all = one_allowed(words);
        while words.next_if_eq(&"AND").is_some() {
            all &= one_allowed(words);
        }
        any |= all;
        if words.next_if_eq(&"OR").is_none() {
            return any;
        }
    }
}

fn one_allowed(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let inner = allowed(words);
        words.next();
        return inner;
    }
    let mut license = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        license = format!("{license} WITH {}", words.next().unwrap_or_default());
    }
    LICENSES.contains(&license.as_str())
}

#[test]
fn license_expressions_are_read_as_they_are_meant() {
    let check =
        |text: &str| allowed(&mut text.split(' ').collect::<Vec<_>>().into_iter().peekable());
    assert!(check("GPL-3.0 OR MIT"));
    assert!(check("( MIT OR GPL-3.0 ) AND Apache-2.0 WITH LLVM-exception"));
    assert!(check("MIT OR GPL-3.0 AND ISC"));
    assert!(!check("( MIT OR Apache-2.0 ) AND GPL-3.0"));
}

/// Fails where `word` occurs in code; comments may say what they like.
fn absent(file: &Path, word: &str) {
    for (number, line) in read(file).lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        assert!(!code.contains(word), "{}:{}: `{word}`", file.display(), number + 1);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The product's own code, tests in files of their own left out.
fn sources() -> Vec<PathBuf> {
    let folders = MAY_USE.iter().map(|(krate, _)| root().join(krate).join("src"));
    let all = folders.flat_map(|folder| files(&folder, "rs"));
    all.filter(|file| !file.ends_with("tests.rs")).collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if path.is_dir() && !hidden && !path.ends_with("target") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
