//! Three nodes as three regions, on very rough ways to them: what comes through, what it costs,
//! and what it never does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sandpit_actors::clock::Clock;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::e2b::E2b;
use sandpit_sandbox::guard::decision::{Decision, Hear};
use sandpit_sandbox::guard::{Endpoint, Guarded, Limits, breaker, budget, retry, routes};
use sandpit_sandbox::provider::files::Body;
use sandpit_sandbox::provider::{Class, CreateRequest, Lease, Outcome};
use sandpit_sandbox::{Provider, ProviderError};
use sandpit_tests::cloud::proxy::{Proxy, Weather};
use sandpit_tests::cloud::rig::{self, cell, end_of, listed, sandbox};

use super::Account;
use crate::node::Node;

/// Waits are this much shorter than in the defaults.
const FASTER: u32 = 5;

/// Of a hundred calls so many may be made again, on ways as rough as these.
const PERCENT_AGAIN: u32 = 75;

/// Longest wait for anything that is bound to happen.
const WAIT_MAX: Duration = Duration::from_secs(60);

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
        look_max: usual.look_max / FASTER,
        // Whole seconds are the least a cloud can ask us to wait: those do not go faster, and a
        // call must have time for some.
        ..usual
    }
}

/// As an operator sets them for ways on which nearly every third request fails. At that rate a call
/// takes 1.36 attempts on average, which a budget of 20 % cannot pay for; and of 2,000 calls six
/// attempts leave one undone in the middle, three now and then.
fn rough() -> Limits {
    let usual = limits();
    Limits {
        retry: retry::Limits { attempts_max: 10, ..usual.retry },
        budget: budget::Limits { percent: PERCENT_AGAIN, ..usual.budget },
        ..usual
    }
}

fn routes() -> routes::Limits {
    let usual = routes::Limits::default();
    routes::Limits { well_min: usual.well_min / FASTER, full_for: usual.full_for / FASTER }
}

/// A node that is a region, and the way to it.
struct Region {
    _node: Node,
    account: Account,
    way: Proxy,
}

/// Three regions, and what guards them.
struct World {
    regions: Vec<Region>,
    guarded: Guarded,
    /// Why calls were given up at an endpoint, and how often.
    given_up: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl World {
    async fn new(weather: Weather, limits: Limits, seed: u64) -> Self {
        let (mut regions, mut endpoints) = (Vec::new(), Vec::new());
        for (name, seed) in ["eu", "us", "ap"].into_iter().zip(seed..) {
            let node = Node::start(&[
                ("SANDPIT_TEMPLATE_BASE_WARM_TARGET", "4"),
                ("SANDPIT_POOL_TOTAL_MAX", "64"),
                ("SANDPIT_PROVIDER_LOCAL_SANDBOXES_MAX", "64"),
            ]);
            let account = Account::of(&node);
            let late = Duration::from_millis(100);
            let way = Proxy::start(account.address, weather.clone(), late, seed).await;
            let provider = E2b::new(account.options(name, &way.url())).expect("an endpoint");
            endpoints.push(Endpoint {
                name: name.to_owned(),
                provider: Arc::new(provider),
                limits,
            });
            regions.push(Region { _node: node, account, way });
        }
        let given_up: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
        let counts = Arc::clone(&given_up);
        let hear = Hear::new(move |_, decision| {
            if let Decision::GivenUp { why } = decision {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                *counts.entry(format!("{why:?}")).or_default() += 1;
            }
        });
        let guarded = Guarded::new(endpoints, routes(), rig::time(), hear, seed);
        Self { regions, guarded, given_up }
    }

    fn change(&self, weather: &Weather) {
        self.regions.iter().for_each(|region| region.way.change(weather.clone()));
    }

    /// What is there, by region, as each lists it to whoever asks it directly.
    fn leases(&self) -> Vec<Vec<String>> {
        self.regions.iter().map(|region| region.account.leases()).collect()
    }

    /// Requests so far, by region.
    fn requests(&self) -> Vec<u64> {
        self.regions.iter().map(|region| region.way.seen().requests).collect()
    }

    /// Destroys all that is there, as a reaper does that owns nothing.
    async fn reconcile(&self) {
        let emptied = async {
            while self.leases().iter().any(|leases| !leases.is_empty()) {
                for sandbox in listed(&self.guarded).await {
                    self.guarded.destroy(sandbox).await.ok();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let within = tokio::time::timeout(WAIT_MAX, emptied).await;
        within.unwrap_or_else(|_| panic!("left: {:?}", self.leases()));
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
    effects: AtomicU64,
}

/// What became of an execution, as its caller was told.
#[derive(Debug)]
enum Told {
    Ran,
    InDoubt,
    NotRun,
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

#[expect(clippy::print_stdout, reason = "whoever runs the test reads what failed")]
impl Seen {
    fn call<T>(&self, ended: Result<T, ProviderError>) -> Option<T> {
        add(&self.calls);
        match ended {
            Ok(done) => {
                add(&self.succeeded);
                Some(done)
            }
            Err(error) => {
                println!("  failed: {error}");
                None
            }
        }
    }

    fn told(&self, told: &Told) {
        add(match told {
            Told::Ran => &self.ran,
            Told::InDoubt => &self.in_doubt,
            Told::NotRun => &self.not_run,
        });
    }
}

/// Runs once what leaves a trace in the file each time it runs.
async fn order(guarded: &Guarded, place: SandboxId, number: u128) -> Told {
    let trace = format!("with open('{LEDGER}', 'a') as ledger:\n    ledger.write('x')");
    match guarded.exec(place, cell(number, &trace)).await {
        Ok(stream) => match end_of(stream).await.1.outcome {
            Outcome::Ok => Told::Ran,
            Outcome::Lost => Told::InDoubt,
            other => panic!("{other:?}"),
        },
        Err(error) if error.maybe_done() => Told::InDoubt,
        Err(_) => Told::NotRun,
    }
}

/// Where executions leave their traces.
const LEDGER: &str = "/home/user/ledger";

fn create(template: &str, number: u128) -> CreateRequest {
    CreateRequest { sandbox: sandbox(number), template: template.to_owned() }
}

/// One sandbox from its creation to its end: seven calls, and one execution.
async fn live(guarded: &Guarded, number: u128, seen: &Seen) {
    if seen.call(guarded.create(create("base", number)).await).is_none() {
        return;
    }
    let place = sandbox(number);
    seen.call(guarded.adopt(place, Lease::default()).await);
    let files = guarded.files().expect("it has files");
    let empty = Body::Whole(Bytes::new());
    seen.call(files.write(place, LEDGER, empty, BTreeMap::new()).await);
    seen.call(guarded.sample(place).await);
    let told = order(guarded, place, number).await;
    seen.told(&told);
    if let Some(ledger) = seen.call(files.stat(place, LEDGER).await) {
        let traces = ledger.size;
        seen.effects.fetch_add(traces, Ordering::Relaxed);
        let holds = match told {
            Told::Ran => traces == 1,
            Told::InDoubt => traces <= 1,
            Told::NotRun => traces == 0,
        };
        assert!(holds, "{told:?}, and it ran {traces} times");
    }
    seen.call(guarded.list().await);
    seen.call(guarded.destroy(place).await);
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
            for number in (0..SANDBOXES).filter(|number| number % CALLERS == caller) {
                live(guarded, number, seen).await;
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let took = clock.now().since(began);
    let state = world.guarded.state();
    world.change(&Weather::Fair);
    let left: usize = world.leases().iter().map(Vec::len).sum();
    world.reconcile().await;

    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (calls, succeeded) = (read(&seen.calls), read(&seen.succeeded));
    println!("{calls} calls in {took:.1?}, {succeeded} succeeded");
    println!(
        "{} executions came back, {} are in doubt and told so, {} did not begin; {} ran, none twice",
        read(&seen.ran),
        read(&seen.in_doubt),
        read(&seen.not_run),
        read(&seen.effects),
    );
    println!("given up at an endpoint: {:?}", world.given_up.lock());
    println!("{left} sandboxes to be reconciled, and none after it");
    for (endpoint, region) in state.iter().zip(&world.regions) {
        let (counts, way) = (endpoint.counts, region.way.seen());
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_sandboxes_leave_a_region_that_is_out_and_return_when_it_is_well() {
    let (world, clock) = (World::new(Weather::Fair, limits(), 5).await, Clock::start());
    let window = limits().breaker.open_min;
    for number in 0..5 {
        world.guarded.create(create("base", number)).await.expect("a sandbox");
    }
    assert_eq!(world.leases()[0].len(), 5);
    world.regions[0].way.change(Weather::Outage);
    let out = clock.now();
    // The first few find it out, and are made elsewhere all the same.
    let finding = (10..14).map(|number| world.guarded.create(create("base", number)));
    for created in futures_util::future::join_all(finding).await {
        created.expect("another region makes it");
    }
    let breaker = || world.guarded.state()[0].breaker;
    let opened = clock.now().since(out);
    assert_eq!(breaker(), "open", "after {opened:?}");
    assert!(opened < window, "{opened:?} is within one window of {window:?}");
    let asked = world.requests()[0];
    for number in 20..30 {
        world.guarded.create(create("base", number)).await.expect("a sandbox");
    }
    let asked = world.requests()[0] - asked;
    println!("failover after {opened:.2?}; then {asked} requests went the wrong way (its probes)");
    assert_eq!(world.leases()[1].len(), 14, "all of them in the second region");
    assert!(asked <= 2, "{asked}: a region that is out is left alone");

    world.regions[0].way.change(Weather::Fair);
    let well = clock.now();
    let mut number = 100;
    let returned = async {
        loop {
            world.guarded.create(create("base", number)).await.expect("a sandbox");
            if world.leases()[0].len() > 5 {
                return;
            }
            world.guarded.destroy(sandbox(number)).await.expect("it is not needed");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_asked_once() {
    let world = World::new(Weather::Fair, limits(), 3).await;
    world.guarded.create(create("base", 1)).await.expect("a sandbox");
    let (asked, attempts) = (world.requests(), world.guarded.state()[0].counts.attempts);
    let refused = world.guarded.create(create("refused", 2)).await.expect_err("it is wrong");
    assert_eq!(refused.class(), Class::Permanent, "{refused}");
    assert_eq!(world.requests(), [asked[0] + 1, 0, 0]);
    assert_eq!(world.guarded.state()[0].counts.attempts, attempts + 1);

    let files = world.guarded.files().expect("it has files");
    let before = world.requests();
    files.stat(sandbox(1), "missing").await.expect_err("it is not there");
    assert_eq!(world.requests(), [before[0] + 1, 0, 0]);
    world.reconcile().await;
}
