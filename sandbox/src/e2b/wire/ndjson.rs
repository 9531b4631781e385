//! Lines of JSON, as the code interpreter answers: one object per line.
//!
//! What is written is pure ASCII. It has to be: one SDK splits lines at U+0085, U+2028 and U+2029,
//! the other decodes each piece that comes from the network by itself.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// Most bytes of one line: a result of 8 MiB in base64 and escapes, and what is around it.
pub const LINE_MAX: usize = 24 << 20;

/// A line longer than [`LINE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {LINE_MAX} bytes")]
pub struct LineTooLong;

/// Reads lines out of bytes as they come. Empty lines are passed over.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: BytesMut,
    /// How many of them have no line end.
    seen: usize,
}

impl Decoder {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line without its end, or `None` until more has come.
    ///
    /// # Errors
    /// [`LineTooLong`]; after it the stream is of no use.
    pub fn pull(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        while let Some(at) = self.bytes[self.seen..].iter().position(|byte| *byte == b'\n') {
            let line = self.bytes.split_to(self.seen + at).freeze();
            self.bytes.advance(1);
            self.seen = 0;
            if line.len() > LINE_MAX {
                return Err(LineTooLong);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        self.seen = self.bytes.len();
        if self.seen > LINE_MAX { Err(LineTooLong) } else { Ok(None) }
    }

    /// What is left when no more bytes come: a line without an end, or nothing.
    pub fn rest(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// A line with its end.
///
/// # Panics
/// Never for the types of this module: they are made of text and numbers.
pub fn line(value: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    let mut serializer = Serializer::with_formatter(&mut bytes, Ascii);
    value.serialize(&mut serializer).expect("text and numbers can be written");
    bytes.push(b'\n');
    bytes.into()
}

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut plain = 0;
        for (at, letter) in fragment.char_indices().filter(|(_, letter)| !letter.is_ascii()) {
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + letter.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }

    fn write_char_escape<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }
}
