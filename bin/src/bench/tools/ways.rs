//! The ways in which a tool is called: the least that each needs, so that what is measured is the
//! face and not a client library.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use sandpit_actors::bus::AskError;
use sandpit_messages::id::RequestId;
use sandpit_messages::tool::{self, Tool};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::bench::BenchError;
use crate::client::{Client, Relayed};

/// The revision that is spoken: requests that stand for themselves.
const REVISION: &str = "2026-07-28";
/// Bytes of one line or head that is read.
const LINE_MAX: u64 = 1024 * 1024;

/// One way.
pub(super) enum Way {
    Nats(Client),
    Stdio(Box<Pipes>),
    Http(Box<Connection>),
}

/// A face of a process of its own.
pub(super) struct Pipes {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    number: u64,
    /// Killed when this is dropped.
    _process: Child,
}

/// A connection that is kept open.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
    number: u64,
}

impl Way {
    pub(super) fn nats(client: Client) -> Self {
        Self::Nats(client)
    }

    /// `sandpit mcp`, joined to the node that keeps its things there.
    pub(super) async fn stdio(data: &Path) -> Result<Self, BenchError> {
        let program = std::env::current_exe().map_err(|error| BenchError::of("itself", &error))?;
        let mut command = Command::new(program);
        command.arg("--data").arg(data).arg("mcp").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = command.spawn().map_err(|error| BenchError::of("the face", &error))?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (input, output) = pipes.ok_or_else(|| BenchError::new("the face has no pipes"))?;
        let output = BufReader::new(output);
        Ok(Self::Stdio(Box::new(Pipes { input, output, number: 0, _process: process })))
    }

    pub(super) async fn http(address: SocketAddr) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|error| BenchError::of("the HTTP face", &error))?;
        stream.set_nodelay(true).map_err(|error| BenchError::of("the HTTP face", &error))?;
        let stream = BufReader::new(stream);
        Ok(Self::Http(Box::new(Connection { stream, address, number: 0 })))
    }

    /// Calls a tool and hands back its result.
    pub(super) async fn call(&mut self, name: &str, arguments: Value) -> Result<Value, BenchError> {
        let answer = match self {
            Self::Nats(client) => return Ok(relay(client, name, &arguments).await?),
            Self::Stdio(pipes) => {
                pipes.number += 1;
                pipes.call(&question(pipes.number, name, arguments)).await
            }
            Self::Http(connection) => {
                connection.number += 1;
                connection.call(name, &question(connection.number, name, arguments)).await
            }
        };
        let answer = answer.map_err(|error| BenchError::of(name, &error))?;
        let mut answer: Value =
            serde_json::from_str(&answer).map_err(|error| BenchError::of(name, &error))?;
        if answer["result"]["isError"] != false {
            return Err(BenchError::new(format!("{name} answered {answer}")));
        }
        Ok(answer["result"]["structuredContent"].take())
    }
}

async fn relay(client: &Client, name: &str, arguments: &Value) -> Result<Value, AskError> {
    let tool = Tool::named(name).expect("one of the tools");
    let is_it = |one: &&tool::Offered| one.verb.as_str() == tool.verb;
    let offered = tool::offered().iter().find(is_it).expect("it is offered");
    let relayed = Relayed {
        verb: tool.name,
        replay: offered.replay,
        patience: offered.patience.default,
        key: None,
        request: RequestId::minted(rand::random()),
    };
    client.relay(relayed, arguments).await
}

fn question(number: u64, name: &str, arguments: Value) -> String {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientInfo": { "name": "bench", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({ "name": name, "arguments": arguments, "_meta": meta });
    json!({ "jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params }).to_string()
}

impl Pipes {
    async fn call(&mut self, question: &str) -> std::io::Result<String> {
        self.input.write_all(format!("{question}\n").as_bytes()).await?;
        self.input.flush().await?;
        line(&mut self.output).await
    }
}

impl Connection {
    async fn call(&mut self, name: &str, question: &str) -> std::io::Result<String> {
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: \
             application/json, text/event-stream\r\nMCP-Protocol-Version: {REVISION}\r\nMcp-Method: \
             tools/call\r\nMcp-Name: {name}\r\nContent-Length: {}\r\n\r\n",
            crate::mcp::http::PATH,
            self.address,
            question.len(),
        );
        self.stream.write_all(format!("{head}{question}").as_bytes()).await?;
        self.stream.flush().await?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let header = line(&mut self.stream).await?.to_ascii_lowercase();
            let header = header.trim();
            if header.is_empty() {
                break;
            }
            if let Some(text) = header.strip_prefix("content-length:") {
                length = text.trim().parse().map_err(std::io::Error::other)?;
            }
            chunked |= header.starts_with("transfer-encoding:") && header.ends_with("chunked");
        }
        let body = if chunked { self.chunks().await? } else { self.bytes(length).await? };
        let body = String::from_utf8(body).map_err(std::io::Error::other)?;
        // Of a stream of events the last that holds data is the answer.
        let mut data = body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        let last = data.rfind(|data| !data.is_empty());
        Ok(last.unwrap_or(&body).to_owned())
    }

    async fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = line(&mut self.stream).await?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
            body.extend(self.bytes(size).await?);
            line(&mut self.stream).await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }
}

async fn line(from: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<String> {
    let mut line = String::new();
    let read = from.take(LINE_MAX).read_line(&mut line).await?;
    if read == 0 {
        return Err(std::io::Error::other("it hung up"));
    }
    Ok(line)
}
