//! What goes wrong in a run. The seed decides first which faults exist in it at all, and how often
//! each strikes: half of all runs know nothing of a given fault, so that faults also come alone.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The provider refuses a boot.
    BootFails,
    /// A sandbox is made, and the answer is lost.
    BootLost,
    /// A boot takes longer than anybody waits; the sandbox may come all the same.
    BootHangs,
    /// A ready sandbox cannot be given to its holder.
    AdoptFails,
    /// No answer to that.
    AdoptHangs,
    /// A sandbox does not end.
    DestroyFails,
    /// No answer to that; it may have ended all the same.
    DestroyHangs,
    /// The provider cannot list.
    ListFails,
    /// A list shows what was some seconds ago.
    ListLags,
    /// A template cannot be prepared now.
    PrepareFails,
    /// A template cannot be used until somebody mends it.
    TemplateBreaks,
    /// Sandboxes end by themselves.
    Dies,
    /// Nobody is told that they did.
    DiesUnheard,
    /// An execution fails at the provider.
    ExecFails,
    /// An execution runs to its time limit.
    ExecRunsOn,
    /// An answer comes twice.
    Duplicate,
    /// An answer reaches a later incarnation than the one that asked.
    Stale,
    /// The pool dies and begins again.
    PoolCrashes,
    /// Executions die and begin again.
    ExecCrashes,
    /// The reaper dies and begins again.
    ReaperCrashes,
    /// The node dies with all its sandboxes and begins again.
    NodeCrashes,
    /// A holder never ends its sandbox.
    Forgets,
    /// A caller is gone when the grant comes.
    HangsUp,
    /// A caller wants a run stopped.
    Cancels,
    /// A holder wants another end for its sandbox, or a standstill.
    Minds,
    /// A sandbox neither stops nor goes on.
    TurnFails,
    /// No answer to that; it may have done so all the same.
    TurnHangs,
}

impl Fault {
    pub(crate) const ALL: [Self; 27] = [
        Self::BootFails,
        Self::BootLost,
        Self::BootHangs,
        Self::AdoptFails,
        Self::AdoptHangs,
        Self::DestroyFails,
        Self::DestroyHangs,
        Self::ListFails,
        Self::ListLags,
        Self::PrepareFails,
        Self::TemplateBreaks,
        Self::Dies,
        Self::DiesUnheard,
        Self::ExecFails,
        Self::ExecRunsOn,
        Self::Duplicate,
        Self::Stale,
        Self::PoolCrashes,
        Self::ExecCrashes,
        Self::ReaperCrashes,
        Self::NodeCrashes,
        Self::Forgets,
        Self::HangsUp,
        Self::Cancels,
        Self::Minds,
        Self::TurnFails,
        Self::TurnHangs,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BootFails => "boot_fails",
            Self::BootLost => "boot_lost",
            Self::BootHangs => "boot_hangs",
            Self::AdoptFails => "adopt_fails",
            Self::AdoptHangs => "adopt_hangs",
            Self::DestroyFails => "destroy_fails",
            Self::DestroyHangs => "destroy_hangs",
            Self::ListFails => "list_fails",
            Self::ListLags => "list_lags",
            Self::PrepareFails => "prepare_fails",
            Self::TemplateBreaks => "template_breaks",
            Self::Dies => "sandbox_dies",
            Self::DiesUnheard => "unheard_death",
            Self::ExecFails => "exec_fails",
            Self::ExecRunsOn => "exec_runs_on",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::PoolCrashes => "pool_crashes",
            Self::ExecCrashes => "exec_crashes",
            Self::ReaperCrashes => "reaper_crashes",
            Self::NodeCrashes => "node_crashes",
            Self::Forgets => "forgets",
            Self::HangsUp => "hangs_up",
            Self::Cancels => "cancels",
            Self::Minds => "minds",
            Self::TurnFails => "turn_fails",
            Self::TurnHangs => "turn_hangs",
        }
    }
}

/// A generator for one concern. Each has a stream of its own, so that one more draw in one of them
/// does not change what the others draw.
pub(crate) fn stream(seed: u64, concern: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(concern);
    generator
}

#[derive(Debug)]
pub(crate) struct Faults {
    dice: BTreeMap<Fault, (f64, ChaCha8Rng)>,
    healed: bool,
}

impl Faults {
    pub(crate) fn draw(seed: u64, without: &BTreeSet<Fault>) -> Self {
        let dice = Fault::ALL.into_iter().zip(100..).map(|(fault, concern)| {
            let mut generator = stream(seed, concern);
            let chance =
                if generator.random_bool(0.5) { 0.0 } else { generator.random_range(0.0..0.5) };
            let chance = if without.contains(&fault) { 0.0 } else { chance };
            (fault, (chance, generator))
        });
        Self { dice: dice.collect(), healed: false }
    }

    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        let (chance, generator) = self.dice.get_mut(&fault).expect("drawn for all");
        generator.random_bool(*chance) && !self.healed
    }

    /// From here on nothing goes wrong.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
    }
}
