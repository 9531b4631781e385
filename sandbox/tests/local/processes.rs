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
        let said =
            || String::from_utf8_lossy(&[&self.stdout[..], &self.terminal].concat()).into_owned();
        let event = event.unwrap_or_else(|_| panic!("nothing is said after {:?}", said()));
        match event.expect("an end is said") {
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

#[tokio::test]
async fn ten_mebibytes_come_out_whole_and_in_small_pieces() {
    let place = Place::make().await;
    let code = "import sys; sys.stdout.write('0123456789abcdef' * 655360)";
    let mut reader = place.start(line(&format!("python3 -c \"{code}\""))).await;
    let mut bytes = Vec::new();
    let end = loop {
        match reader.attached.recv().await.unwrap() {
            ProcessEvent::Stdout(piece) => {
                assert!(piece.len() <= 32 * 1024);
                bytes.extend_from_slice(&piece);
            }
            ProcessEvent::Ended(end) => break end,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((end, bytes.len()), (ProcessEnd::Exit(0), 10 * 1024 * 1024));
    assert!(bytes.chunks(16).all(|piece| piece == b"0123456789abcdef"));
    place.close().await;
}

#[tokio::test]
async fn a_process_has_its_environment_and_folder_and_nothing_of_the_host() {
    let place = Place::make().await;
    let request = StartRequest {
        env: BTreeMap::from([("OWN".to_owned(), "x y".to_owned())]),
        cwd: Some("/tmp".to_owned()),
        ..line("echo $OWN $PWD $HOME $USER $LOGNAME; id -u; cat; type -p python3")
    };
    let mut reader = place.start(request).await;
    assert_eq!(reader.end().await, ProcessEnd::Exit(0));
    let stdout = String::from_utf8_lossy(&reader.stdout).into_owned();
    let (known, python) = stdout.split_at(stdout.find("1000\n").unwrap() + 5);
    assert_eq!(known, "x y /tmp /home/user user user\n1000\n", "{stdout}");
    assert!(python.ends_with("/python3\n"), "{stdout}");
    assert_eq!(String::from_utf8_lossy(&reader.stderr), "");
    place.close().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let place = Place::make().await;
    let start = async |request| place.processes().start(place.sandbox, request).await.unwrap_err();
    let file = |path: &str, fault| ProviderError::File { path: path.to_owned(), fault };
    let program =
        |name: &str| StartRequest { arguments: vec![name.to_owned()], ..StartRequest::default() };
    let inside = |cwd: &str| StartRequest { cwd: Some(cwd.to_owned()), ..line("true") };
    assert_eq!(start(inside("/no/such")).await, file("/no/such", FileFault::Missing));
    assert_eq!(start(inside("/etc/passwd")).await, file("/etc/passwd", FileFault::NotDirectory));
    assert_eq!(start(program("no-such")).await, file("no-such", FileFault::Missing));
    assert_eq!(start(program("/etc/passwd")).await, file("/etc/passwd", FileFault::Denied));
    let nothing = StartRequest::default();
    let nul = StartRequest { arguments: vec!["a\0b".to_owned()], ..StartRequest::default() };
    let name = StartRequest { env: [("a=b".to_owned(), String::new())].into(), ..line("true") };
    for request in [nothing, nul, name, program("")] {
        assert!(matches!(start(request).await, ProviderError::Refused { .. }));
    }
    let long = start(line(&"x".repeat(300_000))).await;
    assert!(matches!(long, ProviderError::TooLarge { .. }), "{long}");
    let one = start(line(&"x".repeat(200_000))).await;
    assert!(matches!(one, ProviderError::Refused { .. }), "{one}");
    assert_eq!(place.processes().list(place.sandbox).await.unwrap(), []);
    place.close().await;
}

#[tokio::test]
async fn input_reaches_a_process_until_it_is_closed() {
    let place = Place::make().await;
    let mut reader = place.start(piped("read line; echo got $line; cat; echo end")).await;
    place.input(&reader, "first\n").await.unwrap();
    reader.until("got first\n").await;
    place.input(&reader, "rest ").await.unwrap();
    for _ in 0..2 {
        place.processes().close_input(place.sandbox, &reader.process()).await.unwrap();
    }
    let fault = |fault| ProviderError::Process { process: reader.process().to_string(), fault };
    let closed = fault(ProcessFault::NoInput);
    let refused = place.input(&reader, "late").await.unwrap_err();
    assert!(refused == closed || refused == fault(ProcessFault::Missing), "{refused}");
    assert_eq!(reader.end().await, ProcessEnd::Exit(0));
    assert_eq!(String::from_utf8_lossy(&reader.stdout), "got first\nrest end\n");
    place.close().await;
}

#[tokio::test]
async fn more_input_than_a_pipe_holds_arrives_and_one_who_reads_none_keeps_only_its_writer() {
    let place = Place::make().await;
    let mut reader = place.start(piped("wc -c")).await;
    place.input(&reader, &"x".repeat(3_000_000)).await.unwrap();
    place.processes().close_input(place.sandbox, &reader.process()).await.unwrap();
    reader.end().await;
    assert_eq!(String::from_utf8_lossy(&reader.stdout), "3000000\n");

    let mut deaf = place.start(piped("sleep 60")).await;
    let text = "x".repeat(1_000_000);
    let kill = async {
        // It is listed while its writer waits.
        let running = place.processes().list(place.sandbox).await.unwrap();
        assert_eq!(running.iter().map(|one| one.pid).collect::<Vec<_>>(), [deaf.pid]);
        let kill = ProcessSignal::Kill;
        place.processes().signal(place.sandbox, &deaf.process(), kill).await.unwrap();
    };
    let (written, ()) = tokio::join!(place.input(&deaf, &text), kill);
    assert!(matches!(written, Err(ProviderError::Process { .. })), "{written:?}");
    assert_eq!(deaf.end().await, ProcessEnd::Signal(9));
    place.close().await;
}

#[tokio::test]
async fn faults_of_input_and_of_terminals_are_told_apart() {
    let place = Place::make().await;
    let (processes, sandbox) = (place.processes(), place.sandbox);
    let deaf = place.start(line("sleep 60")).await.process();
    let size = TerminalSize { columns: 80, rows: 24 };
    let terminal = StartRequest { stdin: Stdin::Terminal(size), ..line("sleep 60") };
    let terminal = place.start(terminal).await.process();
    let nobody = ProcessRef::Pid(4_000);
    let stdin = || Input::Stdin(Bytes::from("x"));
    let typed = || Input::Terminal(Bytes::from("x"));
    let fault = |result: Result<(), ProviderError>| match result {
        Err(ProviderError::Process { fault, .. }) => Some(fault),
        other => panic!("{other:?}"),
    };
    let cases = [
        (processes.input(sandbox, &deaf, stdin()).await, ProcessFault::NoInput),
        (processes.input(sandbox, &deaf, typed()).await, ProcessFault::NoTerminal),
        (processes.input(sandbox, &terminal, stdin()).await, ProcessFault::HasTerminal),
        (processes.input(sandbox, &nobody, stdin()).await, ProcessFault::Missing),
        (processes.close_input(sandbox, &deaf).await, ProcessFault::NoInput),
        (processes.close_input(sandbox, &terminal).await, ProcessFault::HasTerminal),
        (processes.close_input(sandbox, &nobody).await, ProcessFault::Missing),
        (processes.resize(sandbox, &deaf, size).await, ProcessFault::NoTerminal),
        (processes.resize(sandbox, &nobody, size).await, ProcessFault::Missing),
        (processes.signal(sandbox, &nobody, ProcessSignal::Kill).await, ProcessFault::Missing),
    ];
    for (number, (result, want)) in cases.into_iter().enumerate() {
        assert_eq!(fault(result), Some(want), "case {number}");
    }
    place.close().await;
}

#[tokio::test]
async fn a_process_lives_on_without_readers_and_its_end_is_told_to_who_comes_late() {
    let place = Place::make().await;
    let tagged = StartRequest {
        tag: Some("server".to_owned()),
        ..piped("echo early; read line; echo late; exit 7")
    };
    let mut first = place.start(tagged).await;
    first.until("early").await;
    let process = first.process();
    drop(first);
    let by_tag = ProcessRef::Tag("server".to_owned());
    let running = place.processes().list(place.sandbox).await.unwrap();
    assert_eq!(running.len(), 1);
    assert_eq!(
        (running[0].tag.as_deref(), running[0].cwd.as_str()),
        (Some("server"), "/home/user")
    );

    let mut second = place.attach(&by_tag).await.unwrap();
    let mut third = place.attach(&process).await.unwrap();
    assert_eq!(ProcessRef::Pid(second.pid), process);
    place.input(&second, "go\n").await.unwrap();
    for reader in [&mut second, &mut third] {
        assert_eq!(reader.end().await, ProcessEnd::Exit(7));
        assert_eq!(String::from_utf8_lossy(&reader.stdout), "late\n");
    }
    let mut fourth = place.attach(&by_tag).await.unwrap();
    assert_eq!((fourth.end().await, fourth.stdout.len()), (ProcessEnd::Exit(7), 0));
    assert_eq!(place.processes().list(place.sandbox).await.unwrap(), []);
    assert!(place.attach(&ProcessRef::Tag("other".to_owned())).await.is_err());
    place.close().await;
}

#[tokio::test]
async fn one_who_does_not_read_slows_the_process_and_gets_everything_when_it_reads_again() {
    let place = Place::make().await;
    let mut reader = place.start(line("head -c 4000000 /dev/zero; touch done")).await;
    let mut slow = place.attach(&reader.process()).await.unwrap();
    let reading = async {
        let end = reader.end().await;
        (end, reader.stdout.len())
    };
    let waiting = async {
        // The quick one has read as far as both could, and the process has not gone on.
        let files = place.engine.provider.files().unwrap();
        let look = files.stat(place.sandbox, "done").await;
        assert!(look.is_err(), "it is held");
        slow.end().await
    };
    let ((end, read), slow_end) = tokio::join!(reading, waiting);
    assert_eq!((end, slow_end), (ProcessEnd::Exit(0), ProcessEnd::Exit(0)));
    assert_eq!(read, 4_000_000);
    place.close().await;
}

#[tokio::test]
async fn what_a_process_leaves_goes_on_and_does_not_hold_its_end() {
    let place = Place::make().await;
    let left = "(while sleep 0.01; do echo tick; date +%N > tick; done) & echo main";
    let mut reader = place.start(line(left)).await;
    assert_eq!(reader.end().await, ProcessEnd::Exit(0));
    assert!(String::from_utf8_lossy(&reader.stdout).contains("main\n"));
    let seen = place.engine.line(place.sandbox, "cat tick").await.stdout;
    let changed = "while [ \"$(cat tick)\" = \"$1\" ]; do sleep 0.01; done";
    let arguments = ["/bin/sh", "-c", changed, "sh", seen.trim()].map(str::to_owned).into();
    let mut later = place.start(StartRequest { arguments, ..StartRequest::default() }).await;
    assert_eq!(later.end().await, ProcessEnd::Exit(0));
    place.close().await;
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let place = Place::make().await;
    let mut reader = place.start(line("sleep 60 & echo child; wait")).await;
    reader.until("child").await;
    let process = reader.process();
    let term = ProcessSignal::Term;
    place.processes().signal(place.sandbox, &process, term).await.unwrap();
    assert_eq!(reader.end().await, ProcessEnd::Signal(15));
    let ran = place.engine.line(place.sandbox, "set -- /proc/[0-9]*; echo $#").await;
    assert_eq!(ran.stdout, "3\n", "init, worker, sh");
    let again = place.processes().signal(place.sandbox, &process, term).await.unwrap_err();
    assert!(matches!(again, ProviderError::Process { fault: ProcessFault::Missing, .. }));
    place.close().await;
}

#[tokio::test]
async fn a_deadline_asks_then_kills_also_those_who_do_not_listen_and_without_readers() {
    let place = Place::make().await;
    let timed =
        |text: &str| StartRequest { time_max: Some(Duration::from_millis(500)), ..line(text) };
    let mut reader = place.start(timed("sleep 60")).await;
    assert_eq!(reader.end().await, ProcessEnd::Deadline);

    let deaf = "trap '' TERM; (trap '' TERM; sleep 60; sleep 60) & while :; do sleep 0.05; done";
    let reader = place.start(timed(deaf)).await;
    let process = reader.process();
    drop(reader);
    let mut late = place.attach(&process).await.unwrap();
    assert_eq!(late.end().await, ProcessEnd::Deadline);

    let child = "(trap '' TERM; sleep 60) & wait";
    let mut reader = place.start(timed(child)).await;
    assert_eq!(reader.end().await, ProcessEnd::Deadline);
    let gone = "while set -- /proc/[0-9]*; [ $# -gt 3 ]; do sleep 0.02; done; echo $#";
    assert_eq!(place.engine.line(place.sandbox, gone).await.stdout, "3\n", "init, worker, sh");
    place.close().await;
}

#[tokio::test]
async fn a_terminal_is_a_controlling_one_and_can_be_resized() {
    let place = Place::make().await;
    let request = StartRequest {
        arguments: ["/bin/bash", "-i", "-l"].map(str::to_owned).into(),
        env: BTreeMap::from([("TERM".to_owned(), "xterm".to_owned())]),
        stdin: Stdin::Terminal(TerminalSize { columns: 80, rows: 24 }),
        ..StartRequest::default()
    };
    let mut reader = place.start(request).await;
    let process = reader.process();
    let (processes, sandbox) = (place.processes(), place.sandbox);
    let enter = async |reader: &mut Reader, text: &str| {
        // What is typed before the shell listens may be echoed twice.
        reader.until("$ ").await;
        reader.terminal.clear();
        let input = Input::Terminal(Bytes::from(format!("{text}\n")));
        processes.input(sandbox, &process, input).await.unwrap();
    };
    enter(&mut reader, "tty; stty size; echo a$((1+1))b > /dev/tty").await;
    reader.until("a2b").await;
    let said = String::from_utf8_lossy(&reader.terminal).into_owned();
    assert!(said.contains("/dev/pts/0") && said.contains("24 80"), "{said}");

    let size = TerminalSize { columns: 132, rows: 50 };
    processes.resize(sandbox, &process, size).await.unwrap();
    enter(&mut reader, "stty size").await;
    reader.until("50 132").await;
    // The interrupt character ends what runs in front, and not the shell.
    enter(&mut reader, "sh -c 'echo x$((3+3))y; exec sleep 60'").await;
    reader.until("x6y").await;
    processes.input(sandbox, &process, Input::Terminal(Bytes::from("\u{3}"))).await.unwrap();
    enter(&mut reader, "echo c$((2+2))d $?").await;
    reader.until("c4d 130").await;
    let mut second = place.attach(&process).await.unwrap();
    enter(&mut reader, "exit 5").await;
    assert_eq!(reader.end().await, ProcessEnd::Exit(5));
    assert_eq!(second.end().await, ProcessEnd::Exit(5));
    place.close().await;
}

#[tokio::test]
async fn terminals_are_bounded_and_those_that_ended_make_room() {
    let place = Place::make().await;
    let size = TerminalSize { columns: 80, rows: 24 };
    let request = || StartRequest { stdin: Stdin::Terminal(size), ..line("sleep 60") };
    let mut readers = Vec::new();
    let refused = loop {
        match place.processes().start(place.sandbox, request()).await {
            Ok(attached) => readers.push(Reader::new(attached).await),
            Err(error) => break error,
        }
        assert!(readers.len() <= 64);
    };
    assert!(matches!(refused, ProviderError::Quota { .. }), "{refused}");
    assert!(readers.len() >= 16, "{}", readers.len());
    let mut last = readers.pop().unwrap();
    let kill = ProcessSignal::Kill;
    place.processes().signal(place.sandbox, &last.process(), kill).await.unwrap();
    assert_eq!(last.end().await, ProcessEnd::Signal(9));
    let mut again = request();
    again.arguments = vec!["/bin/true".to_owned()];
    let mut reader = place.start(again).await;
    assert_eq!(reader.end().await, ProcessEnd::Exit(0));
    place.close().await;
}

#[tokio::test]
async fn a_process_that_hangs_up_or_floods_harms_nobody() {
    let place = Place::make().await;
    let size = TerminalSize { columns: 80, rows: 24 };
    let flood = StartRequest {
        stdin: Stdin::Terminal(size),
        ..line("stty raw; exec < /dev/null; cat /dev/zero")
    };
    let mut flood = place.start(flood).await;
    flood.next().await;
    for columns in 1..500 {
        let size = TerminalSize { columns, rows: 1 };
        place.processes().resize(place.sandbox, &flood.process(), size).await.unwrap();
    }
    let closed = "exec < /dev/null > /dev/null 2>&1; sleep 0.1";
    let closed = StartRequest { stdin: Stdin::Terminal(size), ..line(closed) };
    let mut closed = place.start(closed).await;
    assert_eq!(closed.end().await, ProcessEnd::Exit(0));
    let ran = place.engine.line(place.sandbox, "echo fine").await;
    assert_eq!(ran.stdout, "fine\n");
    place.close().await;
}

#[tokio::test]
async fn readers_of_a_sandbox_that_ends_are_told() {
    let place = Place::make().await;
    let mut reader = place.start(line("sleep 60")).await;
    let process = reader.process();
    place.engine.provider.destroy(place.sandbox).await.unwrap();
    assert_eq!(reader.end().await, ProcessEnd::Lost);
    let gone = place.attach(&process).await.err().unwrap();
    assert_eq!(gone, ProviderError::Gone(place.sandbox));
    place.close().await;
}

#[tokio::test]
async fn a_start_that_nobody_waited_for_is_known_all_the_same() {
    let place = Place::make().await;
    {
        let mut starting = place.processes().start(place.sandbox, line("sleep 60"));
        tokio::select! {
            biased;
            _ = &mut starting => panic!("it takes longer than nothing"),
            () = std::future::ready(()) => {}
        }
    }
    let listed = async {
        while place.processes().list(place.sandbox).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT_MAX, listed).await.expect("it is listed");
    place.close().await;
}

#[tokio::test]
async fn a_pause_lets_readers_go_and_the_process_has_all_of_its_time_afterwards() {
    let place = Place::make().await;
    let pausing = place.engine.provider.pausing().unwrap();
    let time_max = Duration::from_secs(4);
    let request = StartRequest {
        time_max: Some(time_max),
        ..piped("echo ready; read line; echo $line; sleep 60")
    };
    let mut reader = place.start(request).await;
    let process = reader.process();
    reader.until("ready").await;
    pausing.pause(place.sandbox).await.unwrap();
    assert_eq!(reader.end().await, ProcessEnd::Lost);
    let paused = ProviderError::Paused(place.sandbox);
    assert_eq!(place.attach(&process).await.err().unwrap(), paused);
    assert_eq!(place.input(&reader, "x\n").await.unwrap_err(), paused);
    let stat = place.engine.provider.files().unwrap().stat(place.sandbox, "").await;
    assert_eq!(stat.unwrap_err(), paused);
    let dialed = place.engine.provider.ports().unwrap().dial(place.sandbox, 80).await;
    assert_eq!(dialed.unwrap_err(), paused);
    tokio::time::sleep(time_max + Duration::from_millis(500)).await;

    pausing.resume(place.sandbox).await.unwrap();
    let mut again = place.attach(&process).await.unwrap();
    place.input(&reader, "still here\n").await.unwrap();
    again.until("still here").await;
    assert_eq!(again.end().await, ProcessEnd::Deadline);
    place.close().await;
}
