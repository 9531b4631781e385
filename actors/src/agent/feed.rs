//! Between agents and the bus: hears feeds, asks for bars, tells what happened.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use sandpit_messages::agent::{AgentRun, Fill};
use sandpit_messages::codec::Codec;
use sandpit_messages::envelope::CONTENT_TYPE;
use sandpit_messages::id::NodeId;
use sandpit_messages::market::{Bar, Bars, FeedName, GetBars};
use sandpit_messages::subject::{self, Request};
use serde::Serialize;
use tokio::sync::mpsc;

use super::policy::NoBars;
use crate::bus::{AskError, Bus, BusError, Feed, Headers, Message};
use crate::clock::Clock;

/// Bars of one feed on their way in. What is on top is asked for again.
const FEED_ROOM: usize = 1_024;

/// How long bars are waited for that were asked for.
const FETCH_MAX: Duration = Duration::from_secs(2);

/// Hears a feed, and is sure of it: what is published from then on comes in.
pub(super) async fn listen(bus: Arc<dyn Bus>, feed: FeedName) -> Result<Feed, BusError> {
    let heard = bus.listen(&subject::market(&feed), FEED_ROOM).await?;
    bus.barrier().await?;
    Ok(heard)
}

/// The bars of a feed. Whatever else is published there is none of them.
pub(super) fn bars(heard: Feed) -> impl Stream<Item = Arc<Bar>> {
    stream::unfold(heard, |mut heard| async move {
        loop {
            let message = heard.messages.recv().await?;
            match read::<Bar>(&message) {
                Some(bar) => return Some((Arc::new(bar), heard)),
                None => tracing::warn!(subject = message.subject, "heard what is no bar"),
            }
        }
    })
}

fn read<T: serde::de::DeserializeOwned>(message: &Message) -> Option<T> {
    let codec = Codec::of(message.headers.get(CONTENT_TYPE), &message.body).ok()?;
    codec.decode(&message.body).ok()
}

/// Asks for bars after a number: the node that replays the feed, or any.
pub(super) async fn fetch(
    bus: Arc<dyn Bus>,
    clock: Clock,
    feed: FeedName,
    node: Option<NodeId>,
    after: u64,
    symbols: Vec<String>,
) -> Result<Bars, NoBars> {
    let subject = node.map_or_else(|| GetBars::VERB.subject(), |node| GetBars::VERB.of_node(node));
    let ask = GetBars { feed, after, limit: None, symbols: Some(symbols) };
    let until = clock.now() + FETCH_MAX;
    match bus.ask(message(subject, &ask), until).await {
        Ok(answer) => read(&answer).ok_or(NoBars::Later),
        Err(AskError::Refused(problem)) if problem.kind == "not_found" => Err(NoBars::NoSuchFeed),
        Err(error) => {
            tracing::debug!(%error, "bars did not come");
            Err(NoBars::Later)
        }
    }
}

fn message(subject: String, body: &impl Serialize) -> Message {
    let headers = Headers::new().with(CONTENT_TYPE, Codec::Json.content_type());
    Message { subject, headers, body: Codec::Json.encode(body).into() }
}

/// A line of a journal, for everybody.
pub(super) fn filled(fill: &Fill) -> Message {
    message(subject::event("agent", "filled"), fill)
}

/// The end of a run, for everybody.
pub(super) fn ended(run: &AgentRun) -> Message {
    message(subject::event("agent", "ended"), run)
}

/// Publishes one message after the other, in order. What cannot be published while the bus is lost
/// is left out: its number is missing, and `fills` has it.
pub(super) async fn tell(bus: Arc<dyn Bus>, mut told: mpsc::Receiver<Message>) {
    while let Some(message) = told.recv().await {
        if let Err(error) = bus.publish(message).await {
            tracing::warn!(%error, "what an agent did was not published");
        }
    }
}
