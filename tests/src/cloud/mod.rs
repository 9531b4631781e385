//! A cloud of the test's own: speaks enough of the E2B API to be worked with, and keeps true books
//! of what was done in it. Nothing is isolated in it, and nothing runs: a cell is one of a few
//! words.

mod data;
pub mod proxy;
pub mod rig;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The key of the only account.
pub const KEY: &str = "e2b_00112233445566778899aabbccddeeff00112233";

/// The template of all sandboxes.
pub const TEMPLATE: &str = "code-interpreter-v1";

/// Bytes of the longest request.
const REQUEST_MAX: usize = 16 << 20;

/// A cloud on loopback. It ends with this.
#[derive(Debug)]
pub struct Cloud {
    address: SocketAddr,
    world: Arc<Mutex<World>>,
    serving: JoinHandle<()>,
}

/// What is true in it.
#[derive(Debug, Default)]
struct World {
    name: String,
    /// Whether the same key twice is the same sandbox.
    honors_keys: bool,
    /// Sandboxes on a page of a list.
    page: usize,
    made: u64,
    places: BTreeMap<String, Place>,
    keys: BTreeMap<String, String>,
    /// Requests that got here, by what they ask for.
    asked: BTreeMap<String, u64>,
    /// What cells did, in order.
    effects: Vec<String>,
}

/// A sandbox.
#[derive(Clone, Debug)]
struct Place {
    template: String,
    metadata: Value,
    is_paused: bool,
    files: BTreeMap<String, Bytes>,
}

impl Cloud {
    /// An empty one. `honors_keys` says whether it knows a creation that is sent again,
    /// `page` how many sandboxes a page of a list has.
    ///
    /// # Panics
    /// Without a free port.
    pub async fn start(name: &str, honors_keys: bool, page: usize) -> Self {
        let world = World { name: name.to_owned(), honors_keys, page, ..World::default() };
        let world = Arc::new(Mutex::new(world));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&world));
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes).await.expect("it serves until it is dropped");
        });
        Self { address, world, serving }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Values of `sandpit-lease` of what is there.
    pub fn leases(&self) -> Vec<String> {
        let world = world(&self.world);
        let lease = |place: &Place| place.metadata["sandpit-lease"].as_str().map(str::to_owned);
        world.places.values().filter_map(lease).collect()
    }

    /// Sandboxes ever made.
    pub fn made(&self) -> u64 {
        world(&self.world).made
    }

    /// How many of them are paused.
    pub fn paused(&self) -> usize {
        world(&self.world).places.values().filter(|place| place.is_paused).count()
    }

    /// What cells did so far, in order.
    pub fn effects(&self) -> Vec<String> {
        world(&self.world).effects.clone()
    }

    /// Requests that got here, by what they ask for, as in `POST /v2/sandboxes`.
    pub fn asked(&self) -> BTreeMap<String, u64> {
        world(&self.world).asked.clone()
    }

    /// Ends a sandbox as the cloud does when its time is over.
    pub fn expire(&self, lease: &str) {
        let mut world = world(&self.world);
        world.places.retain(|_, place| place.metadata["sandpit-lease"] != lease);
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn world(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer with a JSON body.
fn said(status: u16, body: &Value) -> Response {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(body.to_string())).expect("a response")
}

fn failed(status: u16, message: &str) -> Response {
    said(status, &json!({ "code": status, "message": message }))
}

fn nothing() -> Response {
    Response::builder().status(204).body(Body::empty()).expect("a response")
}

async fn answer(State(shared): State<Arc<Mutex<World>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, REQUEST_MAX).await else {
        return failed(400, "the request broke off");
    };
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let what = format!("{} {}", parts.method, general(&path));
    *world(&shared).asked.entry(what).or_default() += 1;
    if let (Some(id), Some(port)) = (header("e2b-sandbox-id"), header("e2b-sandbox-port")) {
        return data::answer(&shared, id, port, &parts.method, &path, &query, &body).await;
    }
    if header("x-api-key") != Some(KEY) {
        return failed(401, "no such key");
    }
    control(&mut world(&shared), &parts.method, &path, &query, &parts.headers, &body)
}

/// A path with ids left out.
fn general(path: &str) -> String {
    let words = path.split('/').map(|word| if word.starts_with("sb") { "{id}" } else { word });
    words.collect::<Vec<_>>().join("/")
}

fn control(
    world: &mut World,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    let words: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let words = words.strip_prefix(&["v2"]).unwrap_or(&words);
    match (method.as_str(), words) {
        ("POST", ["sandboxes"]) => {
            let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
            create(world, key, body)
        }
        ("GET", ["sandboxes"]) => list(world, query),
        ("GET", ["templates", "aliases", name]) if *name == TEMPLATE => {
            said(200, &json!({ "templateID": TEMPLATE, "public": false }))
        }
        ("GET", ["templates", "aliases", _]) => failed(404, "template not found"),
        (_, ["sandboxes", id, rest @ ..]) => about(world, method, id, rest),
        _ => failed(404, "no such path"),
    }
}

fn create(world: &mut World, key: Option<&str>, body: &Bytes) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return failed(400, "this is no JSON");
    };
    let template = body["templateID"].as_str().unwrap_or_default().to_owned();
    if template == "refused" {
        return failed(400, "this template is refused, always");
    }
    if template != TEMPLATE {
        return failed(404, &format!("template '{template}' not found"));
    }
    let known = key.filter(|_| world.honors_keys).and_then(|key| world.keys.get(key)).cloned();
    let id = known.filter(|id| world.places.contains_key(id)).unwrap_or_else(|| {
        world.made += 1;
        let id = format!("sb{}{:08}", world.name, world.made);
        let metadata = body["metadata"].clone();
        let files = BTreeMap::new();
        let place = Place { template, metadata, is_paused: false, files };
        world.places.insert(id.clone(), place);
        if let Some(key) = key {
            world.keys.insert(key.to_owned(), id.clone());
        }
        id
    });
    said(201, &sandbox(&id))
}

fn sandbox(id: &str) -> Value {
    json!({
        "sandboxID": id, "templateID": TEMPLATE, "clientID": "test", "envdVersion": "0.6.13",
        "envdAccessToken": format!("token of {id}"), "domain": "cloud.invalid",
    })
}

fn detail(id: &str, place: &Place) -> Value {
    let mut detail = sandbox(id);
    detail["metadata"] = place.metadata.clone();
    detail["templateID"] = json!(place.template);
    detail["state"] = json!(if place.is_paused { "paused" } else { "running" });
    detail["startedAt"] = json!("2026-11-23T12:33:41.825100Z");
    detail["endAt"] = json!("2026-11-23T12:38:41.825100Z");
    detail["cpuCount"] = json!(2);
    detail["memoryMB"] = json!(512);
    detail["diskSizeMB"] = json!(1_024);
    detail
}

fn list(world: &World, query: &str) -> Response {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let pairs: BTreeMap<_, _> = pairs.map(|(key, value)| (key, data::decoded(value))).collect();
    let filter = pairs.get("metadata").cloned().unwrap_or_default();
    let wanted = || filter.split('&').filter_map(|pair| pair.split_once('='));
    let matches = |place: &Place| wanted().all(|(key, value)| place.metadata[key] == value);
    let from = pairs.get("nextToken").cloned().unwrap_or_default();
    let found = world.places.iter().filter(|(id, place)| **id > from && matches(place));
    let mut found: Vec<_> = found.collect();
    let more = found.len() > world.page;
    found.truncate(world.page);
    let next = found.last().map(|(id, _)| (*id).clone()).filter(|_| more);
    let page: Vec<_> = found.into_iter().map(|(id, place)| detail(id, place)).collect();
    let mut response = said(200, &json!(page));
    if let Some(next) = next {
        response.headers_mut().insert("x-next-token", next.parse().expect("an id"));
    }
    response
}

fn about(world: &mut World, method: &Method, id: &str, rest: &[&str]) -> Response {
    let Some(place) = world.places.get_mut(id) else {
        return failed(404, &format!("sandbox {id} not found"));
    };
    match (method.as_str(), rest) {
        ("GET", []) => said(200, &detail(id, place)),
        ("DELETE", []) => {
            world.places.remove(id);
            nothing()
        }
        ("POST", ["timeout"]) => nothing(),
        ("POST", ["pause"]) if place.is_paused => failed(409, "already paused"),
        ("POST", ["pause"]) => {
            place.is_paused = true;
            nothing()
        }
        ("POST", ["connect"]) => {
            let was_paused = std::mem::replace(&mut place.is_paused, false);
            said(if was_paused { 201 } else { 200 }, &sandbox(id))
        }
        ("GET", ["metrics"]) => said(
            200,
            &json!([{
                "timestamp": "2026-11-23T12:33:44.405504Z", "timestampUnix": 1_795_437_224,
                "cpuCount": 2, "cpuUsedPct": 1.5, "memUsed": 1_000, "memTotal": 2_000,
                "memCache": 10, "diskUsed": 5, "diskTotal": 50,
            }]),
        ),
        _ => failed(404, "no such path"),
    }
}
