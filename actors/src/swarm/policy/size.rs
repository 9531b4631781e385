//! Growing, shrinking and ending a swarm.

use super::*;

/// A change of size under way.
#[derive(Debug)]
pub(super) struct Scaling {
    /// Who asked, until it is answered.
    asked: Option<(Ticket, Moment)>,
    previous: usize,
    target: usize,
    mode: ScaleMode,
    next: Moment,
    pub(super) failures: Vec<Refusal>,
}

/// A swarm that is being shut down.
#[derive(Debug)]
pub(super) struct Stopping {
    /// Who waits, and how long.
    pub(super) asked: Vec<(Ticket, Moment)>,
    grace: Duration,
    dismissed: bool,
}

impl Swarms {
    #[expect(clippy::too_many_arguments, reason = "what a caller asks for, as it came")]
    pub(super) fn scale(
        &mut self,
        now: Moment,
        (ticket, until): (Ticket, Moment),
        tenant: &Tenant,
        id: SwarmId,
        target: usize,
        mode: ScaleMode,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let approval = ApprovalId::minted(self.draw.random());
        let told = now + self.limits.told_after;
        let swarm = self.living(tenant, id)?;
        let conflict = |why: String| Refusal::Conflict { scope: "swarm", why };
        let max = swarm.record.order.max_agents;
        if target > max {
            return Err(conflict(format!("the swarm was made for at most {max} agents")));
        }
        if swarm.members.iter().all(|member| !member.stays()) && target > swarm.pending {
            let why = "the swarm has no agent that others could be made after; deploy one first";
            return Err(conflict(why.to_owned()));
        }
        let previous = swarm.size();
        let target = swarm.guard.judge(now, target, approval);
        let asked = Some((ticket, until.min(told)));
        let fresh = Scaling { asked, previous, target, mode, next: now, failures: Vec::new() };
        let earlier = swarm.scaling.replace(fresh);
        if let Some((ticket, _)) = earlier.and_then(|earlier| earlier.asked) {
            let why = "another change of size came before this one was done".to_owned();
            effects.push(Effect::Refuse { ticket, refusal: conflict(why) });
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what a caller asks for, as it came")]
    pub(super) fn stop(
        &mut self,
        now: Now,
        asked: (Ticket, Moment),
        tenant: &Tenant,
        id: SwarmId,
        grace: Duration,
        save: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let swarm = self.mine(tenant, id)?;
        if let Some(stopping) = &mut swarm.stopping {
            stopping.grace = stopping.grace.min(grace);
            stopping.asked.push(asked);
            return Ok(());
        }
        let asked = vec![asked];
        if swarm.record.stopped.is_some() {
            // Shut down in an earlier life, or long ago.
            swarm.stopping = Some(Stopping { asked, grace, dismissed: false });
            return Ok(());
        }
        let sum = |all: Vec<f64>| (!all.is_empty()).then(|| all.iter().sum());
        let trades: Vec<u64> = swarm.members.iter().filter_map(|one| one.trades).collect();
        swarm.record.stopped = Some(Stopped {
            at: now.wall,
            agents: swarm.size(),
            saved: save,
            trades: (!trades.is_empty()).then(|| trades.iter().sum()),
            pnl: sum(swarm.members.iter().filter_map(|one| one.pnl).collect()),
        });
        swarm.stopping = Some(Stopping { asked, grace, dismissed: false });
        swarm.writing = true;
        if let Some((ticket, _)) = swarm.scaling.take().and_then(|scaling| scaling.asked) {
            let why = "the swarm was shut down".to_owned();
            let refusal = Refusal::Conflict { scope: "swarm", why };
            effects.push(Effect::Refuse { ticket, refusal });
        }
        effects.push(Effect::Write { swarm: id, record: swarm.record.clone() });
        Ok(())
    }

    pub(super) fn follow_up(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let at = now.moment;
        if self.records.asks_again(at) {
            effects.push(Effect::Restore);
        }
        if !self.records.is_done() {
            return;
        }
        let limits = self.limits;
        let mut forgotten = Vec::new();
        for (id, swarm) in &mut self.swarms {
            let draw = &mut self.draw;
            swarm.grow_or_shrink(at, *id, &limits, self.closing, || draw.random(), effects);
            swarm.end(at, self.closing, effects);
            if let Some(stopped) = swarm.record.stopped
                && swarm.stopping.is_none()
                && swarm.members.is_empty()
            {
                forgotten.push((stopped.at, *id));
            }
        }
        forgotten.sort();
        let surplus = forgotten.len().saturating_sub(limits.stopped_max);
        for (_, id) in forgotten.into_iter().take(surplus) {
            self.swarms.remove(&id);
            effects.push(Effect::Forget { swarm: id });
        }
        if !self.looking && self.wants_looks() && self.next_look <= at {
            self.looking = true;
            self.looks += 1;
            effects.push(Effect::Look);
        }
    }

    fn wants_looks(&self) -> bool {
        let needs = |swarm: &Swarm| {
            let lives = swarm.record.stopped.is_none() || swarm.stopping.is_some();
            lives || !swarm.members.is_empty()
        };
        // What was shut down in an earlier life may have left agents.
        let first = self.looks == 0 && !self.swarms.is_empty();
        !self.closing && (first || self.swarms.values().any(needs))
    }

    /// The next moment at which time alone changes a decision.
    pub fn next_deadline(&self) -> Option<Moment> {
        if !self.records.is_done() {
            return self.records.deadline();
        }
        let each = self.swarms.values().flat_map(|swarm| {
            let scaling = swarm.scaling.iter();
            let scaling = scaling.flat_map(|scaling| {
                scaling.asked.map(|(_, until)| until).into_iter().chain([scaling.next])
            });
            let stopping = swarm.stopping.iter().flat_map(|stopping| &stopping.asked);
            scaling.chain(stopping.map(|(_, until)| *until))
        });
        let look = (!self.looking && self.wants_looks()).then_some(self.next_look);
        each.chain(look).min()
    }
}

impl Swarm {
    /// One step of a change of size, if one is due, and the answer to who asked for it.
    fn grow_or_shrink(
        &mut self,
        now: Moment,
        id: SwarmId,
        limits: &Limits,
        closing: bool,
        mut draw: impl FnMut() -> u128,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut scaling) = self.scaling.take() else { return };
        let failed = !scaling.failures.is_empty() && self.pending == 0;
        if self.pending == 0 && self.staying() == scaling.target || failed || closing {
            let done = self.staying() == scaling.target;
            if let Some((ticket, _)) = scaling.asked {
                let answer = Answer::Scaled(self.scaled(now, &scaling, done, limits));
                effects.push(Effect::Answer { ticket, answer });
            }
            return;
        }
        if scaling.next <= now {
            scaling.next = now + limits.step_pause;
            let step = if scaling.mode == ScaleMode::Immediate { usize::MAX } else { limits.step };
            let errors = self.history.covered(now, ERRORS_OVER).runs.error_rate();
            let bad =
                errors.is_some_and(|rate| rate * 100.0 > f64::from(limits.errors_max_percent));
            let waits = scaling.mode == ScaleMode::Adaptive && bad;
            let step = if waits { 0 } else { step };
            let size = self.size();
            for _ in 0..scaling.target.saturating_sub(size).min(step) {
                let Some(plan) = self.most_lacking() else { break };
                self.pending += 1;
                let (agent, until) = (AgentId::minted(draw()), now + ENLIST_MAX);
                effects.push(Effect::Enlist { swarm: id, agent, plan, ticket: None, until });
            }
            for _ in 0..self.staying().saturating_sub(scaling.target).min(step) {
                let Some(leaver) = self.most_plentiful() else { break };
                let member = &mut self.members[leaver];
                member.status = AgentStatus::Draining;
                self.leaving.insert(member.agent);
                let (tenant, deployment) = (member.plan.tenant.clone(), member.deployment);
                effects.push(Effect::Dismiss { tenant, deployment, grace: DRAIN_MAX });
            }
        }
        if let Some((ticket, _)) = scaling.asked.take_if(|(_, until)| *until <= now) {
            let answer = Answer::Scaled(self.scaled(now, &scaling, false, limits));
            effects.push(Effect::Answer { ticket, answer });
        }
        self.scaling = Some(scaling);
    }

    fn scaled(&self, now: Moment, scaling: &Scaling, done: bool, limits: &Limits) -> Scaled {
        let left = self.size().abs_diff(scaling.target);
        let steps = match scaling.mode {
            ScaleMode::Immediate => 1,
            ScaleMode::Gradual | ScaleMode::Adaptive => left.div_ceil(limits.step),
        };
        let pause = limits.step_pause * u32::try_from(steps).unwrap_or(u32::MAX);
        Scaled {
            previous: scaling.previous,
            target: scaling.target,
            current: self.staying(),
            done,
            estimated: (!done).then(|| now + pause),
            failures: scaling.failures.clone(),
            held: self.guard.held(now),
        }
    }

    /// What the next agent is made of: a copy of the newest of the type of which there are fewest.
    fn most_lacking(&self) -> Option<Arc<Plan>> {
        let counts = self.counts();
        let (fewest, _) = counts.iter().min_by_key(|(_, count)| **count)?;
        let alike = self.members.iter().filter(|one| one.stays() && one.agent_type() == *fewest);
        alike.max_by_key(|one| one.deployed).map(|one| Arc::clone(&one.plan))
    }

    /// Who leaves next: of the type of which there are most, one that does nothing, else the newest.
    fn most_plentiful(&self) -> Option<usize> {
        let counts = self.counts();
        let (most, _) = counts.iter().max_by_key(|(_, count)| **count)?;
        let alike = self.members.iter().enumerate();
        let alike = alike.filter(|(_, one)| one.stays() && one.agent_type() == *most);
        alike
            .max_by_key(|(_, one)| (one.status != AgentStatus::Running, one.deployed, one.agent))
            .map(|(at, _)| at)
    }

    fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for member in self.members.iter().filter(|member| member.stays()) {
            *counts.entry(member.agent_type()).or_default() += 1;
        }
        counts
    }

    /// Lets all agents go once that is written down, and answers when they are gone.
    fn end(&mut self, now: Moment, closing: bool, effects: &mut Vec<Effect>) {
        // What an earlier life was asked to end is ended without anybody waiting for it.
        if self.record.stopped.is_some() && self.stopping.is_none() && !self.members.is_empty() {
            let (asked, grace) = (Vec::new(), DRAIN_MAX);
            self.stopping = Some(Stopping { asked, grace, dismissed: false });
        }
        let Some(stopping) = &mut self.stopping else { return };
        if self.writing {
            return;
        }
        let fresh = !std::mem::replace(&mut stopping.dismissed, true);
        for member in &mut self.members {
            // Each is told again as long as it is there: being told twice is nothing.
            if fresh || member.stays() {
                member.status = AgentStatus::Draining;
                self.leaving.insert(member.agent);
                let (tenant, deployment) = (member.plan.tenant.clone(), member.deployment);
                effects.push(Effect::Dismiss { tenant, deployment, grace: stopping.grace });
            }
        }
        let gone = self.members.is_empty() && self.pending == 0;
        let record = self.record.clone();
        let answers = stopping.asked.extract_if(.., |(_, until)| gone || closing || *until <= now);
        effects.extend(answers.map(|(ticket, _)| {
            let answer = Answer::Stopped { record: record.clone(), gone };
            Effect::Answer { ticket, answer }
        }));
        if gone && stopping.asked.is_empty() {
            self.stopping = None;
        }
    }
}

/// Longest an agent of a change of size may take to come.
const ENLIST_MAX: Duration = Duration::from_secs(60);

/// How long what an agent runs may take to end when it leaves.
const DRAIN_MAX: Duration = Duration::from_secs(60);
