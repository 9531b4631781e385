//! Defaults, the operator's file, the environment, flags: the last that speaks wins.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde::Deserialize;
use toml::de::DeTable;
use toml::{Table, Value};

use crate::clouds;
use crate::fault::{Fault, Rejected, Source};
use crate::rules::{self, FAMILIES, RULES, Rule};
use crate::sections::Config;

/// Every setting with its sentence: the manual, and the first layer.
pub const DEFAULT: &str = include_str!("../default.toml");

/// Variables that begin as settings do and are none: the operator's file, and what only tests
/// read.
const NOT_SETTINGS: &[&str] = &["SANDPIT_CONFIG", "SANDPIT_ALLOW_SKIP"];
/// Start of further variables that only tests read.
const OF_TESTS: &str = "SANDPIT_TEST_";

/// What was written where. All of it is text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Name and contents of the operator's file.
    pub file: Option<(String, String)>,
    /// Environment variables; those that do not begin with `SANDPIT_` are ignored.
    pub environment: Vec<(String, String)>,
    /// Settings from the command line, each `a.b=value`.
    pub flags: Vec<String>,
}

/// A configuration, and where each part of it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// Each setting by name.
    pub settings: Vec<Setting>,
}

/// One setting that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// Its value as TOML; a password in it is masked.
    pub value: String,
    /// Where it was written.
    pub source: Source,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
struct Leaf {
    value: Value,
    source: Source,
}

type Leaves = BTreeMap<String, Leaf>;

impl Layers {
    /// Reads all layers.
    ///
    /// # Errors
    /// [`Rejected`], naming every fault of the first stage that found any: unreadable text, then
    /// names and values, then values that contradict each other.
    pub fn read(&self) -> Result<Loaded, Rejected> {
        let mut reading = Reading::default();
        reading.text(DEFAULT, |_| Source::Default);
        if let Some((name, text)) = &self.file {
            reading.text(text, |line| Source::File { name: name.clone(), line });
        }
        reading.complete_families();
        for (name, value) in &self.environment {
            reading.variable(name, value);
        }
        for flag in &self.flags {
            reading.flag(flag);
        }
        if reading.faults.is_empty() {
            reading.contradictions();
        }
        let Reading { leaves, faults, .. } = reading;
        if !faults.is_empty() {
            return Err(Rejected { faults });
        }
        let config = assemble(&leaves)?;
        let settings = leaves.into_iter().map(|(key, leaf)| Setting {
            value: shown(&key, &leaf.value),
            source: leaf.source,
            key,
        });
        Ok(Loaded { config, settings: settings.collect() })
    }
}

/// The environment variable of a setting.
fn variable_of(key: &str) -> String {
    format!("SANDPIT_{}", key.to_ascii_uppercase().replace(['.', '-'], "_"))
}

/// The sections that hold settings become types. Cannot fail for values that passed their rules;
/// if it does, a rule is missing, and this says which.
fn assemble(leaves: &Leaves) -> Result<Config, Rejected> {
    let mut root = Table::new();
    for (key, leaf) in leaves {
        let mut table = &mut root;
        let mut words: Vec<_> = key.split('.').collect();
        let last = words.pop().expect("a key has words");
        for word in words {
            let section = table.entry(word).or_insert_with(|| Value::Table(Table::new()));
            table = section.as_table_mut().expect("a setting is no section");
        }
        table.insert(last.to_owned(), leaf.value.clone());
    }
    Config::deserialize(root).map_err(|error| {
        let why = error.message().to_owned();
        Rejected { faults: vec![Fault::NotToml { at: Source::Default, why }] }
    })
}

/// A value for people: shortened, and without what is secret.
fn shown(key: &str, value: &Value) -> String {
    const SHOWN_MAX: usize = 160;
    let mut text = value.to_string();
    if key == "bus.url" {
        let masked = text.split(',').map(|server| match (server.find("://"), server.rfind('@')) {
            (Some(scheme), Some(at)) if scheme + 3 <= at => {
                format!("{}***{}", &server[..scheme + 3], &server[at..])
            }
            _ => server.to_owned(),
        });
        text = masked.collect::<Vec<_>>().join(",");
    }
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

#[derive(Debug, Default)]
struct Reading {
    leaves: Leaves,
    /// Members of each family of sections.
    named: BTreeSet<(&'static str, String)>,
    faults: Vec<Fault>,
}

impl Reading {
    /// One TOML text. `at` gives the source of a line.
    fn text(&mut self, text: &str, at: impl Fn(usize) -> Source) {
        let line = |offset: usize| {
            let before = text.as_bytes().iter().take(offset);
            at(1 + before.filter(|byte| **byte == b'\n').count())
        };
        let parsed = DeTable::parse(text).and_then(|spans| Ok((spans, text.parse::<Table>()?)));
        match parsed {
            Ok((spans, values)) => self.table("", spans.get_ref(), &values, &line),
            Err(error) => self.faults.push(Fault::NotToml {
                at: line(error.span().map_or(0, |span| span.start)),
                why: error.message().to_owned(),
            }),
        }
    }

    fn table(
        &mut self,
        path: &str,
        spans: &DeTable<'_>,
        values: &Table,
        at: &impl Fn(usize) -> Source,
    ) {
        for (name, span) in spans {
            let start = name.span().start;
            let word = name.get_ref().as_ref();
            let key = if path.is_empty() { word.to_owned() } else { format!("{path}.{word}") };
            match (span.get_ref().as_table(), values.get(word)) {
                (Some(inner), Some(Value::Table(values))) if rules::is_section(&key) => {
                    let family = FAMILIES.iter().find(|(family, _)| *family == path);
                    if let Some((family, _)) = family {
                        self.named.insert((family, word.to_owned()));
                    }
                    self.table(&key, inner, values, at);
                }
                (_, Some(value)) => self.set(key, value.clone(), at(start)),
                // Both were read from the same text.
                (_, None) => {}
            }
        }
    }

    /// What a template leaves out is as in `base`, and what an endpoint does as in `e2b`.
    fn complete_families(&mut self) {
        for (family, name) in &self.named {
            let first = FAMILIES.iter().find(|(known, _)| known == family);
            let first = first.map_or("", |(_, first)| first);
            for (pattern, _) in RULES {
                let Some(field) = pattern.strip_prefix(&format!("{family}.*.")) else { continue };
                let like = self.leaves.get(&format!("{family}.{first}.{field}")).cloned();
                if let Some(like) = like {
                    self.leaves.entry(format!("{family}.{name}.{field}")).or_insert(like);
                }
            }
        }
    }

    fn variable(&mut self, name: &str, text: &str) {
        let reserved = NOT_SETTINGS.contains(&name) || name.starts_with(OF_TESTS);
        if !name.starts_with("SANDPIT_") || reserved {
            return;
        }
        let at = Source::Environment { name: name.to_owned() };
        let known: Vec<_> = self.leaves.keys().map(|key| (variable_of(key), key)).collect();
        match known.iter().find(|(variable, _)| variable == name) {
            Some((_, key)) => {
                let key = (*key).clone();
                self.set_text(key, text, at);
            }
            None => {
                let nearest = rules::nearest(name, known.iter().map(|(name, _)| name.as_str()));
                self.faults.push(Fault::Unknown { at, key: name.to_owned(), nearest });
            }
        }
    }

    fn flag(&mut self, flag: &str) {
        let (key, text) = flag.split_once('=').unwrap_or((flag, ""));
        let at = Source::Flag { text: format!("--set {key}") };
        self.set_text(key.trim().to_owned(), text, at);
    }

    fn set_text(&mut self, key: String, text: &str, at: Source) {
        let value = rules::rule_of(&key)
            .map_or_else(|| Value::String(text.to_owned()), |rule| rule.read(text));
        self.set(key, value, at);
    }

    /// Takes a value that obeys its rule, and a fault otherwise.
    fn set(&mut self, key: String, value: Value, at: Source) {
        let rule = rules::rule_of(&key).filter(|_| self.is_known(&key));
        match rule {
            Some(rule) if rule.allows(&value) => {
                let value = match (rule, &value) {
                    // A whole number where any number may stand.
                    (Rule::Number(..), value) => {
                        Value::Float(rules::number(value).expect("a number was allowed"))
                    }
                    _ => value,
                };
                self.leaves.insert(key, Leaf { value, source: at });
            }
            Some(rule) => {
                let came = shown(&key, &value);
                self.faults.push(Fault::Invalid { at, key, came, expected: rule.expected() });
            }
            None if rules::is_section(&key) => {
                let came = shown(&key, &value);
                let expected = "a section of settings".to_owned();
                self.faults.push(Fault::Invalid { at, key, came, expected });
            }
            None => {
                let nearest = rules::nearest(&key, self.leaves.keys().map(String::as_str));
                let key: String = key.chars().take(160).collect();
                self.faults.push(Fault::Unknown { at, key, nearest });
            }
        }
    }

    /// Settings of a template, or of an endpoint, exist where a file names it.
    fn is_known(&self, key: &str) -> bool {
        rules::member_of(key)
            .is_none_or(|(family, name, _)| self.named.contains(&(family, name.to_owned())))
    }

    /// The members of a family.
    fn members(&self, family: &str) -> Vec<String> {
        let members = self.named.iter().filter(|(known, _)| *known == family);
        members.map(|(_, name)| name.clone()).collect()
    }

    fn contradictions(&mut self) {
        const ORDERED: &[(&str, &str)] = &[
            ("supervise.pause_min_ms", "supervise.pause_max_ms"),
            ("pool.total_max", "provider.local.sandboxes_max"),
            ("provider.guard.retry_base_ms", "provider.guard.retry_cap_ms"),
            ("provider.guard.breaker_in_a_row", "provider.guard.breaker_calls"),
            ("provider.guard.breaker_calls_min", "provider.guard.breaker_calls"),
            ("provider.guard.breaker_open_min_s", "provider.guard.breaker_open_max_s"),
            ("provider.guard.create_slow_s", "provider.guard.create_max_s"),
            ("provider.guard.create_max_s", "provider.guard.call_max_s"),
            ("provider.guard.attempt_max_s", "provider.guard.call_max_s"),
        ];
        for (small, large) in ORDERED {
            if self.number(small) > self.number(large) {
                self.contradict(small, "more than", large);
            }
        }
        self.clouds();
        let targets: Vec<_> = self
            .members("template")
            .iter()
            .map(|name| format!("template.{name}.warm_target"))
            .collect();
        let wanted: f64 = targets.iter().map(|key| self.number(key)).sum();
        if wanted > self.number("pool.total_max") {
            let by_size = |a: &&String, b: &&String| self.number(a).total_cmp(&self.number(b));
            let largest = targets.iter().max_by(by_size).expect("there is a default template");
            self.contradict(largest, "with the other templates' more than", "pool.total_max");
        }
        let url = self.leaves["bus.url"].value.as_str().unwrap_or_default();
        let allowed = self.leaves["bus.allow_plaintext"].value == Value::Boolean(true);
        if !url.is_empty() && !allowed && !rules::stays_private(url) {
            self.contradict(
                "bus.url",
                "plain text to another machine, against",
                "bus.allow_plaintext",
            );
        }
    }

    /// What of the endpoints cannot be.
    fn clouds(&mut self) {
        const AT_ONCE: RangeInclusive<f64> = 5.0..=10.0;
        let at_once = "provider.guard.creations_at_once";
        let unusual = "provider.guard.allow_unusual";
        if !AT_ONCE.contains(&self.number(at_once)) && !self.flag_of(unusual) {
            self.contradict(at_once, "outside of 5 to 10, against", unusual);
        }
        let members = self.members("provider.endpoint");
        let order = self.leaves["provider.order"].value.clone();
        let order = order.as_array().cloned().unwrap_or_default();
        let named = order.iter().filter_map(Value::as_str);
        if let Some(unknown) = named.clone().find(|name| !members.iter().any(|it| it == name)) {
            let at = self.leaves["provider.order"].source.clone();
            let nearest = rules::nearest(unknown, members.iter().map(String::as_str));
            let key = format!("provider.endpoint.{unknown}");
            let nearest = nearest.map(|name| format!("provider.endpoint.{name}"));
            self.faults.push(Fault::Unknown { at, key, nearest });
        }
        for name in members {
            let key = |field: &str| format!("provider.endpoint.{name}.{field}");
            for url in [key("api_url"), key("sandbox_url")] {
                let text = self.leaves[&url].value.as_str().unwrap_or_default().to_owned();
                if !self.flag_of(&key("allow_plaintext")) && !clouds::stays_private(&text) {
                    let other = key("allow_plaintext");
                    self.contradict(&url, "plain text to another machine, against", &other);
                }
            }
            let plan = self.leaves[&key("plan")].value.as_str().unwrap_or_default().to_owned();
            if plan == "hobby" && self.number(&key("lifetime_s")) > clouds::HOBBY_LIFETIME_MAX_S {
                self.contradict(&key("lifetime_s"), "more than the 3600 of", &key("plan"));
            }
        }
    }

    fn flag_of(&self, key: &str) -> bool {
        self.leaves.get(key).is_some_and(|leaf| leaf.value == Value::Boolean(true))
    }

    fn number(&self, key: &str) -> f64 {
        self.leaves.get(key).and_then(|leaf| rules::number(&leaf.value)).unwrap_or_default()
    }

    fn contradict(&mut self, key: &str, relation: &'static str, other: &str) {
        let (one, two) = (&self.leaves[key], &self.leaves[other]);
        self.faults.push(Fault::Contradiction {
            at: one.source.clone(),
            key: key.to_owned(),
            came: shown(key, &one.value),
            relation,
            other: other.to_owned(),
            other_came: shown(other, &two.value),
            other_at: two.source.clone(),
        });
    }
}

#[cfg(test)]
mod tests;
