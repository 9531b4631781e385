//! What the node offers on the bus, as discovery shows it.

use std::collections::BTreeMap;

use sandpit_messages::agent::{GetFills, HaltAgent, RunAgent};
use sandpit_messages::deployment::{Deploy, GetDeployments, Scale, Undeploy};
use sandpit_messages::exec::{Cancel, Exec};
use sandpit_messages::health::GetHealth;
use sandpit_messages::id::NodeId;
use sandpit_messages::market::{GetBars, StartReplay};
use sandpit_messages::pool::GetPool;
use sandpit_messages::sandbox::{Create, GetStatus, List, Terminate};
use sandpit_messages::subject::{self, Request, Verb};
use sandpit_messages::swarm::{
    DeployAgent, GetSwarmHealth, GetSwarmMetrics, GetSwarmStatus, InitSwarm, RunSwarm, ScaleSwarm,
    StopSwarm,
};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::bus::{Endpoint, Service, VerbInfo};

/// The names under which a tool's users know its verb.
const TOOLS: [(&str, Verb); 17] = [
    ("create", Verb::new("create_e2b_sandbox")),
    ("exec", Verb::new("execute_e2b_process")),
    ("list", Verb::new("list_e2b_sandboxes")),
    ("status", Verb::new("get_e2b_sandbox_status")),
    ("terminate", Verb::new("terminate_e2b_sandbox")),
    ("health", Verb::new("monitor_e2b_health")),
    ("swarm-init", Verb::new("init_e2b_swarm")),
    ("swarm-deploy", Verb::new("deploy_trading_agent")),
    ("swarm-status", Verb::new("get_swarm_status")),
    ("swarm-scale", Verb::new("scale_swarm")),
    ("swarm-run", Verb::new("execute_swarm_strategy")),
    ("swarm-health", Verb::new("monitor_swarm_health")),
    ("swarm-metrics", Verb::new("get_swarm_metrics")),
    ("swarm-stop", Verb::new("shutdown_swarm")),
    ("deploy", Verb::new("deploy_e2b_template")),
    ("scale", Verb::new("scale_e2b_deployment")),
    ("agent", Verb::new("run_e2b_agent")),
];

/// The verb that a word stands for: itself, or the one whose tool it names.
pub(super) fn verb_of(word: &str) -> &str {
    TOOLS.iter().find(|(_, tool)| tool.as_str() == word).map_or(word, |(verb, _)| verb)
}

/// One verb before it is known where it is asked.
struct Offered {
    verb: Verb,
    request_schema: String,
    response_schema: String,
    patience: subject::Patience,
    of_one_sandbox: bool,
}

impl Offered {
    fn of<R>(of_one_sandbox: bool) -> Self
    where
        R: Request + JsonSchema,
        R::Reply: JsonSchema,
    {
        Self {
            verb: R::VERB,
            request_schema: schema::<R>(),
            response_schema: schema::<R::Reply>(),
            patience: R::PATIENCE,
            of_one_sandbox,
        }
    }

    fn info(&self, name: Verb, subject: String) -> VerbInfo {
        VerbInfo {
            name: name.to_string(),
            subject,
            request_schema: self.request_schema.clone(),
            response_schema: self.response_schema.clone(),
            patience_default: self.patience.default,
            patience_max: self.patience.max,
        }
    }
}

/// Everything one node answers.
pub fn service(node: NodeId) -> Service {
    let offered = [
        Offered::of::<Create>(false),
        Offered::of::<Exec>(true),
        Offered::of::<List>(false),
        Offered::of::<GetStatus>(true),
        Offered::of::<Terminate>(true),
        Offered::of::<Cancel>(true),
        Offered::of::<RunAgent>(true),
        Offered::of::<HaltAgent>(false),
        Offered::of::<GetFills>(false),
        Offered::of::<StartReplay>(false),
        Offered::of::<GetBars>(false),
        Offered::of::<GetPool>(false),
        Offered::of::<GetHealth>(false),
        Offered::of::<InitSwarm>(false),
        Offered::of::<DeployAgent>(false),
        Offered::of::<GetSwarmStatus>(false),
        Offered::of::<ScaleSwarm>(false),
        Offered::of::<RunSwarm>(false),
        Offered::of::<GetSwarmHealth>(false),
        Offered::of::<GetSwarmMetrics>(false),
        Offered::of::<StopSwarm>(false),
        Offered::of::<Deploy>(false),
        Offered::of::<Scale>(false),
        Offered::of::<Undeploy>(false),
        Offered::of::<GetDeployments>(false),
    ];
    let everywhere = |at: &dyn Fn(Verb) -> String, owned: bool| {
        let mut verbs = Vec::new();
        for one in offered.iter().filter(|one| !owned || one.of_one_sandbox) {
            let tool = TOOLS.iter().find(|(verb, _)| *verb == one.verb.as_str());
            for name in [Some(one.verb), tool.map(|(_, name)| *name)].into_iter().flatten() {
                verbs.push(one.info(name, at(name)));
            }
        }
        verbs
    };
    let endpoints = vec![
        Endpoint {
            subject: subject::REQUESTS.to_owned(),
            group: Some(subject::ENTRY_GROUP.to_owned()),
            verbs: everywhere(&Verb::subject, false),
        },
        Endpoint {
            subject: subject::node_requests(node),
            group: None,
            verbs: everywhere(&|verb| verb.of_node(node), false),
        },
        Endpoint {
            subject: subject::sandbox_requests(node),
            group: None,
            verbs: everywhere(&|verb| verb.of_sandboxes(node), true),
        },
    ];
    Service {
        name: "sandpit".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        description: "Isolated places to run code, ready before they are asked for.".to_owned(),
        metadata: BTreeMap::from([("node".to_owned(), node.to_string())]),
        endpoints,
    }
}

/// A JSON Schema without references and without formats that only some languages know.
fn schema<T: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    drop_formats(&mut schema);
    schema.to_string()
}

fn drop_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // A field may be called so too; a format is a word.
            if fields.get("format").is_some_and(Value::is_string) {
                fields.remove("format");
            }
            fields.values_mut().for_each(drop_formats);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_formats),
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_offered_under_the_name_of_its_tool_too() {
        let service = service(NodeId::of_bits(7));
        let names: Vec<_> = service.endpoints[0].verbs.iter().map(|verb| &*verb.name).collect();
        for name in ["create", "create_e2b_sandbox", "exec", "execute_e2b_process", "pool"] {
            assert!(names.contains(&name), "{names:?}");
            assert!(["create", "exec", "pool"].contains(&verb_of(name)));
        }
        let owned: Vec<_> = service.endpoints[2].verbs.iter().map(|verb| &*verb.subject).collect();
        assert!(owned.iter().any(|subject| subject.ends_with(".sbx.*.exec")), "{owned:?}");
        assert!(!owned.iter().any(|subject| subject.ends_with("create")), "{owned:?}");
    }

    #[test]
    fn schemas_are_whole_and_plain() {
        for endpoint in service(NodeId::of_bits(7)).endpoints {
            for verb in endpoint.verbs {
                for text in [verb.request_schema, verb.response_schema] {
                    let schema: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(schema["type"], "object", "{}", verb.name);
                    assert!(!text.contains("$ref") && !text.contains("\"format\""), "{text}");
                }
            }
        }
    }
}
