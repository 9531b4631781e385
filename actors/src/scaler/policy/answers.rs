//! What follows from the answers of the world: records written, instances made, died and gone. An
//! answer to a question that nobody asked changes nothing.

use super::*;

impl Scaler {
    pub(super) fn written(&mut self, now: Moment, id: DeploymentId, effects: &mut Vec<Effect>) {
        let Some(deployment) = self.deployments.get_mut(&id) else { return };
        match deployment.writing.take() {
            Some(Writing::Deploy) | None => (),
            Some(Writing::Scale { record, asked }) => {
                let view = deployment.view(now, id);
                if let Some(earlier) = deployment.scaling.take() {
                    let answer = deployment.scaled(view, earlier, true);
                    effects.push(Effect::Answer { ticket: earlier.asked.ticket, answer });
                }
                let (previous, before) = (deployment.desired, deployment.counts);
                deployment.scaling = Some(deployment::Scaling { asked, previous, before });
                deployment.desired = record.desired;
                deployment.record = record;
                deployment.guard.note(now, deployment.desired);
                deployment.failures.clear();
            }
            Some(Writing::Remove) => {
                let stopped = deployment.staying();
                deployment.doomed = true;
                deployment.removed = true;
                for ticket in std::mem::take(&mut deployment.undeploy) {
                    let answer = Answer::Undeployed { stopped };
                    effects.push(Effect::Answer { ticket, answer });
                }
            }
        }
    }

    pub(super) fn not_written(
        &mut self,
        now: Moment,
        id: DeploymentId,
        refusal: &Refusal,
        effects: &mut Vec<Effect>,
    ) {
        let Some(deployment) = self.deployments.get_mut(&id) else { return };
        let refuse = |ticket| Effect::Refuse { ticket, refusal: refusal.clone() };
        match deployment.writing.take() {
            Some(Writing::Deploy) => {
                // Perhaps it was written all the same: it is removed.
                deployment.doomed = true;
                effects.extend(deployment.deploying.take().map(|asked| refuse(asked.ticket)));
            }
            Some(Writing::Scale { asked, .. }) => effects.push(refuse(asked.ticket)),
            Some(Writing::Remove) => {
                effects.extend(deployment.undeploy.drain(..).map(refuse));
                // A failed deployment has no caller any more, and is removed all the same.
                deployment.remove_after = now + self.limits.retry_pause;
            }
            None => (),
        }
    }

    pub(super) fn placed(
        &mut self,
        now: Moment,
        member: Member,
        sandbox: SandboxId,
        effects: &mut Vec<Effect>,
    ) {
        let Some((deployment, slot)) = self.slot(member) else { return };
        match slot.stage {
            Stage::Placing => {
                deployment.set(member, Stage::Furnishing { sandbox });
                let (agent, order) = (slot.agent, Arc::clone(&deployment.record.order));
                effects.push(Effect::Furnish { member, sandbox, agent, order });
            }
            Stage::Unwanted => deployment.let_go(member, sandbox, None, now, effects),
            Stage::Vacant { .. } | Stage::Furnishing { .. } => (),
            Stage::Up { .. } | Stage::Leaving { .. } => (),
        }
    }

    pub(super) fn not_placed(&mut self, now: Moment, member: Member, refusal: Refusal) {
        let limits = self.limits.clone();
        let Some((deployment, slot)) = self.slot(member) else { return };
        match slot.stage {
            Stage::Placing => deployment.failed(now, &limits, member, None, refusal),
            Stage::Unwanted => drop(deployment.slots.remove(&member)),
            Stage::Vacant { .. } | Stage::Furnishing { .. } => (),
            Stage::Up { .. } | Stage::Leaving { .. } => (),
        }
    }

    pub(super) fn furnished(&mut self, now: Moment, member: Member) {
        let look = self.looks.begun;
        let Some((deployment, slot)) = self.slot(member) else { return };
        if let Stage::Furnishing { sandbox } = slot.stage {
            deployment.set(member, Stage::Up { sandbox, since: now, look });
            deployment.counts.started += 1;
        }
    }

    pub(super) fn not_furnished(
        &mut self,
        now: Moment,
        member: Member,
        refusal: Refusal,
        effects: &mut Vec<Effect>,
    ) {
        let (limits, successor) = (self.limits.clone(), self.number(member.deployment));
        let Some((deployment, slot)) = self.slot(member) else { return };
        if let Stage::Furnishing { sandbox } = slot.stage {
            // Nothing but its own setup ran in it.
            deployment.let_go(member, sandbox, None, now, effects);
            deployment.slots.insert(successor, Slot { stage: Stage::Placing, ..slot });
            deployment.failed(now, &limits, successor, Some(sandbox), refusal);
        }
    }

    pub(super) fn left(&mut self, member: Member) {
        let Some((deployment, slot)) = self.slot(member) else { return };
        if matches!(slot.stage, Stage::Leaving { .. }) {
            deployment.slots.remove(&member);
            deployment.counts.stopped += 1;
        }
    }

    /// The sandbox of an instance ended by itself. What is on its way up fails by itself, and what
    /// is on its way out is heard of as gone.
    pub(super) fn died(&mut self, now: Moment, dead: SandboxId) {
        let limits = self.limits.clone();
        for deployment in self.deployments.values_mut() {
            let is_it = |(_, slot): &(&Member, &Slot)| matches!(slot.stage, Stage::Up { sandbox, .. } if sandbox == dead);
            if let Some((member, slot)) = deployment.slots.iter().find(is_it) {
                let (member, slot) = (*member, slot.clone());
                deployment.heal(now, &limits, member, slot);
                return;
            }
        }
    }

    pub(super) fn agent_failed(
        &mut self,
        now: Moment,
        agent: AgentId,
        why: String,
        effects: &mut Vec<Effect>,
    ) {
        let limits = self.limits.clone();
        let is_it =
            |slot: &Slot| slot.agent == Some(agent) && matches!(slot.stage, Stage::Up { .. });
        let found = self.deployments.iter().find_map(|(id, deployment)| {
            let slot = deployment.slots.iter().find(|(_, slot)| is_it(slot));
            slot.map(|(member, slot)| (*id, *member, slot.clone()))
        });
        let Some((id, member, slot)) = found else { return };
        let successor = self.number(id);
        let Some(deployment) = self.deployments.get_mut(&id) else { return };
        let Stage::Up { sandbox, .. } = slot.stage else { return };
        let drained = now + limits.drain_max;
        deployment.let_go(member, sandbox, None, drained, effects);
        deployment.slots.insert(successor, slot.clone());
        deployment.heal(now, &limits, successor, slot);
        let refusal = Refusal::Provider { why, ran: Ran::Yes };
        deployment.note(&limits, Some(sandbox), refusal);
    }

    pub(super) fn looked(
        &mut self,
        now: Moment,
        number: u64,
        seen: &[Seen],
        effects: &mut Vec<Effect>,
    ) {
        if number != self.looks.begun || !self.looks.under_way {
            return;
        }
        self.looks.under_way = false;
        let limits = self.limits.clone();
        let there: BTreeMap<SandboxId, &Seen> = seen.iter().map(|one| (one.sandbox, one)).collect();
        for deployment in self.deployments.values_mut() {
            let dead: Vec<_> = deployment
                .slots
                .iter()
                .filter_map(|(member, slot)| {
                    let Stage::Up { sandbox, look, .. } = slot.stage else { return None };
                    let missing = look < number && !there.contains_key(&sandbox);
                    missing.then(|| (*member, slot.clone()))
                })
                .collect();
            for (member, slot) in dead {
                deployment.heal(now, &limits, member, slot);
            }
            deployment.observe(&there);
            if deployment.shrinks_after.is_some_and(|after| after <= number) {
                deployment.shrinks_after = None;
                let ending = deployment.grace.filter(|_| deployment.doomed);
                let drain = ending.unwrap_or(limits.drain_max);
                deployment.shrink(now + drain, &there, effects);
            }
        }
        let hurry = self.deployments.values().any(|one| one.shrinks_after.is_some());
        let pause = if hurry { Duration::ZERO } else { self.limits.look_period };
        self.looks.next = now + pause;
        if !std::mem::replace(&mut self.looks.dismissed, true) {
            self.dismiss(now, seen, effects);
        }
    }

    /// What an earlier life of this actor made has nobody any more who knows what it is for.
    fn dismiss(&self, now: Moment, seen: &[Seen], effects: &mut Vec<Effect>) {
        let drained = now + self.limits.drain_max;
        effects.extend(seen.iter().filter(|one| one.stray).map(|one| Effect::Dismiss {
            tenant: one.tenant.clone(),
            sandbox: one.sandbox,
            drained,
        }));
    }

    pub(super) fn number(&mut self, deployment: DeploymentId) -> Member {
        self.members += 1;
        Member { deployment, number: self.members }
    }
}

impl Stage {
    /// Its sandbox, if it has one.
    pub fn sandbox(self) -> Option<SandboxId> {
        match self {
            Self::Vacant { .. } | Self::Placing | Self::Unwanted => None,
            Self::Furnishing { sandbox } | Self::Up { sandbox, .. } | Self::Leaving { sandbox } => {
                Some(sandbox)
            }
        }
    }
}

impl Deployment {
    pub(super) fn set(&mut self, member: Member, stage: Stage) {
        if let Some(slot) = self.slots.get_mut(&member) {
            slot.stage = stage;
        }
    }

    /// Shows an instance the door. What it runs may end until `drained`.
    pub(super) fn let_go(
        &mut self,
        member: Member,
        sandbox: SandboxId,
        agent: Option<AgentId>,
        drained: Moment,
        effects: &mut Vec<Effect>,
    ) {
        self.set(member, Stage::Leaving { sandbox });
        let order = Arc::clone(&self.record.order);
        effects.push(Effect::Retire { member, sandbox, agent, order, drained });
    }

    /// It could not be made; it is tried again after a pause that grows.
    pub(super) fn failed(
        &mut self,
        now: Moment,
        limits: &Limits,
        member: Member,
        sandbox: Option<SandboxId>,
        refusal: Refusal,
    ) {
        if let Some(slot) = self.slots.get_mut(&member) {
            slot.failures += 1;
            slot.stage = Stage::Vacant { after: now + limits.pause(slot.failures) };
        }
        self.note(limits, sandbox, refusal);
    }

    pub(super) fn note(&mut self, limits: &Limits, sandbox: Option<SandboxId>, refusal: Refusal) {
        if self.failures.len() >= limits.failures_max {
            self.failures.pop_front();
        }
        self.failures.push_back((sandbox, refusal));
    }

    /// It died. Its place is filled at once, unless it died soon after it was made more than once.
    fn heal(&mut self, now: Moment, limits: &Limits, member: Member, slot: Slot) {
        let Stage::Up { since, .. } = slot.stage else { return };
        let proven = now.since(since) >= limits.proven;
        let failures = if proven { 0 } else { slot.failures + 1 };
        let pause = if failures < 2 { Duration::ZERO } else { limits.pause(failures - 1) };
        let stage = Stage::Vacant { after: now + pause };
        // The pause is not a failure to start: whoever waits for the size waits on.
        self.slots.insert(member, Slot { stage, failures, ..slot });
        self.counts.healed += 1;
    }

    fn observe(&mut self, there: &BTreeMap<SandboxId, &Seen>) {
        let up = self.slots.values().filter_map(|slot| match slot.stage {
            Stage::Up { sandbox, .. } => Some((there.get(&sandbox)?.running, slot.agent)),
            _ => None,
        });
        let up: Vec<_> = up.collect();
        let busy = up.iter().filter(|(running, agent)| beside(*running, *agent) > 0).count();
        self.load.observe(up.len(), busy);
    }

    /// Lets those go that are too many: idle ones first, and of them those idle longest.
    fn shrink(
        &mut self,
        drained: Moment,
        there: &BTreeMap<SandboxId, &Seen>,
        effects: &mut Vec<Effect>,
    ) {
        let surplus = self.staying().saturating_sub(self.target());
        let mut up: Vec<_> = self
            .slots
            .iter()
            .filter_map(|(member, slot)| {
                let Stage::Up { sandbox, since, .. } = slot.stage else { return None };
                // What came up since the look is not idle for long.
                let (running, active) = there
                    .get(&sandbox)
                    .map_or((0, since), |seen| (seen.running, seen.last_activity));
                Some((beside(running, slot.agent), active, *member, sandbox, slot.agent))
            })
            .collect();
        up.sort();
        for (_, _, member, sandbox, agent) in up.into_iter().take(surplus) {
            self.let_go(member, sandbox, agent, drained, effects);
        }
    }

    pub(super) fn scaled(
        &self,
        view: View,
        asked: deployment::Scaling,
        superseded: bool,
    ) -> Answer {
        let since = self.counts.since(asked.before);
        Answer::Scaled { view, previous: asked.previous, since, superseded }
    }
}

/// What runs beside the agent itself.
fn beside(running: usize, agent: Option<AgentId>) -> usize {
    running.saturating_sub(usize::from(agent.is_some()))
}

impl Limits {
    /// The pause after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        let factor = 1 << failures.saturating_sub(1).min(16);
        (self.pause_min * factor).min(self.pause_max)
    }
}
