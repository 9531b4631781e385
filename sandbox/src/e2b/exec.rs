//! Executions: cells in the code interpreter, commands as processes.

mod cell;
mod command;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::time::Moment;
use tokio::sync::{Notify, mpsc};

pub(super) use command::{outcome, started};

use super::Cloud;
use crate::ProviderError;
use crate::provider::files::Body;
use crate::provider::{Done, ExecEvent, ExecRequest, ExecStream, KilledBy, Outcome, Work};

/// Where contexts begin at a cloud. The API has no word for another folder of one cell.
const HOME: &str = "/home/user";

/// Events of one execution that wait for whoever reads them.
const EVENTS_ROOM: usize = 64;

/// Longest a cell with `params` waits for another one's end. Beyond it nothing was done, and its
/// caller knows in time to ask again; it is shorter than an attempt may take.
const PARAMS_WAIT: Duration = Duration::from_secs(5);

/// Bytes of each stream that are passed on; the rest is counted.
const KEPT_MAX: u64 = 1 << 20;

/// Bytes of output after which an execution is killed.
const OUTPUT_MAX: u64 = 64 << 20;

impl Cloud {
    /// Runs something.
    pub(super) async fn exec(
        this: &Arc<Self>,
        sandbox: SandboxId,
        request: ExecRequest,
    ) -> Result<ExecStream, ProviderError> {
        let remote = this.open(sandbox).await?;
        for (path, contents) in &request.files {
            let contents = Body::Whole(contents.clone());
            this.write_file(sandbox, &remote, path, contents, &[]).await?;
        }
        let turn = match &request.work {
            Work::Cell { params: Some(_), .. } => {
                let turn = tokio::time::timeout(PARAMS_WAIT, remote.params.clone().lock_owned());
                Some(turn.await.map_err(|_| ProviderError::Busy { queued: 1 })?)
            }
            _ => None,
        };
        let (events, stream) = mpsc::channel(EVENTS_ROOM);
        let interrupt = Arc::new(Notify::new());
        let run = Run {
            began: this.options.time.now(),
            time_max: request.time_max,
            listed: Listed { cloud: Arc::clone(this), sandbox, exec: request.exec },
            interrupt: Arc::clone(&interrupt),
            events,
            stdout: Passed::default(),
            stderr: Passed::default(),
        };
        this.running().insert(request.exec, interrupt);
        match &request.work {
            Work::Cell { code, params, context } => {
                if request.cwd.as_deref().is_some_and(|cwd| cwd != HOME) {
                    return Err(ProviderError::unsupported("a folder for one cell"));
                }
                if let Some(params) = params {
                    this.set_params(sandbox, &remote, params, context.as_ref()).await?;
                }
                let env = env(&remote.env, &request.env);
                let response = this.execute(sandbox, &remote, code, context.as_ref(), env).await?;
                tokio::spawn(async move {
                    run.cell(response).await;
                    drop(turn);
                });
            }
            Work::Line(line) => {
                let arguments = vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()];
                this.command(run, sandbox, remote, arguments, request).await?;
            }
            Work::Program(arguments) => {
                let arguments = arguments.clone();
                this.command(run, sandbox, remote, arguments, request).await?;
            }
        }
        Ok(ExecStream::new(stream))
    }
}

/// The environment of a sandbox's holder, and of one run, which wins.
fn env(
    of_holder: &std::collections::BTreeMap<String, String>,
    of_run: &std::collections::BTreeMap<String, String>,
) -> std::collections::BTreeMap<String, String> {
    let mut env = of_holder.clone();
    env.extend(of_run.clone());
    env
}

/// One execution on its way.
struct Run {
    began: Moment,
    time_max: Duration,
    listed: Listed,
    interrupt: Arc<Notify>,
    events: mpsc::Sender<ExecEvent>,
    stdout: Passed,
    stderr: Passed,
}

/// The place of an execution among those that can be interrupted.
struct Listed {
    cloud: Arc<Cloud>,
    sandbox: SandboxId,
    exec: ExecId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.cloud.running().remove(&self.exec);
    }
}

/// What was passed on of one stream, and what was not.
#[derive(Debug, Default)]
struct Passed {
    kept: u64,
    dropped: u64,
}

impl Passed {
    /// As much of a piece as is passed on.
    fn take(&mut self, mut piece: Bytes) -> Bytes {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let taken = length.min(KEPT_MAX - self.kept);
        self.kept += taken;
        self.dropped += length - taken;
        piece.truncate(usize::try_from(taken).expect("no more than the piece has"));
        piece
    }
}

/// How an execution ended, as far as it is known.
struct Ended {
    outcome: Outcome,
    context_kept: bool,
    sandbox_usable: bool,
}

impl Ended {
    /// Nothing else was touched.
    const fn cleanly(outcome: Outcome) -> Self {
        Self { outcome, context_kept: true, sandbox_usable: true }
    }

    /// The connection broke: nobody knows what became of it.
    const fn lost() -> Self {
        Self { outcome: Outcome::Lost, context_kept: false, sandbox_usable: false }
    }
}

/// Why an execution is ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    TimeIsOver,
    Interrupted,
    Unheard,
    TooMuch,
}

impl Cut {
    const fn outcome(self) -> Outcome {
        match self {
            Self::TimeIsOver => Outcome::Interrupted { timed_out: true },
            Self::Interrupted | Self::Unheard => Outcome::Interrupted { timed_out: false },
            Self::TooMuch => Outcome::Killed(KilledBy::Output),
        }
    }
}

impl Run {
    /// When something other than the program ends it.
    async fn cut(&self) -> Cut {
        tokio::select! {
            () = tokio::time::sleep(self.left()) => Cut::TimeIsOver,
            () = self.interrupt.notified() => Cut::Interrupted,
            () = self.events.closed() => Cut::Unheard,
        }
    }

    fn left(&self) -> Duration {
        let spent = self.listed.cloud.options.time.now().since(self.began);
        self.time_max.saturating_sub(spent)
    }

    /// Passes on what it wrote. Says whether it may write more.
    async fn wrote(&mut self, bytes: Bytes, to_stdout: bool) -> bool {
        let stream = if to_stdout { &mut self.stdout } else { &mut self.stderr };
        let bytes = stream.take(bytes);
        if !bytes.is_empty() {
            let event = if to_stdout { ExecEvent::Stdout(bytes) } else { ExecEvent::Stderr(bytes) };
            self.tell(event).await;
        }
        let Self { stdout, stderr, .. } = &self;
        stdout.kept + stdout.dropped + stderr.kept + stderr.dropped <= OUTPUT_MAX
    }

    async fn tell(&self, event: ExecEvent) {
        // Whoever does not listen any more is noticed where the execution is cut.
        let _ = self.events.send(event).await;
    }

    async fn end(self, ended: Ended) {
        let wall = self.listed.cloud.options.time.now().since(self.began);
        let Ended { outcome, context_kept, mut sandbox_usable } = ended;
        if outcome == Outcome::Lost {
            // The line to one that is paused is cut: that is no reason to end it.
            sandbox_usable |= self.listed.cloud.stands(self.listed.sandbox);
        }
        let done = Done {
            outcome,
            context_kept,
            sandbox_usable,
            stdout_dropped: self.stdout.dropped,
            stderr_dropped: self.stderr.dropped,
            wall,
            // The API tells nothing of what one execution used.
            cpu: Duration::ZERO,
            max_rss: 0,
            survivors: 0,
        };
        self.tell(ExecEvent::Done(done)).await;
    }
}
