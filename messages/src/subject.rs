//! Where messages go. A verb belongs to its message type and is checked by the compiler; nowhere
//! else in the project is a subject put together.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{ExecId, NodeId, RequestId, SandboxId};
use crate::market::FeedName;

/// Everything any node of the nearest region answers.
pub const REQUESTS: &str = "sandpit.v1.req.*";
/// The same for the ReasoningBank.
pub const BANK_REQUESTS: &str = "sandpit.v1.req.bank.*";
/// What clients may ask the owner of a sandbox.
pub const OWNER_REQUESTS: &str = "sandpit.v1.node.*.sbx.*.*";
/// What clients may ask of one node: an archive travels in pieces, all of them to or from the same.
pub const TEMPLATE_REQUESTS: [&str; 3] = [
    "sandpit.v1.node.*.template-list",
    "sandpit.v1.node.*.template-get",
    "sandpit.v1.node.*.template-import",
];
/// Everything that is told.
pub const EVENTS: &str = "sandpit.v1.evt.>";
/// All output of all executions.
pub const OUTPUT: &str = "sandpit.v1.out.>";
/// Every bar of every market data feed.
pub const MARKET: &str = "sandpit.v1.market.*";
/// The queue group of [`REQUESTS`].
pub const ENTRY_GROUP: &str = "entry";
/// The verb every service ignores: padding for a member that leaves its group by count.
pub const PAD: &str = "pad";

/// The last word of a subject that clients ask on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verb(&'static str);

impl Verb {
    /// A bad name in a `const` does not compile.
    ///
    /// # Panics
    /// If the word is empty or holds anything but `a-z`, `0-9`, `_` and `-`.
    pub const fn new(word: &'static str) -> Self {
        let bytes = word.as_bytes();
        assert!(!bytes.is_empty(), "a verb is not empty");
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            let fine = byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!(fine || byte == b'_' || byte == b'-', "a verb is lower-case");
            at += 1;
        }
        Self(word)
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// Where clients ask it: any node of the nearest region answers.
    pub fn subject(self) -> String {
        format!("sandpit.v1.req.{}", self.0)
    }

    /// Where it is asked of one node.
    pub fn of_node(self, node: NodeId) -> String {
        format!("sandpit.v1.node.{node}.{}", self.0)
    }

    /// Where it is asked of the owner of one sandbox: the owner is readable from the id.
    pub fn of_sandbox(self, sandbox: SandboxId) -> String {
        format!("{}.{}", owner(sandbox), self.0)
    }

    /// Where one node hears it about any of its sandboxes.
    pub fn of_sandboxes(self, node: NodeId) -> String {
        format!("sandpit.v1.node.{node}.sbx.*.{}", self.0)
    }
}

impl fmt::Debug for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Everything asked of one node: `sandpit.v1.node.<node>.*`.
pub fn node_requests(node: NodeId) -> String {
    format!("sandpit.v1.node.{node}.*")
}

/// Everything asked of the sandboxes of one node: `sandpit.v1.node.<node>.sbx.*.*`.
pub fn sandbox_requests(node: NodeId) -> String {
    format!("sandpit.v1.node.{node}.sbx.*.*")
}

/// Where the owner of a sandbox is asked about it, up to the verb.
pub fn owner(sandbox: SandboxId) -> String {
    format!("sandpit.v1.node.{}.sbx.{sandbox}", sandbox.node())
}

/// One of the two streams a program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As it is written in subjects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where the output of one execution is published while it runs.
pub fn output(sandbox: SandboxId, exec: ExecId, stream: Stream) -> String {
    format!("sandpit.v1.out.{sandbox}.{exec}.{}", stream.as_str())
}

/// Where the output of everything that runs in one sandbox is published.
pub fn outputs(sandbox: SandboxId) -> String {
    format!("sandpit.v1.out.{sandbox}.*.*")
}

/// Where the output of one execution is published, for whoever knows it and not its sandbox.
pub fn outputs_of(exec: ExecId) -> String {
    format!("sandpit.v1.out.*.{exec}.*")
}

/// Where the progress of one request is told while it is answered.
pub fn progress(request: RequestId) -> String {
    format!("sandpit.v1.out.progress.{request}")
}

/// Reads the subject of a chunk of output; `None` for any other.
pub fn read_output(subject: &str) -> Option<(SandboxId, ExecId, Stream)> {
    let words: Vec<&str> = subject.split('.').collect();
    let ["sandpit", "v1", "out", sandbox, exec, stream] = words[..] else { return None };
    let stream = [Stream::Stdout, Stream::Stderr].into_iter().find(|s| s.as_str() == stream)?;
    Some((sandbox.parse().ok()?, exec.parse().ok()?, stream))
}

/// Where something that happened is told: `sandpit.v1.evt.<domain>.<type>`.
pub fn event(domain: &'static str, kind: &'static str) -> String {
    format!("sandpit.v1.evt.{domain}.{kind}")
}

/// Where the bars of one feed are published.
pub fn market(feed: &FeedName) -> String {
    format!("sandpit.v1.market.{feed}")
}

/// Where services are discovered (ADR-32): `$SRV.<what>`, `$SRV.<what>.<name>` and
/// `$SRV.<what>.<name>.<id>`, with `PING`, `INFO` or `STATS` for what.
pub fn discovery(what: &'static str, name: &str, id: &str) -> [String; 3] {
    let all = format!("$SRV.{what}");
    let named = format!("{all}.{name}");
    let one = format!("{named}.{id}");
    [all, named, one]
}

/// The padding of a subscription with wildcards: a subject it hears and every service ignores.
/// `None` without wildcards, where whatever is sent is a request.
pub fn pad(pattern: &str) -> Option<String> {
    let words: Vec<&str> =
        pattern.split('.').map(|word| if matches!(word, "*" | ">") { PAD } else { word }).collect();
    let padded = words.join(".");
    (padded != pattern && padded.ends_with(PAD)).then_some(padded)
}

/// The subject without what differs from one request to the next, as names of spans need it:
/// `sandpit.v1.node.{node}.sbx.{sandbox}.exec`.
pub fn template(subject: &str) -> Cow<'_, str> {
    let words: Vec<&str> = subject.split('.').collect();
    match words[..] {
        ["sandpit", "v1", "node", _, verb] => format!("sandpit.v1.node.{{node}}.{verb}").into(),
        ["sandpit", "v1", "node", _, "sbx", _, verb] => {
            format!("sandpit.v1.node.{{node}}.sbx.{{sandbox}}.{verb}").into()
        }
        ["sandpit", "v1", "out", "progress", _] => "sandpit.v1.out.progress.{request}".into(),
        ["sandpit", "v1", "out", _, _, stream] => {
            format!("sandpit.v1.out.{{sandbox}}.{{exec}}.{stream}").into()
        }
        ["sandpit", "v1", "market", _] => "sandpit.v1.market.{feed}".into(),
        ["_INBOX", ..] => "{inbox}".into(),
        _ => subject.into(),
    }
}

/// What the subject of a request says: the verb, and the sandbox if it names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The last word.
    pub verb: &'a str,
    /// The sandbox of an owner-routed subject.
    pub sandbox: Option<SandboxId>,
}

impl<'a> Asked<'a> {
    /// Reads `sandpit.v1.req.<verb>`, `sandpit.v1.node.<node>.<verb>` and
    /// `sandpit.v1.node.<node>.sbx.<sandbox>.<verb>`; `None` for anything else.
    pub fn read(subject: &'a str) -> Option<Self> {
        let words: Vec<&str> = subject.split('.').collect();
        match words[..] {
            ["sandpit", "v1", "req", verb] | ["sandpit", "v1", "node", _, verb] => {
                Some(Self { verb, sandbox: None })
            }
            ["sandpit", "v1", "node", _, "sbx", PAD, PAD] => {
                Some(Self { verb: PAD, sandbox: None })
            }
            ["sandpit", "v1", "node", _, "sbx", sandbox, verb] => {
                Some(Self { verb, sandbox: Some(sandbox.parse().ok()?) })
            }
            _ => None,
        }
    }
}

/// May a request whose answer was lost be sent again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Doing it twice is the same as doing it once.
    Safe,
    /// If it carries an idempotency key.
    WithKey,
    /// Not by us.
    Never,
}

/// How long a request may take: what it gets when it names no deadline, and the most it may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Without a `Sandpit-Deadline`.
    pub default: Duration,
    /// A later deadline is taken as this.
    pub max: Duration,
}

impl Patience {
    /// Status, list, health.
    pub const LOOK: Self = Self::secs(2, 10);
    /// Create, terminate.
    pub const CHANGE: Self = Self::secs(10, 60);
    /// Deployments and swarms: what takes longer is answered as it stands, and goes on.
    pub const FLEET: Self = Self::secs(60, 120);
    /// Executions: their own time limit (at most 3,600 s) and 10 s for the way.
    pub const RUN: Self = Self::secs(60, 3_610);

    /// So many seconds by default, so many at most.
    pub const fn secs(default: u64, max: u64) -> Self {
        Self { default: Duration::from_secs(default), max: Duration::from_secs(max) }
    }
}

/// A question of the bus, answered once: with its reply, or with a refusal.
pub trait Request: Serialize + DeserializeOwned + Send + 'static {
    /// What the answer holds when it is yes.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// What clients call it.
    const VERB: Verb;
    /// What to do when the answer is lost.
    const REPLAY: Replay;
    /// How long it may take.
    const PATIENCE: Patience;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_reads_back_as_what_it_asks() {
        let sandbox = SandboxId::numbered(7);
        let verb = Verb::new("exec");
        let owner = verb.of_sandbox(sandbox);
        assert_eq!(owner, format!("sandpit.v1.node.000000.sbx.{sandbox}.exec"));
        assert_eq!(Asked::read(&owner), Some(Asked { verb: "exec", sandbox: Some(sandbox) }));
        let anybody = verb.subject();
        assert_eq!(Asked::read(&anybody), Some(Asked { verb: "exec", sandbox: None }));
    }

    #[test]
    fn a_template_holds_no_ids() {
        let sandbox = SandboxId::numbered(7);
        let check = |subject: &str, expected: &str| assert_eq!(template(subject), expected);
        let verb = Verb::new("exec");
        check(&verb.subject(), "sandpit.v1.req.exec");
        check(&verb.of_sandbox(sandbox), "sandpit.v1.node.{node}.sbx.{sandbox}.exec");
        check(&verb.of_node(sandbox.node()), "sandpit.v1.node.{node}.exec");
        let out = output(sandbox, ExecId::numbered(3), Stream::Stdout);
        check(&out, "sandpit.v1.out.{sandbox}.{exec}.stdout");
        check("_INBOX.node.7", "{inbox}");
    }

    #[test]
    fn padding_is_heard_where_wildcards_are() {
        assert_eq!(pad(REQUESTS).as_deref(), Some("sandpit.v1.req.pad"));
        assert_eq!(pad("a.sbx.*.*").as_deref(), Some("a.sbx.pad.pad"));
        assert_eq!(pad("a.b"), None);
    }

    #[test]
    fn the_subject_of_output_reads_back() {
        let (sandbox, exec) = (SandboxId::numbered(7), ExecId::numbered(8));
        let written = output(sandbox, exec, Stream::Stderr);
        assert_eq!(read_output(&written), Some((sandbox, exec, Stream::Stderr)));
        assert_eq!(read_output(&outputs(sandbox)), None);
    }

    #[test]
    fn a_foreign_subject_asks_nothing() {
        for subject in ["", "sandpit.v2.req.exec", "sandpit.v1.req", "sandpit.v1.node.n.sbx.x.exec"]
        {
            assert_eq!(Asked::read(subject), None, "{subject}");
        }
    }
}
