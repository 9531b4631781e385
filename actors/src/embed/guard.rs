//! What this program does when it is started to become a nats-server: it asks the kernel to be
//! killed when its parent dies, and then turns into the server. Asked by the parent on its
//! behalf, that would need unsafe code between fork and exec.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal};

/// The name under which it is started.
pub(super) const NAME: &str = "sandpit-nats-guard";

/// To be called first thing in `main`: returns `None` unless this program was started as the
/// guard. The guard does not come back if all is well.
pub fn entry() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    if words.next()? != NAME {
        return None;
    }
    Some(become_server(words))
}

fn become_server(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = words.next().and_then(|word| word.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let (Some(parent), Some(server)) = (parent, words.next()) else {
        return ExitCode::from(64);
    };
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // A parent that died before is not waited for any more.
    if asked.is_err() || rustix::process::getppid() != Some(parent) {
        return ExitCode::from(71);
    }
    let error = Command::new(&server).args(words).exec();
    #[expect(clippy::print_stderr, reason = "its parent keeps this as the server's log")]
    {
        eprintln!("cannot run {}: {error}", server.display());
    }
    ExitCode::from(126)
}
