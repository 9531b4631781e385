//! The conversation about market data: feeds of bars, and replays that publish them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::id::NodeId;
use crate::subject::{Patience, Replay, Request, Verb};

/// What a feed is called: 1 to 64 of `a-z`, `0-9`, `-` and `_`. A word of a subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct FeedName(String);

/// The text is not the name of a feed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a feed is called by 1 to 64 characters of a-z, 0-9, `-` and `_`")]
pub struct NotAFeed;

impl FeedName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FeedName {
    type Err = NotAFeed;

    fn from_str(text: &str) -> Result<Self, NotAFeed> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let length = (1..=64).contains(&text.len());
        if length && text.bytes().all(fine) { Ok(Self(text.to_owned())) } else { Err(NotAFeed) }
    }
}

impl<'de> Deserialize<'de> for FeedName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// One day of a feed, published on `sandpit.v1.market.<feed>`. An instrument that was not traded
/// that day is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Bar {
    /// Its number in the feed: from 1, without gaps.
    pub seq: u64,
    /// The node that replays it, which is asked for bars that were missed.
    pub node: NodeId,
    /// The day, `YYYY-MM-DD`.
    pub day: String,
    /// The last price of each instrument in micro-dollars, above zero.
    pub closes: BTreeMap<String, i64>,
    /// From before the replay begins: to learn from, not to trade on. Not published, only asked
    /// for.
    #[serde(default)]
    pub history: bool,
    /// No bar follows.
    #[serde(default)]
    pub last: bool,
}

/// "Replay those days under this name."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartReplay {
    /// What the feed is called from then on.
    pub feed: FeedName,
    /// The first day that is traded, `YYYY-MM-DD`; without it, the last 252 days there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The last day, `YYYY-MM-DD`; without it, the last there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Days before `from` that may be asked for, 0 to 1260; without it 504.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<u32>,
    /// Only these instruments, 1 to 200; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbols: Option<Vec<String>>,
    /// Milliseconds from one day to the next, 0 to 86400000; without it 0, which is as fast as it
    /// goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
}

/// A replay that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayStarted {
    /// What it is called.
    pub feed: FeedName,
    /// Where its bars are published.
    pub subject: String,
    /// Where the prices are from.
    pub source: String,
    /// The node that replays it.
    pub node: NodeId,
    /// The first day that is traded.
    pub from: String,
    /// The last.
    pub to: String,
    /// Bars before the first that is traded.
    pub history: u32,
    /// Bars that are published.
    pub bars: u32,
    /// The instruments.
    pub symbols: Vec<String>,
}

impl Request for StartReplay {
    type Reply = ReplayStarted;
    const VERB: Verb = Verb::new("replay");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::CHANGE;
}

/// "What has this feed shown so far?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetBars {
    /// Which feed.
    pub feed: FeedName,
    /// Only bars with a higher number.
    #[serde(default)]
    pub after: u64,
    /// Most bars in the answer, 1 to 512; without it 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only these instruments; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbols: Option<Vec<String>>,
}

/// Bars that were shown already: never one from the feed's future.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bars {
    /// Which feed.
    pub feed: FeedName,
    /// Where the prices are from.
    pub source: String,
    /// All instruments of the feed.
    pub symbols: Vec<String>,
    /// The number of the latest bar that was shown.
    pub head: u64,
    /// One page, in order.
    pub bars: Vec<Bar>,
}

impl Request for GetBars {
    type Reply = Bars;
    const VERB: Verb = Verb::new("bars");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_is_called_by_one_word_of_a_subject() {
        assert_eq!(
            "us-2022".parse::<FeedName>().map(|name| name.to_string()),
            Ok("us-2022".into())
        );
        for bad in ["", "a.b", "A", "*", ">", "a b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<FeedName>(), Err(NotAFeed), "{bad}");
        }
    }
}
