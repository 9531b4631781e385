use super::*;

/// What the kernel says of a worker that is locked down, seen from its keeper.
fn status() -> String {
    let keeper = std::process::id();
    format!(
        "Name:\tpython3\nPPid:\t{keeper}\nUid:\t1007\t1007\t1007\t1007\n\
         Gid:\t1007\t1007\t1007\t1007\nNSpid:\t30003\t2\nThreads:\t1\n\
         CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
         CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
         Seccomp_filters:\t4\n"
    )
}

#[test]
fn a_process_that_is_locked_down_passes() {
    assert_eq!(check(&fields(&status()), 1007, 4), Ok(()));
}

#[test]
fn anything_else_is_named() {
    for (had, has) in [
        ("Uid:\t1007\t1007", "Uid:\t1007\t0"),
        ("Gid:\t1007\t1007\t1007\t1007", "Gid:\t0\t0\t0\t0"),
        ("CapInh:\t0000000000000000", "CapInh:\t0000000000200000"),
        ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000200000"),
        ("CapEff:\t0000000000000000", "CapEff:\t0000000000200000"),
        ("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff"),
        ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000200000"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
        ("Seccomp:\t2", "Seccomp:\t0"),
        ("Seccomp_filters:\t4", "Seccomp_filters:\t3"),
        ("Threads:\t1", "Threads:\t2"),
        ("PPid:\t", "PPid:\t9"),
    ] {
        let changed = status().replacen(had, has, 1);
        assert_ne!(changed, status(), "{had}");
        let why = check(&fields(&changed), 1007, 4).expect_err(has);
        let name = has.split(':').next().expect("a name");
        assert!(why.starts_with(name), "{has}: {why}");
    }
}

#[test]
fn another_sandboxes_id_and_a_missing_line_are_refused() {
    assert!(check(&fields(&status()), 1008, 4).is_err());
    let without = status().replace("NoNewPrivs:\t1\n", "");
    assert_eq!(check(&fields(&without), 1007, 4), Err("its status has no NoNewPrivs".to_owned()));
}

#[test]
fn kernels_that_do_not_count_filters_are_believed_that_there_are_some() {
    let without = status().replace("Seccomp_filters:\t4\n", "");
    assert_eq!(check(&fields(&without), 1007, 4), Ok(()));
}
