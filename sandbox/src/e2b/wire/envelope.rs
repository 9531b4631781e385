//! Envelopes of Connect streams: a flag byte, a length of four bytes, JSON.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::fault::ConnectError;

/// Most bytes of JSON in one envelope. A page of output is a thousandth of it; whoever sends more
/// wants to fill our memory.
pub const ENVELOPE_MAX: usize = 4 << 20;

const HEAD: usize = 5;
const COMPRESSED: u8 = 0x01;
const END: u8 = 0x02;

/// One piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// A message, as JSON.
    Message(Bytes),
    /// The end: without an error, all is said.
    End(Option<ConnectError>),
}

/// What is wrong with a stream. Nothing after it can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    /// It is compressed, which nobody asked for.
    #[error("the stream is compressed")]
    Compressed,
    /// More than [`ENVELOPE_MAX`].
    #[error("an envelope of {bytes} bytes, more than {ENVELOPE_MAX}")]
    TooLarge {
        /// How many it says it has.
        bytes: usize,
    },
    /// Flags that nobody defined.
    #[error("an envelope with flags {0:#04x}")]
    Flags(u8),
    /// The last envelope is not the end of a stream.
    #[error("the end of the stream cannot be read: {0}")]
    End(String),
    /// Something follows the end.
    #[error("the stream goes on after its end")]
    AfterEnd,
    /// It stopped within an envelope, or without an end.
    #[error("the stream broke off")]
    Truncated,
}

#[derive(Serialize, Deserialize)]
struct EndStream {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<ConnectError>,
}

/// Reads envelopes out of bytes as they come, cut wherever the network cut them.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: BytesMut,
    ended: bool,
}

impl Decoder {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next envelope, or `None` until more has come.
    ///
    /// # Errors
    /// [`BadEnvelope`]; after it the stream is of no use.
    pub fn pull(&mut self) -> Result<Option<Envelope>, BadEnvelope> {
        if self.ended && !self.bytes.is_empty() {
            return Err(BadEnvelope::AfterEnd);
        }
        let Some(head) = self.bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let [flags, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        match flags {
            0 | END => {}
            flags if flags & COMPRESSED != 0 => return Err(BadEnvelope::Compressed),
            flags => return Err(BadEnvelope::Flags(flags)),
        }
        if length > ENVELOPE_MAX {
            return Err(BadEnvelope::TooLarge { bytes: length });
        }
        if self.bytes.len() < HEAD + length {
            return Ok(None);
        }
        self.bytes.advance(HEAD);
        let payload = self.bytes.split_to(length).freeze();
        if flags != END {
            return Ok(Some(Envelope::Message(payload)));
        }
        self.ended = true;
        if payload.is_empty() {
            return Ok(Some(Envelope::End(None)));
        }
        let end: EndStream = serde_json::from_slice(&payload)
            .map_err(|error| BadEnvelope::End(error.to_string()))?;
        Ok(Some(Envelope::End(end.error)))
    }

    /// Whether all is said: to be asked when no more bytes come.
    ///
    /// # Errors
    /// [`BadEnvelope::Truncated`] if a server's stream has no end.
    pub fn finish(&self) -> Result<(), BadEnvelope> {
        if self.ended { Ok(()) } else { Err(BadEnvelope::Truncated) }
    }

    /// Whether it stopped between two envelopes. What a client streams has no end envelope.
    pub fn is_between(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A message in its envelope.
///
/// # Panics
/// Never for the types of this module: they are made of text and numbers.
pub fn message(value: &impl Serialize) -> Bytes {
    sealed(0, value)
}

/// The end of a stream: without an error, all is said.
pub fn end(error: Option<ConnectError>) -> Bytes {
    sealed(END, &EndStream { error })
}

fn sealed(flags: u8, value: &impl Serialize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(128);
    bytes.put_slice(&[flags, 0, 0, 0, 0]);
    let mut writer = bytes.writer();
    serde_json::to_writer(&mut writer, value).expect("text and numbers can be written");
    let mut bytes = writer.into_inner();
    let length = u32::try_from(bytes.len() - HEAD).expect("below four gigabytes");
    bytes[1..HEAD].copy_from_slice(&length.to_be_bytes());
    bytes.freeze()
}
