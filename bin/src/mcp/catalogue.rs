//! The tools as they are listed. What a tool takes and answers is read off its message types, so
//! that nothing here can differ from what the node does.

use std::sync::Arc;

use rmcp::model::{JsonObject, MetaObject, Tool as Listed, ToolAnnotations};
use sandpit_messages::tool::{self, Effect, Offered, Tool};
use serde_json::{Value, json};

/// One tool and the verb behind it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) tool: &'static Tool,
    pub(super) offered: &'static Offered,
    listed: Listed,
}

/// Every tool that the node answers.
#[derive(Clone, Debug)]
pub(super) struct Catalogue(Vec<Known>);

impl Catalogue {
    pub(super) fn new() -> Self {
        let known = tool::TOOLS.iter().filter_map(|tool| {
            let offered = tool::offered().iter().find(|one| one.verb.as_str() == tool.verb)?;
            Some(Known { tool, offered, listed: listed(tool, offered) })
        });
        Self(known.collect())
    }

    pub(super) fn listed(&self) -> Vec<Listed> {
        self.0.iter().map(|known| known.listed.clone()).collect()
    }

    /// The tool that a caller means by a name, listed or not.
    pub(super) fn named(&self, name: &str) -> Option<&Known> {
        let meant = Tool::named(name)?;
        self.0.iter().find(|known| known.tool == meant)
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|known| known.tool.name.as_str()).collect()
    }
}

fn listed(tool: &Tool, offered: &Offered) -> Listed {
    let hints = ToolAnnotations::with_title(tool.title)
        .read_only(tool.effect == Effect::Reads)
        .destructive(tool.effect == Effect::Destroys)
        .idempotent(tool.idempotent)
        .open_world(false);
    let meta = json!({
        "cost": tool.weight.cost,
        "latency": tool.weight.latency,
        // No provider of this version has one.
        "gpu_capable": false,
    });
    Listed::new(tool.name.as_str(), tool.about, Arc::new(offered.arguments(tool)))
        .with_title(tool.title)
        .with_raw_output_schema(Arc::new(object(offered.reply.clone())))
        .with_annotations(hints)
        .with_meta(MetaObject(object(meta)))
}

pub(super) fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(fields) => fields,
        _ => JsonObject::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_listed_with_all_it_takes_and_answers() {
        let catalogue = Catalogue::new();
        let known = catalogue.named("execute_e2b_process").unwrap();
        assert_eq!(catalogue.named("sandbox_execute").unwrap().tool, known.tool);
        for listed in catalogue.listed() {
            assert_eq!(listed.input_schema["type"], "object", "{}", listed.name);
            let output = listed.output_schema.expect("an output schema");
            assert_eq!(output["type"], "object", "{}", listed.name);
            let hints = listed.annotations.expect("hints");
            let reads = hints.read_only_hint.unwrap();
            assert!(!(reads && hints.destructive_hint.unwrap()), "{}", listed.name);
            assert!(listed.meta.unwrap().contains_key("latency"));
        }
    }
}
