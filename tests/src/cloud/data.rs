//! What happens inside the sandboxes of the test's cloud.

use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;
use sandpit_sandbox::e2b::wire::{envelope, process};
use serde_json::{Value, json};

use super::{World, failed, nothing, said, world};

pub(super) async fn answer(
    shared: &Mutex<World>,
    id: &str,
    port: &str,
    method: &Method,
    path: &str,
    query: &str,
    body: &Bytes,
) -> Response {
    let is_there = world(shared).places.get(id).is_some_and(|place| !place.is_paused);
    if !is_there {
        let message = "The sandbox was not found";
        return said(502, &json!({ "sandboxId": id, "message": message, "code": 502 }));
    }
    match (port, method.as_str(), path) {
        ("49983", "GET", "/health") => nothing(),
        ("49983", "POST", "/files") => {
            let path = path_of(query);
            let mut world = world(shared);
            let place = world.places.get_mut(id).expect("it is there");
            place.files.insert(path.clone(), body.clone());
            said(200, &json!([{ "path": path, "name": path, "type": "file" }]))
        }
        ("49983", "GET", "/files") => {
            let world = world(shared);
            match world.places[id].files.get(&path_of(query)) {
                Some(contents) => Response::new(Body::from(contents.clone())),
                None => failed(404, "path does not exist"),
            }
        }
        ("49983", "POST", "/filesystem.Filesystem/Stat") => stat(&world(shared), id, body),
        ("49983", "POST", "/process.Process/Start") => start(body).await,
        ("49999", "POST", "/execute") => execute(&mut world(shared), body),
        _ => said(501, &json!({ "code": "unimplemented", "message": path })),
    }
}

fn path_of(query: &str) -> String {
    let path = query.split('&').find_map(|pair| pair.strip_prefix("path="));
    decoded(path.unwrap_or_default())
}

/// Undoes the encoding of a query.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let code = std::str::from_utf8(others.get(..2).unwrap_or_default()).ok();
        let code =
            code.filter(|_| *first == b'%').and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn stat(world: &World, id: &str, body: &Bytes) -> Response {
    let path = serde_json::from_slice::<Value>(body).unwrap_or_default()["path"].clone();
    let path = path.as_str().unwrap_or_default();
    match world.places[id].files.get(path) {
        Some(contents) => said(
            200,
            &json!({ "entry": {
                "name": path, "type": "FILE_TYPE_FILE", "path": path,
                "size": contents.len().to_string(), "mode": 420, "permissions": "-rw-r--r--",
                "owner": "user", "group": "user", "modifiedTime": "2026-11-23T12:33:44.284514Z",
            } }),
        ),
        None => said(404, &json!({ "code": "not_found", "message": "file not found" })),
    }
}

/// `effect NAME` is written into the books, `raise NAME` raises, everything else is its own value.
fn execute(world: &mut World, body: &Bytes) -> Response {
    let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let code = body["code"].as_str().unwrap_or_default();
    let mut lines = vec![json!({ "type": "number_of_executions", "execution_count": 1 })];
    match code.split_once(' ') {
        Some(("effect", name)) => {
            world.effects.push(name.to_owned());
            let text = format!("{name}\n");
            lines.push(json!({
                "type": "stdout", "text": text, "timestamp": "2026-11-23T12:33:44.376948Z",
            }));
        }
        Some(("raise", name)) => lines.push(json!({
            "type": "error", "name": name, "value": "as asked", "traceback": "Traceback",
        })),
        _ => lines.push(json!({ "type": "result", "text": code, "is_main_result": true })),
    }
    lines.push(json!({ "type": "end_of_execution" }));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Response::new(Body::from(text))
}

/// A process: `exit N`, `sleep MILLISECONDS`, and everything else is written to standard output.
async fn start(body: &Bytes) -> Response {
    let mut decoder = envelope::Decoder::default();
    decoder.push(body);
    let Ok(Some(envelope::Envelope::Message(request))) = decoder.pull() else {
        return said(400, &json!({ "code": "invalid_argument", "message": "no request" }));
    };
    let request: process::StartRequest = serde_json::from_slice(&request).expect("a request");
    let line = request.process.args.last().cloned().unwrap_or_default();
    let event = |event| envelope::message(&process::StreamResponse { event });
    let mut answer = event(process::Event::Start { pid: 7 }).to_vec();
    let code = match line.split_once(' ') {
        Some(("exit", code)) => code.parse().unwrap_or(1),
        Some(("sleep", millis)) => {
            let millis = millis.parse().unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(millis)).await;
            0
        }
        _ => {
            let stdout = Some(sandpit_sandbox::e2b::wire::Base64(line.into_bytes().into()));
            let data = process::Data { stdout, ..process::Data::default() };
            answer.extend_from_slice(&event(process::Event::Data(data)));
            0
        }
    };
    answer.extend_from_slice(&event(process::Event::End(process::End::exit(code))));
    answer.extend_from_slice(&envelope::end(None));
    let response = Response::builder().header("content-type", "application/connect+json");
    response.body(Body::from(answer)).expect("a response")
}
