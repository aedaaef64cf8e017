//! Listens for TLS: handshakes are made beside each other, so that a client that is slow holds up nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes at the same time; more clients wait. Each costs some milliseconds and 40 KiB.
const HANDSHAKES_MAX: usize = 256;
/// A client that is slower than this is none.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Before it is tried again to accept where the machine has no more files.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// A listener whose connections have made their handshake.
pub(crate) struct TlsListener {
    address: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    pub(crate) fn new(listener: TcpListener, config: ServerConfig) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (to, accepted) = mpsc::channel(HANDSHAKES_MAX);
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), to));
        Ok(Self { address, accepted, accepting })
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, to: mpsc::Sender<Accepted>) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(problem) => {
                tracing::warn!(%problem, "cannot accept a connection");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        };
        let (acceptor, to) = (acceptor.clone(), to.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                // Nobody listens any more where it cannot be sent.
                Ok(Ok(stream)) => drop(to.send((stream, peer)).await),
                Ok(Err(problem)) => tracing::debug!(%peer, %problem, "a client did not come to speak TLS"),
                Err(_) => tracing::debug!(%peer, "a client was too slow to speak TLS"),
            }
            drop(permit);
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The task that accepts has ended, which only a defect of it could do.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
