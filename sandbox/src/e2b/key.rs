//! The key of an account at a cloud.

use std::fmt;

use reqwest::header::HeaderValue;

/// An API key. It shows itself to nobody: not to a log, not to an error, not to a sandbox. The only
/// thing that can be done with it is to send it.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

/// What was given is no key: empty, more than a line, or no text for a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no API key: one line of printable ASCII is one")]
pub struct NotAKey;

/// Characters of the longest key. Those of E2B have 44.
const LENGTH_MAX: usize = 512;

impl ApiKey {
    /// Reads a key; white space around it does not count.
    ///
    /// # Errors
    /// [`NotAKey`]
    pub fn read(text: &str) -> Result<Self, NotAKey> {
        let text = text.trim();
        let graphic = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > LENGTH_MAX || !graphic {
            return Err(NotAKey);
        }
        let mut value = HeaderValue::from_str(text).map_err(|_| NotAKey)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_itself_to_nobody() {
        let key = ApiKey::read(" e2b_0123456789abcdef\n").expect("a key");
        assert_eq!(format!("{key:?} {:?}", key.header()), "ApiKey(..) Sensitive");
        assert_eq!(key.header(), "e2b_0123456789abcdef");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for text in ["", " \n", "two words", "two\nlines", "k\u{e9}y"] {
            assert_eq!(ApiKey::read(text).expect_err("no key"), NotAKey);
        }
        assert!(ApiKey::read(&"k".repeat(513)).is_err());
    }
}
