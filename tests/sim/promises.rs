//! What is promised, kept in books of its own: who holds what until when, what was made when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sandpit_actors::exec::cache::Key;
use sandpit_actors::exec::policy::{Lent, Source};
use sandpit_actors::pool::policy::{self as pool, Cause, OwnedStage};
use sandpit_actors::shell::Ticket;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::exec::Executed;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::problem::Ran;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;

use crate::world::{Life, Who, World};

/// Who asked the pool.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    Client,
    /// An execution of that life, for its sandbox.
    Run {
        life: Life,
        exec: ExecId,
        lent: Lent,
    },
    /// An execution of that life, for the key of a caller.
    Compare {
        life: Life,
        caller: Ticket,
    },
}

/// A sandbox in somebody's hands, by the world's own books.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) tenant: Tenant,
    /// The run it was made for, if it is for one alone.
    pub(crate) fresh_for: Option<ExecId>,
    expires: Moment,
    longest: Moment,
    idle_timeout: Duration,
    last: Moment,
    running: BTreeMap<ExecId, Moment>,
    stance: Stance,
    /// Its holder said so, hung up, or is done.
    pub(crate) may_end: bool,
}

/// Whether a held sandbox runs, by the world's own books.
#[derive(Clone, Copy, Debug)]
enum Stance {
    Runs,
    Turning { turn: pool::Turn, round: u64, until: Moment },
    Stands,
}

impl Hold {
    /// When time alone ends it; never before it is settled which way it goes.
    fn due(&self) -> Option<Moment> {
        match self.stance {
            Stance::Runs => Some(self.due_if_it_runs()),
            Stance::Turning { .. } => None,
            Stance::Stands => Some(self.expires),
        }
    }

    fn due_if_it_runs(&self) -> Moment {
        let busy = self.running.values().copied().fold(self.last, Moment::max);
        self.expires.min(busy + self.idle_timeout)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) pool_askers: BTreeMap<Ticket, Asker>,
    /// Those whose question has reached this life of the pool.
    pub(crate) reached: BTreeSet<Ticket>,
    pub(crate) orders: BTreeMap<Ticket, Arc<pool::Order>>,
    pub(crate) holds: BTreeMap<SandboxId, Hold>,
    /// Held once, by anybody.
    used: BTreeSet<SandboxId>,
    /// The use that the pool is deciding on.
    using: Option<(SandboxId, ExecId, Moment)>,
    /// Who waits for which run.
    pub(crate) begun: BTreeMap<Ticket, ExecId>,
    /// What every result was made for, and when.
    pub(crate) made: BTreeMap<ExecId, (Option<Key>, Moment)>,
    /// Sandboxes that survived a crash of the pool: more than the limit may exist until they end.
    survivors: usize,
    /// Boots that the pool knows to have failed, and until when it leaves a template alone.
    pub(crate) patient: BTreeMap<String, Moment>,
    pub(crate) booting: BTreeMap<SandboxId, String>,
}

impl World {
    /// What the pool is told, before it decides.
    pub(crate) fn ledger_hears(&mut self, event: &pool::Event) {
        let now = self.now;
        let pause = self.pool_limits.retry_pause;
        if let pool::Event::Acquire { ticket, .. }
        | pool::Event::Describe { ticket, .. }
        | pool::Event::Use { ticket, .. }
        | pool::Event::Ask { ticket, .. }
        | pool::Event::Terminate { ticket, .. } = event
        {
            self.ledger.reached.insert(*ticket);
        }
        match event {
            pool::Event::Use { sandbox, exec, until, .. } => {
                self.ledger.using = Some((*sandbox, *exec, *until));
            }
            pool::Event::Used { sandbox, exec, sandbox_usable } => {
                if let Some(hold) = self.ledger.holds.get_mut(sandbox) {
                    if hold.running.remove(exec).is_some() {
                        hold.last = now;
                    }
                    hold.may_end |= !sandbox_usable;
                }
            }
            pool::Event::Turned { sandbox, round, outcome } => {
                self.ledger_turned(*sandbox, *round, outcome.is_ok());
            }
            pool::Event::Release { sandbox, .. } => {
                if let Some(hold) = self.ledger.holds.get_mut(sandbox) {
                    hold.may_end = true;
                }
            }
            pool::Event::BootFailed { sandbox, .. } => {
                // The pool may ignore an answer it was not waiting for; this one it knows.
                if let Some(template) = self.ledger.booting.remove(sandbox) {
                    self.ledger.patient.insert(template, now + pause);
                }
            }
            pool::Event::Booted { sandbox } => drop(self.ledger.booting.remove(sandbox)),
            pool::Event::Listed { survivors } => self.ledger.survivors = survivors.len(),
            _ => (),
        }
    }

    /// The sandbox that the pool is deciding on.
    pub(crate) fn using(&self) -> SandboxId {
        self.ledger.using.map(|(sandbox, ..)| sandbox).expect("it was asked for")
    }

    /// The pool gave its leave to use a sandbox.
    pub(crate) fn ledger_allows(&mut self) {
        let Some((sandbox, exec, until)) = self.ledger.using.take() else { return };
        let (now, after) = (self.now, self.pool_limits.after_exec);
        let hold = self.ledger.holds.get_mut(&sandbox);
        let held = hold.is_some();
        let runs = hold.as_ref().is_none_or(|hold| matches!(hold.stance, Stance::Runs));
        if let Some(hold) = hold {
            hold.running.insert(exec, until);
            hold.last = now;
            hold.expires = hold.expires.max((until + after).min(hold.longest));
        }
        self.promise(held, "leave is given only for what is held");
        self.promise(runs, "leave is given only for what runs");
    }

    /// The pool wants a sandbox to stop or to go on.
    pub(crate) fn ledger_turns(&mut self, sandbox: SandboxId, turn: pool::Turn, round: u64) {
        let until = self.now + self.pool_limits.turn_max;
        let hold = self.ledger.holds.get_mut(&sandbox);
        let held = hold.is_some();
        if let Some(hold) = hold {
            // What does not stand still and is to go on is a stop undone. That may fail as well, and
            // then nobody knows what it does.
            let goes_on = matches!(turn, pool::Turn::Resume { .. });
            hold.may_end |= goes_on && !matches!(hold.stance, Stance::Stands);
            hold.stance = Stance::Turning { turn, round, until };
        }
        self.promise(held, "only what is held is stopped");
    }

    /// It did, or it did not.
    fn ledger_turned(&mut self, sandbox: SandboxId, answered: u64, done: bool) {
        let (now, kept) = (self.now, self.pool_limits.paused_kept);
        let Some(hold) = self.ledger.holds.get_mut(&sandbox) else { return };
        let Stance::Turning { turn, round, until } = hold.stance else { return };
        if round != answered || until <= now {
            return;
        }
        match turn {
            pool::Turn::Pause if done => {
                hold.stance = Stance::Stands;
                hold.expires = now + kept;
            }
            pool::Turn::Resume { lifetime } if done => {
                hold.stance = Stance::Runs;
                hold.expires = (now + lifetime).min(hold.longest);
                hold.last = now;
            }
            pool::Turn::Pause => hold.stance = Stance::Runs,
            pool::Turn::Resume { .. } => hold.stance = Stance::Stands,
        }
    }

    /// A holder hears how its lease is.
    pub(crate) fn ledger_tells(&mut self, facts: &pool::Facts) {
        let Some(hold) = self.ledger.holds.get_mut(&facts.sandbox) else {
            return self.promise(false, "only the holder is told");
        };
        hold.expires = facts.expires;
        hold.last = hold.last.max(facts.last_activity);
        hold.stance = if facts.paused { Stance::Stands } else { Stance::Runs };
        let in_bounds = facts.paused || facts.expires <= hold.longest;
        self.promise(in_bounds, "no lifetime is longer than the longest");
    }

    /// The pool gives a sandbox to a caller.
    pub(crate) fn ledger_grants(
        &mut self,
        granted: &pool::Granted,
        tenant: Tenant,
        order: &pool::Order,
        fresh_for: Option<ExecId>,
    ) {
        let sandbox = granted.sandbox;
        let longest = self.now + self.pool_limits.lifetime_max;
        let hold = Hold {
            tenant,
            fresh_for,
            expires: (self.now + order.lifetime).min(longest),
            longest,
            idle_timeout: order.idle_timeout,
            last: self.now,
            running: BTreeMap::new(),
            stance: Stance::Runs,
            may_end: false,
        };
        let was_adopted = self.cloud.adopted.contains(&sandbox);
        self.promise(was_adopted, "what is granted was given its holder's environment");
        let other = self.ledger.holds.insert(sandbox, hold);
        self.promise(other.is_none(), "a sandbox has one holder");
        let fresh = self.ledger.used.insert(sandbox);
        self.promise(fresh, "what had a holder is never handed on");
        self.promise(granted.template == order.template, "the template is the one asked for");
    }

    /// The pool wants a sandbox destroyed.
    pub(crate) fn ledger_ends(&mut self, sandbox: SandboxId, cause: Cause) {
        self.ledger.booting.remove(&sandbox);
        let now = self.now;
        let is_alive = self.cloud.alive.contains(&sandbox);
        let Some(hold) = self.ledger.holds.remove(&sandbox) else { return };
        let fair = match cause {
            Cause::Expired => hold.expires <= now,
            Cause::Idle => hold.due().is_some_and(|due| due <= now),
            Cause::Lost => !is_alive || hold.may_end,
            Cause::Terminated | Cause::Finished | Cause::Abandoned => hold.may_end,
            Cause::NotAdopted
            | Cause::Unused
            | Cause::Displaced
            | Cause::NotBooted
            | Cause::Survived
            | Cause::Closing => false,
        };
        self.promise(fair, "no sandbox ends in use");
    }

    /// A caller hears a result.
    pub(crate) fn ledger_answers(&mut self, ticket: Ticket, result: &Executed, source: Source) {
        let wish = self.people.open.get(&ticket).and_then(|open| open.wish);
        let original = result.original_exec_id.unwrap_or(result.execution_id);
        let made = self.ledger.made.get(&original).copied();
        let Some((key, at)) = made else {
            return self.promise(false, "a result comes from a run");
        };
        match (source, wish) {
            (Source::Cached | Source::Joined, Some((wanted, age_max))) => {
                self.promise(key == Some(wanted), "a result answers only for equal runs");
                let age = self.now.since(at);
                let longest = age_max.min(self.exec_limits.cache.age_max);
                let fresh = source == Source::Joined || age < longest;
                self.promise(fresh, "a result is never served past its age");
                self.promise(result.exit_code == 0 || source == Source::Joined, "only a good one");
            }
            (Source::Cached | Source::Joined, None) => {
                self.promise(false, "only a run that said so is answered by another");
            }
            (Source::Ran | Source::Missed, _) => (),
        }
        self.close(ticket);
    }

    /// A caller hears a no.
    pub(crate) fn ledger_refuses(&mut self, ticket: Ticket, refusal: &Refusal) {
        let began = self.ledger.begun.contains_key(&ticket);
        let says_no = refusal.problem().ran == Ran::No;
        // What is gone may have been found gone at the start of the run.
        let excused = matches!(refusal, Refusal::NoSuchSandbox { .. } | Refusal::Provider { .. });
        self.promise(!(began && says_no) || excused, "what is refused as not done was not done");
        self.close(ticket);
    }

    /// A question has its answer.
    pub(crate) fn close(&mut self, ticket: Ticket) {
        let now = self.now;
        let open = self.people.open.remove(&ticket);
        let in_time = open.as_ref().is_none_or(|open| now <= open.until);
        self.promise(open.is_some(), "a question has one answer");
        self.promise(in_time, "no answer comes after its deadline");
    }

    /// The pool died: nobody knows any more who held what.
    pub(crate) fn ledger_forgets_holders(&mut self) {
        self.ledger.holds.clear();
        self.ledger.booting.clear();
        self.ledger.patient.clear();
        self.ledger.using = None;
    }

    pub(crate) fn check_what_is_promised(&mut self) {
        let now = self.now;
        let late = self.people.open.values().any(|open| open.until < now);
        self.promise(!late, "nobody waits past the deadline");
        let deadlines = [Who::Pool, Who::Exec, Who::Reaper].map(|who| self.deadline_of(who));
        // What is due now rings now: the alarm is planned.
        let missed = deadlines.into_iter().flatten().any(|at| at < now);
        self.promise(!missed, "no deadline is missed");
        let most = self.pool_limits.total_max.max(self.ledger.survivors);
        self.promise(self.pool.total() <= most, "the pool keeps its limit");
        let booting = self.pool.booting() <= self.pool_limits.booting_max;
        self.promise(booting, "no more are made at once than the bound");
        // Callers whose sandbox could not be given to them stand in line again.
        let most = self.pool_limits.waiting_max + self.pool_limits.total_max;
        self.promise(self.pool.waiting() <= most, "the queue is under its bound");
        let callers = self.execs.callers() <= self.exec_limits.callers_max;
        self.promise(callers, "executions are under their bound");
        let results = self.execs.results().0 <= self.exec_limits.cache.entries_max;
        self.promise(results, "results are under their bound");
        let mut dues = self.ledger.holds.values().filter_map(Hold::due);
        let overdue = dues.any(|due| due < now);
        self.promise(!overdue, "what is over has ended");
    }

    pub(crate) fn check_what_was_owed(&mut self) {
        self.promise(self.people.open.is_empty(), "everybody got an answer");
        let idle =
            self.execs.runs() == 0 && self.execs.callers() == 0 && self.cloud.runs.is_empty();
        self.promise(idle, "nothing runs that nobody waits for");
        self.promise(self.ledger.holds.is_empty(), "every lease has ended");
        let between = self.pool.ending() + self.pool.booting();
        self.promise(between == 0, "nothing is half made or half gone");
        for stock in self.pool.stocks() {
            // A broken template of which nothing is kept is tried again when somebody asks for it.
            let usable = stock.broken.is_none() || stock.target == 0;
            let there = stock.ready == stock.target && usable;
            self.note(format_args!("{stock:?}"));
            self.promise(there, "the pool is at its target again");
        }
        let owned = self.pool.owned();
        let owned: BTreeSet<_> = owned.iter().map(|one| one.sandbox).collect();
        self.promise(self.cloud.alive == owned, "what exists is what is owned");
        let ready = self.pool.owned().iter().all(|one| one.stage == OwnedStage::Ready);
        self.promise(ready, "what is owned is ready");
    }

    /// Whether an answer for that life of executions still finds it.
    pub(crate) fn exec_lives(&self, life: Life) -> bool {
        self.life(Who::Exec) == life
    }
}
