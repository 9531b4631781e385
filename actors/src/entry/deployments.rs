//! Requests about deployments.

use std::collections::BTreeMap;
use std::sync::Arc;

use sandpit_messages::deployment::{
    AgentConfiguration, Approval, Configuration, Deploy, DeployStatus, Deployed, DeploymentView,
    Deployments, Failure, GetDeployments, Instance, InstanceStatus, Scale, ScaleStatus, Scaled,
    Undeploy, Undeployed,
};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, SandboxId};
use sandpit_messages::refusal::Refusal;
use sandpit_messages::time::{Moment, Now};
use serde_json::{Map, Value, json};

use super::checks::{FILES_MAX, TEXT_MAX, at_most, env, invalid, template, within};
use super::{Call, Entry, count, keyed, wall};
use crate::crew::AgentPlan;
use crate::crew::agents::{Launch, order as order_of};
use crate::crew::guard::{Held, LASTS};
use crate::scaler::policy::{Answer, Order, View};
use crate::scaler::{self, GetViews};

/// Instances of one deployment.
const INSTANCES_MAX: i64 = 100;

/// Lines of a setup, and packages.
const LINES_MAX: usize = 32;

/// Characters of the name of a deployment.
const NAME_MAX: usize = 63;

impl Entry {
    pub(super) async fn deploy(&self, call: &Call, ask: Deploy) -> Result<Deployed, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let deploying = async {
            let settling = self.settle_deployment(ask, &call.tenant, self.patience(call));
            let (order, notes) = order(settling.await?, call.tenant.clone())?;
            let question = scaler::Deploy { order, until: self.patience(call) };
            let view = self.ports.scaler.ask_settled(question).await??;
            let up = view.instances.iter();
            let mut up = up.filter(|(_, status, _)| *status == InstanceStatus::Running);
            let first = up.next().or_else(|| view.instances.first());
            let sandbox = first.map(|(sandbox, ..)| *sandbox).ok_or(Refusal::Unfinished)?;
            let settled = view.is_settled();
            Ok(Deployed {
                deployment_id: view.id,
                sandbox_id: sandbox,
                template: view.record.order.plan.template.clone(),
                status: if settled { DeployStatus::Deployed } else { DeployStatus::Partial },
                sandboxes: instances(&view),
                failures: failures(&view.failures),
                notes,
            })
        };
        self.keyed.once_claimed::<Deploy>(asked, call.until, deploying).await
    }

    pub(super) async fn scale(&self, call: &Call, ask: Scale) -> Result<Scaled, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let scaling = async {
            let Scale { deployment_id: deployment, instance_count, auto_scale } = ask;
            let wanted = instance_count;
            let wish = amount("instance_count", instance_count, INSTANCES_MAX)?;
            let (tenant, until) = (call.tenant.clone(), self.patience(call));
            let question = scaler::Scale { tenant, deployment, count: wish, auto_scale, until };
            let answer = self.ports.scaler.ask_settled(question).await??;
            let Answer::Scaled { view, previous, since, superseded } = answer else {
                return Err(Refusal::Fault);
            };
            let now = self.ports.clock.both();
            let mut notes = Vec::new();
            if superseded {
                notes.push("another change of its size came before this one was done".to_owned());
            }
            if let Some(held) = view.held {
                notes.push(format!(
                    "{wanted} were wanted, and there are to be {}: a rise beyond that waits for \
                     an operator for {} minutes",
                    held.held_at,
                    LASTS.as_secs() / 60
                ));
            }
            let done = !superseded && view.is_settled();
            Ok(Scaled {
                deployment_id: deployment,
                total_instances: count(view.staying()),
                status: if done { ScaleStatus::Completed } else { ScaleStatus::Scaling },
                previous: count(previous),
                started: u32::try_from(since.started).unwrap_or(u32::MAX),
                stopped: u32::try_from(since.stopped).unwrap_or(u32::MAX),
                failures: failures(&view.failures),
                auto_scale: view.record.auto_scale,
                approval: view.held.map(|held| approval(now, held)),
                instances: instances(&view),
                notes,
            })
        };
        self.keyed.once_claimed::<Scale>(asked, call.until, scaling).await
    }

    pub(super) async fn undeploy(&self, call: &Call, ask: Undeploy) -> Result<Undeployed, Refusal> {
        let asked = keyed::idempotent(call, &ask)?;
        let ending = async {
            let (tenant, deployment) = (call.tenant.clone(), ask.deployment_id);
            let question = scaler::Undeploy { tenant, deployment, grace: None };
            let stopped = self.ports.scaler.ask_settled(question).await??;
            Ok(Undeployed { deployment_id: deployment, stopped: count(stopped) })
        };
        self.keyed.once_claimed::<Undeploy>(asked, call.until, ending).await
    }

    pub(super) async fn deployments(
        &self,
        call: &Call,
        ask: GetDeployments,
    ) -> Result<Deployments, Refusal> {
        let (tenant, deployment) = (call.tenant.clone(), ask.deployment_id);
        let views = self.ports.scaler.ask_settled(GetViews { tenant, deployment }).await??;
        let now = self.ports.clock.both();
        Ok(Deployments { deployments: views.iter().map(|view| shown(now, view)).collect() })
    }

    /// Until when whoever changes many things may take: what is not done by then is told as it
    /// stands, and that takes a moment too.
    pub(super) fn patience(&self, call: &Call) -> Moment {
        let now = self.ports.clock.now();
        now + call.until.since(now).mul_f64(TOLD_AT)
    }
}

/// Share of the caller's patience after which it is told how things stand.
const TOLD_AT: f64 = 0.95;

fn shown(now: Now, view: &View) -> DeploymentView {
    let order = &view.record.order;
    DeploymentView {
        deployment_id: view.id,
        template_name: order.template_name.clone(),
        category: order.category,
        template: order.plan.template.clone(),
        created_at: view.record.created.rfc3339(),
        desired: count(view.desired),
        floor: count(view.record.desired),
        auto_scale: view.record.auto_scale,
        instances: instances(view),
        healed: view.counts.healed,
        failures: failures(&view.failures),
        approval: view.held.map(|held| approval(now, held)),
    }
}

fn instances(view: &View) -> Vec<Instance> {
    let all = view.instances.iter();
    let instance = |(sandbox, status, agent): &(SandboxId, _, _)| Instance {
        sandbox_id: *sandbox,
        status: *status,
        agent_id: *agent,
    };
    all.map(instance).collect()
}

pub(super) fn failures(all: &[(Option<SandboxId>, Refusal)]) -> Vec<Failure> {
    let failure = |(sandbox, refusal): &(Option<SandboxId>, Refusal)| {
        let problem = refusal.problem();
        Failure { kind: problem.kind, message: problem.message, sandbox_id: *sandbox }
    };
    all.iter().map(failure).collect()
}

pub(super) fn approval(now: Now, held: Held) -> Approval {
    Approval {
        id: held.id,
        wanted: count(held.wanted),
        held_at: count(held.held_at),
        expires_at: wall(now, held.expires).rfc3339(),
    }
}

/// A number of things, 1 to `max`.
pub(super) fn amount(field: &'static str, came: i64, max: i64) -> Result<usize, Refusal> {
    let fine = (1..=max).contains(&came).then_some(came);
    let fine = fine.and_then(|came| usize::try_from(came).ok());
    fine.ok_or_else(|| invalid(field, came, format!("1 to {max}")))
}

/// Whether an agent can be run, before anything is made for it.
pub(super) fn agent(tenant: Tenant, plan: &AgentPlan) -> Result<(), Refusal> {
    let (agent, sandbox) = (AgentId::numbered(0), SandboxId::numbered(0));
    order_of(Launch { agent, sandbox, tenant, plan: Arc::new(plan.clone()) }).map(drop)
}

/// A deployment that is wanted, and what is to be said about it.
pub(super) fn order(ask: Deploy, tenant: Tenant) -> Result<(Arc<Order>, Vec<String>), Refusal> {
    let Deploy { template_name, category, configuration } = ask;
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let length = (1..=NAME_MAX).contains(&template_name.len());
    if !length || !template_name.bytes().all(fine) || template_name.starts_with('-') {
        return Err(invalid("template_name", template_name, "1 to 63 of `a-z`, `0-9` and `-`"));
    }
    let (configuration, notes) = with_preset(&template_name, configuration);
    let asked = &configuration;
    if let Some(name) = &asked.template {
        template(name)?;
    }
    if let Some(memory_mb) = asked.memory_mb {
        within("memory_mb", memory_mb, 256..=4_096)?;
    }
    if let Some(cpu_count) = asked.cpu_count {
        within("cpu_count", cpu_count, 1..=4)?;
    }
    if let Some(timeout) = asked.timeout {
        within("timeout", timeout, 1..=86_400)?;
    }
    env(&asked.env_vars)?;
    if !asked.packages.is_empty() {
        let what = "installing packages while deploying; a template that has them".to_owned();
        return Err(Refusal::Unsupported { what });
    }
    if asked.setup.len() > LINES_MAX {
        return Err(invalid("setup", asked.setup.len(), format!("at most {LINES_MAX} lines")));
    }
    if asked.files.len() > FILES_MAX {
        return Err(invalid("files", asked.files.len(), format!("at most {FILES_MAX} files")));
    }
    let bytes = asked.files.iter().map(|(name, text)| name.len() + text.len()).sum();
    at_most("files", bytes, TEXT_MAX)?;
    let instances = amount("instances", asked.instances.unwrap_or(1), INSTANCES_MAX)?;
    let plan = Arc::new(scaler::plan(tenant.clone(), &configuration));
    if let Some(of) = &plan.agent {
        agent(tenant, of)?;
    }
    let order = Order { template_name, category, configuration, plan, instances, seat: None };
    Ok((Arc::new(order), notes))
}

/// A configuration that comes with a name.
struct Preset {
    memory_mb: u32,
    cpu_count: u32,
    agent_type: &'static str,
    params: Value,
}

fn preset(name: &str) -> Option<Preset> {
    let (memory_mb, cpu_count, agent_type, params) = match name {
        "momentum-trading" => {
            let params =
                json!({"period": 20, "threshold": 0.02, "max_position": 0.1, "stop_loss": 0.05});
            (512, 1, "momentum", params)
        }
        "mean-reversion" => (512, 1, "mean_reversion", json!({"window": 20, "deviations": 2})),
        "pairs-trading" => (1_024, 2, "pairs_trading", json!({"cointegration_threshold": 0.05})),
        _ => return None,
    };
    Some(Preset { memory_mb, cpu_count, agent_type, params })
}

/// Fills in what the preset of a name brings and the caller did not say.
fn with_preset(name: &str, mut asked: Configuration) -> (Configuration, Vec<String>) {
    let Some(Preset { memory_mb, cpu_count, agent_type, params }) = preset(name) else {
        return (asked, Vec::new());
    };
    asked.template.get_or_insert_with(|| "trading".to_owned());
    asked.memory_mb.get_or_insert(memory_mb);
    asked.cpu_count.get_or_insert(cpu_count);
    let symbols = asked.more.remove("symbols");
    let symbols: Option<Vec<String>> = symbols.and_then(|it| serde_json::from_value(it).ok());
    if let (None, Some(symbols)) = (&asked.agent, symbols) {
        let (agent_type, strategy_params) = (agent_type.to_owned(), Map::new());
        asked.agent = Some(AgentConfiguration { agent_type, symbols, strategy_params });
    }
    let Some(agent) = &mut asked.agent else {
        let note = format!("`{name}` got no `symbols`, so no agent runs in its instances");
        return (asked, vec![note]);
    };
    let given: BTreeMap<_, _> = std::mem::take(&mut asked.more).into_iter().collect();
    let Value::Object(params) = params else { return (asked, Vec::new()) };
    for (key, value) in given.into_iter().chain(params) {
        agent.strategy_params.entry(key).or_insert(value);
    }
    (asked, Vec::new())
}

#[cfg(test)]
mod tests {
    use sandpit_messages::deployment::Category;

    use super::*;

    fn deploy(name: &str, configuration: Value) -> Result<(Arc<Order>, Vec<String>), Refusal> {
        let configuration = serde_json::from_value(configuration).unwrap();
        let ask =
            Deploy { template_name: name.to_owned(), category: Category::Trading, configuration };
        order(ask, Tenant::local())
    }

    fn field(refused: Result<(Arc<Order>, Vec<String>), Refusal>) -> String {
        let refusal = refused.map(drop).unwrap_err();
        refusal.problem().detail.field.unwrap_or_else(|| refusal.to_string())
    }

    #[test]
    fn a_preset_fills_in_what_was_not_said_and_nothing_else() {
        let asked = json!({"symbols": ["AAPL"], "threshold": 0.5, "memory_mb": 256});
        let (order, notes) = deploy("momentum-trading", asked).unwrap();
        assert_eq!((order.plan.memory_mb, order.plan.cpu_count), (Some(256), Some(1)));
        assert_eq!(order.plan.template, "trading");
        let agent = order.plan.agent.as_ref().unwrap();
        assert_eq!(
            (agent.agent_type.as_str(), &agent.symbols[..]),
            ("momentum", &["AAPL".to_owned()][..])
        );
        assert_eq!(agent.params["threshold"], 0.5);
        assert_eq!(agent.params["period"], 20);
        assert_eq!(notes, [""; 0]);
        let (order, notes) = deploy("pairs-trading", json!({})).unwrap();
        assert_eq!(order.plan.agent, None);
        assert!(notes[0].contains("symbols"), "{notes:?}");
    }

    #[test]
    fn other_keys_are_kept_and_given_to_the_agent() {
        let agent =
            json!({"agent_type": "trend", "symbols": ["MSFT"], "strategy_params": {"a": 1}});
        let (order, _) = deploy("mine", json!({"agent": agent, "a": 2, "b": 3})).unwrap();
        let params = &order.plan.agent.as_ref().unwrap().params;
        assert_eq!((&params["a"], &params["b"]), (&json!(1), &json!(3)));
        assert_eq!(order.configuration.more["b"], 3);
    }

    #[test]
    fn what_cannot_be_names_its_field() {
        for (configuration, name) in [
            (json!({"instances": 0}), "instances"),
            (json!({"instances": -3}), "instances"),
            (json!({"instances": 101}), "instances"),
            (json!({"memory_mb": 1}), "memory_mb"),
            (json!({"cpu_count": 9}), "cpu_count"),
            (json!({"timeout": 0}), "timeout"),
            (json!({"agent": {"agent_type": "trend"}}), "symbols"),
        ] {
            assert_eq!(field(deploy("mine", configuration)), name);
        }
        assert_eq!(field(deploy("No Name", json!({}))), "template_name");
    }
}
