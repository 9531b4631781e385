//! Bytes that the official SDKs and a logging server exchanged, read and written.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::control::*;
use super::envelope::{self, BadEnvelope, Decoder, ENVELOPE_MAX, Envelope};
use super::fault::*;
use super::filesystem as fs;
use super::interpreter::{self as interpreter, Line};
use super::multipart::{self, Piece};
use super::ndjson;
use super::process::{self as process, Event};
use super::signature::{Operation, Signed};
use super::{Base64, Timestamp};

fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// What was captured is read, and written as the same JSON again.
fn both<T: Serialize + DeserializeOwned>(text: &str) -> T {
    let value: T = read(text);
    let again = serde_json::to_value(&value).expect("it is JSON");
    assert_eq!(again, read::<Value>(text));
    value
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Head and payload as the transcript shows them.
fn envelope(head: [u8; 5], payload: &str) -> Vec<u8> {
    [&head[..], payload.as_bytes()].concat()
}

#[test]
fn a_create_of_either_route_and_language_is_read() {
    let newest = both::<NewSandbox>(
        r#"{"templateID":"code-interpreter-v1","timeout":120,"metadata":{"team":"alpha"},"envVars":{"FOO":"bar"}}"#,
    );
    assert_eq!(newest.metadata, Some(map(&[("team", "alpha")])));
    assert_eq!(newest.env_vars, Some(map(&[("FOO", "bar")])));
    let oldest = both::<NewSandbox>(
        r#"{"templateID":"code-interpreter-v1","timeout":120,"secure":true,"allow_internet_access":true,"metadata":{"a":"b"},"envVars":{"FOO":"bar"}}"#,
    );
    assert_eq!((oldest.secure, oldest.allow_internet_access), (Some(true), Some(true)));
    let javascript: NewSandbox = both(
        r#"{"templateID":"code-interpreter-v1","metadata":{"team":"alpha"},"envVars":{"FOO":"bar"},"timeout":120}"#,
    );
    assert_eq!(javascript, newest);
    let network: NewSandbox = both(
        r#"{"templateID":"code-interpreter-v1","autoPause":true,"autoResume":{"enabled":true},"allow_internet_access":false,"network":{"allowOut":["1.1.1.1"],"denyOut":["0.0.0.0/0"]},"metadata":{},"envVars":{}}"#,
    );
    assert_eq!(network.auto_resume, Some(AutoResume { enabled: true }));
    assert_eq!(network.network.and_then(|net| net.deny_out), Some(json!(["0.0.0.0/0"])));
}

#[test]
fn sandboxes_are_read_and_written() {
    let made: Sandbox = both(
        r#"{"sandboxID": "isb00000000000000001", "templateID": "code-interpreter-v1", "clientID": "local", "envdVersion": "0.6.7", "envdAccessToken": "ea_isb00000000000000001", "domain": "localhost:PORT"}"#,
    );
    assert_eq!(made.envd_access_token.as_deref(), Some("ea_isb00000000000000001"));
    let listed: Vec<SandboxDetail> = both(
        r#"[{"sandboxID": "isb00000000000000002", "templateID": "base", "clientID": "local", "startedAt": "2026-11-23T12:33:44.407933Z", "endAt": "2026-11-23T12:38:44.415472Z", "cpuCount": 2, "memoryMB": 512, "diskSizeMB": 1024, "envdVersion": "0.6.7", "state": "running", "metadata": {}}]"#,
    );
    assert_eq!(listed[0].state, SandboxState::Running);
    let lived = listed[0].end_at.since(listed[0].started_at);
    assert_eq!(lived.as_micros(), 300_007_539);
    let metrics: Vec<SandboxMetric> = both(
        r#"[{"timestamp": "2026-11-23T12:33:44.405504Z", "timestampUnix": 1795437224, "cpuCount": 2, "cpuUsedPct": 1.5, "memUsed": 1000, "memTotal": 2000, "memCache": 10, "diskUsed": 5, "diskTotal": 50}]"#,
    );
    assert_eq!(metrics[0].timestamp.seconds(), metrics[0].timestamp_unix);
    assert_eq!(both::<TimeoutBody>(r#"{"timeout":60}"#).timeout, Some(60));
    assert_eq!(both::<PauseBody>("{}"), PauseBody::default());
    assert!(!both::<TemplateAlias>(r#"{"templateID": "t1", "public": false}"#).public);
}

#[test]
fn times_have_six_digits_and_are_read_with_any() {
    let time = Timestamp::parse("2026-11-23T12:33:41.825100Z").expect("a time");
    assert_eq!(time.to_string(), "2026-11-23T12:33:41.825100Z");
    let check = |text: &str| Timestamp::parse(text).map(|time| time.to_string());
    assert_eq!(check("2026-11-23T13:33:41.8251001+01:00"), Ok(time.to_string()));
    assert_eq!(check("2026-02-28T23:59:59-00:30"), Ok("2026-03-01T00:29:59.000000Z".to_owned()));
    for wrong in ["", "2026-11-23", "2026-02-30T00:00:00Z", "1969-12-31T23:59:59Z", "x"] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn starting_a_process_is_read() {
    let run: process::StartRequest = both(
        r#"{"process":{"cmd":"/bin/bash","args":["-l","-c","echo hi $FOO; echo err >&2"]},"stdin":false}"#,
    );
    assert_eq!((run.process.cmd.as_str(), run.stdin), ("/bin/bash", Some(false)));
    let there: process::StartRequest = both(
        r#"{"process":{"cmd":"/bin/bash","args":["-l","-c","pwd"],"envs":{"A":"1"},"cwd":"/home/user"},"stdin":false}"#,
    );
    assert_eq!(there.process.cwd.as_deref(), Some("/home/user"));
    let terminal: process::StartRequest = both(
        r#"{"process":{"cmd":"/bin/bash","args":["-i","-l"],"envs":{"TERM":"xterm-256color","LANG":"C.UTF-8","LC_ALL":"C.UTF-8"}},"pty":{"size":{"cols":80,"rows":24}}}"#,
    );
    let size = terminal.pty.and_then(|pty| pty.size);
    assert_eq!(size, Some(process::Size { cols: 80, rows: 24 }));
    assert_eq!(terminal.stdin, None);
}

#[test]
fn what_is_done_to_processes_is_read() {
    let input: process::SendInputRequest =
        both(r#"{"process":{"pid":24549},"input":{"stdin":"aGVsbG8K"}}"#);
    assert_eq!(input.process.pid, Some(24_549));
    assert_eq!(input.input.stdin, Some(Base64(Bytes::from_static(b"hello\n"))));
    let typed: process::SendInputRequest =
        both(r#"{"process":{"pid":24617},"input":{"pty":"ZXhpdAo="}}"#);
    assert_eq!(typed.input.pty, Some(Base64(Bytes::from_static(b"exit\n"))));
    let kill: process::SendSignalRequest =
        both(r#"{"process":{"pid":24554},"signal":"SIGNAL_SIGKILL"}"#);
    assert_eq!(kill.signal, process::Signal::Kill);
    assert_eq!(
        read::<process::SendSignalRequest>(r#"{"signal":15}"#).signal,
        process::Signal::Term
    );
    both::<process::UpdateRequest>(
        r#"{"process":{"pid":24617},"pty":{"size":{"cols":90,"rows":30}}}"#,
    );
    let list: process::ListResponse = both(
        r#"{"processes": [{"config": {"cmd": "/bin/bash", "args": ["-l", "-c", "cat"]}, "pid": 24549}]}"#,
    );
    assert_eq!(list.processes[0].pid, 24_549);
}

#[test]
fn a_client_streams_input_in_envelopes() {
    let sent = [
        envelope([0, 0, 0, 0, 0x23], r#"{"start":{"process":{"pid":24549}}}"#),
        envelope([0, 0, 0, 0, 0x23], r#"{"data":{"input":{"stdin":"YQo="}}}"#),
        envelope([0, 0, 0, 0, 0x23], r#"{"data":{"input":{"stdin":"Ygo="}}}"#),
    ]
    .concat();
    let mut decoder = Decoder::default();
    decoder.push(&sent);
    let mut pids = Vec::new();
    let mut typed = Vec::new();
    while let Ok(Some(Envelope::Message(json))) = decoder.pull() {
        match serde_json::from_slice(&json).expect("a message") {
            process::StreamInputRequest::Start(start) => pids.extend(start.process.pid),
            process::StreamInputRequest::Data { input } => {
                typed.extend_from_slice(&input.stdin.expect("standard input").0);
            }
            process::StreamInputRequest::Keepalive {} => {}
        }
    }
    assert_eq!((pids, typed.as_slice()), (vec![24_549], &b"a\nb\n"[..]));
    assert!(decoder.is_between());
}

/// The answer of `commands.run`, as it was captured.
fn answered() -> Vec<u8> {
    [
        envelope([0, 0, 0, 0, 0x24], r#"{"event": {"start": {"pid": 24524}}}"#),
        envelope([0, 0, 0, 0, 0x2f], r#"{"event": {"data": {"stdout": "aGkgYmFyCg=="}}}"#),
        envelope([0, 0, 0, 0, 0x2b], r#"{"event": {"data": {"stderr": "ZXJyCg=="}}}"#),
        envelope(
            [0, 0, 0, 0, 0x3f],
            r#"{"event": {"end": {"exited": true, "status": "exit status 0"}}}"#,
        ),
        envelope([2, 0, 0, 0, 2], "{}"),
    ]
    .concat()
}

fn events(pieces: &[&[u8]]) -> Result<Vec<Event>, BadEnvelope> {
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(envelope) = decoder.pull()? {
            match envelope {
                Envelope::Message(json) => {
                    let said: process::StreamResponse = serde_json::from_slice(&json).expect("it");
                    events.push(said.event);
                }
                Envelope::End(error) => assert_eq!(error, None),
            }
        }
    }
    decoder.finish().map(|()| events)
}

#[test]
fn a_stream_is_read_wherever_it_is_cut() {
    let bytes = answered();
    let whole = events(&[&bytes]).expect("a stream");
    assert_eq!(
        whole,
        [
            Event::Start { pid: 24_524 },
            Event::Data(process::Data {
                stdout: Some(Base64(Bytes::from_static(b"hi bar\n"))),
                ..process::Data::default()
            }),
            Event::Data(process::Data {
                stderr: Some(Base64(Bytes::from_static(b"err\n"))),
                ..process::Data::default()
            }),
            Event::End(process::End::exit(0)),
        ]
    );
    for at in 0..bytes.len() {
        assert_eq!(events(&[&bytes[..at], &bytes[at..]]).as_ref(), Ok(&whole), "cut at {at}");
        assert_eq!(events(&[&bytes[..at]]), Err(BadEnvelope::Truncated), "ends at {at}");
    }
}

#[test]
fn ends_of_processes_look_as_they_were_seen() {
    let three: process::StreamResponse = both(
        r#"{"event": {"end": {"exited": true, "status": "exit status 3", "exitCode": 3, "error": "exit status 3"}}}"#,
    );
    assert_eq!(three.event, Event::End(process::End::exit(3)));
    let zero: process::StreamResponse =
        both(r#"{"event": {"end": {"exited": true, "status": "exit status 0"}}}"#);
    assert_eq!(zero.event, Event::End(process::End::exit(0)));
    let killed = process::End::signal(9);
    assert_eq!((killed.exit_code, killed.status.as_str()), (-1, "signal: killed"));
    for number in 1..64 {
        assert_eq!(process::End::signal(number).signal_number(), Some(number));
    }
}

#[test]
fn errors_of_streams_come_in_the_last_envelope() {
    let captured =
        r#"{"error": {"code": "not_found", "message": "process with pid 999999 not found"}}"#;
    let mut decoder = Decoder::default();
    decoder.push(&envelope([2, 0, 0, 0, 0x50], captured));
    let error = ConnectError::new(Code::NotFound, "process with pid 999999 not found");
    assert_eq!(decoder.pull(), Ok(Some(Envelope::End(Some(error.clone())))));
    let ours = envelope::end(Some(error));
    assert_eq!(ours[0], 2);
    assert_eq!(
        read::<Value>(std::str::from_utf8(&ours[5..]).expect("text")),
        read::<Value>(captured)
    );
    assert_eq!(envelope::end(None).as_ref(), [2, 0, 0, 0, 2, b'{', b'}']);
    let pid = process::StreamResponse { event: Event::Start { pid: 7 } };
    let expected = envelope([0, 0, 0, 0, 0x1d], r#"{"event":{"start":{"pid":7}}}"#);
    assert_eq!(envelope::message(&pid).as_ref(), expected);
}

#[test]
fn what_is_no_envelope_is_refused() {
    let check = |bytes: &[u8]| {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        decoder.pull()
    };
    assert_eq!(check(&[1, 0, 0, 0, 0]), Err(BadEnvelope::Compressed));
    assert_eq!(check(&[3, 0, 0, 0, 0]), Err(BadEnvelope::Compressed));
    assert_eq!(check(&[4, 0, 0, 0, 0]), Err(BadEnvelope::Flags(4)));
    let [a, b, c, d] = u32::try_from(ENVELOPE_MAX + 1).expect("small").to_be_bytes();
    let too_large = BadEnvelope::TooLarge { bytes: ENVELOPE_MAX + 1 };
    assert_eq!(check(&[0, a, b, c, d]), Err(too_large));
    assert_eq!(check(&[2, 0, 0, 0, 0]), Ok(Some(Envelope::End(None))));
    assert!(matches!(check(&[2, 0, 0, 0, 1, b'x']), Err(BadEnvelope::End(_))));
}

#[test]
fn files_are_read_and_written() {
    let entry: fs::EntryResponse = both(
        r#"{"entry": {"name": "b.txt", "type": "FILE_TYPE_FILE", "path": "/home/user/a/b.txt", "size": "5", "mode": 420, "permissions": "-rw-r--r--", "owner": "user", "group": "user", "modifiedTime": "2026-11-23T12:33:44.285354Z"}}"#,
    );
    assert_eq!((entry.entry.size, entry.entry.mode), (5, 0o644));
    assert_eq!(both::<fs::ListDirRequest>(r#"{"path":"/home/user","depth":1}"#).depth, 1);
    both::<fs::MoveRequest>(r#"{"source":"m1.txt","destination":"m3.txt"}"#);
    assert_eq!(both::<fs::Watcher>(r#"{"watcherId": "w1"}"#).watcher_id, "w1");
    let events: fs::WatcherEvents =
        both(r#"{"events": [{"name": "x.txt", "type": "EVENT_TYPE_CREATE"}]}"#);
    assert_eq!(events.events[0].kind, fs::EventType::Create);
    assert_eq!(both::<fs::WatchResponse>(r#"{"start": {}}"#), fs::WatchResponse::Start {});
    assert_eq!(both::<fs::WatchResponse>(r#"{"keepalive": {}}"#), fs::WatchResponse::Keepalive {});
    both::<fs::WatchResponse>(r#"{"filesystem": {"name": "x.txt", "type": "EVENT_TYPE_CREATE"}}"#);
    both::<Vec<fs::Written>>(
        r#"[{"path": "/home/user/m1.txt", "name": "m1.txt", "type": "file"}, {"path": "/var/m2.bin", "name": "m2.bin", "type": "file"}]"#,
    );
    let numbers: fs::Entry = read(r#"{"type":2,"size":9}"#);
    assert_eq!((numbers.kind, numbers.size), (fs::FileType::Directory, 9));
}

#[test]
fn failures_look_as_they_were_seen_and_match() {
    let gone: ProxyError = both(
        r#"{"sandboxId": "isb00000000000000001", "message": "The sandbox was not found", "code": 502}"#,
    );
    assert_eq!(gone, ProxyError::not_found("isb00000000000000001"));
    assert!(gone.is_not_found());
    let closed: ProxyError = both(
        r#"{"sandboxId":"<id>","message":"The sandbox is running but port is not open","port":8080,"code":502}"#,
    );
    assert_eq!(closed, ProxyError::port_closed("<id>", 8_080));
    assert!(!closed.is_not_found() && closed.message.contains(PORT_CLOSED));
    let unknown: PlainError = both(r#"{"code": 404, "message": "template 'nope' not found"}"#);
    assert_eq!(unknown.code, 404);
    let process: ConnectError = both(r#"{"code": "not_found", "message": "process not found"}"#);
    assert_eq!((process.code, process.code.http_status()), (Code::NotFound, 404));
    let exists: ConnectError =
        both(r#"{"code": "already_exists", "message": "directory already exists: d1"}"#);
    assert_eq!(exists.code.http_status(), 409);
    assert_eq!(read::<ConnectError>(r#"{"code":"what_is_this"}"#).code, Code::Unknown);
    let quota = PlainError {
        code: 429,
        message: format!("the {QUOTA} sandboxes, 20, is reached"),
        error_code: None,
    };
    assert!(quota.message.contains("maximum number of concurrent sandboxes"));
}

#[test]
fn an_execution_is_read_and_its_lines_are_written_in_ascii() {
    let asked: interpreter::Execute = read(
        r#"{"code":"import sys\nx=41\nprint(\"out\")\nprint(\"e\",file=sys.stderr)\nx+1","context_id":null,"language":null,"env_vars":{"K":"V"}}"#,
    );
    assert_eq!((asked.context_id, asked.env_vars), (None, Some(map(&[("K", "V")]))));
    let lines = [
        r#"{"type": "number_of_executions", "execution_count": 1}"#,
        r#"{"type": "stdout", "text": "out\n", "timestamp": "2026-11-23T12:33:44.376948Z"}"#,
        r#"{"type": "stderr", "text": "e\n", "timestamp": "2026-11-23T12:33:44.377022Z"}"#,
        r#"{"type": "keepalive"}"#,
        r#"{"type": "result", "text": "42", "is_main_result": true, "extra": {}}"#,
        r#"{"type": "error", "name": "ZeroDivisionError", "value": "division by zero", "traceback": "Traceback ...\nZeroDivisionError('division by zero')"}"#,
        r#"{"type": "end_of_execution"}"#,
    ];
    let said = lines.map(both::<Line>);
    assert!(matches!(&said[4], Line::Result(shown) if shown.text.as_deref() == Some("42")));
    assert_eq!(read::<Line>(r#"{"type":"chart_of_the_day","x":1}"#), Line::Unknown);
    both::<interpreter::NewContext>(r#"{"language":"python","cwd":"/var"}"#);
    both::<interpreter::Context>(r#"{"id": "ctx0", "language": "python", "cwd": "/var"}"#);
    let text = "a\u{85}b\u{2028}c\u{1f4c8}d\u{7f}\"\\\n\u{1}".to_owned();
    let line = ndjson::line(&Line::Stdout(interpreter::Output {
        text: text.clone(),
        timestamp: Timestamp::default(),
    }));
    assert!(line.is_ascii() && line.ends_with(b"}\n"));
    let Line::Stdout(read) = serde_json::from_slice(&line).expect("JSON") else {
        panic!("it was standard output");
    };
    assert_eq!(read.text, text);
}

#[test]
fn signatures_are_those_that_the_sdks_print() {
    let check = |path, operation, username, token, expiration, expected: &str| {
        let signed = Signed { path, operation, username, expiration };
        assert_eq!(signed.by(token), expected);
        assert!(signed.is_by(token, expected));
        assert!(!signed.is_by("another", expected) && !signed.is_by(token, "v1_"));
    };
    let read = Operation::Read;
    check("a/b.txt", read, "", "t", None, "v1_4zWqgqwgTjG/xzXbRP0CzU8Gxgu5tk52t1IN/HW4qks");
    check(
        "q.txt",
        Operation::Write,
        "root",
        "t",
        Some(1_795_439_803),
        "v1_TxratNXD9D9F3Dvogd+s827mvXyLGmlnyCABykT50yI",
    );
    let token = "tok_0123456789abcdef";
    check("a/b.txt", read, "", token, None, "v1_Iwk3GrW6yWJOaPPDUyrWhAHCM4ofC6SOVqUbngs+VPo");
    check(
        "/home/user/q.txt",
        Operation::Write,
        "root",
        token,
        Some(1_800_000_000),
        "v1_eAJ0VwtGQ4qhZLFHpn9vtAtHvigiKHuTBt8gKWD9/sU",
    );
}

/// The upload of several files, as it was captured.
const UPLOAD: (&str, &[u8]) = (
    "multipart/form-data; boundary=d246af81d31e89fb701e61efde5fa85b",
    b"--d246af81d31e89fb701e61efde5fa85b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"m1.txt\"\r\nContent-Type: text/plain\r\n\r\n1\r\n--d246af81d31e89fb701e61efde5fa85b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/var/m2.bin\"\r\nContent-Type: application/octet-stream\r\n\r\n\x00\x01\r\n--d246af81d31e89fb701e61efde5fa85b--\r\n",
);

/// Names and contents of all parts, if they are whole.
fn parts(content_type: &str, pieces: &[&[u8]]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut decoder = multipart::Decoder::of(content_type).expect("a boundary");
    let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(piece) = decoder.pull().ok()? {
            match piece {
                Piece::Part { filename, .. } => parts.push((filename?, Vec::new())),
                Piece::Data(bytes) => parts.last_mut()?.1.extend_from_slice(&bytes),
                Piece::PartEnd | Piece::End => {}
            }
        }
    }
    decoder.is_whole().then_some(parts)
}

#[test]
fn uploaded_files_are_told_apart_wherever_they_are_cut() {
    let (content_type, bytes) = UPLOAD;
    let whole = parts(content_type, &[bytes]).expect("two files");
    let expected = [("m1.txt".to_owned(), b"1".to_vec()), ("/var/m2.bin".to_owned(), vec![0, 1])];
    assert_eq!(whole, expected);
    for at in 0..bytes.len() {
        assert_eq!(parts(content_type, &[&bytes[..at], &bytes[at..]]), Some(whole.clone()));
    }
    let kind = "multipart/form-data; boundary=\"b\"";
    let quoted = b"--b\r\ncontent-disposition: form-data; name=file; filename=\"a\\\"\\\\%22 \xc3\xa9\"\r\n\r\n\r\n--b--";
    assert_eq!(parts(kind, &[quoted]), Some(vec![("a\"\\%22 é".to_owned(), Vec::new())]));
    assert!(multipart::Decoder::of("application/octet-stream").is_none());
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoders(bytes in vec(any::<u8>(), 0..300)) {
        let mut envelopes = Decoder::default();
        envelopes.push(&bytes);
        while let Ok(Some(_)) = envelopes.pull() {}
        let mut lines = ndjson::Decoder::default();
        lines.push(&bytes);
        while let Ok(Some(_)) = lines.pull() {}
        let mut parts = multipart::Decoder::of("multipart/form-data; boundary=b").expect("one");
        parts.push(&bytes);
        while let Ok(Some(_)) = parts.pull() {}
    }

    #[test]
    fn what_is_put_into_envelopes_comes_out(
        texts in vec(any::<String>(), 1..8),
        cut in 1..64_usize,
    ) {
        let mut bytes: Vec<u8> = texts.iter().flat_map(envelope::message).collect();
        bytes.extend(envelope::end(None));
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(cut) {
            decoder.push(piece);
            while let Some(Envelope::Message(json)) = decoder.pull().expect("well formed") {
                out.push(serde_json::from_slice::<String>(&json).expect("a text"));
            }
        }
        prop_assert_eq!(decoder.finish(), Ok(()));
        prop_assert_eq!(out, texts);
    }

    #[test]
    fn any_text_survives_a_line_of_ascii(texts in vec(any::<String>(), 1..8), cut in 1..64_usize) {
        let bytes: Vec<u8> = texts.iter().flat_map(ndjson::line).collect();
        prop_assert!(bytes.is_ascii());
        prop_assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), texts.len());
        let mut decoder = ndjson::Decoder::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(cut) {
            decoder.push(piece);
            while let Some(line) = decoder.pull().expect("short") {
                out.push(serde_json::from_slice::<String>(&line).expect("a text"));
            }
        }
        prop_assert_eq!(out, texts);
    }

    #[test]
    fn any_time_reads_back_the_same(micros in 0..253_402_300_799_999_999_u64) {
        let time = Timestamp(micros);
        prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
    }
}
