//! A way to a cloud on which things go wrong: as drawn, or always.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sandpit_sandbox::guard::dice::Dice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest time somebody waits in a black hole, should nobody give up.
const HOLE_MAX: Duration = Duration::from_secs(120);

/// Bytes of the longest request.
const REQUEST_MAX: usize = 16 << 20;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It takes longer.
    Late,
    /// The connection is reset before the request gets there.
    Reset,
    /// It is reset in the middle of the answer.
    Torn,
    /// The cloud is said to be asked too often; come again in a second.
    Throttled,
    /// The cloud is said to be full.
    Full,
    /// Something in between fails with 500, 502, 503 or 504.
    Broken,
    /// It vanishes, and no answer comes.
    Hole,
    /// It is done, and its answer vanishes.
    Lost,
    /// It is done, and its answer does not come.
    Held,
}

/// What goes wrong with all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Fair,
    /// Of a hundred requests so many, one fault as likely as the other.
    Rough(u64),
    /// Nothing gets through: connections are refused or reset.
    Outage,
    /// Every answer to a request that begins so is lost, the request is done.
    Losing(String),
    /// Every answer to a request that begins so is held back, the request is done.
    Holding(String),
}

/// The proxy. It ends with this.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    cloud: SocketAddr,
    weather: Mutex<Weather>,
    dice: Mutex<Dice>,
    late: Duration,
    seen: Mutex<Seen>,
}

/// What the proxy saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests.
    pub requests: u64,
    /// Faults, each kind with its count.
    pub faults: std::collections::BTreeMap<Fault, u64>,
    /// Requests that are done and whose answer is held back.
    pub held: u64,
}

impl Proxy {
    /// A way to `cloud`. What is late is later by `late`.
    ///
    /// # Panics
    /// Without a free port.
    pub async fn start(cloud: SocketAddr, weather: Weather, late: Duration, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            cloud,
            weather: Mutex::new(weather),
            dice: Mutex::new(Dice::new(seed)),
            late,
            seen: Mutex::default(),
        });
        let for_all = Arc::clone(&shared);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&for_all);
                // A client that goes away is its own affair.
                tokio::spawn(async move { drop(shared.pass(client).await) });
            }
        });
        Self { address, shared, serving }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what goes wrong from now on.
    pub fn change(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// What it saw so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    /// What goes wrong with this request.
    fn draw(&self, head: &str) -> Option<Fault> {
        let weather = self.weather.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = match weather {
            Weather::Fair => None,
            Weather::Rough(percent) if dice.bits() % 100 < percent => {
                let all = [
                    Fault::Late,
                    Fault::Reset,
                    Fault::Torn,
                    Fault::Throttled,
                    Fault::Full,
                    Fault::Broken,
                    Fault::Hole,
                    Fault::Lost,
                ];
                let nth = usize::try_from(dice.bits() % 8).expect("below eight");
                let is_creation = head.starts_with("POST /v2/sandboxes HTTP");
                // Only creations can find a cloud full.
                Some(all[nth]).map(|fault| match fault {
                    Fault::Full if !is_creation => Fault::Throttled,
                    fault => fault,
                })
            }
            Weather::Rough(_) => None,
            Weather::Outage => Some(Fault::Reset),
            Weather::Losing(begin) => head.starts_with(&begin).then_some(Fault::Lost),
            Weather::Holding(begin) => head.starts_with(&begin).then_some(Fault::Held),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.requests += 1;
        if let Some(fault) = fault {
            *seen.faults.entry(fault).or_default() += 1;
        }
        fault
    }

    /// One request and its answer; then the connection closes.
    async fn pass(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let request = read_request(&mut client).await?;
        let head = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        let fault = self.draw(&head);
        match fault {
            Some(Fault::Reset) => return reset(client),
            Some(Fault::Throttled) => {
                return say(client, "429 Too Many Requests", "retry-after: 1\r\n", "slow down")
                    .await;
            }
            Some(Fault::Full) => {
                return say(client, "429 Too Many Requests", "", "no room").await;
            }
            Some(Fault::Broken) => {
                let nth = {
                    let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
                    usize::try_from(dice.bits() % 4).expect("below four")
                };
                let status = ["500 Error", "502 Error", "503 Error", "504 Error"][nth];
                return say(client, status, "", "broken").await;
            }
            Some(Fault::Hole) => {
                given_up(client).await;
                return Ok(());
            }
            Some(Fault::Late) => tokio::time::sleep(self.late).await,
            Some(Fault::Torn | Fault::Lost | Fault::Held) | None => (),
        }
        let mut cloud = TcpStream::connect(self.cloud).await?;
        cloud.set_nodelay(true)?;
        cloud.write_all(&request).await?;
        match fault {
            Some(Fault::Lost) => {
                let mut answer = Vec::new();
                cloud.read_to_end(&mut answer).await?;
                reset(client)
            }
            Some(Fault::Held) => {
                let mut answer = Vec::new();
                cloud.read_to_end(&mut answer).await?;
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).held += 1;
                given_up(client).await;
                Ok(())
            }
            Some(Fault::Torn) => {
                let mut answer = Vec::new();
                cloud.read_to_end(&mut answer).await?;
                client.write_all(&answer[..answer.len() / 2]).await?;
                client.flush().await?;
                reset(client)
            }
            _ => {
                tokio::io::copy(&mut cloud, &mut client).await?;
                client.shutdown().await
            }
        }
    }
}

/// Waits until the client has gone.
async fn given_up(mut client: TcpStream) {
    let mut rest = [0; 64];
    let gone = async { while client.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    // Nobody waits longer, either.
    drop(tokio::time::timeout(HOLE_MAX, gone).await);
}

/// Closes it so that the other side notices.
fn reset(client: TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()?;
    drop(client);
    Ok(())
}

async fn say(
    mut client: TcpStream,
    status: &str,
    headers: &str,
    message: &str,
) -> std::io::Result<()> {
    let code = &status[..3];
    let body = format!(r#"{{"code":{code},"message":"{message}"}}"#);
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n{headers}\r\n{body}"
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// A whole request, which asks for the connection to be closed after its answer.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let lines = || head.lines().filter_map(|line| line.split_once(':'));
            let value = |name| lines().find(|(key, _)| *key == name).map(|(_, value)| value.trim());
            let is_whole = match value("content-length").and_then(|text| text.parse::<usize>().ok())
            {
                Some(length) => bytes.len() >= end + 4 + length,
                None if value("transfer-encoding") == Some("chunked") => {
                    bytes.ends_with(b"0\r\n\r\n")
                }
                None => true,
            };
            if is_whole {
                let at = find(&bytes, b"\r\n").unwrap_or(end) + 2;
                bytes.splice(at..at, *b"connection: close\r\n");
                return Ok(bytes);
            }
        }
        let read = client.read(&mut piece).await?;
        if read == 0 || bytes.len() > REQUEST_MAX {
            return Err(cut());
        }
        bytes.extend_from_slice(&piece[..read]);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
