//! Messages of `process.Process`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::proto::{Base64, Named};

/// Where its methods are.
pub const SERVICE: &str = "/process.Process/";

/// Starts a process; a stream of [`StreamResponse`] answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// What to start.
    #[serde(default)]
    pub process: Config,
    /// Whether it has an input. Absent means that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<bool>,
    /// A name to find it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Its terminal, if it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
}

/// What a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The program.
    #[serde(default)]
    pub cmd: String,
    /// Its arguments, the program not among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment beside the sandbox's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// A terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pty {
    /// Its size; without one nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    #[serde(default)]
    pub cols: u32,
    /// Rows.
    #[serde(default)]
    pub rows: u32,
}

/// Which process: by its id or by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// By its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// By its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Names a process: body of `Connect` and `CloseStdin`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectRequest {
    /// Which.
    #[serde(default)]
    pub process: Selector,
}

/// One piece of the streams that answer `Start` and `Connect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamResponse {
    /// What happened.
    pub event: Event,
}

/// What a process did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It runs. Always the first.
    Start {
        /// Its id.
        #[serde(default)]
        pid: u32,
    },
    /// It wrote.
    Data(Data),
    /// It ended.
    End(End),
    /// It is silent, and the stream lives.
    Keepalive {},
}

/// What a process wrote, to one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// To its standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Base64>,
    /// To its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Base64>,
    /// To its terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Base64>,
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Its exit code, -1 if a signal ended it. Absent means 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exit_code: i32,
    /// Whether it ended by itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exited: bool,
    /// `exit status 3`, `signal: killed`.
    #[serde(default)]
    pub status: String,
    /// The same, unless it ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl End {
    /// It ended by itself with this code.
    pub fn exit(code: i32) -> Self {
        let status = format!("exit status {code}");
        let error = (code != 0).then(|| status.clone());
        Self { exit_code: code, exited: true, status, error }
    }

    /// A signal ended it.
    pub fn signal(number: i32) -> Self {
        let status = format!("signal: {}", signal_name(number));
        Self { exit_code: -1, exited: false, status: status.clone(), error: Some(status) }
    }

    /// The number of the signal that ended it, as far as its name is known.
    pub fn signal_number(&self) -> Option<i32> {
        let name = self.status.strip_prefix("signal: ")?;
        let name = name.strip_suffix(" (core dumped)").unwrap_or(name);
        let known = SIGNALS.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
        known.or_else(|| name.strip_prefix("signal ")?.parse().ok())
    }
}

/// Linux signals by the names that Go gives them, which is what E2B sends.
const SIGNALS: &[(i32, &str)] = &[
    (1, "hangup"),
    (2, "interrupt"),
    (3, "quit"),
    (4, "illegal instruction"),
    (5, "trace/breakpoint trap"),
    (6, "aborted"),
    (7, "bus error"),
    (8, "floating point exception"),
    (9, "killed"),
    (10, "user defined signal 1"),
    (11, "segmentation fault"),
    (12, "user defined signal 2"),
    (13, "broken pipe"),
    (14, "alarm clock"),
    (15, "terminated"),
    (24, "CPU time limit exceeded"),
    (25, "file size limit exceeded"),
    (31, "bad system call"),
];

fn signal_name(number: i32) -> String {
    let known = SIGNALS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned())
}

/// Answer of `List`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListResponse {
    /// Those that run.
    #[serde(default)]
    pub processes: Vec<Info>,
}

/// A process that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// As it was started.
    #[serde(default)]
    pub config: Config,
    /// Its id.
    #[serde(default)]
    pub pid: u32,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Body of `SendInput`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendInputRequest {
    /// Which.
    #[serde(default)]
    pub process: Selector,
    /// What it reads.
    #[serde(default)]
    pub input: Input,
}

/// What a process reads, from one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// From its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Base64>,
    /// From its terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Base64>,
}

/// One piece of the stream that `StreamInput` sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamInputRequest {
    /// Which process. Always the first.
    Start(SelectRequest),
    /// What it reads.
    Data {
        /// The bytes.
        #[serde(default)]
        input: Input,
    },
    /// Nothing to read, and the stream lives.
    Keepalive {},
}

/// Body of `SendSignal`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendSignalRequest {
    /// Which.
    #[serde(default)]
    pub process: Selector,
    /// Which signal.
    #[serde(default)]
    pub signal: Signal,
}

/// A signal that may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Named")]
pub enum Signal {
    /// 15: end, please.
    #[serde(rename = "SIGNAL_SIGTERM")]
    Term,
    /// 9: end.
    #[serde(rename = "SIGNAL_SIGKILL")]
    Kill,
    /// Any other, and none.
    #[default]
    #[serde(rename = "SIGNAL_UNSPECIFIED")]
    Other,
}

impl From<Named> for Signal {
    fn from(named: Named) -> Self {
        let table = [(15, "SIGNAL_SIGTERM", Self::Term), (9, "SIGNAL_SIGKILL", Self::Kill)];
        named.among(&table).unwrap_or_default()
    }
}

/// Body of `Update`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRequest {
    /// Which.
    #[serde(default)]
    pub process: Selector,
    /// Its terminal from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}
