//! From the unit in a setting's name to a type that carries it. Ranges were checked before.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// Seconds, whole or not.
pub(crate) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(de::Error::custom)
}

/// Milliseconds.
pub(crate) fn millis<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_millis)
}

/// Kibibytes become bytes.
pub(crate) fn kib<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    u64::deserialize(from).map(|kib| kib * 1024)
}

/// Mebibytes become bytes.
pub(crate) fn mib<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    u64::deserialize(from).map(|mib| mib * 1024 * 1024)
}

/// Empty text is not set.
pub(crate) fn unless_empty<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    let text = String::deserialize(from)?;
    Ok(Some(text).filter(|text| !text.is_empty()).map(T::from))
}
