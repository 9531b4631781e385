//! What worker and engine say to each other on the worker's channel.
//!
//! What comes from a worker is hostile: cells run in the same process and can write anything. It
//! is read with bounds into plain values, and whatever is not exactly as it must be ends the
//! worker. A forged frame can falsify the forger's own result and nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::provider::contexts::{Media, Shown};

/// Two lengths, of header and body.
const LENGTHS: usize = 8;

/// Bytes of a header. It holds the name and text of an exception at most.
const HEADER_MAX: usize = 256 * 1024;

/// Bytes of a body. It holds all representations of one thing, images among them, or a traceback.
const BODY_MAX: usize = 8 * 1024 * 1024;

/// Levels of lists and objects in JSON that a cell shows. Readers of many kinds follow them by
/// recursion.
const JSON_DEPTH_MAX: usize = 64;

/// Version of this protocol.
pub(super) const PROTOCOL: u32 = 2;

/// Media types that a cell shows, and whether they are text.
const MEDIA_TYPES: [(&str, Kind); 8] = [
    ("text/plain", Kind::Text),
    ("text/html", Kind::Text),
    ("text/markdown", Kind::Text),
    ("text/latex", Kind::Text),
    ("image/svg+xml", Kind::Text),
    ("application/json", Kind::Json),
    ("image/png", Kind::Bytes),
    ("image/jpeg", Kind::Bytes),
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Json,
    Bytes,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// It is locked down and ready.
    Hello {
        /// Its version of the protocol.
        proto: u32,
        /// Its version of Python.
        version: String,
    },
    /// It was told where its cells run.
    Moved {
        /// The number of the error; 0 when it is there.
        errno: i32,
    },
    /// The cell shows something.
    Shown {
        /// Which cell.
        id: u64,
        /// What.
        shown: Shown,
        /// Bytes of its representations.
        bytes: usize,
    },
    /// The cell raised.
    Raised {
        /// Which cell.
        id: u64,
        /// The class.
        name: String,
        /// Its text.
        value: String,
        /// The traceback.
        traceback: String,
    },
    /// The cell ended.
    Done {
        /// Which.
        id: u64,
    },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Header {
    Hello { proto: u32, version: String },
    Moved { errno: i32 },
    Shown { id: u64, main: bool, parts: Vec<(String, usize)> },
    Error { id: u64, name: String, value: String },
    Done { id: u64 },
}

/// What no worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Garbled {
    /// A frame is longer than any.
    #[error("a frame is longer than any may be")]
    Long,
    /// A header cannot be read.
    #[error("a header is not what a worker writes")]
    Header,
    /// A body is not what its header says.
    #[error("a body is not what its header says")]
    Body,
}

/// Takes frames out of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes bytes in.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// [`Garbled`], after which nothing that follows can be trusted to be a frame.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Garbled> {
        let Some((lengths, rest)) = self.bytes.split_first_chunk::<LENGTHS>() else {
            return Ok(None);
        };
        let [h0, h1, h2, h3, b0, b1, b2, b3] = *lengths;
        let header = usize::try_from(u32::from_le_bytes([h0, h1, h2, h3])).unwrap_or(usize::MAX);
        let body = usize::try_from(u32::from_le_bytes([b0, b1, b2, b3])).unwrap_or(usize::MAX);
        if header > HEADER_MAX || body > BODY_MAX {
            return Err(Garbled::Long);
        }
        let (Some(header_bytes), Some(body_bytes)) =
            (rest.get(..header), rest.get(header..header + body))
        else {
            return Ok(None);
        };
        let frame = frame(header_bytes, body_bytes)?;
        self.bytes.drain(..LENGTHS + header + body);
        Ok(Some(frame))
    }

    /// Whether nothing is left over.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn frame(header: &[u8], body: &[u8]) -> Result<Frame, Garbled> {
    let text = || String::from_utf8_lossy(body).into_owned();
    match serde_json::from_slice(header).map_err(|_| Garbled::Header)? {
        Header::Hello { proto, version } => Ok(Frame::Hello { proto, version }),
        Header::Moved { errno } => Ok(Frame::Moved { errno }),
        Header::Shown { id, main, parts } => {
            let shown = Shown { is_main: main, data: representations(&parts, body)? };
            Ok(Frame::Shown { id, shown, bytes: body.len() })
        }
        Header::Error { id, name, value } => {
            Ok(Frame::Raised { id, name, value, traceback: text() })
        }
        Header::Done { id } => Ok(Frame::Done { id }),
    }
}

/// Cuts a body into what its header says it holds: each representation once, and nothing else.
fn representations(
    parts: &[(String, usize)],
    mut body: &[u8],
) -> Result<BTreeMap<String, Media>, Garbled> {
    let mut data = BTreeMap::new();
    for (name, length) in parts {
        let (part, rest) = body.split_at_checked(*length).ok_or(Garbled::Body)?;
        body = rest;
        let known = MEDIA_TYPES.iter().find(|(known, _)| known == name);
        let (_, kind) = known.ok_or(Garbled::Header)?;
        let text = || String::from_utf8_lossy(part).into_owned();
        let media = match kind {
            Kind::Text => Media::Text(text()),
            Kind::Json if is_readable_json(part) => Media::Text(text()),
            Kind::Json => return Err(Garbled::Body),
            Kind::Bytes => Media::Bytes(Bytes::copy_from_slice(part)),
        };
        if data.insert(name.clone(), media).is_some() {
            return Err(Garbled::Header);
        }
    }
    if body.is_empty() && !data.is_empty() { Ok(data) } else { Err(Garbled::Body) }
}

/// Whether it is JSON that any reader takes: nested no deeper than [`JSON_DEPTH_MAX`], without
/// numbers that do not fit.
fn is_readable_json(text: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(text) else { return false };
    let mut level = vec![&value];
    for _ in 0..=JSON_DEPTH_MAX {
        if level.is_empty() {
            return true;
        }
        level = level
            .into_iter()
            .flat_map(|value| match value {
                serde_json::Value::Array(items) => items.iter().collect::<Vec<_>>(),
                serde_json::Value::Object(fields) => fields.values().collect(),
                _ => Vec::new(),
            })
            .collect();
    }
    false
}

/// What the engine says.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum Order<'a> {
    /// Run a cell. The body is its code, then its parameters.
    Run {
        /// What to call it.
        id: u64,
        /// Environment of this cell.
        env: &'a BTreeMap<String, String>,
        /// Where it runs; without it where the one before it was.
        cwd: Option<&'a str>,
        /// Bytes of code in the body.
        code: usize,
        /// Whether parameters follow.
        params: bool,
    },
    /// Stop this cell. A signal follows, which a worker that has not read the order to run it
    /// would miss.
    Interrupt {
        /// Which cell.
        id: u64,
    },
    /// Bytes of data it may have from now on.
    Data {
        /// How many.
        bytes: u64,
    },
    /// The folder where cells run from now on. Answered by [`Frame::Moved`].
    Cwd {
        /// Which.
        cwd: &'a str,
    },
    /// Environment from now on.
    Env {
        /// Names and values.
        env: &'a BTreeMap<String, String>,
    },
}

impl Order<'_> {
    /// As bytes.
    pub(super) fn encode(&self, body: &[&[u8]]) -> Vec<u8> {
        let header = serde_json::to_vec(self).expect("texts and numbers are always JSON");
        let length = body.iter().map(|part| part.len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(LENGTHS + header.len() + length);
        for length in [header.len(), length] {
            let length = u32::try_from(length).expect("requests are bounded far below");
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        bytes.extend_from_slice(&header);
        body.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }
}

#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
