//! `sandpit market`: prices on disk, and feeds of them on the bus.

use sandpit_messages::market::{FeedName, StartReplay};
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::client::Call;
use crate::market;
use crate::session::Session;
use crate::settings::{self, SettingFlags};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Fetch daily prices of 20 large companies from a published package, unless they are there.
    Fetch,
    /// Replay days of the node's prices as a feed that agents follow.
    Replay(Replay),
}

#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// What the feed is called.
    feed: FeedName,
    /// The first day that is traded, as in 2022-01-03; without it, the last 252 days there are.
    #[arg(long)]
    from: Option<String>,
    /// The last day; without it, the last there is.
    #[arg(long)]
    to: Option<String>,
    /// Days before the first that agents may learn from.
    #[arg(long)]
    history: Option<u32>,
    /// Milliseconds from one day to the next; without it, as fast as it goes.
    #[arg(long)]
    interval_ms: Option<u32>,
    /// Only these instruments.
    #[arg(long, value_delimiter = ',')]
    symbols: Option<Vec<String>>,
}

impl Verb {
    pub(super) fn run(self, flags: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        match self {
            Self::Fetch => fetch(flags, out),
            Self::Replay(replay) => Session::run(flags, "market", async |session| {
                let Replay { feed, from, to, history, interval_ms, symbols } = replay;
                let ask = StartReplay { feed, from, to, history, symbols, interval_ms };
                let asked = session.client.request(&ask, Call::default()).await;
                let what = "the replay did not begin";
                let started = asked.map_err(|error| Failure::of_ask(what, &error))?;
                match (out.json, out.quiet) {
                    (true, _) => out.document("sandpit.market.replay/1", &started),
                    (false, true) => out::line(started.feed.as_str()),
                    (false, false) => out::line(&format!(
                        "{} days of {} instruments, {} to {}, on {}",
                        started.bars,
                        started.symbols.len(),
                        started.from,
                        started.to,
                        started.subject,
                    )),
                }
                Ok(Exit::Done)
            }),
        }
    }
}

fn fetch(flags: &SettingFlags, out: Out) -> Result<Exit, Failure> {
    let config = settings::load(flags)?.config;
    let data = settings::data_directory(&config);
    let home = std::path::absolute(&data).unwrap_or(data).join("market");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::Failed, "internal", "nothing can be waited for").caused_by(&error)
    })?;
    let ready = runtime.block_on(market::ready(&home, config.provider.local.python.as_deref()));
    let market = ready.map_err(|error| {
        Failure::new(error.exit(), "no_prices", "no prices could be fetched").caused_by(&error)
    })?;
    let prices = market.prices();
    if out.json {
        let document = json!({ "prices": prices, "market": market });
        out.document("sandpit.market.fetch/1", &document);
    } else if out.quiet {
        out::line(&prices.display().to_string());
    } else {
        let (count, from, to) = (market.symbols.len(), &market.from, &market.to);
        out::line(&format!("{count} instruments, {from} to {to}: {}", market.caution));
        out::line(&format!("sandpit up --set market.prices={}", prices.display()));
    }
    Ok(Exit::Done)
}
