//! Lists of sandboxes, page by page.

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::e2b::wire::Timestamp;
use sandpit_sandbox::e2b::wire::control::{SandboxDetail, SandboxState};
use sandpit_sandbox::e2b::wire::header::{NEXT_TOKEN, TOTAL_RUNNING};

use super::super::answer::{self, Plain};
use super::super::{Shared, route};
use super::{detail, template};

/// Most sandboxes on a page.
const PAGE_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    NewestFirst,
    OldestFirst,
}

/// The place in a list after which the next page begins.
type Place = (Timestamp, SandboxId);

/// What is asked for. Valid already.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    metadata: Vec<(String, String)>,
    states: Vec<SandboxState>,
    limit: usize,
    after: Option<Place>,
    started_after: Option<Timestamp>,
    template: Option<String>,
    order: Order,
}

pub(super) async fn list(
    shared: &Arc<Shared>,
    tenant: &Tenant,
    newer: bool,
    uri: &Uri,
) -> Result<Response, Plain> {
    let query = uri.query().unwrap_or_default();
    let mut asked = asked(query)?;
    if !newer {
        // The older route knows no pages and no pauses.
        (asked.states, asked.limit, asked.after) = (vec![SandboxState::Running], usize::MAX, None);
    }
    let held = shared.direct.list(tenant).await?;
    let wanted = match &asked.template {
        None => None,
        Some(name) if name.contains(':') => return Err(Plain::bad("template takes no tag here")),
        // What nobody knows, nothing was made of.
        Some(name) => {
            Some(template(shared, name).map(|known| shared.provider().title(&known)).ok())
        }
    };
    let named = |held: &sandpit_actors::entry::Held| {
        wanted.as_ref().is_none_or(|wanted| wanted.as_deref() == Some(held.template.as_str()))
    };
    let all =
        held.iter().filter(|held| named(held)).map(|held| (held.sandbox, detail(shared, held)));
    let (page, next, running) = asked.page(all.collect());
    let mut response = answer::json(StatusCode::OK, &page);
    let headers = response.headers_mut();
    if newer && let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        headers.insert(HeaderName::from_static(NEXT_TOKEN), next);
    }
    if asked.states.contains(&SandboxState::Running) {
        headers.insert(HeaderName::from_static(TOTAL_RUNNING), running.into());
    }
    Ok(response)
}

fn asked(query: &str) -> Result<Asked, Plain> {
    let value = |key: &str| route::query(query, key).filter(|text| !text.is_empty());
    let wrong = |key: &str, came: &str, expected: &str| {
        Plain::bad(format!("{key} is {came}; expected {expected}"))
    };
    let order = match value("order").as_deref() {
        None | Some("desc") => Order::NewestFirst,
        Some("asc") => Order::OldestFirst,
        Some(came) => return Err(wrong("order", came, "asc or desc")),
    };
    let limit = match value("limit") {
        None => PAGE_MAX,
        Some(text) => match text.parse::<usize>() {
            Ok(limit @ 1..) => limit.min(PAGE_MAX),
            _ => return Err(wrong("limit", &text, "1 to 100")),
        },
    };
    let state = |word: &str| match word {
        "running" => Ok(SandboxState::Running),
        "paused" => Ok(SandboxState::Paused),
        came => Err(wrong("state", came, "running, paused, or both with a comma")),
    };
    let states = value("state").unwrap_or_else(|| "running,paused".to_owned());
    let states = states.split(',').map(state).collect::<Result<_, _>>()?;
    let after = match value("nextToken") {
        None => None,
        Some(text) => {
            let place = read(order, &text);
            Some(place.ok_or_else(|| wrong("nextToken", &text, "one of this list and order"))?)
        }
    };
    let time = |text: String| Timestamp::parse(&text);
    let started_after = value("startedAfter").map(time).transpose();
    let started_after =
        started_after.map_err(|error| Plain::bad(format!("startedAfter: {error}")))?;
    Ok(Asked {
        metadata: metadata(&value("metadata").unwrap_or_default()),
        states,
        limit,
        after,
        started_after,
        template: value("template"),
        order,
    })
}

/// The pairs that all have to be there. They come encoded three times: once as a parameter, which
/// is undone by now; once as a query of its own; once each by themselves.
fn metadata(text: &str) -> Vec<(String, String)> {
    route::pairs(text).map(|(key, value)| (route::decoded(&key), route::decoded(&value))).collect()
}

impl Asked {
    /// One page, what leads to the next, and how many of all run.
    fn page(
        &self,
        mut all: Vec<(SandboxId, SandboxDetail)>,
    ) -> (Vec<SandboxDetail>, Option<String>, usize) {
        all.retain(|(_, detail)| self.wants(detail));
        let running = |(_, detail): &&(_, SandboxDetail)| detail.state == SandboxState::Running;
        let running = all.iter().filter(running).count();
        let place = |(sandbox, detail): &(SandboxId, SandboxDetail)| (detail.started_at, *sandbox);
        all.sort_by_key(place);
        if self.order == Order::NewestFirst {
            all.reverse();
        }
        let follows = |one: &(SandboxId, SandboxDetail)| match (self.after, self.order) {
            (None, _) => true,
            (Some(after), Order::NewestFirst) => place(one) < after,
            (Some(after), Order::OldestFirst) => place(one) > after,
        };
        all.retain(follows);
        let more = all.len() > self.limit;
        all.truncate(self.limit);
        let next = all.last().filter(|_| more).map(|last| written(self.order, place(last)));
        (all.into_iter().map(|(_, detail)| detail).collect(), next, running)
    }

    fn wants(&self, detail: &SandboxDetail) -> bool {
        let empty = Default::default();
        let metadata = detail.metadata.as_ref().unwrap_or(&empty);
        self.states.contains(&detail.state)
            && self.started_after.is_none_or(|after| detail.started_at >= after)
            && self.metadata.iter().all(|(key, value)| metadata.get(key) == Some(value))
    }
}

fn written(order: Order, (started, sandbox): Place) -> String {
    let order = if order == Order::NewestFirst { 'd' } else { 'a' };
    URL_SAFE_NO_PAD.encode(format!("{order}:{}:{sandbox}", started.0))
}

fn read(order: Order, token: &str) -> Option<Place> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let mut words = text.split(':');
    let of = if order == Order::NewestFirst { "d" } else { "a" };
    words.next().filter(|order| *order == of)?;
    Some((Timestamp(words.next()?.parse().ok()?), words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn one(number: u64, state: SandboxState) -> (SandboxId, SandboxDetail) {
        let sandbox = SandboxId::numbered(number);
        let detail = SandboxDetail {
            sandbox_id: sandbox.to_string(),
            template_id: "base".to_owned(),
            client_id: String::new(),
            envd_version: String::new(),
            // Two of them started at once.
            started_at: Timestamp(number / 2),
            end_at: Timestamp(0),
            cpu_count: 1,
            memory_mb: 1,
            disk_size_mb: 1,
            state,
            metadata: Some(BTreeMap::from([("n".to_owned(), number.to_string())])),
            alias: None,
            domain: None,
            envd_access_token: None,
            allow_internet_access: None,
            lifecycle: None,
        };
        (sandbox, detail)
    }

    #[test]
    fn metadata_is_decoded_three_times() {
        let asked =
            asked("metadata=team%3Dal%252520pha%26k%3D%2525C3%2525A9&state=running").unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(asked.metadata, [pair("team", "al pha"), pair("k", "é")]);
        assert_eq!(asked.states, [SandboxState::Running]);
    }

    #[test]
    fn pages_skip_and_repeat_nothing_in_either_order() {
        let all: Vec<_> = (0..7).map(|number| one(number, SandboxState::Running)).collect();
        for order in ["asc", "desc"] {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let asked = asked(&format!("limit=2&order={order}&nextToken={token}")).unwrap();
                let (page, next, running) = asked.page(all.clone());
                assert_eq!(running, 7);
                seen.extend(page.into_iter().map(|detail| detail.sandbox_id));
                let Some(next) = next else { break };
                token = next;
            }
            let mut expected: Vec<_> = all.iter().map(|(id, _)| id.to_string()).collect();
            if order == "desc" {
                expected.reverse();
            }
            assert_eq!(seen, expected, "{order}");
        }
    }

    #[test]
    fn filters_count_and_nonsense_is_refused() {
        let state = |number: u64| match number % 2 {
            0 => SandboxState::Running,
            _ => SandboxState::Paused,
        };
        let all: Vec<_> = (0..4).map(|number| one(number, state(number))).collect();
        let (page, next, running) = asked("metadata=n%3D2").unwrap().page(all.clone());
        assert_eq!((page.len(), next, running), (1, None, 1));
        let (page, _, running) = asked("state=paused&limit=1000").unwrap().page(all);
        assert_eq!((page.len(), running), (2, 0));
        let token = written(Order::NewestFirst, (Timestamp(1), SandboxId::numbered(1)));
        for wrong in
            ["limit=0", "limit=x", "state=dead", "order=up", "nextToken=!", "startedAfter=now"]
        {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
        assert!(asked(&format!("nextToken={token}")).is_ok());
        assert!(asked(&format!("order=asc&nextToken={token}")).is_err());
    }
}
