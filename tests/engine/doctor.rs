//! What the doctor says here, and on machines that lack something.

use std::process::Command;

use sandpit_sandbox::local::doctor::{self, Verdict};

use super::support::{launcher, options};

#[tokio::test]
async fn the_doctor_finds_no_fault_here_and_every_attack_refused() {
    let lines = doctor::examine(&options(), &launcher(), |line| println!("{line:?}")).await;

    let faults: Vec<_> = lines.iter().filter(|line| line.verdict == Verdict::Fault).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let attacks = lines.iter().filter(|line| line.check == "escape").count();
    assert_eq!(attacks, 12);
    let advice = lines.iter().filter(|line| line.verdict != Verdict::Ok);
    assert!(advice.clone().all(|line| line.next.is_some()), "{lines:#?}");
}

#[test]
fn the_doctor_names_the_switch_where_user_namespaces_are_off() {
    let sandpit_sandbox::local::Launcher::Path(program) = launcher() else {
        panic!("tests name their launcher")
    };
    // A user namespace has a switch of its own.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script])
        .arg(program)
        .args(["say-mode", "200000"])
        .output()
        .expect("this test needs unshare (util-linux)");

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("userns-off: user namespaces are switched off on this machine"),
        "{said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("sudo sysctl -w user.max_user_namespaces=15000"), "{said}");
}
