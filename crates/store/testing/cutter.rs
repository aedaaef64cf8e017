//! A proxy before ZooKeeper that loses answers and requests on order. Included by the tests that use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a cut loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// What the server answers, from here on; requests arrive for a little longer.
    Answers,
    /// What it is asked.
    Requests,
    /// The same, in the middle of a request.
    WithinRequest,
    /// Both at once.
    Both,
}

/// What all connections are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    /// Connections that began before the last cut are over.
    cuts: u64,
    kind: Cut,
    /// Nothing goes in either direction.
    held: bool,
    /// Of what servers answer only that they live gets through.
    mute: bool,
}

/// A proxy on a port of its own.
pub(crate) struct Cutter {
    address: String,
    orders: watch::Sender<Order>,
    /// Bytes that have gone to servers.
    sent: Arc<AtomicU64>,
    /// Connections that are there now.
    inside: Arc<AtomicU64>,
    moved: watch::Receiver<u64>,
}

impl Cutter {
    /// Listens before these servers.
    pub(crate) async fn start(hosts: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let (orders, _) = watch::channel(Order { cuts: 0, kind: Cut::Both, held: false, mute: false });
        let (told, moved) = watch::channel(0);
        let (told, sent) = (Arc::new(told), Arc::new(AtomicU64::new(0)));
        let hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        let (subscribe, count) = (orders.clone(), sent.clone());
        let inside = Arc::new(AtomicU64::new(0));
        let counted = inside.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                // Each time another server, so that sessions move as well.
                let Ok(server) = TcpStream::connect(&hosts[n % hosts.len()]).await else { continue };
                let carried = carry(client, server, subscribe.subscribe(), count.clone(), told.clone());
                let counted = counted.clone();
                tokio::spawn(async move {
                    counted.fetch_add(1, Ordering::Relaxed);
                    carried.await;
                    counted.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, orders, sent, inside, moved }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Bytes that have gone to servers so far.
    #[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Cuts all connections when so many more bytes have gone to servers, or when nothing goes there any more.
    pub(crate) async fn cut_after(&self, kind: Cut, bytes: u64) {
        let mut moved = self.moved.clone();
        let goal = self.sent.load(Ordering::Relaxed) + bytes;
        let reached = moved.wait_for(|sent| *sent >= goal);
        // The driver may have come to its end.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(3), reached).await;
        self.orders.send_modify(|order| (order.cuts, order.kind) = (order.cuts + 1, kind));
    }

    /// Lets nothing through, but keeps connections.
    pub(crate) fn hold(&self) {
        self.orders.send_modify(|order| order.held = true);
    }

    /// Servers take what they are asked, and answer nothing but pings: sessions live, and whoever asks waits.
    #[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
    pub(crate) fn mute(&self) {
        self.orders.send_modify(|order| order.mute = true);
    }

    /// How many connections there are now.
    #[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
    pub(crate) fn inside(&self) -> u64 {
        self.inside.load(Ordering::Relaxed)
    }

    /// Cuts what was held, and lets everything through again.
    pub(crate) fn release(&self) {
        self.orders
            .send_modify(|order| (order.cuts, order.held, order.mute) = (order.cuts + 1, false, false));
    }
}

/// Carries bytes in both directions until the next cut.
async fn carry(
    client: TcpStream,
    server: TcpStream,
    mut orders: watch::Receiver<Order>,
    sent: Arc<AtomicU64>,
    told: Arc<watch::Sender<u64>>,
) {
    let began = orders.borrow_and_update().cuts;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut asked, mut answered) = ([0; 4096], [0; 4096]);
    let mut frames = Frames::default();
    loop {
        let order = *orders.borrow_and_update();
        if order.cuts != began {
            // What was on its way is lost, but for what the kind lets arrive.
            match order.kind {
                Cut::Answers => {
                    // Whatever the client has said so far arrives; no answer comes back.
                    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(
                        std::time::Duration::from_millis(2),
                        from_client.read(&mut asked),
                    )
                    .await
                    {
                        if to_server.write_all(&asked[..n]).await.is_err() {
                            break;
                        }
                    }
                    // In good order, so that the server takes all of it.
                    let _ = to_server.shutdown().await;
                    while let Ok(1..) = from_server.read(&mut answered).await {}
                }
                Cut::WithinRequest => {
                    if let Ok(n @ 2..) = from_client.try_read(&mut asked) {
                        let _ = to_server.write_all(&asked[..n / 2]).await;
                    }
                }
                Cut::Requests | Cut::Both => {}
            }
            return;
        }
        tokio::select! {
            biased;
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            read = from_client.read(&mut asked), if !order.held => {
                let Ok(n @ 1..) = read else { return };
                if to_server.write_all(&asked[..n]).await.is_err() {
                    return;
                }
                let total = sent.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
                told.send_replace(total);
            }
            read = from_server.read(&mut answered), if !order.held => {
                let Ok(n @ 1..) = read else { return };
                let answer = frames.pass(&answered[..n], order.mute);
                if to_client.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a server says, frame by frame: the length of the rest, then the number of the request that is answered.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    /// What of the present frame is still to come.
    left: usize,
    passes: bool,
    /// The first one begins the session, and has no number.
    in_session: bool,
}

impl Frames {
    const HEAD: usize = 8;
    const PING: [u8; 4] = (-2_i32).to_be_bytes();

    /// What gets through of a piece.
    fn pass(&mut self, mut piece: &[u8], mute: bool) -> Vec<u8> {
        let mut through = Vec::with_capacity(piece.len() + Self::HEAD);
        while !piece.is_empty() {
            if self.left == 0 {
                let (head, rest) = piece.split_at(piece.len().min(Self::HEAD - self.head.len()));
                self.head.extend(head);
                piece = rest;
                if let [a, b, c, d, number @ ..] = &self.head[..]
                    && number.len() == 4
                {
                    let length = u32::from_be_bytes([*a, *b, *c, *d]);
                    self.left = usize::try_from(length).expect("it is an address") - 4;
                    self.passes = !mute || !self.in_session || *number == Self::PING;
                    self.in_session = true;
                    if self.passes {
                        through.append(&mut self.head);
                    }
                    self.head.clear();
                }
            }
            let (part, rest) = piece.split_at(piece.len().min(self.left));
            if self.passes {
                through.extend(part);
            }
            self.left -= part.len();
            piece = rest;
        }
        through
    }
}
