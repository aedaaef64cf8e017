//! A proxy that stands before a server and cuts, holds or refuses what goes through it. Included by the tests that use one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is cut: the connection, at a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// After the server has got the question, before its answer gets through.
    Answer,
    /// Before the server gets the question.
    Question,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Nothing gets through, and nobody is told.
    Held,
    /// Nobody is let in.
    Refused,
}

struct Shared {
    way: watch::Sender<Way>,
    next: watch::Sender<Option<Cut>>,
    cuts: AtomicU64,
    /// Pieces that clients have sent.
    asked: AtomicU64,
    /// Pieces that were read and wait to be let through.
    held: AtomicU64,
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

/// What is in every commit, and in nothing else that is sent.
const COMMIT: &[u8] = b".move(";

impl Proxy {
    /// A proxy before the server at this URL. It ends with the runtime.
    pub(crate) async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (head, rest) = url.rsplit_once(':').expect("a port");
        let (server, path) = rest.split_once('/').expect("a database");
        let server: u16 = server.parse().expect("a port");
        let shared = Arc::new(Shared {
            way: watch::Sender::new(Way::Open),
            next: watch::Sender::new(None),
            cuts: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            held: AtomicU64::new(0),
        });
        let of_task = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *of_task.way.borrow() != Way::Refused {
                    tokio::spawn(of_task.clone().pass(client, server));
                }
            }
        });
        Self { url: format!("{head}:{port}/{path}"), shared }
    }

    /// The next batch is cut off, once.
    pub(crate) fn cut_next(&self, cut: Cut) {
        self.shared.next.send_replace(Some(cut));
    }

    /// How often something was cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// How often something was sent to the server: most of what is asked is one piece, none is less.
    #[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
    pub(crate) fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// From now on nothing gets through.
    pub(crate) fn hold(&self) {
        self.shared.way.send_replace(Way::Held);
    }

    /// From now on nobody is let in.
    pub(crate) fn refuse(&self) {
        self.shared.way.send_replace(Way::Refused);
    }

    /// Everything gets through, also what was held, whether its sender is still there or not.
    pub(crate) fn go_on(&self) {
        self.shared.way.send_replace(Way::Open);
    }

    /// How much is held that has not got through.
    pub(crate) fn holds(&self) -> u64 {
        self.shared.held.load(Ordering::SeqCst)
    }
}

impl Shared {
    async fn pass(self: Arc<Self>, client: TcpStream, server: u16) {
        self.opened().await;
        let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let (cutting, mut cut) = watch::channel(false);
        let asking = async {
            let mut piece = vec![0; 1 << 20];
            while let Ok(size @ 1..) = from_client.read(&mut piece).await {
                self.asked.fetch_add(1, Ordering::SeqCst);
                self.held.fetch_add(1, Ordering::SeqCst);
                self.opened().await;
                let is_commit = piece[..size].windows(COMMIT.len()).any(|window| window == COMMIT);
                let order = if is_commit { self.next.send_replace(None) } else { None };
                if order.is_some() {
                    self.cuts.fetch_add(1, Ordering::SeqCst);
                }
                if order == Some(Cut::Question) {
                    self.held.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
                if order == Some(Cut::Answer) {
                    cutting.send_replace(true);
                }
                let sent = to_server.write_all(&piece[..size]).await;
                self.held.fetch_sub(1, Ordering::SeqCst);
                if sent.is_err() {
                    return;
                }
            }
        };
        let answering = async {
            let mut piece = vec![0; 1 << 16];
            while let Ok(size @ 1..) = from_server.read(&mut piece).await {
                self.opened().await;
                if *cut.borrow_and_update() || to_client.write_all(&piece[..size]).await.is_err() {
                    return;
                }
            }
        };
        // Whichever ends, ends the connection, once the server has answered.
        tokio::select! {
            () = asking => {}
            () = answering => {}
        }
    }

    async fn opened(&self) {
        // The sender lives as long as we do.
        let _ = self.way.subscribe().wait_for(|way| *way == Way::Open).await;
    }
}
