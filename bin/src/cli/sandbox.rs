//! `sandpit sandbox`: create, list, status, kill.

use std::collections::BTreeMap;
use std::io::Write;

use sandpit_messages::envelope::IdempotencyKey;
use sandpit_messages::id::SandboxId;
use sandpit_messages::sandbox::{
    Create, Created, GetStatus, List, Listed, SandboxStatus, Status, StatusFilter, Terminate,
};
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::client::{Call, Key};
use crate::session::Session;
use crate::settings::SettingFlags;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Get a sandbox of your own.
    Create(CreateArguments),
    /// Show the sandboxes that exist, or ended within the last hour.
    List {
        /// Only those of this template.
        #[arg(long)]
        template: Option<String>,
        /// Also those that ended within the last hour.
        #[arg(long)]
        all: bool,
    },
    /// Show how a sandbox is.
    Status {
        /// Which.
        sandbox: SandboxId,
    },
    /// End sandboxes.
    Kill {
        /// Which.
        #[arg(required_unless_present = "all")]
        sandboxes: Vec<SandboxId>,
        /// Every one that runs.
        #[arg(long, conflicts_with = "sandboxes")]
        all: bool,
        /// Do not ask when it is more than one.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArguments {
    /// What it is made from.
    #[arg(long, default_value = "base")]
    template: String,
    /// What to call it.
    #[arg(long)]
    name: Option<String>,
    /// Memory in MiB, 256 to 4096.
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u32>,
    /// Processors, 1 to 4.
    #[arg(long, value_name = "N")]
    cpu_count: Option<u32>,
    /// Lifetime in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = Create::default().timeout)]
    timeout: u32,
    /// Seconds without an execution after which it is ended.
    #[arg(long, value_name = "SECONDS", default_value_t = Create::default().idle_timeout)]
    idle_timeout: u32,
    /// Environment of what runs in it.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A package beside the template's own, as in `scipy==1.15.2`.
    #[arg(long = "package", value_name = "REQUIREMENT")]
    packages: Vec<String>,
    /// Anything to find it again by.
    #[arg(long = "metadata", value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Milliseconds to wait for one.
    #[arg(long, value_name = "MS")]
    wait_ms: Option<u32>,
    /// Makes repeating the command safe: 16 to 64 of A-Z, a-z, 0-9, `_` and `-`.
    #[arg(long, value_name = "KEY")]
    key: Option<IdempotencyKey>,
}

/// `NAME=VALUE` of a command line.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

impl Verb {
    pub(super) fn run(self, settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        Session::run(settings, "sandbox", async |session| match self {
            Self::Create(arguments) => create(&session, arguments, out).await,
            Self::List { template, all } => {
                let filter = if all { StatusFilter::All } else { StatusFilter::Running };
                list(&session, template, filter, out).await
            }
            Self::Status { sandbox } => status(&session, sandbox, out).await,
            Self::Kill { sandboxes, all, yes } => {
                let which = if all { running(&session).await? } else { sandboxes };
                kill(&session, &which, yes, out).await
            }
        })
    }
}

async fn create(session: &Session, arguments: CreateArguments, out: Out) -> Result<Exit, Failure> {
    let request = Create {
        name: arguments.name,
        template: arguments.template,
        memory_mb: arguments.memory_mb,
        cpu_count: arguments.cpu_count,
        timeout: arguments.timeout,
        idle_timeout: arguments.idle_timeout,
        env_vars: BTreeMap::from_iter(arguments.env),
        metadata: BTreeMap::from_iter(arguments.metadata),
        install_packages: arguments.packages,
        wait_ms: arguments.wait_ms,
        ..Create::default()
    };
    let key = arguments.key.map_or(Key::Made, Key::Given);
    let call = Call { key, ..Call::default() };
    let asked = session.client.request(&request, call).await;
    let what = format!("no sandbox of template \"{}\" was created", request.template);
    let created = asked.map_err(|error| Failure::of_ask(what, &error))?;
    match out {
        Out { json: true, .. } => out.document("sandpit.sandbox.create/1", &created),
        Out { quiet: true, .. } => out::line(created.sandbox_id.as_str()),
        Out { .. } => print_created(&created),
    }
    Ok(Exit::Done)
}

fn print_created(created: &Created) {
    let Created { sandbox_id, template, resources, expires_at, isolation, .. } = created;
    let source = if created.from_pool { "from the pool" } else { "made for it" };
    out::line(sandbox_id.as_str());
    out::note(&format!(
        "{template}, {} MiB, {} CPU, {isolation}, {source} in {}, until {expires_at}",
        resources.memory_mb,
        resources.cpu_count,
        out::millis(created.acquire_ms),
    ));
}

/// All pages of a list.
async fn pages(
    session: &Session,
    template: Option<String>,
    status_filter: StatusFilter,
) -> Result<Vec<Listed>, Failure> {
    let mut listed = Vec::new();
    let mut request = List { status_filter, template, limit: 1_000, ..List::default() };
    loop {
        let asked = session.client.request(&request, Call::default()).await;
        let page = asked.map_err(|error| Failure::of_ask("nobody listed sandboxes", &error))?;
        listed.extend(page.sandboxes);
        match page.next_cursor {
            Some(cursor) if request.cursor != Some(cursor) => request.cursor = Some(cursor),
            _ => return Ok(listed),
        }
    }
}

async fn running(session: &Session) -> Result<Vec<SandboxId>, Failure> {
    let listed = pages(session, None, StatusFilter::Running).await?;
    Ok(listed.into_iter().map(|sandbox| sandbox.sandbox_id).collect())
}

async fn list(
    session: &Session,
    template: Option<String>,
    filter: StatusFilter,
    out: Out,
) -> Result<Exit, Failure> {
    let listed = pages(session, template, filter).await?;
    match out {
        Out { json: true, .. } => {
            out.document("sandpit.sandbox.list/1", &json!({ "sandboxes": listed }));
        }
        Out { quiet: true, .. } => {
            listed.iter().for_each(|sandbox| out::line(sandbox.sandbox_id.as_str()));
        }
        Out { .. } => {
            let rows = listed.into_iter().map(|sandbox| {
                [
                    sandbox.sandbox_id.to_string(),
                    sandbox.name,
                    word(sandbox.status).to_owned(),
                    sandbox.template,
                    sandbox.created_at,
                    sandbox.expires_at.unwrap_or_else(|| "-".to_owned()),
                ]
            });
            out::table(["sandbox", "name", "status", "template", "created", "expires"], rows);
        }
    }
    Ok(Exit::Done)
}

const fn word(status: Status) -> &'static str {
    match status {
        Status::Creating => "creating",
        Status::Running => "running",
        Status::Stopped => "stopped",
    }
}

async fn status(session: &Session, sandbox_id: SandboxId, out: Out) -> Result<Exit, Failure> {
    let asked = session.client.request(&GetStatus::of(sandbox_id), Call::default()).await;
    let what = format!("sandbox {sandbox_id} did not answer");
    let status = asked.map_err(|error| Failure::of_ask(what, &error))?;
    if out.json {
        out.document("sandpit.sandbox.status/1", &status)
    } else {
        print(&status)
    }
    Ok(Exit::Done)
}

fn print(status: &SandboxStatus) {
    let mut rows = vec![
        ["sandbox".to_owned(), status.sandbox_id.to_string()],
        ["name".to_owned(), status.name.clone()],
        ["status".to_owned(), word(status.status).to_owned()],
        ["template".to_owned(), status.template.clone()],
        ["uptime".to_owned(), format!("{:.1} s", status.uptime)],
        ["idle".to_owned(), format!("{:.1} s", status.idle_seconds)],
        ["executions".to_owned(), status.execution_count.to_string()],
        ["processes".to_owned(), status.processes_running.to_string()],
        ["isolation".to_owned(), status.isolation.clone()],
    ];
    if let Some(usage) = status.resource_usage {
        let memory = format!("{:.1} of {} MiB", usage.memory_mb, status.resources.memory_mb);
        rows.push(["memory".to_owned(), memory]);
        rows.push(["processor".to_owned(), out::millis(usage.cpu_ms)]);
    }
    if let Some(expires) = &status.expires_at {
        rows.push(["expires".to_owned(), expires.clone()]);
    }
    if let Some(ended) = &status.ended {
        rows.push(["ended".to_owned(), format!("{}: {}", ended.at, ended.reason)]);
    }
    out::table(["what", "value"], rows);
}

async fn kill(
    session: &Session,
    which: &[SandboxId],
    yes: bool,
    out: Out,
) -> Result<Exit, Failure> {
    if which.len() > 1 && !yes && !confirmed(which.len()) {
        let what = format!("{} sandboxes were not ended", which.len());
        return Err(Failure::usage(what).next("repeat the command with --yes"));
    }
    let mut ended = Vec::new();
    for &sandbox_id in which {
        let asked = session.client.request(&Terminate::of(sandbox_id), Call::default()).await;
        let what = format!("sandbox {sandbox_id} was not ended");
        ended.push(asked.map_err(|error| Failure::of_ask(what, &error))?);
    }
    match out {
        Out { json: true, .. } => {
            out.document("sandpit.sandbox.kill/1", &json!({ "sandboxes": ended }));
        }
        Out { quiet: true, .. } => {
            ended.iter().for_each(|end| out::line(end.sandbox_id.as_str()));
        }
        Out { .. } => {
            ended.iter().for_each(|end| out::line(&format!("{} {}", end.sandbox_id, end.message)));
        }
    }
    Ok(Exit::Done)
}

fn confirmed(count: usize) -> bool {
    if !out::can_ask() {
        return false;
    }
    out::error_bytes(format!("end {count} sandboxes? [y/N] ").as_bytes());
    // Without an answer it is no.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
