//! The code interpreter: cells, what they show, and contexts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sandpit_actors::entry::Held;
use sandpit_messages::id::ExecId;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::e2b::wire::header::ACCESS_TOKEN;
use sandpit_sandbox::e2b::wire::interpreter::{self as wire, Execute, Line, NewContext, Output};
use sandpit_sandbox::e2b::wire::{JSON, ndjson};
use sandpit_sandbox::provider::contexts::{Context, ContextId, Media, Shown};
use sandpit_sandbox::provider::{ExecEvent, ExecRequest, ExecStream, KilledBy, Outcome, Work};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answer::{self, Plain};
use super::{Shared, body, is_secret};

/// Bytes of one cell.
const CODE_MAX: usize = 1 << 20;

/// Silence after which a stream says that it lives.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Where contexts start unless asked otherwise.
const HOME: &str = "/home/user";

/// The language of every context.
const PYTHON: &str = "python";

/// Answers a request to the interpreter of a sandbox that runs.
pub(super) async fn answer(shared: &Arc<Shared>, held: Held, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let words: Vec<_> = path.split('/').skip(1).collect();
    let answered = match (method.as_str(), words.as_slice()) {
        ("GET", ["health"]) => Ok(answer::json(StatusCode::OK, &"OK")),
        ("POST", ["execute"]) => execute(shared, &held, request).await,
        ("POST", ["contexts"]) => create(shared, &held, request).await,
        ("GET", ["contexts"]) => list(shared, &held).await,
        ("POST", ["contexts", id, "restart"]) => change(shared, &held, id, Change::Restart).await,
        ("DELETE", ["contexts", id]) => change(shared, &held, id, Change::Remove).await,
        _ => Err(Plain::not_found("there is no such path")),
    };
    // Failures are plain text here, and one that is about the sandbox says so as everywhere.
    answered.unwrap_or_else(|plain| match plain.status {
        StatusCode::BAD_GATEWAY => {
            let gone =
                sandpit_sandbox::e2b::wire::fault::ProxyError::not_found(held.sandbox.as_str());
            answer::unreachable(&gone)
        }
        status => answer::text(status, plain.message),
    })
}

async fn execute(shared: &Arc<Shared>, held: &Held, request: Request) -> Result<Response, Plain> {
    let expected = shared.tokens.access(held.sandbox);
    if !is_secret(request.headers(), ACCESS_TOKEN, &expected) {
        return Err(Plain::unauthorized("the access token of this sandbox is needed"));
    }
    let ask: Execute = body::json(request).await?;
    if ask.code.len() > CODE_MAX {
        let message = format!("the code is {} bytes, more than {CODE_MAX}", ask.code.len());
        return Err(Plain::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    if ask.context_id.is_some() && ask.language.is_some() {
        return Err(Plain::bad("context_id and language exclude each other"));
    }
    let asked = ask.context_id.filter(|id| !id.is_empty());
    if asked.is_none() {
        language(ask.language.as_deref())?;
    }
    let context = match asked {
        None => None,
        Some(id) => known(shared, held, ContextId(id)).await?,
    };
    let cwd = context.as_ref().map(|(_, cwd)| cwd.clone());
    let request = ExecRequest {
        exec: ExecId::minted(rand::random()),
        work: Work::Cell { code: ask.code, params: None, context: context.map(|(id, _)| id) },
        files: Default::default(),
        env: ask.env_vars.unwrap_or_default(),
        cwd,
        stdin: Bytes::new(),
        // Its reader stops it, and the end of its sandbox; it has no time limit of its own.
        time_max: shared.lifetime_max + shared.paused_retention,
    };
    let running = shared.provider().exec(held.sandbox, request).await?;
    let (lines, read) = mpsc::channel(body::PIECES_MAX);
    let telling = Telling { shared: Arc::clone(shared), lines };
    tokio::spawn(telling.tell(running));
    Ok(answer::with_type(StatusCode::OK, JSON, body::of_pieces_or_cut(read)))
}

/// The only language there is; another one is refused by its name.
fn language(asked: Option<&str>) -> Result<(), Plain> {
    match asked.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | PYTHON | "python3") => Ok(()),
        Some(other) => {
            let other: String = other.chars().take(32).collect();
            let hint = "cells are Python here; run other programs with commands";
            Err(Plain::missing(format!("not supported here: language {other}; {hint}")))
        }
    }
}

/// The context behind an id, and where it started; `None` is the default one.
async fn known(
    shared: &Shared,
    held: &Held,
    id: ContextId,
) -> Result<Option<(ContextId, String)>, Plain> {
    let all = shared.provider().contexts()?.list(held.sandbox).await?;
    match all.into_iter().find(|context| context.id == id) {
        Some(context) if context.is_default => Ok(None),
        Some(context) => Ok(Some((context.id, context.cwd))),
        None => Err(Plain::not_found(format!("context {id} not found"))),
    }
}

/// Tells what a cell does, line by line.
struct Telling {
    shared: Arc<Shared>,
    lines: mpsc::Sender<Result<Bytes, io::Error>>,
}

/// Whoever read is gone.
struct HungUp;

impl Telling {
    async fn tell(self, mut running: ExecStream) {
        let (mut out, mut err) = (Utf8::default(), Utf8::default());
        loop {
            let event = tokio::select! {
                event = timeout(KEEPALIVE, running.next()) => event,
                // Dropped with the stream, the cell is interrupted.
                () = self.lines.closed() => return,
            };
            let told = match event {
                Err(_) => self.say(&Line::Keepalive).await,
                Ok(Some(ExecEvent::Started { count, .. })) => {
                    // A provider that counts none has begun one at least.
                    let execution_count = count.unwrap_or(1);
                    self.say(&Line::NumberOfExecutions { execution_count }).await
                }
                Ok(Some(ExecEvent::Stdout(bytes))) => {
                    self.write(Line::Stdout, out.take(&bytes)).await
                }
                Ok(Some(ExecEvent::Stderr(bytes))) => {
                    self.write(Line::Stderr, err.take(&bytes)).await
                }
                Ok(Some(ExecEvent::Shown(shown))) => {
                    self.say(&Line::Result(Box::new(result(shown)))).await
                }
                Ok(Some(ExecEvent::Raised { name, value, traceback })) => {
                    self.say(&Line::Error { name, value, traceback }).await
                }
                Ok(Some(ExecEvent::Done(done))) => {
                    let rests = [(Line::Stdout as fn(Output) -> Line, out), (Line::Stderr, err)];
                    for (line, rest) in rests {
                        if self.write(line, rest.rest()).await.is_err() {
                            return;
                        }
                    }
                    // Whoever is gone needs no end.
                    self.end(done.outcome).await.ok();
                    return;
                }
                Ok(None) => {
                    self.cut().await;
                    return;
                }
            };
            if told.is_err() {
                return;
            }
        }
    }

    async fn say(&self, line: &Line) -> Result<(), HungUp> {
        self.lines.send(Ok(ndjson::line(line))).await.map_err(|_| HungUp)
    }

    async fn write(&self, line: fn(Output) -> Line, text: String) -> Result<(), HungUp> {
        if text.is_empty() {
            return Ok(());
        }
        self.say(&line(Output { text, timestamp: self.shared.now() })).await
    }

    async fn end(&self, outcome: Outcome) -> Result<(), HungUp> {
        if outcome == Outcome::Lost {
            self.cut().await;
            return Ok(());
        }
        if let Some((name, value)) = broken_by(outcome) {
            let (name, value) = (name.to_owned(), value.to_owned());
            self.say(&Line::Error { name, value, traceback: String::new() }).await?;
        }
        self.say(&Line::EndOfExecution).await
    }

    /// The sandbox is gone: an answer without its end says so to whoever reads it.
    async fn cut(&self) {
        let gone = io::Error::other("the sandbox ended");
        self.lines.send(Err(gone)).await.ok();
    }
}

/// What is told of a cell that neither ended nor raised by itself.
fn broken_by(outcome: Outcome) -> Option<(&'static str, &'static str)> {
    match outcome {
        Outcome::Ok | Outcome::Raised | Outcome::Lost => None,
        Outcome::Killed(KilledBy::Memory) => {
            Some(("OutOfMemory", "the cell used more memory than its sandbox has"))
        }
        Outcome::Killed(KilledBy::Output) => {
            Some(("KernelDied", "the cell wrote more than is ever read"))
        }
        Outcome::Killed(KilledBy::Timeout | KilledBy::Protocol)
        | Outcome::Exit(_)
        | Outcome::Signal(_) => {
            Some(("KernelDied", "the interpreter ended; its variables are gone"))
        }
        Outcome::Interrupted { timed_out: true } => {
            Some(("TimeoutError", "the time of the cell was over"))
        }
        // Its reader is there: somebody restarted the context.
        Outcome::Interrupted { timed_out: false }
        | Outcome::Killed(KilledBy::Interrupt | KilledBy::Restart) => {
            Some(("ContextRestarting", "the context was restarted while the cell ran"))
        }
    }
}

/// What a cell shows, as SDKs read it.
fn result(shown: Shown) -> wire::Shown {
    let mut told = wire::Shown { is_main_result: shown.is_main, ..wire::Shown::default() };
    let mut extra = Map::new();
    for (kind, media) in shown.data {
        let text = match media {
            Media::Text(text) => text,
            Media::Bytes(bytes) => STANDARD.encode(bytes),
        };
        let json = |text: &str| {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
        };
        match kind.as_str() {
            "text/plain" => told.text = Some(unquoted(text)),
            "text/html" => told.html = Some(text),
            "text/markdown" => told.markdown = Some(text),
            "image/svg+xml" => told.svg = Some(text),
            "image/png" => told.png = Some(text),
            "image/jpeg" => told.jpeg = Some(text),
            "application/pdf" => told.pdf = Some(text),
            "text/latex" => told.latex = Some(text),
            "application/json" => told.json = Some(json(&text)),
            "application/javascript" => told.javascript = Some(text),
            "e2b/data" => told.data = Some(json(&text)),
            "e2b/chart" => told.chart = Some(json(&text)),
            _ => drop(extra.insert(kind, Value::String(text))),
        }
    }
    told.extra = (!extra.is_empty()).then_some(Value::Object(extra));
    told
}

/// One pair of quotes around a text gone, as E2B does it.
fn unquoted(text: String) -> String {
    let within = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    within('\'').or_else(|| within('"')).map(str::to_owned).unwrap_or(text)
}

/// Bytes become text as they come; a character that is cut in two waits for its rest.
#[derive(Default)]
struct Utf8 {
    rest: Vec<u8>,
}

impl Utf8 {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(_) => self.rest.len(),
            // Only a character that may still become one is worth waiting for.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => {
                let tail = self.rest.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
                let is_begun = incomplete(&self.rest[self.rest.len() - tail..]);
                self.rest.len() - if is_begun { tail } else { 0 }
            }
        };
        let kept = self.rest.split_off(whole);
        let taken = std::mem::replace(&mut self.rest, kept);
        String::from_utf8_lossy(&taken).into_owned()
    }

    fn rest(self) -> String {
        String::from_utf8_lossy(&self.rest).into_owned()
    }
}

/// Whether bytes are the beginning of a character.
fn incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

async fn create(shared: &Shared, held: &Held, request: Request) -> Result<Response, Plain> {
    let ask: NewContext = body::json(request).await?;
    language(ask.language.as_deref())?;
    let cwd = ask.cwd.filter(|cwd| !cwd.is_empty());
    let made = shared.provider().contexts()?.create(held.sandbox, cwd.as_deref()).await?;
    Ok(answer::json(StatusCode::OK, &told(made)))
}

async fn list(shared: &Shared, held: &Held) -> Result<Response, Plain> {
    let all = shared.provider().contexts()?.list(held.sandbox).await?;
    let all: Vec<_> = all.into_iter().map(told).collect();
    Ok(answer::json(StatusCode::OK, &all))
}

fn told(context: Context) -> wire::Context {
    let Context { id, language, cwd, .. } = context;
    let language = if language.is_empty() { PYTHON.to_owned() } else { language };
    let cwd = if cwd.is_empty() { HOME.to_owned() } else { cwd };
    wire::Context { id: id.0, language, cwd }
}

#[derive(Clone, Copy)]
enum Change {
    Restart,
    Remove,
}

async fn change(shared: &Shared, held: &Held, id: &str, to: Change) -> Result<Response, Plain> {
    let id = ContextId(super::route::decoded(id));
    let contexts = shared.provider().contexts()?;
    let changed = match to {
        Change::Restart => contexts.restart(held.sandbox, &id).await,
        Change::Remove => contexts.remove(held.sandbox, &id).await,
    };
    changed.map_err(|error| match error {
        ProviderError::NoSuchContext(id) => Plain::not_found(format!("context {id} not found")),
        error => error.into(),
    })?;
    Ok(answer::json(StatusCode::OK, &Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_of_quotes_goes() {
        for (text, expected) in [
            ("'abc'", "abc"),
            ("\"a\"", "a"),
            ("''a''", "'a'"),
            ("42", "42"),
            ("'", "'"),
            ("'a\"", "'a\""),
        ] {
            assert_eq!(unquoted(text.to_owned()), expected);
        }
    }

    #[test]
    fn a_character_cut_in_two_waits_for_its_rest() {
        let text = "aé\u{2028}📈z";
        for at in 0..text.len() {
            let mut utf8 = Utf8::default();
            let (one, two) = text.as_bytes().split_at(at);
            assert_eq!(utf8.take(one) + &utf8.take(two), text, "cut at {at}");
            assert_eq!(utf8.rest(), "");
        }
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.take(b"a\xffb\xc3"), "a\u{fffd}b");
        assert_eq!(utf8.take(b"\xa9"), "é");
        assert_eq!(utf8.take(b"\xc3"), "");
        assert_eq!(utf8.rest(), "\u{fffd}");
    }

    #[test]
    fn each_representation_has_its_place() {
        let text = |text: &str| Media::Text(text.to_owned());
        let data = [
            ("text/plain", text("'x'")),
            ("image/png", Media::Bytes(Bytes::from_static(b"png"))),
            ("application/json", text("{\"a\": 1}")),
            ("application/x-other", text("o")),
        ];
        let data = data.into_iter().map(|(kind, media)| (kind.to_owned(), media)).collect();
        let told = result(Shown { is_main: true, data });
        assert_eq!(told.text.as_deref(), Some("x"));
        assert_eq!(told.png.as_deref(), Some("cG5n"));
        assert_eq!(told.json, Some(serde_json::json!({"a": 1})));
        assert_eq!(told.extra, Some(serde_json::json!({"application/x-other": "o"})));
    }

    #[test]
    fn other_languages_are_refused_by_name() {
        assert!(language(None).is_ok() && language(Some("Python")).is_ok());
        let refused = language(Some("js")).map_err(|plain| (plain.status, plain.message));
        assert!(refused.is_err_and(|(status, why)| status == 501 && why.contains("js")));
    }
}
