//! The ways in which callers write arguments, and the one way in which we read them.
//!
//! Four dialects are in use: snake_case, camelCase, the older Python server's names, and those of
//! users' scripts; some callers write every value as text. What is written as our types have it
//! never comes here. What is neither is refused by its name: an argument that was silently dropped
//! would be answered as if it had been obeyed.

use sandpit_messages::refusal::Refusal;
use sandpit_messages::subject::Request;
use serde_json::{Map, Number, Value};

/// Most characters of a caller's value that a refusal repeats.
const CAME_MAX: usize = 64;
/// Deepest part of an argument that is looked at: none of our types has more levels.
const DEPTH_MAX: usize = 16;

/// Other names of arguments, both written without underscores and capitals, and what the value has
/// to be divided by. A row holds where a verb takes the second name and not the first.
const ALSO: &[(&str, &str, u32)] = &[
    ("sandboxname", "name", 1),
    ("timeoutseconds", "timeout", 1),
    ("timeoutms", "timeout", 1_000),
    ("envs", "envvars", 1),
    ("env", "envvars", 1),
    ("packages", "installpackages", 1),
    ("params", "strategyparams", 1),
    ("config", "configuration", 1),
    ("targetagents", "instancecount", 1),
    ("includeall", "includeallsandboxes", 1),
];

/// Other names of templates. A template that has such a name itself is that template.
const TEMPLATES: &[(&str, &str)] = &[
    ("node", "nodejs"),
    ("code-interpreter", "code-interpreter-v1"),
    ("python3", "python"),
    ("trading_agent", "trading"),
];

/// What an older caller means by the name of a template that does not exist.
pub(super) fn template(name: &str) -> Option<&'static str> {
    TEMPLATES.iter().find(|(also, _)| *also == name).map(|(_, template)| *template)
}

/// The same arguments as our types write them. `asked` is the verb, or the tool, as the caller
/// named it; `schema` is that of its arguments.
///
/// # Errors
/// [`Refusal::UnknownArgument`], or [`Refusal::Argument`] for a value of another type, one that is
/// missing, and two spellings that disagree.
pub(super) fn normalize(
    asked: &str,
    schema: &Value,
    arguments: Map<String, Value>,
) -> Result<Map<String, Value>, Refusal> {
    object(&Place { asked, path: "" }, schema, arguments, 0)
}

/// The argument that a type does not take, when `error` is all it says: the one without which it
/// would have said something else.
pub(super) fn culprit<R: Request>(fields: &Map<String, Value>, error: &str) -> Refusal {
    let guilty = fields.iter().find(|(name, _)| {
        let mut rest = fields.clone();
        rest.remove(name.as_str());
        match serde_json::from_value::<R>(Value::Object(rest)) {
            Ok(_) => true,
            Err(other) => other.to_string() != error,
        }
    });
    match guilty {
        // What cannot be an id is nobody's.
        Some((name, Value::String(text))) if handle(name).is_some() => {
            Refusal::NoSuch { what: handle(name).unwrap_or_default(), name: shortened(text) }
        }
        Some((name, value)) => {
            Refusal::Argument { field: name.clone(), came: came(value), expected: error.to_owned() }
        }
        None => Refusal::Malformed { at: error.to_owned() },
    }
}

/// Of what an argument is the id, if it is one that callers are given and hand back.
fn handle(name: &str) -> Option<&'static str> {
    match name {
        "deployment_id" => Some("deployment"),
        "swarm_id" => Some("swarm"),
        "agent_id" => Some("agent"),
        "execution_id" => Some("execution"),
        _ => None,
    }
}

/// Where in the arguments we are.
#[derive(Clone, Copy)]
struct Place<'a> {
    asked: &'a str,
    path: &'a str,
}

impl Place<'_> {
    fn of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

fn object(
    place: &Place<'_>,
    schema: &Value,
    arguments: Map<String, Value>,
    depth: usize,
) -> Result<Map<String, Value>, Refusal> {
    let none = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&none);
    // Where a type keeps what it does not know, so do we.
    let takes_more = schema.get("additionalProperties").is_some_and(|more| *more != false);
    let mut read = Map::new();
    for (key, value) in arguments {
        let Some((name, divisor)) = name_of(known, &key) else {
            if takes_more {
                read.insert(key, value);
                continue;
            }
            return Err(Refusal::UnknownArgument {
                field: place.of(&shortened(&key)),
                verb: place.asked.to_owned(),
                accepted: known.keys().cloned().collect(),
            });
        };
        if value.is_null() {
            continue;
        }
        let path = place.of(name);
        let inner = Place { path: &path, ..*place };
        let value = value_of(&inner, &known[name], divided(value, divisor), depth)?;
        if let Some(other) = read.get(name).filter(|other| **other != value) {
            return Err(Refusal::Argument {
                field: path,
                came: format!("{} and {}", came(other), came(&value)),
                expected: "one value, or the same under both names".to_owned(),
            });
        }
        read.insert(name.to_owned(), value);
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required {
        if !read.contains_key(name) {
            let expected = accepted(&known[name]);
            let (field, came) = (place.of(name), "missing".to_owned());
            return Err(Refusal::Argument { field, came, expected });
        }
    }
    Ok(read)
}

/// The argument that a caller's key names, and what its value has to be divided by.
fn name_of<'a>(known: &'a Map<String, Value>, key: &str) -> Option<(&'a str, u32)> {
    if let Some((name, _)) = known.get_key_value(key) {
        return Some((name, 1));
    }
    let of_folded =
        |wanted: &str| known.keys().map(String::as_str).find(|name| folded(name) == wanted);
    let key = folded(key);
    of_folded(&key).map(|name| (name, 1)).or_else(|| {
        let also = ALSO.iter().filter(|(also, ..)| *also == key);
        also.filter_map(|(_, name, divisor)| Some((of_folded(name)?, *divisor))).next()
    })
}

/// `sandboxId`, `sandboxID` and `sandbox_id` are one name.
fn folded(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

/// Rounded up: who asked for 1,500 ms did not mean one second.
fn divided(value: Value, divisor: u32) -> Value {
    let whole = match &value {
        Value::String(text) => text.trim().parse::<u64>().ok(),
        other => other.as_u64(),
    };
    match whole {
        Some(whole) if divisor > 1 => whole.div_ceil(divisor.into()).into(),
        _ => value,
    }
}

/// What a schema takes, with every alternative.
#[derive(Default)]
struct Takes<'a> {
    kinds: Vec<&'a str>,
    /// The words of an enumeration.
    words: Vec<&'a str>,
    /// The alternative that has fields or elements.
    whole: Option<&'a Value>,
    anything: bool,
}

impl<'a> Takes<'a> {
    fn of(schema: &'a Value) -> Self {
        let mut takes = Self::default();
        takes.add(schema);
        takes
    }

    fn add(&mut self, schema: &'a Value) {
        let several = ["anyOf", "oneOf"].iter().filter_map(|name| schema[name].as_array());
        let mut alternatives = several.flatten().peekable();
        if alternatives.peek().is_some() {
            alternatives.for_each(|one| self.add(one));
            return;
        }
        let words = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
        let words: Vec<_> = words.filter_map(Value::as_str).collect();
        if !words.is_empty() {
            self.words.extend(words);
            return;
        }
        match &schema["type"] {
            Value::String(kind) => self.kinds.push(kind),
            Value::Array(kinds) => self.kinds.extend(kinds.iter().filter_map(Value::as_str)),
            _ => self.anything = true,
        }
        if schema.get("properties").is_some() || schema.get("items").is_some() {
            self.whole = Some(schema);
        } else if self.whole.is_none() {
            let is_more = schema.get("additionalProperties").is_some();
            let is_bound = schema.get("minimum").is_some() || schema.get("maximum").is_some();
            self.whole = (is_more || is_bound).then_some(schema);
        }
    }

    fn takes(&self, kind: &str) -> bool {
        self.kinds.contains(&kind)
    }
}

fn value_of(
    place: &Place<'_>,
    schema: &Value,
    value: Value,
    depth: usize,
) -> Result<Value, Refusal> {
    let takes = Takes::of(schema);
    let refused = |value: &Value| {
        Err(Refusal::Argument {
            field: place.path.to_owned(),
            came: came(value),
            expected: accepted(schema),
        })
    };
    // Deeper than any type of ours: whoever reads it takes anything there.
    if takes.anything || depth > DEPTH_MAX {
        return Ok(value);
    }
    let value = translated(&takes, value);
    match &value {
        Value::String(word) if !takes.words.is_empty() => {
            if takes.words.contains(&word.as_str()) || takes.takes("string") {
                return Ok(value);
            }
            refused(&value)
        }
        Value::String(_) if takes.takes("string") => Ok(value),
        Value::Bool(_) if takes.takes("boolean") => Ok(value),
        Value::Number(number) if takes.takes("number") || takes.takes("integer") => {
            let is_whole = number.is_i64() || number.is_u64();
            let is_kind = is_whole || takes.takes("number");
            let is_within = takes.whole.is_none_or(|schema| within(schema, number));
            if is_kind && is_within { Ok(value) } else { refused(&value) }
        }
        Value::Array(_) if takes.takes("array") => {
            let Value::Array(values) = value else { return Ok(value) };
            let items = takes.whole.map_or(&Value::Null, |schema| &schema["items"]);
            let mut read = Vec::with_capacity(values.len());
            for (at, value) in values.into_iter().enumerate() {
                let path = place.of(&at.to_string());
                read.push(value_of(&Place { path: &path, ..*place }, items, value, depth + 1)?);
            }
            Ok(Value::Array(read))
        }
        Value::Object(_) if takes.takes("object") => {
            let Value::Object(fields) = value else { return Ok(value) };
            match takes.whole {
                Some(schema) if schema.get("properties").is_some() => {
                    object(place, schema, fields, depth + 1).map(Value::Object)
                }
                Some(schema) if schema["additionalProperties"].is_object() => {
                    let each = &schema["additionalProperties"];
                    let mut read = Map::new();
                    for (name, value) in fields {
                        let path = place.of(&name);
                        let inner = Place { path: &path, ..*place };
                        read.insert(name, value_of(&inner, each, value, depth + 1)?);
                    }
                    Ok(Value::Object(read))
                }
                _ => Ok(Value::Object(fields)),
            }
        }
        // A choice among objects, which only its type can tell apart.
        _ if takes.kinds.is_empty() && takes.words.is_empty() => Ok(value),
        other => refused(other),
    }
}

/// What was written as text although it is none, and a whole number that has a point.
fn translated(takes: &Takes<'_>, value: Value) -> Value {
    let text = match value {
        Value::Number(number) if takes.takes("integer") => return whole(number),
        Value::String(text) if !takes.takes("string") && takes.words.is_empty() => text,
        other => return other,
    };
    let plain = text.trim();
    let read = if takes.takes("integer") || takes.takes("number") {
        plain.parse::<Number>().ok().map(whole)
    } else if takes.takes("boolean") {
        plain.to_ascii_lowercase().parse().ok().map(Value::Bool)
    } else if takes.takes("object") {
        serde_json::from_str(plain).ok().filter(Value::is_object)
    } else if takes.takes("array") {
        let read = serde_json::from_str(plain).ok().filter(Value::is_array);
        read.or_else(|| Some(plain.split(',').map(str::trim).collect::<Value>()))
    } else {
        None
    };
    read.unwrap_or(Value::String(text))
}

/// `512.0` is 512.
fn whole(number: Number) -> Value {
    let point = number.as_f64().filter(|_| !number.is_i64() && !number.is_u64());
    match point {
        // Every whole number below this has a place of its own among them.
        Some(point) if point.fract() == 0.0 && point.abs() < 9_007_199_254_740_992.0 => {
            let digits = format!("{point:.0}");
            digits.parse::<Number>().map_or(Value::Number(number), Value::Number)
        }
        _ => Value::Number(number),
    }
}

fn within(schema: &Value, number: &Number) -> bool {
    let came = number.as_f64().unwrap_or_default();
    let fits = |bound: &str, holds: &dyn Fn(f64) -> bool| schema[bound].as_f64().is_none_or(holds);
    fits("minimum", &|least| came >= least) && fits("maximum", &|most| came <= most)
}

/// What would have been taken, in words.
fn accepted(schema: &Value) -> String {
    let takes = Takes::of(schema);
    if !takes.words.is_empty() {
        return format!("one of {}", takes.words.join(", "));
    }
    let bounds = takes
        .whole
        .map_or((None, None), |schema| (schema["minimum"].as_f64(), schema["maximum"].as_f64()));
    let range = match bounds {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", {least} or more"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    };
    let named = takes.kinds.iter().filter(|kind| **kind != "null").map(|kind| match *kind {
        "integer" => format!("a whole number{range}"),
        "number" => format!("a number{range}"),
        "boolean" => "true or false".to_owned(),
        "string" => "text".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "an object".to_owned(),
        other => other.to_owned(),
    });
    let named: Vec<_> = named.collect();
    if named.is_empty() { "a value".to_owned() } else { named.join(" or ") }
}

fn came(value: &Value) -> String {
    shortened(&value.to_string())
}

fn shortened(text: &str) -> String {
    text.chars().take(CAME_MAX).collect()
}

#[cfg(test)]
mod tests;
