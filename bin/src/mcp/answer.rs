//! What a call is answered with: a result as data and as text, or a problem that a model can read
//! and act on.

use rmcp::model::{CallToolResult, ContentBlock, MetaObject, Resource};
use sandpit_actors::bus::AskError;
use sandpit_messages::problem::{Detail, Problem};
use serde_json::{Map, Value};

use super::catalogue::object;

/// Bytes of each output stream in an answer: what a model reads at once. The rest is a resource.
pub(super) const STREAM_MAX: usize = 64 * 1024;
/// Where a problem is found by programs.
const PROBLEM: &str = "sandpit/error";
/// What says that a program did not come to its own end.
const KILLED: [&str; 3] = ["timed_out", "oom_killed", "lost"];

/// A result. `links` leads to what it does not hold.
pub(super) fn result(value: Value, line: String, links: Vec<Resource>) -> CallToolResult {
    let killed = KILLED.iter().any(|name| value[*name] == Value::Bool(true));
    let mut content = vec![ContentBlock::text(value.to_string()), ContentBlock::text(line)];
    content.extend(links.into_iter().map(ContentBlock::resource_link));
    let mut result =
        if killed { CallToolResult::error(content) } else { CallToolResult::success(content) };
    result.structured_content = Some(value);
    result
}

/// A problem. It has no structured content: clients would check it against the output schema.
pub(super) fn problem(problem: &Problem) -> CallToolResult {
    let value = serde_json::to_value(problem).unwrap_or_default();
    let line = sentence(problem);
    let content = vec![ContentBlock::text(value.to_string()), ContentBlock::text(line)];
    let meta = MetaObject(Map::from_iter([(PROBLEM.to_owned(), value)]));
    CallToolResult::error(content).with_meta(Some(meta))
}

fn sentence(problem: &Problem) -> String {
    let Problem { kind, message, detail, .. } = problem;
    let mut line = format!("{kind}: {message}");
    if let Some(next) = detail.next.first() {
        line.push_str(&format!(" ({next})"));
    }
    line
}

/// Whatever kept a question from being answered, as the record that travels.
pub(super) fn problem_of(error: &AskError) -> Problem {
    let (kind, code, retry_after_ms, next) = match error {
        AskError::Refused(problem) => return (**problem).clone(),
        AskError::NoResponders(_) | AskError::NotSent(_) => {
            ("unsettled", 503, Some(1_000), "start a node with `sandpit up`, then ask again")
        }
        AskError::Interrupted | AskError::TimedOut(_) => {
            ("timeout", 408, None, "look with list or status before asking again")
        }
        AskError::Undecodable(_) => ("internal", 500, None, "the node and this program differ"),
    };
    Problem {
        kind: kind.to_owned(),
        code,
        message: error.to_string(),
        ran: error.ran(),
        retry_after_ms,
        detail: Detail { next: vec![next.to_owned()], ..Detail::default() },
        trace_id: None,
    }
}

/// One line for people.
pub(super) fn line(verb: &str, value: &Value) -> String {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let list = |name: &str| value[name].as_array().map_or(0, Vec::len);
    match verb {
        "create" => format!("sandbox {} runs until {}", text("sandbox_id"), text("expires_at")),
        "exec" => format!(
            "exit code {} after {} s",
            value["exit_code"],
            value["execution_time"].as_f64().unwrap_or_default()
        ),
        "list" => format!("{} of {} sandboxes", list("sandboxes"), value["total_count"]),
        "status" => format!("sandbox {} is {}", text("sandbox_id"), text("status")),
        "terminate" => text("message"),
        "agent" => {
            format!("{} {} after {}", text("agent_type"), text("status"), text("execution_time"))
        }
        _ => told(value),
    }
}

/// The plain fields of an answer, for verbs that need no sentence of their own.
fn told(value: &Value) -> String {
    let fields = object(value.clone());
    let plain = fields.iter().filter(|(_, value)| !value.is_object() && !value.is_array());
    let parts: Vec<_> = plain
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name} {text}"),
            other => format!("{name} {other}"),
        })
        .collect();
    parts.join(", ")
}

/// Cuts what a program wrote to what a model reads at once; hands back what it was.
pub(super) fn cut(value: &mut Value, stream: &'static str) -> Option<String> {
    let text = value[stream].as_str().filter(|text| text.len() > STREAM_MAX)?.to_owned();
    let shown = text[..text.floor_char_boundary(STREAM_MAX)].to_owned();
    value[stream] = shown.into();
    value["truncated"][stream] = true.into();
    Some(text)
}

#[cfg(test)]
mod tests {
    use sandpit_messages::refusal::Refusal;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_program_that_failed_is_a_result_and_one_that_was_killed_is_an_error_with_it() {
        let failed = result(json!({ "exit_code": 1 }), String::new(), Vec::new());
        assert_eq!((failed.is_error, failed.structured_content.is_some()), (Some(false), true));
        let killed = json!({ "exit_code": 124, "timed_out": true });
        let killed = result(killed, String::new(), Vec::new());
        assert_eq!((killed.is_error, killed.structured_content.is_some()), (Some(true), true));
    }

    #[test]
    fn a_problem_is_an_error_that_holds_no_result() {
        let refused = problem(&Refusal::Quota { max: 1, setting: "pool.total_max" }.problem());
        assert_eq!((refused.is_error, refused.structured_content), (Some(true), None));
        assert_eq!(refused.meta.unwrap()[PROBLEM]["kind"], "quota_exceeded");
        let first = refused.content[0].as_text().unwrap();
        let read: Problem = serde_json::from_str(&first.text).unwrap();
        assert_eq!(read.code, 429);
    }

    #[test]
    fn a_long_output_is_cut_at_a_whole_character() {
        let mut value = json!({ "stdout": "é".repeat(STREAM_MAX), "truncated": {} });
        let whole = cut(&mut value, "stdout").unwrap();
        assert_eq!(whole.len(), 2 * STREAM_MAX);
        assert_eq!(value["stdout"].as_str().unwrap().len(), STREAM_MAX);
        assert_eq!(value["truncated"]["stdout"], true);
        assert_eq!(cut(&mut value, "stdout"), None);
    }
}
