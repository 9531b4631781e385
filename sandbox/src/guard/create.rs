//! A new sandbox: at the first endpoint that makes one.

use std::sync::Arc;

use sandpit_messages::id::SandboxId;
use sandpit_messages::time::Moment;

use super::Terms;
use super::breaker::Position;
use super::decision::Decision;
use super::guarded::{Inner, Verb};
use super::retry::{Attempts, Next, Repeat, Why};
use crate::ProviderError;
use crate::provider::{CreateRequest, Created};

/// A creation that was asked of an endpoint. Unless it is told that nothing was made there, what
/// may have been made is looked for and destroyed.
struct Doubt<'a> {
    inner: &'a Inner,
    at: usize,
    sandbox: SandboxId,
    is_open: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.inner.shared().places.doubt(self.at, self.sandbox);
        }
    }
}

/// A creation under way, also where its caller goes away.
struct Making<'a>(&'a Inner, SandboxId);

impl<'a> Making<'a> {
    fn of(inner: &'a Inner, sandbox: SandboxId) -> Self {
        inner.shared().places.begin(sandbox);
        Self(inner, sandbox)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.shared().places.end(self.1);
    }
}

impl Inner {
    pub(super) async fn create(&self, request: CreateRequest) -> Result<Created, ProviderError> {
        let CreateRequest { sandbox, template } = &request;
        let knows = |at: usize| self.providers[at].resolve(template).is_some();
        if !(0..self.gates.len()).any(knows) {
            return Err(ProviderError::NoSuchTemplate { name: template.clone() });
        }
        let _making = Making::of(self, *sandbox);
        let owner = self.shared().places.owner(*sandbox);
        let deadline = self.deadline(owner.unwrap_or_default());
        let mut attempts = None;
        loop {
            let asked: Vec<_> = match owner {
                Some(owner) => vec![owner],
                None => self.order().into_iter().filter(|at| knows(*at)).collect(),
            };
            let mut last = None;
            for (nth, at) in asked.iter().copied().enumerate() {
                if !self.has_room(at) {
                    last = Some(ProviderError::Quota { what: "sandboxes of the plan".to_owned() });
                    continue;
                }
                let can_move = nth + 1 < asked.len();
                let limits = self.gates[at].limits.retry;
                let attempts = attempts.get_or_insert_with(|| {
                    Attempts::new(limits, Repeat::Harmless, deadline, can_move)
                });
                attempts.moved(can_move);
                match self.create_at(at, &request, attempts, deadline).await {
                    (Ok(created), _) => return Ok(created),
                    (Err(error), Next::Elsewhere(_)) => last = Some(error),
                    (Err(error), Next::Again(_) | Next::Stop(_)) => return Err(error),
                }
            }
            // Every endpoint is left alone, or was asked in vain: the first that may be tried
            // again is waited for, if there is time.
            let now = self.time.now();
            let tries = self.gates.iter().filter_map(|gate| match gate.position() {
                Position::Closed => None,
                // Somebody is trying it right now.
                Position::HalfOpen => Some(now),
                Position::Open => gate.state().breaker.next_try(),
            });
            let none_closed = self.gates.iter().all(|gate| gate.closed_since().is_none());
            let next = tries.min().filter(|_| asked.is_empty() || none_closed);
            match (last, next) {
                (_, Some(next)) if next < deadline => {
                    // Whoever looks after the endpoints tries it; this waits for what comes of it.
                    let step = self.gates[0].limits.breaker.open_min / 10;
                    tokio::time::sleep(next.since(now).max(step)).await;
                }
                (Some(error), _) => return Err(error),
                (None, _) => {
                    let why = "no endpoint can be asked now".to_owned();
                    return Err(ProviderError::Failed { why, maybe_done: false });
                }
            }
        }
    }

    /// The endpoints that may be asked for a new sandbox, best first.
    fn order(&self) -> Vec<usize> {
        let closed: Vec<_> = self.gates.iter().map(super::gate::Gate::closed_since).collect();
        let now = self.time.now();
        let (before, after, order) = {
            let routes = &mut self.shared().routes;
            let before = routes.current();
            let order = routes.order(now, &closed);
            (before, routes.current(), order)
        };
        if before != after {
            let (from, to) = (&self.gates[before].name, &self.gates[after].name);
            tracing::warn!(from, to, "new sandboxes go to another endpoint");
            self.gates[after].tell(Decision::Switched);
        }
        order
    }

    fn has_room(&self, at: usize) -> bool {
        let Some(most) = self.gates[at].limits.sandboxes_max else { return true };
        self.shared().places.at(at).count() < most
    }

    /// Asks one endpoint for it, as often as that makes sense.
    async fn create_at(
        &self,
        at: usize,
        request: &CreateRequest,
        attempts: &mut Attempts,
        deadline: Moment,
    ) -> (Result<Created, ProviderError>, Next) {
        let gate = &self.gates[at];
        let place = gate.place(Terms::current().urgency, deadline).await;
        let _place = match place {
            Ok(place) => place,
            // Nothing was asked there: another one may have a place.
            Err(error) => return (Err(error), Next::Elsewhere(Why::NotHere)),
        };
        self.begin(at);
        let sandbox = request.sandbox;
        let mut doubt = Doubt { inner: self, at, sandbox, is_open: false };
        let call = |provider: Arc<dyn crate::Provider>| {
            let request = request.clone();
            async move { provider.create(request).await }
        };
        loop {
            let was_open = std::mem::replace(&mut doubt.is_open, true);
            let ended = self.attempt(at, Verb::Create, attempts, deadline, &call).await;
            let error = match ended {
                Ok(created) => {
                    doubt.is_open = false;
                    self.shared().places.made(at, sandbox);
                    return (Ok(created), Next::Again(std::time::Duration::ZERO));
                }
                Err(error) => error,
            };
            doubt.is_open = was_open || error.maybe_done();
            // Left alone by now: asking it again would only be refused by ourselves.
            if gate.closed_since().is_none() {
                return (Err(error), Next::Elsewhere(Why::NotHere));
            }
            match self.failed(at, Verb::Create, attempts, &error) {
                Next::Again(pause) => tokio::time::sleep(pause).await,
                next => return (Err(error), next),
            }
        }
    }
}
