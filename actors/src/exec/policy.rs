//! Which runs begin, which answer for others, and when one is given up.
//!
//! The rule it keeps: every caller gets one answer by its own deadline, and what nobody waits for
//! any more does not run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::exec::Executed;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::problem::Ran;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::provider::Work;

use super::cache::{self, Key, Results};
use crate::shell::{Ticket, refusal_of};

#[cfg(test)]
mod tests;

/// What may run. Valid already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Callers with a run under way, or waiting for one. Past this a caller is refused at once.
    pub callers_max: usize,
    /// When a caller that was refused for it may ask again.
    pub busy_pause: Duration,
    /// What is kept of results.
    pub cache: cache::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            callers_max: 1_024,
            busy_pause: Duration::from_millis(100),
            cache: cache::Limits::default(),
        }
    }
}

/// What is to run. Valid already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Who asks.
    pub tenant: Tenant,
    /// Where.
    pub place: Place,
    /// What.
    pub work: Work,
    /// Files written first.
    pub files: BTreeMap<String, Bytes>,
    /// What it is to be called, if its caller says so.
    pub id: Option<ExecId>,
    /// Environment of this run alone.
    pub env: BTreeMap<String, String>,
    /// Where in the sandbox; without it `/home/user`.
    pub cwd: Option<String>,
    /// What a command reads.
    pub stdin: Bytes,
    /// Longest it may take.
    pub time_max: Duration,
    /// How old a result of an equal run may be that answers for it; `None` if it must run.
    pub cache: Option<Duration>,
    /// Bytes of each stream in the answer.
    pub output_max: u32,
    /// Whether its output is published while it runs.
    pub stream: bool,
}

/// Where something runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a sandbox that the caller holds.
    Held(SandboxId),
    /// In a sandbox of this template that nobody used before and nobody uses again.
    Fresh(String),
}

/// Everything that can happen to executions.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A caller wants something run and listens until `until`.
    Run { ticket: Ticket, order: Arc<Order>, until: Moment },
    /// A tenant wants a run stopped.
    Cancel { ticket: Ticket, tenant: Tenant, sandbox: SandboxId, exec: ExecId },
    /// The node is leaving: nothing new, and an end to what runs at `until`.
    Close { ticket: Ticket, until: Moment },
    /// Answers [`Effect::Describe`].
    Described { ticket: Ticket, key: Key },
    /// Answers [`Effect::Describe`].
    NotDescribed { ticket: Ticket, refusal: Refusal },
    /// Answers [`Effect::Use`] and [`Effect::Acquire`].
    Given { exec: ExecId, sandbox: SandboxId, lent: Lent },
    /// Answers [`Effect::Use`] and [`Effect::Acquire`].
    NotGiven { exec: ExecId, refusal: Refusal },
    /// Answers [`Effect::Start`].
    Ended { exec: ExecId, result: Arc<Executed>, sandbox_usable: bool },
    /// Answers [`Effect::Start`].
    Failed { exec: ExecId, error: ProviderError },
    /// The deadline is here.
    Tick,
}

/// How a run came to its sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    /// It is the caller's.
    Held,
    /// It is the run's.
    Fresh,
}

/// Everything that can be wanted done.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Find out what makes the run equal to others.
    Describe { ticket: Ticket, order: Arc<Order>, template: String, until: Moment },
    /// Ask leave to run in a sandbox that the caller holds.
    Use { exec: ExecId, ticket: Ticket, tenant: Tenant, sandbox: SandboxId, until: Moment },
    /// Get a fresh sandbox.
    Acquire {
        exec: ExecId,
        ticket: Ticket,
        tenant: Tenant,
        template: String,
        time_max: Duration,
        until: Moment,
    },
    /// Begin.
    Start { exec: ExecId, ticket: Ticket, sandbox: SandboxId, order: Arc<Order> },
    /// Interrupt a run and forget it.
    Stop { exec: ExecId },
    /// Say that a run in a held sandbox is over.
    Used { exec: ExecId, sandbox: SandboxId, sandbox_usable: bool },
    /// Give a fresh sandbox back.
    Release { sandbox: SandboxId },
    /// Answer a caller.
    Answer { ticket: Ticket, result: Arc<Executed>, source: Source },
    /// Answer whoever wanted a run stopped.
    Cancelled { ticket: Ticket, was_running: bool },
    /// Nothing runs any more.
    Closed { ticket: Ticket },
    /// Refuse a caller.
    Refuse { ticket: Ticket, refusal: Refusal },
}

/// Where a result comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was run, and nothing else was asked for.
    Ran,
    /// It was run because no result answered for it.
    Missed,
    /// An equal run under way answered for it.
    Joined,
    /// An earlier result answered for it.
    Cached,
}

/// How often results answered for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// From an earlier result.
    pub hits: u64,
    /// By an equal run under way.
    pub joined: u64,
    /// Had to run.
    pub misses: u64,
}

/// The state of all executions.
#[derive(Debug)]
pub struct Execs {
    limits: Limits,
    draw: ChaCha8Rng,
    /// Callers whose run is being compared with others.
    comparing: BTreeMap<Ticket, Comparing>,
    runs: BTreeMap<ExecId, Run>,
    /// The run that others with the same key join.
    flights: BTreeMap<Key, ExecId>,
    results: Results,
    counts: Counts,
    closing: Option<Closing>,
}

/// Nothing new begins.
#[derive(Debug)]
struct Closing {
    /// Whoever waits for the end of all runs.
    asked: Vec<Ticket>,
    /// When what still runs is given up: the earliest moment that anybody named.
    until: Moment,
}

#[derive(Debug)]
struct Comparing {
    order: Arc<Order>,
    since: Moment,
    until: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    since: Moment,
    until: Moment,
}

#[derive(Debug)]
struct Run {
    order: Arc<Order>,
    key: Option<Key>,
    /// Who asked first; its trace is the run's.
    first: Ticket,
    /// Whoever wants the result.
    waiting: Vec<Waiting>,
    stage: Stage,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// No sandbox yet.
    Seeking,
    Running {
        sandbox: SandboxId,
    },
}

impl Execs {
    /// Begins with nothing: a cache is a cache, and runs of an earlier life were interrupted with
    /// it. `seed` must differ from life to life: ids are drawn from it.
    pub fn recover(limits: Limits, seed: [u8; 32]) -> Self {
        Self {
            limits,
            draw: ChaCha8Rng::from_seed(seed),
            comparing: BTreeMap::new(),
            runs: BTreeMap::new(),
            flights: BTreeMap::new(),
            results: Results::new(limits.cache),
            counts: Counts::default(),
            closing: None,
        }
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Run { ticket, order, until } => {
                self.admit(now, ticket, order, until, &mut effects);
            }
            Event::Cancel { ticket, tenant, sandbox, exec } => {
                let was_running = self.cancel(&tenant, sandbox, exec, &mut effects);
                effects.push(Effect::Cancelled { ticket, was_running });
            }
            Event::Close { ticket, until } => {
                let closing = self.closing.get_or_insert(Closing { asked: Vec::new(), until });
                closing.asked.push(ticket);
                closing.until = closing.until.min(until);
            }
            Event::Described { ticket, key } => {
                // Not on the list: it was refused at its deadline.
                if let Some(caller) = self.comparing.remove(&ticket) {
                    self.compare(now, ticket, caller, key, &mut effects);
                }
            }
            Event::NotDescribed { ticket, refusal } => {
                if self.comparing.remove(&ticket).is_some() {
                    effects.push(Effect::Refuse { ticket, refusal });
                }
            }
            Event::Given { exec, sandbox, lent } => self.given(exec, sandbox, lent, &mut effects),
            Event::NotGiven { exec, refusal } => {
                if self.runs.get(&exec).is_some_and(|run| run.stage == Stage::Seeking) {
                    self.refuse_all(exec, &refusal, &mut effects);
                }
            }
            Event::Ended { exec, result, sandbox_usable } => {
                self.ended(now, exec, &result, sandbox_usable, &mut effects);
            }
            Event::Failed { exec, error } => self.failed(exec, &error, &mut effects),
            Event::Tick => (),
        }
        self.refuse_late(now, &mut effects);
        self.finish_closing(now, &mut effects);
        effects
    }

    /// The next moment at which time alone changes a decision.
    pub fn next_deadline(&self) -> Option<Moment> {
        let comparing = self.comparing.values().map(|caller| caller.until);
        let waiting = self.runs.values().flat_map(|run| run.waiting.iter().map(|one| one.until));
        let closing = self.closing.iter().filter(|closing| !closing.asked.is_empty());
        let closing = closing.map(|closing| closing.until);
        comparing.chain(waiting).chain(closing).min()
    }

    /// Callers with a run under way, or waiting for one.
    pub fn callers(&self) -> usize {
        self.comparing.len() + self.runs.values().map(|run| run.waiting.len()).sum::<usize>()
    }

    /// Runs under way, in a sandbox or on the way to one.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// How often results answered for others.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Results kept, and their bytes.
    pub fn results(&self) -> (usize, u64) {
        (self.results.len(), self.results.bytes())
    }

    fn admit(
        &mut self,
        now: Moment,
        ticket: Ticket,
        order: Arc<Order>,
        until: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let callers = self.callers();
        let refusal = if self.closing.is_some() {
            Some(Refusal::Draining)
        } else if until <= now {
            Some(Refusal::TooLate { late: now.since(until) })
        } else if callers >= self.limits.callers_max {
            Some(Refusal::Busy { waiting: callers, retry_after: self.limits.busy_pause })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return effects.push(Effect::Refuse { ticket, refusal });
        }
        match &order.place {
            Place::Fresh(template) if order.cache.is_some() => {
                let (template, order) = (template.clone(), Arc::clone(&order));
                let comparing = Comparing { order: Arc::clone(&order), since: now, until };
                self.comparing.insert(ticket, comparing);
                effects.push(Effect::Describe { ticket, order, template, until });
            }
            // What runs in a held sandbox depends on all that ran there before.
            _ => self.begin(Waiting { ticket, since: now, until }, order, None, effects),
        }
    }

    fn compare(
        &mut self,
        now: Moment,
        ticket: Ticket,
        caller: Comparing,
        key: Key,
        effects: &mut Vec<Effect>,
    ) {
        let Comparing { order, since, until } = caller;
        let waiting = Waiting { ticket, since, until };
        let age_max = order.cache.unwrap_or_default();
        if let Some((result, age)) = self.results.get(now, key, age_max) {
            self.counts.hits += 1;
            let result = self.answering_for(&result, age);
            effects.push(Effect::Answer { ticket, result, source: Source::Cached });
        } else if let Some(run) = self.flights.get(&key).and_then(|exec| self.runs.get_mut(exec)) {
            self.counts.joined += 1;
            run.waiting.push(waiting);
        } else {
            self.counts.misses += 1;
            self.begin(waiting, order, Some(key), effects);
        }
    }

    fn begin(
        &mut self,
        waiting: Waiting,
        order: Arc<Order>,
        key: Option<Key>,
        effects: &mut Vec<Effect>,
    ) {
        let Waiting { ticket, until, .. } = waiting;
        let exec = order.id.unwrap_or_else(|| ExecId::minted(self.draw.random()));
        if self.runs.contains_key(&exec) {
            let (field, came) = ("execution_id", exec.to_string());
            let expected = "an id that no run under way has".to_owned();
            let refusal = Refusal::Invalid { field, came, expected };
            effects.push(Effect::Refuse { ticket, refusal });
            return;
        }
        let tenant = order.tenant.clone();
        effects.push(match &order.place {
            Place::Held(sandbox) => Effect::Use { exec, ticket, tenant, sandbox: *sandbox, until },
            Place::Fresh(template) => {
                let (template, time_max) = (template.clone(), order.time_max);
                Effect::Acquire { exec, ticket, tenant, template, time_max, until }
            }
        });
        if let Some(key) = key {
            self.flights.insert(key, exec);
        }
        let (waiting, stage) = (vec![waiting], Stage::Seeking);
        self.runs.insert(exec, Run { order, key, first: ticket, waiting, stage });
    }

    fn given(&mut self, exec: ExecId, sandbox: SandboxId, lent: Lent, effects: &mut Vec<Effect>) {
        match self.runs.get_mut(&exec) {
            Some(run) if run.stage == Stage::Seeking => {
                run.stage = Stage::Running { sandbox };
                let (ticket, order) = (run.first, Arc::clone(&run.order));
                effects.push(Effect::Start { exec, ticket, sandbox, order });
            }
            // An answer that came twice.
            Some(_) => (),
            // Nobody waits for it any more.
            None => effects.push(match lent {
                Lent::Held => Effect::Used { exec, sandbox, sandbox_usable: true },
                Lent::Fresh => Effect::Release { sandbox },
            }),
        }
    }

    fn ended(
        &mut self,
        now: Moment,
        exec: ExecId,
        result: &Arc<Executed>,
        sandbox_usable: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(run) = self.forget(exec) else { return };
        if let Some(key) = run.key {
            self.results.put(now, key, result);
        }
        give_back(exec, &run, sandbox_usable, effects);
        for Waiting { ticket, .. } in run.waiting {
            let (result, source) = match run.key {
                None => (Arc::clone(result), Source::Ran),
                Some(_) if ticket == run.first => (Arc::clone(result), Source::Missed),
                Some(_) => (self.answering_for(result, Duration::ZERO), Source::Joined),
            };
            effects.push(Effect::Answer { ticket, result, source });
        }
    }

    fn failed(&mut self, exec: ExecId, error: &ProviderError, effects: &mut Vec<Effect>) {
        let Some(run) = self.runs.get(&exec) else { return };
        let Stage::Running { .. } = run.stage else { return };
        let refusal = match (error, &run.order.place) {
            // The caller never knew that sandbox.
            (ProviderError::Gone(_), Place::Fresh(_)) => {
                Refusal::Provider { why: "the sandbox ended".to_owned(), ran: Ran::Unknown }
            }
            _ => refusal_of(error),
        };
        let run = self.forget(exec).expect("looked up above");
        let usable = !matches!(error, ProviderError::Gone(_));
        give_back(exec, &run, usable, effects);
        for Waiting { ticket, .. } in run.waiting {
            effects.push(Effect::Refuse { ticket, refusal: refusal.clone() });
        }
    }

    fn cancel(
        &mut self,
        tenant: &Tenant,
        sandbox: SandboxId,
        exec: ExecId,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let is_there = |run: &Run| match run.stage {
            Stage::Running { sandbox: at } => at == sandbox,
            Stage::Seeking => run.order.place == Place::Held(sandbox),
        };
        let is_it = |run: &&Run| run.order.tenant == *tenant && is_there(run);
        if self.runs.get(&exec).filter(is_it).is_none() {
            return false;
        }
        self.refuse_all(exec, &Refusal::Cancelled, effects);
        true
    }

    /// Gives a run up, wherever it is.
    fn refuse_all(&mut self, exec: ExecId, refusal: &Refusal, effects: &mut Vec<Effect>) {
        let Some(run) = self.forget(exec) else { return };
        if let Stage::Running { .. } = run.stage {
            effects.push(Effect::Stop { exec });
        }
        give_back(exec, &run, true, effects);
        for Waiting { ticket, .. } in run.waiting {
            effects.push(Effect::Refuse { ticket, refusal: refusal.clone() });
        }
    }

    fn refuse_late(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.comparing.retain(|ticket, caller| {
            if caller.until <= now {
                let refusal = Refusal::WaitedTooLong { waited: now.since(caller.since) };
                effects.push(Effect::Refuse { ticket: *ticket, refusal });
            }
            now < caller.until
        });
        let mut abandoned = Vec::new();
        for (exec, run) in &mut self.runs {
            run.waiting.retain(|&Waiting { ticket, since, until }| {
                if until <= now {
                    let refusal = match run.stage {
                        Stage::Seeking => Refusal::WaitedTooLong { waited: now.since(since) },
                        Stage::Running { .. } => Refusal::Unfinished,
                    };
                    effects.push(Effect::Refuse { ticket, refusal });
                }
                now < until
            });
            if run.waiting.is_empty() {
                abandoned.push(*exec);
            }
        }
        for exec in abandoned {
            self.refuse_all(exec, &Refusal::Unfinished, effects);
        }
    }

    fn finish_closing(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some(closing) = self.closing.as_ref() else { return };
        if closing.asked.is_empty() {
            return;
        }
        if closing.until <= now {
            let runs: Vec<_> = self.runs.keys().copied().collect();
            for exec in runs {
                self.refuse_all(exec, &Refusal::Unfinished, effects);
            }
            for (ticket, _) in std::mem::take(&mut self.comparing) {
                effects.push(Effect::Refuse { ticket, refusal: Refusal::Draining });
            }
        }
        if self.runs.is_empty() && self.comparing.is_empty() {
            let asked = self.closing.as_mut().map(|closing| std::mem::take(&mut closing.asked));
            let asked = asked.into_iter().flatten();
            effects.extend(asked.map(|ticket| Effect::Closed { ticket }));
        }
    }

    fn forget(&mut self, exec: ExecId) -> Option<Run> {
        let run = self.runs.remove(&exec)?;
        if let Some(key) = run.key
            && self.flights.get(&key) == Some(&exec)
        {
            self.flights.remove(&key);
        }
        Some(run)
    }

    /// A result as it answers for another run.
    fn answering_for(&mut self, result: &Executed, age: Duration) -> Arc<Executed> {
        Arc::new(Executed {
            execution_id: ExecId::minted(self.draw.random()),
            cached: true,
            age_ms: Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            original_exec_id: Some(result.execution_id),
            ..result.clone()
        })
    }
}

/// Gives back whatever the run was lent.
fn give_back(exec: ExecId, run: &Run, sandbox_usable: bool, effects: &mut Vec<Effect>) {
    let Stage::Running { sandbox } = run.stage else { return };
    effects.push(match run.order.place {
        Place::Held(_) => Effect::Used { exec, sandbox, sandbox_usable },
        Place::Fresh(_) => Effect::Release { sandbox },
    });
}
