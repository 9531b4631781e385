//! Watching directories of a sandbox.

use std::collections::BTreeMap;

use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::ProviderError;
use sandpit_sandbox::provider::files::{Body, ChangeKind, FileFault, Files, Watching};

use crate::support::{Engine, WAIT_MAX};
use ChangeKind::{Changed, Created, Lost, Removed, Renamed, Written};

/// A sandbox, and its files.
struct Place {
    engine: Engine,
    sandbox: SandboxId,
}

impl Place {
    async fn make() -> Self {
        let engine = Engine::start().await;
        let sandbox = engine.create().await;
        Self { engine, sandbox }
    }

    fn files(&self) -> &dyn Files {
        self.engine.provider.files().unwrap()
    }

    async fn watch(&self, path: &str, recursive: bool) -> Result<Watching, ProviderError> {
        self.files().watch(self.sandbox, path, recursive).await
    }

    async fn sh(&self, line: &str) {
        let ran = self.engine.line(self.sandbox, line).await;
        assert_eq!(ran.stderr, "");
    }

    async fn write(&self, path: &str) {
        let body = Body::Whole(Bytes::from("x"));
        self.files().write(self.sandbox, path, body, BTreeMap::new()).await.unwrap();
    }
}

/// What is told until `last` was created.
async fn until(watching: &mut Watching, last: &str) -> Vec<(String, ChangeKind)> {
    let mut changes = Vec::new();
    loop {
        let change = tokio::time::timeout(WAIT_MAX, watching.recv()).await;
        let change = change.unwrap_or_else(|_| panic!("nothing more after {changes:?}"));
        let change = change.expect("it goes on").unwrap();
        if (change.name.as_str(), change.kind) == (last, Created) {
            return changes;
        }
        changes.push((change.name, change.kind));
    }
}

fn told(changes: &[(&str, ChangeKind)]) -> Vec<(String, ChangeKind)> {
    changes.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect()
}

#[tokio::test]
async fn what_happens_in_a_directory_is_told_in_order_and_by_name() {
    let place = Place::make().await;
    place.sh("mkdir -p d/inner; touch d/old").await;
    let mut watching = place.watch("d", false).await.unwrap();
    place.sh("cd d; touch 'ä b'; echo x >> old; chmod 600 old; mv old new; mv new ../out; mv ../out in; rm in; touch inner/f; mkdir end").await;
    let want = told(&[
        ("ä b", Created),
        ("ä b", Changed),
        ("old", Written),
        ("old", Changed),
        ("old", Renamed),
        ("new", Created),
        ("new", Renamed),
        ("in", Created),
        ("in", Removed),
    ]);
    assert_eq!(until(&mut watching, "end").await, want);
    place.engine.close().await;
}

#[tokio::test]
async fn a_write_from_outside_is_told_as_one_of_the_file_it_makes() {
    let place = Place::make().await;
    place.sh("mkdir d").await;
    let mut watching = place.watch("/home/user/d", true).await.unwrap();
    place.write("d/f").await;
    place.write("d/f").await;
    place.files().make_dir(place.sandbox, "d/end").await.unwrap();
    let want = told(&[("f", Created), ("f", Written), ("f", Written)]);
    assert_eq!(until(&mut watching, "end").await, want);
    place.engine.close().await;
}

#[tokio::test]
async fn a_watch_of_all_below_follows_directories_as_they_come_and_go() {
    let place = Place::make().await;
    place.sh("mkdir -p d/a/b other").await;
    let mut watching = place.watch("d", true).await.unwrap();
    place.sh("touch d/a/b/1").await;
    assert_eq!(until(&mut watching, "a/b/1").await, []);
    // All of it may be there before anybody can look.
    place.sh("mkdir -p d/x/y/z; touch d/x/y/z/2").await;
    let before = until(&mut watching, "x/y/z/2").await;
    assert!(before.contains(&("x".to_owned(), Created)), "{before:?}");
    place.sh("mv d/a d/moved; touch d/moved/b/3").await;
    until(&mut watching, "moved/b/3").await;
    place.sh("mv d/moved other; touch other/moved/b/unseen; touch d/end").await;
    let last = until(&mut watching, "end").await;
    assert!(!last.iter().any(|(name, _)| name.contains("unseen")), "{last:?}");
    assert!(last.contains(&("moved".to_owned(), Renamed)), "{last:?}");
    place.engine.close().await;
}

#[tokio::test]
async fn several_watch_the_same_and_one_that_leaves_takes_nothing_from_the_others() {
    let place = Place::make().await;
    place.sh("mkdir d").await;
    let mut first = place.watch("d", true).await.unwrap();
    let second = place.watch("d", false).await.unwrap();
    drop(second);
    let mut third = place.watch("d", false).await.unwrap();
    place.sh("touch d/f").await;
    until(&mut first, "f").await;
    until(&mut third, "f").await;
    drop((first, third));
    let mut fourth = place.watch("d", false).await.unwrap();
    place.sh("touch d/g").await;
    assert_eq!(until(&mut fourth, "g").await, []);
    place.engine.provider.destroy(place.sandbox).await.unwrap();
    let end = async { while fourth.recv().await.is_some() {} };
    tokio::time::timeout(WAIT_MAX, end).await.expect("a watch ends with its sandbox");
    place.engine.close().await;
}

#[tokio::test]
async fn only_directories_are_watched_and_only_so_many() {
    let place = Place::make().await;
    place.sh("touch f").await;
    let fault = |path: &str, fault| ProviderError::File { path: path.to_owned(), fault };
    let refused = async |path: &str| place.watch(path, false).await.unwrap_err();
    assert_eq!(refused("f").await, fault("f", FileFault::NotDirectory));
    assert_eq!(refused("no").await, fault("no", FileFault::Missing));
    let mut watching = Vec::new();
    for _ in 0..64 {
        watching.push(place.watch("", false).await.unwrap());
    }
    assert!(matches!(refused("").await, ProviderError::Quota { .. }));
    watching.pop();
    let again = async {
        while place.watch("", false).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT_MAX, again).await.expect("one that left makes room");
    place.engine.close().await;
}

#[tokio::test]
async fn a_flood_is_told_once_as_lost_and_the_watch_goes_on() {
    let place = Place::make().await;
    place.sh("mkdir d").await;
    let mut watching = place.watch("d", false).await.unwrap();
    place.sh("cd d; seq 20000 | xargs touch; seq 20000 | xargs rm").await;
    let mut kinds = BTreeMap::new();
    let mut others = 0;
    // Whatever was kept comes first, then the word that there was more.
    while others <= 4_096 {
        let change = tokio::time::timeout(WAIT_MAX, watching.recv()).await;
        let change = change.expect("it is told").expect("it goes on").unwrap();
        *kinds.entry(change.kind == Lost).or_insert(0) += 1;
        if change.kind == Lost {
            break;
        }
        others += 1;
    }
    assert_eq!(kinds.get(&true), Some(&1), "{kinds:?}");
    place.sh("mkdir d/end").await;
    until(&mut watching, "end").await;
    place.engine.close().await;
}
