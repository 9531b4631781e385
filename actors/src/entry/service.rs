//! What the node offers on the bus, as discovery shows it.

use std::collections::BTreeMap;

use sandpit_messages::id::NodeId;
use sandpit_messages::subject::{self, Verb};
use sandpit_messages::tool::{self, Offered};

use crate::bus::{Endpoint, Service, VerbInfo};

fn info(offered: &Offered, name: Verb, subject: String) -> VerbInfo {
    VerbInfo {
        name: name.to_string(),
        subject,
        request_schema: offered.request.to_string(),
        response_schema: offered.reply.to_string(),
        patience_default: offered.patience.default,
        patience_max: offered.patience.max,
    }
}

/// Everything one node answers.
pub fn service(node: NodeId) -> Service {
    let offered = tool::offered();
    let everywhere = |at: &dyn Fn(Verb) -> String, owned: bool| {
        let mut verbs = Vec::new();
        for one in offered.iter().filter(|one| !owned || one.of_one_sandbox) {
            let also = tool::COMPATIBLE.iter().filter(|(verb, _)| *verb == one.verb.as_str());
            let names = one.tool().map(|tool| tool.name).into_iter();
            let names = names.chain(also.map(|(_, name)| *name));
            for name in std::iter::once(one.verb).chain(names) {
                verbs.push(info(one, name, at(name)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_offered_under_the_name_of_its_tool_too() {
        let service = service(NodeId::of_bits(7));
        let names: Vec<_> = service.endpoints[0].verbs.iter().map(|verb| &*verb.name).collect();
        for name in ["create", "create_e2b_sandbox", "exec", "execute_e2b_process", "pool"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let owned: Vec<_> = service.endpoints[2].verbs.iter().map(|verb| &*verb.subject).collect();
        assert!(owned.iter().any(|subject| subject.ends_with(".sbx.*.exec")), "{owned:?}");
        assert!(!owned.iter().any(|subject| subject.ends_with("create")), "{owned:?}");
    }
}
