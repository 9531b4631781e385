//! Machines as they were met, or as their documentation says they are.

use super::*;

const EPERM: Attempt = Attempt::Failed(libc::EPERM);

fn all_works() -> Trials {
    Trials {
        missing_calls: Vec::new(),
        user_namespace: Attempt::Worked,
        namespaces: ["pid", "mnt", "net", "ipc", "uts", "cgroup"]
            .map(|kind| (kind.to_owned(), Attempt::Worked))
            .into(),
        together: Attempt::Worked,
        wide_map: Attempt::Untried,
        own_map: Attempt::Worked,
        mount: Attempt::Worked,
        proc: Attempt::Worked,
        pivot: Attempt::Worked,
        seccomp: Attempt::Worked,
    }
}

fn user() -> Facts {
    Facts {
        root: false,
        kernel: "6.1.0-13-amd64".to_owned(),
        switches: Switches {
            max_user_namespaces: Some(96_365),
            unprivileged_userns_clone: Some(1),
            apparmor_restrict: None,
        },
        filtered: false,
        proc_masked: false,
        contained: false,
        trials: all_works(),
    }
}

fn root() -> Facts {
    let trials = Trials { wide_map: Attempt::Worked, own_map: Attempt::Untried, ..all_works() };
    Facts { root: true, trials, ..user() }
}

/// A container run by a stock engine: its filter on, parts of `/proc` covered.
fn container() -> Facts {
    Facts { filtered: true, proc_masked: true, contained: true, ..user() }
}

fn check(facts: &Facts, expected: Result<Mode, &str>) {
    let chosen = choose(facts);
    assert_eq!(chosen.as_ref().map_err(Cause::code).copied(), expected, "{facts:?}");
}

fn refused(facts: &Facts, code: &str) {
    check(facts, Err(code));
}

/// As [`user`], with other trials.
fn trying(change: impl FnOnce(&mut Trials)) -> Facts {
    let mut facts = user();
    change(&mut facts.trials);
    facts
}

#[test]
fn where_everything_works_the_user_decides() {
    check(&root(), Ok(Mode::Privileged));
    check(&user(), Ok(Mode::Unprivileged));
    let contained = Facts { contained: true, ..user() };
    check(&contained, Ok(Mode::Container));
    let contained_root = Facts { contained: true, ..root() };
    check(&contained_root, Ok(Mode::Privileged));
}

#[test]
fn user_namespaces_that_are_off_are_told_apart_by_what_switches_them_off() {
    let no_user_namespace = |error| trying(|trials| trials.user_namespace = Attempt::Failed(error));

    refused(&no_user_namespace(libc::ENOSPC), "userns-off");
    refused(&no_user_namespace(libc::EPERM), "userns-refused");
    refused(&no_user_namespace(libc::EINVAL), "userns-refused");
    let mut off = no_user_namespace(libc::EPERM);
    off.switches.max_user_namespaces = Some(0);
    refused(&off, "userns-off");
    let mut debian = no_user_namespace(libc::EPERM);
    debian.switches.unprivileged_userns_clone = Some(0);
    refused(&debian, "userns-unprivileged-off");
    refused(&Facts { filtered: true, ..no_user_namespace(libc::EPERM) }, "userns-seccomp");
}

#[test]
fn ubuntu_lets_the_namespace_be_made_and_takes_its_rights_away() {
    let ubuntu = |mut facts: Facts| {
        facts.switches.apparmor_restrict = Some(1);
        facts
    };

    refused(&ubuntu(trying(|trials| trials.own_map = EPERM)), "userns-apparmor");
    refused(&ubuntu(trying(|trials| trials.mount = EPERM)), "userns-apparmor");
    refused(&ubuntu(trying(|trials| trials.pivot = EPERM)), "userns-apparmor");
    refused(&ubuntu(trying(|trials| trials.user_namespace = EPERM)), "userns-apparmor");
    check(&ubuntu(root()), Ok(Mode::Privileged));
    let mut off = trying(|trials| trials.mount = EPERM);
    off.switches.apparmor_restrict = Some(0);
    refused(&off, "mount-denied");
}

#[test]
fn a_masked_proc_is_told_from_one_that_is_denied() {
    let mut masked = container();
    masked.trials.proc = EPERM;

    refused(&masked, "proc-masked");
    refused(&Facts { proc_masked: false, ..masked }, "mount-denied");
}

#[test]
fn root_that_cannot_give_ids_away_never_falls_back_to_its_own() {
    let mut facts = Facts { contained: true, ..root() };
    facts.trials.wide_map = EPERM;
    facts.trials.own_map = Attempt::Worked;

    refused(&facts, "root-without-ids");
}

#[test]
fn mounts_that_are_denied_are_named() {
    let mut facts = container();
    facts.trials.pivot = Attempt::Failed(libc::EACCES);

    let cause = choose(&facts).unwrap_err();

    assert_eq!(
        cause.to_string(),
        "mounts are denied (changing the root: Permission denied (os error 13))"
    );
    assert!(cause.next().contains("apparmor=unconfined"));
}

#[test]
fn a_kind_of_namespace_that_is_used_up_is_named_with_its_switch() {
    let cause = choose(&trying(|trials| trials.namespaces[2].1 = Attempt::Failed(libc::ENOSPC)))
        .unwrap_err();

    assert_eq!(cause.code(), "namespace-refused");
    assert!(cause.next().contains("user.max_net_namespaces=15000"), "{}", cause.next());
}

#[test]
fn an_old_kernel_and_one_without_filters_come_first() {
    let call = MissingCall { name: "close_range".to_owned(), since: "5.9".to_owned() };
    let old = trying(|trials| {
        trials.missing_calls.push(call);
        trials.user_namespace = EPERM;
    });

    let cause = choose(&old).unwrap_err();

    assert_eq!(
        cause.to_string(),
        "the kernel has no close_range; found 6.1.0-13-amd64, needed 5.9"
    );
    refused(&trying(|trials| trials.seccomp = Attempt::Failed(libc::EINVAL)), "seccomp-missing");
}

#[test]
fn every_cause_says_what_to_do() {
    let error = EPERM;
    let text = || "x".to_owned();
    let causes = [
        Cause::UsernsOff,
        Cause::NamespaceRefused { kind: text(), error },
        Cause::UsernsUnprivilegedOff,
        Cause::UsernsApparmor,
        Cause::UsernsSeccomp,
        Cause::UsernsRefused { error },
        Cause::ProcMasked,
        Cause::MountDenied { step: "x", error },
        Cause::RootWithoutIds { error },
        Cause::KernelTooOld { call: text(), kernel: text(), since: text() },
        Cause::SeccompMissing { error },
    ];

    for cause in causes {
        assert!(!cause.next().is_empty() && !cause.code().is_empty(), "{cause:?}");
    }
}
