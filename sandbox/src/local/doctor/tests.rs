use super::super::mode::{MissingCall, Switches, Trials};
use super::*;

fn works() -> Facts {
    Facts {
        root: false,
        kernel: "6.1.0".to_owned(),
        switches: Switches::default(),
        filtered: false,
        proc_masked: false,
        contained: false,
        trials: Trials {
            missing_calls: Vec::new(),
            user_namespace: Attempt::Worked,
            namespaces: vec![("net".to_owned(), Attempt::Worked)],
            together: Attempt::Worked,
            wide_map: Attempt::Untried,
            own_map: Attempt::Worked,
            mount: Attempt::Worked,
            proc: Attempt::Worked,
            pivot: Attempt::Worked,
            seccomp: Attempt::Worked,
        },
    }
}

fn worst(lines: &[Line]) -> Verdict {
    lines.iter().map(|line| line.verdict).max().unwrap()
}

#[test]
fn a_machine_where_everything_works_gets_no_advice() {
    let lines = of_facts(&works());

    assert_eq!(worst(&lines), Verdict::Ok);
    assert!(lines.iter().all(|line| line.next.is_none()));
    let mode = lines.last().unwrap();
    assert_eq!(mode.found, "sandboxes are held apart as `unprivileged`");
}

#[test]
fn every_fault_comes_with_the_command_that_mends_it() {
    let mut facts = works();
    facts.trials = Trials {
        user_namespace: Attempt::Failed(libc::ENOSPC),
        seccomp: Attempt::Worked,
        ..Trials::default()
    };
    facts.switches.max_user_namespaces = Some(0);

    let lines = of_facts(&facts);

    assert_eq!(worst(&lines), Verdict::Fault);
    for line in lines.iter().filter(|line| line.verdict == Verdict::Fault) {
        let next = line.next.as_deref().unwrap();
        assert!(next.starts_with("sudo sysctl -w user.max_user_namespaces=15000"), "{line:?}");
    }
    assert!(lines.last().unwrap().found.starts_with("[userns-off] "));
}

#[test]
fn a_missing_call_is_named_with_the_kernel_that_has_it() {
    let mut facts = works();
    let call = MissingCall { name: "close_range".to_owned(), since: "5.9".to_owned() };
    facts.trials.missing_calls.push(call);

    let lines = of_facts(&facts);

    assert_eq!(
        lines[0],
        Line::fault(
            "kernel",
            "Linux 6.1.0 has no close_range (since 5.9)",
            "upgrade to Linux 5.9 or later"
        )
    );
}

#[test]
fn what_is_too_little_for_the_sandboxes_wanted_is_warned_of() {
    let roomy = Capacity {
        files: 1_048_576,
        processes: u64::MAX,
        pid_max: 4_194_304,
        namespaces: BTreeMap::from([("net".to_owned(), 96_365)]),
        memory_kib: 24 * 1024 * 1024,
    };
    let tight = Capacity { files: 1_024 + 8 * 10, ..roomy.clone() };

    let of = |capacity: &Capacity, wanted| {
        let lines = of_capacity(capacity, wanted);
        (worst(&lines), lines.len(), lines[0].found.clone())
    };

    assert_eq!(of(&roomy, 1_000).0, Verdict::Ok);
    assert_eq!(of(&tight, 10).0, Verdict::Ok);
    assert_eq!(
        of(&tight, 11),
        (
            Verdict::Warn,
            1,
            "[nofile-low] 1104 open files are enough for 10 sandboxes of 11".to_owned()
        )
    );
}

#[test]
fn a_range_of_ids_that_is_somebody_elses_is_found() {
    let subuid = "ann:100000:65536\nbob:165536:65536\n";

    assert_eq!(overlapping(subuid, 200_000), Some("bob"));
    assert_eq!(overlapping(subuid, 231_072), None);
    assert_eq!(overlapping("nonsense\n::\n", 0), None);
}
