//! Leased sandboxes that stand still: pausing, resuming, and who waits for the end of either.

use super::*;

/// Most callers who wait for one sandbox to stop or to go on.
const PARKED_MAX: usize = 64;

/// Whether a leased sandbox runs.
#[derive(Clone, Debug)]
pub(super) enum Stance {
    Running,
    Paused {
        since: Moment,
    },
    /// On the way from one to the other.
    Turning {
        turn: Turn,
        /// Which of all turns: an answer to another one is none to this.
        round: u64,
        /// When it was last known to run, if it is paused.
        paused: Option<Moment>,
        /// Who wants it.
        wanted: Wanted,
        /// When it has failed.
        until: Moment,
        parked: Vec<Parked>,
    },
}

/// Who wants a sandbox to stop or to go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// A caller, who waits until then.
    By(Ticket, Moment),
    /// A caller who has stopped waiting.
    Left,
    /// The clock, or the undoing of another turn.
    ByClock,
}

impl Wanted {
    const fn ticket(self) -> Option<Ticket> {
        match self {
            Self::By(ticket, _) => Some(ticket),
            Self::Left | Self::ByClock => None,
        }
    }
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// To a standstill.
    Pause,
    /// On, for so long.
    Resume {
        /// From the moment at which it goes on.
        lifetime: Duration,
    },
}

/// A question that waits until it is settled which way a sandbox goes.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    ticket: Ticket,
    ask: Ask,
    until: Moment,
}

/// What a holder wants of its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To reach the sandbox for a moment. That it did is noted; when it ends is not changed.
    Enter,
    /// Another end.
    SetExpiry {
        /// When.
        at: Moment,
        /// Whether an earlier end than the one it has is left aside.
        only_later: bool,
    },
    /// A standstill, or going on.
    Turn(Turn),
}

impl Stance {
    /// When time alone changes something, if it does.
    pub(super) fn due(&self) -> Option<Moment> {
        match self {
            Self::Running | Self::Paused { .. } => None,
            Self::Turning { until, wanted, parked, .. } => {
                let wanted = match wanted {
                    Wanted::By(_, until) => Some(*until),
                    Wanted::Left | Wanted::ByClock => None,
                };
                parked.iter().map(|one| one.until).chain([*until]).chain(wanted).min()
            }
        }
    }

    /// It is over, whichever way it was going: who wanted that, and who waits.
    pub(super) fn give_up(&mut self) -> (Option<Ticket>, Vec<Parked>) {
        match std::mem::replace(self, Self::Running) {
            Self::Running | Self::Paused { .. } => (None, Vec::new()),
            Self::Turning { wanted, parked, .. } => (wanted.ticket(), parked),
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        matches!(self, Self::Paused { .. })
    }
}

impl Pool {
    /// Leave to begin something new in a sandbox that stands still, or is about to.
    pub(super) fn refused_by_stance(&self, sandbox: SandboxId) -> Option<Refusal> {
        match self.leased.get(&sandbox)?.stance {
            Stance::Running => None,
            Stance::Paused { .. } => Some(Refusal::Paused { sandbox }),
            Stance::Turning { .. } => {
                Some(Refusal::Busy { waiting: 0, retry_after: self.limits.retry_pause })
            }
        }
    }

    pub(super) fn asked(
        &mut self,
        now: Moment,
        tenant: &Tenant,
        sandbox: SandboxId,
        parked: Parked,
        effects: &mut Vec<Effect>,
    ) {
        let ticket = parked.ticket;
        match self.hear(now, tenant, sandbox, parked, effects) {
            Ok(Some(facts)) => {
                effects.push(Effect::Answer { ticket, answer: Answer::Facts(facts) });
            }
            // It waits.
            Ok(None) => (),
            Err(refusal) => effects.push(Effect::Refuse { ticket, refusal }),
        }
    }

    fn hear(
        &mut self,
        now: Moment,
        tenant: &Tenant,
        sandbox: SandboxId,
        parked: Parked,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Facts>, Refusal> {
        if self.leased.get(&sandbox).is_some_and(|lease| lease.due() <= now) {
            self.look_at(now, sandbox, effects);
        }
        let limits = (self.limits.lifetime_max, self.limits.turn_max);
        let theirs = |lease: &&mut Lease| lease.order.tenant == *tenant;
        let Some(lease) = self.leased.get_mut(&sandbox).filter(theirs) else {
            return Err(self.not_held(now, tenant, sandbox));
        };
        if lease.retiring.is_some() {
            return Err(Refusal::Leaving { sandbox });
        }
        let (lifetime_max, turn_max) = limits;
        let latest = lease.granted + lifetime_max;
        match (&mut lease.stance, parked.ask) {
            (Stance::Turning { parked: waiting, .. }, _) if waiting.len() >= PARKED_MAX => {
                let (waiting, retry_after) = (waiting.len(), self.limits.retry_pause);
                return Err(Refusal::Busy { waiting, retry_after });
            }
            (Stance::Turning { parked: waiting, .. }, _) => {
                waiting.push(parked);
                self.reschedule(sandbox);
                return Ok(None);
            }
            (Stance::Running, Ask::Enter) => lease.last_activity = now,
            (Stance::Running, Ask::SetExpiry { at, only_later }) => {
                let at = at.min(latest);
                lease.expires = if only_later { lease.expires.max(at) } else { at };
            }
            (Stance::Running, Ask::Turn(Turn::Resume { lifetime })) => {
                lease.expires = lease.expires.max((now + lifetime).min(latest));
            }
            (Stance::Paused { .. }, Ask::Enter | Ask::SetExpiry { .. }) => {
                return Err(Refusal::Paused { sandbox });
            }
            (Stance::Paused { .. }, Ask::Turn(Turn::Pause)) => {
                let why = format!("sandbox {sandbox} is paused already");
                return Err(Refusal::Conflict { scope: "sandbox", why });
            }
            (Stance::Paused { .. }, Ask::Turn(Turn::Resume { .. })) if latest <= now => {
                let why = format!("the longest lifetime of sandbox {sandbox} is over");
                return Err(Refusal::Conflict { scope: "sandbox", why });
            }
            (Stance::Running | Stance::Paused { .. }, Ask::Turn(turn)) => {
                let until = now + turn_max;
                self.turn(sandbox, turn, Wanted::By(parked.ticket, parked.until), until, effects);
                return Ok(None);
            }
        }
        let facts = Facts::of(sandbox, lease, None);
        self.reschedule(sandbox);
        Ok(Some(facts))
    }

    /// Has it stop or go on.
    fn turn(
        &mut self,
        sandbox: SandboxId,
        turn: Turn,
        wanted: Wanted,
        until: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let Some(lease) = self.leased.get_mut(&sandbox) else { return };
        let (paused, parked) = match std::mem::replace(&mut lease.stance, Stance::Running) {
            Stance::Running => (None, Vec::new()),
            Stance::Paused { since } => (Some(since), Vec::new()),
            // Undone before it was settled: whoever waits goes on waiting.
            Stance::Turning { paused, parked, .. } => (paused, parked),
        };
        self.rounds += 1;
        let round = self.rounds;
        lease.stance = Stance::Turning { turn, round, paused, wanted, until, parked };
        effects.push(Effect::Turn { sandbox, turn, round });
        self.reschedule(sandbox);
    }

    /// It stopped, it went on, or it did not.
    pub(super) fn turned(
        &mut self,
        now: Moment,
        sandbox: SandboxId,
        answered: u64,
        outcome: Result<(), ProviderError>,
        effects: &mut Vec<Effect>,
    ) {
        let Limits { paused_kept, lifetime_max, turn_max, .. } = self.limits;
        let Some(lease) = self.leased.get_mut(&sandbox) else { return };
        let Stance::Turning { turn, round, paused, wanted, parked, .. } = &mut lease.stance else {
            return;
        };
        // The end of a turn that was given up says nothing about this one.
        if *round != answered {
            return;
        }
        let which = *turn;
        let (wanted, parked) = (*wanted, std::mem::take(parked));
        match (which, &outcome) {
            (Turn::Pause, Ok(())) => {
                lease.stance = Stance::Paused { since: now };
                lease.expires = now + paused_kept;
            }
            (Turn::Resume { lifetime }, Ok(())) => {
                let stood = now.since(paused.unwrap_or(now));
                lease.stance = Stance::Running;
                lease.expires = (now + lifetime).min(lease.granted + lifetime_max);
                lease.last_activity = now;
                // What runs in it has as much time left as it had.
                lease.running.values_mut().for_each(|until| *until = *until + stood);
            }
            // It may have stopped all the same. Whoever asked for it was told that it did not, so
            // it goes on, for as long as it had.
            (Turn::Pause, Err(error))
                if error.maybe_done() && !matches!(wanted, Wanted::ByClock) =>
            {
                let lifetime = lease.expires.since(now);
                *paused = Some(now);
                self.put_back(sandbox, parked);
                refuse_turn(wanted, error, effects);
                let (turn, until) = (Turn::Resume { lifetime }, now + turn_max);
                return self.turn(sandbox, turn, Wanted::ByClock, until, effects);
            }
            (Turn::Pause, Err(_)) => lease.stance = Stance::Running,
            (Turn::Resume { .. }, Err(_)) => {
                lease.stance = Stance::Paused { since: paused.unwrap_or(now) };
            }
        }
        match (wanted, outcome) {
            (Wanted::By(ticket, _), Ok(())) => {
                let answer = Answer::Facts(Facts::of(sandbox, lease, None));
                effects.push(Effect::Answer { ticket, answer });
            }
            (Wanted::By(..), Err(error)) => refuse_turn(wanted, &error, effects),
            (Wanted::Left, _) | (Wanted::ByClock, Ok(())) => (),
            // The clock wanted it, and it cannot be had: what is over ends.
            (Wanted::ByClock, Err(_)) => {
                let cause = if which == Turn::Pause { Cause::Expired } else { Cause::Lost };
                self.end_lease(now, sandbox, cause, effects);
            }
        }
        self.reschedule(sandbox);
        self.let_in(now, sandbox, parked, effects);
    }

    fn put_back(&mut self, sandbox: SandboxId, waiting: Vec<Parked>) {
        if let Some(Lease { stance: Stance::Turning { parked, .. }, .. }) =
            self.leased.get_mut(&sandbox)
        {
            *parked = waiting;
        }
    }

    /// Hears those who waited, in the order they came.
    pub(super) fn let_in(
        &mut self,
        now: Moment,
        sandbox: SandboxId,
        parked: Vec<Parked>,
        effects: &mut Vec<Effect>,
    ) {
        let holder = |lease: &Lease| lease.order.tenant.clone();
        let ending = self.ending.get(&sandbox).and_then(|one| one.lease.as_ref());
        let Some(tenant) = self.leased.get(&sandbox).or(ending).map(holder) else { return };
        for one in parked {
            self.asked(now, &tenant, sandbox, one, effects);
        }
    }

    /// Does what time alone makes due in one lease.
    pub(super) fn look_at(&mut self, now: Moment, sandbox: SandboxId, effects: &mut Vec<Effect>) {
        let Some(lease) = self.leased.get_mut(&sandbox) else { return };
        if let Stance::Turning { round, until, wanted, parked, .. } = &mut lease.stance {
            let late = |one: &mut Parked| one.until <= now;
            for Parked { ticket, .. } in parked.extract_if(.., late) {
                effects.push(Effect::Refuse { ticket, refusal: Refusal::Unfinished });
            }
            if let Wanted::By(ticket, at) = *wanted
                && at <= now
            {
                *wanted = Wanted::Left;
                effects.push(Effect::Refuse { ticket, refusal: Refusal::Unfinished });
            }
            if *until <= now {
                let (round, given_up) = (*round, ProviderError::Timeout { maybe_done: true });
                self.turned(now, sandbox, round, Err(given_up), effects);
            }
            return;
        }
        let running = matches!(lease.stance, Stance::Running) && lease.retiring.is_none();
        if running && lease.expires <= now && lease.order.at_expiry == AtExpiry::Pause {
            let until = now + self.limits.turn_max;
            return self.turn(sandbox, Turn::Pause, Wanted::ByClock, until, effects);
        }
        self.reap(now, sandbox, Cause::Expired, effects);
    }
}

fn refuse_turn(wanted: Wanted, error: &ProviderError, effects: &mut Vec<Effect>) {
    if let Some(ticket) = wanted.ticket() {
        effects.push(Effect::Refuse { ticket, refusal: refusal_of(error) });
    }
}

impl Parked {
    pub(super) fn new(ticket: Ticket, ask: Ask, until: Moment) -> Self {
        Self { ticket, ask, until }
    }
}
