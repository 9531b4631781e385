//! What a service tells whoever discovers it (ADR-32), and what it counted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Service;

/// What one verb of one endpoint was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    requests: u64,
    errors: u64,
    last_error: String,
    took: Duration,
}

impl Counted {
    /// One request, answered.
    pub(super) fn add(&mut self, took: Duration, error: Option<String>) {
        self.requests += 1;
        self.took += took;
        if let Some(error) = error {
            self.errors += 1;
            self.last_error = error;
        }
    }
}

/// Which of the three questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Ping,
    Info,
    Stats,
}

impl About {
    pub(super) const ALL: [Self; 3] = [Self::Ping, Self::Info, Self::Stats];

    /// As the subject says it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::Stats => "STATS",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Ping => "io.nats.micro.v1.ping_response",
            Self::Info => "io.nats.micro.v1.info_response",
            Self::Stats => "io.nats.micro.v1.stats_response",
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    r#type: &'static str,
    name: &'a str,
    id: &'a str,
    version: &'a str,
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<Endpoint<'a>>>,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Schemas<'a>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    counted: Option<Numbers<'a>>,
}

#[derive(Serialize)]
struct Schemas<'a> {
    request_schema: &'a str,
    response_schema: &'a str,
}

/// Times are nanoseconds, as ADR-32 has them.
#[derive(Serialize)]
struct Numbers<'a> {
    num_requests: u64,
    num_errors: u64,
    last_error: &'a str,
    processing_time: u64,
    average_processing_time: u64,
}

/// The answer to one of the three, as JSON. `counted` has a row for each endpoint, and in it one
/// for each verb, in the order of `service`.
pub(super) fn answer(
    about: About,
    service: &Service,
    id: &str,
    started: &str,
    counted: &[Vec<Counted>],
) -> Vec<u8> {
    let endpoints = || {
        let rows = service.endpoints.iter().zip(counted);
        rows.flat_map(|(endpoint, row)| {
            endpoint.verbs.iter().zip(row).map(move |one| (endpoint, one))
        })
        .map(|(endpoint, (verb, counted))| Endpoint {
            name: &verb.name,
            subject: &verb.subject,
            queue_group: endpoint.group.as_deref().unwrap_or_default(),
            metadata: (about == About::Info).then_some(Schemas {
                request_schema: &verb.request_schema,
                response_schema: &verb.response_schema,
            }),
            counted: (about == About::Stats).then(|| numbers(counted)),
        })
        .collect()
    };
    let answer = Answer {
        r#type: about.kind(),
        name: &service.name,
        id,
        version: &service.version,
        metadata: &service.metadata,
        description: (about == About::Info).then_some(&service.description),
        started: (about == About::Stats).then_some(started),
        endpoints: (about != About::Ping).then(endpoints),
    };
    serde_json::to_vec(&answer).expect("texts and numbers")
}

fn numbers(counted: &Counted) -> Numbers<'_> {
    let nanos = u64::try_from(counted.took.as_nanos()).unwrap_or(u64::MAX);
    Numbers {
        num_requests: counted.requests,
        num_errors: counted.errors,
        last_error: &counted.last_error,
        processing_time: nanos,
        average_processing_time: nanos.checked_div(counted.requests).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, VerbInfo};
    use super::*;

    fn service() -> Service {
        let verb = VerbInfo {
            name: "create".to_owned(),
            subject: "shop.req.create".to_owned(),
            request_schema: "{\"type\":\"object\"}".to_owned(),
            response_schema: "{}".to_owned(),
            patience_default: Duration::from_secs(1),
            patience_max: Duration::from_secs(2),
        };
        let endpoint = Endpoint {
            subject: "shop.req.*".to_owned(),
            group: Some("entry".to_owned()),
            verbs: vec![verb],
        };
        Service {
            name: "sandpit".to_owned(),
            version: "0.1.0".to_owned(),
            description: "Sandboxes.".to_owned(),
            metadata: BTreeMap::new(),
            endpoints: vec![endpoint],
        }
    }

    fn told(about: About, counted: Counted) -> serde_json::Value {
        let bytes = answer(about, &service(), "id", "2026-11-23T14:18:53.007Z", &[vec![counted]]);
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn the_three_answers_have_the_form_that_tools_read() {
        let common = serde_json::json!({
            "name": "sandpit", "id": "id", "version": "0.1.0", "metadata": {},
        });
        let mut ping = common.clone();
        ping["type"] = "io.nats.micro.v1.ping_response".into();
        assert_eq!(told(About::Ping, Counted::default()), ping);

        let mut info = common.clone();
        info["type"] = "io.nats.micro.v1.info_response".into();
        info["description"] = "Sandboxes.".into();
        info["endpoints"] = serde_json::json!([{
            "name": "create", "subject": "shop.req.create", "queue_group": "entry",
            "metadata": { "request_schema": "{\"type\":\"object\"}", "response_schema": "{}" },
        }]);
        assert_eq!(told(About::Info, Counted::default()), info);

        let mut counted = Counted::default();
        counted.add(Duration::from_nanos(10), None);
        counted.add(Duration::from_nanos(20), Some("503:busy".to_owned()));
        let mut stats = common;
        stats["type"] = "io.nats.micro.v1.stats_response".into();
        stats["started"] = "2026-11-23T14:18:53.007Z".into();
        stats["endpoints"] = serde_json::json!([{
            "name": "create", "subject": "shop.req.create", "queue_group": "entry",
            "num_requests": 2, "num_errors": 1, "last_error": "503:busy",
            "processing_time": 30, "average_processing_time": 15,
        }]);
        assert_eq!(told(About::Stats, counted), stats);
    }
}
