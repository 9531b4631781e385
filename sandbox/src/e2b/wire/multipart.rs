//! Bodies of several parts (RFC 7578), as files are uploaded. Read as they come: no part is ever
//! held whole.

use bytes::{Buf, Bytes, BytesMut};

/// Most bytes of the headers of one part.
const HEADERS_MAX: usize = 16 << 10;

/// A piece of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A part begins.
    Part {
        /// The name of its field.
        name: String,
        /// The whole name of its file, a path perhaps.
        filename: Option<String>,
    },
    /// Bytes of the part that began last.
    Data(Bytes),
    /// That part is whole.
    PartEnd,
    /// All parts are whole.
    End,
}

/// The body is not what its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parts of the body cannot be told apart: {0}")]
pub struct BadParts(&'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// Just after one.
    Delimited,
    Headers,
    Body,
    Ended,
}

/// Reads parts out of bytes as they come, cut wherever the network cut them.
#[derive(Debug)]
pub struct Decoder {
    delimiter: Vec<u8>,
    bytes: BytesMut,
    state: State,
}

impl Decoder {
    /// For a body of this content type, if that names a boundary.
    pub fn of(content_type: &str) -> Option<Self> {
        let (kind, parameters) = content_type.split_once(';')?;
        let is_form = kind.trim().eq_ignore_ascii_case("multipart/form-data");
        let boundary = parameter(parameters, "boundary").filter(|text| !text.is_empty())?;
        // What is before the first delimiter ends with a line end, or is nothing at all.
        let bytes = BytesMut::from(&b"\r\n"[..]);
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        is_form.then_some(Self { delimiter, bytes, state: State::Preamble })
    }

    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next piece, or `None` until more has come.
    ///
    /// # Errors
    /// [`BadParts`]; after it the body is of no use.
    pub fn pull(&mut self) -> Result<Option<Piece>, BadParts> {
        loop {
            match self.state {
                State::Preamble => {
                    let Some(at) = find(&self.bytes, &self.delimiter) else {
                        let kept = self.delimiter.len().min(self.bytes.len());
                        self.bytes.advance(self.bytes.len() - kept);
                        return Ok(None);
                    };
                    self.bytes.advance(at + self.delimiter.len());
                    self.state = State::Delimited;
                }
                State::Delimited => match self.bytes.first_chunk() {
                    None => return Ok(None),
                    Some(b"--") => {
                        self.state = State::Ended;
                        return Ok(Some(Piece::End));
                    }
                    // Its line end stays: headers begin after one, and there may be none.
                    Some(b"\r\n") => self.state = State::Headers,
                    Some(_) => return Err(BadParts("no line ends after a boundary")),
                },
                State::Headers => {
                    let Some(at) = find(&self.bytes, b"\r\n\r\n") else {
                        let is_long = self.bytes.len() > HEADERS_MAX;
                        return if is_long {
                            Err(BadParts("headers without end"))
                        } else {
                            Ok(None)
                        };
                    };
                    let headers = self.bytes.split_to(at + 4);
                    self.state = State::Body;
                    return part(&headers).map(Some);
                }
                State::Body => {
                    if let Some(at) = find(&self.bytes, &self.delimiter) {
                        if at > 0 {
                            return Ok(Some(Piece::Data(self.bytes.split_to(at).freeze())));
                        }
                        self.bytes.advance(self.delimiter.len());
                        self.state = State::Delimited;
                        return Ok(Some(Piece::PartEnd));
                    }
                    // The last bytes may be the beginning of a delimiter.
                    let sure = self.bytes.len().saturating_sub(self.delimiter.len() - 1);
                    let data = self.bytes.split_to(sure).freeze();
                    return Ok((!data.is_empty()).then_some(Piece::Data(data)));
                }
                State::Ended => return Ok(None),
            }
        }
    }

    /// Whether all parts came: to be asked when no more bytes come.
    pub fn is_whole(&self) -> bool {
        self.state == State::Ended
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == wanted[0]) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn part(headers: &[u8]) -> Result<Piece, BadParts> {
    let text = std::str::from_utf8(headers).map_err(|_| BadParts("headers that are not UTF-8"))?;
    let disposition = text.lines().filter_map(|line| line.split_once(':'));
    let mut disposition =
        disposition.filter(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"));
    let (_, value) = disposition.next().ok_or(BadParts("a part that says nothing of itself"))?;
    let (_, parameters) = value.split_once(';').unwrap_or((value, ""));
    let name = parameter(parameters, "name").ok_or(BadParts("a part without a name"))?;
    Ok(Piece::Part { name, filename: parameter(parameters, "filename") })
}

/// The value of one parameter of a header. In quotes, `\` keeps what follows it.
fn parameter(mut rest: &str, wanted: &str) -> Option<String> {
    loop {
        let (name, value) = rest.split_once('=')?;
        let (value, after) = value_of(value.trim_start());
        if name.trim_matches([' ', '\t', ';']).eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' if matches!(letters.peek(), Some((_, '"' | '\\'))) => {
                value.extend(letters.next().map(|(_, kept)| kept));
            }
            letter => value.push(letter),
        }
    }
    (value, "")
}
