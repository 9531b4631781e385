//! `sandpit exec`: runs something in a sandbox and ends as it ended.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use sandpit_actors::bus::AskError;
use sandpit_messages::exec::{Cache, Exec, Executed};
use sandpit_messages::id::SandboxId;
use sandpit_messages::sandbox::{Create, Terminate};
use sandpit_messages::subject::Stream;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use super::sandbox::pair;
use crate::client::{Call, patience_of};
use crate::session::Session;
use crate::settings::SettingFlags;

/// Bytes that a run reads from its standard input at most, as the protocol bounds it.
const STDIN_MAX: u64 = 256 * 1024;
/// What a sandbox of one run gets beyond the run's own time limit.
const AROUND: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(super) struct Arguments {
    /// What its sandbox is made from, if it gets one of its own.
    #[arg(long, default_value = "base", conflicts_with = "sandbox")]
    template: String,
    /// Runs in this sandbox, whose state is kept.
    #[arg(long, value_name = "ID")]
    sandbox: Option<SandboxId>,
    /// Python; the value of a last expression is printed.
    #[arg(long, group = "what", allow_hyphen_values = true)]
    code: Option<String>,
    /// A file of Python.
    #[arg(long, value_name = "FILE", group = "what")]
    file: Option<PathBuf>,
    /// A line for /bin/sh.
    #[arg(long, value_name = "LINE", group = "what", allow_hyphen_values = true)]
    shell: Option<String>,
    /// A program and its arguments.
    #[arg(last = true, value_name = "COMMAND", group = "what")]
    command: Vec<String>,
    /// Seconds it may take, 1 to 3600.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Environment of this run.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// JSON that the code finds in `params`.
    #[arg(long, value_name = "JSON", value_parser = json)]
    params: Option<serde_json::Value>,
    /// Where it runs.
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,
    /// Passes standard input on, at most 256 KiB.
    #[arg(long)]
    stdin: bool,
    /// Says that it depends on nothing but what is given here, so that an equal run of the last
    /// so many seconds may answer for it.
    #[arg(long, value_name = "SECONDS", conflicts_with = "sandbox")]
    cache: Option<u32>,
}

impl Arguments {
    pub(super) fn run(self, settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        let (template, sandbox) = (self.template.clone(), self.sandbox);
        let request = self.request()?;
        let ran = Session::run(settings, "exec", async |session| {
            let whole = out.json || request.cache.is_some();
            let executed = match (sandbox, whole) {
                (Some(_), true) => ask(&session, request).await,
                (None, true) => ask(&session, Exec { template: Some(template), ..request }).await,
                (Some(sandbox), false) => stream(&session, sandbox, request).await,
                (None, false) => one_shot(&session, template, request).await,
            }?;
            tell(&executed, whole, out);
            Ok(exit_of(&executed))
        });
        // Whatever fails here is sandpit's own, and not the program's.
        ran.map_err(|failure| Failure { exit: Exit::OWN_FAILURE, ..failure })
    }

    fn request(self) -> Result<Exec, Failure> {
        let file = self.file.map(|path| {
            std::fs::read_to_string(&path).map_err(|error| {
                Failure::usage(format!("cannot read {}", path.display())).caused_by(&error)
            })
        });
        let mut command = self.command.into_iter();
        let program = command.next();
        let stdin = if self.stdin { Some(standard_input()?) } else { None };
        Ok(Exec {
            sandbox_id: self.sandbox,
            code: self.code.or(file.transpose()?),
            args: program.is_some().then(|| command.collect()),
            command: self.shell.or(program),
            params: self.params,
            env_vars: BTreeMap::from_iter(self.env),
            cwd: self.cwd,
            stdin,
            timeout: self.timeout,
            cache: self.cache.map(|max_age_s| Cache { max_age_s }),
            ..Exec::default()
        })
    }
}

/// JSON of a command line. Any text would do as a JSON string, which nobody means.
fn json(text: &str) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::from_str(text)
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().take(STDIN_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::usage("cannot read standard input").caused_by(&error))?;
    if text.len() as u64 > STDIN_MAX {
        let what = format!("standard input is longer than {STDIN_MAX} bytes");
        return Err(Failure::usage(what).next("write it to a file of the sandbox"));
    }
    Ok(text)
}

fn failed(error: &AskError) -> Failure {
    Failure::of_ask("it did not run to an end", error)
}

async fn ask(session: &Session, request: Exec) -> Result<Executed, Failure> {
    let call = Call { patience: Some(patience_of(&request)), ..Call::default() };
    session.client.request(&request, call).await.map_err(|error| failed(&error))
}

async fn stream(session: &Session, sandbox: SandboxId, request: Exec) -> Result<Executed, Failure> {
    let mut show = |stream: Stream, chunk: Bytes| match stream {
        Stream::Stdout => out::bytes(&chunk),
        Stream::Stderr => out::error_bytes(&chunk),
    };
    let streamed = session.client.stream(sandbox, request, Call::default(), &mut show).await;
    streamed.map_err(|error| failed(&error))
}

/// A sandbox for one run: whoever watches output needs to know where it comes from beforehand.
async fn one_shot(session: &Session, template: String, request: Exec) -> Result<Executed, Failure> {
    let lifetime = (patience_of(&request) + AROUND).as_secs();
    let timeout = u32::try_from(lifetime).unwrap_or(u32::MAX);
    let create = Create { template, timeout, ..Create::default() };
    let created = session.client.request(&create, Call::default()).await;
    let what = format!("no sandbox of template \"{}\" to run it in", create.template);
    let sandbox_id = created.map_err(|error| Failure::of_ask(what, &error))?.sandbox_id;
    let executed = tokio::select! {
        executed = stream(session, sandbox_id, request) => executed,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Exit::Failed, "cancelled", "it was interrupted"))
        }
    };
    let ended = session.client.request(&Terminate::of(sandbox_id), Call::default()).await;
    if let Err(error) = ended {
        out::note(&format!("sandbox {sandbox_id} was not ended and ends by itself: {error}"));
    }
    executed
}

fn tell(executed: &Executed, whole: bool, out: Out) {
    if out.json {
        out.document("sandpit.exec.run/1", executed);
        return;
    }
    if whole {
        out::bytes(executed.stdout.as_bytes());
        out::error_bytes(executed.stderr.as_bytes());
    }
    if let Some(result) = &executed.result {
        out::line(result);
    }
    if let Some(raised) = &executed.error {
        out::error_bytes(raised.traceback.as_bytes());
        if !raised.traceback.ends_with('\n') {
            out::error_bytes(b"\n");
        }
    }
    let endings = [
        (executed.timed_out, "sandpit: it was ended by its time limit"),
        (executed.oom_killed, "sandpit: it was ended by its memory limit"),
        (executed.lost, "sandpit: its sandbox ended under it"),
    ];
    for (_, text) in endings.into_iter().filter(|(ended, _)| *ended) {
        out::note(text);
    }
}

fn exit_of(executed: &Executed) -> Exit {
    match executed {
        Executed { timed_out: true, .. } => Exit::Program(124),
        Executed { lost: true, .. } => Exit::OWN_FAILURE,
        // As a shell does it: the lowest eight bits.
        Executed { exit_code, .. } => Exit::Program(exit_code.to_le_bytes()[0]),
    }
}
