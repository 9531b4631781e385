//! What the program ends with. Scripts read these numbers, so they never change their meaning.

use std::process::ExitCode;

/// One of the documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// It ran, and failed.
    Failed,
    /// The command line, a setting or a request is wrong.
    Usage,
    /// No such thing, or no longer.
    NotFound,
    /// Not allowed.
    Denied,
    /// In conflict with what exists.
    Conflict,
    /// A quota or a budget is used up.
    Quota,
    /// Not to be had now; asking again may help.
    Unavailable,
    /// Done in part; the rest waits for an operator.
    Waits,
    /// `doctor` found a fault, or `probe` no node.
    Faulty,
    /// There is no nats-server and none could be had.
    NoServer,
    /// The node gave up: an actor failed too often.
    Internal,
    /// The node had to end before its work had.
    Forced,
    /// The data directory belongs to another node.
    InUse,
    /// Ctrl-C or SIGTERM, while it ran to an end of its own.
    Interrupted,
    /// The program's own, from `sandpit exec`.
    Program(u8),
}

/// For `sandpit help`: what each number means.
pub const HELP: &str = "\
Exit codes:
  0    done
  1    it ran and failed
  2    the command line, a setting or a request is wrong
  3    not found, or gone
  4    denied
  5    in conflict with what exists
  6    a quota or budget is used up
  7    not to be had now: no node, busy, or timed out; asking again may help
  8    done in part; the rest waits for an operator's approval
  9    `sandpit doctor` found a fault, or `sandpit probe` no node
  69   there is no nats-server and none could be had
  70   the node gave up: an actor failed too often
  71   the node had to end before its work had
  75   the data directory belongs to another node
  130  it was interrupted
`sandpit exec` ends with the program's own code: 128 + n for signal n, 124 for its time
limit, and 125 if sandpit itself failed.

Settings: defaults, then the file named by --config or SANDPIT_CONFIG, then variables (the setting
a.b is SANDPIT_A_B), then --set a.b=value. `sandpit config show` prints them all.";

impl Exit {
    /// The number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Conflict => 5,
            Self::Quota => 6,
            Self::Unavailable => 7,
            Self::Waits => 8,
            Self::Faulty => 9,
            Self::NoServer => 69,
            Self::Internal => 70,
            Self::Forced => 71,
            Self::InUse => 75,
            Self::Interrupted => 130,
            Self::Program(code) => code,
        }
    }

    /// Of `sandpit exec` where sandpit itself failed, so that no program's own code is taken for
    /// it.
    pub const OWN_FAILURE: Self = Self::Program(125);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        use Exit::*;
        let all = [
            Done,
            Failed,
            Usage,
            NotFound,
            Denied,
            Conflict,
            Quota,
            Unavailable,
            Waits,
            Faulty,
            NoServer,
            Internal,
            Forced,
            InUse,
            Interrupted,
        ];
        for exit in all {
            let line = format!("\n  {:<4} ", exit.number());
            assert!(HELP.contains(&line), "{exit:?}");
        }
    }
}
