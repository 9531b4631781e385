//! The conversation about running code.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{ExecId, SandboxId};
use crate::subject::{Patience, Replay, Request, Verb};

/// "Run this." One of `code` and `command`; one of `sandbox_id` and `template`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Exec {
    /// In this sandbox, which is the caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<SandboxId>,
    /// In a sandbox of this template that nobody used before and nobody will use again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// What the run is to be called, so that it can be cancelled before its answer came; without
    /// it, an id is made. No other run under way may have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecId>,
    /// A Python cell, at most 256 KiB. State is kept between the cells of one sandbox; the value
    /// of a last expression is the `result`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What `code` is written in; without it Python. Only Python keeps its state between runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// A program if `args` are given, else a line for `/bin/sh -c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Arguments of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// What a cell finds in its variable `params`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<serde_json::Value>,
    /// Files written below `/home/user` before it runs, name to text: 64 files, 256 KiB in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Environment of this run alone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Where it runs; without it `/home/user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What a command reads from its standard input, at most 256 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Seconds it may take, 1 to 3600; without it 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// Says that the run depends on nothing but what is declared here, so that an equal one may
    /// answer for it. Only with `template`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Bytes of each stream in the answer, at most and without it 262144.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u32>,
    /// False leaves the output out of the answer and only publishes it; without it true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture_output: Option<bool>,
    /// Publishes the output while it runs on `sandpit.v1.out.<sandbox>.<execution>.<stream>`.
    pub stream: bool,
}

/// What code is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Language {
    /// A cell of the sandbox's warm interpreter.
    Python,
    /// Lines for `/bin/sh`.
    Sh,
    /// A script for `node`, in templates that have it.
    Node,
}

/// How old an answer from the cache may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(inline)]
pub struct Cache {
    /// Seconds, 1 to 300.
    pub max_age_s: u32,
}

impl Default for Cache {
    fn default() -> Self {
        Self { max_age_s: 300 }
    }
}

/// An exception that the code did not catch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Raised {
    /// Its class.
    pub name: String,
    /// Its text.
    pub value: String,
    /// The traceback, frames of the caller's code only.
    pub traceback: String,
}

/// Which streams were longer than the answer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Truncated {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// What came of it. A program that failed is a result, not a problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Executed {
    /// This execution.
    pub execution_id: ExecId,
    /// The sandbox it ran in.
    pub sandbox_id: SandboxId,
    /// Its process inside the sandbox, as text.
    pub process_id: String,
    /// The program's own; 1 for a cell that raised; 128 + n if signal n ended it; 124 if the time
    /// limit did.
    pub exit_code: i32,
    /// What it wrote, cut at the bound, bytes that are no UTF-8 replaced.
    pub stdout: String,
    /// The same of standard error.
    pub stderr: String,
    /// The representation of a cell's last expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What a cell raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Raised>,
    /// Seconds it took.
    pub execution_time: f64,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The time limit ended it.
    #[serde(default)]
    pub timed_out: bool,
    /// The memory limit ended it.
    #[serde(default)]
    pub oom_killed: bool,
    /// The sandbox ended under it.
    #[serde(default)]
    pub lost: bool,
    /// Which streams were cut.
    #[serde(default)]
    pub truncated: Truncated,
    /// Whether variables of earlier cells are still there. False after a cell was killed.
    pub context_kept: bool,
    /// Processor time in milliseconds.
    pub cpu_ms: f64,
    /// Most memory at once in MiB, of the process that ran it.
    pub max_rss_mb: f64,
    /// Processes it left running.
    #[serde(default)]
    pub survivors: u32,
    /// Another run answered for it.
    #[serde(default)]
    pub cached: bool,
    /// How long ago that run ended, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// That run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_exec_id: Option<ExecId>,
}

impl Request for Exec {
    type Reply = Executed;
    const VERB: Verb = Verb::new("exec");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::RUN;
}

/// "Stop that run."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancel {
    /// The sandbox it runs in.
    pub sandbox_id: SandboxId,
    /// The execution.
    pub execution_id: ExecId,
}

/// What was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancelled {
    /// Whether it was running.
    pub was_running: bool,
}

impl Request for Cancel {
    type Reply = Cancelled;
    const VERB: Verb = Verb::new("cancel");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}
