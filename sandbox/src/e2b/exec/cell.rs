//! Cells: one request, and lines of JSON until the end of its answer.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::{Method, Response};
use sandpit_messages::id::SandboxId;

use super::{Cut, Ended, Run};
use crate::ProviderError;
use crate::e2b::Cloud;
use crate::e2b::http::{broken, garbled, json, send, whole};
use crate::e2b::known::Remote;
use crate::e2b::wire::interpreter::{Execute, Line, Shown as Told};
use crate::e2b::wire::{INTERPRETER_PORT, ndjson};
use crate::provider::contexts::{ContextId, Media, Shown, TEXT};
use crate::provider::{ExecEvent, KilledBy, Outcome};

/// What an interpreter that died is called.
const DIED: &str = "KernelDied";
/// What one is called that needed more memory than there is.
const OUT_OF_MEMORY: &str = "OutOfMemory";
/// What one is called that was begun anew under the cell.
const RESTARTING: &str = "ContextRestarting";

impl Cloud {
    /// Begins a cell.
    pub(super) async fn execute(
        &self,
        sandbox: SandboxId,
        remote: &Remote,
        code: &str,
        context: Option<&ContextId>,
        env: BTreeMap<String, String>,
    ) -> Result<Response, ProviderError> {
        let body = Execute {
            code: code.to_owned(),
            context_id: context.map(|id| id.0.clone()),
            language: None,
            env_vars: Some(env).filter(|env| !env.is_empty()),
        };
        let request = self.data(remote, INTERPRETER_PORT, Method::POST, "/execute");
        let response = send(json(request, &body)).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let answer = whole(response).await?;
        match (answer.status, context) {
            (404, Some(context)) => Err(ProviderError::NoSuchContext(context.clone())),
            _ => Err(self.noted(sandbox, answer.fault(Some(sandbox)))),
        }
    }

    /// Puts `params` where the cell finds it.
    pub(super) async fn set_params(
        &self,
        sandbox: SandboxId,
        remote: &Remote,
        params: &str,
        context: Option<&ContextId>,
    ) -> Result<(), ProviderError> {
        // What JSON writes as text Python reads as the same text: characters beyond ASCII stay
        // themselves, and every escape that is left means the same to both.
        let text = serde_json::to_string(params).expect("text can be written");
        let code = format!("import json as _json\nparams = _json.loads({text})\ndel _json");
        let response = self.execute(sandbox, remote, &code, context, BTreeMap::new()).await?;
        let answer = whole(response).await?;
        let mut lines = answer.body.split(|byte| *byte == b'\n');
        let failed =
            lines.any(|line| matches!(serde_json::from_slice(line), Ok(Line::Error { .. })));
        if failed {
            Err(ProviderError::Refused { why: "params are no JSON".to_owned() })
        } else {
            Ok(())
        }
    }
}

impl Run {
    /// Reads a cell to its end, or cuts it: closing the connection is the interrupt.
    pub(super) async fn cell(mut self, mut response: Response) {
        let mut decoder = ndjson::Decoder::default();
        let mut outcome = None;
        let ended = loop {
            match decoder.pull() {
                Ok(Some(line)) => match serde_json::from_slice(&line) {
                    Ok(Line::EndOfExecution) => {
                        break outcome.unwrap_or(Ended::cleanly(Outcome::Ok));
                    }
                    Ok(line) => {
                        if let Some(cut) = self.heard(line, &mut outcome).await {
                            break ended_by(cut);
                        }
                        continue;
                    }
                    Err(error) => {
                        let error = garbled(error.to_string());
                        tracing::warn!(%error, "the answer to a cell");
                        break Ended::lost();
                    }
                },
                Ok(None) => (),
                Err(error) => {
                    tracing::warn!(%error, "the answer to a cell");
                    break Ended::lost();
                }
            }
            tokio::select! {
                piece = response.chunk() => match piece {
                    Ok(Some(bytes)) => decoder.push(&bytes),
                    // Without its last line the sandbox ended under it.
                    Ok(None) => break outcome.unwrap_or(Ended::lost()),
                    Err(error) => {
                        let error = broken(&error);
                        tracing::debug!(%error, "the answer to a cell broke off");
                        break Ended::lost();
                    }
                },
                cut = self.cut() => break ended_by(cut),
            }
        };
        drop(response);
        self.end(ended).await;
    }

    /// One line of the answer.
    async fn heard(&mut self, line: Line, outcome: &mut Option<Ended>) -> Option<Cut> {
        match line {
            Line::Stdout(output) => {
                let more = self.wrote(Bytes::from(output.text), true).await;
                return (!more).then_some(Cut::TooMuch);
            }
            Line::Stderr(output) => {
                let more = self.wrote(Bytes::from(output.text), false).await;
                return (!more).then_some(Cut::TooMuch);
            }
            Line::Result(told) => self.tell(ExecEvent::Shown(shown(*told))).await,
            Line::Error { name, value, traceback } => {
                let fresh = |outcome| Ended { outcome, context_kept: false, sandbox_usable: true };
                *outcome = Some(match name.as_str() {
                    OUT_OF_MEMORY => fresh(Outcome::Killed(KilledBy::Memory)),
                    DIED | RESTARTING => fresh(Outcome::Lost),
                    _ => Ended::cleanly(Outcome::Raised),
                });
                if outcome.as_ref().is_some_and(|ended| ended.outcome == Outcome::Raised) {
                    self.tell(ExecEvent::Raised { name, value, traceback }).await;
                }
            }
            Line::NumberOfExecutions { execution_count } => {
                // The API does not say which process it is.
                self.tell(ExecEvent::Started { pid: 0, count: Some(execution_count) }).await;
            }
            Line::Keepalive | Line::EndOfExecution | Line::Unknown => (),
        }
        None
    }
}

/// A cell that was cut: its context begins anew.
const fn ended_by(cut: Cut) -> Ended {
    Ended { outcome: cut.outcome(), context_kept: false, sandbox_usable: true }
}

/// What a cell shows, by media type.
fn shown(told: Told) -> Shown {
    let mut data = BTreeMap::new();
    let texts = [
        (TEXT, told.text),
        ("text/html", told.html),
        ("text/markdown", told.markdown),
        ("image/svg+xml", told.svg),
        ("text/latex", told.latex),
        ("application/javascript", told.javascript),
        ("application/json", told.json.map(|json| json.to_string())),
    ];
    for (media, text) in texts {
        if let Some(text) = text {
            data.insert(media.to_owned(), Media::Text(text));
        }
    }
    let images =
        [("image/png", told.png), ("image/jpeg", told.jpeg), ("application/pdf", told.pdf)];
    for (media, text) in images {
        // What is no base64 is passed on as it came.
        let media = media.to_owned();
        match text.map(|text| STANDARD.decode(text.replace('\n', "")).map_err(|_| text)) {
            Some(Ok(bytes)) => drop(data.insert(media, Media::Bytes(bytes.into()))),
            Some(Err(text)) => drop(data.insert(media, Media::Text(text))),
            None => (),
        }
    }
    Shown { is_main: told.is_main_result, data }
}
