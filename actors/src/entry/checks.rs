//! From what a client wrote to what an actor may trust: every range, once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::exec::{Exec, Language};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::sandbox::{Create, List};
use sandpit_messages::template::{CHUNK_MAX, TemplateImport};
use sandpit_sandbox::provider::{Piece, Work};
use serde_json::Value;

use crate::crew::RESERVED;
use crate::exec::cache::canonical;
use crate::exec::policy::{Order as ExecOrder, Place};
use crate::layers;
use crate::pool::policy::{AtExpiry, Order as PoolOrder};

/// Bytes of a cell, of a standard input, and of all files of one execution.
pub(super) const TEXT_MAX: usize = 256 * 1024;
/// Files of one execution.
pub(super) const FILES_MAX: usize = 64;
/// Variables of one environment, and entries of one `metadata`.
const ENTRIES_MAX: usize = 64;
/// Bytes of one environment.
const ENV_BYTES_MAX: usize = 32 * 1024;
/// Bytes of one `metadata`.
const METADATA_BYTES_MAX: usize = 8 * 1024;
/// Packages on top of a template.
const PACKAGES_MAX: usize = 32;
/// Bytes of one requirement.
const PACKAGE_MAX: usize = 200;
/// Characters of the name of a template.
const TEMPLATE_NAME_MAX: usize = 63;
/// Characters of a name.
pub(super) const NAME_MAX: usize = 128;
/// Bytes of a path.
const PATH_MAX: usize = 4_096;
/// Words of one command.
const WORDS_MAX: usize = 1_024;
/// Bytes of each stream in an answer.
const OUTPUT_MAX: u32 = 262_144;
/// What an execution may take if it does not say.
const TIMEOUT_DEFAULT: u32 = 60;

const HOUR: u32 = 3_600;
const DAY: u32 = 86_400;

pub(super) fn invalid(
    field: &'static str,
    came: impl ToString,
    expected: impl ToString,
) -> Refusal {
    let came: String = came.to_string().chars().take(64).collect();
    Refusal::Invalid { field, came, expected: expected.to_string() }
}

pub(super) fn within(
    field: &'static str,
    came: u32,
    range: RangeInclusive<u32>,
) -> Result<(), Refusal> {
    if range.contains(&came) {
        return Ok(());
    }
    Err(invalid(field, came, format!("{} to {}", range.start(), range.end())))
}

pub(super) fn at_most(what: &'static str, bytes: usize, max: usize) -> Result<(), Refusal> {
    if bytes <= max { Ok(()) } else { Err(Refusal::TooLarge { what, bytes, max }) }
}

pub(super) fn template(name: &str) -> Result<(), Refusal> {
    let length = (1..=NAME_MAX).contains(&name.chars().count());
    if length { Ok(()) } else { Err(invalid("template", name, "the name of a template")) }
}

pub(super) fn env(vars: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if vars.len() > ENTRIES_MAX {
        return Err(invalid("env_vars", vars.len(), format!("at most {ENTRIES_MAX} entries")));
    }
    let fine = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if let Some(bad) = vars.keys().find(|name| !fine(name)) {
        return Err(invalid("env_vars", bad, "names without `=`, of at least one character"));
    }
    if vars.values().any(|value| value.contains('\0')) {
        return Err(invalid("env_vars", "a value with a NUL", "values without NUL"));
    }
    let bytes = vars.iter().map(|(name, value)| name.len() + value.len()).sum();
    at_most("environment", bytes, ENV_BYTES_MAX)
}

/// What a new template may be called: a word that no id of one begins with.
pub(super) fn template_name(name: &str) -> Result<(), Refusal> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fine = (1..=TEMPLATE_NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| letter(byte) || byte == b'-')
        && !name.starts_with('-')
        && !layers::is_id(name);
    let expected =
        format!("1 to {TEMPLATE_NAME_MAX} of a-z, 0-9 and `-`, not beginning with `-` or `tpl-`");
    if fine { Ok(()) } else { Err(invalid("template_name", name, expected)) }
}

/// A name that a configured template has.
pub(super) fn taken(name: &str) -> Refusal {
    invalid("template_name", name, "a name that no template of the settings has")
}

/// A piece of an archive.
pub(super) fn piece(ask: TemplateImport) -> Result<Piece, Refusal> {
    if let Some(name) = &ask.template_name {
        template_name(name)?;
    }
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if ask.sha256.len() != 64 || !ask.sha256.bytes().all(hexadecimal) {
        return Err(invalid("sha256", &ask.sha256, "64 of 0-9 and a-f"));
    }
    if ask.size == 0 || ask.offset >= ask.size {
        return Err(invalid("offset", ask.offset, "less than size"));
    }
    let expected = format!("base64 of at most {CHUNK_MAX} bytes");
    let bytes = super::templates::decoded(&ask.content)
        .ok_or_else(|| invalid("content", format!("{} characters", ask.content.len()), expected))?;
    Ok(super::templates::piece(ask, bytes))
}

/// Packages as a caller names them: names, extras and versions, and nothing that pip would take
/// for an option, a path or an address.
pub(super) fn packages(field: &'static str, packages: &[String]) -> Result<(), Refusal> {
    if packages.len() > PACKAGES_MAX {
        let expected = format!("at most {PACKAGES_MAX} packages");
        return Err(invalid(field, packages.len(), expected));
    }
    let fine = |package: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || " ._-[],<>=!~*+".contains(c);
        package.len() <= PACKAGE_MAX
            && package.starts_with(|c: char| c.is_ascii_alphanumeric())
            && package.chars().all(letter)
    };
    match packages.iter().find(|package| !fine(package)) {
        Some(bad) => Err(invalid(field, bad, "a name with extras and versions, as scipy==1.15.2")),
        None => Ok(()),
    }
}

/// Where a sandbox is wanted, and what it is to reach: this node has one provider, is in no
/// region, and lets no sandbox out.
pub(super) fn place(ask: &Create, provider: &str) -> Result<(), Refusal> {
    packages("install_packages", &ask.install_packages)?;
    let unsupported = |what: String| Err(Refusal::Unsupported { what });
    if ask.allow_internet {
        return unsupported("allow_internet: a sandbox that reaches the internet".to_owned());
    }
    if let Some(asked) = ask.provider.as_deref().filter(|asked| *asked != provider) {
        let asked: String = asked.chars().take(64).collect();
        return unsupported(format!("provider `{asked}` (this node has `{provider}`)"));
    }
    if let Some(region) = &ask.region {
        let region: String = region.chars().take(64).collect();
        return unsupported(format!("region `{region}` (this node is in none)"));
    }
    Ok(())
}

/// A sandbox that is wanted.
pub(super) fn create(ask: Create, tenant: Tenant) -> Result<Arc<PoolOrder>, Refusal> {
    if let Some(name) = &ask.name {
        let fine = (1..=NAME_MAX).contains(&name.chars().count());
        if !fine || name.contains(char::is_control) {
            return Err(invalid("name", name, "1 to 128 characters that can be seen"));
        }
    }
    template(&ask.template)?;
    if let Some(memory_mb) = ask.memory_mb {
        within("memory_mb", memory_mb, 256..=4_096)?;
    }
    if let Some(cpu_count) = ask.cpu_count {
        within("cpu_count", cpu_count, 1..=4)?;
    }
    within("timeout", ask.timeout, 1..=DAY)?;
    within("idle_timeout", ask.idle_timeout, 1..=DAY)?;
    env(&ask.env_vars)?;
    if ask.metadata.len() > ENTRIES_MAX {
        let expected = format!("at most {ENTRIES_MAX} entries");
        return Err(invalid("metadata", ask.metadata.len(), expected));
    }
    if let Some(ours) = ask.metadata.keys().find(|name| name.starts_with(RESERVED)) {
        return Err(invalid("metadata", ours, "keys that do not begin with `sandpit.`"));
    }
    let bytes = ask.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    at_most("metadata", bytes, METADATA_BYTES_MAX)?;
    Ok(Arc::new(PoolOrder {
        tenant,
        template: ask.template,
        name: ask.name,
        memory_mb: ask.memory_mb,
        cpu_count: ask.cpu_count,
        lifetime: Duration::from_secs(ask.timeout.into()),
        idle_timeout: Duration::from_secs(ask.idle_timeout.into()),
        env: ask.env_vars,
        metadata: ask.metadata,
        at_expiry: AtExpiry::End,
    }))
}

/// Something that is to run.
pub(super) fn exec(ask: Exec, tenant: Tenant) -> Result<Arc<ExecOrder>, Refusal> {
    let place = match (ask.sandbox_id, ask.template) {
        (Some(sandbox), None) => Place::Held(sandbox),
        (None, Some(name)) => {
            template(&name)?;
            Place::Fresh(name)
        }
        (Some(_), Some(_)) => return Err(invalid("template", "with a sandbox_id", "one of them")),
        (None, None) => return Err(invalid("sandbox_id", "missing", "it, or a template")),
    };
    let stdin = ask.stdin.unwrap_or_default();
    at_most("stdin", stdin.len(), TEXT_MAX)?;
    let work = match (ask.code, ask.command) {
        (Some(code), None) => {
            if ask.args.is_some() {
                return Err(invalid("args", "with code", "args only with a command"));
            }
            if !stdin.is_empty() {
                return Err(invalid("stdin", "with code", "stdin only with a command"));
            }
            at_most("code", code.len(), TEXT_MAX)?;
            code_of(code, ask.language.unwrap_or(Language::Python), ask.params.as_ref())?
        }
        (None, Some(command)) => {
            if ask.language.is_some() {
                return Err(invalid("language", "with a command", "language only with code"));
            }
            if ask.params.is_some() {
                return Err(invalid("params", "with a command", "params only with code"));
            }
            work_of(command, ask.args)?
        }
        (Some(_), Some(_)) => return Err(invalid("command", "with code", "one of them")),
        (None, None) => return Err(invalid("code", "missing", "it, or a command")),
    };
    let timeout = ask.timeout.unwrap_or(TIMEOUT_DEFAULT);
    within("timeout", timeout, 1..=HOUR)?;
    let output_max = ask.max_output_bytes.unwrap_or(OUTPUT_MAX);
    within("max_output_bytes", output_max, 0..=OUTPUT_MAX)?;
    let captures = ask.capture_output.unwrap_or(true);
    if let Some(cache) = ask.cache {
        within("cache.max_age_s", cache.max_age_s, 1..=300)?;
        if let Place::Held(_) = place {
            let came = "with a sandbox_id";
            let expected = "cache only with a template: what ran before makes a difference";
            return Err(invalid("cache", came, expected));
        }
        if ask.stream || !captures {
            return Err(invalid("stream", "with cache", "one of them"));
        }
    }
    if let Some(cwd) = &ask.cwd
        && (!cwd.starts_with('/') || cwd.contains('\0') || cwd.len() > PATH_MAX)
    {
        return Err(invalid("cwd", cwd, "a path from `/`"));
    }
    env(&ask.env_vars)?;
    Ok(Arc::new(ExecOrder {
        tenant,
        place,
        work,
        id: ask.execution_id,
        files: files(ask.files)?,
        env: ask.env_vars,
        cwd: ask.cwd,
        stdin: stdin.into(),
        time_max: Duration::from_secs(timeout.into()),
        cache: ask.cache.map(|cache| Duration::from_secs(cache.max_age_s.into())),
        output_max,
        stream: ask.stream || !captures,
    }))
}

fn code_of(code: String, language: Language, params: Option<&Value>) -> Result<Work, Refusal> {
    if language != Language::Python && params.is_some() {
        return Err(invalid("params", "with another language", "params only with Python"));
    }
    Ok(match language {
        Language::Python => Work::Cell { code, params: params.map(canonical), context: None },
        Language::Sh => Work::Line(code),
        Language::Node => Work::Program(vec!["node".to_owned(), "-e".to_owned(), code]),
    })
}

fn work_of(command: String, args: Option<Vec<String>>) -> Result<Work, Refusal> {
    let args_bytes: usize = args.iter().flatten().map(String::len).sum();
    at_most("command", command.len() + args_bytes, TEXT_MAX)?;
    if command.trim().is_empty() || command.contains('\0') {
        return Err(invalid("command", command, "a program, or a line for the shell"));
    }
    let Some(args) = args else { return Ok(Work::Line(command)) };
    if args.len() > WORDS_MAX || args.iter().any(|word| word.contains('\0')) {
        let expected = format!("at most {WORDS_MAX} words without NUL");
        return Err(invalid("args", format!("{} words", args.len()), expected));
    }
    Ok(Work::Program([command].into_iter().chain(args).collect()))
}

fn files(files: BTreeMap<String, String>) -> Result<BTreeMap<String, Bytes>, Refusal> {
    if files.len() > FILES_MAX {
        return Err(invalid("files", files.len(), format!("at most {FILES_MAX} files")));
    }
    let fine = |name: &str| {
        let parts_fine = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        parts_fine && !name.contains('\0') && name.len() <= PATH_MAX
    };
    if let Some(bad) = files.keys().find(|name| !fine(name)) {
        return Err(invalid("files", bad, "names below /home/user, without `..`"));
    }
    at_most("files", files.values().map(String::len).sum(), TEXT_MAX)?;
    Ok(files.into_iter().map(|(name, text)| (name, Bytes::from(text))).collect())
}

/// Which sandboxes to list.
pub(super) fn list(ask: List) -> Result<List, Refusal> {
    within("limit", ask.limit, 1..=1_000)?;
    Ok(ask)
}

#[cfg(test)]
mod tests {
    use sandpit_messages::exec::Cache;
    use sandpit_messages::id::SandboxId;
    use serde_json::json;

    use super::*;

    fn refused<T>(checked: Result<T, Refusal>) -> &'static str {
        match checked {
            Err(Refusal::Invalid { field, .. }) => field,
            Err(Refusal::TooLarge { what, .. }) => what,
            Err(other) => panic!("{other}"),
            Ok(_) => "nothing",
        }
    }

    fn code() -> Exec {
        let (code, template) = (Some("1".to_owned()), Some("base".to_owned()));
        Exec { code, template, ..Exec::default() }
    }

    fn command() -> Exec {
        Exec { code: None, command: Some("ls".to_owned()), ..code() }
    }

    #[test]
    fn every_range_of_a_create_is_kept() {
        let check = |ask: Create, field| {
            assert_eq!(refused(create(ask.clone(), Tenant::local())), field, "{ask:?}");
        };
        let base = Create::default;
        check(base(), "nothing");
        check(Create { name: Some(String::new()), ..base() }, "name");
        check(Create { name: Some("x".repeat(129)), ..base() }, "name");
        check(Create { name: Some("é".repeat(128)), ..base() }, "nothing");
        check(Create { template: String::new(), ..base() }, "template");
        for (memory_mb, field) in
            [(255, "memory_mb"), (256, "nothing"), (4_096, "nothing"), (4_097, "memory_mb")]
        {
            check(Create { memory_mb: Some(memory_mb), ..base() }, field);
        }
        check(Create { cpu_count: Some(0), ..base() }, "cpu_count");
        check(Create { cpu_count: Some(5), ..base() }, "cpu_count");
        check(Create { timeout: 0, ..base() }, "timeout");
        check(Create { timeout: 86_401, ..base() }, "timeout");
        check(Create { idle_timeout: 0, ..base() }, "idle_timeout");
        let many = |count: u32| (0..count).map(|n| (n.to_string(), String::new())).collect();
        check(Create { env_vars: many(65), ..base() }, "env_vars");
        check(Create { env_vars: many(64), ..base() }, "nothing");
        check(Create { metadata: many(65), ..base() }, "metadata");
        let one = |name: &str, bytes| [(name.to_owned(), "x".repeat(bytes))].into();
        check(Create { env_vars: one("A", 32 * 1024), ..base() }, "environment");
        check(Create { env_vars: one("A=B", 1), ..base() }, "env_vars");
        check(Create { metadata: one("A", 8 * 1024), ..base() }, "metadata");
    }

    #[test]
    fn every_range_of_an_exec_is_kept() {
        let check = |ask: Exec, field| {
            assert_eq!(refused(exec(ask.clone(), Tenant::local())), field, "{ask:?}");
        };
        let sandbox_id = Some(SandboxId::numbered(1));
        check(code(), "nothing");
        check(command(), "nothing");
        check(Exec { template: None, ..code() }, "sandbox_id");
        check(Exec { sandbox_id, ..code() }, "template");
        check(Exec { code: None, ..code() }, "code");
        check(Exec { command: Some("ls".to_owned()), ..code() }, "command");
        check(Exec { args: Some(vec![]), ..code() }, "args");
        check(Exec { stdin: Some("x".to_owned()), ..code() }, "stdin");
        check(Exec { code: Some("x".repeat(TEXT_MAX + 1)), ..code() }, "code");
        check(Exec { params: Some(json!(1)), ..command() }, "params");
        check(Exec { command: Some(" ".to_owned()), ..command() }, "command");
        check(Exec { args: Some(vec!["\0".to_owned()]), ..command() }, "args");
        check(Exec { timeout: Some(0), ..code() }, "timeout");
        check(Exec { timeout: Some(3_600), ..code() }, "nothing");
        check(Exec { timeout: Some(3_601), ..code() }, "timeout");
        check(Exec { max_output_bytes: Some(262_145), ..code() }, "max_output_bytes");
        check(Exec { cwd: Some("tmp".to_owned()), ..code() }, "cwd");
        let cache = |max_age_s| Some(Cache { max_age_s });
        check(Exec { cache: cache(0), ..code() }, "cache.max_age_s");
        check(Exec { cache: cache(301), ..code() }, "cache.max_age_s");
        check(Exec { cache: cache(300), stream: true, ..code() }, "stream");
        check(Exec { cache: cache(1), template: None, sandbox_id, ..code() }, "cache");
        for name in ["", "/a", "../a", "a/../b", "a//b", "a\0"] {
            check(Exec { files: [(name.to_owned(), String::new())].into(), ..code() }, "files");
        }
        check(Exec { files: [("a/b.py".to_owned(), String::new())].into(), ..code() }, "nothing");
    }

    #[test]
    fn with_args_a_command_is_a_program_and_without_it_is_a_line() {
        let args = Some(vec!["-l".to_owned()]);
        let order = exec(Exec { args, ..command() }, Tenant::local()).unwrap();
        assert_eq!(order.work, Work::Program(vec!["ls".to_owned(), "-l".to_owned()]));
        let order = exec(command(), Tenant::local()).unwrap();
        assert_eq!(order.work, Work::Line("ls".to_owned()));
    }
}
