//! Who watches which directories of a sandbox, and what an event means to each: decides, and does
//! nothing.

use std::collections::BTreeMap;

use crate::provider::files::ChangeKind;

use super::super::super::job::{BECOMING, REPLACING};

/// Directories watched in one sandbox at once. More are not looked into, which is told.
const DIRECTORIES_MAX: usize = 8_192;

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// Made here.
    Created,
    /// Came from elsewhere; both halves of a move have the same number.
    MovedIn(u32),
    /// Went elsewhere.
    MovedOut(u32),
    /// Written to.
    Written,
    /// Deleted.
    Removed,
    /// Its attributes changed.
    Changed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Tell one who watches.
    Tell {
        /// Whom.
        watcher: u64,
        /// Path below the watched directory; empty if something was missed.
        name: String,
        /// What happened.
        kind: ChangeKind,
    },
    /// Watch a new directory, and tell what is in it already.
    Look {
        /// For whom.
        watcher: u64,
        /// Path below the watched directory.
        below: String,
    },
    /// Nobody watches this directory any more.
    Forget {
        /// The kernel's number of it.
        number: i32,
    },
}

/// All watches of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Whether each looks below its directory, too.
    watchers: BTreeMap<u64, bool>,
    /// By the kernel's number of a directory: who watches it, and what it is called to them.
    directories: BTreeMap<i32, BTreeMap<u64, String>>,
    /// The first half of a move that gives a written file its name: its number, and whether the
    /// file is new.
    naming: Option<(u32, bool)>,
}

impl Tree {
    /// One more watches, but no directory yet.
    pub(super) fn add(&mut self, watcher: u64, recursive: bool) {
        self.watchers.insert(watcher, recursive);
    }

    /// One watches this directory, which it calls so.
    pub(super) fn watches(&mut self, watcher: u64, number: i32, below: String) {
        if self.watchers.contains_key(&watcher) {
            self.directories.entry(number).or_default().insert(watcher, below);
        }
    }

    /// One watches no longer.
    pub(super) fn remove(&mut self, watcher: u64) -> Vec<Effect> {
        self.watchers.remove(&watcher);
        self.forget(watcher, |_| true)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// The kernel watches a directory no longer.
    pub(super) fn ignored(&mut self, number: i32) {
        self.directories.remove(&number);
    }

    /// The kernel could not keep up.
    pub(super) fn overflowed(&self) -> Vec<Effect> {
        self.watchers.keys().map(|watcher| lost(*watcher)).collect()
    }

    /// Something happened to `name` in a directory.
    pub(super) fn happened(
        &mut self,
        number: i32,
        name: &str,
        is_directory: bool,
        happened: Happened,
    ) -> Vec<Effect> {
        let Some(who) = self.directories.get(&number).cloned() else { return Vec::new() };
        let Some(kinds) = self.kinds(name, is_directory, happened) else { return Vec::new() };
        let mut effects = Vec::new();
        for (watcher, below) in who {
            let path = join(&below, name);
            effects.extend(kinds.iter().map(|kind| Effect::Tell {
                watcher,
                name: path.clone(),
                kind: *kind,
            }));
            if !is_directory || !self.watchers.get(&watcher).is_some_and(|recursive| *recursive) {
                continue;
            }
            match happened {
                Happened::Created | Happened::MovedIn(_) => {
                    effects.push(if self.directories.len() < DIRECTORIES_MAX {
                        Effect::Look { watcher, below: path }
                    } else {
                        lost(watcher)
                    });
                }
                // What is in it has another name now, or is nothing to this one.
                Happened::MovedOut(_) => {
                    let inside = format!("{path}/");
                    let moved = |below: &str| below == path || below.starts_with(&inside);
                    effects.extend(self.forget(watcher, moved));
                }
                Happened::Written | Happened::Removed | Happened::Changed => {}
            }
        }
        effects
    }

    /// What is told. `None` for files that are being written from outside: they have no name
    /// until all of them is there.
    fn kinds(
        &mut self,
        name: &str,
        is_directory: bool,
        happened: Happened,
    ) -> Option<&'static [ChangeKind]> {
        let (becoming, replacing) = (name.starts_with(BECOMING), name.starts_with(REPLACING));
        if becoming || replacing {
            if let Happened::MovedOut(cookie) = happened {
                self.naming = Some((cookie, becoming));
            }
            return None;
        }
        Some(match happened {
            Happened::MovedIn(cookie) => match self.naming.take() {
                Some((ours, _)) if ours != cookie => &[ChangeKind::Created],
                Some((_, true)) if !is_directory => &[ChangeKind::Created, ChangeKind::Written],
                Some((_, false)) => &[ChangeKind::Written],
                Some((_, true)) | None => &[ChangeKind::Created],
            },
            Happened::Created => &[ChangeKind::Created],
            Happened::MovedOut(_) => &[ChangeKind::Renamed],
            Happened::Written => &[ChangeKind::Written],
            Happened::Removed => &[ChangeKind::Removed],
            Happened::Changed => &[ChangeKind::Changed],
        })
    }

    /// Those directories that one calls so are no longer watched for it.
    fn forget(&mut self, watcher: u64, which: impl Fn(&str) -> bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.directories.retain(|number, who| {
            if who.get(&watcher).is_some_and(|below| which(below)) {
                who.remove(&watcher);
            }
            if who.is_empty() {
                effects.push(Effect::Forget { number: *number });
            }
            !who.is_empty()
        });
        effects
    }
}

fn lost(watcher: u64) -> Effect {
    Effect::Tell { watcher, name: String::new(), kind: ChangeKind::Lost }
}

/// A path below another, which may be empty.
pub(super) fn join(below: &str, name: &str) -> String {
    if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(watcher: u64, name: &str, kind: ChangeKind) -> Effect {
        Effect::Tell { watcher, name: name.to_owned(), kind }
    }

    /// One that looks below, as 1, and one that does not, as 2; both at directory 10.
    fn two() -> Tree {
        let mut tree = Tree::default();
        for (watcher, recursive) in [(1, true), (2, false)] {
            tree.add(watcher, recursive);
            tree.watches(watcher, 10, String::new());
        }
        tree
    }

    #[test]
    fn an_event_is_told_to_all_who_watch_the_directory_and_looked_into_for_who_wants_it() {
        let mut tree = two();
        let effects = tree.happened(10, "d", true, Happened::Created);
        let look = Effect::Look { watcher: 1, below: "d".to_owned() };
        let kind = ChangeKind::Created;
        assert_eq!(effects, [tell(1, "d", kind), look, tell(2, "d", kind)]);

        tree.watches(1, 11, "d".to_owned());
        let effects = tree.happened(11, "f", false, Happened::Written);
        assert_eq!(effects, [tell(1, "d/f", ChangeKind::Written)]);
        assert_eq!(tree.happened(12, "f", false, Happened::Written), []);
    }

    #[test]
    fn a_file_written_from_outside_is_told_by_its_name_alone() {
        let mut tree = two();
        tree.remove(2);
        for (temporary, kinds) in [
            (".sandpit-new-7", &[ChangeKind::Created, ChangeKind::Written][..]),
            (".sandpit-old-7", &[ChangeKind::Written]),
        ] {
            assert_eq!(tree.happened(10, temporary, false, Happened::Created), []);
            assert_eq!(tree.happened(10, temporary, false, Happened::MovedOut(5)), []);
            let told = tree.happened(10, "f", false, Happened::MovedIn(5));
            assert_eq!(told, kinds.iter().map(|kind| tell(1, "f", *kind)).collect::<Vec<_>>());
        }
        let told = tree.happened(10, "g", false, Happened::MovedIn(6));
        assert_eq!(told, [tell(1, "g", ChangeKind::Created)]);
    }

    #[test]
    fn a_directory_that_is_moved_out_is_forgotten_with_what_is_below_it() {
        let mut tree = two();
        for (number, below) in [(11, "d"), (12, "d/e"), (13, "dd")] {
            tree.watches(1, number, below.to_owned());
        }
        let effects = tree.happened(10, "d", true, Happened::MovedOut(9));
        let forget = |number| Effect::Forget { number };
        let kind = ChangeKind::Renamed;
        assert_eq!(effects, [tell(1, "d", kind), forget(11), forget(12), tell(2, "d", kind)]);
        assert_eq!(tree.remove(1), [forget(13)]);
        assert_eq!(tree.remove(2), [forget(10)]);
        assert!(tree.is_empty());
    }

    #[test]
    fn what_the_kernel_could_not_keep_is_told_to_everybody() {
        let lost = |watcher| tell(watcher, "", ChangeKind::Lost);
        assert_eq!(two().overflowed(), [lost(1), lost(2)]);
    }
}
