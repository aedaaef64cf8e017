//! Listens for TLS: handshakes are made beside each other, so that a client that is slow holds up nobody.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes at the same time; who comes when there are so many is sent away. Each costs some milliseconds and 40 KiB.
const HANDSHAKES_MAX: usize = 256;
/// Those of one address, so that nobody keeps all others out by saying nothing.
const HANDSHAKES_EACH: usize = 32;
/// A client that is slower than this is none.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

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

/// Who has one IPv6 address has many: their network is counted.
pub(crate) fn household(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        },
        v4 => v4,
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

async fn accept(mut listener: TcpListener, acceptor: TlsAcceptor, to: mpsc::Sender<Accepted>) {
    let rooms = Arc::new(Rooms::default());
    loop {
        let (stream, peer) = Listener::accept(&mut listener).await;
        let Some(room) = Room::enter(&rooms, household(peer.ip())) else {
            tracing::debug!(%peer, "too many clients are beginning to speak TLS");
            continue;
        };
        let (acceptor, to) = (acceptor.clone(), to.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                // Nobody listens any more where it cannot be sent.
                Ok(Ok(stream)) => drop(to.send((stream, peer)).await),
                Ok(Err(problem)) => tracing::debug!(%peer, %problem, "a client did not come to speak TLS"),
                Err(_) => tracing::debug!(%peer, "a client was too slow to speak TLS"),
            }
            drop(room);
        });
    }
}

/// The handshakes under way, by the address that they come from.
type Rooms = Mutex<BTreeMap<IpAddr, usize>>;

/// A handshake under way.
struct Room {
    rooms: Arc<Rooms>,
    of: IpAddr,
}

impl Room {
    fn enter(rooms: &Arc<Rooms>, of: IpAddr) -> Option<Self> {
        let mut taken = rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.entry(of).or_default();
        let free = all < HANDSHAKES_MAX && *own < HANDSHAKES_EACH;
        if free {
            *own += 1;
        } else if *own == 0 {
            taken.remove(&of);
        }
        free.then(|| Self { rooms: rooms.clone(), of })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.of) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.of)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_keep_the_others_out() {
        let rooms = Arc::new(Rooms::default());
        let enter = |text: &str| Room::enter(&rooms, text.parse().expect("an address"));
        let silent: Vec<_> = (0..2 * HANDSHAKES_EACH).filter_map(|_| enter("10.0.0.1")).collect();
        assert_eq!(silent.len(), HANDSHAKES_EACH);
        assert!(enter("10.0.0.2").is_some());
        let many: Vec<_> = (0..255_u8).filter_map(|n| enter(&format!("10.0.1.{n}"))).collect();
        assert_eq!(silent.len() + many.len(), HANDSHAKES_MAX);
        assert!(enter("10.0.0.3").is_none());
        drop((silent, many));
        assert!(rooms.lock().expect("whole").is_empty(), "nothing is left of who has gone");
    }

    #[test]
    fn networks_are_counted_and_not_addresses() {
        let same = |a: &str, b: &str| {
            let [a, b] = [a, b].map(|text| household(text.parse().expect("an address")));
            a == b
        };
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
    }
}
