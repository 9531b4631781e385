//! A wire that tests may cut and freeze.

use std::sync::Arc;
use std::time::Duration;

use sandpit_actors::clock::Clock;
use sandpit_messages::time::Moment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections stay, and nothing moves.
    Frozen,
    /// Connections end, and new ones end at once.
    Cut,
}

/// Bytes that a slow wire holds at most.
const HELD_MAX: usize = 1_024;

/// Stands between a client and a server.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    way: Arc<watch::Sender<Way>>,
    _serving: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(url: &str) -> Self {
        Self::slow(url, Duration::ZERO).await
    }

    /// Every byte takes this long, each way.
    pub(crate) async fn slow(url: &str, delay: Duration) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, server, delay, Arc::clone(&way)));
        Self { port, way, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn open(&self) {
        self.way.send_replace(Way::Open);
    }

    pub(crate) fn freeze(&self) {
        self.way.send_replace(Way::Frozen);
    }

    pub(crate) fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }
}

async fn accept(
    listener: TcpListener,
    server: String,
    delay: Duration,
    way: Arc<watch::Sender<Way>>,
) {
    let mut pipes = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        if *way.borrow() == Way::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(&server).await else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        pipes.spawn(pipe(from_client, to_server, delay, way.subscribe()));
        pipes.spawn(pipe(from_server, to_client, delay, way.subscribe()));
    }
}

async fn pipe(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Duration,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut cut = way.clone();
    let clock = Clock::start();
    let (hold, mut held) = mpsc::channel::<(Moment, Vec<u8>)>(HELD_MAX);
    let reading = async {
        while way.wait_for(|way| *way == Way::Open).await.is_ok() {
            let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
            let due = clock.now() + delay;
            if hold.send((due, buffer[..bytes].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let mut open = cut.clone();
    let writing = async {
        while let Some((due, bytes)) = held.recv().await {
            tokio::time::sleep_until(clock.instant(due)).await;
            let open = open.wait_for(|way| *way == Way::Open).await.is_ok();
            if !open || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => (),
        () = writing => (),
        _ = cut.wait_for(|way| *way == Way::Cut) => (),
    }
}
