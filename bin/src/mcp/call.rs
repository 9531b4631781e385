//! One call of a tool: asked on the bus, told about while it takes, and stopped if it is wanted no
//! more.

use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use rmcp::model::{CallToolResult, JsonObject, ProgressNotificationParam, ProgressToken, Resource};
use rmcp::{Peer, RoleServer};
use sandpit_actors::bus::{AskError, Feed, Message};
use sandpit_messages::agent::HaltAgent;
use sandpit_messages::codec::Codec;
use sandpit_messages::exec::Cancel;
use sandpit_messages::id::{AgentId, ExecId, RequestId};
use sandpit_messages::progress::Progress;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::subject::{self, Patience, Request};
use sandpit_messages::tool::{self, Effect};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::answer;
use super::catalogue::Known;
use super::kept::Written;
use super::pace::{Pace, Report};
use super::{Asked, Face, UnderWay};
use crate::client::{Client, Relayed};

/// Where a caller puts an idempotency key beside the arguments.
const KEY: &str = "sandpit/idempotency-key";
/// Added to what a run may take for the way there and back, and the wait for its sandbox.
const WAY: Duration = Duration::from_secs(10);
/// What an execution may take if it does not say.
const RUN_DEFAULT: Duration = Duration::from_secs(60);
/// Reports on the way. Each is small, and one that is lost is followed by a further one.
const REPORTS_MAX: usize = 256;
/// Longest a call that was given up waits to hear that its work stopped.
const STOP_MAX: Duration = Duration::from_secs(5);
/// How often stopping is tried meanwhile: the work may not have begun when it is first tried.
const STOP_EVERY: Duration = Duration::from_millis(50);

type Asking = JoinHandle<Result<Value, AskError>>;

/// What is known of a call while it is under way.
struct Work<'a> {
    client: &'a Client,
    verb: &'static str,
    /// The run, if it is one.
    exec: Option<ExecId>,
    /// The agent, if it is one.
    agent: Option<AgentId>,
    /// Where it runs, as the caller wrote it.
    sandbox: Option<Value>,
}

impl Face {
    pub(super) async fn call(
        &self,
        known: &Known,
        arguments: JsonObject,
        context: Asked,
    ) -> CallToolResult {
        let _under_way = self.begin();
        let name = known.tool.name.as_str();
        let span = tracing::info_span!(
            "mcp",
            otel.name = format!("mcp {name}"),
            otel.kind = "server",
            mcp.tool = name,
        );
        let asked = self.ask(known, arguments, &context).instrument(span).await;
        match asked {
            Ok(value) => self.answered(known.tool.verb, value),
            Err(error) => answer::problem(&answer::problem_of(&error)),
        }
    }

    async fn ask(
        &self,
        known: &Known,
        mut arguments: JsonObject,
        context: &Asked,
    ) -> Result<Value, AskError> {
        let client = self.client().await?;
        let (tool, offered) = (known.tool, known.offered);
        let token = context.meta.get_progress_token();
        if let Some(key) = context.meta.get(KEY)
            && tool::takes_key(offered.verb, offered.replay)
        {
            arguments.entry(tool::KEY).or_insert_with(|| key.clone());
        }
        let exec: Option<ExecId> = match tool.verb {
            "exec" => named(&mut arguments, "execution_id", ExecId::minted(rand::random())),
            _ => None,
        };
        let agent: Option<AgentId> = match tool.verb {
            "agent" => named(&mut arguments, "agent_id", AgentId::minted(rand::random())),
            _ => None,
        };
        if exec.is_some() && token.is_some() && !arguments.contains_key("cache") {
            arguments.entry("stream").or_insert(Value::Bool(true));
        }
        let sandbox = argument(&arguments, "sandboxid").cloned();
        let request = RequestId::minted(rand::random());
        let feed = match (&token, exec) {
            (None, _) => None,
            (Some(_), Some(exec)) => Some(subject::outputs_of(exec)),
            (Some(_), None) => Some(subject::progress(request)),
        };
        let feed = match feed {
            // Without it there is less to tell, and nothing less to do.
            Some(subject) => client.bus().listen(&subject, REPORTS_MAX).await.ok(),
            None => None,
        };
        let relayed = Relayed {
            verb: tool.name,
            replay: offered.replay,
            patience: patience(tool.verb, tool.effect, offered.patience, &arguments),
            key: None,
            request,
        };
        let asking = {
            let (client, arguments) = (client.clone(), Value::Object(arguments));
            let asking = async move { client.relay(relayed, &arguments).await };
            tokio::spawn(asking.in_current_span())
        };
        let work = Work { client, verb: tool.verb, exec, agent, sandbox };
        let told = token.map(|token| (token, context.peer.clone()));
        self.attend(work, asking, feed, told, context).await
    }

    /// Waits for the answer, tells how far it is, and stops the work if nobody wants it any more.
    async fn attend(
        &self,
        work: Work<'_>,
        mut asking: Asking,
        mut feed: Option<Feed>,
        told: Option<(ProgressToken, Peer<RoleServer>)>,
        context: &Asked,
    ) -> Result<Value, AskError> {
        let mut pace = Pace::new(self.now(), "asked");
        let mut closing = self.0.closing.subscribe();
        // The value it watches is a lock that is not to be held over a wait.
        let mut closed = pin!(async { drop(closing.wait_for(|closing| *closing).await) });
        loop {
            let due = self.0.line.clock.instant(pace.next());
            tokio::select! {
                answer = &mut asking => {
                    if let Some(told) = &told {
                        let last = Report { message: ended(&answer), ..pace.last().clone() };
                        pace.reached(last);
                        tell(told, pace.tell(self.now())).await;
                    }
                    return answer.unwrap_or(Err(AskError::Interrupted));
                }
                () = context.ct.cancelled() => break,
                () = &mut closed => break,
                Some(message) = next(&mut feed), if feed.is_some() => {
                    hear(&mut pace, &message, work.exec.is_some());
                }
                () = tokio::time::sleep_until(due), if told.is_some() => {
                    if let (Some(told), Some(report)) = (&told, pace.due(self.now())) {
                        tell(told, report).await;
                    }
                }
            }
        }
        work.stop(asking, self.begin()).await;
        Err(AskError::Refused(Box::new(Refusal::Cancelled.problem())))
    }

    fn answered(&self, verb: &'static str, mut value: Value) -> CallToolResult {
        let line = answer::line(verb, &value);
        let mut links = Vec::new();
        if verb == "exec" {
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            let written = Written {
                execution: text("execution_id"),
                sandbox: text("sandbox_id"),
                exit_code: value["exit_code"].as_i64().unwrap_or_default(),
                stdout: text("stdout"),
                stderr: text("stderr"),
            };
            for stream in ["stdout", "stderr"] {
                if let Some(whole) = answer::cut(&mut value, stream) {
                    let uri = format!("sandpit://exec/{}/{stream}", written.execution);
                    let size = whole.len() as u64;
                    links.push(Resource::new(uri, stream).with_size(size));
                }
            }
            self.kept().keep(self.now(), written);
        }
        answer::result(value, line, links)
    }
}

impl Work<'_> {
    /// Ends what was asked for, and waits until it has.
    async fn stop(self, mut asking: Asking, under_way: UnderWay) {
        let cancel = self.cancel();
        match (self.verb, cancel) {
            (_, Some((verb, arguments))) => {
                let stop = async {
                    loop {
                        if let Err(error) = relay(self.client, verb, &arguments).await {
                            tracing::debug!(%error, verb, "not stopped yet");
                        }
                        if tokio::time::timeout(STOP_EVERY, &mut asking).await.is_ok() {
                            return;
                        }
                    }
                };
                if tokio::time::timeout(STOP_MAX, stop).await.is_err() {
                    tracing::warn!(verb, "what was given up still runs");
                }
            }
            // A sandbox that is made for nobody is ended as soon as it is there.
            ("create", None) => {
                let client = self.client.clone();
                tokio::spawn(async move {
                    if let Ok(Ok(created)) = asking.await {
                        let sandbox = json!({ "sandbox_id": created["sandbox_id"] });
                        let ended = relay(&client, "terminate_e2b_sandbox", &sandbox).await;
                        if let Err(error) = ended {
                            tracing::warn!(%error, "a sandbox nobody wanted ends by itself");
                        }
                    }
                    drop(under_way);
                });
            }
            // What was begun goes on to its own end, which a look at it shows.
            _ => (),
        }
    }

    /// The request that ends what was asked for, where one does.
    fn cancel(&self) -> Option<(&'static str, Value)> {
        if let Some(agent) = self.agent {
            return Some((HaltAgent::VERB.as_str(), json!({ "agent_id": agent })));
        }
        let mut arguments = json!({ "execution_id": self.exec? });
        if let Some(sandbox) = &self.sandbox {
            arguments["sandbox_id"] = sandbox.clone();
        }
        Some((Cancel::VERB.as_str(), arguments))
    }
}

/// Asks what a tool does, without telling anybody about it.
pub(super) async fn relay(
    client: &Client,
    name: &str,
    arguments: &Value,
) -> Result<Value, AskError> {
    let verb = tool::Tool::named(name).map_or(name, |tool| tool.verb);
    let Some(offered) = tool::offered().iter().find(|one| one.verb.as_str() == verb) else {
        return Err(AskError::Refused(Box::new(
            Refusal::UnknownVerb { verb: verb.to_owned() }.problem(),
        )));
    };
    let relayed = Relayed {
        verb: offered.verb,
        replay: offered.replay,
        patience: offered.patience.default,
        key: None,
        request: RequestId::minted(rand::random()),
    };
    client.relay(relayed, arguments).await
}

/// The id under which work can be stopped: the caller's own, or the one that was made for it.
fn named<T>(arguments: &mut JsonObject, name: &str, made: T) -> Option<T>
where
    T: FromStr + ToString,
{
    match argument(arguments, &name.replace('_', "")) {
        Some(Value::String(own)) => own.parse().ok(),
        Some(_) => None,
        None => {
            arguments.insert(name.to_owned(), made.to_string().into());
            Some(made)
        }
    }
}

/// An argument under any of its spellings.
fn argument<'a>(arguments: &'a Map<String, Value>, folded: &str) -> Option<&'a Value> {
    let is_it = |key: &str| key.replace('_', "").eq_ignore_ascii_case(folded);
    arguments.iter().find(|(key, _)| is_it(key)).map(|(_, value)| value)
}

/// How long the answer may take. Whoever looks at something wants to see it now.
fn patience(
    verb: &str,
    effect: Effect,
    allowed: Patience,
    arguments: &Map<String, Value>,
) -> Duration {
    let named = |folded: &str| match argument(arguments, folded)? {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64(),
    };
    let wanted = match verb {
        "exec" | "swarm-run" => {
            let millis = named("timeoutms").map(Duration::from_millis);
            let seconds = named("timeout").or_else(|| named("timeoutseconds"));
            let limit = seconds.map(Duration::from_secs).or(millis).unwrap_or(RUN_DEFAULT);
            limit.saturating_add(WAY)
        }
        "agent" => {
            let wait = named("wait").map_or(RUN_DEFAULT, Duration::from_secs);
            wait.saturating_add(WAY)
        }
        "create" if argument(arguments, "installpackages").is_none() => allowed.default,
        _ if effect == Effect::Reads => allowed.default,
        _ => allowed.max,
    };
    wanted.max(allowed.default.min(WAY)).min(allowed.max)
}

async fn next(feed: &mut Option<Feed>) -> Option<Message> {
    feed.as_mut()?.messages.recv().await
}

/// Takes in what is told on the bus about the call.
fn hear(pace: &mut Pace, message: &Message, is_run: bool) {
    if is_run {
        let lines = message.body.iter().filter(|byte| **byte == b'\n').count();
        let lines = f64::from(u32::try_from(lines).unwrap_or(u32::MAX)) + pace.last().progress;
        let message = format!("{lines} lines of output");
        pace.reached(Report { progress: lines, total: None, message });
        return;
    }
    let Ok(Progress { progress, total, message }) =
        Codec::of(None, &message.body).and_then(|codec| codec.decode::<Progress>(&message.body))
    else {
        return;
    };
    let message = message.unwrap_or_else(|| match total {
        Some(total) => format!("{progress} of {total}"),
        None => progress.to_string(),
    });
    pace.reached(Report { progress, total, message });
}

fn ended(answer: &Result<Result<Value, AskError>, tokio::task::JoinError>) -> String {
    match answer {
        Ok(Ok(_)) => "done".to_owned(),
        Ok(Err(error)) => error.kind().to_owned(),
        Err(_) => "interrupted".to_owned(),
    }
}

async fn tell(told: &(ProgressToken, Peer<RoleServer>), report: Report) {
    let (token, peer) = told;
    let Report { progress, total, message } = report;
    let mut param = ProgressNotificationParam::new(token.clone(), progress).with_message(message);
    param.total = total;
    if let Err(error) = peer.notify_progress(param).await {
        tracing::debug!(%error, "progress was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        super::super::catalogue::object(value)
    }

    #[test]
    fn a_run_gets_the_time_it_asked_for_and_a_look_does_not() {
        let run = |arguments| patience("exec", Effect::Destroys, Patience::RUN, &object(arguments));
        assert_eq!(run(json!({})), Duration::from_secs(70));
        assert_eq!(run(json!({ "timeout": 600 })), Duration::from_secs(610));
        assert_eq!(run(json!({ "timeoutMs": "1500" })), Duration::from_millis(11_500));
        assert_eq!(run(json!({ "timeout": 1e9 })), Duration::from_secs(70));
        assert_eq!(run(json!({ "timeout": 9_999_999 })), Patience::RUN.max);
        let look = patience("list", Effect::Reads, Patience::LOOK, &object(json!({})));
        assert_eq!(look, Patience::LOOK.default);
        let create = json!({ "timeout": 86_400 });
        let create = patience("create", Effect::Adds, Patience::CHANGE, &object(create));
        assert_eq!(create, Patience::CHANGE.default);
    }

    #[test]
    fn a_run_has_an_id_before_it_runs() {
        let mut own = object(json!({ "executionId": ExecId::numbered(7) }));
        let made = ExecId::numbered(8);
        assert_eq!(named(&mut own, "execution_id", made), Some(ExecId::numbered(7)));
        let mut none = object(json!({}));
        assert_eq!(named(&mut none, "execution_id", made), Some(made));
        assert_eq!(none["execution_id"], made.to_string());
    }
}
