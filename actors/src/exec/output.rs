//! One run, from its start to its result: collects what it writes, and publishes it if asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::envelope;
use sandpit_messages::exec::{Executed, Raised, Truncated};
use sandpit_messages::id::{ExecId, SandboxId};
use sandpit_messages::subject::{self, Stream};
use sandpit_sandbox::provider::{Done, ExecEvent, ExecRequest, KilledBy, Outcome};
use sandpit_sandbox::{Provider, ProviderError};

use super::policy::Order;
use crate::bus::{Bus, Headers, Message};

/// Where everything runs that does not say where.
const HOME: &str = "/home/user";

/// Most bytes of one published chunk: small beside what a connection carries at once.
const CHUNK_MAX: usize = 32 * 1024;

/// What a time limit leaves as exit code, as `timeout(1)` does.
const TIMED_OUT: i32 = 124;

/// A program that was ended by signal n exits with this and n.
const SIGNALLED: i32 = 128;

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;

/// A run that came to its end.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) result: Executed,
    pub(super) sandbox_usable: bool,
    pub(super) wall: Duration,
    /// Bytes written, and those nobody got.
    pub(super) written: u64,
    pub(super) dropped: u64,
}

/// Runs it. Dropping the future interrupts the run.
pub(super) async fn run(
    provider: Arc<dyn Provider>,
    bus: Arc<dyn Bus>,
    exec: ExecId,
    sandbox: SandboxId,
    order: Arc<Order>,
) -> Result<Ran, ProviderError> {
    let request = ExecRequest {
        exec,
        work: order.work.clone(),
        files: order.files.clone(),
        env: order.env.clone(),
        // Whoever asks over the bus names a folder each time, or means this one.
        cwd: Some(order.cwd.clone().unwrap_or_else(|| HOME.to_owned())),
        stdin: order.stdin.clone(),
        time_max: order.time_max,
    };
    let mut events = provider.exec(sandbox, request).await?;
    let kept_max = order.output_max as usize;
    let publisher = |stream| order.stream.then(|| Publisher::new(&*bus, sandbox, exec, stream));
    let mut stdout = Output::new(kept_max, publisher(Stream::Stdout));
    let mut stderr = Output::new(kept_max, publisher(Stream::Stderr));
    let (mut pid, mut shown, mut raised) = (0, None, None);
    let done = loop {
        match events.next().await {
            Some(ExecEvent::Started { pid: started, .. }) => pid = started,
            Some(ExecEvent::Stdout(bytes)) => stdout.take_in(bytes).await,
            Some(ExecEvent::Stderr(bytes)) => stderr.take_in(bytes).await,
            Some(ExecEvent::Shown(value)) if value.is_main => {
                shown = value.text().map(str::to_owned)
            }
            // What a tool shows is text; who wants pictures asks a face that has them.
            Some(ExecEvent::Shown(_)) => {}
            Some(ExecEvent::Raised { name, value, traceback }) => {
                raised = Some(Raised { name, value, traceback });
            }
            Some(ExecEvent::Done(done)) => break done,
            None => {
                let why = "the end of the execution was not reported".to_owned();
                return Err(ProviderError::Failed { why, maybe_done: true });
            }
        }
    };
    stdout.close(done.stdout_dropped).await;
    stderr.close(done.stderr_dropped).await;
    let Done { sandbox_usable, wall, .. } = done;
    let dropped = stdout.dropped + stderr.dropped;
    let written = stdout.written + stderr.written;
    let result = result_of(exec, sandbox, pid, &done, stdout, stderr, shown, raised);
    Ok(Ran { result, sandbox_usable, wall, written, dropped })
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the result, used once")]
fn result_of(
    exec: ExecId,
    sandbox: SandboxId,
    pid: u32,
    done: &Done,
    stdout: Output<'_>,
    stderr: Output<'_>,
    shown: Option<String>,
    raised: Option<Raised>,
) -> Executed {
    const MIB: f64 = 1_048_576.0;
    let Ending { exit_code, signal } = ending(done.outcome);
    Executed {
        execution_id: exec,
        sandbox_id: sandbox,
        process_id: pid.to_string(),
        exit_code,
        truncated: Truncated { stdout: stdout.is_cut(), stderr: stderr.is_cut() },
        stdout: stdout.text(),
        stderr: stderr.text(),
        result: shown,
        error: raised,
        execution_time: done.wall.as_secs_f64(),
        signal,
        timed_out: matches!(
            done.outcome,
            Outcome::Interrupted { timed_out: true } | Outcome::Killed(KilledBy::Timeout)
        ),
        oom_killed: done.outcome == Outcome::Killed(KilledBy::Memory),
        lost: done.outcome == Outcome::Lost,
        context_kept: done.context_kept,
        cpu_ms: done.cpu.as_secs_f64() * 1e3,
        max_rss_mb: done.max_rss as f64 / MIB,
        survivors: done.survivors,
        cached: false,
        age_ms: None,
        original_exec_id: None,
    }
}

struct Ending {
    exit_code: i32,
    signal: Option<i32>,
}

fn ending(outcome: Outcome) -> Ending {
    let by = |signal| Ending { exit_code: SIGNALLED + signal, signal: Some(signal) };
    match outcome {
        Outcome::Ok => Ending { exit_code: 0, signal: None },
        Outcome::Raised => Ending { exit_code: 1, signal: None },
        Outcome::Exit(exit_code) => Ending { exit_code, signal: None },
        Outcome::Signal(signal) => by(signal),
        Outcome::Interrupted { timed_out: true } => {
            Ending { exit_code: TIMED_OUT, signal: Some(SIGINT) }
        }
        Outcome::Interrupted { timed_out: false } => by(SIGINT),
        Outcome::Killed(KilledBy::Timeout) => {
            Ending { exit_code: TIMED_OUT, signal: Some(SIGKILL) }
        }
        Outcome::Killed(
            KilledBy::Interrupt
            | KilledBy::Memory
            | KilledBy::Output
            | KilledBy::Protocol
            | KilledBy::Restart,
        )
        | Outcome::Lost => by(SIGKILL),
    }
}

/// One stream of a run.
struct Output<'a> {
    kept: Vec<u8>,
    kept_max: usize,
    written: u64,
    /// Bytes that the provider read and passed on to nobody.
    dropped: u64,
    publisher: Option<Publisher<'a>>,
}

impl<'a> Output<'a> {
    fn new(kept_max: usize, publisher: Option<Publisher<'a>>) -> Self {
        Self { kept: Vec::new(), kept_max, written: 0, dropped: 0, publisher }
    }

    async fn take_in(&mut self, bytes: Bytes) {
        self.written += bytes.len() as u64;
        let room = self.kept_max - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(publisher) = &mut self.publisher {
            publisher.publish(bytes).await;
        }
    }

    async fn close(&mut self, dropped: u64) {
        self.dropped = dropped;
        self.written += dropped;
        if let Some(publisher) = &mut self.publisher {
            publisher.close(dropped).await;
        }
    }

    fn is_cut(&self) -> bool {
        self.written > self.kept.len() as u64
    }

    /// As text; a character that the bound cut in two is left out.
    fn text(mut self) -> String {
        if self.is_cut()
            && let Err(error) = std::str::from_utf8(&self.kept)
            && error.error_len().is_none()
        {
            self.kept.truncate(error.valid_up_to());
        }
        match String::from_utf8(self.kept) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }
}

/// Publishes one stream while it is written.
struct Publisher<'a> {
    bus: &'a dyn Bus,
    subject: String,
    seq: u64,
    /// Bytes that could not be sent.
    lost: u64,
}

impl<'a> Publisher<'a> {
    fn new(bus: &'a dyn Bus, sandbox: SandboxId, exec: ExecId, stream: Stream) -> Self {
        Self { bus, subject: subject::output(sandbox, exec, stream), seq: 0, lost: 0 }
    }

    async fn publish(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_MAX));
            let headers = Headers::new().with(envelope::SEQ, self.seq.to_string());
            let length = chunk.len() as u64;
            let message = Message { subject: self.subject.clone(), headers, body: chunk };
            match self.bus.publish(message).await {
                Ok(()) => self.seq += 1,
                // The answer still holds the beginning, and the last chunk says what is missing.
                Err(_) => self.lost += length,
            }
        }
    }

    async fn close(&mut self, dropped: u64) {
        let headers = Headers::new()
            .with(envelope::SEQ, self.seq.to_string())
            .with(envelope::END, (dropped + self.lost).to_string());
        let message = Message { subject: self.subject.clone(), headers, body: Bytes::new() };
        // Whoever listens has the answer too, which does not depend on this.
        let _ = self.bus.publish(message).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(kept_max: usize, parts: &[&'static [u8]]) -> (String, bool) {
        let mut output = Output::new(kept_max, None);
        for part in parts {
            output.take_in(Bytes::from_static(part)).await;
        }
        let cut = output.is_cut();
        (output.text(), cut)
    }

    #[tokio::test]
    async fn output_is_cut_at_the_bound_and_between_characters() {
        assert_eq!(text(5, &[b"ab", b"cde"]).await, ("abcde".to_owned(), false));
        assert_eq!(text(5, &[b"ab", b"cdef"]).await, ("abcde".to_owned(), true));
        assert_eq!(text(2, &["a\u{e9}".as_bytes()]).await, ("a".to_owned(), true));
        assert_eq!(text(9, &[b"a\xff"]).await, ("a\u{fffd}".to_owned(), false));
    }

    #[test]
    fn exit_codes_are_what_a_shell_would_say() {
        let check = |outcome, code, signal| {
            let Ending { exit_code, signal: by } = ending(outcome);
            assert_eq!((exit_code, by), (code, signal), "{outcome:?}");
        };
        check(Outcome::Ok, 0, None);
        check(Outcome::Raised, 1, None);
        check(Outcome::Exit(3), 3, None);
        check(Outcome::Signal(11), 139, Some(11));
        check(Outcome::Interrupted { timed_out: true }, 124, Some(2));
        check(Outcome::Interrupted { timed_out: false }, 130, Some(2));
        check(Outcome::Killed(KilledBy::Timeout), 124, Some(9));
        check(Outcome::Killed(KilledBy::Memory), 137, Some(9));
    }
}
