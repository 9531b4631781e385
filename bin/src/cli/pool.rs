//! `sandpit pool`, or `sandpit status`: how the node stands.

use sandpit_messages::pool::{GetPool, PoolStatus};

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::client::Call;
use crate::session::Session;
use crate::settings::SettingFlags;

pub(super) fn run(settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
    Session::run(settings, "pool", async |session| {
        let asked = session.client.request(&GetPool {}, Call::default()).await;
        let pool = asked.map_err(|error| Failure::of_ask("the pool did not answer", &error))?;
        if out.json {
            out.document("sandpit.pool.show/1", &pool)
        } else {
            print(&pool)
        }
        Ok(Exit::Done)
    })
}

fn print(pool: &PoolStatus) {
    let rows = pool.templates.iter().map(|stock| {
        let state = stock.broken.as_deref().map_or("usable", |_| "broken");
        let counts =
            [stock.ready, stock.target, stock.booting, stock.leased, stock.ending, stock.waiting];
        let [ready, target, booting, leased, ending, waiting] = counts.map(|n| n.to_string());
        let asked = stock.hits + stock.misses;
        let hits = match asked {
            0 => "-".to_owned(),
            _ => format!("{} %", stock.hits * 100 / asked),
        };
        let name = stock.template.clone();
        [name, ready, target, booting, leased, ending, waiting, hits, state.to_owned()]
    });
    let header =
        ["template", "ready", "target", "booting", "leased", "ending", "waiting", "hits", "state"];
    out::table(header, rows);
    for stock in &pool.templates {
        if let Some(why) = &stock.broken {
            out::line(&format!("template {} is broken: {why}", stock.template));
        }
    }
    let (cache, reaper) = (pool.cache, pool.reaper);
    out::line(&format!(
        "node {}: at most {} sandboxes; cache {} results, {} hits, {} joined, {} misses; \
         {} sweeps, {} expired, {} idle, {} orphaned",
        pool.node,
        pool.total_max,
        cache.entries,
        cache.hits,
        cache.joined,
        cache.misses,
        reaper.sweeps,
        reaper.expired,
        reaper.idle,
        reaper.orphaned,
    ));
    if !pool.endpoints.is_empty() {
        out::line("");
        endpoints(pool);
    }
}

fn endpoints(pool: &PoolStatus) {
    let rows = pool.endpoints.iter().map(|endpoint| {
        let states = [
            (endpoint.current, "current"),
            (endpoint.full, "full"),
            (endpoint.locked, "refuses our key"),
        ];
        let states = states.iter().filter(|(holds, _)| *holds).map(|(_, word)| *word);
        let numbers = [
            u64::from(endpoint.sandboxes),
            u64::from(endpoint.doubtful),
            endpoint.calls,
            endpoint.attempts,
            endpoint.failed,
            endpoint.retries_refused,
            endpoint.budget_left,
            endpoint.openings,
        ];
        let mut row = vec![endpoint.endpoint.clone(), endpoint.breaker.clone()];
        row.push(states.collect::<Vec<_>>().join(", "));
        row.extend(numbers.map(|number| number.to_string()));
        <[String; 11]>::try_from(row).expect("three words and eight numbers")
    });
    let header = [
        "endpoint",
        "breaker",
        "state",
        "sandboxes",
        "doubtful",
        "calls",
        "attempts",
        "failed",
        "not retried",
        "budget left",
        "openings",
    ];
    out::table(header, rows);
}
