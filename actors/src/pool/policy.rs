//! Which sandboxes to make, give, take back and destroy.
//!
//! The rule it keeps: a sandbox has at most one holder, and what had a holder is never handed on.
//! What is being destroyed takes room until it is verified to be gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_messages::problem::Ran;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::provider::{self, TemplateInfo};

use crate::shell::{Ticket, refusal_of};
use lease::Lease;
pub use lease::{Allowed, AtExpiry, Cause, Ended, Facts, Granted, Held, Order, Owned, OwnedStage};
pub use look::StockView;
use stance::Parked;
pub use stance::{Ask, Turn};
pub use stock::Counts;
use stock::{Asking, State, Stock, Waiting};

mod answers;
mod follow;
mod lease;
mod look;
mod stance;
mod stock;
#[cfg(test)]
mod tests;
mod used;

/// What the pool may do. Valid already: the configuration was checked when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sandboxes kept ready beyond those leased, by template. What is not named here is made only
    /// when somebody asks.
    pub targets: BTreeMap<String, usize>,
    /// Most sandboxes alive, being made or being destroyed at once.
    pub total_max: usize,
    /// Most sandboxes being made at once. More would only make each of them slower.
    pub booting_max: usize,
    /// Most callers waiting at once. Past this a caller is refused at once: an answer that had to
    /// queue behind so many would come too late to trade on.
    pub waiting_max: usize,
    /// No caller waits longer, however patient.
    pub wait_max: Duration,
    /// A ready sandbox that nobody wanted for so long is made anew.
    pub idle_max: Duration,
    /// Pause after the provider failed before it is asked again.
    pub retry_pause: Duration,
    /// A template that cannot be used is tried again after this long, if somebody asks.
    pub broken_pause: Duration,
    /// A boot that did not end by then has failed.
    pub boot_max: Duration,
    /// A destruction without an answer is asked for again after this long.
    pub destroy_max: Duration,
    /// A holder who ends its sandbox is told after this long that its end is still under way.
    pub terminate_wait: Duration,
    /// Longest lifetime, however often executions extend it.
    pub lifetime_max: Duration,
    /// An execution extends the lifetime to this long after its own end.
    pub after_exec: Duration,
    /// How long a paused sandbox is kept that nobody wants.
    pub paused_kept: Duration,
    /// Pausing or resuming a sandbox that did not end by then has failed.
    pub turn_max: Duration,
    /// How long the end of a sandbox is remembered.
    pub ended_kept: Duration,
    /// How many ends are remembered.
    pub ended_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            targets: BTreeMap::new(),
            total_max: 64,
            booting_max: 8,
            waiting_max: 256,
            wait_max: Duration::from_secs(60),
            idle_max: Duration::from_secs(3_600),
            retry_pause: Duration::from_millis(500),
            broken_pause: Duration::from_secs(30),
            boot_max: Duration::from_secs(30),
            destroy_max: Duration::from_secs(10),
            terminate_wait: Duration::from_secs(10),
            lifetime_max: Duration::from_secs(86_400),
            after_exec: Duration::from_secs(60),
            paused_kept: Duration::from_secs(86_400),
            turn_max: Duration::from_secs(30),
            ended_kept: Duration::from_secs(3_600),
            ended_max: 10_000,
        }
    }
}

/// A caller gets a third sandbox if two could not be given to it, and no fourth: what fails three
/// times is not bad luck.
const ADOPTIONS_MAX: u32 = 3;

/// Everything that can happen to the pool.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A caller wants a sandbox and is ready to wait for it.
    Acquire { ticket: Ticket, order: Arc<Order>, until: Moment },
    /// A caller wants to know what a template is.
    Describe { ticket: Ticket, template: String, until: Moment },
    /// There is a template that may not have been there before.
    Learn { template: String },
    /// A holder is about to run something that is over by `until`.
    Use { ticket: Ticket, tenant: Tenant, sandbox: SandboxId, exec: ExecId, until: Moment },
    /// That is over.
    Used { sandbox: SandboxId, exec: ExecId, sandbox_usable: bool },
    /// A holder wants something of its lease.
    Ask { ticket: Ticket, tenant: Tenant, sandbox: SandboxId, ask: Ask, until: Moment },
    /// A holder is done with its sandbox, and waits until it is gone.
    Terminate { ticket: Ticket, tenant: Tenant, sandbox: SandboxId, until: Moment },
    /// A holder is done with its sandbox once what runs in it is over, at `drained` at the latest,
    /// and waits until it is gone.
    Retire { ticket: Ticket, tenant: Tenant, sandbox: SandboxId, drained: Moment },
    /// A sandbox is not needed any more; nobody waits for its end.
    Release { sandbox: SandboxId, cause: Cause },
    /// The reaper found one that should have ended.
    Reap { sandbox: SandboxId, cause: Cause },
    /// The node is leaving: no more sandboxes, and an end to those that are.
    Close { ticket: Ticket, until: Moment },
    /// Answers [`Effect::Prepare`].
    Prepared { template: String, info: TemplateInfo },
    /// Answers [`Effect::Prepare`].
    PrepareFailed { template: String, error: ProviderError },
    /// Answers [`Effect::Boot`].
    Booted { sandbox: SandboxId },
    /// Answers [`Effect::Boot`].
    BootFailed { sandbox: SandboxId, error: ProviderError },
    /// Answers [`Effect::Adopt`].
    Adopted { sandbox: SandboxId },
    /// Answers [`Effect::Adopt`].
    AdoptFailed { sandbox: SandboxId, error: ProviderError },
    /// Answers [`Effect::Turn`].
    Turned { sandbox: SandboxId, round: u64, outcome: Result<(), ProviderError> },
    /// Answers [`Effect::Destroy`].
    Destroyed { sandbox: SandboxId },
    /// Answers [`Effect::Destroy`].
    DestroyFailed { sandbox: SandboxId },
    /// Answers [`Effect::List`].
    Listed { survivors: Vec<SandboxId> },
    /// Answers [`Effect::List`].
    ListFailed,
    /// A sandbox ended by itself.
    Died { sandbox: SandboxId },
    /// The deadline is here.
    Tick,
}

/// Everything the pool can want done.
#[expect(missing_docs, reason = "each field is named after what it identifies")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out which sandboxes exist.
    List,
    /// Make sure that a template can be used.
    Prepare { template: String },
    /// Make a sandbox; `for_caller` is whose wait it is to end, if it is for one.
    Boot { sandbox: SandboxId, template: String, for_caller: Option<Ticket> },
    /// Give a ready sandbox the environment and limits of its holder.
    Adopt { sandbox: SandboxId, ticket: Ticket, lease: Arc<provider::Lease> },
    /// Pause or resume a sandbox. No two have the same round.
    Turn { sandbox: SandboxId, turn: Turn, round: u64 },
    /// Destroy a sandbox.
    Destroy { sandbox: SandboxId, cause: Cause },
    /// Answer a caller.
    Answer { ticket: Ticket, answer: Answer },
    /// Refuse a caller.
    Refuse { ticket: Ticket, refusal: Refusal },
}

/// The answer when it is yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Event::Acquire`].
    Granted(Granted),
    /// To [`Event::Describe`].
    Described(TemplateInfo),
    /// To [`Event::Use`].
    Allowed(Allowed),
    /// To [`Event::Ask`].
    Facts(Facts),
    /// To [`Event::Terminate`] and [`Event::Retire`].
    Ended(Ended),
    /// To [`Event::Close`].
    Closed {
        /// Sandboxes that were not verified to be gone in time.
        left: usize,
    },
}

/// The pool's state. A sandbox is in exactly one of its maps.
#[derive(Debug)]
pub struct Pool {
    limits: Limits,
    node: NodeId,
    draw: ChaCha8Rng,
    stage: Stage,
    stocks: BTreeMap<String, Stock>,
    booting: BTreeMap<SandboxId, Booting>,
    adopting: BTreeMap<SandboxId, Adopting>,
    leased: BTreeMap<SandboxId, Lease>,
    /// When each lease is looked at next, earliest first.
    checks: BTreeSet<(Moment, SandboxId)>,
    ending: BTreeMap<SandboxId, Ending>,
    ended: BTreeMap<SandboxId, Past>,
    ended_order: VecDeque<(Moment, SandboxId)>,
    closing: Option<Closing>,
    /// Turns so far.
    rounds: u64,
    swept: Swept,
}

/// Leases that time alone ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Their lifetime was over.
    pub expired: u64,
    /// Nothing ran in them for too long.
    pub idle: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Waiting to hear what exists.
    Listing,
    /// That failed; to be asked again.
    ListAfter(Moment),
    Open,
}

#[derive(Debug)]
struct Booting {
    template: String,
    until: Moment,
}

#[derive(Debug)]
struct Adopting {
    caller: Waiting,
    limits: provider::Limits,
}

#[derive(Debug)]
struct Ending {
    /// Empty for what survived a restart.
    template: String,
    cause: Cause,
    since: Moment,
    /// When its destruction is asked for again, if nobody says that it is gone.
    again: Moment,
    /// Callers who wait until it is gone.
    waiting: Vec<(Ticket, Moment)>,
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Past {
    cause: Cause,
    at: Moment,
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Closing {
    /// Who asked, until it is answered.
    asked: Option<(Ticket, Moment)>,
}

impl Pool {
    /// The only way to begin, the first time and after every restart: knowing nothing, asking.
    /// `seed` must differ from life to life: ids are drawn from it.
    pub fn recover(
        limits: Limits,
        node: NodeId,
        templates: impl IntoIterator<Item = String>,
        seed: [u8; 32],
    ) -> (Self, Vec<Effect>) {
        let targets = &limits.targets;
        let named = targets.iter().map(|(name, target)| (name.clone(), Stock::new(*target)));
        let mut stocks: BTreeMap<_, _> = named.collect();
        for name in templates {
            stocks.entry(name).or_insert_with(|| Stock::new(0));
        }
        let mut pool = Self {
            limits,
            node,
            draw: ChaCha8Rng::from_seed(seed),
            stage: Stage::Listing,
            stocks,
            booting: BTreeMap::new(),
            adopting: BTreeMap::new(),
            leased: BTreeMap::new(),
            checks: BTreeSet::new(),
            ending: BTreeMap::new(),
            ended: BTreeMap::new(),
            ended_order: VecDeque::new(),
            closing: None,
            rounds: 0,
            swept: Swept::default(),
        };
        let mut effects = vec![Effect::List];
        pool.prepare_wanted(Moment::START, &mut effects);
        (pool, effects)
    }

    /// Takes in one event and decides what follows.
    #[must_use = "an effect that is not carried out is a lost decision"]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take_in(now, event, &mut effects);
        self.follow_up(now, &mut effects);
        effects
    }

    fn take_in(&mut self, now: Moment, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Acquire { ticket, order, until } => {
                self.admit(now, ticket, order, until, effects);
            }
            Event::Describe { ticket, template, until } => {
                self.describe(now, ticket, &template, until, effects);
            }
            Event::Learn { template } => {
                self.stocks.entry(template).or_insert_with(|| Stock::new(0));
            }
            Event::Use { ticket, tenant, sandbox, exec, until } => {
                match self.begin_use(now, &tenant, sandbox, exec, until, effects) {
                    Ok(answer) => effects.push(Effect::Answer { ticket, answer }),
                    Err(refusal) => effects.push(Effect::Refuse { ticket, refusal }),
                }
            }
            Event::Used { sandbox, exec, sandbox_usable } => {
                self.end_use(now, sandbox, exec, effects);
                if !sandbox_usable && self.leased.contains_key(&sandbox) {
                    self.end_lease(now, sandbox, Cause::Lost, effects);
                }
            }
            Event::Ask { ticket, tenant, sandbox, ask, until } => {
                self.asked(now, &tenant, sandbox, Parked::new(ticket, ask, until), effects);
            }
            Event::Turned { sandbox, round, outcome } => {
                self.turned(now, sandbox, round, outcome, effects);
            }
            Event::Terminate { ticket, tenant, sandbox, until } => {
                self.terminate(now, ticket, &tenant, sandbox, until, effects);
            }
            Event::Retire { ticket, tenant, sandbox, drained } => {
                self.retire(now, ticket, &tenant, sandbox, drained, effects);
            }
            Event::Release { sandbox, cause } => {
                if self.leased.contains_key(&sandbox) {
                    self.end_lease(now, sandbox, cause, effects);
                }
            }
            Event::Reap { sandbox, cause } => self.reap(now, sandbox, cause, effects),
            Event::Close { ticket, until } => self.close(now, ticket, until, effects),
            Event::Prepared { template, info } => self.prepared(&template, info, effects),
            Event::PrepareFailed { template, error } => {
                let stock = self.stocks.get(&template);
                if stock.is_some_and(|stock| stock.state == State::Preparing) {
                    self.template_failed(now, &template, &error, effects);
                }
            }
            Event::Booted { sandbox } => self.booted(now, sandbox, effects),
            Event::BootFailed { sandbox, error } => {
                self.boot_failed(now, sandbox, &error, effects);
            }
            Event::Adopted { sandbox } => self.adopted(now, sandbox, effects),
            Event::AdoptFailed { sandbox, error } => {
                if let Some(Adopting { caller, .. }) = self.adopting.remove(&sandbox) {
                    self.end(now, sandbox, &caller.order.template, Cause::NotAdopted, effects);
                    self.not_adopted(caller, &error, effects);
                }
            }
            Event::Destroyed { sandbox } => self.destroyed(now, sandbox, effects),
            Event::DestroyFailed { sandbox } => {
                if let Some(ending) = self.ending.get_mut(&sandbox) {
                    ending.again = now + self.limits.retry_pause;
                }
            }
            Event::Listed { survivors } => {
                // Once open, the pool knows better than a list that took its time.
                if self.stage != Stage::Open {
                    self.stage = Stage::Open;
                    // Whoever held them is not known any more, so nobody may hold them again.
                    for sandbox in survivors {
                        self.end(now, sandbox, "", Cause::Survived, effects);
                    }
                }
            }
            Event::ListFailed => {
                if self.stage == Stage::Listing {
                    self.stage = Stage::ListAfter(now + self.limits.retry_pause);
                }
            }
            Event::Died { sandbox } => self.died(now, sandbox, effects),
            Event::Tick => (),
        }
    }

    fn admit(
        &mut self,
        now: Moment,
        ticket: Ticket,
        order: Arc<Order>,
        until: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let until = until.min(now + self.limits.wait_max);
        let waiting: usize = self.stocks.values().map(|stock| stock.waiting.len()).sum();
        let full = self.leased.len() >= self.limits.total_max;
        let Some(stock) = self.stocks.get_mut(&order.template) else {
            let refusal = self.no_such_template(&order.template);
            return effects.push(Effect::Refuse { ticket, refusal });
        };
        let refusal = if self.closing.is_some() {
            Some(Refusal::Draining)
        } else if let Some(refusal) = broken(now, stock) {
            Some(refusal)
        } else if stock.warm.is_empty() && (waiting >= self.limits.waiting_max || until <= now) {
            Some(if full {
                Refusal::Quota { max: self.limits.total_max, setting: "pool.total_max" }
            } else {
                Refusal::Busy { waiting, retry_after: self.limits.retry_pause }
            })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            stock.counts.refused += 1;
            return effects.push(Effect::Refuse { ticket, refusal });
        }
        let hit = !stock.warm.is_empty();
        match hit {
            true => stock.counts.hits += 1,
            false => stock.counts.misses += 1,
        }
        stock.waiting.push_back(Waiting { ticket, order, since: now, until, failures: 0, hit });
    }

    fn describe(
        &mut self,
        now: Moment,
        ticket: Ticket,
        template: &str,
        until: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let until = until.min(now + self.limits.wait_max);
        let Some(stock) = self.stocks.get_mut(template) else {
            let refusal = self.no_such_template(template);
            return effects.push(Effect::Refuse { ticket, refusal });
        };
        if let State::Usable(info) = &stock.state {
            let answer = Answer::Described(info.clone());
            return effects.push(Effect::Answer { ticket, answer });
        }
        let busy =
            Refusal::Busy { waiting: stock.asking.len(), retry_after: self.limits.retry_pause };
        let full = stock.asking.len() >= self.limits.waiting_max;
        let refusal = broken(now, stock).or_else(|| full.then_some(busy));
        match refusal {
            Some(refusal) => effects.push(Effect::Refuse { ticket, refusal }),
            None => stock.asking.push(Asking { ticket, since: now, until }),
        }
    }

    fn terminate(
        &mut self,
        now: Moment,
        ticket: Ticket,
        tenant: &Tenant,
        sandbox: SandboxId,
        until: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if self.leased.get(&sandbox).is_some_and(|lease| lease.order.tenant == *tenant) {
            self.end_lease(now, sandbox, Cause::Terminated, effects);
        }
        let is_theirs = |lease: &Option<Lease>| {
            lease.as_ref().is_some_and(|lease| lease.order.tenant == *tenant)
        };
        let until = until.min(now + self.limits.terminate_wait);
        if let Some(ending) = self.ending.get_mut(&sandbox).filter(|one| is_theirs(&one.lease)) {
            ending.waiting.push((ticket, until));
        } else if let Some(ended) = self.past(now, sandbox).filter(|one| is_theirs(&one.lease)) {
            let answer = Answer::Ended(ended.told(sandbox));
            effects.push(Effect::Answer { ticket, answer });
        } else {
            let refusal = self.not_held(now, tenant, sandbox);
            effects.push(Effect::Refuse { ticket, refusal });
        }
    }

    /// Ends what the reaper or a look at the clock says is over, if it still is.
    fn reap(&mut self, now: Moment, sandbox: SandboxId, cause: Cause, effects: &mut Vec<Effect>) {
        if cause == Cause::Lost {
            return self.died(now, sandbox, effects);
        }
        let Some(lease) = self.leased.get(&sandbox).filter(|lease| lease.due() <= now) else {
            return;
        };
        let retired = lease.retiring.as_ref().is_some_and(|retiring| retiring.until <= now);
        let cause = match lease.expires <= now {
            _ if retired => Cause::Terminated,
            true => Cause::Expired,
            false => Cause::Idle,
        };
        match cause {
            Cause::Expired => self.swept.expired += 1,
            Cause::Idle => self.swept.idle += 1,
            _ => (),
        }
        self.end_lease(now, sandbox, cause, effects);
    }

    fn close(&mut self, now: Moment, ticket: Ticket, until: Moment, effects: &mut Vec<Effect>) {
        // Of two who ask, both learn the end; the first is answered with what is so far.
        if let Some(Closing { asked: Some((earlier, _)) }) = self.closing {
            let answer = Answer::Closed { left: self.total() };
            effects.push(Effect::Answer { ticket: earlier, answer });
        }
        self.closing = Some(Closing { asked: Some((ticket, until)) });
        for stock in self.stocks.values_mut() {
            let refusal = Refusal::Draining;
            let waiting = stock.waiting.drain(..).map(|caller| caller.ticket);
            let asking = stock.asking.drain(..).map(|caller| caller.ticket);
            let refused = waiting.chain(asking);
            effects
                .extend(refused.map(|ticket| Effect::Refuse { ticket, refusal: refusal.clone() }));
        }
        for (sandbox, Adopting { caller, .. }) in std::mem::take(&mut self.adopting) {
            let refusal = Refusal::Draining;
            effects.push(Effect::Refuse { ticket: caller.ticket, refusal });
            self.end(now, sandbox, &caller.order.template, Cause::Closing, effects);
        }
        let leased: Vec<_> = self.leased.keys().copied().collect();
        for sandbox in leased {
            self.end_lease(now, sandbox, Cause::Closing, effects);
        }
    }
}

/// The answer to whoever asks for a template that cannot be used, if it cannot.
fn broken(now: Moment, stock: &mut Stock) -> Option<Refusal> {
    match &stock.state {
        State::Broken { refusal, until } if now < *until => Some(refusal.clone()),
        // Long ago: perhaps somebody mended it.
        State::Broken { .. } => {
            stock.state = State::Unprepared;
            None
        }
        _ => None,
    }
}
