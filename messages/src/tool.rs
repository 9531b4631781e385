//! The tools as assistants know them: their names, what they are for, and what they may do. A tool
//! is a verb under the name that callers of the older tool set use; it has no meaning of its own.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::schema;
use crate::subject::{Patience, Replay, Request, Verb};
use schemars::JsonSchema;

/// What a caller may expect of a tool (the letters R, D and I).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only looks.
    Reads,
    /// It makes or changes something, and destroys nothing.
    Adds,
    /// It may destroy something.
    Destroys,
}

/// What a call costs or how long it takes, as an assistant weighs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// `low`, `medium`, `high` or `very_high`.
    pub cost: &'static str,
    /// `fast`, `medium` or `slow`.
    pub latency: &'static str,
}

/// One tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The verb that does it.
    pub verb: &'static str,
    /// Its own name.
    pub name: Verb,
    /// A few words for people.
    pub title: &'static str,
    /// What it does, for whoever chooses among tools.
    pub about: &'static str,
    /// What it may do.
    pub effect: Effect,
    /// Whether calling it again with the same arguments changes nothing more.
    pub idempotent: bool,
    /// What it costs.
    pub weight: Weight,
    /// Arguments that the tool demands although its verb does not.
    pub demands: &'static [&'static str],
}

const fn weight(cost: &'static str, latency: &'static str) -> Weight {
    Weight { cost, latency }
}

/// Every tool, in the order in which they are listed.
pub const TOOLS: [Tool; 18] = [
    Tool {
        verb: "create",
        name: Verb::new("create_e2b_sandbox"),
        title: "Create a sandbox",
        about: "Gives you an isolated sandbox of your own, ready to run code. Answers when the \
                sandbox has answered a probe. Keep the sandbox_id: every other call needs it. \
                End it with terminate_e2b_sandbox; otherwise it ends after `timeout` seconds.",
        effect: Effect::Adds,
        idempotent: false,
        weight: weight("high", "medium"),
        demands: &["name"],
    },
    Tool {
        verb: "exec",
        name: Verb::new("execute_e2b_process"),
        title: "Run code or a command in a sandbox",
        about: "Runs `command` (a shell line, or a program if `args` are given) or `code` (a \
                Python cell whose variables later cells see) in a sandbox and answers with exit \
                code and output. A program that fails is a result, not an error.",
        effect: Effect::Destroys,
        idempotent: false,
        weight: weight("medium", "medium"),
        demands: &["sandbox_id"],
    },
    Tool {
        verb: "list",
        name: Verb::new("list_e2b_sandboxes"),
        title: "List sandboxes",
        about: "Lists your sandboxes: those that run and those that ended within the last hour.",
        effect: Effect::Reads,
        idempotent: true,
        weight: weight("low", "fast"),
        demands: &[],
    },
    Tool {
        verb: "status",
        name: Verb::new("get_e2b_sandbox_status"),
        title: "Look at a sandbox",
        about: "Says how one sandbox is: state, uptime, memory, processor, files, executions.",
        effect: Effect::Reads,
        idempotent: true,
        weight: weight("low", "fast"),
        demands: &[],
    },
    Tool {
        verb: "terminate",
        name: Verb::new("terminate_e2b_sandbox"),
        title: "End a sandbox",
        about: "Ends a sandbox with everything in it. Answers `terminated` only when nothing of \
                it is left.",
        effect: Effect::Destroys,
        idempotent: true,
        weight: weight("low", "fast"),
        demands: &[],
    },
    Tool {
        verb: "agent",
        name: Verb::new("run_e2b_agent"),
        title: "Run a trading agent",
        about: "Runs a trading agent on paper in a sandbox: a real program on real market data. \
                Answers with its signals and measures, or `running` if it is not done after \
                `wait` seconds.",
        effect: Effect::Destroys,
        idempotent: false,
        weight: weight("high", "slow"),
        demands: &[],
    },
    Tool {
        verb: "deploy",
        name: Verb::new("deploy_e2b_template"),
        title: "Deploy a template",
        about: "Builds a template, or takes the one that exists, and starts sandboxes from it.",
        effect: Effect::Adds,
        idempotent: false,
        weight: weight("high", "medium"),
        demands: &[],
    },
    Tool {
        verb: "scale",
        name: Verb::new("scale_e2b_deployment"),
        title: "Scale a deployment",
        about: "Brings a deployment to so many instances. Going down drains idle ones first.",
        effect: Effect::Destroys,
        idempotent: true,
        weight: weight("very_high", "slow"),
        demands: &[],
    },
    Tool {
        verb: "health",
        name: Verb::new("monitor_e2b_health"),
        title: "Look at the health of everything",
        about: "Counts sandboxes and measures processor, memory, latency and errors. What was not \
                measured is absent.",
        effect: Effect::Reads,
        idempotent: true,
        weight: weight("low", "fast"),
        demands: &[],
    },
    Tool {
        verb: "export",
        name: Verb::new("export_e2b_template"),
        title: "Export a sandbox as a template",
        about: "Writes a template from a sandbox: its configuration, packages and files, and data \
                only if asked. Sandboxes can be created from it here and on other nodes.",
        effect: Effect::Adds,
        idempotent: false,
        weight: weight("medium", "medium"),
        demands: &[],
    },
    Tool {
        verb: "swarm-init",
        name: Verb::new("init_e2b_swarm"),
        title: "Begin a swarm",
        about: "Records a swarm of trading agents with its topology and strategy. No agent is \
                started by it.",
        effect: Effect::Adds,
        idempotent: false,
        weight: weight("high", "medium"),
        demands: &[],
    },
    Tool {
        verb: "swarm-deploy",
        name: Verb::new("deploy_trading_agent"),
        title: "Add an agent to a swarm",
        about: "Starts a trading agent of a swarm in a sandbox of its own.",
        effect: Effect::Adds,
        idempotent: false,
        weight: weight("medium", "medium"),
        demands: &[],
    },
    Tool {
        verb: "swarm-status",
        name: Verb::new("get_swarm_status"),
        title: "Look at a swarm",
        about: "Says how a swarm and its agents are.",
        effect: Effect::Reads,
        idempotent: true,
        weight: weight("low", "fast"),
        demands: &[],
    },
    Tool {
        verb: "swarm-scale",
        name: Verb::new("scale_swarm"),
        title: "Scale a swarm",
        about: "Brings a swarm to so many agents, all at once or step by step.",
        effect: Effect::Destroys,
        idempotent: true,
        weight: weight("medium", "medium"),
        demands: &[],
    },
    Tool {
        verb: "swarm-run",
        name: Verb::new("execute_swarm_strategy"),
        title: "Run a strategy on a swarm",
        about: "Has the agents of a swarm run a strategy, in parallel or one after the other, and \
                answers with what came of it.",
        effect: Effect::Adds,
        idempotent: false,
        weight: weight("high", "slow"),
        demands: &[],
    },
    Tool {
        verb: "swarm-health",
        name: Verb::new("monitor_swarm_health"),
        title: "Look at the health of a swarm",
        about: "Compares a swarm with the thresholds of `alerts`. Each one passed is an alert.",
        effect: Effect::Reads,
        idempotent: true,
        weight: weight("low", "fast"),
        demands: &[],
    },
    Tool {
        verb: "swarm-metrics",
        name: Verb::new("get_swarm_metrics"),
        title: "Measure a swarm",
        about: "Latency, throughput, errors and results of a swarm over a time. What was not \
                measured is absent.",
        effect: Effect::Reads,
        idempotent: true,
        weight: weight("low", "fast"),
        demands: &[],
    },
    Tool {
        verb: "swarm-stop",
        name: Verb::new("shutdown_swarm"),
        title: "End a swarm",
        about: "Stops every agent of a swarm and ends their sandboxes. Answers `stopped` only \
                when every sandbox is gone.",
        effect: Effect::Destroys,
        idempotent: true,
        weight: weight("low", "medium"),
        demands: &[],
    },
];

/// Further names that older scripts use for a tool. They are answered and not listed.
pub const COMPATIBLE: [(&str, Verb); 1] = [("exec", Verb::new("sandbox_execute"))];

impl Tool {
    /// The tool of this name, listed or not.
    pub fn named(name: &str) -> Option<&'static Self> {
        let verb = COMPATIBLE.iter().find(|(_, also)| also.as_str() == name).map(|(verb, _)| *verb);
        TOOLS.iter().find(|tool| tool.name.as_str() == name || Some(tool.verb) == verb)
    }

    /// The tool that this verb does, if one does.
    pub fn of_verb(verb: &str) -> Option<&'static Self> {
        TOOLS.iter().find(|tool| tool.verb == verb)
    }
}

/// One verb as its messages describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// The verb.
    pub verb: Verb,
    /// JSON Schema of its arguments.
    pub request: Value,
    /// JSON Schema of its reply.
    pub reply: Value,
    /// What to do when the answer is lost.
    pub replay: Replay,
    /// How long it may take.
    pub patience: Patience,
    /// Whether it is also asked of the owner of one sandbox.
    pub of_one_sandbox: bool,
}

impl Offered {
    fn of<R>(of_one_sandbox: bool) -> Self
    where
        R: Request + JsonSchema,
        R::Reply: JsonSchema,
    {
        Self {
            verb: R::VERB,
            request: schema::of::<R>(),
            reply: schema::of::<R::Reply>(),
            replay: R::REPLAY,
            patience: R::PATIENCE,
            of_one_sandbox,
        }
    }

    /// The tool it is, if it is one.
    pub fn tool(&self) -> Option<&'static Tool> {
        Tool::of_verb(self.verb.as_str())
    }

    /// The schema of the tool's arguments: those of the verb, what the tool demands, and the key
    /// that makes a repeat safe. Ids carry no pattern, because a sandbox's name is taken too.
    pub fn arguments(&self, tool: &Tool) -> Map<String, Value> {
        let mut schema = match &self.request {
            Value::Object(schema) => schema.clone(),
            _ => Map::new(),
        };
        if let Some(Value::Object(fields)) = schema.get_mut("properties") {
            if let Some(Value::Object(field)) = fields.get_mut("sandbox_id") {
                field.remove("pattern");
            }
            if takes_key(self.verb, self.replay) {
                fields.insert(KEY.to_owned(), key_schema());
            }
        }
        if !tool.demands.is_empty() {
            let required = schema.entry("required").or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(required) = required {
                let missing: Vec<_> = tool.demands.iter().map(|name| Value::from(*name)).collect();
                for name in missing {
                    if !required.contains(&name) {
                        required.push(name);
                    }
                }
            }
        }
        schema
    }
}

/// The argument that carries an idempotency key, for callers who cannot set headers.
pub const KEY: &str = "idempotency_key";

/// Whether a verb takes an idempotency key: whatever makes or changes something does.
pub fn takes_key(verb: Verb, replay: Replay) -> bool {
    let changes = Tool::of_verb(verb.as_str()).is_some_and(|tool| tool.effect != Effect::Reads);
    changes || replay == Replay::WithKey
}

fn key_schema() -> Value {
    serde_json::json!({
        "type": "string",
        "pattern": "^[A-Za-z0-9_-]{16,64}$",
        "description": "Makes repeating the call safe: the same key with the same arguments gets \
                        the first answer again. 16 to 64 of A-Z, a-z, 0-9, `_` and `-`.",
    })
}

/// Every verb a node answers. The schemas are made once.
pub fn offered() -> &'static [Offered] {
    use crate::{agent, deployment, exec, health, market, pool, sandbox, swarm, template};
    static OFFERED: LazyLock<Vec<Offered>> = LazyLock::new(|| {
        vec![
            Offered::of::<sandbox::Create>(false),
            Offered::of::<exec::Exec>(true),
            Offered::of::<sandbox::List>(false),
            Offered::of::<sandbox::GetStatus>(true),
            Offered::of::<sandbox::Terminate>(true),
            Offered::of::<exec::Cancel>(true),
            Offered::of::<agent::RunAgent>(true),
            Offered::of::<agent::HaltAgent>(false),
            Offered::of::<agent::GetFills>(false),
            Offered::of::<market::StartReplay>(false),
            Offered::of::<market::GetBars>(false),
            Offered::of::<template::Export>(true),
            Offered::of::<template::TemplateList>(false),
            Offered::of::<template::TemplateGet>(false),
            Offered::of::<template::TemplateImport>(false),
            Offered::of::<deployment::Deploy>(false),
            Offered::of::<deployment::Scale>(false),
            Offered::of::<deployment::Undeploy>(false),
            Offered::of::<deployment::GetDeployments>(false),
            Offered::of::<health::GetHealth>(false),
            Offered::of::<swarm::InitSwarm>(false),
            Offered::of::<swarm::DeployAgent>(false),
            Offered::of::<swarm::GetSwarmStatus>(false),
            Offered::of::<swarm::ScaleSwarm>(false),
            Offered::of::<swarm::RunSwarm>(false),
            Offered::of::<swarm::GetSwarmHealth>(false),
            Offered::of::<swarm::GetSwarmMetrics>(false),
            Offered::of::<swarm::StopSwarm>(false),
            Offered::of::<pool::GetPool>(false),
        ]
    });
    &OFFERED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_used_once() {
        let names = TOOLS.iter().map(|tool| tool.name.as_str());
        let names = names.chain(COMPATIBLE.iter().map(|(_, name)| name.as_str()));
        let verbs = TOOLS.iter().map(|tool| tool.verb);
        let mut all: Vec<_> = names.chain(verbs).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn schemas_are_whole_and_plain() {
        for offered in offered() {
            for schema in [&offered.request, &offered.reply] {
                let text = schema.to_string();
                assert_eq!(schema["type"], "object", "{}", offered.verb);
                assert!(!text.contains("$ref") && !text.contains("\"format\""), "{text}");
                assert!(!text.contains("\"additionalProperties\":false"), "{text}");
            }
        }
    }

    #[test]
    fn a_tool_demands_what_its_contract_demands() {
        let offered = offered();
        let exec = offered.iter().find(|one| one.verb.as_str() == "exec").unwrap();
        let arguments = exec.arguments(exec.tool().unwrap());
        assert_eq!(arguments["required"], serde_json::json!(["sandbox_id"]));
        assert!(arguments["properties"].get(KEY).is_some());
        assert!(arguments["properties"]["sandbox_id"].get("pattern").is_none());
    }
}
