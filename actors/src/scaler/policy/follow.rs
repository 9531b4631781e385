//! What follows every step, whatever the event was, and when time alone makes it follow.

use super::*;

impl Scaler {
    pub(super) fn follow_up(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.records.asks_again(now) {
            effects.push(Effect::Restore);
        }
        if !self.records.is_done() {
            return;
        }
        self.follow_load(now);
        for (id, deployment) in &mut self.deployments {
            deployment.give_up(now, self.closing, effects);
            deployment.remove(now, *id, effects);
            deployment.drop_surplus(now, effects);
            let surplus = deployment.staying() > deployment.target();
            if surplus && deployment.shrinks_after.is_none() {
                deployment.shrinks_after = Some(self.looks.begun + 1);
                self.looks.next = now;
            }
        }
        self.fill(now, effects);
        for (id, deployment) in &mut self.deployments {
            deployment.answer(now, *id, self.closing, effects);
        }
        self.deployments.retain(|_, deployment| !deployment.is_over());
        self.look(now, effects);
    }

    /// The next moment at which time alone changes a decision.
    pub fn next_deadline(&self) -> Option<Moment> {
        if !self.records.is_done() {
            return self.records.deadline();
        }
        let may_start = self.starting() < self.limits.starting_max && !self.closing;
        let each = self.deployments.values().flat_map(|deployment| {
            let vacant = deployment.slots.values().filter_map(|slot| match slot.stage {
                Stage::Vacant { after } if may_start => Some(after),
                _ => None,
            });
            let deploying = deployment.deploying.map(|asked| asked.until);
            let scaling = deployment.scaling.map(|scaling| scaling.asked.until);
            let load = deployment.record.auto_scale.then(|| deployment.load.next());
            let removal = deployment.removes_at();
            vacant.chain(deploying).chain(scaling).chain(load).chain(removal)
        });
        let look = (self.wants_looks() && !self.looks.under_way).then_some(self.looks.next);
        each.chain(look).min()
    }

    /// Hands the size to the load rule where it has a say.
    fn follow_load(&mut self, now: Moment) {
        let due = |deployment: &Deployment| {
            let steady = deployment.writing.is_none() && deployment.deploying.is_none();
            let asked = deployment.record.auto_scale && deployment.load.next() <= now;
            asked && steady && !deployment.doomed
        };
        let due = self.deployments.iter().filter(|(_, deployment)| due(deployment));
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        for id in due {
            let tenant = self.deployments[&id].record.order.plan.tenant.clone();
            let others = self.deployments.iter();
            let others = others.filter(|(other, deployment)| {
                **other != id && deployment.record.order.plan.tenant == tenant
            });
            let others: usize = others.map(|(_, deployment)| deployment.wanted()).sum();
            let top = self.limits.instances_max.saturating_sub(others);
            let approval = ApprovalId::minted(self.draw.random());
            let Some(deployment) = self.deployments.get_mut(&id) else { continue };
            let floor = deployment.record.desired;
            let wish = deployment.load.decide(now, deployment.desired, floor, top);
            if wish != deployment.desired {
                deployment.desired = deployment.guard.judge(now, wish, approval);
                deployment.guard.note(now, deployment.desired);
            }
        }
    }

    /// Makes what is missing, the deployment with the least first.
    fn fill(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let missing: Vec<_> = self
            .deployments
            .iter()
            .flat_map(|(id, deployment)| {
                let missing = deployment.target().saturating_sub(deployment.staying());
                std::iter::repeat_n(*id, if deployment.is_written() { missing } else { 0 })
            })
            .collect();
        for id in missing {
            let (member, agent) = (self.number(id), AgentId::minted(self.draw.random()));
            let Some(deployment) = self.deployments.get_mut(&id) else { continue };
            let order = &deployment.record.order;
            let agent = order.seat.map_or(agent, |seat| seat.agent);
            let agent = order.plan.agent.as_ref().map(|_| agent);
            let stage = Stage::Vacant { after: now };
            deployment.slots.insert(member, Slot { stage, agent, failures: 0 });
        }
        if self.closing {
            return;
        }
        let mut room = self.limits.starting_max.saturating_sub(self.starting());
        let until = now + self.limits.place_max;
        while room > 0 {
            let ready = |deployment: &Deployment| {
                let slots = deployment.slots.iter();
                let mut vacant = slots.filter(|(_, slot)| match slot.stage {
                    Stage::Vacant { after } => after <= now,
                    _ => false,
                });
                vacant.next().map(|(member, _)| *member)
            };
            let wanting = self.deployments.values_mut();
            let wanting = wanting.filter_map(|deployment| Some((ready(deployment)?, deployment)));
            let Some((member, deployment)) =
                wanting.min_by_key(|(_, deployment)| deployment.up() + deployment.starting())
            else {
                break;
            };
            deployment.set(member, Stage::Placing);
            let order = Arc::clone(&deployment.record.order);
            effects.push(Effect::Place { member, order, until });
            room -= 1;
        }
    }

    fn starting(&self) -> usize {
        self.deployments.values().map(Deployment::starting).sum()
    }

    fn look(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.wants_looks() && !self.looks.under_way && self.looks.next <= now {
            self.looks.begun += 1;
            self.looks.under_way = true;
            effects.push(Effect::Look { look: self.looks.begun });
        }
    }

    fn wants_looks(&self) -> bool {
        !self.closing && (!self.deployments.is_empty() || !self.looks.dismissed)
    }
}

impl Deployment {
    /// How many there are to be, now that it may be on its way out.
    pub(super) fn target(&self) -> usize {
        if self.doomed { 0 } else { self.desired }
    }

    /// Whether what is wanted may be done.
    fn is_written(&self) -> bool {
        !matches!(self.writing, Some(Writing::Deploy))
    }

    fn is_over(&self) -> bool {
        self.doomed && self.writing.is_none() && self.removed && self.slots.is_empty()
    }

    fn removes_at(&self) -> Option<Moment> {
        let wanted = self.doomed || !self.undeploy.is_empty();
        (wanted && self.writing.is_none() && !self.removed).then_some(self.remove_after)
    }

    /// Takes back what was written down, if it is not wanted any more.
    fn remove(&mut self, now: Moment, id: DeploymentId, effects: &mut Vec<Effect>) {
        if self.removes_at().is_some_and(|at| at <= now) {
            self.writing = Some(Writing::Remove);
            effects.push(Effect::Write { deployment: id, record: None });
        }
    }

    /// A deployment of which nothing comes up is refused, and leaves nothing behind.
    fn give_up(&mut self, now: Moment, closing: bool, effects: &mut Vec<Effect>) {
        let Some(asked) = self.deploying.filter(|_| self.is_written()) else { return };
        let setup_failed =
            |(_, refusal): &(_, Refusal)| matches!(refusal, Refusal::SetupFailed { .. });
        let failed = self.failures.iter().rev().map(|(_, refusal)| refusal.clone()).next();
        let wrong = self.failures.iter().find(|one| setup_failed(one));
        let wrong = wrong.map(|(_, refusal)| refusal.clone());
        let late = asked.until <= now;
        let nothing = self.up() == 0 && (late || self.is_exhausted());
        let refusal = match (wrong, failed) {
            _ if closing => Refusal::Draining,
            // What fails once fails again: the setup is the same everywhere.
            (Some(wrong), _) => wrong,
            (None, Some(failed)) if nothing => failed,
            (None, None) if nothing => Refusal::WaitedTooLong { waited: now.since(self.began) },
            (None, _) => return,
        };
        self.deploying = None;
        self.doomed = true;
        effects.push(Effect::Refuse { ticket: asked.ticket, refusal });
    }

    /// What has no sandbox yet, or is being set up, goes before anything that is up.
    fn drop_surplus(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let target = self.target();
        let rank = |stage: Stage| match stage {
            Stage::Vacant { .. } => Some(0),
            Stage::Placing => Some(1),
            Stage::Furnishing { .. } => Some(2),
            Stage::Up { .. } | Stage::Unwanted | Stage::Leaving { .. } => None,
        };
        let surplus = self.staying().saturating_sub(target);
        let mut first: Vec<_> = self
            .slots
            .iter()
            .filter_map(|(member, slot)| Some((rank(slot.stage)?, *member, slot.stage)))
            .collect();
        first.sort_by_key(|(rank, member, _)| (*rank, *member));
        for (_, member, stage) in first.into_iter().take(surplus) {
            match stage {
                Stage::Vacant { .. } => drop(self.slots.remove(&member)),
                Stage::Placing => self.set(member, Stage::Unwanted),
                Stage::Furnishing { sandbox } => self.let_go(member, sandbox, None, now, effects),
                Stage::Up { .. } | Stage::Unwanted | Stage::Leaving { .. } => (),
            }
        }
    }

    fn answer(&mut self, now: Moment, id: DeploymentId, closing: bool, effects: &mut Vec<Effect>) {
        if self.writing.is_some() || (self.deploying.is_none() && self.scaling.is_none()) {
            return;
        }
        let view = self.view(now, id);
        let leaving = view.instances.len() > view.staying();
        let exhausted = !leaving && self.is_exhausted();
        let settled = closing || self.doomed || view.is_settled() || exhausted;
        let done = |asked: Asked| settled || asked.until <= now;
        if let Some(asked) = self.deploying.filter(|asked| done(*asked)) {
            self.deploying = None;
            let answer = Answer::Deployed(view.clone());
            effects.push(Effect::Answer { ticket: asked.ticket, answer });
        }
        if let Some(scaling) = self.scaling.filter(|scaling| done(scaling.asked)) {
            self.scaling = None;
            let ticket = scaling.asked.ticket;
            let grew = self.desired > scaling.previous;
            let nothing = grew && self.counts.started == scaling.before.started;
            match self.failures.back().filter(|_| nothing && exhausted) {
                Some((_, refusal)) => {
                    let why = format!("{refusal}; the wish for {} is kept", self.desired);
                    let refusal = Refusal::Provider { why, ran: Ran::Yes };
                    effects.push(Effect::Refuse { ticket, refusal });
                }
                None => {
                    let answer = self.scaled(view, scaling, false);
                    effects.push(Effect::Answer { ticket, answer });
                }
            }
        }
    }
}
