//! What the shells do with effects, in a world where everything can go wrong.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use sandpit_actors::exec::policy::{self as exec, Lent};
use sandpit_actors::pool::policy::{self as pool, Answer, Cause, OwnedStage};
use sandpit_actors::reaper::policy as reaper;
use sandpit_actors::shell::Ticket;
use sandpit_messages::exec::{Executed, Truncated};
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::provider::{Limits, TemplateInfo};

use crate::faults::Fault;
use crate::promises::Asker;
use crate::world::{Happening, Life, Told, Who, World};

/// Longest a list lags behind: less than the reaper's shortest grace.
const LAG_MAX_MS: u64 = 5_000;

/// What a fresh sandbox outlives the limit of its run by, as in the shell.
const FRESH_SLACK: Duration = Duration::from_secs(60);

fn failed(maybe_done: bool) -> ProviderError {
    ProviderError::Failed { why: "as drawn".to_owned(), maybe_done }
}

impl World {
    pub(crate) fn carry_out_pool(&mut self, effects: Vec<pool::Effect>) {
        let to = self.life(Who::Pool);
        for effect in effects {
            self.note(format_args!("   pool -> {effect:?}"));
            match effect {
                pool::Effect::List if self.faults.strikes(Fault::ListFails) => {
                    self.answer(to, Told::Pool(pool::Event::ListFailed));
                }
                pool::Effect::List => {
                    let survivors = self.list();
                    self.answer(to, Told::Pool(pool::Event::Listed { survivors }));
                }
                pool::Effect::Prepare { template } => self.prepare(to, template),
                pool::Effect::Boot { sandbox, template, .. } => self.boot(to, sandbox, template),
                pool::Effect::Adopt { sandbox, .. } => self.adopt(to, sandbox),
                pool::Effect::Turn { sandbox, turn, round } => self.turn(to, sandbox, turn, round),
                pool::Effect::Destroy { sandbox, cause } => {
                    self.ledger_ends(sandbox, cause);
                    self.destroy(Some(to), sandbox);
                }
                pool::Effect::Answer { ticket, answer } => self.pool_answers(ticket, answer),
                pool::Effect::Refuse { ticket, refusal } => self.pool_refuses(ticket, refusal),
            }
        }
    }

    fn list(&mut self) -> Vec<SandboxId> {
        let lag = match self.faults.strikes(Fault::ListLags) {
            true => self.delay(0..LAG_MAX_MS),
            false => Duration::ZERO,
        };
        self.cloud.list(self.now, lag)
    }

    fn prepare(&mut self, to: Life, template: String) {
        let event = if self.faults.strikes(Fault::PrepareFails) {
            pool::Event::PrepareFailed { template, error: failed(false) }
        } else if self.faults.strikes(Fault::TemplateBreaks) {
            let (name, why) = (template.clone(), "as drawn".to_owned());
            let error = ProviderError::TemplateBroken { name, why };
            pool::Event::PrepareFailed { template, error }
        } else {
            let limits = Limits { memory_mb: 512, cpu_count: 1 };
            let info = TemplateInfo { name: template.clone(), digest: String::new(), limits };
            pool::Event::Prepared { template, info }
        };
        self.answer(to, Told::Pool(event));
    }

    fn boot(&mut self, to: Life, sandbox: SandboxId, template: String) {
        let now = self.now;
        let patient = self.ledger.patient.get(&template).is_some_and(|until| now < *until);
        self.promise(!patient, "a provider that failed is left alone for a while");
        let is_new = !self.cloud.alive.contains(&sandbox) && !self.cloud.adopted.contains(&sandbox);
        self.promise(is_new, "ids are never used twice");
        self.ledger.booting.insert(sandbox, template);
        let takes = self.delay(1..4_000);
        if self.faults.strikes(Fault::BootFails) {
            let event = pool::Event::BootFailed { sandbox, error: failed(false) };
            self.plan(takes, Happening::Answer { to, told: Told::Pool(event) });
        } else if self.faults.strikes(Fault::BootHangs) {
            // It comes long after everybody stopped waiting, or never.
            if self.timing.random_bool(0.5) {
                let takes = self.delay(1_000..90_000);
                self.plan(takes, Happening::Born { sandbox, answer: None });
            }
        } else {
            let lost = self.faults.strikes(Fault::BootLost);
            self.plan(takes, Happening::Born { sandbox, answer: Some((to, lost)) });
        }
    }

    pub(crate) fn born(&mut self, sandbox: SandboxId, answer: Option<(Life, bool)>) {
        // What a process was making when it died is not made.
        if answer.is_some_and(|(to, _)| !self.is_of_this_process(to)) {
            return;
        }
        self.cloud.change(self.now, |alive| {
            alive.insert(sandbox);
        });
        self.note(format_args!("{sandbox} is there"));
        let Some((to, lost)) = answer else { return };
        let event = match lost {
            true => pool::Event::BootFailed { sandbox, error: failed(true) },
            false => pool::Event::Booted { sandbox },
        };
        self.plan(Duration::ZERO, Happening::Answer { to, told: Told::Pool(event) });
    }

    fn adopt(&mut self, to: Life, sandbox: SandboxId) {
        let first = self.cloud.adopted.insert(sandbox);
        self.promise(first, "a sandbox is given away once");
        let event = if !self.cloud.alive.contains(&sandbox) {
            pool::Event::AdoptFailed { sandbox, error: ProviderError::Gone(sandbox) }
        } else if self.faults.strikes(Fault::AdoptFails) {
            pool::Event::AdoptFailed { sandbox, error: failed(false) }
        } else if self.faults.strikes(Fault::AdoptHangs) {
            return;
        } else {
            pool::Event::Adopted { sandbox }
        };
        let after = self.delay(0..5);
        self.plan(after, Happening::Answer { to, told: Told::Pool(event) });
    }

    fn turn(&mut self, to: Life, sandbox: SandboxId, turn: pool::Turn, round: u64) {
        self.ledger_turns(sandbox, turn, round);
        let hangs = self.faults.strikes(Fault::TurnHangs);
        let outcome = if !self.cloud.alive.contains(&sandbox) {
            Err(ProviderError::Gone(sandbox))
        } else if self.faults.strikes(Fault::TurnFails) {
            Err(failed(self.timing.random_bool(0.5)))
        } else {
            Ok(())
        };
        let done = outcome.is_ok() && (!hangs || self.timing.random_bool(0.5));
        match turn {
            pool::Turn::Pause if done => drop(self.cloud.paused.insert(sandbox)),
            pool::Turn::Resume { .. } if done => drop(self.cloud.paused.remove(&sandbox)),
            _ => (),
        }
        if !hangs {
            let told = Told::Pool(pool::Event::Turned { sandbox, round, outcome });
            let takes = self.delay(0..3_000);
            self.plan(takes, Happening::Answer { to, told });
        }
    }

    fn destroy(&mut self, to: Option<Life>, sandbox: SandboxId) {
        let takes = self.delay(1..2_000);
        if self.faults.strikes(Fault::DestroyFails) {
            if let Some(to) = to {
                let told = Told::Pool(pool::Event::DestroyFailed { sandbox });
                self.plan(takes, Happening::Answer { to, told });
                self.ask(Told::Reaper(reaper::Event::Nudged));
            }
        } else if self.faults.strikes(Fault::DestroyHangs) {
            if self.timing.random_bool(0.5) {
                self.plan(takes, Happening::Gone { sandbox, to: None });
            }
        } else {
            self.plan(takes, Happening::Gone { sandbox, to });
        }
    }

    pub(crate) fn gone(&mut self, sandbox: SandboxId, to: Option<Life>) {
        self.cloud.change(self.now, |alive| {
            alive.remove(&sandbox);
        });
        self.note(format_args!("{sandbox} is gone"));
        if let Some(to) = to {
            let told = Told::Pool(pool::Event::Destroyed { sandbox });
            self.plan(Duration::ZERO, Happening::Answer { to, told });
        }
    }

    pub(crate) fn may_die(&mut self) {
        if self.cloud.alive.is_empty() || !self.faults.strikes(Fault::Dies) {
            return;
        }
        let at = self.timing.random_range(0..self.cloud.alive.len());
        let sandbox = *self.cloud.alive.iter().nth(at).expect("within the length");
        self.cloud.change(self.now, |alive| {
            alive.remove(&sandbox);
        });
        self.note(format_args!("{sandbox} dies"));
        if !self.faults.strikes(Fault::DiesUnheard) {
            self.ask(Told::Pool(pool::Event::Died { sandbox }));
            self.ask(Told::Reaper(reaper::Event::Nudged));
        }
    }

    fn pool_answers(&mut self, ticket: Ticket, answer: Answer) {
        let Some(asker) = self.ledger.pool_askers.remove(&ticket) else {
            return self.promise(false, "a question has one answer");
        };
        match (asker, answer) {
            (Asker::Client, Answer::Granted(granted)) => self.client_gets(ticket, &granted),
            (Asker::Client, Answer::Facts(facts)) => {
                self.ledger_tells(&facts);
                self.close(ticket);
            }
            (Asker::Client, _) => self.close(ticket),
            (Asker::Run { life, exec, lent }, Answer::Granted(granted)) => {
                let sandbox = granted.sandbox;
                let order = self.ledger.orders.remove(&ticket).expect("it was noted");
                self.ledger_grants(&granted, order.tenant.clone(), &order, Some(exec));
                if self.exec_lives(life) {
                    self.ask_exec(life, exec::Event::Given { exec, sandbox, lent });
                } else {
                    self.untaken(sandbox);
                }
            }
            (Asker::Run { life, exec, lent }, Answer::Allowed(_)) => {
                let sandbox = self.using();
                self.ledger_allows();
                self.ask_exec(life, exec::Event::Given { exec, sandbox, lent });
            }
            (Asker::Compare { life, caller }, Answer::Described(_)) => {
                let wish = self.people.open.get(&caller).and_then(|open| open.wish);
                if let Some((key, _)) = wish {
                    self.ask_exec(life, exec::Event::Described { ticket: caller, key });
                }
            }
            (asker, answer) => {
                self.note(format_args!("{asker:?} {answer:?}"));
                self.promise(false, "an answer fits its question");
            }
        }
    }

    fn client_gets(&mut self, ticket: Ticket, granted: &pool::Granted) {
        let order = self.ledger.orders.remove(&ticket).expect("it was noted");
        self.ledger_grants(granted, order.tenant.clone(), &order, None);
        self.close(ticket);
        if self.faults.strikes(Fault::HangsUp) {
            self.untaken(granted.sandbox);
        } else {
            self.plan_errands(&order.tenant, granted.sandbox);
        }
    }

    /// A grant found nobody: it comes back through the mailbox.
    fn untaken(&mut self, sandbox: SandboxId) {
        self.ask(Told::Pool(pool::Event::Release { sandbox, cause: Cause::Abandoned }));
    }

    fn pool_refuses(&mut self, ticket: Ticket, refusal: Refusal) {
        self.ledger.orders.remove(&ticket);
        match self.ledger.pool_askers.remove(&ticket) {
            None => self.promise(false, "a question has one answer"),
            Some(Asker::Client) => self.close(ticket),
            Some(Asker::Run { life, exec, .. }) => {
                self.ask_exec(life, exec::Event::NotGiven { exec, refusal });
            }
            Some(Asker::Compare { life, caller }) => {
                self.ask_exec(life, exec::Event::NotDescribed { ticket: caller, refusal });
            }
        }
    }

    /// An answer of the pool on its way to executions.
    fn ask_exec(&mut self, life: Life, event: exec::Event) {
        let after = self.delay(0..5);
        self.plan(after, Happening::Answer { to: life, told: Told::Exec(event) });
    }

    pub(crate) fn carry_out_exec(&mut self, effects: Vec<exec::Effect>) {
        let life = self.life(Who::Exec);
        for effect in effects {
            self.note(format_args!("   exec -> {effect:?}"));
            match effect {
                exec::Effect::Describe { ticket: caller, template, until, .. } => {
                    let ticket = self.ticket();
                    let asker = Asker::Compare { life, caller };
                    self.ledger.pool_askers.insert(ticket, asker);
                    self.ask(Told::Pool(pool::Event::Describe { ticket, template, until }));
                }
                exec::Effect::Use { exec, tenant, sandbox, until, .. } => {
                    let ticket = self.ticket();
                    let asker = Asker::Run { life, exec, lent: Lent::Held };
                    self.ledger.pool_askers.insert(ticket, asker);
                    let event = pool::Event::Use { ticket, tenant, sandbox, exec, until };
                    self.ask(Told::Pool(event));
                }
                exec::Effect::Acquire { exec, tenant, template, time_max, until, .. } => {
                    let ticket = self.ticket();
                    let asker = Asker::Run { life, exec, lent: Lent::Fresh };
                    self.ledger.pool_askers.insert(ticket, asker);
                    let lifetime = time_max + FRESH_SLACK;
                    let order = Arc::new(pool::Order {
                        tenant,
                        template,
                        name: None,
                        memory_mb: None,
                        cpu_count: None,
                        lifetime,
                        idle_timeout: lifetime,
                        env: Default::default(),
                        metadata: Default::default(),
                        at_expiry: Default::default(),
                    });
                    self.ledger.orders.insert(ticket, Arc::clone(&order));
                    self.ask(Told::Pool(pool::Event::Acquire { ticket, order, until }));
                }
                exec::Effect::Start { exec, ticket, sandbox, order } => {
                    self.start(life, exec, ticket, sandbox, &order);
                }
                exec::Effect::Stop { exec } => drop(self.cloud.runs.remove(&exec)),
                exec::Effect::Used { exec, sandbox, sandbox_usable } => {
                    let event = pool::Event::Used { sandbox, exec, sandbox_usable };
                    self.ask(Told::Pool(event));
                }
                exec::Effect::Release { sandbox } => {
                    let event = pool::Event::Release { sandbox, cause: Cause::Finished };
                    let hold = self.ledger.holds.get(&sandbox);
                    let theirs = hold.is_none_or(|hold| hold.fresh_for.is_some());
                    self.promise(theirs, "only what was made for a run ends with it");
                    self.ask(Told::Pool(event));
                }
                exec::Effect::Answer { ticket, result, source } => {
                    self.ledger_answers(ticket, &result, source);
                }
                exec::Effect::Cancelled { ticket, .. } | exec::Effect::Closed { ticket } => {
                    self.close(ticket);
                }
                exec::Effect::Refuse { ticket, refusal } => self.ledger_refuses(ticket, &refusal),
            }
        }
    }

    fn start(
        &mut self,
        to: Life,
        exec: ExecId,
        ticket: Ticket,
        sandbox: SandboxId,
        order: &exec::Order,
    ) {
        let fair = self.ledger.holds.get(&sandbox).map(|hold| {
            let theirs = hold.tenant == order.tenant;
            theirs && hold.fresh_for.is_none_or(|one| one == exec)
        });
        // No hold: its end is under way, and the provider says so.
        self.promise(fair != Some(false), "code runs only in what its caller holds");
        self.ledger.begun.insert(ticket, exec);
        let wish = self.people.open.get(&ticket).and_then(|open| open.wish);
        self.ledger.made.insert(exec, (wish.map(|(key, _)| key), self.now));
        if !self.cloud.alive.contains(&sandbox) {
            let event = exec::Event::Failed { exec, error: ProviderError::Gone(sandbox) };
            return self.answer(to, Told::Exec(event));
        }
        if self.faults.strikes(Fault::ExecFails) {
            let event = exec::Event::Failed { exec, error: failed(true) };
            return self.answer(to, Told::Exec(event));
        }
        self.cloud.runs.insert(exec, sandbox);
        let takes = match self.faults.strikes(Fault::ExecRunsOn) {
            true => order.time_max,
            false => self.delay(1..20_000).min(order.time_max),
        };
        self.plan(takes, Happening::RunEnds { to, exec });
        self.perhaps_cancel(&order.tenant, sandbox, exec);
    }

    pub(crate) fn run_ends(&mut self, to: Life, exec: ExecId) {
        // What was stopped ends without a word.
        let Some(sandbox) = self.cloud.runs.remove(&exec) else { return };
        let lost = !self.cloud.alive.contains(&sandbox);
        let exit_code = if lost { 137 } else { i32::from(self.timing.random_bool(0.2)) };
        if let Some(made) = self.ledger.made.get_mut(&exec) {
            made.1 = self.now;
        }
        let result = Executed {
            execution_id: exec,
            sandbox_id: sandbox,
            process_id: String::new(),
            exit_code,
            stdout: String::new(),
            stderr: String::new(),
            result: None,
            error: None,
            execution_time: 0.0,
            signal: None,
            timed_out: false,
            oom_killed: false,
            lost,
            truncated: Truncated::default(),
            context_kept: !lost,
            cpu_ms: 0.0,
            max_rss_mb: 0.0,
            survivors: 0,
            cached: false,
            age_ms: None,
            original_exec_id: None,
        };
        let event = exec::Event::Ended { exec, result: Arc::new(result), sandbox_usable: !lost };
        self.plan(Duration::ZERO, Happening::Answer { to, told: Told::Exec(event) });
    }

    pub(crate) fn carry_out_reaper(&mut self, effects: Vec<reaper::Effect>) {
        let to = self.life(Who::Reaper);
        for effect in effects {
            self.note(format_args!("   reaper -> {effect:?}"));
            match effect {
                reaper::Effect::Look { look } if self.faults.strikes(Fault::ListFails) => {
                    self.answer(to, Told::Reaper(reaper::Event::NotSeen { look }));
                }
                reaper::Effect::Look { look } => {
                    let existing = self.list();
                    let after = self.delay(0..100);
                    self.plan(after, Happening::Compared { to, look, existing });
                }
                reaper::Effect::Destroy { sandbox } => {
                    // What the pool is destroying, too, may be destroyed twice.
                    let owned = self.pool.owned();
                    let in_the_way = owned
                        .iter()
                        .any(|one| one.sandbox == sandbox && one.stage != OwnedStage::Going);
                    self.promise(!in_the_way, "the reaper destroys nothing that is owned");
                    self.destroy(None, sandbox);
                }
                reaper::Effect::Reap { sandbox, cause } => {
                    self.ask(Told::Pool(pool::Event::Reap { sandbox, cause }));
                }
            }
        }
    }

    /// Whoever waits for the pool is told that it starts over.
    pub(crate) fn tell_askers_of_pool(&mut self) {
        self.ledger_forgets_holders();
        // A question on its way reaches the next life.
        for ticket in std::mem::take(&mut self.ledger.reached) {
            let Some(asker) = self.ledger.pool_askers.remove(&ticket) else { continue };
            match asker {
                Asker::Client => self.close(ticket),
                Asker::Run { life, exec, .. } => {
                    let refusal = Refusal::Restarting;
                    self.ask_exec(life, exec::Event::NotGiven { exec, refusal });
                }
                Asker::Compare { life, caller } => {
                    let refusal = Refusal::Restarting;
                    self.ask_exec(life, exec::Event::NotDescribed { ticket: caller, refusal });
                }
            }
        }
    }

    /// Whoever waits for executions is told, and what they ran is interrupted.
    pub(crate) fn tell_askers_of_exec(&mut self) {
        self.cloud.runs.clear();
        let of_pool: Vec<_> = self.ledger.pool_askers.keys().copied().collect();
        let waiting: Vec<_> =
            self.people.open.keys().filter(|ticket| !of_pool.contains(ticket)).copied().collect();
        for ticket in waiting {
            self.close(ticket);
        }
    }

    fn is_of_this_process(&self, life: Life) -> bool {
        life.is_of_the_process_of(self.life(Who::Pool))
    }
}
