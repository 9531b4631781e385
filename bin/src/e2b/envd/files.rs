//! Files by their paths: whole or in ranges, uploaded one by one or several at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::BytesMut;
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};
use futures_util::StreamExt as _;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::e2b::wire::OCTETS;
use sandpit_sandbox::e2b::wire::filesystem::Written;
use sandpit_sandbox::e2b::wire::header::METADATA_PREFIX;
use sandpit_sandbox::e2b::wire::multipart::{Decoder, Piece};
use sandpit_sandbox::provider::files::{self, Entry, Pieces, Range};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::answer::{self, Plain};
use super::super::{body, route, text};
use super::{Call, known_user};

/// Bytes of one file.
const FILE_MAX: u64 = 256 << 20;

/// Files of one request. Each is remembered until its answer, under whatever name it came.
const PARTS_MAX: usize = 1_024;

/// Bytes up to which a file is written in one go.
const WHOLE_MAX: usize = 256 << 10;

/// Bytes that are inflated at once: what they become is a thousand times as much at worst.
const INFLATED_AT_ONCE: usize = 4 << 10;

/// Smaller files are not worth compressing.
const GZIP_MIN: u64 = 1 << 10;

/// Characters of the name of a metadata entry, and of all entries.
const METADATA_NAME_MAX: usize = 246;
const METADATA_MAX: usize = 4_096;

pub(super) async fn read(call: &Call, request: Request) -> Result<Response, Plain> {
    let query = request.uri().query().unwrap_or_default();
    let path = route::query(query, "path").ok_or_else(|| Plain::bad("path is missing"))?;
    known_user(&route::query(query, "username").unwrap_or_default())
        .map_err(Plain::unauthorized)?;
    let files = call.shared.provider().files()?;
    let sandbox = call.sandbox();
    let asked = text(request.headers(), header::RANGE).and_then(asked);
    let range = match asked {
        None => None,
        Some(asked) => {
            let size = files.stat(sandbox, &path).await?.size;
            Some(asked.within(size).ok_or_else(|| unsatisfiable(size))?)
        }
    };
    let wanted = range
        .map_or_else(Range::default, |(start, end)| Range { start, length: Some(end - start + 1) });
    let reading = files.read(sandbox, &path, wanted).await?;
    let size = reading.entry.size;
    let gzip = text(request.headers(), header::ACCEPT_ENCODING) == Some("gzip");
    let gzip = gzip && range.is_none() && reading.length >= GZIP_MIN;
    let body = match reading.length {
        0 => Body::empty(),
        _ if gzip => body::of_pieces_or_cut(deflated(reading.pieces)),
        _ => body::of_pieces_or_cut(reading.pieces),
    };
    let mut response = answer::with_type(StatusCode::OK, OCTETS, body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_DISPOSITION, disposition(&reading.entry.name));
    // No script is to run from our address.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    } else {
        headers.insert(header::CONTENT_LENGTH, reading.length.into());
    }
    if let Some((start, end)) = range {
        if let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{end}/{size}")) {
            headers.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// What a client wants of a file, before its size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    From(u64, Option<u64>),
    Last(u64),
}

/// One range of bytes; whatever else the header says is left aside, as it may be.
fn asked(header: &str) -> Option<Asked> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", last) => Some(Asked::Last(last.parse().ok()?)),
        (first, "") => Some(Asked::From(first.parse().ok()?, None)),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(Asked::From(first, Some(last)))
        }
    }
}

impl Asked {
    /// The first and the last byte, if there are any.
    fn within(self, size: u64) -> Option<(u64, u64)> {
        let end = size.checked_sub(1)?;
        match self {
            Self::From(first, last) => {
                (first <= end).then(|| (first, last.unwrap_or(end).min(end)))
            }
            Self::Last(0) => None,
            Self::Last(count) => Some((size.saturating_sub(count), end)),
        }
    }
}

fn unsatisfiable(size: u64) -> Plain {
    Plain::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {size} bytes"))
}

/// A name that is safe in a header, whatever is in it.
fn disposition(name: &str) -> HeaderValue {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let shown = match name.bytes().all(plain) {
        true => format!("inline; filename={name}"),
        false => {
            let encoded: String = name
                .bytes()
                .map(|byte| match plain(byte) {
                    true => char::from(byte).to_string(),
                    false => format!("%{byte:02X}"),
                })
                .collect();
            format!("inline; filename*=utf-8''{encoded}")
        }
    };
    HeaderValue::from_str(&shown).unwrap_or_else(|_| HeaderValue::from_static("inline"))
}

/// The same bytes, compressed.
fn deflated(mut pieces: Pieces) -> mpsc::Receiver<Result<Bytes, io::Error>> {
    let (send, read) = mpsc::channel(body::PIECES_MAX);
    tokio::spawn(async move {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        while let Some(piece) = pieces.recv().await {
            let packed = match piece {
                Ok(bytes) => encoder.write_all(&bytes),
                Err(error) => Err(io::Error::other(error)),
            };
            let packed = packed.map(|()| Bytes::from(std::mem::take(encoder.get_mut())));
            let is_broken = packed.is_err();
            let is_empty = packed.as_ref().is_ok_and(Bytes::is_empty);
            if (!is_empty && send.send(packed).await.is_err()) || is_broken {
                return;
            }
        }
        // Whoever is gone needs no end.
        send.send(encoder.finish().map(Bytes::from)).await.ok();
    });
    read
}

pub(super) async fn write(call: &Call, request: Request) -> Result<Response, Plain> {
    let query = request.uri().query().unwrap_or_default();
    let path = route::query(query, "path").filter(|path| !path.is_empty());
    known_user(&route::query(query, "username").unwrap_or_default())
        .map_err(Plain::unauthorized)?;
    call.shared.provider().files()?;
    let metadata = metadata(request.headers())?;
    let kind = text(request.headers(), header::CONTENT_TYPE).unwrap_or(OCTETS);
    let parts = Decoder::of(kind);
    let mut inflow = Inflow::of(request)?;
    let mut upload = Upload { call, metadata, targets: BTreeSet::new(), written: Vec::new() };
    match (parts, path) {
        (Some(decoder), path) => upload.parts(decoder, &mut inflow, path).await?,
        (None, Some(path)) => upload.one(&mut inflow, path).await?,
        (None, None) => return Err(Plain::bad("path is missing")),
    }
    Ok(answer::json(StatusCode::OK, &upload.written))
}

/// What the writer says about the files of a request.
fn metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Plain> {
    let mut found = BTreeMap::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(METADATA_PREFIX) else { continue };
        let printable = |text: &&str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        let value = value.to_str().ok().filter(printable);
        let value = value.ok_or_else(|| Plain::bad(format!("{name} is not printable ASCII")))?;
        bytes += key.len() + value.len();
        if key.is_empty() || key.len() > METADATA_NAME_MAX || bytes > METADATA_MAX {
            let expected =
                format!("names up to {METADATA_NAME_MAX} and {METADATA_MAX} bytes in all");
            return Err(Plain::bad(format!("the metadata is too large; expected {expected}")));
        }
        found.insert(key.to_owned(), value.to_owned());
    }
    Ok(found)
}

/// The plain bytes of a request's body.
struct Inflow {
    body: BodyDataStream,
    inflating: Option<GzDecoder<Vec<u8>>>,
    packed: Bytes,
}

impl Inflow {
    fn of(request: Request) -> Result<Self, Plain> {
        let inflating = match text(request.headers(), header::CONTENT_ENCODING) {
            None | Some("identity" | "") => None,
            Some("gzip") => Some(GzDecoder::new(Vec::new())),
            Some(other) => {
                return Err(Plain::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    format!("content-encoding is {other}; expected gzip or identity"),
                ));
            }
        };
        let body = request.into_body().into_data_stream();
        Ok(Self { body, inflating, packed: Bytes::new() })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Plain> {
        let broken = |error: io::Error| Plain::bad(format!("the body is not gzip: {error}"));
        loop {
            if let Some(inflating) = &mut self.inflating
                && !self.packed.is_empty()
            {
                let piece = self.packed.split_to(INFLATED_AT_ONCE.min(self.packed.len()));
                inflating.write_all(&piece).map_err(broken)?;
                let plain = std::mem::take(inflating.get_mut());
                if !plain.is_empty() {
                    return Ok(Some(plain.into()));
                }
                continue;
            }
            match (self.body.next().await, &mut self.inflating) {
                (Some(Err(error)), _) => {
                    return Err(Plain::bad(format!("the body cannot be read: {error}")));
                }
                (Some(Ok(bytes)), None) if bytes.is_empty() => {}
                (Some(Ok(bytes)), None) => return Ok(Some(bytes)),
                (Some(Ok(bytes)), Some(_)) => self.packed = bytes,
                (None, None) => return Ok(None),
                (None, Some(_)) => {
                    let inflating = self.inflating.take().expect("matched above");
                    let rest = inflating.finish().map_err(broken)?;
                    return Ok((!rest.is_empty()).then(|| rest.into()));
                }
            }
        }
    }
}

struct Upload<'a> {
    call: &'a Call,
    metadata: BTreeMap<String, String>,
    targets: BTreeSet<String>,
    written: Vec<Written>,
}

impl Upload<'_> {
    /// The whole body is one file.
    async fn one(&mut self, inflow: &mut Inflow, path: String) -> Result<(), Plain> {
        let mut file = self.begin(path)?;
        while let Some(bytes) = inflow.next().await? {
            file.push(bytes).await?;
        }
        self.settle(file).await
    }

    /// Each part is a file, named by the query if that names one.
    async fn parts(
        &mut self,
        mut decoder: Decoder,
        inflow: &mut Inflow,
        path: Option<String>,
    ) -> Result<(), Plain> {
        let mut file = None;
        loop {
            match decoder.pull().map_err(|error| Plain::bad(error.to_string()))? {
                Some(Piece::Part { name, filename }) if name == "file" => {
                    let named = path.clone().or(filename);
                    let named = named.ok_or_else(|| Plain::bad("a part names no file"))?;
                    file = Some(self.begin(named)?);
                }
                Some(Piece::Part { name, .. }) => {
                    return Err(Plain::bad(format!("a part is named {name}; expected file")));
                }
                Some(Piece::Data(bytes)) => {
                    if let Some(file) = &mut file {
                        file.push(bytes).await?;
                    }
                }
                Some(Piece::PartEnd) => {
                    if let Some(file) = file.take() {
                        self.settle(file).await?;
                    }
                }
                Some(Piece::End) => return Ok(()),
                None => match inflow.next().await? {
                    Some(bytes) => decoder.push(&bytes),
                    None => return Err(Plain::bad("the body broke off")),
                },
            }
        }
    }

    fn begin(&mut self, path: String) -> Result<Uploading, Plain> {
        if self.targets.len() >= PARTS_MAX {
            let message = format!("more than {PARTS_MAX} files in one request; send several");
            return Err(Plain::bad(message));
        }
        if !self.targets.insert(path.clone()) {
            return Err(Plain::bad(format!("two parts are named {path}")));
        }
        let (shared, sandbox) = (&self.call.shared, self.call.sandbox());
        let provider = std::sync::Arc::clone(shared.provider());
        let (to, metadata) = (path.clone(), self.metadata.clone());
        let write = move |contents| {
            let writing =
                async move { provider.files()?.write(sandbox, &to, contents, metadata).await };
            tokio::spawn(writing)
        };
        Ok(Uploading { first: BytesMut::new(), write: Some(Box::new(write)), rest: None, bytes: 0 })
    }

    async fn settle(&mut self, file: Uploading) -> Result<(), Plain> {
        let Entry { path, name, .. } = file.finish().await?;
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone());
        self.written.push(Written { path, name, kind: "file".to_owned(), metadata });
        Ok(())
    }
}

type Writing = JoinHandle<Result<Entry, ProviderError>>;

/// A file that is being written. Dropped before its end, what was there stays.
struct Uploading {
    /// What came, as long as it is little.
    first: BytesMut,
    write: Option<Box<dyn FnOnce(files::Body) -> Writing + Send>>,
    /// Where the rest goes, and who writes it.
    rest: Option<(mpsc::Sender<Result<Bytes, ProviderError>>, Writing)>,
    bytes: u64,
}

impl Uploading {
    async fn push(&mut self, bytes: Bytes) -> Result<(), Plain> {
        self.bytes += bytes.len() as u64;
        if self.bytes > FILE_MAX {
            let message = format!("the file is more than {FILE_MAX} bytes");
            return Err(Plain::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        if let Some((pieces, _)) = &self.rest {
            // A writer that has failed already says why at the end.
            pieces.send(Ok(bytes)).await.ok();
            return Ok(());
        }
        self.first.extend_from_slice(&bytes);
        if self.first.len() > WHOLE_MAX
            && let Some(write) = self.write.take()
        {
            let (pieces, read) = mpsc::channel(body::PIECES_MAX);
            let writing = write(files::Body::Streamed(read));
            pieces.send(Ok(self.first.split().freeze())).await.ok();
            self.rest = Some((pieces, writing));
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Entry, Plain> {
        let writing = match (self.rest.take(), self.write.take()) {
            (Some((pieces, writing)), _) => {
                drop(pieces);
                writing
            }
            (None, Some(write)) => write(files::Body::Whole(self.first.split().freeze())),
            (None, None) => return Err(Plain::bad("the file was written already")),
        };
        match writing.await {
            Ok(written) => Ok(written?),
            Err(_) => {
                let message = "writing the file was interrupted";
                Err(Plain::new(StatusCode::INTERNAL_SERVER_ERROR, message))
            }
        }
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        // Before the channel ends: its end would mean that the file is whole.
        if let Some((_, writing)) = &self.rest {
            writing.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_file() {
        let check = |header: &str, size: u64| asked(header).and_then(|asked| asked.within(size));
        assert_eq!(check("bytes=0-3", 10), Some((0, 3)));
        assert_eq!(check("bytes=5-", 10), Some((5, 9)));
        assert_eq!(check("bytes=5-99", 10), Some((5, 9)));
        assert_eq!(check("bytes=-4", 10), Some((6, 9)));
        assert_eq!(check("bytes=-40", 10), Some((0, 9)));
        for none in ["bytes=10-", "bytes=-0", "bytes=3-1", "lines=1-2", "bytes=a-b"] {
            assert_eq!(check(none, 10), None, "{none}");
        }
        assert_eq!(check("bytes=0-", 0), None);
    }

    #[test]
    fn no_name_breaks_a_header() {
        assert_eq!(disposition("b.txt"), "inline; filename=b.txt");
        assert_eq!(disposition("a\r\nb é\""), "inline; filename*=utf-8''a%0D%0Ab%20%C3%A9%22");
    }

    #[test]
    fn metadata_is_printable_and_bounded() {
        let headers = |name: &str, value: &[u8]| {
            let name: axum::http::HeaderName = name.parse().unwrap();
            HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).unwrap())])
        };
        let found = metadata(&headers("X-Metadata-Key", b"v")).unwrap();
        assert_eq!(found, BTreeMap::from([("key".to_owned(), "v".to_owned())]));
        assert!(metadata(&headers("x-other", b"\xff")).unwrap().is_empty());
        assert!(metadata(&headers("x-metadata-a", b"\xff")).is_err());
        assert!(metadata(&headers("x-metadata-a", &[b'x'; 5_000])).is_err());
        assert!(metadata(&headers(&format!("x-metadata-{}", "k".repeat(247)), b"v")).is_err());
    }
}
