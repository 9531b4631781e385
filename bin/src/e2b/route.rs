//! What a request is for, by its host and its routing headers. Decides; the others answer.

use sandpit_sandbox::e2b::wire::header::{SANDBOX_ID, SANDBOX_PORT};

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The life of sandboxes.
    Control,
    /// A file that a signed URL names, of a sandbox that it does not name.
    Signed,
    /// A port of a sandbox; two of them stand for its files, processes and interpreter.
    Sandbox {
        /// Its id as it was written.
        id: String,
        /// The port.
        port: u16,
    },
}

/// What a request says about its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) sandbox: Option<&'a str>,
    pub(super) port: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
}

impl Way<'_> {
    /// The first of the rules that fits.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub(super) fn target(self) -> Result<Target, String> {
        if let Some((port, id)) = self.host.and_then(of_host) {
            return Ok(Target::Sandbox { id: id.to_owned(), port });
        }
        match (self.sandbox, self.port) {
            (None, None) => {}
            (Some(id), Some(port)) => {
                let port = port.parse().ok().filter(|port| *port > 0);
                let Some(port) = port.filter(|_| is_word(id)) else {
                    return Err(format!("{SANDBOX_ID} or {SANDBOX_PORT} is not well formed"));
                };
                return Ok(Target::Sandbox { id: id.to_owned(), port });
            }
            _ => return Err(format!("{SANDBOX_ID} and {SANDBOX_PORT} are needed together")),
        }
        let signed = self.path == "/files" && query(self.query, "signature").is_some();
        Ok(if signed { Target::Signed } else { Target::Control })
    }
}

/// Port and sandbox of a host as in `49983-i0abc.sandpit.localhost:49980`.
fn of_host(host: &str) -> Option<(u16, &str)> {
    let (port, rest) = host.split_once('-')?;
    let (id, _) = rest.split_once('.')?;
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    (digits && is_word(id)).then(|| Some((port.parse().ok()?, id))).flatten()
}

fn is_word(id: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !id.is_empty() && id.len() <= 128 && id.bytes().all(letter)
}

/// The pairs of a query, each decoded once.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(&key.replace('+', " ")), decoded(&value.replace('+', " ")))
    })
}

/// The first value of a key in a query.
pub(super) fn query(query: &str, key: &str) -> Option<String> {
    pairs(query).find(|(known, _)| known == key).map(|(_, value)| value)
}

/// Percent-encoding undone; what is none stays.
pub(super) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = (*byte == b'%').then(|| Some(digit(at + 1)? * 16 + digit(at + 2)?)).flatten();
        plain.push(pair.and_then(|pair| u8::try_from(pair).ok()).unwrap_or(*byte));
        at += if pair.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_says_what_a_request_is_for() {
        let sandbox = |id: &str, port| Ok(Target::Sandbox { id: id.to_owned(), port });
        let way = Way { path: "/files", query: "path=a", ..Way::default() };
        assert_eq!(way.target(), Ok(Target::Control));
        assert_eq!(Way { query: "path=a&signature=v1_x", ..way }.target(), Ok(Target::Signed));
        let host = Some("8080-i0abc.sandpit.localhost:49980");
        assert_eq!(Way { host, ..way }.target(), sandbox("i0abc", 8_080));
        let both = Way { sandbox: Some("i0abc"), port: Some("49983"), ..way };
        assert_eq!(both.target(), sandbox("i0abc", 49_983));
        assert_eq!(Way { host, ..both }.target(), sandbox("i0abc", 8_080));
        assert!(Way { port: None, ..both }.target().is_err());
        assert!(Way { port: Some("65536"), ..both }.target().is_err());
        assert!(Way { sandbox: Some("../x"), ..both }.target().is_err());
        for host in ["localhost:49980", "x-i0.a", "123456-i0.a", "8080-I0.a", "8080-i0"] {
            assert_eq!(Way { host: Some(host), ..way }.target(), Ok(Target::Control), "{host}");
        }
    }

    #[test]
    fn a_query_is_decoded_once() {
        let read = query("metadata=team%3Dal%252520pha&a+b=%C3%A9%", "metadata");
        assert_eq!(read.as_deref(), Some("team=al%2520pha"));
        assert_eq!(query("a+b=%C3%A9%", "a b").as_deref(), Some("é%"));
        assert_eq!(query("x", "x").as_deref(), Some(""));
        assert_eq!(query("x", "y"), None);
    }
}
