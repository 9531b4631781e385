//! What can be read: sandboxes, executions, templates, logs.

use std::fmt::Write as _;

use rmcp::ErrorData;
use rmcp::model::{
    CompleteResult, CompletionInfo, ReadResourceResult, Resource, ResourceContents,
    ResourceTemplate,
};
use sandpit_actors::bus::AskError;
use serde_json::{Value, json};

use super::call::relay;
use super::{Face, answer};

/// Most suggestions of one completion, as the protocol bounds them.
const SUGGESTIONS_MAX: usize = 100;
/// Sandboxes that are read at once.
const LIST_MAX: u32 = 1_000;
/// Bytes of one part of an output.
const PART_MAX: usize = 64 * 1024;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// What is always there.
const ALWAYS: [(&str, &str, &str); 4] = [
    ("sandpit://sandboxes", "sandboxes", "Your sandboxes that run or ended within the last hour."),
    ("sandpit://executions", "executions", "The last executions through this connection's server."),
    (
        "sandpit://templates",
        "templates",
        "What sandboxes can be made from, and how many are ready.",
    ),
    ("sandpit://pool", "pool", "What is kept ready, what was cached, what was reaped."),
];

pub(super) fn templates() -> Vec<ResourceTemplate> {
    let template = |uri: &str, name: &str, about: &str, kind: &str| {
        ResourceTemplate::new(uri, name).with_description(about).with_mime_type(kind)
    };
    vec![
        template("sandpit://sandbox/{sandbox_id}", "sandbox", "How a sandbox is.", JSON),
        template(
            "sandpit://sandbox/{sandbox_id}/logs",
            "logs",
            "What the last executions in a sandbox wrote.",
            TEXT,
        ),
        template(
            "sandpit://exec/{execution_id}/{stream}",
            "output",
            "`stdout` or `stderr` of an execution, kept for 10 minutes; `?offset=` reads on.",
            TEXT,
        ),
    ]
}

impl Face {
    pub(super) fn resources(&self) -> Vec<Resource> {
        let always = ALWAYS.iter().map(|(uri, name, about)| {
            Resource::new(*uri, *name).with_description(*about).with_mime_type(JSON)
        });
        let now = self.now();
        let mut kept = self.kept();
        let outputs = kept.all(now).map(|written| {
            let uri = format!("sandpit://exec/{}/stdout", written.execution);
            let size = written.stdout.len() as u64;
            Resource::new(uri, format!("output of {}", written.execution))
                .with_mime_type(TEXT)
                .with_size(size)
        });
        always.chain(outputs).collect()
    }

    /// # Errors
    /// If there is no such resource, or the node does not answer.
    pub(super) async fn read(&self, uri: &str) -> Result<ReadResourceResult, ErrorData> {
        let missing = || {
            let message = format!("there is no resource {uri}");
            ErrorData::resource_not_found(message, Some(json!({ "uri": uri })))
        };
        let path = uri.strip_prefix("sandpit://").ok_or_else(missing)?;
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let words: Vec<&str> = path.split('/').collect();
        let value = match words[..] {
            ["sandboxes"] => {
                self.looked("list_e2b_sandboxes", &json!({ "limit": LIST_MAX })).await?
            }
            ["executions"] => self.executions(),
            ["pool"] => self.looked("pool", &json!({})).await?,
            ["templates"] => {
                let pool = self.looked("pool", &json!({})).await?;
                json!({ "templates": pool["templates"] })
            }
            ["sandbox", sandbox] => {
                let arguments = json!({ "sandbox_id": sandbox });
                self.looked("get_e2b_sandbox_status", &arguments).await?
            }
            ["sandbox", sandbox, "logs"] => {
                let text = self.logs(sandbox);
                // Silence of a sandbox that is not there would be an invention.
                if text.is_empty() {
                    let arguments = json!({ "sandbox_id": sandbox });
                    self.looked("get_e2b_sandbox_status", &arguments).await?;
                }
                return Ok(text_of(text, uri));
            }
            ["exec", execution, stream @ ("stdout" | "stderr")] => {
                let offset = match query.split_once('=') {
                    Some(("offset", offset)) => offset.parse().map_err(|_| missing())?,
                    Some(_) => return Err(missing()),
                    None => 0,
                };
                let part = self.part(execution, stream, offset).ok_or_else(missing)?;
                return Ok(text_of(part, uri));
            }
            _ => return Err(missing()),
        };
        let contents = ResourceContents::text(value.to_string(), uri).with_mime_type(JSON);
        Ok(ReadResourceResult::new(vec![contents]))
    }

    async fn looked(&self, verb: &str, arguments: &Value) -> Result<Value, ErrorData> {
        let client = self.client().await.map_err(|error| failed(&error))?;
        relay(client, verb, arguments).await.map_err(|error| failed(&error))
    }

    fn executions(&self) -> Value {
        let now = self.now();
        let mut kept = self.kept();
        let all: Vec<_> = kept
            .all(now)
            .map(|written| {
                json!({
                    "execution_id": written.execution,
                    "sandbox_id": written.sandbox,
                    "exit_code": written.exit_code,
                    "stdout_bytes": written.stdout.len(),
                    "stderr_bytes": written.stderr.len(),
                })
            })
            .collect();
        json!({ "executions": all })
    }

    /// Oldest first, as one reads a log.
    fn logs(&self, sandbox: &str) -> String {
        let now = self.now();
        let mut kept = self.kept();
        let mut all: Vec<_> = kept.all(now).filter(|written| written.sandbox == sandbox).collect();
        all.reverse();
        let mut text = String::new();
        for written in all {
            // Writing to text does not fail.
            let _ = writeln!(text, "== {} ended with {}", written.execution, written.exit_code);
            for (name, stream) in [("out", &written.stdout), ("err", &written.stderr)] {
                for line in stream.lines() {
                    let _ = writeln!(text, "{name} | {line}");
                }
            }
        }
        text
    }

    fn part(&self, execution: &str, stream: &str, offset: usize) -> Option<String> {
        let now = self.now();
        let mut kept = self.kept();
        let written = kept.find(now, execution)?;
        let text = if stream == "stdout" { &written.stdout } else { &written.stderr };
        let rest = text.get(offset..)?;
        Some(rest[..rest.floor_char_boundary(PART_MAX)].to_owned())
    }

    /// Suggests ids and templates.
    pub(super) async fn completed(
        &self,
        argument: &str,
        begun: &str,
    ) -> Result<CompleteResult, ErrorData> {
        let (verb, list, field) = match argument {
            "sandbox_id" => ("list_e2b_sandboxes", "sandboxes", "sandbox_id"),
            "template" => ("pool", "templates", "template"),
            _ => return Ok(CompleteResult::default()),
        };
        let found = self.looked(verb, &json!({})).await?;
        let words = found[list].as_array().into_iter().flatten();
        let words =
            words.filter_map(|one| one[field].as_str()).filter(|one| one.starts_with(begun));
        let words: Vec<_> = words.take(SUGGESTIONS_MAX).map(str::to_owned).collect();
        let info = CompletionInfo::new(words);
        Ok(CompleteResult::new(info.map_err(|why| ErrorData::internal_error(why, None))?))
    }
}

fn text_of(text: String, uri: &str) -> ReadResourceResult {
    ReadResourceResult::new(vec![ResourceContents::text(text, uri)])
}

fn failed(error: &AskError) -> ErrorData {
    let problem = answer::problem_of(error);
    let data = serde_json::to_value(&problem).ok();
    match problem.code {
        404 | 410 => ErrorData::resource_not_found(problem.message, data),
        400 => ErrorData::invalid_params(problem.message, data),
        _ => ErrorData::internal_error(problem.message, data),
    }
}
