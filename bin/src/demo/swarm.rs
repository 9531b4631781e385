//! The swarm's part of a demonstration: agents work, and meanwhile the node's stock and the machine
//! are looked at, for what it costs and what is left behind.

use std::io;
use std::path::Path;
use std::time::Duration;

use sandpit_actors::bus::nats::Credentials;
use sandpit_messages::pool::{CacheStock, GetPool, PoolStatus, Stock};
use sandpit_messages::sandbox::{List, StatusFilter};
use sandpit_messages::time::Moment;

use super::agent::TEMPLATE;
use super::crew::Crew;
use super::leftovers::Watch;
use super::live::Live;
use super::plan::Part;
use super::report::Worker;
use crate::client::{Call, Client};

/// From one look to the next. Reading the list of processes takes a few milliseconds of one
/// processor, which agents would rather have.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Longest wait for the stock to fill up before agents are let loose. Without it they begin all the
/// same, and wait for boots.
const FILL_MAX: Duration = Duration::from_secs(30);
/// How often the stock is asked for while it fills up.
const FILL_EVERY: Duration = Duration::from_millis(20);

/// Where agents join.
#[derive(Clone, Copy, Debug)]
pub struct Bus<'a> {
    /// The server.
    pub url: &'a str,
    /// As whom.
    pub credentials: &'a Credentials,
    /// For the demonstration's own questions.
    pub client: &'a Client,
}

/// What came of it.
#[derive(Debug)]
pub struct Worked {
    /// What agents told.
    pub workers: Vec<Worker>,
    /// The template's stock at the end.
    pub stock: Stock,
    /// The cache at the end.
    pub cache: CacheStock,
    /// Time that ready sandboxes waited, all added up.
    pub waited: Duration,
    /// Sandboxes that still belonged to somebody at the end.
    pub held: Vec<String>,
}

/// Waits until the template's stock is full, so that the first agents meet a node as it is on any
/// other day.
pub async fn filled(client: &Client) {
    let full = async {
        loop {
            let status = client.request(&GetPool {}, Call::default()).await;
            let stock = status.ok().and_then(|status| stock_of(&status));
            if stock.is_some_and(|stock| stock.ready >= stock.target) {
                return;
            }
            tokio::time::sleep(FILL_EVERY).await;
        }
    };
    // Whether it did is seen in the report: acquires that waited are misses.
    let _ = tokio::time::timeout(FILL_MAX, full).await;
}

/// Lets agents work until all are done. Dropping it ends them at once.
///
/// # Errors
/// If a process cannot be started.
pub async fn work(
    program: &Path,
    bus: Bus<'_>,
    parts: Vec<Part>,
    live: &Live,
    watch: &mut Watch,
) -> io::Result<Worked> {
    let mut crew = Crew::start(program, parts, bus.url, bus.credentials).await?;
    let mut looks = Looks::new(bus.client.clone());
    tokio::select! {
        () = crew.listen(live) => {}
        () = looks.keep_looking(watch) => {}
    }
    live.end();
    let workers = crew.end().await;
    looks.look(watch).await;
    Ok(Worked {
        workers,
        stock: looks.stock,
        cache: looks.cache,
        waited: looks.waited,
        held: held(bus.client).await,
    })
}

/// Looks at the node and the machine from time to time.
#[derive(Debug)]
struct Looks {
    client: Client,
    at: Moment,
    stock: Stock,
    cache: CacheStock,
    waited: Duration,
}

impl Looks {
    fn new(client: Client) -> Self {
        let at = client.clock().now();
        let (stock, cache) = (nothing(), CacheStock::default());
        Self { client, at, stock, cache, waited: Duration::ZERO }
    }

    /// Until it is dropped.
    async fn keep_looking(&mut self, watch: &mut Watch) {
        loop {
            self.look(watch).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&mut self, watch: &mut Watch) {
        watch.look();
        // A node too busy to answer is asked again the next time.
        let Ok(status) = self.client.request(&GetPool {}, Call::default()).await else { return };
        let Some(stock) = stock_of(&status) else { return };
        let now = self.client.clock().now();
        // As many as there were at both ends of the time between, on average.
        let ready = f64::midpoint(f64::from(self.stock.ready), f64::from(stock.ready));
        self.waited += now.since(self.at).mul_f64(ready);
        (self.at, self.stock, self.cache) = (now, stock, status.cache);
    }
}

fn stock_of(status: &PoolStatus) -> Option<Stock> {
    status.templates.iter().find(|stock| stock.template == TEMPLATE).cloned()
}

/// Before anybody has asked.
fn nothing() -> Stock {
    Stock {
        template: TEMPLATE.to_owned(),
        digest: String::new(),
        target: 0,
        ready: 0,
        booting: 0,
        leased: 0,
        ending: 0,
        waiting: 0,
        hits: 0,
        misses: 0,
        refused: 0,
        boot_failures: 0,
        broken: None,
    }
}

/// Sandboxes that somebody holds. Nobody should, once the agents are gone.
async fn held(client: &Client) -> Vec<String> {
    let running = List { status_filter: StatusFilter::Running, limit: 1_000, ..List::default() };
    match client.request(&running, Call::default()).await {
        Ok(listing) => {
            let names = listing.sandboxes.iter();
            names.map(|one| format!("{} ({})", one.sandbox_id, one.name)).collect()
        }
        Err(error) => vec![format!("the node does not say which: {error}")],
    }
}
