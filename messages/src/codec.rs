//! Two codecs, MessagePack with field names and JSON. An answer uses the codec of its question.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::refusal::Refusal;

/// Most bytes of one body. Half of what a nats-server carries by default: headers need room, and
/// what is larger goes another way.
pub const BODY_MAX: usize = 512 * 1024;

/// Deepest nesting that is read. Deeper than any of our types; without a bound a few kilobytes of
/// brackets would exhaust the stack.
pub const DEPTH_MAX: usize = 32;

/// How a payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// `application/vnd.msgpack`, structs as maps, so that a new field breaks no old reader.
    MessagePack,
    /// `application/json`.
    Json,
}

impl Codec {
    /// From the `Content-Type` header, or else from the first byte that is not white space: no map
    /// or array of MessagePack begins with `{` or `[`. An empty body without a type is JSON, so
    /// that a person at a terminal can read the answer.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] for a content type we do not speak.
    pub fn of(content_type: Option<&str>, body: &[u8]) -> Result<Self, Refusal> {
        match content_type.map(|text| text.split(';').next().unwrap_or_default().trim()) {
            Some("application/json") => Ok(Self::Json),
            Some("application/vnd.msgpack" | "application/msgpack") => Ok(Self::MessagePack),
            Some(other) => {
                let known = "application/json or application/vnd.msgpack";
                let other: String = other.chars().take(64).collect();
                Err(Refusal::Malformed { at: format!("Content-Type is `{other}`, not {known}") })
            }
            None => match body.trim_ascii_start().first() {
                Some(b'{' | b'[') | None => Ok(Self::Json),
                _ => Ok(Self::MessagePack),
            },
        }
    }

    /// For the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::MessagePack => "application/vnd.msgpack",
            Self::Json => "application/json",
        }
    }

    /// Reads one value. An empty body is an empty map: a request whose fields all have defaults
    /// needs no payload.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], or [`Refusal::Malformed`] naming the place as the codec reports it.
    pub fn decode<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, Refusal> {
        self.decode_whole(body).map(|(value, _)| value)
    }

    /// The same for what is asked: also says which field was not read, if there was one. Whoever
    /// misspelt an argument would otherwise be answered as if it had not been there.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_whole<T: DeserializeOwned>(
        self,
        body: &[u8],
    ) -> Result<(T, Option<String>), Refusal> {
        if body.len() > BODY_MAX {
            return Err(Refusal::TooLarge { what: "body", bytes: body.len(), max: BODY_MAX });
        }
        let malformed = |at: String| Refusal::Malformed { at };
        let mut unread = None;
        let mut note = |path: serde_ignored::Path<'_>| {
            unread.get_or_insert_with(|| path.to_string());
        };
        let value = match self {
            Self::MessagePack => {
                let mut rest = if body.is_empty() { &[0x80] } else { body };
                let mut reader = rmp_serde::Deserializer::new(&mut rest);
                reader.set_max_depth(DEPTH_MAX);
                let value = serde_ignored::deserialize(&mut reader, &mut note);
                let value = value.map_err(|error| malformed(error.to_string()))?;
                if !rest.is_empty() {
                    return Err(malformed(format!("{} bytes after the value", rest.len())));
                }
                value
            }
            // serde_json's own bound is 128 deep, which a thread's stack bears.
            Self::Json => {
                let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
                let mut reader = serde_json::Deserializer::from_slice(body);
                let value = serde_ignored::deserialize(&mut reader, &mut note);
                let value = value.map_err(|error| malformed(error.to_string()))?;
                reader.end().map_err(|error| malformed(error.to_string()))?;
                value
            }
        };
        Ok((value, unread))
    }

    /// Writes one value.
    ///
    /// # Panics
    /// If `value` cannot be written at all (a map with keys that are not strings); our message
    /// types can, and a test writes one of each.
    pub fn encode<T: Serialize>(self, value: &T) -> Vec<u8> {
        match self {
            Self::MessagePack => {
                rmp_serde::to_vec_named(value).expect("our types are maps of plain values")
            }
            Self::Json => serde_json::to_vec(value).expect("our types are maps of plain values"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exec::Exec;
    use crate::sandbox::Create;

    #[test]
    fn both_codecs_read_what_they_wrote_and_are_told_apart() {
        let ask = Create { template: "trading".to_owned(), ..Create::default() };
        for codec in [Codec::MessagePack, Codec::Json] {
            let body = codec.encode(&ask);
            assert_eq!(Codec::of(None, &body), Ok(codec));
            assert_eq!(codec.decode::<Create>(&body), Ok(ask.clone()));
        }
    }

    #[test]
    fn an_empty_body_asks_for_the_defaults() {
        for codec in [Codec::MessagePack, Codec::Json] {
            assert_eq!(codec.decode::<Create>(b""), Ok(Create::default()));
        }
    }

    #[test]
    fn a_field_that_nobody_reads_is_told() {
        for (body, expected) in [
            (&br#"{"template":"base"}"#[..], None),
            (br#"{"template":"base","tempalte":1}"#, Some("tempalte".to_owned())),
        ] {
            let (_, unread) = Codec::Json.decode_whole::<Create>(body).unwrap();
            assert_eq!(unread, expected);
            let value: serde_json::Value = serde_json::from_slice(body).unwrap();
            let body = Codec::MessagePack.encode(&value);
            let (_, unread) = Codec::MessagePack.decode_whole::<Create>(&body).unwrap();
            assert_eq!(unread, expected);
        }
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        let refusal = Codec::Json.decode::<Create>(br#"{"template":1}"#).unwrap_err();
        let Refusal::Malformed { at } = refusal else { panic!("{refusal}") };
        assert!(at.contains("string"), "{at}");
    }

    #[test]
    fn what_is_too_large_too_deep_or_too_long_is_refused() {
        let large = vec![b' '; BODY_MAX + 1];
        let refusal = Codec::Json.decode::<Create>(&large).unwrap_err();
        assert!(matches!(refusal, Refusal::TooLarge { .. }), "{refusal}");
        // `params` takes any value, so only the bound on depth stops this one.
        let mut deep = b"\x81\xa6params".to_vec();
        deep.extend([0x91; 4_000]);
        assert!(Codec::MessagePack.decode::<Exec>(&deep).is_err());
        let mut long = Codec::MessagePack.encode(&Create::default());
        long.push(0xc0);
        assert!(Codec::MessagePack.decode::<Create>(&long).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_a_refusal(body in prop::collection::vec(any::<u8>(), 0..256)) {
            for codec in [Codec::MessagePack, Codec::Json] {
                // Only a panic would fail this.
                drop(codec.decode::<Create>(&body));
                drop(codec.decode::<Exec>(&body));
            }
        }
    }
}
