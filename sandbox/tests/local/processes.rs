//! Processes that live on their own, and those who read them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::ProviderError;
use sandpit_sandbox::provider::files::FileFault;
use sandpit_sandbox::provider::processes::{
    Attached, Input, ProcessEnd, ProcessEvent, ProcessFault, ProcessRef, ProcessSignal, Processes,
    StartRequest, Stdin, TerminalSize,
};

use crate::support::{Engine, WAIT_MAX};

/// A sandbox, and its processes.
struct Place {
    engine: Engine,
    sandbox: SandboxId,
}

/// A process that is read.
struct Reader {
    pid: u32,
    attached: Attached,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    terminal: Vec<u8>,
}

impl Reader {
    async fn new(mut attached: Attached) -> Self {
        let first = attached.recv().await;
        let Some(ProcessEvent::Started { pid }) = first else { panic!("{first:?}") };
        Self { pid, attached, stdout: vec![], stderr: vec![], terminal: vec![] }
    }

    fn process(&self) -> ProcessRef {
        ProcessRef::Pid(self.pid)
    }

    /// Takes one event in; the end, if it is that.
    async fn next(&mut self) -> Option<ProcessEnd> {
        let event = tokio::time::timeout(WAIT_MAX, self.attached.recv()).await;
        match event.expect("something is said in time").expect("an end is said") {
            ProcessEvent::Stdout(bytes) => self.stdout.extend_from_slice(&bytes),
            ProcessEvent::Stderr(bytes) => self.stderr.extend_from_slice(&bytes),
            ProcessEvent::Terminal(bytes) => self.terminal.extend_from_slice(&bytes),
            ProcessEvent::Ended(end) => return Some(end),
            event @ ProcessEvent::Started { .. } => panic!("{event:?} twice"),
        }
        None
    }

    async fn end(&mut self) -> ProcessEnd {
        loop {
            if let Some(end) = self.next().await {
                assert!(self.attached.recv().await.is_none(), "nothing follows the end");
                return end;
            }
        }
    }

    async fn until(&mut self, text: &str) {
        let all = |reader: &Self| [&reader.stdout[..], &reader.terminal].concat();
        while !String::from_utf8_lossy(&all(self)).contains(text) {
            let end = self.next().await;
            assert_eq!(end, None, "without {text:?}: {}", String::from_utf8_lossy(&all(self)));
        }
    }
}

fn line(line: &str) -> StartRequest {
    let arguments = ["/bin/bash", "-l", "-c", line].map(str::to_owned).into();
    StartRequest { arguments, ..StartRequest::default() }
}

fn piped(text: &str) -> StartRequest {
    StartRequest { stdin: Stdin::Piped, ..line(text) }
}

impl Place {
    async fn make() -> Self {
        let engine = Engine::start().await;
        let sandbox = engine.create().await;
        Self { engine, sandbox }
    }

    fn processes(&self) -> &dyn Processes {
        self.engine.provider.processes().unwrap()
    }

    async fn start(&self, request: StartRequest) -> Reader {
        Reader::new(self.processes().start(self.sandbox, request).await.unwrap()).await
    }

    async fn attach(&self, process: &ProcessRef) -> Result<Reader, ProviderError> {
        Ok(Reader::new(self.processes().attach(self.sandbox, process).await?).await)
    }

    async fn input(&self, reader: &Reader, text: &str) -> Result<(), ProviderError> {
        let input = Input::Stdin(Bytes::copy_from_slice(text.as_bytes()));
        self.processes().input(self.sandbox, &reader.process(), input).await
    }

    async fn close(self) {
        self.engine.close().await;
    }
}

#[tokio::test]
async fn a_process_says_what_it_writes_and_how_it_ends() {
    let place = Place::make().await;
    let mut reader = place.start(line("echo out; echo err >&2; exit 3")).await;
    assert!(reader.pid > 1);
    assert_eq!(reader.end().await, ProcessEnd::Exit(3));
    assert_eq!((&reader.stdout[..], &reader.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    let mut reader = place.start(line("kill -SEGV $$")).await;
    assert_eq!(reader.end().await, ProcessEnd::Signal(11));
    place.close().await;
}
