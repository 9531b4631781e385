//! What follows every step, whatever the event was, and when time alone makes it follow.

use std::sync::Arc;

use super::*;

impl Pool {
    pub(super) fn follow_up(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.refuse_late(now, effects);
        self.hand_out(effects);
        self.check_leases(now, effects);
        self.destroy_again(now, effects);
        self.give_up_on_boots(now, effects);
        match self.stage {
            Stage::Listing => (),
            Stage::ListAfter(at) if now < at => (),
            Stage::ListAfter(_) => {
                self.stage = Stage::Listing;
                effects.push(Effect::List);
            }
            Stage::Open => {
                self.retire_idle(now, effects);
                self.boot_missing(now, effects);
                // Only then is it known who is left without a place.
                self.make_room(now, effects);
            }
        }
        self.prepare_wanted(now, effects);
        self.answer_closing(now, effects);
    }

    /// The next moment at which time alone changes a decision.
    pub fn next_deadline(&self) -> Option<Moment> {
        let waiting = self.stocks.values().flat_map(|stock| {
            let waiting = stock.waiting.iter().map(|caller| caller.until);
            waiting.chain(stock.asking.iter().map(|caller| caller.until))
        });
        let adopting = self.adopting.values().map(|adopting| adopting.caller.until);
        let ending = self.ending.values().flat_map(|ending| {
            ending.waiting.iter().map(|(_, until)| *until).chain([ending.again])
        });
        let booting = self.booting.values().map(|boot| boot.until);
        let check = self.checks.first().map(|(at, _)| *at);
        let closing = self.closing.as_ref().and_then(|closing| closing.asked.map(|(_, at)| at));
        let own = waiting.chain(adopting).chain(ending).chain(booting).chain(check).chain(closing);
        own.chain(self.stocks.values().filter_map(prepares_at))
            .chain(match self.stage {
                Stage::Listing => None,
                Stage::ListAfter(at) => Some(at),
                Stage::Open => self.stocks_deadline(),
            })
            .min()
    }

    fn stocks_deadline(&self) -> Option<Moment> {
        let retire = self
            .stocks
            .values()
            .filter_map(|stock| stock.warm.front().map(|(since, _)| *since + self.limits.idle_max));
        // Pauses matter only where a boot could begin once they are over.
        let may_boot = self.room() > 0 && self.slots() > 0 && self.closing.is_none();
        let may_displace = self.slots() > 0 && self.closing.is_none();
        let boot = self.stocks.iter().filter(|(name, stock)| {
            let begins = may_boot && stock.missing() > 0;
            let displaces = may_displace
                && stock.missing_for_callers() > self.ending.len()
                && self.displaceable(name).is_some();
            begins || displaces
        });
        retire.chain(boot.map(|(_, stock)| stock.boot_after)).min()
    }

    /// Gives what is ready to those who wait.
    fn hand_out(&mut self, effects: &mut Vec<Effect>) {
        for stock in self.stocks.values_mut() {
            let State::Usable(info) = &stock.state else { continue };
            while !stock.warm.is_empty() {
                let Some(caller) = stock.waiting.pop_front() else { break };
                let (_, sandbox) = stock.warm.pop_front().expect("checked above");
                let order = &caller.order;
                let limits = provider::Limits {
                    memory_mb: order.memory_mb.unwrap_or(info.limits.memory_mb),
                    cpu_count: order.cpu_count.unwrap_or(info.limits.cpu_count),
                };
                let lease = provider::Lease {
                    env: order.env.clone(),
                    limits: (limits != info.limits).then_some(limits),
                };
                let (ticket, lease) = (caller.ticket, Arc::new(lease));
                self.adopting.insert(sandbox, Adopting { caller, limits });
                effects.push(Effect::Adopt { sandbox, ticket, lease });
            }
        }
    }

    fn refuse_late(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let late = |since| Refusal::WaitedTooLong { waited: now.since(since) };
        for stock in self.stocks.values_mut() {
            // "The provider fails" helps more than "you waited".
            let failure = stock.last_failure.clone();
            let refusal = |since| match &failure {
                Some(why) => Refusal::Provider { why: why.clone(), ran: Ran::No },
                None => late(since),
            };
            let before = stock.waiting.len();
            stock.waiting.retain(|&Waiting { ticket, since, until, .. }| {
                if until <= now {
                    effects.push(Effect::Refuse { ticket, refusal: refusal(since) });
                }
                now < until
            });
            stock.counts.refused += (before - stock.waiting.len()) as u64;
            stock.asking.retain(|&Asking { ticket, since, until }| {
                if until <= now {
                    effects.push(Effect::Refuse { ticket, refusal: refusal(since) });
                }
                now < until
            });
        }
        let adopting = self.adopting.iter();
        let stuck = adopting.filter(|(_, adopting)| adopting.caller.until <= now);
        let stuck: Vec<_> = stuck.map(|(sandbox, _)| *sandbox).collect();
        for sandbox in stuck {
            let Some(Adopting { caller, .. }) = self.adopting.remove(&sandbox) else { continue };
            let refusal = late(caller.since);
            effects.push(Effect::Refuse { ticket: caller.ticket, refusal });
            if let Some(stock) = self.stocks.get_mut(&caller.order.template) {
                stock.counts.refused += 1;
            }
            self.end(now, sandbox, &caller.order.template, Cause::NotAdopted, effects);
        }
        for (sandbox, ending) in &mut self.ending {
            let Ending { cause, since, waiting, lease, .. } = ending;
            let held = lease.as_ref().map(|lease| since.since(lease.granted)).unwrap_or_default();
            let ended =
                Ended { sandbox: *sandbox, cause: *cause, at: *since, held, verified: false };
            waiting.retain(|&(ticket, until)| {
                if until <= now {
                    effects.push(Effect::Answer { ticket, answer: Answer::Ended(ended) });
                }
                now < until
            });
        }
    }

    fn check_leases(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        while let Some(&(at, sandbox)) = self.checks.first() {
            if now < at {
                break;
            }
            self.look_at(now, sandbox, effects);
            self.reschedule(sandbox);
        }
    }

    fn destroy_again(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        for (sandbox, ending) in &mut self.ending {
            if ending.again <= now {
                ending.again = now + self.limits.destroy_max;
                effects.push(Effect::Destroy { sandbox: *sandbox, cause: ending.cause });
            }
        }
    }

    fn give_up_on_boots(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let stuck = self.booting.iter().filter(|(_, boot)| boot.until <= now);
        let stuck: Vec<_> = stuck.map(|(sandbox, _)| *sandbox).collect();
        for sandbox in stuck {
            let why = format!("no sandbox was ready within {:?}", self.limits.boot_max);
            let error = ProviderError::Failed { why, maybe_done: true };
            self.boot_failed(now, sandbox, &error, effects);
        }
    }

    fn retire_idle(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let idle_max = self.limits.idle_max;
        let closing = self.closing.is_some();
        let mut retired = Vec::new();
        for (template, stock) in &mut self.stocks {
            while let Some((_, sandbox)) =
                stock.warm.pop_front_if(|(since, _)| closing || *since + idle_max <= now)
            {
                retired.push((template.clone(), sandbox));
            }
        }
        let cause = if closing { Cause::Closing } else { Cause::Unused };
        for (template, sandbox) in retired {
            self.end(now, sandbox, &template, cause, effects);
        }
    }

    /// Where callers wait and every place is taken, ready sandboxes that nobody waits for give
    /// theirs up: one for each caller who has nothing under way.
    fn make_room(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.room() > 0 || self.slots() == 0 || self.closing.is_some() {
            return;
        }
        let wanting = self.stocks.iter().filter(|(_, stock)| stock.boot_after <= now);
        let wanting: Vec<_> = wanting
            .map(|(name, stock)| (name.clone(), stock.missing_for_callers()))
            .filter(|(_, missing)| *missing > 0)
            .collect();
        for (name, missing) in wanting {
            for _ in self.ending.len()..missing {
                let Some(template) = self.displaceable(&name) else { break };
                let other = self.stocks.get_mut(&template).expect("found a moment ago");
                let Some((_, sandbox)) = other.warm.pop_front() else { break };
                self.end(now, sandbox, &template, Cause::Displaced, effects);
            }
        }
    }

    /// A template that could give up a ready sandbox to `name`: the one with the most.
    fn displaceable(&self, name: &str) -> Option<String> {
        let others = self.stocks.iter().filter(|(other, stock)| {
            *other != name && !stock.warm.is_empty() && stock.waiting.is_empty()
        });
        others.max_by_key(|(_, stock)| stock.warm.len()).map(|(other, _)| other.clone())
    }

    /// Boots for those who wait, in the order they came, then for the stock, the emptiest first.
    fn boot_missing(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.closing.is_some() {
            return;
        }
        while self.room() > 0 && self.slots() > 0 {
            let may = |stock: &&Stock| stock.boot_after <= now;
            let for_callers = self.stocks.iter().filter(|(_, stock)| may(stock));
            let for_callers = for_callers.filter(|(_, stock)| stock.missing_for_callers() > 0);
            let first = for_callers
                .min_by_key(|(_, stock)| stock.waiting[stock.booting].since)
                .map(|(name, stock)| (name.clone(), Some(stock.waiting[stock.booting].ticket)));
            let next = first.or_else(|| {
                let missing = self.stocks.iter().filter(|(_, stock)| may(stock));
                let missing = missing.filter(|(_, stock)| stock.missing() > 0);
                let emptiest = missing.min_by_key(|(_, stock)| stock.warm.len() + stock.booting);
                emptiest.map(|(name, _)| (name.clone(), None))
            });
            let Some((template, for_caller)) = next else { break };
            let sandbox = SandboxId::minted(self.node, self.draw.random());
            let until = now + self.limits.boot_max;
            self.booting.insert(sandbox, Booting { template: template.clone(), until });
            self.stocks.get_mut(&template).expect("found a moment ago").booting += 1;
            effects.push(Effect::Boot { sandbox, template, for_caller });
        }
    }

    pub(super) fn prepare_wanted(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.closing.is_some() {
            return;
        }
        for (name, stock) in &mut self.stocks {
            if prepares_at(stock).is_some_and(|at| at <= now) {
                stock.state = State::Preparing;
                effects.push(Effect::Prepare { template: name.clone() });
            }
        }
    }

    fn answer_closing(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let left = self.total();
        let Some(Closing { asked }) = &mut self.closing else { return };
        let done = left == 0 && self.stage == Stage::Open;
        if let Some((ticket, _)) = asked.take_if(|(_, until)| done || *until <= now) {
            effects.push(Effect::Answer { ticket, answer: Answer::Closed { left } });
        }
    }

    /// Puts a lease where the clock finds it.
    pub(super) fn reschedule(&mut self, sandbox: SandboxId) {
        let Some(lease) = self.leased.get_mut(&sandbox) else { return };
        self.checks.remove(&(lease.check, sandbox));
        lease.check = lease.due();
        self.checks.insert((lease.check, sandbox));
    }

    pub(super) fn end_lease(
        &mut self,
        now: Moment,
        sandbox: SandboxId,
        cause: Cause,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut lease) = self.leased.remove(&sandbox) else { return };
        let waiting = lease.retiring.take().map(|retiring| retiring.waiting).unwrap_or_default();
        let (turner, parked) = lease.stance.give_up();
        self.checks.remove(&(lease.check, sandbox));
        self.end(now, sandbox, &Arc::clone(&lease.order).template, cause, effects);
        if let Some(ending) = self.ending.get_mut(&sandbox) {
            ending.lease = Some(lease);
            let until = now + self.limits.terminate_wait;
            ending.waiting.extend(waiting.into_iter().map(|ticket| (ticket, until)));
        }
        if let Some(ticket) = turner {
            let refusal = Refusal::Gone { sandbox, why: cause.as_str(), ago: Duration::ZERO };
            effects.push(Effect::Refuse { ticket, refusal });
        }
        self.let_in(now, sandbox, parked, effects);
    }

    /// Begins the end of a sandbox that is in no other map any more.
    pub(super) fn end(
        &mut self,
        now: Moment,
        sandbox: SandboxId,
        template: &str,
        cause: Cause,
        effects: &mut Vec<Effect>,
    ) {
        let again = now + self.limits.destroy_max;
        let (template, waiting) = (template.to_owned(), Vec::new());
        let ending = Ending { template, cause, since: now, again, waiting, lease: None };
        self.ending.insert(sandbox, ending);
        effects.push(Effect::Destroy { sandbox, cause });
    }

    pub(super) fn remember(&mut self, now: Moment, sandbox: SandboxId, past: Past) {
        let Limits { ended_kept, ended_max, .. } = self.limits;
        let old = |(at, _): &mut (Moment, SandboxId)| *at + ended_kept <= now;
        while let Some((_, sandbox)) = self.ended_order.pop_front_if(old) {
            self.ended.remove(&sandbox);
        }
        while self.ended_order.len() >= ended_max {
            let Some((_, sandbox)) = self.ended_order.pop_front() else { break };
            self.ended.remove(&sandbox);
        }
        if ended_max > 0 {
            self.ended_order.push_back((now, sandbox));
            self.ended.insert(sandbox, past);
        }
    }

    fn room(&self) -> usize {
        self.limits.total_max.saturating_sub(self.total())
    }

    fn slots(&self) -> usize {
        self.limits.booting_max.saturating_sub(self.booting.len())
    }
}

/// When a template is to be prepared, if it is.
fn prepares_at(stock: &Stock) -> Option<Moment> {
    match stock.state {
        _ if !stock.is_wanted() => None,
        State::Unprepared => Some(Moment::START),
        State::PrepareAfter(at) | State::Broken { until: at, .. } => Some(at),
        State::Preparing | State::Usable(_) => None,
    }
}
