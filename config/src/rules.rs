//! What each setting may be. One row per setting; `template.*` stands for every template.

use std::net::SocketAddr;

use toml::Value;

use crate::clouds::Renamed;
use crate::sections::Folder;

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// A whole number from the first to the second.
    Whole(i64, i64),
    /// A number from the first to the second.
    Number(f64, f64),
    /// `true` or `false`.
    Flag,
    /// Any text of one line.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An address and a port.
    Address,
    /// Nothing, or servers of the bus.
    Servers,
    /// Nothing, or the base of an HTTP address.
    Endpoint,
    /// A list of lines.
    Texts,
    /// A list of `name=/folder`.
    Folders,
    /// A list of `name=name`.
    Names,
}

use Rule::{Address, Endpoint, Flag, Folders, Names, Number, OneOf, Servers, Text, Texts, Whole};

/// Sections of which there may be many: where they stand, and which one says what the others leave
/// out.
pub(crate) const FAMILIES: &[(&str, &str)] = &[("template", "base"), ("provider.endpoint", "e2b")];

/// Every setting.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("data.directory", Text),
    ("bus.url", Servers),
    ("bus.server_path", Text),
    ("bus.allow_plaintext", Flag),
    ("bus.connect_max_s", Number(0.1, 60.0)),
    ("bus.enqueue_max_ms", Whole(1, 1_000)),
    ("bus.client_capacity", Whole(16, 65_536)),
    ("gate.inflight_max", Whole(1, 65_536)),
    ("gate.queue_max", Whole(0, 65_536)),
    ("gate.queue_wait_max_ms", Whole(1, 10_000)),
    ("supervise.restarts_max", Whole(0, 100)),
    ("supervise.window_s", Number(1.0, 3_600.0)),
    ("supervise.pause_min_ms", Whole(1, 60_000)),
    ("supervise.pause_max_ms", Whole(1, 60_000)),
    ("pool.total_max", Whole(1, 10_000)),
    ("pool.create_concurrency", Whole(1, 64)),
    ("pool.waiting_max", Whole(0, 65_536)),
    ("pool.wait_max_s", Number(0.01, 60.0)),
    ("pool.idle_max_s", Number(1.0, 86_400.0)),
    ("pool.lifetime_max_s", Number(1.0, 86_400.0)),
    ("pool.retry_pause_s", Number(0.01, 60.0)),
    ("pool.broken_pause_s", Number(1.0, 3_600.0)),
    ("pool.boot_max_s", Number(1.0, 600.0)),
    ("pool.destroy_max_s", Number(1.0, 600.0)),
    ("pool.ended_kept_s", Number(1.0, 86_400.0)),
    ("pool.ended_max", Whole(0, 1_000_000)),
    ("exec.callers_max", Whole(1, 65_536)),
    ("cache.age_max_s", Number(1.0, 300.0)),
    ("cache.entries_max", Whole(0, 1_000_000)),
    ("cache.size_max_mib", Whole(1, 4_096)),
    ("cache.output_max_kib", Whole(1, 512)),
    ("market.prices", Text),
    ("market.source", Text),
    ("paper.capital_usd", Whole(1, 1_000_000_000)),
    ("paper.commission_bps", Whole(0, 1_000)),
    ("paper.slippage_bps", Whole(0, 1_000)),
    ("paper.borrow_bps", Whole(0, 10_000)),
    ("agent.agents_max", Whole(1, 10_000)),
    ("agent.bar_max_s", Number(0.1, 3_600.0)),
    ("agent.restarts_max", Whole(0, 100)),
    ("agent.ended_kept_s", Number(1.0, 86_400.0)),
    ("reaper.sweep_s", Number(1.0, 3_600.0)),
    ("scaler.instances_max", Whole(1, 10_000)),
    ("scaler.deployments_max", Whole(1, 10_000)),
    ("scaler.drain_max_s", Number(0.0, 600.0)),
    ("provider.kind", OneOf(&["local", "e2b"])),
    ("provider.order", Texts),
    ("provider.guard.retries_max", Whole(0, 10)),
    ("provider.guard.attempts_max", Whole(1, 20)),
    ("provider.guard.retry_base_ms", Whole(1, 60_000)),
    ("provider.guard.retry_cap_ms", Whole(1, 600_000)),
    ("provider.guard.budget_percent", Whole(0, 100)),
    ("provider.guard.budget_floor", Whole(0, 1_000)),
    ("provider.guard.breaker_in_a_row", Whole(1, 1_000)),
    ("provider.guard.breaker_calls", Whole(1, 1_000)),
    ("provider.guard.breaker_calls_min", Whole(1, 1_000)),
    ("provider.guard.breaker_age_max_s", Number(1.0, 3_600.0)),
    ("provider.guard.breaker_failed_percent", Whole(1, 99)),
    ("provider.guard.breaker_open_min_s", Number(0.1, 3_600.0)),
    ("provider.guard.breaker_open_max_s", Number(0.1, 3_600.0)),
    ("provider.guard.breaker_probes", Whole(1, 100)),
    ("provider.guard.creations_at_once", Whole(1, 256)),
    ("provider.guard.allow_unusual", Flag),
    ("provider.guard.waiting_max", Whole(0, 65_536)),
    ("provider.guard.hedge_percent", Whole(0, 50)),
    ("provider.guard.create_max_s", Number(0.1, 600.0)),
    ("provider.guard.create_slow_s", Number(0.1, 600.0)),
    ("provider.guard.look_max_s", Number(0.1, 60.0)),
    ("provider.guard.attempt_max_s", Number(0.1, 600.0)),
    ("provider.guard.call_max_s", Number(0.1, 600.0)),
    ("provider.guard.return_after_s", Number(0.0, 3_600.0)),
    ("provider.guard.full_for_s", Number(0.1, 3_600.0)),
    ("provider.endpoint.*.api_url", Endpoint),
    ("provider.endpoint.*.sandbox_url", Endpoint),
    ("provider.endpoint.*.domain", Text),
    ("provider.endpoint.*.key_env", Text),
    ("provider.endpoint.*.key_file", Text),
    ("provider.endpoint.*.allow_plaintext", Flag),
    ("provider.endpoint.*.plan", OneOf(&["auto", "hobby", "pro", "custom"])),
    ("provider.endpoint.*.sandboxes_max", Whole(0, 10_000)),
    ("provider.endpoint.*.pause_ready", OneOf(&["auto", "always", "never"])),
    ("provider.endpoint.*.template_map", Names),
    ("provider.endpoint.*.memory_mb", Whole(128, 65_536)),
    ("provider.endpoint.*.cpu_count", Whole(1, 64)),
    ("provider.endpoint.*.lifetime_s", Number(15.0, 86_400.0)),
    ("provider.endpoint.*.internet", Flag),
    ("provider.endpoint.*.connect_max_s", Number(0.1, 60.0)),
    ("provider.local.python", Text),
    ("provider.local.uid_base", Whole(65_536, 4_000_000_000)),
    ("provider.local.cgroup", OneOf(&["auto", "none"])),
    ("provider.local.spare_skeletons", Whole(0, 256)),
    ("provider.local.sandboxes_max", Whole(1, 10_000)),
    ("provider.local.rotate_forks", Whole(1, 1_000_000)),
    ("provider.local.rotate_age_s", Number(1.0, 86_400.0)),
    ("provider.local.huge_pages", Flag),
    ("provider.local.pids_max", Whole(8, 32_768)),
    ("provider.local.home_mib", Whole(1, 65_536)),
    ("provider.local.tmp_mib", Whole(1, 65_536)),
    ("provider.local.shm_mib", Whole(1, 65_536)),
    ("provider.local.file_mib", Whole(1, 65_536)),
    ("provider.local.open_files_max", Whole(32, 65_536)),
    ("provider.local.output_kept_kib", Whole(1, 65_536)),
    ("provider.local.output_max_mib", Whole(1, 65_536)),
    ("provider.local.queued_max", Whole(1, 65_536)),
    ("provider.local.grace_ms", Whole(1, 60_000)),
    ("provider.local.destroy_max_s", Number(0.1, 60.0)),
    ("provider.local.layers_max", Whole(0, 10_000)),
    ("provider.local.layer_wheels", Text),
    ("provider.local.setup_max_s", Number(1.0, 3_600.0)),
    ("provider.local.export_max_mib", Whole(1, 512)),
    ("provider.local.import_max_mib", Whole(1, 8_191)),
    ("template.*.requirements", Text),
    ("template.*.packages", Texts),
    ("template.*.warmup", Text),
    ("template.*.data", Folders),
    ("template.*.program", Text),
    ("template.*.memory_mb", Whole(256, 4_096)),
    ("template.*.cpu_count", Whole(1, 4)),
    ("template.*.warm_target", Whole(0, 10_000)),
    ("telemetry.otlp_endpoint", Endpoint),
    ("telemetry.ratio", Number(0.0, 1.0)),
    ("telemetry.log", Text),
    ("telemetry.log_format", OneOf(&["auto", "human", "json"])),
    ("http.listen", Address),
    ("http.token_file", Text),
    ("e2b.listen", Address),
    ("e2b.domain", Text),
    ("e2b.max_lifetime_s", Number(1.0, 86_400.0)),
    ("e2b.paused_retention_s", Number(1.0, 2_592_000.0)),
    ("drain.executions_max_s", Number(0.0, 3_600.0)),
];

/// The rule of a setting; `None` if there is no such setting. `template.<name>` and
/// `provider.endpoint.<name>` take any name that [`is_template`].
pub(crate) fn rule_of(key: &str) -> Option<Rule> {
    let pattern = match member_of(key) {
        Some((family, name, field)) if is_template(name) => format!("{family}.*.{field}"),
        Some(_) => return None,
        None => key.to_owned(),
    };
    RULES.iter().find(|(known, _)| *known == pattern).map(|(_, rule)| *rule)
}

/// The family, the name and the setting of a key like `template.base.packages`.
pub(crate) fn member_of(key: &str) -> Option<(&'static str, &str, &str)> {
    FAMILIES.iter().find_map(|(family, _)| {
        let rest = key.strip_prefix(family)?.strip_prefix('.')?;
        let (name, field) = rest.split_once('.')?;
        Some((*family, name, field))
    })
}

/// Whether a dotted name is a section, or the start of one.
pub(crate) fn is_section(name: &str) -> bool {
    let words: Vec<_> = name.split('.').collect();
    RULES.iter().any(|(known, _)| {
        let known: Vec<_> = known.split('.').collect();
        let alike =
            |(word, known): (&&str, &&str)| word == known || (*known == "*" && is_template(word));
        words.len() < known.len() && words.iter().zip(&known).all(alike)
    })
}

/// Whether a template may be called so: `a-z`, `0-9` and `-`, at most 32 characters, and not as
/// templates are called that are made from contents.
pub(crate) fn is_template(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&name.len()) && name.bytes().all(letter) && !name.starts_with("tpl-")
}

impl Rule {
    /// Whether a value is valid.
    pub(crate) fn allows(self, value: &Value) -> bool {
        let line = |text: &str| !text.contains(['\n', '\r', '\0']);
        match (self, value) {
            (Whole(min, max), Value::Integer(number)) => (min..=max).contains(number),
            (Number(min, max), value) => {
                // NaN is in no range.
                number(value).is_some_and(|number| (min..=max).contains(&number))
            }
            (Flag, Value::Boolean(_)) => true,
            (Text, Value::String(text)) => line(text),
            (OneOf(words), Value::String(text)) => words.contains(&text.as_str()),
            (Address, Value::String(text)) => text.parse::<SocketAddr>().is_ok(),
            (Servers, Value::String(text)) => text.is_empty() || text.split(',').all(is_server),
            (Endpoint, Value::String(text)) => text.is_empty() || is_endpoint(text),
            (Texts, Value::Array(items)) => {
                items.iter().all(|item| item.as_str().is_some_and(|t| !t.is_empty() && line(t)))
            }
            (Folders, Value::Array(items)) => {
                let fine = |item: &Value| item.as_str().is_some_and(|t| Folder::read(t).is_some());
                items.iter().all(fine)
            }
            (Names, Value::Array(items)) => {
                let fine = |item: &Value| item.as_str().is_some_and(|t| Renamed::read(t).is_some());
                items.iter().all(fine)
            }
            (
                Whole(..) | Flag | Text | OneOf(_) | Address | Servers | Endpoint | Texts | Folders
                | Names,
                _,
            ) => false,
        }
    }

    /// What would be valid, in words.
    pub(crate) fn expected(self) -> String {
        match self {
            Whole(min, max) => format!("a whole number, {min} to {max}"),
            Number(min, max) => format!("a number, {min} to {max}"),
            Flag => "true or false".to_owned(),
            Text => "text of one line in quotes".to_owned(),
            OneOf(words) => format!("one of {}", words.join(", ")),
            Address => "an address and a port, as in 127.0.0.1:7780".to_owned(),
            Servers => "nats://host:port or tls://host:port, separated by commas".to_owned(),
            Endpoint => "http://host:port or https://host:port".to_owned(),
            Texts => "a list of lines, as in [\"scipy==1.15.2\"]".to_owned(),
            Folders => "a list of names and absolute folders, as in [\"market=/srv/prices\"]; \
                        names are a-z, 0-9, _ and -"
                .to_owned(),
            Names => "a list of our names of templates and theirs, as in \
                      [\"python=code-interpreter-v1\"]"
                .to_owned(),
        }
    }

    /// Reads what an environment variable or a flag holds, where everything is text. What does
    /// not read as the right kind stays text, which the check then refuses.
    pub(crate) fn read(self, text: &str) -> Value {
        let as_text = || Value::String(text.to_owned());
        let trimmed = text.trim();
        match self {
            Whole(..) => trimmed.parse().map_or_else(|_| as_text(), Value::Integer),
            Number(..) => trimmed.parse().map_or_else(|_| as_text(), Value::Float),
            Flag => trimmed.parse().map_or_else(|_| as_text(), Value::Boolean),
            Texts | Folders | Names => {
                let items = trimmed.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            }
            Text | OneOf(_) | Address | Servers | Endpoint => as_text(),
        }
    }
}

/// Whole or not.
#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 every range has ended long ago")]
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

fn is_server(text: &str) -> bool {
    let rest = ["nats://", "tls://"].iter().find_map(|scheme| text.trim().strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}

fn is_endpoint(text: &str) -> bool {
    let rest = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}

/// Whether every server of `bus.url` is spoken to with TLS or is on this machine.
pub(crate) fn stays_private(url: &str) -> bool {
    url.split(',').all(|server| {
        let Some(rest) = server.trim().strip_prefix("nats://") else { return true };
        let host = rest.rsplit('@').next().unwrap_or(rest);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        host == "localhost" || host.starts_with("127.") || host == "[::1]"
    })
}

/// The name most like `name`, if one is like it at all: at most a third of it differs.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    /// Longer names are nobody's typing error, and comparing them would take long.
    const COMPARED_MAX: usize = 96;
    if name.len() > COMPARED_MAX {
        return None;
    }
    let ranked = known.map(|known| (distance(name, known), known));
    let (far, best) = ranked.min_by_key(|(far, _)| *far)?;
    (far <= name.len() / 3).then(|| best.to_owned())
}

/// Characters to insert, remove or replace to get from one to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_right_is_recognized_and_nonsense_is_not() {
        let known = || RULES.iter().map(|(name, _)| *name);
        assert_eq!(nearest("pool.totl_max", known()).as_deref(), Some("pool.total_max"));
        assert_eq!(nearest("bus.uri", known()).as_deref(), Some("bus.url"));
        assert_eq!(nearest("zzz", known()), None);
    }

    #[test]
    fn plain_text_is_private_only_on_this_machine() {
        let check = |url: &str, private: bool| assert_eq!(stays_private(url), private, "{url}");
        check("nats://127.0.0.1:4222", true);
        check("nats://user:secret@localhost:4222,tls://nats.example:4222", true);
        check("nats://[::1]:4222", true);
        check("nats://nats1:4222", false);
        check("tls://a:1, nats://10.0.0.1:1", false);
    }

    #[test]
    fn sections_are_the_starts_of_settings() {
        assert!(is_section("pool") && is_section("provider.local") && is_section("template.mine"));
        assert!(
            !is_section("pol") && !is_section("pool.total_max") && !is_section("template.Mine")
        );
    }
}
