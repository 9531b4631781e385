//! A prepared template: its keeper, its zygote, and the skeletons kept for it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use sandpit_messages::time::Moment;
use tokio::sync::watch;

use super::super::cgroup::Group;
use super::super::control::KeeperBoot;
use super::super::options::Options;
use super::super::state::Restarts;
use super::link::{Keeper, Skeleton, lock};
use crate::provider::{ProviderError, TemplateInfo};

/// Whether sandboxes of a template can be made.
#[derive(Clone, Debug)]
pub(super) enum Readiness {
    /// Its zygote imports and warms up.
    Warming,
    /// It serves.
    Up,
    /// It cannot be used; why.
    Broken(Arc<str>),
}

/// One prepared template.
#[derive(Debug)]
pub(in super::super) struct Template {
    pub(super) info: TemplateInfo,
    pub(super) boot: KeeperBoot,
    /// Of its zygotes.
    pub(super) group: Group,
    /// What it has on top of a configured one.
    pub(super) top: Top,
    pub(super) readiness: watch::Sender<Readiness>,
    state: Mutex<State>,
}

/// What a template has on top of a configured one; of those themselves, nothing.
#[derive(Debug, Default)]
pub(super) struct Top {
    /// Environment of everything that runs in its sandboxes.
    pub(super) env: BTreeMap<String, String>,
    /// What their `/home/user` holds at first, once that is known: a tar archive.
    pub(super) home: OnceLock<PathBuf>,
    /// Skeletons kept ready, if not as many as of a configured one.
    pub(super) spares_max: Option<usize>,
}

#[derive(Debug)]
struct State {
    keeper: Option<Arc<Keeper>>,
    spares: VecDeque<Arc<Skeleton>>,
    serving: Option<u64>,
    warming: Option<u64>,
    forks: u32,
    since: Moment,
    restarts: Restarts,
    /// What the last keeper that could not serve said.
    last_words: Option<String>,
}

/// What follows the end of a zygote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterEnd {
    /// It was not one that matters.
    Nothing,
    /// Start another.
    Restart,
    /// The template is broken.
    GiveUp,
}

impl Template {
    pub(super) fn new(info: TemplateInfo, boot: KeeperBoot, group: Group, top: Top) -> Self {
        Self {
            info,
            boot,
            group,
            top,
            readiness: watch::Sender::new(Readiness::Warming),
            state: Mutex::new(State {
                keeper: None,
                spares: VecDeque::new(),
                serving: None,
                warming: None,
                forks: 0,
                since: Moment::START,
                restarts: Restarts::new(),
                last_words: None,
            }),
        }
    }

    /// Waits until its zygote serves; answers with its keeper.
    pub(super) async fn up(&self) -> Result<Arc<Keeper>, ProviderError> {
        let mut readiness = self.readiness.subscribe();
        let settled = readiness.wait_for(|now| !matches!(now, Readiness::Warming)).await;
        match settled.as_deref() {
            Ok(Readiness::Up) => self.keeper().ok_or_else(|| self.broken("its keeper ended")),
            Ok(Readiness::Broken(why)) => Err(self.broken(why)),
            // The sender is in `self`.
            Ok(Readiness::Warming) | Err(_) => Err(self.broken("it does not get ready")),
        }
    }

    /// The error that says that it cannot be used.
    pub(super) fn broken(&self, why: &str) -> ProviderError {
        ProviderError::TemplateBroken { name: self.info.name.clone(), why: why.to_owned() }
    }

    pub(super) fn keeper(&self) -> Option<Arc<Keeper>> {
        lock(&self.state).keeper.clone()
    }

    /// It has a new keeper, whose first zygote warms up.
    pub(super) fn kept_by(&self, keeper: &Arc<Keeper>, zygote: u64) {
        let mut state = lock(&self.state);
        state.keeper = Some(Arc::clone(keeper));
        state.serving = None;
        state.warming = Some(zygote);
        drop(state);
        self.readiness.send_replace(Readiness::Warming);
    }

    /// Its keeper says why it cannot serve.
    pub(super) fn keeper_failed(&self, why: String) {
        lock(&self.state).last_words = Some(why);
    }

    /// What it said, if it did.
    pub(super) fn last_words(&self) -> String {
        lock(&self.state).last_words.clone().unwrap_or_else(|| "it said nothing".to_owned())
    }

    /// Its keeper is gone, and all its skeletons with it. Whether it may have another.
    pub(super) fn keeper_gone(&self, keeper: u64, now: Moment) -> bool {
        let mut state = lock(&self.state);
        if state.keeper.as_ref().is_none_or(|kept| kept.number != keeper) {
            return false;
        }
        state.keeper = None;
        state.spares.clear();
        state.serving = None;
        state.warming = None;
        let again = state.restarts.again(now);
        drop(state);
        self.readiness.send_replace(Readiness::Warming);
        again
    }

    /// A spare skeleton, if there is one.
    pub(super) fn take_spare(&self) -> Option<Arc<Skeleton>> {
        lock(&self.state).spares.pop_front()
    }

    /// Keeps a skeleton until it is wanted.
    pub(super) fn keep_spare(&self, skeleton: Arc<Skeleton>) {
        lock(&self.state).spares.push_back(skeleton);
    }

    /// One of the spares is gone.
    pub(super) fn lose_spare(&self, slot: u32) {
        lock(&self.state).spares.retain(|spare| spare.slot != slot);
    }

    /// Whether another one is to be kept.
    pub(super) fn wants_spare(&self, options: &Options) -> bool {
        self.spares() < self.top.spares_max.unwrap_or(options.spare_skeletons)
    }

    /// How many there are.
    pub(super) fn spares(&self) -> usize {
        lock(&self.state).spares.len()
    }

    /// A zygote serves.
    pub(super) fn zygote_up(&self, zygote: u64, now: Moment) {
        let mut state = lock(&self.state);
        if state.warming != Some(zygote) {
            return;
        }
        state.warming = None;
        state.serving = Some(zygote);
        state.forks = 0;
        state.since = now;
        drop(state);
        self.readiness.send_replace(Readiness::Up);
    }

    /// A zygote ended.
    pub(super) fn zygote_gone(&self, zygote: u64, now: Moment) -> AfterEnd {
        let mut state = lock(&self.state);
        let served = state.serving == Some(zygote);
        if served {
            state.serving = None;
        } else if state.warming == Some(zygote) {
            state.warming = None;
        } else {
            return AfterEnd::Nothing;
        }
        // One that warms up already takes over.
        if state.warming.is_some() {
            return AfterEnd::Nothing;
        }
        let again = state.restarts.again(now);
        let survives = state.serving.is_some();
        drop(state);
        if again && served {
            self.readiness.send_replace(Readiness::Warming);
            AfterEnd::Restart
        } else if survives {
            // A fresh one failed and the old one still serves.
            AfterEnd::Nothing
        } else {
            AfterEnd::GiveUp
        }
    }

    /// A zygote was ordered.
    pub(super) fn zygote_ordered(&self, zygote: u64) {
        lock(&self.state).warming = Some(zygote);
    }

    /// A worker was forked; whether the zygote is due to be replaced.
    pub(super) fn forked(&self, now: Moment, options: &Options) -> bool {
        let mut state = lock(&self.state);
        state.forks += 1;
        let old = |age: Duration| now.since(state.since) >= age;
        state.warming.is_none()
            && state.serving.is_some()
            && (state.forks >= options.rotate_forks || old(options.rotate_age))
    }
}
