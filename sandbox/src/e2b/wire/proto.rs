//! What JSON of protocol buffers does in its own way: bytes, long integers, names of values.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Written with padding; read with or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes, written in base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(pub Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&LENIENT.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        LENIENT.decode(text).map(|bytes| Self(bytes.into())).map_err(de::Error::custom)
    }
}

/// A value by its name or by its number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Named {
    Name(String),
    Number(i64),
}

impl Named {
    /// The value that is meant, by a table of number, name and value.
    pub(super) fn among<T: Copy>(&self, table: &[(i64, &str, T)]) -> Option<T> {
        let found = table.iter().find(|(number, name, _)| match self {
            Self::Name(text) => text == name,
            Self::Number(wanted) => wanted == number,
        });
        found.map(|(_, _, value)| *value)
    }
}

/// A 64-bit integer: written as text, read as text or as a number.
pub(super) mod int64 {
    use super::{Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(u64),
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(in super::super) fn serialize<S: Serializer>(n: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(n)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        match Either::deserialize(d)? {
            Either::Text(text) => text.parse().map_err(de::Error::custom),
            Either::Number(number) => Ok(number),
        }
    }
}
