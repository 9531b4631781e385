//! What begins and what ends: launchers, keepers, zygotes, skeletons.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::super::cgroup::GroupLimits;
use super::super::control::{Shape, ToKeeper, ToLauncher};
use super::super::packet;
use super::super::sys;
use super::hub::Heard;
use super::link::{Keeper, Place, Skeleton, lock};
use super::template::{AfterEnd, Readiness, Template};
use super::{Engine, Job, LauncherStage, group_limits};
use crate::provider::Ending;

/// The first launcher, and the next ones.
impl Engine {
    pub(super) fn launcher_up(self: &Arc<Self>) {
        // Those that are prepared from now on start their own keepers.
        let templates: Vec<_> = lock(&self.templates).values().cloned().collect();
        self.launcher_stage.send_replace(LauncherStage::Up);
        for template in templates {
            if template.keeper().is_none() {
                self.start_keeper_or_break(&template);
            }
        }
    }

    pub(super) fn launcher_failed(&self, why: String, errno: i32) {
        self.launcher_stage.send_replace(LauncherStage::Gone { why: Arc::from(why), errno });
    }

    /// Its guardian has reaped it, so nothing below it lives.
    pub(super) fn launcher_gone(self: &Arc<Self>, socket: &Arc<OwnedFd>) -> Heard {
        let current = {
            let mut launcher = lock(&self.launcher);
            let current = launcher.as_ref().is_some_and(|ours| Arc::ptr_eq(ours, socket));
            if current {
                *launcher = None;
            }
            current
        };
        if !current {
            return Heard::Gone;
        }
        let was_up = matches!(&*self.launcher_stage.borrow(), LauncherStage::Up);
        let again = was_up
            && !self.closing.load(Ordering::Acquire)
            && lock(&self.launcher_restarts).again(sys::now());
        let templates: Vec<_> = lock(&self.templates).values().cloned().collect();
        for template in templates {
            if let Some(keeper) = template.keeper() {
                template.keeper_gone(keeper.number, sys::now());
            }
        }
        let slots: Vec<u32> = lock(&self.slots).living.keys().copied().collect();
        for slot in slots {
            self.skeleton_gone(slot, "the launcher ended");
        }
        if again {
            tracing::warn!("the launcher ended; starting another");
            self.ask_for_launcher();
        } else if was_up || matches!(&*self.launcher_stage.borrow(), LauncherStage::Starting) {
            self.launcher_failed("it ended".to_owned(), 0);
        }
        Heard::Gone
    }
}

/// Keepers and their zygotes.
impl Engine {
    /// Starts a keeper and its first zygote.
    pub(super) fn start_keeper(self: &Arc<Self>, template: &Arc<Template>) -> io::Result<()> {
        let launcher = lock(&self.launcher).clone().ok_or(io::ErrorKind::NotConnected)?;
        let (ours, theirs) = packet::pair()?;
        let number = self.number();
        let keeper = Arc::new(Keeper { number, socket: ours, template: Arc::clone(template) });
        let orders = packet::sealed_value(&template.boot)?;
        self.hub.add_keeper(Arc::clone(&keeper))?;
        let zygote = self.number();
        template.kept_by(&keeper, zygote);
        let order = ToLauncher::Keeper { keeper: number };
        packet::send(&launcher, &order, &[theirs.as_fd(), orders.as_fd()])?;
        drop(theirs);
        let place = Place::of(&template.group)?;
        let order = ToKeeper::Zygote { zygote, into: place.into };
        keeper.order_now(&order, &place.after(&[]))
    }

    fn start_keeper_or_break(self: &Arc<Self>, template: &Arc<Template>) {
        if let Err(error) = self.start_keeper(template) {
            let why = format!("its keeper cannot be started: {error}");
            self.break_template(template, &why);
        }
    }

    fn break_template(&self, template: &Template, why: &str) {
        tracing::error!(template = template.info.name, why, "a template is broken");
        template.readiness.send_replace(Readiness::Broken(Arc::from(why)));
    }

    pub(super) fn keeper_gone(self: &Arc<Self>, keeper: u64, status: i32) {
        let template = lock(&self.templates)
            .values()
            .find(|template| template.keeper().is_some_and(|kept| kept.number == keeper))
            .cloned();
        let slots: Vec<u32> = lock(&self.slots)
            .living
            .iter()
            .filter(|(_, skeleton)| skeleton.keeper.number == keeper)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in slots {
            self.skeleton_gone(slot, "its keeper ended");
        }
        let Some(template) = template else { return };
        tracing::warn!(template = template.info.name, status, "a keeper ended");
        let again = template.keeper_gone(keeper, sys::now());
        if self.closing.load(Ordering::Acquire) {
            return;
        }
        if again {
            self.start_keeper_or_break(&template);
        } else {
            let why = format!("its keeper ends again and again: {}", template.last_words());
            self.break_template(&template, &why);
        }
    }

    /// Orders a zygote that will take over.
    pub(super) fn order_zygote(&self, template: &Template) {
        let Some(keeper) = template.keeper() else { return };
        let zygote = self.number();
        template.zygote_ordered(zygote);
        let ordered = Place::of(&template.group).and_then(|place| {
            let order = ToKeeper::Zygote { zygote, into: place.into };
            keeper.order_now(&order, &place.after(&[]))
        });
        if let Err(error) = ordered {
            tracing::warn!(template = template.info.name, %error, "no zygote could be ordered");
            self.after_zygote(template, zygote, &error.to_string());
        }
    }

    pub(super) fn zygote_up(&self, keeper: &Keeper, zygote: u64) {
        keeper.template.zygote_up(zygote, sys::now());
        self.want_spares(&keeper.template);
    }

    pub(super) fn zygote_gone(&self, keeper: &Keeper, zygote: u64, why: &str, served: bool) {
        tracing::debug!(template = keeper.template.info.name, why, served, "a zygote ended");
        self.after_zygote(&keeper.template, zygote, why);
    }

    fn after_zygote(&self, template: &Template, zygote: u64, why: &str) {
        match template.zygote_gone(zygote, sys::now()) {
            AfterEnd::Nothing => {}
            AfterEnd::Restart => self.order_zygote(template),
            AfterEnd::GiveUp => self.break_template(template, why),
        }
    }

    /// A worker was not locked down as it must be. Nobody gets another of this template.
    pub(super) fn breach(&self, keeper: &Keeper, why: &str) {
        let why = format!("a worker was not locked down: {why}");
        self.break_template(&keeper.template, &why);
    }
}

/// Skeletons.
impl Engine {
    pub(super) fn skeleton(&self, slot: u32) -> Option<Arc<Skeleton>> {
        lock(&self.slots).living.get(&slot).cloned()
    }

    /// Orders a skeleton. Blocks for as long as a group takes to make if none is spare.
    pub(super) fn build_skeleton(
        &self,
        keeper: &Arc<Keeper>,
        limits: GroupLimits,
    ) -> io::Result<Arc<Skeleton>> {
        let slot = self.take_slot().ok_or(io::ErrorKind::QuotaExceeded)?;
        let built = self.try_build_skeleton(slot, keeper, limits);
        if built.is_err() {
            let mut slots = lock(&self.slots);
            slots.living.remove(&slot);
            slots.reserved.remove(&slot);
        }
        built
    }

    fn try_build_skeleton(
        &self,
        slot: u32,
        keeper: &Arc<Keeper>,
        limits: GroupLimits,
    ) -> io::Result<Arc<Skeleton>> {
        let closed = || io::Error::from(io::ErrorKind::NotConnected);
        let group = self.stock(|stock| stock.take(limits)).ok_or_else(closed)??;
        let place = Place::of(&group)?;
        let (ours, theirs) = packet::pair()?;
        let skeleton = Arc::new(Skeleton::new(slot, Arc::clone(keeper), group, ours));
        self.hub.add_init(Arc::clone(&skeleton))?;
        {
            let mut slots = lock(&self.slots);
            slots.reserved.remove(&slot);
            slots.living.insert(slot, Arc::clone(&skeleton));
        }
        let bounds = &self.options.bounds;
        let shape = Shape {
            home_bytes: bounds.home_bytes,
            tmp_bytes: bounds.tmp_bytes,
            shm_bytes: bounds.shm_bytes,
            pids: bounds.pids,
        };
        let order = ToKeeper::Skeleton { slot, shape, into: place.into };
        let ordered = keeper.order_now(&order, &place.after(&[theirs.as_fd()]));
        if let Err(error) = ordered {
            self.hub.remove_init(slot);
            // The next engine's start removes what stays.
            let _ = skeleton.group.remove();
            return Err(error);
        }
        Ok(skeleton)
    }

    fn take_slot(&self) -> Option<u32> {
        let mut slots = lock(&self.slots);
        let taken = |slot: &u32| slots.living.contains_key(slot) || slots.reserved.contains(slot);
        let slot = (0..super::SLOTS_MAX).find(|slot| !taken(slot))?;
        slots.reserved.insert(slot);
        Some(slot)
    }

    /// Every process of it was reaped.
    pub(super) fn skeleton_gone(&self, slot: u32, why: &str) {
        let Some(skeleton) = self.skeleton(slot) else { return };
        skeleton.cut(why);
        // The housekeeper ends with the engine only.
        let _ = self.jobs.send(Job::Retire { skeleton, why: Arc::from(why) });
    }

    /// Removes what is left of it and frees its number.
    pub(super) fn retire(&self, skeleton: &Arc<Skeleton>, why: &Arc<str>) {
        let slot = skeleton.slot;
        let still =
            lock(&self.slots).living.get(&slot).is_some_and(|one| Arc::ptr_eq(one, skeleton));
        if !still {
            return;
        }
        self.hub.remove_init(slot);
        let removed = skeleton.group.remove();
        if let Err(error) = &removed {
            tracing::error!(slot, %error, "a group could not be removed; its number is not used again");
        }
        {
            let mut slots = lock(&self.slots);
            slots.living.remove(&slot);
            if removed.is_err() || skeleton.stuck.load(Ordering::Acquire) {
                slots.reserved.insert(slot);
            }
        }
        skeleton.keeper.template.lose_spare(slot);
        let owner = *lock(&skeleton.owner);
        if let Some(sandbox) = owner {
            let mut sandboxes = lock(&self.sandboxes);
            // A create that was tried again has another skeleton by now.
            let made = sandboxes.get(&sandbox).and_then(|entry| entry.made.get());
            if made.is_some_and(|made| Arc::ptr_eq(&made.skeleton, skeleton)) {
                sandboxes.remove(&sandbox);
            }
            drop(sandboxes);
            if !skeleton.ending.load(Ordering::Acquire) {
                // Nobody may be listening.
                let why = skeleton.condemned().unwrap_or("it ended by itself");
                let _ = self.endings.send(Ending { sandbox, why });
            }
        }
        skeleton.is_gone(why);
    }

    /// Has spare skeletons made as soon as it is quiet.
    pub(super) fn want_spares(&self, template: &Arc<Template>) {
        // The housekeeper ends with the engine only.
        let _ = self.jobs.send(Job::Spare { template: Arc::clone(template) });
    }

    /// Makes groups for later and one spare skeleton; false if none is wanted, or none can be made.
    pub(super) fn fill_spare(&self, template: &Template) -> bool {
        if let Some(Err(error)) = self.stock(super::Stock::refill) {
            tracing::debug!(%error, "no spare groups could be made");
        }
        if !template.wants_spare(&self.options) {
            return false;
        }
        let Some(keeper) = template.keeper() else { return false };
        let limits = group_limits(template.info.limits, self.options.bounds.pids);
        match self.build_skeleton(&keeper, limits) {
            Ok(skeleton) => template.keep_spare(skeleton),
            Err(error) => {
                tracing::debug!(%error, "no spare skeleton could be ordered");
                return false;
            }
        }
        true
    }

    /// Removes all groups. Every process is gone.
    pub(super) fn remove_groups(&self) {
        let left: Vec<_> = lock(&self.slots).living.values().cloned().collect();
        for skeleton in left {
            self.retire(&skeleton, &Arc::from("the engine was closed"));
        }
        for template in std::mem::take(&mut *lock(&self.templates)).into_values() {
            if let Err(error) = template.group.remove() {
                tracing::debug!(%error, "the next start removes a template's group");
            }
        }
        let stock = self.stock.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = stock.map(super::Stock::retire) {
            tracing::debug!(%error, "the next start removes our groups");
        }
    }
}
