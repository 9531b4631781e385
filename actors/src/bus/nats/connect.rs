//! Connecting, and knowing at every moment whether the connection can be used.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, jetstream};
use futures_util::StreamExt;
use rand::RngExt;
use sandpit_messages::codec::BODY_MAX;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::mux::{self, Mux};
use super::{BusState, Inner};
use crate::clock::Clock;

/// The oldest server that keeps its word: 2.9 cannot make a bucket, and 2.10 accepts an entry's
/// time to live and ignores it, so that a lease would never expire.
pub const SERVER_MIN: (u32, u32) = (2, 11);

/// How often the library is asked for its state; its events may be lost.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Silence after which the server is asked whether it is there. Two unanswered end the connection.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Ceiling of the first pause before reconnecting; it doubles from there.
const RECONNECT_MIN: Duration = Duration::from_millis(20);
/// Longest wait for the account's answer when JetStream is wanted.
const JETSTREAM_MAX: Duration = Duration::from_secs(5);

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// `nats://` addresses of the servers of one cluster.
    pub urls: Vec<String>,
    /// As whom; nobody in particular without.
    pub credentials: Option<Credentials>,
    /// What the server shows for this connection.
    pub name: String,
    /// The node's clock.
    pub clock: Clock,
    /// Longest wait for one server to greet.
    pub connect_max: Duration,
    /// Longest wait for room in the library's queue.
    pub enqueue_max: Duration,
    /// Ceiling of the pause before reconnecting: 1 s to a server of our own, 4 s to another's.
    pub reconnect_max: Duration,
    /// Messages in the library's queue on their way out.
    pub outgoing_max: usize,
    /// Messages of one subscription on their way in.
    pub incoming_max: usize,
    /// Most bytes of one body.
    pub payload_max: usize,
    /// Whether to insist on JetStream.
    pub jetstream: bool,
}

impl Options {
    /// The values that fit a node's data connection.
    pub fn new(urls: Vec<String>, credentials: Option<Credentials>, clock: Clock) -> Self {
        Self {
            urls,
            credentials,
            name: "sandpit".to_owned(),
            clock,
            connect_max: Duration::from_secs(5),
            enqueue_max: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(1),
            outgoing_max: 256,
            incoming_max: 16_384,
            payload_max: BODY_MAX,
            jetstream: false,
        }
    }
}

/// A user of the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user; also the word in its inboxes, by which permissions fence them.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody there, or not for us.
    #[error("cannot connect to the nats-server at {urls}: {source}")]
    Unreachable {
        /// Where.
        urls: String,
        /// What the library says.
        source: async_nats::ConnectError,
    },
    /// Too old.
    #[error(
        "the nats-server at {urls} is version {found}, and sandpit needs {}.{} or later: upgrade \
         it, or unset bus.url so that sandpit brings its own",
        SERVER_MIN.0, SERVER_MIN.1
    )]
    TooOld {
        /// Where.
        urls: String,
        /// Its version.
        found: String,
    },
    /// No JetStream.
    #[error("the nats-server at {urls} has no JetStream for this account ({why}): enable it")]
    NoJetStream {
        /// Where.
        urls: String,
        /// What it said.
        why: String,
    },
    /// It greets, but does not act.
    #[error("the nats-server at {urls} does not answer as it should: {why}")]
    Unusable {
        /// Where.
        urls: String,
        /// What is wrong.
        why: String,
    },
}

pub(super) async fn connect(options: Options) -> Result<Inner, ConnectError> {
    let urls = options.urls.join(", ");
    let user = options.credentials.as_ref().map_or("open", |credentials| &credentials.user);
    let inbox: u64 = rand::rng().random();
    let mux = Arc::new(Mux::new(format!("_INBOX.{user}.{inbox:016x}.")));
    let (tell, state) = watch::channel(BusState::Down);
    let (events, happened) = mpsc::unbounded_channel();
    let client = library_options(&options, user, Arc::clone(&mux), events)
        .connect(options.urls.as_slice())
        .await
        .map_err(|source| ConnectError::Unreachable { urls: urls.clone(), source })?;
    if let Err(found) = new_enough(&client) {
        return Err(ConnectError::TooOld { urls, found });
    }
    let unusable = |why: String| ConnectError::Unusable { urls: urls.clone(), why };
    let mut inbox =
        client.subscribe(mux.wildcard()).await.map_err(|error| unusable(error.to_string()))?;
    let mut watching = JoinSet::new();
    let answers = Arc::clone(&mux);
    watching.spawn(async move {
        while let Some(answer) = inbox.next().await {
            answers.deliver(answer);
        }
    });
    let (count, connections) = watch::channel(1);
    let mut inner = Inner {
        client: client.clone(),
        clock: options.clock,
        mux: Arc::clone(&mux),
        state,
        enqueue_max: options.enqueue_max,
        payload_max: options.payload_max,
        connections,
        _watching: JoinSet::new(),
    };
    inner.barrier().await.map_err(|error| unusable(error.to_string()))?;
    if options.jetstream {
        let account = jetstream::new(client.clone());
        let account = tokio::time::timeout(JETSTREAM_MAX, account.query_account()).await;
        let why = match account {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer in {JETSTREAM_MAX:?}")),
        };
        if let Some(why) = why {
            return Err(ConnectError::NoJetStream { urls, why });
        }
    }
    tell.send_replace(BusState::Connected { server: client.server_info().version });
    let watcher = Watcher { client, clock: options.clock, mux, tell, count };
    watching.spawn(watcher.watch(happened));
    inner._watching = watching;
    Ok(inner)
}

fn library_options(
    options: &Options,
    user: &str,
    mux: Arc<Mux>,
    events: mpsc::UnboundedSender<Event>,
) -> ConnectOptions {
    let first = AtomicBool::new(true);
    let reconnect_max = options.reconnect_max;
    let library = ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(options.connect_max)
        .client_capacity(options.outgoing_max)
        .subscription_capacity(options.incoming_max)
        .ping_interval(PING_EVERY)
        .custom_inbox_prefix(format!("_INBOX.{user}"))
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempt| {
            // Also asked before the very first connection, which nobody else makes in that moment.
            if first.swap(false, Ordering::Relaxed) {
                return Duration::ZERO;
            }
            let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
            let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
            let ceiling = RECONNECT_MIN.saturating_mul(factor).min(reconnect_max);
            ceiling.mul_f64(rand::rng().random())
        })
        .event_callback(move |event| {
            // At once, not when the watcher gets to it: waiting for a deadline would hide a fact
            // of milliseconds for seconds.
            if event == Event::Disconnected {
                mux.interrupt();
            }
            events.send(event).ok();
            std::future::ready(())
        });
    match &options.credentials {
        Some(Credentials { user, password }) => {
            library.user_and_password(user.clone(), password.clone())
        }
        None => library,
    }
}

/// Keeps the state.
struct Watcher {
    client: Client,
    clock: Clock,
    mux: Arc<Mux>,
    tell: watch::Sender<BusState>,
    count: watch::Sender<u64>,
}

impl Watcher {
    async fn watch(self, mut happened: mpsc::UnboundedReceiver<Event>) {
        let mut sample = tokio::time::interval(SAMPLE_EVERY);
        sample.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = happened.recv() => match event {
                    Some(Event::Disconnected) => self.lost(),
                    Some(Event::Connected) => {
                        self.count.send_modify(|count| *count += 1);
                        self.regain().await;
                    }
                    Some(Event::Draining | Event::Closed) => {
                        self.tell.send_replace(BusState::Draining);
                    }
                    Some(Event::ServerError(error)) => {
                        let error = error.to_string();
                        tracing::warn!(error, "the nats-server complains");
                        if let Some(subject) = not_to_publish(&error) {
                            self.mux.forbid(subject);
                        }
                    }
                    Some(event) => tracing::debug!(%event, "of the connection"),
                    None => return,
                },
                _ = sample.tick() => {
                    let usable = matches!(*self.tell.borrow(), BusState::Connected { .. });
                    let connected = self.client.connection_state() == State::Connected;
                    match (usable, connected) {
                        (true, false) => self.lost(),
                        (false, true) => self.regain().await,
                        _ => (),
                    }
                }
            }
        }
    }

    fn lost(&self) {
        self.mux.interrupt();
        let down = |state: &mut BusState| match state {
            BusState::Connected { .. } => {
                *state = BusState::Down;
                true
            }
            _ => false,
        };
        if self.tell.send_if_modified(down) {
            tracing::warn!("the connection to the bus is lost");
        }
    }

    /// Connected again; usable once the server has our subscriptions.
    async fn regain(&self) {
        if *self.tell.borrow() == BusState::Draining {
            return;
        }
        if let Err(found) = new_enough(&self.client) {
            tracing::error!(%found, "the nats-server is too old; not using this connection");
            return;
        }
        let until = self.clock.instant(self.clock.now() + SAMPLE_EVERY * 10);
        let echo = mux::echo(&self.mux, &self.client);
        if let Ok(Some(())) = tokio::time::timeout_at(until, echo).await {
            let server = self.client.server_info().version;
            tracing::info!(server, "connected to the bus");
            self.tell.send_replace(BusState::Connected { server });
        }
    }
}

/// The subject in `Permissions Violation for Publish to "subject"`. Whoever asked there would
/// otherwise wait for nothing until his deadline.
fn not_to_publish(error: &str) -> Option<&str> {
    let (_, rest) = error.split_once("Publish to \"")?;
    rest.split('"').next()
}

fn new_enough(client: &Client) -> Result<(), String> {
    let version = client.server_info().version;
    match crate::embed::Version::read(&version) {
        Some(found) if found.at_least(SERVER_MIN) => Ok(()),
        _ => Err(version),
    }
}
