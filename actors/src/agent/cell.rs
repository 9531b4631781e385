//! What is run in a sandbox for an agent, and what its program answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::agent::{AgentSignal, Program};
use sandpit_messages::exec::Executed;
use sandpit_messages::market::Bar;
use sandpit_messages::refusal::Refusal;
use sandpit_sandbox::provider;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::order::{Code, Order};
use super::policy::{Answer, Said, Work};
use super::programs;
use crate::exec::policy::{Order as ExecOrder, Place};

/// Bytes of an answer. A program that says more has not answered.
const ANSWER_MAX: u32 = 256 * 1024;

/// Finds the stage wherever the worker is, also in one that never saw it. Other code of the
/// sandbox does not find the agents' files on its path.
const PRELUDE: &str = "\
import sys
sys.path.insert(0, '/home/user/.agent')
try:
    import sandpit_stage
finally:
    sys.path.remove('/home/user/.agent')
";

/// The execution that does some work for an agent.
pub(super) fn of(order: &Order, work: &Work, time_max: Duration) -> ExecOrder {
    let agent = order.agent.as_str();
    let (call, params, files) = match work {
        Work::Open { history } => {
            let (module, program) = match &order.code {
                Code::BuiltIn(program) => (Some(programs::entry(*program)), *program),
                Code::Own(_) => (None, Program::Monitor),
            };
            let path = match &order.code {
                Code::BuiltIn(_) => None,
                Code::Own(path) => Some(path),
            };
            let rows = history.iter().map(|bar| row(bar, &order.symbols));
            let params = json!({
                "agent": agent,
                "module": module,
                "path": path,
                "symbols": order.symbols,
                "params": order.params,
                "history": rows.collect::<Vec<_>>(),
            });
            let named = |(name, text): (&str, &'static str)| {
                (format!(".agent/{name}"), Bytes::from_static(text.as_bytes()))
            };
            let files = match order.code {
                Code::BuiltIn(_) => programs::files(program).map(named).collect(),
                Code::Own(_) => programs::stage().map(named).collect(),
            };
            ("begin", params, files)
        }
        Work::Show { bar, cash, equity, shares, report } => {
            let params = json!({
                "agent": agent,
                "bar": row(bar, &order.symbols),
                "cash": cash,
                "equity": equity,
                "shares": shares,
                "report": report,
            });
            ("show", params, BTreeMap::new())
        }
    };
    ExecOrder {
        id: None,
        tenant: order.tenant.clone(),
        place: Place::Held(order.sandbox),
        work: provider::Work::Cell {
            code: format!("{PRELUDE}sandpit_stage.{call}(params)\n"),
            params: Some(params.to_string()),
            context: None,
        },
        files,
        env: BTreeMap::new(),
        cwd: None,
        stdin: Bytes::new(),
        time_max,
        cache: None,
        output_max: ANSWER_MAX,
        stream: false,
    }
}

/// A bar as a program is shown it: its number, its day, and a price per instrument or nothing.
fn row(bar: &Bar, symbols: &[String]) -> Value {
    let closes: Vec<_> = symbols.iter().map(|symbol| bar.closes.get(symbol)).collect();
    json!([bar.seq, bar.day, closes])
}

/// The line a program's stage prints.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The worker never saw this agent.
    #[serde(default)]
    lost: bool,
    /// Why there is no answer.
    #[serde(default)]
    broken: Option<String>,
    #[serde(default)]
    signals: Vec<AgentSignal>,
    #[serde(default)]
    metrics: Option<Map<String, Value>>,
    #[serde(default)]
    notes: Vec<String>,
}

/// What came of an execution.
pub(super) fn answer(result: Result<Arc<Executed>, Refusal>, time_max: Duration) -> Answer {
    let ran = match result {
        Ok(ran) => ran,
        Err(refusal) => return Answer::Refused(refusal),
    };
    let broken = |why: String| Answer::Broken { why };
    if ran.timed_out {
        return broken(format!("its program took longer than {time_max:?} over one bar"));
    }
    if ran.oom_killed {
        return broken("its program ran out of memory".to_owned());
    }
    if let Some(raised) = &ran.error {
        return broken(format!("its program raised {}: {}", raised.name, raised.value));
    }
    if ran.lost || ran.signal.is_some() {
        return Answer::Lost;
    }
    if ran.truncated.stdout {
        return broken(format!("its program said more than {ANSWER_MAX} bytes about one bar"));
    }
    let last = ran.stdout.lines().rev().find(|line| !line.trim().is_empty());
    match serde_json::from_str::<Line>(last.unwrap_or_default()) {
        Ok(Line { lost: true, .. }) => Answer::Lost,
        Ok(Line { broken: Some(why), .. }) => broken(why),
        Ok(Line { signals, metrics, notes, .. }) => {
            Answer::Said(Box::new(Said { signals, metrics, notes }))
        }
        Err(error) => broken(format!("its program's answer cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::cache::tests::result;

    fn check(ran: Executed) -> Answer {
        answer(Ok(Arc::new(ran)), Duration::from_secs(60))
    }

    fn said(stdout: &str) -> Executed {
        (*result(0, stdout)).clone()
    }

    #[test]
    fn the_last_line_is_the_answer() {
        let line = r#"{"signals": [{"symbol": "KO", "action": "buy", "qty": 3}], "notes": ["n"]}"#;
        let Answer::Said(heard) = check(said(&format!("chatter\n{line}\n\n"))) else { panic!() };
        assert_eq!((heard.signals[0].qty, heard.notes.len()), (3, 1));
        assert_eq!(check(said(r#"{"lost": true}"#)), Answer::Lost);
        for bad in ["", "nonsense", r#"{"signals": [{"symbol": "KO"}]}"#, r#"{"broken": "why"}"#] {
            assert!(matches!(check(said(bad)), Answer::Broken { .. }), "{bad}");
        }
    }

    #[test]
    fn a_killed_worker_is_lost_and_a_killed_program_is_broken() {
        assert_eq!(check(Executed { signal: Some(9), ..said("") }), Answer::Lost);
        assert_eq!(check(Executed { lost: true, ..said("") }), Answer::Lost);
        for killed in [
            Executed { timed_out: true, signal: Some(9), ..said("") },
            Executed { oom_killed: true, signal: Some(9), ..said("") },
        ] {
            assert!(matches!(check(killed), Answer::Broken { .. }));
        }
    }
}
