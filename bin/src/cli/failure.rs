//! What a person is told when something did not work: what failed, why, what was tried, what to
//! do next, and the trace to look at.

use sandpit_actors::bus::AskError;
use sandpit_config::Rejected;
use sandpit_messages::problem::{Detail, Problem};
use serde::Serialize;

use super::exit::Exit;
use super::out::{self, Out};

/// Something did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the program ends with.
    pub exit: Exit,
    /// What is told about it.
    pub told: Box<Told>,
}

/// What is told about a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// One word for programs: a kind of the protocol, or one of ours.
    pub kind: String,
    /// What failed, in the user's terms.
    pub what: String,
    /// Why, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// What was tried before giving up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
    /// What to do: commands, or one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// The trace it is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

impl Failure {
    /// With what failed and nothing else yet.
    pub fn new(exit: Exit, kind: &str, what: impl Into<String>) -> Self {
        let told = Told { kind: kind.to_owned(), what: what.into(), ..Told::default() };
        Self { exit, told: Box::new(told) }
    }

    /// Adds a cause.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.told.why.push(why.into());
        self
    }

    /// Adds an error and all that caused it, each once.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            self.told.why.push(error.to_string());
            cause = error.source();
        }
        self
    }

    /// Adds a way on.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.told.next.push(next.into());
        self
    }

    /// A request was wrong before it was sent.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "invalid_argument", what)
    }

    /// There is nobody to ask.
    pub fn no_node(why: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, "no_node", "no node answers")
            .because(why)
            .next("sandpit up")
            .next("sandpit demo")
    }

    /// Something was asked on the bus, and the answer was no, or there was none.
    pub fn of_ask(what: impl Into<String>, error: &AskError) -> Self {
        match error {
            AskError::Refused(problem) => Self::of_problem(what, problem),
            AskError::NoResponders(_) => {
                let mut failure = Self::no_node(error.to_string());
                failure.told.what = what.into();
                failure
            }
            AskError::NotSent(_) | AskError::Interrupted | AskError::TimedOut(_) => {
                Self::new(Exit::Unavailable, "unavailable", what)
                    .caused_by(error)
                    .next("sandpit pool")
            }
            AskError::Undecodable(_) => Self::new(Exit::Failed, "internal", what).caused_by(error),
        }
    }

    fn of_problem(what: impl Into<String>, problem: &Problem) -> Self {
        let exit = match problem.code {
            400 | 413 | 428 | 501 => Exit::Usage,
            404 | 410 => Exit::NotFound,
            401 | 403 => Exit::Denied,
            409 => Exit::Conflict,
            402 => Exit::Quota,
            429 if problem.retry_after_ms.is_none() => Exit::Quota,
            408 | 429 | 503 => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let Detail { field, expected, tried, next, .. } = &problem.detail;
        let mut failure = Self::new(exit, &problem.kind, what).because(problem.message.clone());
        // A refusal of a field already says what was expected of it.
        if let (Some(field), Some(expected)) = (field, expected)
            && !problem.message.contains(expected.as_str())
        {
            failure = failure.because(format!("{field}: expected {expected}"));
        }
        if let Some(after) = problem.retry_after_ms {
            failure = failure.next(format!("ask again in {after} ms"));
        }
        failure.told.tried.clone_from(tried);
        failure.told.next.extend(next.iter().cloned());
        failure.told.trace.clone_from(&problem.trace_id);
        failure
    }

    /// The configuration is none.
    pub fn of_settings(rejected: &Rejected) -> Self {
        let mut failure = Self::new(Exit::Usage, "invalid_setting", "the settings cannot be used");
        failure.told.why = rejected.faults.iter().map(ToString::to_string).collect();
        failure.next("sandpit config check")
    }

    /// Tells whoever asked, on standard error.
    pub fn tell(&self, out: Out) {
        if out.json {
            let mut document = serde_json::to_value(&self.told).expect("a map of plain values");
            document["schema"] = "sandpit.error/1".into();
            document["exit"] = self.exit.number().into();
            out::note(&document.to_string());
        } else {
            out::note(&self.text());
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let Told { kind, what, why, tried, next, trace } = &*self.told;
        let mut text = format!("error[{kind}]: {what}");
        let mut add = |name: &str, lines: &[String]| {
            for (at, line) in lines.iter().enumerate() {
                let name = if at == 0 { format!("{name}:") } else { String::new() };
                text.push_str(&format!("\n  {name:<6} {line}"));
            }
        };
        add("why", why);
        add("tried", tried);
        if !next.is_empty() {
            add("next", &[next.join("   ·   ")]);
        }
        if let Some(trace) = trace {
            add("trace", std::slice::from_ref(trace));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sandpit_messages::refusal::Refusal;

    use super::*;

    fn of(refusal: &Refusal) -> Failure {
        let mut problem = refusal.problem();
        problem.trace_id = Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
        Failure::of_ask("no sandbox was created", &AskError::Refused(Box::new(problem)))
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let text = of(&Refusal::Quota { max: 64, setting: "pool.total_max" }).text();
        let expected = "error[quota_exceeded]: no sandbox was created
  why:   64 sandboxes are alive, which is the most allowed at once
  next:  terminate a sandbox that is not needed   ·   raise pool.total_max
  trace: 4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(text, expected);
    }

    #[test]
    fn each_kind_of_refusal_has_its_exit_code() {
        let check = |refusal: Refusal, exit| assert_eq!(of(&refusal).exit, exit, "{refusal}");
        check(Refusal::UnknownVerb { verb: "x".to_owned() }, Exit::Usage);
        check(Refusal::KeyReused, Exit::Conflict);
        check(Refusal::Quota { max: 1, setting: "s" }, Exit::Quota);
        check(Refusal::Draining, Exit::Unavailable);
        check(Refusal::WaitedTooLong { waited: Duration::ZERO }, Exit::Unavailable);
        check(Refusal::Fault, Exit::Failed);
        let template = "x".to_owned();
        check(Refusal::NoSuchTemplate { template, known: Vec::new() }, Exit::NotFound);
    }

    #[test]
    fn without_a_node_the_way_to_one_is_named() {
        let failure = Failure::of_ask("x", &AskError::NoResponders("s".to_owned()));
        assert_eq!(
            (failure.exit, failure.told.next[0].as_str()),
            (Exit::Unavailable, "sandpit up")
        );
    }
}
