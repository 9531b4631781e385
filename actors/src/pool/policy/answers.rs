//! What follows from the answers of the provider: templates prepared, sandboxes made, given to
//! their holders, died and destroyed. An answer to a question that nobody asked changes nothing.

use std::collections::BTreeMap;

use sandpit_messages::id::SandboxId;
use sandpit_messages::problem::Ran;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::Moment;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::provider::TemplateInfo;

use super::stance::Stance;
use super::stock::{Asking, State, Waiting};
use super::{ADOPTIONS_MAX, Adopting, Answer, Booting, Cause, Effect, Granted, Lease, Past, Pool};
use crate::shell::refusal_of;

impl Pool {
    pub(super) fn prepared(
        &mut self,
        template: &str,
        info: TemplateInfo,
        effects: &mut Vec<Effect>,
    ) {
        let Some(stock) = self.stocks.get_mut(template) else { return };
        if stock.state != State::Preparing {
            return;
        }
        for Asking { ticket, .. } in stock.asking.drain(..) {
            let answer = Answer::Described(info.clone());
            effects.push(Effect::Answer { ticket, answer });
        }
        stock.state = State::Usable(info);
    }

    pub(super) fn booted(&mut self, now: Moment, sandbox: SandboxId, effects: &mut Vec<Effect>) {
        // A boot not on the list was settled already: answers may come twice, or too late.
        let Some(Booting { template, .. }) = self.booting.remove(&sandbox) else { return };
        let Some(stock) = self.stocks.get_mut(&template) else { return };
        stock.booting -= 1;
        stock.last_failure = None;
        if self.closing.is_some() {
            return self.end(now, sandbox, &template, Cause::Closing, effects);
        }
        stock.warm.push_back((now, sandbox));
    }

    pub(super) fn boot_failed(
        &mut self,
        now: Moment,
        sandbox: SandboxId,
        error: &ProviderError,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Booting { template, .. }) = self.booting.remove(&sandbox) else { return };
        if let Some(stock) = self.stocks.get_mut(&template) {
            stock.booting -= 1;
            stock.counts.boot_failures += 1;
            stock.last_failure = Some(error.to_string());
            stock.boot_after = now + self.limits.retry_pause;
        }
        // It may exist all the same; only its destruction makes sure.
        if error.maybe_done() {
            self.end(now, sandbox, &template, Cause::NotBooted, effects);
        }
        if matches!(error, ProviderError::Quota { .. }) {
            for stock in self.stocks.values_mut() {
                stock.boot_after = now + self.limits.retry_pause;
            }
        }
        if !error.is_transient() {
            self.template_failed(now, &template, error, effects);
        }
    }

    /// The template cannot be used: for now, or until somebody mends it.
    pub(super) fn template_failed(
        &mut self,
        now: Moment,
        template: &str,
        error: &ProviderError,
        effects: &mut Vec<Effect>,
    ) {
        let Some(stock) = self.stocks.get_mut(template) else { return };
        if matches!(stock.state, State::Broken { .. } | State::Unprepared) {
            return;
        }
        stock.last_failure = Some(error.to_string());
        if error.is_transient() {
            stock.state = State::PrepareAfter(now + self.limits.retry_pause);
            return;
        }
        let refusal = match error {
            // Nothing is broken: it is not to be had here.
            ProviderError::Unsupported { .. } => refusal_of(error),
            _ => Refusal::Provider { why: error.to_string(), ran: Ran::No },
        };
        let until = now + self.limits.broken_pause;
        stock.state = State::Broken { refusal: refusal.clone(), until };
        let asking = stock.asking.drain(..).map(|caller| caller.ticket);
        let refused: Vec<_> =
            stock.waiting.drain(..).map(|caller| caller.ticket).chain(asking).collect();
        for ticket in refused {
            stock.counts.refused += 1;
            effects.push(Effect::Refuse { ticket, refusal: refusal.clone() });
        }
    }

    pub(super) fn adopted(&mut self, now: Moment, sandbox: SandboxId, effects: &mut Vec<Effect>) {
        // Whoever it was for has been refused since, or it died; its end is under way.
        let Some(Adopting { caller, limits }) = self.adopting.remove(&sandbox) else { return };
        let Waiting { ticket, order, since, hit, .. } = caller;
        let expires = now + order.lifetime.min(self.limits.lifetime_max);
        let lease = Lease {
            limits,
            granted: now,
            expires,
            last_activity: now,
            executions: 0,
            running: BTreeMap::new(),
            stance: Stance::Running,
            retiring: None,
            check: now,
            order,
        };
        let granted = Granted {
            sandbox,
            name: lease.name(sandbox),
            template: lease.order.template.clone(),
            limits,
            at: now,
            expires,
            from_pool: hit,
            waited: now.since(since),
        };
        self.checks.insert((now, sandbox));
        self.leased.insert(sandbox, lease);
        self.reschedule(sandbox);
        effects.push(Effect::Answer { ticket, answer: Answer::Granted(granted) });
    }

    /// A sandbox could not be given to this caller. It gets another one, a few times.
    pub(super) fn not_adopted(
        &mut self,
        mut caller: Waiting,
        error: &ProviderError,
        effects: &mut Vec<Effect>,
    ) {
        let Waiting { ticket, .. } = caller;
        caller.failures += 1;
        let final_word = match error {
            ProviderError::Unsupported { .. } => Some(refusal_of(error)),
            _ if caller.failures >= ADOPTIONS_MAX => {
                Some(Refusal::Provider { why: error.to_string(), ran: Ran::No })
            }
            _ => None,
        };
        let Some(stock) = self.stocks.get_mut(&caller.order.template) else { return };
        match final_word {
            Some(refusal) => {
                stock.counts.refused += 1;
                effects.push(Effect::Refuse { ticket, refusal });
            }
            None => stock.waiting.push_front(caller),
        }
    }

    pub(super) fn died(&mut self, now: Moment, sandbox: SandboxId, effects: &mut Vec<Effect>) {
        if self.leased.contains_key(&sandbox) {
            return self.end_lease(now, sandbox, Cause::Lost, effects);
        }
        if let Some(Adopting { caller, .. }) = self.adopting.remove(&sandbox) {
            self.end(now, sandbox, &caller.order.template, Cause::Lost, effects);
            return self.not_adopted(caller, &ProviderError::Gone(sandbox), effects);
        }
        let is_it = |(_, warm): &(Moment, SandboxId)| *warm == sandbox;
        for (template, stock) in &mut self.stocks {
            if let Some(at) = stock.warm.iter().position(is_it) {
                stock.warm.remove(at);
                let template = template.clone();
                return self.end(now, sandbox, &template, Cause::Lost, effects);
            }
        }
    }

    pub(super) fn destroyed(&mut self, now: Moment, sandbox: SandboxId, effects: &mut Vec<Effect>) {
        let Some(ending) = self.ending.remove(&sandbox) else { return };
        let past = Past { cause: ending.cause, at: now, lease: ending.lease };
        let ended = past.told(sandbox);
        for (ticket, _) in ending.waiting {
            effects.push(Effect::Answer { ticket, answer: Answer::Ended(ended) });
        }
        // What nobody held, nobody asks after, unless its holder was forgotten in a restart.
        if past.lease.is_some() || past.cause == Cause::Survived {
            self.remember(now, sandbox, past);
        }
    }
}
