//! The agents' processes, seen from the demonstration: started, listened to, and gone when it is
//! over, however it ends.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sandpit_actors::bus::nats::Credentials;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::live::Live;
use super::plan::Part;
use super::report::Worker;
use super::told::{Line, Task};

/// The hidden verb that makes this program an agent.
pub const VERB: &str = "demo-agent";
/// Longest one agent may take: a hundred times what it takes on two cores. Then it counts as failed.
const AGENT_MAX: Duration = Duration::from_mins(5);
/// Lines of all agents on their way to the view.
const LINES_MAX: usize = 1_024;
/// Bytes of an agent's complaints that are kept.
const SAID_MAX: u64 = 4_096;

/// Agents at work.
#[derive(Debug)]
pub struct Crew {
    workers: Vec<Worker>,
    lines: mpsc::Receiver<(usize, Line)>,
    /// What each listens to for being wanted. Closing them ends all.
    wanted: Vec<ChildStdin>,
    tasks: JoinSet<()>,
}

impl Crew {
    /// Starts a process for each part. They join the bus at `url`.
    ///
    /// # Errors
    /// If a process cannot be started; those that were are ended.
    pub async fn start(
        program: &Path,
        parts: Vec<Part>,
        url: &str,
        credentials: &Credentials,
    ) -> io::Result<Self> {
        let (tell, lines) = mpsc::channel(LINES_MAX);
        let mut crew = Self {
            workers: Vec::with_capacity(parts.len()),
            lines,
            wanted: Vec::with_capacity(parts.len()),
            tasks: JoinSet::new(),
        };
        for (at, part) in parts.into_iter().enumerate() {
            let task = Task {
                url: url.to_owned(),
                user: credentials.user.clone(),
                password: credentials.password.clone(),
                part,
            };
            let mut child = spawn(program)?;
            let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
            let line = serde_json::to_string(&task).expect("plain values");
            stdin.write_all(format!("{line}\n").as_bytes()).await?;
            crew.wanted.push(stdin);
            crew.workers.push(Worker::new(task.part));
            let tell = tell.clone();
            crew.tasks.spawn(listen(at, child, tell));
        }
        Ok(crew)
    }

    /// Listens until all are gone. What was told by then is kept even if this is dropped.
    pub async fn listen(&mut self, live: &Live) {
        while let Some((at, line)) = self.lines.recv().await {
            live.show(at, &line);
            self.workers[at].hear(line);
        }
    }

    /// What they told. Those still at work are ended and waited for.
    pub async fn end(mut self) -> Vec<Worker> {
        self.wanted.clear();
        self.lines.close();
        while self.tasks.join_next().await.is_some() {}
        self.workers
    }
}

/// A process that dies with us: it ends when its standard input does, and is killed if it is
/// dropped.
fn spawn(program: &Path) -> io::Result<Child> {
    Command::new(program)
        .arg(VERB)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for the demonstration, which ends its agents in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Passes on every line of one agent until it ends.
async fn listen(at: usize, mut child: Child, tell: mpsc::Sender<(usize, Line)>) {
    let complaints = child.stderr.take().map(|stderr| async move {
        let mut said = Vec::new();
        // What it said until it could not be read is what it said.
        let _ = stderr.take(SAID_MAX).read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    let mut is_over = false;
    let lines = async {
        let Some(stdout) = child.stdout.take() else { return };
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(text)) = lines.next_line().await {
            let line = serde_json::from_str(&text).unwrap_or_else(|error| Line::Failed {
                why: format!("it told something unreadable: {error}"),
            });
            is_over |= matches!(line, Line::Finished(_) | Line::Failed { .. });
            // Once nobody listens, it is being ended.
            if tell.send((at, line)).await.is_err() {
                return;
            }
        }
    };
    let said = async {
        match complaints {
            Some(complaints) => complaints.await,
            None => String::new(),
        }
    };
    let told = tokio::time::timeout(AGENT_MAX, async { tokio::join!(lines, said) }).await;
    let why = match told {
        Err(_) => format!("it took longer than {} s and was ended", AGENT_MAX.as_secs()),
        Ok(((), said)) => format!("its process ended: {said}"),
    };
    // It has closed its output, or must end.
    let _ = child.kill().await;
    if !is_over {
        let _ = tell.send((at, Line::Failed { why })).await;
    }
}
