//! What is applied here binds one thread, so every test does it in a thread of its own.
#![expect(unsafe_code, reason = "makes the very calls that must be refused")]

use std::fs;
use std::thread;

use rustix::io::Errno;

use super::landlock::{Ruleset, Support};
use super::rlimits::{SumHeldBy, Values};
use super::seccomp::{AnonymousFiles, Filters, Program, ZygoteClone};
use super::{calls, caps};
use crate::local::options::Bounds;

const HIGH_BITS: i64 = 0x5a5a_0000_0000;

/// Makes a call whose arguments are numbers or null.
fn call(number: i64, args: [i64; 4]) -> Result<i64, Errno> {
    let [a, b, c, d] = args;
    // WHY: the filter judges the bare call.
    // SAFETY: every caller passes numbers and null pointers, with which none of them touches
    // memory of this process.
    let answer = unsafe { libc::syscall(number, a, b, c, d) };
    if answer >= 0 {
        return Ok(answer);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap())
}

/// Runs `body` in a thread under `programs`.
fn under<'a, T: Send>(
    programs: impl IntoIterator<Item = &'a Program>,
    body: impl FnOnce() -> T + Send,
) -> T {
    let programs: Vec<&Program> = programs.into_iter().collect();
    thread::scope(|scope| {
        let bound = scope.spawn(|| {
            caps::no_new_privileges().unwrap();
            programs.iter().for_each(|program| program.install().unwrap());
            body()
        });
        bound.join().unwrap()
    })
}

fn filters() -> Filters {
    Filters::compile(AnonymousFiles::Allowed, ZygoteClone::Legacy).unwrap()
}

#[test]
fn calls_outside_of_the_tables_are_refused_as_written() {
    const ABSENT: [i64; 6] = [
        libc::SYS_clone3,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_userfaultfd,
        libc::SYS_memfd_secret,
    ];
    const REFUSED: &[i64] = &[
        libc::SYS_acct,
        libc::SYS_add_key,
        libc::SYS_adjtimex,
        libc::SYS_bpf,
        libc::SYS_capset,
        libc::SYS_chroot,
        libc::SYS_clock_adjtime,
        libc::SYS_clock_settime,
        libc::SYS_delete_module,
        libc::SYS_fanotify_init,
        libc::SYS_finit_module,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fsopen,
        libc::SYS_fspick,
        libc::SYS_init_module,
        libc::SYS_kcmp,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_landlock_create_ruleset,
        libc::SYS_mbind,
        libc::SYS_mount,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_open_tree,
        libc::SYS_perf_event_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pivot_root,
        libc::SYS_process_madvise,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_ptrace,
        libc::SYS_quotactl,
        libc::SYS_reboot,
        libc::SYS_request_key,
        libc::SYS_seccomp,
        libc::SYS_setdomainname,
        libc::SYS_setgroups,
        libc::SYS_sethostname,
        libc::SYS_setns,
        libc::SYS_settimeofday,
        libc::SYS_swapoff,
        libc::SYS_swapon,
        libc::SYS_sync,
        libc::SYS_syslog,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_vhangup,
        libc::SYS_vmsplice,
    ];

    let answers = under(filters().of_init(), || {
        let ask = |number: &i64| (*number, call(*number, [0; 4]));
        (ABSENT.iter().map(ask).collect::<Vec<_>>(), REFUSED.iter().map(ask).collect::<Vec<_>>())
    });

    let want = |numbers: &[i64], errno| {
        numbers.iter().map(|number| (*number, Err(errno))).collect::<Vec<_>>()
    };
    assert_eq!(answers, (want(&ABSENT, Errno::NOSYS), want(REFUSED, Errno::PERM)));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn numbers_of_the_x32_interface_and_of_io_ports_are_refused() {
    const X32: i64 = 0x4000_0000;

    let answers = under(filters().of_init(), || {
        [X32 + libc::SYS_getpid, libc::SYS_ioperm, libc::SYS_iopl]
            .map(|number| call(number, [0; 4]))
    });

    assert_eq!(answers, [Err(Errno::PERM); 3]);
}

#[test]
fn arguments_decide_and_higher_bits_change_nothing() {
    let socket = |domain: i32, kind: i32, protocol: i32| {
        (libc::SYS_socket, [domain.into(), kind.into(), protocol.into(), 0])
    };
    const PRCTL_SET_SECCOMP: i64 = libc::PR_SET_SECCOMP as i64;
    const CORE: i64 = libc::RLIMIT_CORE as i64;
    const TIOCSTI: i64 = calls::IOCTL_FORBIDDEN[0].cast_signed();
    const BAD_FD: i64 = -1;
    let cases = [
        (socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0), Err(Errno::AFNOSUPPORT)),
        (socket(libc::AF_NETLINK, libc::SOCK_DGRAM, 0), Err(Errno::AFNOSUPPORT)),
        (socket(libc::AF_ALG, libc::SOCK_DGRAM, 0), Err(Errno::AFNOSUPPORT)),
        (socket(libc::AF_PACKET, libc::SOCK_RAW, 0), Err(Errno::PERM)),
        (socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP), Err(Errno::PERM)),
        (socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP), Err(Errno::PERM)),
        (socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), Err(Errno::PERM)),
        // Allowed, and refused by what comes after the filter: the protocol does not fit.
        (socket(libc::AF_UNIX, libc::SOCK_STREAM, libc::IPPROTO_TCP), Err(Errno::PROTONOSUPPORT)),
        ((libc::SYS_socket, [HIGH_BITS | 40, 1, 0, 0]), Err(Errno::AFNOSUPPORT)),
        ((libc::SYS_ioctl, [BAD_FD, TIOCSTI, 0, 0]), Err(Errno::PERM)),
        ((libc::SYS_ioctl, [BAD_FD, HIGH_BITS | TIOCSTI, 0, 0]), Err(Errno::PERM)),
        ((libc::SYS_ioctl, [BAD_FD, 0x5401, 0, 0]), Err(Errno::BADF)),
        ((libc::SYS_prlimit64, [1, 7, 0, 0]), Err(Errno::PERM)),
        ((libc::SYS_prlimit64, [0, CORE, 8, 0]), Err(Errno::PERM)),
        ((libc::SYS_prlimit64, [0, CORE, 0, 0]), Ok(0)),
        ((libc::SYS_prlimit64, [0, 7, 0, 0]), Ok(0)),
        ((libc::SYS_setrlimit, [CORE, 0, 0, 0]), Err(Errno::PERM)),
        ((libc::SYS_personality, [0x0040_0000, 0, 0, 0]), Err(Errno::PERM)),
        ((libc::SYS_personality, [0xffff_ffff, 0, 0, 0]), Ok(0)),
        ((libc::SYS_prctl, [PRCTL_SET_SECCOMP, 2, 0, 0]), Err(Errno::PERM)),
        ((libc::SYS_clone, [0x1000_0000, 0, 0, 0]), Err(Errno::PERM)),
        ((libc::SYS_clone, [HIGH_BITS | 0x0002_0000, 0, 0, 0]), Err(Errno::PERM)),
        ((libc::SYS_clone, [libc::CLONE_PARENT.into(), 0, 0, 0]), Err(Errno::PERM)),
        // A thread without shared signal handlers: allowed, and refused as nonsense.
        ((libc::SYS_clone, [libc::CLONE_THREAD.into(), 0, 0, 0]), Err(Errno::INVAL)),
    ];

    let answers =
        under(filters().of_init(), || cases.map(|((number, args), _)| call(number, args)));

    for (((number, args), want), answer) in cases.into_iter().zip(answers) {
        assert_eq!(answer, want, "call {number} with {args:x?}");
    }
}

#[test]
fn anonymous_files_are_refused_where_nothing_bounds_them() {
    let make = || call(libc::SYS_memfd_create, [0; 4]);
    let unbound = Filters::compile(AnonymousFiles::Forbidden, ZygoteClone::Legacy).unwrap();

    // Allowed, it faults on the name that is null.
    assert_eq!(under(filters().of_init(), make), Err(Errno::FAULT));
    assert_eq!(under(unbound.of_init(), make), Err(Errno::PERM));
}

#[test]
fn the_zygote_can_do_what_it_must_and_no_more() {
    let ask = || {
        [
            (libc::SYS_setns, [-1, 0, 0, 0]),
            (libc::SYS_seccomp, [9, 0, 0, 0]),
            (libc::SYS_clone, [(libc::CLONE_PARENT | libc::CLONE_THREAD).into(), 0, 0, 0]),
            (libc::SYS_clone3, [0; 4]),
            (libc::SYS_clone, [0x1000_0000, 0, 0, 0]),
            (libc::SYS_unshare, [0; 4]),
            (libc::SYS_mount, [0; 4]),
            (libc::SYS_prlimit64, [1, 7, 0, 0]),
        ]
        .map(|(number, args)| call(number, args))
    };
    const NOT: [Result<i64, Errno>; 4] = [Err(Errno::PERM); 4];
    let into_group = Filters::compile(AnonymousFiles::Allowed, ZygoteClone::IntoGroup).unwrap();

    let of_zygote = |filters: &Filters| [filters.keeper.clone(), filters.zygote.clone()].concat();
    let legacy = under(&of_zygote(&filters()), ask);
    let newer = under(&of_zygote(&into_group), ask);

    assert_eq!(legacy[..3], [Err(Errno::BADF), Err(Errno::INVAL), Err(Errno::INVAL)]);
    assert_eq!(newer[..3], legacy[..3]);
    assert_eq!([legacy[3], newer[3]], [Err(Errno::NOSYS), Err(Errno::INVAL)]);
    assert_eq!([&legacy[4..], &newer[4..]], [NOT, NOT]);
}

#[test]
fn a_worker_forked_by_the_zygote_can_still_install_its_own_filters() {
    let (unshare, status) = under(filters().of_worker(), || {
        (call(libc::SYS_unshare, [0; 4]), fs::read_to_string("/proc/thread-self/status").unwrap())
    });

    assert_eq!(unshare, Err(Errno::PERM));
    assert!(status.contains("Seccomp:\t2\nSeccomp_filters:\t6\n"), "{status}");
}

#[test]
fn a_worker_and_an_init_may_do_the_same() {
    let bits = (0..32).map(|bit| 1 << bit);
    let words: Vec<u64> = bits.chain(0..64).chain([0xffff_ffff, 0x1_0000_0000]).collect();
    let modes = [AnonymousFiles::Allowed, AnonymousFiles::Forbidden]
        .into_iter()
        .flat_map(|files| [(files, ZygoteClone::Legacy), (files, ZygoteClone::IntoGroup)]);
    for (files, clone) in modes {
        let filters = Filters::compile(files, clone).unwrap();
        let by_arguments = [
            libc::SYS_clone,
            libc::SYS_ioctl,
            libc::SYS_personality,
            libc::SYS_prctl,
            libc::SYS_prlimit64,
            libc::SYS_setrlimit,
            libc::SYS_socket,
            libc::SYS_socketpair,
        ];
        for number in 0..=500 {
            let words = if by_arguments.contains(&number) { &words[..] } else { &words[..1] };
            let number = u32::try_from(number).unwrap();
            for word in words {
                for args in [[*word, 0, 0], [0, *word, 8], [1, 1, *word]] {
                    let answer = |programs: Vec<&Program>| verdict(&programs, number, args);
                    let init = answer(filters.of_init().collect());
                    let worker = answer(filters.of_worker().collect());
                    assert_eq!(init, worker, "call {number} with {args:x?}");
                }
            }
        }
    }
}

/// What the kernel does with a call under these filters, the last of them installed last.
fn verdict(programs: &[&Program], number: u32, args: [u64; 3]) -> u32 {
    const ACTION: u32 = 0xffff_0000;
    let answers = programs.iter().map(|program| run(program, number, args));
    // The action is signed, the least wins, and of equals the one installed later.
    answers.rev().min_by_key(|answer| (answer & ACTION).cast_signed()).unwrap()
}

/// Runs a program as the kernel would: the instructions that filters consist of.
fn run(program: &Program, number: u32, args: [u64; 3]) -> u32 {
    const ARCH: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    let code: Vec<(u16, u8, u8, u32)> = program.instructions().collect();
    let (mut at, mut held) = (0, 0_u32);
    loop {
        let (op, yes, no, k) = code[at];
        at += 1;
        let jump = |met: bool| usize::from(if met { yes } else { no });
        match op {
            0x20 => {
                held = match k {
                    0 => number,
                    4 => ARCH,
                    16..40 => {
                        let word = args[(k as usize - 16) / 8];
                        let half = if k % 8 == 0 { word } else { word >> 32 };
                        u32::try_from(half & 0xffff_ffff).unwrap()
                    }
                    _ => panic!("reads at {k}"),
                }
            }
            0x05 => at += k as usize,
            0x15 => at += jump(held == k),
            0x25 => at += jump(held > k),
            0x35 => at += jump(held >= k),
            0x45 => at += jump(held & k != 0),
            0x54 => held &= k,
            0x06 => return k,
            _ => panic!("does {op:#x}"),
        }
    }
}

#[test]
fn a_filter_is_the_same_after_its_way_to_another_process() {
    let allowed = filters().keeper.pop().unwrap();

    let text = serde_json::to_string(&allowed).unwrap();

    let back: Program = serde_json::from_str(&text).unwrap();
    assert_eq!(back.to_hex(), allowed.to_hex());
    assert!(text.len() / 16 < 4_096, "the kernel takes no more instructions");
    assert!(serde_json::from_str::<Program>("\"0g\"").is_err());
}

#[test]
fn files_outside_of_the_rules_cannot_be_touched() {
    let support = Support::find().expect("this test needs Landlock in the kernel (5.19 or later)");
    let base = std::env::temp_dir().join(format!("sandpit-landlock-{}", std::process::id()));
    let elsewhere = std::path::Path::new("/var/tmp").join(base.file_name().unwrap());
    fs::write(&elsewhere, "x").unwrap();
    assert!(base.starts_with("/tmp"), "TMPDIR is not /tmp, which the rules name");

    let (own, read, write, execute, procfs) = under([], || {
        Ruleset::new(support).unwrap().restrict_self().unwrap();
        (
            fs::write(&base, "x").and_then(|()| fs::remove_file(&base)),
            fs::read(&elsewhere),
            fs::write("/etc/sandpit-landlock", "x"),
            fs::read_dir("/usr/bin").map(|_| ()),
            fs::write("/proc/self/comm", "x"),
        )
    });

    fs::remove_file(&elsewhere).unwrap();
    own.unwrap();
    execute.unwrap();
    let denied = std::io::ErrorKind::PermissionDenied;
    assert_eq!(read.unwrap_err().kind(), denied);
    assert_eq!(write.unwrap_err().kind(), denied);
    assert_eq!(procfs.unwrap_err().kind(), denied);
}

#[test]
fn rules_have_only_bits_that_the_kernel_was_told_of() {
    let support = Support::find().expect("this test needs Landlock in the kernel (5.19 or later)");

    let unknown = support.rules().filter(|(_, access)| access & !support.handled() != 0).count();

    assert_eq!(unknown, 0);
}

#[test]
fn no_capability_is_left_and_none_can_come_back() {
    let is_root = rustix::process::geteuid().is_root();

    let (given_up, status) =
        under([], || (caps::give_up(), fs::read_to_string("/proc/thread-self/status").unwrap()));

    if is_root {
        given_up.unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
        }
    } else {
        // Who has no capabilities cannot lock the way back; inits do it as root of a namespace.
        assert_eq!(given_up, Err(Errno::PERM));
    }
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
}

#[test]
fn limits_depend_on_what_holds_the_sum() {
    const MIB: u64 = 1024 * 1024;
    let bounds = Bounds::default();

    let with_groups = Values::new(&bounds, 512 * MIB, SumHeldBy::Groups);
    let without = Values::new(&bounds, 512 * MIB, SumHeldBy::Watchdog);

    let usual = vec![
        (libc::RLIMIT_CORE, 1),
        (libc::RLIMIT_DATA, 576 * MIB),
        (libc::RLIMIT_NPROC, 128),
        (libc::RLIMIT_FSIZE, 256 * MIB),
        (libc::RLIMIT_NOFILE, 512),
        (libc::RLIMIT_STACK, 8 * MIB),
        (libc::RLIMIT_MEMLOCK, 0),
        (libc::RLIMIT_MSGQUEUE, 0),
        (libc::RLIMIT_RTPRIO, 0),
        (libc::RLIMIT_NICE, 0),
    ];
    let mut more = usual.clone();
    more.push((libc::RLIMIT_AS, 1536 * MIB));
    assert_eq!((with_groups.numbers, with_groups.nice), (usual, 5));
    assert_eq!((without.numbers, without.nice), (more, 10));
}
