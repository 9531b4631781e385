//! One node: pool, executions and reaper are the real policies; everything around them is
//! simulated. Ten minutes of chaos, in which nothing promised may be broken; then a quarter of an
//! hour without faults, in which everything owed must be delivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::resume_unwind;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use sandpit_actors::exec::policy::{self as exec, Execs};
use sandpit_actors::pool::policy::{self as pool, Pool};
use sandpit_actors::reaper::policy::{self as reaper, Reaper};
use sandpit_actors::shell::Ticket;
use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_messages::time::Moment;

use crate::faults::{Fault, Faults, stream};
use crate::people::People;
use crate::promises::Ledger;
use crate::provider::Cloud;

const CHAOS: Duration = Duration::from_secs(600);
const CALM: Duration = Duration::from_secs(900);
/// Within this time after the calm there is a moment at which nothing is half made.
const SETTLE: Duration = Duration::from_secs(60);
const TRACE_LINES: usize = 60;

/// The templates of this world.
pub(crate) const TEMPLATES: [&str; 2] = ["base", "trading"];

/// One of the actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Pool,
    Exec,
    Reaper,
}

/// One life of one actor: answers find it by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    process: u32,
    life: u32,
}

impl Life {
    pub(crate) fn is_of_the_process_of(self, other: Self) -> bool {
        self.process == other.process
    }
}

/// What somebody tells an actor.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Pool(pool::Event),
    Exec(exec::Event),
    Reaper(reaper::Event),
}

impl Told {
    fn whom(&self) -> Who {
        match self {
            Self::Pool(_) => Who::Pool,
            Self::Exec(_) => Who::Exec,
            Self::Reaper(_) => Who::Reaper,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// An answer reaches whoever asked, if it still lives.
    Answer {
        to: Life,
        told: Told,
    },
    /// A question reaches whoever lives by then.
    Ask(Told),
    Alarm(Who),
    /// A caller comes; what it wants is drawn when it does.
    Visit,
    /// Something a holder planned.
    Errand(crate::people::Errand),
    /// The provider is done making a sandbox.
    Born {
        sandbox: SandboxId,
        answer: Option<(Life, bool)>,
    },
    /// The provider is done destroying one.
    Gone {
        sandbox: SandboxId,
        to: Option<Life>,
    },
    /// An execution ends.
    RunEnds {
        to: Life,
        exec: ExecId,
    },
    /// The reaper has seen what exists and asks what is owned.
    Compared {
        to: Life,
        look: u64,
        existing: Vec<SandboxId>,
    },
    /// A sandbox may end by itself.
    MayDie,
    MayCrash,
    Heal,
}

pub(crate) struct World {
    pub(crate) now: Moment,
    /// What will happen, in order; of two at one moment, what was planned first.
    agenda: BTreeMap<(Moment, u64), Happening>,
    planned: u64,
    pub(crate) faults: Faults,
    pub(crate) timing: ChaCha8Rng,
    seeds: ChaCha8Rng,
    pub(crate) pool_limits: pool::Limits,
    pub(crate) exec_limits: exec::Limits,
    pub(crate) reaper_limits: reaper::Limits,
    lives: BTreeMap<Who, Life>,
    /// The last alarm planned for each.
    alarms: BTreeMap<Who, Moment>,
    pub(crate) pool: Pool,
    pub(crate) execs: Execs,
    pub(crate) reaper: Reaper,
    pub(crate) cloud: Cloud,
    pub(crate) people: People,
    pub(crate) ledger: Ledger,
    pub(crate) tickets: u64,
    steps: u64,
    hash: DefaultHasher,
    tail: VecDeque<String>,
}

impl World {
    pub(crate) fn new(seed: u64, without: &BTreeSet<Fault>) -> Self {
        let mut timing = stream(seed, 1);
        let mut seeds = stream(seed, 2);
        let millis =
            |timing: &mut ChaCha8Rng, range| Duration::from_millis(timing.random_range(range));
        let total_max = timing.random_range(1..12);
        let mut places = total_max;
        let targets = TEMPLATES.map(|name| {
            let target = timing.random_range(0..5).min(places);
            places -= target;
            (name.to_owned(), target)
        });
        let pool_limits = pool::Limits {
            targets: targets.into(),
            total_max,
            booting_max: timing.random_range(1..6),
            waiting_max: timing.random_range(1..20),
            wait_max: millis(&mut timing, 50..30_000),
            idle_max: millis(&mut timing, 60_000..600_000),
            retry_pause: millis(&mut timing, 1..5_000),
            broken_pause: millis(&mut timing, 1_000..60_000),
            boot_max: millis(&mut timing, 5_000..30_000),
            destroy_max: millis(&mut timing, 1_000..10_000),
            terminate_wait: millis(&mut timing, 100..10_000),
            lifetime_max: millis(&mut timing, 60_000..400_000),
            after_exec: millis(&mut timing, 0..60_000),
            paused_kept: millis(&mut timing, 60_000..400_000),
            turn_max: millis(&mut timing, 1_000..30_000),
            ended_kept: millis(&mut timing, 1_000..3_600_000),
            ended_max: timing.random_range(0..50),
        };
        let exec_limits = exec::Limits {
            callers_max: timing.random_range(1..40),
            cache: sandpit_actors::exec::cache::Limits {
                age_max: millis(&mut timing, 1_000..300_000),
                entries_max: timing.random_range(1..6),
                ..Default::default()
            },
            ..Default::default()
        };
        let reaper_limits = reaper::Limits {
            period: millis(&mut timing, 10_000..30_000),
            pause: millis(&mut timing, 100..2_000),
            grace: millis(&mut timing, 6_000..15_000),
            look_max: millis(&mut timing, 1_000..10_000),
        };
        let (pool, to_pool) = Pool::recover(pool_limits.clone(), node(), names(), seeds.random());
        let execs = Execs::recover(exec_limits, seeds.random());
        let (reaper, to_reaper) = Reaper::recover(reaper_limits, Moment::START);
        let born = Life { process: 0, life: 0 };
        let mut world = Self {
            now: Moment::START,
            agenda: BTreeMap::new(),
            planned: 0,
            faults: Faults::draw(seed, without),
            timing,
            seeds,
            pool_limits,
            exec_limits,
            reaper_limits,
            lives: [Who::Pool, Who::Exec, Who::Reaper].map(|who| (who, born)).into(),
            alarms: BTreeMap::new(),
            pool,
            execs,
            reaper,
            cloud: Cloud::default(),
            people: People::new(seed),
            ledger: Ledger::default(),
            tickets: 0,
            steps: 0,
            hash: DefaultHasher::new(),
            tail: VecDeque::new(),
        };
        world.carry_out_pool(to_pool);
        world.carry_out_reaper(to_reaper);
        world.set_alarms();
        world
    }

    /// Runs to the end. Returns the number of steps and the hash of all that happened.
    ///
    /// # Panics
    /// If a promise is broken, with the end of the trace.
    pub(crate) fn play(mut self, callers: u32) -> (u64, u64) {
        let sometime = |world: &mut Self| world.timing.random_range(Duration::ZERO..CHAOS);
        for _ in 0..callers {
            let at = sometime(&mut self);
            self.plan(at, Happening::Visit);
        }
        for _ in 0..self.timing.random_range(0..20) {
            let at = sometime(&mut self);
            self.plan(at, Happening::MayCrash);
        }
        for _ in 0..self.timing.random_range(0..60) {
            let at = sometime(&mut self);
            self.plan(at, Happening::MayDie);
        }
        self.plan(CHAOS, Happening::Heal);
        let end = Moment::START + CHAOS + CALM;
        while let Some(((at, _), happening)) = self.agenda.pop_first() {
            // Ready sandboxes are made anew now and then; that is not what is looked for.
            let is_settled = self.pool.ending() + self.pool.booting() == 0;
            if end < at && (is_settled || end + SETTLE < at) {
                break;
            }
            self.now = at;
            self.happen(happening);
            self.check_what_is_promised();
        }
        self.check_what_was_owed();
        (self.steps, self.hash.finish())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Answer { to, told } => self.deliver(to, told),
            Happening::Ask(told) => self.step(told),
            Happening::Alarm(who) => self.ring(who),
            Happening::Visit => self.visit(),
            Happening::Errand(errand) => self.run_errand(errand),
            Happening::Born { sandbox, answer } => self.born(sandbox, answer),
            Happening::Gone { sandbox, to } => self.gone(sandbox, to),
            Happening::RunEnds { to, exec } => self.run_ends(to, exec),
            Happening::Compared { to, look, existing } => {
                let owned = self.pool.owned();
                self.answer(to, Told::Reaper(reaper::Event::Seen { look, existing, owned }));
            }
            Happening::MayDie => self.may_die(),
            Happening::MayCrash => self.may_crash(),
            Happening::Heal => {
                self.note("nothing goes wrong any more");
                self.faults.heal();
            }
        }
    }

    fn deliver(&mut self, to: Life, told: Told) {
        let living = self.life(told.whom());
        // A list is asked for and answered within one life; other answers may stray, but not from
        // one process to the next.
        let may_stray =
            !matches!(told, Told::Pool(pool::Event::Listed { .. })) && to.process == living.process;
        if to != living && !(may_stray && self.faults.strikes(Fault::Stale)) {
            return;
        }
        if self.faults.strikes(Fault::Duplicate) {
            let again = Happening::Answer { to, told: told.clone() };
            self.plan(Duration::from_millis(5), again);
        }
        self.step(told);
    }

    fn ring(&mut self, who: Who) {
        if self.alarms.get(&who).is_some_and(|at| *at <= self.now) {
            self.alarms.remove(&who);
        }
        if self.deadline_of(who).is_some_and(|at| at <= self.now) {
            self.step(match who {
                Who::Pool => Told::Pool(pool::Event::Tick),
                Who::Exec => Told::Exec(exec::Event::Tick),
                Who::Reaper => Told::Reaper(reaper::Event::Tick),
            });
        }
    }

    /// One step of one policy, and everything that follows from it.
    pub(crate) fn step(&mut self, told: Told) {
        self.steps += 1;
        self.note(format_args!("<- {told:?}"));
        let who = told.whom();
        match told {
            Told::Pool(event) => {
                self.ledger_hears(&event);
                let effects = self.pool.step(self.now, event);
                self.carry_out_pool(effects);
            }
            Told::Exec(event) => {
                let effects = self.execs.step(self.now, event);
                self.carry_out_exec(effects);
            }
            Told::Reaper(event) => {
                let effects = self.reaper.step(self.now, event);
                self.carry_out_reaper(effects);
            }
        }
        let ahead = self.deadline_of(who).is_none_or(|at| self.now < at);
        self.promise(ahead, "a deadline lies ahead: no policy spins");
        self.set_alarms();
    }

    pub(crate) fn deadline_of(&self, who: Who) -> Option<Moment> {
        match who {
            Who::Pool => self.pool.next_deadline(),
            Who::Exec => self.execs.next_deadline(),
            Who::Reaper => self.reaper.next_deadline(),
        }
    }

    fn set_alarms(&mut self) {
        for who in [Who::Pool, Who::Exec, Who::Reaper] {
            let at = self.deadline_of(who);
            let known = self.alarms.get(&who).copied();
            if let Some(at) = at.filter(|at| known != Some(*at)) {
                self.alarms.insert(who, at);
                self.plan(at.since(self.now), Happening::Alarm(who));
            }
        }
    }

    fn may_crash(&mut self) {
        let process = self.life(Who::Pool).process;
        if self.faults.strikes(Fault::NodeCrashes) {
            self.note("the node dies");
            let next = Life { process: process + 1, life: 0 };
            for who in [Who::Pool, Who::Exec, Who::Reaper] {
                self.lives.insert(who, next);
            }
            let now = self.now;
            self.cloud.change(now, BTreeSet::clear);
            self.exec_is_born();
            self.pool_is_born();
            self.reaper_is_born();
        }
        let crashes = [
            (Fault::PoolCrashes, Who::Pool),
            (Fault::ExecCrashes, Who::Exec),
            (Fault::ReaperCrashes, Who::Reaper),
        ];
        for (fault, who) in crashes {
            if self.faults.strikes(fault) {
                self.note(format_args!("{who:?} dies"));
                self.lives.get_mut(&who).expect("all live").life += 1;
                match who {
                    Who::Pool => self.pool_is_born(),
                    Who::Exec => self.exec_is_born(),
                    Who::Reaper => self.reaper_is_born(),
                }
            }
        }
    }

    fn pool_is_born(&mut self) {
        self.tell_askers_of_pool();
        let seed = self.seeds.random();
        let (pool, effects) = Pool::recover(self.pool_limits.clone(), node(), names(), seed);
        self.pool = pool;
        self.carry_out_pool(effects);
        self.set_alarms();
    }

    fn exec_is_born(&mut self) {
        self.tell_askers_of_exec();
        self.execs = Execs::recover(self.exec_limits, self.seeds.random());
    }

    fn reaper_is_born(&mut self) {
        let (reaper, effects) = Reaper::recover(self.reaper_limits, self.now);
        self.reaper = reaper;
        self.carry_out_reaper(effects);
        self.set_alarms();
    }

    pub(crate) fn life(&self, who: Who) -> Life {
        self.lives[&who]
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// An answer on its way back to whoever asked.
    pub(crate) fn answer(&mut self, to: Life, told: Told) {
        let after = self.delay(1..3_000);
        self.plan(after, Happening::Answer { to, told });
    }

    /// A question on its way from one actor to another.
    pub(crate) fn ask(&mut self, told: Told) {
        let after = self.delay(0..5);
        self.plan(after, Happening::Ask(told));
    }

    pub(crate) fn delay(&mut self, millis: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.timing.random_range(millis))
    }

    pub(crate) fn plan(&mut self, after: Duration, happening: Happening) {
        self.agenda.insert((self.now + after, self.planned), happening);
        self.planned += 1;
    }

    pub(crate) fn promise(&mut self, kept: bool, promise: &str) {
        if !kept {
            let tail = self.tail.make_contiguous().join("\n");
            // Not `panic!`, which would print each of the runs that only make the failure smaller.
            resume_unwind(Box::new(format!("{tail}\nbroken at step {}: {promise}", self.steps)));
        }
    }

    pub(crate) fn note(&mut self, what: impl std::fmt::Display) {
        let mut line = format!("{:>6} {:>18} ", self.steps, format!("{:?}", self.now));
        write!(line, "{what}").expect("a string takes it");
        line.hash(&mut self.hash);
        if self.tail.len() == TRACE_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

fn node() -> NodeId {
    NodeId::of_bits(7)
}

fn names() -> [String; 2] {
    TEMPLATES.map(str::to_owned)
}
