//! Messages of the code interpreter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::time::Timestamp;

/// Body of `POST /execute`. One SDK sends null for what is absent, the other leaves it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execute {
    /// What to run.
    pub code: String,
    /// Where; without it in the default context of its language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_id: Option<String>,
    /// In which language, if no context says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Environment of this run alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// It begins: the first line.
    NumberOfExecutions {
        /// How many there were in this context, this one among them.
        execution_count: u64,
    },
    /// It wrote to standard output.
    Stdout(Output),
    /// It wrote to standard error.
    Stderr(Output),
    /// It shows something.
    Result(Box<Shown>),
    /// It raised.
    Error {
        /// Class of the exception.
        #[serde(default)]
        name: String,
        /// Its text.
        #[serde(default)]
        value: String,
        /// Where, in one text.
        #[serde(default)]
        traceback: String,
    },
    /// It is silent, and the stream lives.
    Keepalive,
    /// It ended: the last line.
    EndOfExecution,
    /// A line of a kind that is not known here.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// What a cell wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The text.
    #[serde(default)]
    pub text: String,
    /// When.
    #[serde(default)]
    pub timestamp: Timestamp,
}

/// What a cell shows: one thing in one or more representations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is named after its media type")]
pub struct Shown {
    /// Whether it is the value of the last expression.
    #[serde(default)]
    pub is_main_result: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub markdown: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub svg: Option<String>,
    /// In base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub png: Option<String>,
    /// In base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jpeg: Option<String>,
    /// In base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pdf: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub javascript: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chart: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Value>,
}

/// Body of `POST /contexts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewContext {
    /// `python` unless asked otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Where it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// An interpreter with variables of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its id.
    pub id: String,
    /// What it understands.
    #[serde(default)]
    pub language: String,
    /// Where it started.
    #[serde(default)]
    pub cwd: String,
}
