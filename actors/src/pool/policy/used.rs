//! What runs in leased sandboxes: leave to begin, the end of it, and leases that end with it.

use super::lease::Retiring;
use super::stance::Stance;
use super::*;

impl Pool {
    pub(super) fn begin_use(
        &mut self,
        now: Moment,
        tenant: &Tenant,
        sandbox: SandboxId,
        exec: ExecId,
        until: Moment,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        let overdue = match self.leased.get(&sandbox) {
            Some(lease) if lease.order.tenant == *tenant => lease.due() <= now,
            _ => return Err(self.not_held(now, tenant, sandbox)),
        };
        if overdue {
            self.look_at(now, sandbox, effects);
            if !self.leased.contains_key(&sandbox) {
                return Err(self.not_held(now, tenant, sandbox));
            }
        }
        if let Some(refusal) = self.refused_by_stance(sandbox) {
            return Err(refusal);
        }
        let lease = self.leased.get_mut(&sandbox).expect("looked up above");
        if lease.retiring.is_some() {
            return Err(Refusal::Leaving { sandbox });
        }
        lease.running.insert(exec, until);
        lease.executions += 1;
        lease.last_activity = now;
        let longest = lease.granted + self.limits.lifetime_max;
        lease.expires = lease.expires.max((until + self.limits.after_exec).min(longest));
        let template = lease.order.template.clone();
        self.reschedule(sandbox);
        Ok(Answer::Allowed(Allowed { template }))
    }

    pub(super) fn end_use(
        &mut self,
        now: Moment,
        sandbox: SandboxId,
        exec: ExecId,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(lease) = self.leased.get_mut(&sandbox)
            && lease.running.remove(&exec).is_some()
        {
            lease.last_activity = now;
            if lease.retiring.is_some() && lease.running.is_empty() {
                return self.end_lease(now, sandbox, Cause::Terminated, effects);
            }
            self.reschedule(sandbox);
        }
    }

    /// From here on nothing new begins in it. Of several who say so, the most impatient is heeded.
    pub(super) fn retire(
        &mut self,
        now: Moment,
        ticket: Ticket,
        tenant: &Tenant,
        sandbox: SandboxId,
        drained: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let busy = |lease: &&mut Lease| {
            lease.order.tenant == *tenant
                && matches!(lease.stance, Stance::Running)
                && !lease.running.is_empty()
                && now < drained
        };
        let Some(lease) = self.leased.get_mut(&sandbox).filter(busy) else {
            let until = now + self.limits.terminate_wait;
            return self.terminate(now, ticket, tenant, sandbox, until, effects);
        };
        let fresh = Retiring { until: drained, waiting: Vec::new() };
        let retiring = lease.retiring.get_or_insert(fresh);
        retiring.until = retiring.until.min(drained);
        retiring.waiting.push(ticket);
        self.reschedule(sandbox);
    }
}
