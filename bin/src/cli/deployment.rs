//! `sandpit deployment`: list, status, deploy, scale, end.

use sandpit_messages::deployment::{
    Category, Configuration, Deploy, DeploymentView, GetDeployments, InstanceStatus, Scale,
    ScaleStatus, Undeploy,
};
use sandpit_messages::id::DeploymentId;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::client::Call;
use crate::session::Session;
use crate::settings::SettingFlags;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Show all deployments.
    List,
    /// Show one deployment and its instances.
    Status {
        /// Which.
        deployment: DeploymentId,
    },
    /// Keep so many equal sandboxes running, each with its agent.
    Deploy {
        /// What it is called; `momentum-trading`, `mean-reversion` and `pairs-trading` are presets.
        name: String,
        /// What it is for: trading, analytics, ml or custom.
        #[arg(long, default_value = "custom", value_parser = word::<Category>)]
        category: Category,
        /// How many instances; without it, what the configuration says, or 1.
        #[arg(long, value_name = "N")]
        instances: Option<i64>,
        /// What each is and does, as JSON.
        #[arg(long, value_name = "JSON", default_value = "{}", value_parser = object)]
        configuration: Box<Configuration>,
    },
    /// Change how many instances a deployment has.
    Scale {
        /// Which.
        deployment: DeploymentId,
        /// How many, 1 to 100.
        #[arg(allow_negative_numbers = true)]
        count: i64,
        /// Hand the number to the load rules, with this as the least.
        #[arg(long)]
        auto: bool,
    },
    /// End a deployment and all its instances.
    End {
        /// Which.
        deployment: DeploymentId,
    },
}

/// One of the words of an enum of the protocol.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

fn object(text: &str) -> Result<Box<Configuration>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl Verb {
    pub(super) fn run(self, settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        Session::run(settings, "deployment", async |session| match self {
            Self::List => show(&session, None, out).await,
            Self::Status { deployment } => show(&session, Some(deployment), out).await,
            Self::Deploy { name, category, instances, configuration } => {
                let instances = instances.or(configuration.instances);
                let configuration = Configuration { instances, ..*configuration };
                deploy(&session, Deploy { template_name: name, category, configuration }, out).await
            }
            Self::Scale { deployment, count, auto } => {
                let (deployment_id, instance_count) = (deployment, count);
                scale(&session, Scale { deployment_id, instance_count, auto_scale: auto }, out)
                    .await
            }
            Self::End { deployment } => end(&session, deployment, out).await,
        })
    }
}

async fn deploy(session: &Session, ask: Deploy, out: Out) -> Result<Exit, Failure> {
    let asked = session.client.request(&ask, Call::default()).await;
    let what = format!("`{}` was not deployed", ask.template_name);
    let made = asked.map_err(|error| Failure::of_ask(what, &error))?;
    match out {
        Out { json: true, .. } => out.document("sandpit.deployment.deploy/1", &made),
        Out { quiet: true, .. } => out::line(made.deployment_id.as_str()),
        Out { .. } => {
            out::line(made.deployment_id.as_str());
            out::note(&format!("{} instances of {}", made.sandboxes.len(), made.template));
            made.failures.iter().for_each(|one| out::note(&one.message));
            made.notes.iter().for_each(|note| out::note(note));
        }
    }
    Ok(Exit::Done)
}

async fn scale(session: &Session, ask: Scale, out: Out) -> Result<Exit, Failure> {
    let asked = session.client.request(&ask, Call::default()).await;
    let what = format!("{} keeps its size", ask.deployment_id);
    let scaled = asked.map_err(|error| Failure::of_ask(what, &error))?;
    match out {
        Out { json: true, .. } => out.document("sandpit.deployment.scale/1", &scaled),
        Out { .. } => {
            let (before, after) = (scaled.previous, scaled.total_instances);
            let so_far = if scaled.status == ScaleStatus::Completed { "" } else { " so far" };
            out::line(&format!(
                "{before} became {after}{so_far}: {} started, {} stopped",
                scaled.started, scaled.stopped
            ));
            scaled.failures.iter().for_each(|one| out::note(&one.message));
            scaled.notes.iter().for_each(|note| out::note(note));
        }
    }
    Ok(if scaled.approval.is_some() { Exit::Waits } else { Exit::Done })
}

async fn end(session: &Session, deployment_id: DeploymentId, out: Out) -> Result<Exit, Failure> {
    let asked = session.client.request(&Undeploy { deployment_id }, Call::default()).await;
    let what = format!("{deployment_id} was not ended");
    let ended = asked.map_err(|error| Failure::of_ask(what, &error))?;
    match out {
        Out { json: true, .. } => out.document("sandpit.deployment.end/1", &ended),
        Out { .. } => out::line(&format!("{deployment_id}: {} instances leave", ended.stopped)),
    }
    Ok(Exit::Done)
}

async fn show(
    session: &Session,
    deployment_id: Option<DeploymentId>,
    out: Out,
) -> Result<Exit, Failure> {
    let asked = session.client.request(&GetDeployments { deployment_id }, Call::default()).await;
    let all = asked.map_err(|error| Failure::of_ask("nobody listed deployments", &error))?;
    match out {
        Out { json: true, .. } => out.document("sandpit.deployment.list/1", &all),
        Out { quiet: true, .. } => {
            all.deployments.iter().for_each(|one| out::line(one.deployment_id.as_str()));
        }
        Out { .. } => {
            print(&all.deployments);
            if deployment_id.is_some() {
                all.deployments.iter().for_each(print_instances);
            }
        }
    }
    Ok(Exit::Done)
}

fn print(all: &[DeploymentView]) {
    let rows = all.iter().map(|one| {
        let running = |status| status == InstanceStatus::Running;
        let up = one.instances.iter().filter(|instance| running(instance.status)).count();
        let auto = if one.auto_scale { "yes" } else { "no" };
        let counts = [up.to_string(), one.desired.to_string(), one.healed.to_string()];
        let [up, desired, healed] = counts;
        let (id, name) = (one.deployment_id.to_string(), one.template_name.clone());
        [id, name, one.template.clone(), up, desired, healed, auto.to_owned()]
    });
    out::table(["deployment", "name", "template", "up", "desired", "healed", "auto"], rows);
}

fn print_instances(one: &DeploymentView) {
    let rows = one.instances.iter().map(|instance| {
        let status = match instance.status {
            InstanceStatus::Starting => "starting",
            InstanceStatus::Running => "running",
            InstanceStatus::Draining => "draining",
        };
        let agent = instance.agent_id.map_or_else(|| "-".to_owned(), |agent| agent.to_string());
        [instance.sandbox_id.to_string(), status.to_owned(), agent]
    });
    out::table(["sandbox", "status", "agent"], rows);
    one.failures.iter().for_each(|failure| out::note(&failure.message));
}
