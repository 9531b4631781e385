//! Reaching what listens inside a sandbox.

use sandpit_messages::id::SandboxId;
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::ProviderError;
use sandpit_sandbox::provider::processes::{ProcessEvent, StartRequest, Stdin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Engine, WAIT_MAX};

/// Answers each connection with what it was sent, and says which port it listens at.
const ECHO: &str = "
import socket, sys, threading
family = socket.AF_INET6 if sys.argv[1] == '6' else socket.AF_INET
listener = socket.socket(family)
listener.bind(('::1' if family == socket.AF_INET6 else '127.0.0.1', 0))
listener.listen(200)
print(listener.getsockname()[1], flush=True)
kept = []
while True:
    one, _ = listener.accept()
    kept.append(one)
    def answer(one=one):
        while data := one.recv(65536):
            one.sendall(data)
        one.close()
    threading.Thread(target=answer, daemon=True).start()
";

/// Starts it; which port it listens at.
async fn echo(engine: &Engine, sandbox: SandboxId, family: &str) -> u16 {
    let arguments = ["python3", "-c", ECHO, family].map(str::to_owned).into();
    let request = StartRequest { arguments, stdin: Stdin::Piped, ..StartRequest::default() };
    let processes = engine.provider.processes().unwrap();
    let mut attached = processes.start(sandbox, request).await.unwrap();
    let mut said = String::new();
    while !said.ends_with('\n') {
        let event = tokio::time::timeout(WAIT_MAX, attached.recv()).await.unwrap();
        match event.expect("it listens") {
            ProcessEvent::Stdout(bytes) => said.push_str(&String::from_utf8_lossy(&bytes)),
            ProcessEvent::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    said.trim().parse().unwrap()
}

#[tokio::test]
async fn a_server_inside_is_reached_over_either_loopback_address() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ports = engine.provider.ports().unwrap();
    for family in ["4", "6"] {
        let port = echo(&engine, sandbox, family).await;
        let mut stream = ports.dial(sandbox, port).await.unwrap().expect("somebody listens");
        let sent: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(writing.write_all(&sent), reading.read_exact(&mut got));
        assert!(wrote.is_ok() && read.is_ok() && got == sent);
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut got).await.unwrap(), 0, "it heard the end");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_nobody_also_if_the_host_or_another_sandbox_does() {
    let engine = Engine::start().await;
    let (sandbox, other) = (engine.create().await, engine.create().await);
    let ports = engine.provider.ports().unwrap();
    let on_host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = echo(&engine, other, "4").await;
    for port in [0, 1, 65_535, on_host.local_addr().unwrap().port(), elsewhere] {
        assert!(ports.dial(sandbox, port).await.unwrap().is_none(), "{port}");
    }
    engine.provider.destroy(sandbox).await.unwrap();
    let gone = ports.dial(sandbox, 80).await.unwrap_err();
    assert_eq!(gone, ProviderError::Gone(sandbox));
    engine.close().await;
}

#[tokio::test]
async fn connections_are_bounded_and_closed_ones_make_room() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ports = engine.provider.ports().unwrap();
    // It only listens: threads for all of them would not fit into the sandbox.
    let listen = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(500)\n\
                  s.getsockname()[1]";
    let port = engine.cell(sandbox, listen).await.result.unwrap().parse().unwrap();
    let mut open = Vec::new();
    let refused = loop {
        match ports.dial(sandbox, port).await {
            Ok(stream) => open.push(stream.expect("somebody listens")),
            Err(error) => break error,
        }
        assert!(open.len() <= 128);
    };
    assert!(matches!(refused, ProviderError::Quota { .. }), "{refused}");
    assert_eq!(open.len(), 128);
    open.pop();
    assert!(ports.dial(sandbox, port).await.unwrap().is_some());
    engine.close().await;
}

#[tokio::test]
async fn a_connection_ends_with_its_sandbox() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let port = echo(&engine, sandbox, "4").await;
    let ports = engine.provider.ports().unwrap();
    let mut stream = ports.dial(sandbox, port).await.unwrap().expect("somebody listens");
    engine.provider.destroy(sandbox).await.unwrap();
    let mut byte = [0];
    let ended = tokio::time::timeout(WAIT_MAX, stream.read(&mut byte)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    engine.close().await;
}
