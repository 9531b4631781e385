//! The face on standard input and output: nothing but the protocol is written there.

use std::io;

use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use rmcp::transport::io::stdio_pipes;
use tokio::sync::oneshot;

use super::Face;

/// Answers until standard input ends, on a thread and a runtime of its own: whatever else this
/// process does is not held up by it.
///
/// # Errors
/// If there can be no such thread, or its runtime cannot start.
pub async fn serve(face: Face) -> io::Result<()> {
    let (told, ended) = oneshot::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let served = runtime.map(|runtime| runtime.block_on(answer(face)));
        // Nobody waits any more if the node gave up.
        drop(told.send(served));
    };
    std::thread::Builder::new().name("mcp".to_owned()).spawn(work)?;
    ended.await.map_err(|_| io::Error::other("the MCP thread ended early"))?
}

async fn answer(face: Face) {
    let running = match face.clone().serve(stdio_pipes()).await {
        Ok(running) => running,
        // Whoever hangs up before saying anything wanted nothing.
        Err(ServerInitializeError::ConnectionClosed(_)) => return,
        Err(error) => {
            tracing::warn!(%error, "no MCP session came about");
            return;
        }
    };
    // It ends when its input does.
    if let Err(error) = running.waiting().await {
        tracing::warn!(%error, "the MCP session broke");
    }
    face.close();
    face.settled().await;
}
