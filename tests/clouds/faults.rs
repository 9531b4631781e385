//! Three regions on very rough ways: what comes through, what it costs, and what it never does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sandpit_actors::clock::Clock;
use sandpit_sandbox::guard::decision::Hear;
use sandpit_sandbox::guard::{Endpoint, Guarded, Limits, breaker, budget, retry, routes};
use sandpit_sandbox::provider::files::Body;
use sandpit_sandbox::provider::{CreateRequest, Lease, Outcome};
use sandpit_sandbox::{Provider, ProviderError};
use sandpit_tests::cloud::Cloud;
use sandpit_tests::cloud::proxy::{Proxy, Weather};

use crate::rig::{self, cell, create, end_of, listed, sandbox};

/// Waits are this much shorter than in the defaults.
const FASTER: u32 = 20;

/// Of a hundred calls so many may be made again, on ways as rough as these.
const PERCENT_AGAIN: u32 = 75;

/// Longest wait for anything that is bound to happen.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The defaults for a cloud, with shorter waits. The window of the budget is none, and stays.
fn limits() -> Limits {
    let usual = Limits::default();
    Limits {
        retry: retry::Limits {
            base: usual.retry.base / FASTER,
            cap: usual.retry.cap / FASTER,
            ..usual.retry
        },
        breaker: breaker::Limits {
            age_max: usual.breaker.age_max / FASTER,
            open_min: usual.breaker.open_min / FASTER,
            open_max: usual.breaker.open_max / FASTER,
            ..usual.breaker
        },
        create_max: usual.create_max / FASTER,
        create_slow: usual.create_slow / FASTER,
        attempt_max: usual.attempt_max / FASTER,
        // A twentieth of two seconds would be lost in the noise of a busy machine.
        look_max: Duration::from_millis(400),
        // Whole seconds are the least a cloud can ask us to wait: those do not go faster.
        call_max: Duration::from_secs(20),
        ..usual
    }
}

/// As an operator sets them for ways on which nearly every third request fails. At that rate a call
/// takes 1.43 attempts on average, which a budget of 20 % cannot pay for; six attempts leave 0.07 %
/// undone; and of twenty calls more than half fail by chance every minute or so, which a breaker
/// must not take for an illness.
fn rough() -> Limits {
    let usual = limits();
    Limits {
        retry: retry::Limits { attempts_max: 10, ..usual.retry },
        budget: budget::Limits { percent: PERCENT_AGAIN, ..usual.budget },
        breaker: breaker::Limits { failed_percent: 80, ..usual.breaker },
        ..usual
    }
}

fn routes() -> routes::Limits {
    let usual = routes::Limits::default();
    // These ways say that a cloud is full when it is not: three seconds instead of thirty, or all
    // three regions would be taken for full at once.
    let full_for = usual.full_for / FASTER / 10;
    routes::Limits { well_min: usual.well_min / FASTER, full_for }
}

/// Three regions, the ways to them, and what guards them.
struct World {
    clouds: Vec<Cloud>,
    ways: Vec<Proxy>,
    guarded: Guarded,
}

impl World {
    async fn new(weather: Weather, limits: Limits, seed: u64) -> Self {
        let (mut clouds, mut ways, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        // The second does not know a creation that is sent again: looking it up has to do.
        for (name, honors_keys) in [("eu", true), ("us", false), ("ap", true)] {
            let cloud = Cloud::start(name, honors_keys, 100).await;
            let late = Duration::from_millis(100);
            let way = Proxy::start(cloud.address(), weather.clone(), late, seed).await;
            let provider = Arc::new(rig::endpoint(name, &way.url()));
            endpoints.push(Endpoint { name: name.to_owned(), provider, limits });
            clouds.push(cloud);
            ways.push(way);
        }
        let guarded = Guarded::new(endpoints, routes(), rig::time(), Hear::silent(), seed);
        Self { clouds, ways, guarded }
    }

    fn change(&self, weather: &Weather) {
        self.ways.iter().for_each(|way| way.change(weather.clone()));
    }

    fn leases(&self) -> usize {
        self.clouds.iter().map(|cloud| cloud.leases().len()).sum()
    }

    /// Destroys all that is there, as a reaper does that owns nothing.
    async fn reconcile(&self) {
        let emptied = async {
            while self.leases() > 0 {
                for sandbox in listed(&self.guarded).await {
                    self.guarded.destroy(sandbox).await.ok();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let within = tokio::time::timeout(WAIT_MAX, emptied).await;
        within.unwrap_or_else(|_| panic!("{} sandboxes are left", self.leases()));
    }
}

/// What many callers saw.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    succeeded: AtomicU64,
    ran: AtomicU64,
    in_doubt: AtomicU64,
    not_run: AtomicU64,
}

#[expect(clippy::print_stdout, reason = "whoever runs the test reads what failed")]
impl Seen {
    fn call<T>(&self, ended: Result<T, ProviderError>) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match ended {
            Ok(_) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(error) => {
                println!("  failed: {error}");
                false
            }
        }
    }
}

/// One sandbox from its creation to its end: seven calls, and one execution.
async fn live(guarded: &Guarded, number: u128, seen: &Seen) -> Option<String> {
    if !seen.call(guarded.create(create(number)).await) {
        return None;
    }
    let place = sandbox(number);
    seen.call(guarded.adopt(place, Lease::default()).await);
    let files = guarded.files().expect("it has files");
    let contents = || Body::Whole(Bytes::from_static(b"prices"));
    seen.call(files.write(place, "book.csv", contents(), BTreeMap::new()).await);
    seen.call(files.stat(place, "book.csv").await);
    seen.call(guarded.sample(place).await);
    let name = format!("order-{number}");
    let ran = match guarded.exec(place, cell(number, &format!("effect {name}"))).await {
        Ok(stream) => match end_of(stream).await.1.outcome {
            Outcome::Ok => true,
            Outcome::Lost => {
                seen.in_doubt.fetch_add(1, Ordering::Relaxed);
                false
            }
            other => panic!("{other:?}"),
        },
        Err(error) => {
            let what = if error.maybe_done() { &seen.in_doubt } else { &seen.not_run };
            what.fetch_add(1, Ordering::Relaxed);
            false
        }
    };
    seen.call(guarded.list().await);
    seen.call(guarded.destroy(place).await);
    if ran {
        seen.ran.fetch_add(1, Ordering::Relaxed);
    }
    ran.then_some(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_calls_come_through_three_regions_of_which_a_third_fails() {
    const SANDBOXES: u128 = 290;
    const CALLERS: u128 = 28;
    const PERCENT: u64 = 30;
    let (world, clock) = (World::new(Weather::Rough(PERCENT), rough(), 11).await, Clock::start());
    let (seen, began) = (Seen::default(), clock.now());
    let callers = (0..CALLERS).map(|caller| {
        let (seen, guarded) = (&seen, &world.guarded);
        async move {
            let mut ran = Vec::new();
            for number in (0..SANDBOXES).filter(|number| number % CALLERS == caller) {
                ran.extend(live(guarded, number, seen).await);
            }
            ran
        }
    });
    let ran: Vec<String> =
        futures_util::future::join_all(callers).await.into_iter().flatten().collect();
    let took = clock.now().since(began);
    let state = world.guarded.state();
    world.change(&Weather::Fair);
    world.reconcile().await;

    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (calls, succeeded) = (read(&seen.calls), read(&seen.succeeded));
    println!("{calls} calls in {took:.1?}, {succeeded} succeeded");
    println!(
        "{} executions came back, {} are in doubt and told so, {} did not begin",
        read(&seen.ran),
        read(&seen.in_doubt),
        read(&seen.not_run),
    );
    for (endpoint, way) in state.iter().zip(&world.ways) {
        let (counts, way) = (endpoint.counts, way.seen());
        // What a window that is just over and the one that has begun allow.
        let windows = took + 2 * rough().budget.window;
        let floor = windows.as_millis() * u128::from(rough().budget.floor) / 1_000;
        let floor = u64::try_from(floor).expect("a few thousand");
        let allowed = counts.calls * u64::from(PERCENT_AGAIN) / 100 + floor;
        let spent = counts.retries + counts.hedges;
        println!(
            "{}: {} calls, {} attempts, {spent} of {allowed} tokens spent, {} refused, {} openings; \
             {} requests, faults {:?}",
            endpoint.name,
            counts.calls,
            counts.attempts,
            counts.refused,
            counts.openings,
            way.requests,
            way.faults,
        );
        assert!(spent <= allowed, "{spent} retries and hedges, {allowed} allowed");
    }
    assert!(calls >= 2_000, "{calls}");
    assert!(succeeded * 1_000 >= calls * 999, "{succeeded} of {calls}");
    let effects: Vec<_> = world.clouds.iter().flat_map(Cloud::effects).collect();
    let once: BTreeSet<_> = effects.iter().collect();
    assert_eq!(once.len(), effects.len(), "nothing was done twice");
    assert!(ran.iter().all(|name| once.contains(name)), "what is said to have run has run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_sandboxes_leave_a_region_that_is_out_and_return_when_it_is_well() {
    let (world, clock) = (World::new(Weather::Fair, limits(), 5).await, Clock::start());
    let window = limits().breaker.open_min;
    for number in 0..5 {
        world.guarded.create(create(number)).await.expect("a sandbox");
    }
    assert_eq!(world.clouds[0].leases().len(), 5);
    world.ways[0].change(Weather::Outage);
    let out = clock.now();
    // The first few find it out, and are made elsewhere all the same.
    let finding = (10..14).map(|number| world.guarded.create(create(number)));
    for created in futures_util::future::join_all(finding).await {
        created.expect("another region makes it");
    }
    let breaker = || world.guarded.state()[0].breaker;
    let opened = clock.now().since(out);
    assert_eq!(breaker(), "open", "after {opened:?}");
    assert!(opened < window, "{opened:?} is within one window of {window:?}");
    let asked = world.ways[0].seen().requests;
    for number in 20..30 {
        world.guarded.create(create(number)).await.expect("a sandbox");
    }
    let asked = world.ways[0].seen().requests - asked;
    println!("failover after {opened:.2?}; then {asked} requests went the wrong way (its probes)");
    assert_eq!(world.clouds[1].leases().len(), 14, "all of them in the second region");
    assert!(asked <= 2, "{asked}: a region that is out is left alone");

    world.ways[0].change(Weather::Fair);
    let well = clock.now();
    let mut number = 100;
    let returned = async {
        while world.clouds[0].leases().len() == 5 {
            world.guarded.create(create(number)).await.expect("a sandbox");
            number += 1;
            tokio::time::sleep(window / 20).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, returned).await.expect("it returns");
    let took = clock.now().since(well);
    println!("back after {took:.2?}, with {:?} of being well", routes().well_min);
    assert!(took >= routes().well_min, "not at once");
    let first = listed(&world.guarded).await;
    assert!((0..5).all(|number| first.contains(&sandbox(number))), "none of the old ones moved");
    world.reconcile().await;
}

#[tokio::test]
async fn what_is_wrong_is_asked_once() {
    let world = World::new(Weather::Fair, limits(), 3).await;
    let wrong = CreateRequest { sandbox: sandbox(1), template: "refused".to_owned() };
    let refused = world.guarded.create(wrong).await.expect_err("it is wrong");
    assert!(matches!(refused, ProviderError::Refused { .. }), "{refused}");
    let asked: Vec<u64> =
        world.clouds.iter().map(|cloud| cloud.asked().into_values().sum()).collect();
    assert_eq!(asked, [1, 0, 0]);
    assert_eq!(world.guarded.state()[0].counts.attempts, 1);

    world.guarded.create(create(2)).await.expect("a sandbox");
    let files = world.guarded.files().expect("it has files");
    let before = world.clouds[0].asked();
    files.stat(sandbox(2), "missing").await.expect_err("it is not there");
    let after = world.clouds[0].asked();
    let stat = "POST /filesystem.Filesystem/Stat";
    assert_eq!(after[stat] - before.get(stat).copied().unwrap_or_default(), 1);
}
