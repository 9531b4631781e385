//! All that is written to standard output and standard error. Standard output is data; everything
//! else goes to standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Map, Value};

/// How answers look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Out {
    /// One JSON document instead of text for people.
    pub json: bool,
    /// Ids only.
    pub quiet: bool,
}

impl Out {
    /// A document with its schema, as `sandpit.sandbox.create/1`.
    pub fn document(&self, schema: &str, value: &impl Serialize) {
        let mut document = Map::new();
        document.insert("schema".to_owned(), Value::String(schema.to_owned()));
        match serde_json::to_value(value).expect("our types are maps of plain values") {
            Value::Object(fields) => document.extend(fields),
            other => drop(document.insert("value".to_owned(), other)),
        }
        line(&Value::Object(document).to_string());
    }
}

/// One line on standard output.
pub fn line(text: &str) {
    bytes(format!("{text}\n").as_bytes());
}

/// Bytes on standard output, at once.
pub fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    // Whoever read us has hung up: there is nobody left to tell.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// One line on standard error.
pub fn note(text: &str) {
    error_bytes(format!("{text}\n").as_bytes());
}

/// Bytes on standard error, at once.
pub fn error_bytes(bytes: &[u8]) {
    // Without standard error there is nobody left to tell.
    let _ = io::stderr().lock().write_all(bytes);
}

/// Whether a person looks at standard error.
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether a person looks at standard output.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether a person can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A table without lines: its columns read with the tools of a shell as well.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(header.map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    line(&table.trim_fmt());
}

/// Milliseconds with as many digits as say something.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.3} ms"),
        ms if ms < 1_000.0 => format!("{ms:.1} ms"),
        ms => format!("{:.2} s", ms / 1_000.0),
    }
}
