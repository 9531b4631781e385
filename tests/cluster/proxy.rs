//! A wire that tests may cut and freeze.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections stay, and nothing moves.
    Frozen,
    /// Connections end, and new ones end at once.
    Cut,
}

/// Stands between a client and a server.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    way: Arc<watch::Sender<Way>>,
    _serving: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(url: &str) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, server, Arc::clone(&way)));
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

async fn accept(listener: TcpListener, server: String, way: Arc<watch::Sender<Way>>) {
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
        pipes.spawn(pipe(from_client, to_server, way.subscribe()));
        pipes.spawn(pipe(from_server, to_client, way.subscribe()));
    }
}

async fn pipe(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut cut = way.clone();
    let moving = async {
        while way.wait_for(|way| *way == Way::Open).await.is_ok() {
            let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
            let open = way.wait_for(|way| *way == Way::Open).await.is_ok();
            if !open || to.write_all(&buffer[..bytes]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = moving => (),
        _ = cut.wait_for(|way| *way == Way::Cut) => (),
    }
}
