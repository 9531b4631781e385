//! A provider over several endpoints, each behind its guards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandpit_messages::time::Moment;
use tokio::sync::broadcast;
use tracing::Instrument as _;

use super::breaker::Verdict;
use super::decision::{Decision, EndpointState, Hear, class_name};
use super::gate::{Gate, Kind, Limits};
use super::places::Places;
use super::retry::{Attempts, Next, Repeat, Why};
use super::routes::{self, Routes};
use super::{Terms, Time, tend};
use crate::provider::{Class, Ending};
use crate::{Provider, ProviderError};

/// Longest time in which a file is sent as it comes: the largest that a sandbox holds, over a
/// line of a megabyte a second.
const SEND_MAX: Duration = Duration::from_secs(3_600);

/// Endings that wait for whoever listens.
const ENDINGS_ROOM: usize = 256;

/// One endpoint: a provider, and how it is guarded.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// What makes sandboxes there.
    pub provider: Arc<dyn Provider>,
    /// How it is guarded.
    pub limits: Limits,
}

/// Providers in the order of the operator. New sandboxes go to the first that is well; each stays
/// where it was made. Clone it freely.
#[derive(Clone, Debug)]
pub struct Guarded(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) providers: Vec<Arc<dyn Provider>>,
    pub(super) gates: Vec<Gate>,
    pub(super) time: Time,
    pub(super) shared: Mutex<Shared>,
    pub(super) endings: broadcast::Sender<Ending>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) routes: Routes,
    pub(super) places: Places,
}

/// What is asked of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Make a sandbox.
    Create,
    /// Change the life of one.
    Life,
    /// See what is there; may be asked twice at once.
    Look,
    /// Something that ends the same when it is done twice.
    Harmless,
    /// Something that must not be done twice.
    Once,
    /// The same, and it takes as long as somebody sends.
    Send,
}

impl Guarded {
    /// Guards `endpoints`, the first one preferred. `hear` is told what is decided, `seed` is where
    /// chance comes from.
    ///
    /// # Panics
    /// Without an endpoint.
    pub fn new(
        endpoints: Vec<Endpoint>,
        routes: routes::Limits,
        time: Time,
        hear: Hear,
        seed: u64,
    ) -> Self {
        assert!(!endpoints.is_empty(), "somebody has to make the sandboxes");
        let (endings, _) = broadcast::channel(ENDINGS_ROOM);
        let count = endpoints.len();
        let seeds = (0_u64..).map(|nth| seed.wrapping_add(nth));
        let (providers, gates) = endpoints
            .into_iter()
            .zip(seeds)
            .map(|(Endpoint { name, provider, limits }, seed)| {
                (provider, Gate::new(name, limits, time.clone(), hear.clone(), seed))
            })
            .unzip();
        let shared = Shared { routes: Routes::new(routes, count), places: Places::default() };
        let inner = Inner { providers, gates, time, shared: Mutex::new(shared), endings };
        let guarded = Self(Arc::new(inner));
        tend::begin(&guarded.0);
        guarded
    }

    /// How each endpoint stands, in order.
    pub fn state(&self) -> Vec<EndpointState> {
        self.0.state()
    }
}

impl Inner {
    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> Vec<EndpointState> {
        let now = self.time.now();
        let shared = self.shared();
        let all = self.gates.iter().enumerate().map(|(at, gate)| {
            let mut state = gate.state();
            EndpointState {
                name: gate.name.clone(),
                breaker: state.breaker.position(now).as_str(),
                is_current: shared.routes.current() == at,
                is_full: shared.routes.is_full(now, at),
                is_locked: shared.routes.is_locked(at),
                sandboxes: shared.places.at(at).count(),
                doubtful: shared.places.doubts().filter(|(owner, _)| *owner == at).count(),
                in_use: state.bulkhead.in_use(),
                waiting: state.bulkhead.waiting(),
                budget_left: state.budget.left(now),
                counts: state.counts,
            }
        });
        all.collect()
    }

    /// When a call that begins now must be over.
    pub(super) fn deadline(&self, at: usize) -> Moment {
        let usual = self.time.now() + self.gates[at].limits.call_max;
        Terms::current().deadline.map_or(usual, |deadline| deadline.min(usual))
    }

    /// Makes a call at the one endpoint that can take it, as often as it makes sense.
    pub(super) async fn call<T, F>(
        &self,
        at: usize,
        verb: Verb,
        call: impl Fn(Arc<dyn Provider>) -> F,
    ) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let gate = &self.gates[at];
        let deadline = match verb {
            Verb::Send => self.time.now() + SEND_MAX,
            _ => self.deadline(at),
        };
        let repeat = match verb {
            Verb::Send => Repeat::Doubles,
            Verb::Once if !Terms::current().repeatable => Repeat::Doubles,
            _ => Repeat::Harmless,
        };
        let mut attempts = Attempts::new(gate.limits.retry, repeat, deadline, false);
        self.begin(at);
        loop {
            let ended = self.attempt(at, verb, &attempts, deadline, &call).await;
            let error = match ended {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            match self.failed(at, verb, &mut attempts, &error) {
                Next::Again(pause) => tokio::time::sleep(pause).await,
                Next::Elsewhere(_) | Next::Stop(_) => return Err(error),
            }
        }
    }

    /// A call is made for the first time.
    pub(super) fn begin(&self, at: usize) {
        let now = self.time.now();
        let mut state = self.gates[at].state();
        state.budget.call(now);
        state.counts.calls += 1;
    }

    /// What follows from a failed attempt, and what it says about the endpoint.
    pub(super) fn failed(
        &self,
        at: usize,
        verb: Verb,
        attempts: &mut Attempts,
        error: &ProviderError,
    ) -> Next {
        let (gate, now) = (&self.gates[at], self.time.now());
        // What one sandbox refuses or has too much of says nothing about the account.
        match error.class() {
            Class::Quota if verb == Verb::Create => self.shared().routes.full(now, at),
            Class::Denied if verb == Verb::Create => {
                let endpoint = &gate.name;
                tracing::error!(endpoint, %error, "no new sandbox goes there until its key is mended");
                self.shared().routes.locked(at);
            }
            Class::Quota
            | Class::Denied
            | Class::Transient
            | Class::Throttled(_)
            | Class::Permanent
            | Class::Unsupported
            | Class::Gone => (),
        }
        let next = {
            let mut state = gate.state();
            // How long looks take is known; of a creation, what it must not take longer than.
            let usual = match verb {
                Verb::Create => gate.limits.create_slow,
                Verb::Life | Verb::Look | Verb::Harmless | Verb::Once | Verb::Send => {
                    state.hedge.usual()
                }
            };
            let share = state.dice.share();
            let next = attempts.failed(now, error, &mut state.budget, share, usual);
            state.counts.retries += u64::from(matches!(next, Next::Again(_)));
            let refused = matches!(next, Next::Elsewhere(Why::Budget) | Next::Stop(Why::Budget));
            state.counts.refused += u64::from(refused);
            next
        };
        gate.tell(match next {
            Next::Again(pause) => Decision::Retried { pause },
            Next::Elsewhere(why) | Next::Stop(why) => Decision::GivenUp { why },
        });
        next
    }

    /// One attempt: waits for its turn and for the breaker, then asks.
    pub(super) async fn attempt<T, F>(
        &self,
        at: usize,
        verb: Verb,
        attempts: &Attempts,
        deadline: Moment,
        call: &impl Fn(Arc<dyn Provider>) -> F,
    ) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let gate = &self.gates[at];
        let kind = match verb {
            Verb::Create => Kind::Creation,
            Verb::Life => Kind::Lifecycle,
            Verb::Look | Verb::Harmless | Verb::Once | Verb::Send => Kind::Operation,
        };
        gate.pace(kind, deadline).await?;
        let passing = loop {
            if let Some(passing) = gate.admit() {
                break passing;
            }
            let now = self.time.now();
            let wait = {
                let mut state = gate.state();
                let pause = gate.limits.breaker.open_min.mul_f64(0.1 * state.dice.share());
                state.breaker.next_try().unwrap_or(now).since(now) + pause
            };
            // A new sandbox can be made elsewhere; what is here has to wait.
            if verb == Verb::Create || now + wait >= deadline {
                let why = format!("endpoint {} is left alone: it failed too often", gate.name);
                return Err(ProviderError::Failed { why, maybe_done: false });
            }
            tokio::time::sleep(wait).await;
        };
        let began = self.time.now();
        let limits = &gate.limits;
        let most = match verb {
            Verb::Create => limits.create_max,
            Verb::Look => limits.look_max,
            Verb::Life | Verb::Harmless | Verb::Once => limits.attempt_max,
            Verb::Send => SEND_MAX,
        };
        let left = deadline.since(began);
        let span = tracing::info_span!(
            "provider.attempt",
            otel.kind = "client",
            sandpit.endpoint = gate.name,
            sandpit.attempt = attempts.in_all() + 1,
            sandpit.breaker = gate.position().as_str(),
            sandpit.error.class = tracing::field::Empty,
        );
        let asked = self.ask(at, verb, call).instrument(span.clone());
        let ended = tokio::time::timeout(most.min(left), asked).await;
        // It had not the time that an attempt has, or whoever sends was slow.
        let unfair = ended.is_err() && (left < most || verb == Verb::Send);
        let ended = ended.unwrap_or(Err(ProviderError::Timeout { maybe_done: true }));
        let took = self.time.now().since(began);
        let class = ended.as_ref().err().map(ProviderError::class);
        span.record("sandpit.error.class", class_name(class));
        let slow = verb == Verb::Create && took > limits.create_slow;
        passing.ended(match class {
            _ if unfair => Verdict::Unknown,
            Some(Class::Transient) => Verdict::Ill,
            _ if slow => Verdict::Ill,
            _ => Verdict::Well,
        });
        self.count(at, verb, class, took);
        ended
    }

    fn count(&self, at: usize, verb: Verb, class: Option<Class>, took: Duration) {
        let (gate, now) = (&self.gates[at], self.time.now());
        let levels = {
            let mut state = gate.state();
            state.counts.attempts += 1;
            state.counts.failed += u64::from(class.is_some());
            state.counts.throttled += u64::from(matches!(class, Some(Class::Throttled(_))));
            if class.is_none() && verb == Verb::Look {
                state.hedge.took(took);
            }
            Decision::Levels {
                budget_left: state.budget.left(now),
                in_use: state.bulkhead.in_use(),
                waiting: state.bulkhead.waiting(),
            }
        };
        gate.tell(Decision::Attempted { class, took });
        gate.tell(levels);
    }

    /// Asks, and a second time beside the first where a look takes unusually long.
    async fn ask<T, F>(
        &self,
        at: usize,
        verb: Verb,
        call: &impl Fn(Arc<dyn Provider>) -> F,
    ) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let (gate, provider) = (&self.gates[at], &self.providers[at]);
        let after = if verb == Verb::Look { gate.state().hedge.begin() } else { None };
        let mut first = std::pin::pin!(call(Arc::clone(provider)));
        let Some(after) = after else { return first.await };
        tokio::select! {
            done = &mut first => return done,
            () = tokio::time::sleep(after) => (),
        }
        let may = {
            let (mut state, now) = (gate.state(), self.time.now());
            let may = state.hedge.send() && state.budget.spend(now);
            state.counts.hedges += u64::from(may);
            may
        };
        if !may {
            return first.await;
        }
        gate.tell(Decision::Hedged);
        let mut second = std::pin::pin!(call(Arc::clone(provider)));
        tokio::select! {
            done = &mut first => match done {
                Ok(done) => Ok(done),
                Err(_) => second.await,
            },
            done = &mut second => match done {
                Ok(done) => {
                    gate.tell(Decision::HedgeWon);
                    Ok(done)
                }
                Err(_) => first.await,
            },
        }
    }
}
