//! Connections to what listens inside sandboxes. Each is made inside and handed out; no address
//! of the host leads there.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use sandpit_messages::id::SandboxId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::super::job::{Job, Said};
use super::provider::failed;
use super::{LocalProvider, job};
use crate::provider::{Duplex, Ports, ProviderError};

/// Connections into one sandbox at once. Each is a descriptor of the node.
pub(super) const CONNECTIONS_MAX: usize = 128;

#[async_trait]
impl Ports for LocalProvider {
    async fn dial(
        &self,
        sandbox: SandboxId,
        port: u16,
    ) -> Result<Option<Box<dyn Duplex>>, ProviderError> {
        let sandbox = self.engine.find(sandbox)?;
        let place = Arc::clone(&sandbox.io.connections).try_acquire_owned().map_err(|_| {
            let what = format!("connections into the sandbox: {CONNECTIONS_MAX} at most");
            ProviderError::Quota { what }
        })?;
        let mut work = job::begin(&sandbox, &Job::Dial { port }, None).await?;
        match work.answer().await? {
            Said::Done => {}
            Said::Failed { errno: libc::ECONNREFUSED | libc::EADDRNOTAVAIL, .. } => {
                return Ok(None);
            }
            Said::Failed { errno: libc::ETIMEDOUT, .. } => {
                return Err(ProviderError::Timeout { maybe_done: false });
            }
            Said::Failed { errno, .. } => return Err(job::fault(errno, "a connection")),
            _ => return Err(job::another_question()),
        }
        let file = work.take_file().ok_or_else(|| failed("a connection got lost"))?;
        let stream = connected(file).map_err(failed)?;
        Ok(Some(Box::new(Dialed { stream, _place: place })))
    }
}

fn connected(file: OwnedFd) -> io::Result<TcpStream> {
    let stream = std::net::TcpStream::from(file);
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

/// A connection, and its place among those of its sandbox.
#[derive(Debug)]
struct Dialed {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Dialed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
