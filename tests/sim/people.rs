//! Who asks: agents that want sandboxes and runs, some of them careless.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use sandpit_actors::exec::cache::Key;
use sandpit_actors::exec::policy::{self as exec, Place};
use sandpit_actors::pool::policy as pool;
use sandpit_actors::shell::Ticket;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::time::Moment;
use sandpit_sandbox::provider::Work;

use crate::faults::{Fault, stream};
use crate::world::{Happening, TEMPLATES, Told, World};

/// Something a holder plans to do.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    Run { tenant: Tenant, sandbox: SandboxId },
    Terminate { tenant: Tenant, sandbox: SandboxId },
    Cancel { tenant: Tenant, sandbox: SandboxId, exec: ExecId },
    Ask { tenant: Tenant, sandbox: SandboxId, ask: pool::Ask },
}

/// A question without an answer.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) until: Moment,
    /// What makes a run equal to others, and how old a result may be.
    pub(crate) wish: Option<(Key, Duration)>,
}

pub(crate) struct People {
    draw: ChaCha8Rng,
    pub(crate) open: BTreeMap<Ticket, Open>,
}

impl People {
    pub(crate) fn new(seed: u64) -> Self {
        Self { draw: stream(seed, 3), open: BTreeMap::new() }
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.draw.random_range(range))
    }

    fn tenant(&mut self) -> Tenant {
        ["red", "blue"][self.draw.random_range(0..2)].parse().expect("a tenant")
    }
}

impl World {
    /// Somebody comes and wants a sandbox, or something run in a fresh one.
    pub(crate) fn visit(&mut self) {
        let tenant = self.people.tenant();
        let template = TEMPLATES[self.people.draw.random_range(0..2)].to_owned();
        let patience = self.people.millis(1..40_000);
        match self.people.draw.random_range(0..3) {
            0 => self.visit_for_a_sandbox(tenant, template, patience),
            1 => self.visit_for_a_run(tenant, Place::Fresh(template), None, patience),
            _ => {
                let number = self.people.draw.random_range(0..4);
                let age_max = self.people.millis(1_000..300_000);
                let wish = Some((Key::numbered(number), age_max));
                self.visit_for_a_run(tenant, Place::Fresh(template), wish, patience);
            }
        }
    }

    fn visit_for_a_sandbox(&mut self, tenant: Tenant, template: String, patience: Duration) {
        let order = Arc::new(pool::Order {
            tenant: tenant.clone(),
            template,
            name: None,
            memory_mb: None,
            cpu_count: None,
            lifetime: self.people.millis(1_000..300_000),
            idle_timeout: self.people.millis(1_000..300_000),
            env: BTreeMap::new(),
            metadata: BTreeMap::new(),
            at_expiry: match self.people.draw.random_bool(0.3) {
                true => pool::AtExpiry::Pause,
                false => pool::AtExpiry::End,
            },
        });
        let ticket = self.ticket();
        let until = self.now + patience;
        self.ledger.orders.insert(ticket, Arc::clone(&order));
        self.people.open.insert(ticket, Open { until, wish: None });
        self.ledger.pool_askers.insert(ticket, crate::promises::Asker::Client);
        self.step(Told::Pool(pool::Event::Acquire { ticket, order, until }));
    }

    fn visit_for_a_run(
        &mut self,
        tenant: Tenant,
        place: Place,
        wish: Option<(Key, Duration)>,
        patience: Duration,
    ) {
        let order = Arc::new(exec::Order {
            tenant: tenant.clone(),
            place,
            work: Work::Line("true".to_owned()),
            files: BTreeMap::new(),
            env: BTreeMap::new(),
            cwd: None,
            stdin: Bytes::new(),
            time_max: self.people.millis(1_000..60_000),
            cache: wish.map(|(_, age_max)| age_max),
            output_max: 1_000,
            stream: false,
            id: None,
        });
        let ticket = self.ticket();
        let until = self.now + patience;
        self.people.open.insert(ticket, Open { until, wish });
        self.step(Told::Exec(exec::Event::Run { ticket, order, until }));
    }

    /// A holder got its sandbox and plans what to do with it.
    pub(crate) fn plan_errands(&mut self, tenant: &Tenant, sandbox: SandboxId) {
        for _ in 0..self.people.draw.random_range(0..4) {
            let after = self.people.millis(0..60_000);
            let tenant = tenant.clone();
            self.plan(after, Happening::Errand(Errand::Run { tenant, sandbox }));
        }
        if self.faults.strikes(Fault::Minds) {
            for _ in 0..self.people.draw.random_range(1..6) {
                let after = self.people.millis(0..60_000);
                let (tenant, ask) = (tenant.clone(), self.a_wish());
                self.plan(after, Happening::Errand(Errand::Ask { tenant, sandbox, ask }));
            }
        }
        if !self.faults.strikes(Fault::Forgets) {
            let after = self.people.millis(0..90_000);
            let tenant = tenant.clone();
            self.plan(after, Happening::Errand(Errand::Terminate { tenant, sandbox }));
        }
    }

    fn a_wish(&mut self) -> pool::Ask {
        let time = self.people.millis(1_000..100_000);
        match self.people.draw.random_range(0..6) {
            0 => pool::Ask::SetExpiry { at: self.now + time, only_later: false },
            1 => pool::Ask::SetExpiry { at: self.now + time, only_later: true },
            2 => pool::Ask::Turn(pool::Turn::Pause),
            3 | 4 => pool::Ask::Turn(pool::Turn::Resume { lifetime: time }),
            _ => pool::Ask::Enter,
        }
    }

    /// A run began; perhaps its caller loses interest.
    pub(crate) fn perhaps_cancel(&mut self, tenant: &Tenant, sandbox: SandboxId, exec: ExecId) {
        if self.faults.strikes(Fault::Cancels) {
            let after = self.people.millis(0..10_000);
            let tenant = tenant.clone();
            self.plan(after, Happening::Errand(Errand::Cancel { tenant, sandbox, exec }));
        }
    }

    pub(crate) fn run_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Run { tenant, sandbox } => {
                let patience = self.people.millis(1..40_000);
                self.visit_for_a_run(tenant, Place::Held(sandbox), None, patience);
            }
            Errand::Terminate { tenant, sandbox } => {
                let ticket = self.ticket();
                let until = self.now + self.people.millis(1..40_000);
                let open = Open { until, wish: None };
                self.people.open.insert(ticket, open);
                self.ledger.pool_askers.insert(ticket, crate::promises::Asker::Client);
                if let Some(hold) = self.ledger.holds.get_mut(&sandbox)
                    && hold.tenant == tenant
                {
                    hold.may_end = true;
                }
                self.step(Told::Pool(pool::Event::Terminate { ticket, tenant, sandbox, until }));
            }
            Errand::Ask { tenant, sandbox, ask } => {
                let ticket = self.ticket();
                let until = self.now + self.people.millis(1..40_000);
                self.people.open.insert(ticket, Open { until, wish: None });
                self.ledger.pool_askers.insert(ticket, crate::promises::Asker::Client);
                let event = pool::Event::Ask { ticket, tenant, sandbox, ask, until };
                self.step(Told::Pool(event));
            }
            Errand::Cancel { tenant, sandbox, exec } => {
                let ticket = self.ticket();
                let until = self.now;
                self.people.open.insert(ticket, Open { until, wish: None });
                self.step(Told::Exec(exec::Event::Cancel { ticket, tenant, sandbox, exec }));
            }
        }
    }
}
