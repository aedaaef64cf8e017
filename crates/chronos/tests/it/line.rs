//! A line between servers and their store that a test makes slow.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What goes through at once.
const PIECE: usize = 4096;

/// Listens until the process ends.
pub(crate) struct Line {
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    /// What each piece of an answer takes, in milliseconds.
    pace: Arc<AtomicU64>,
}

impl Line {
    /// Before these servers, one of which is as good as another.
    pub(crate) fn before(hosts: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pace = Arc::new(AtomicU64::new(0));
        let hosts: Vec<String> = hosts.split(',').map(Into::into).collect();
        let of_line = Arc::clone(&pace);
        thread::spawn(move || {
            for (n, client) in listener.incoming().flatten().enumerate() {
                let Ok(server) = TcpStream::connect(&hosts[n % hosts.len()]) else { continue };
                let (asks, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let pace = Arc::clone(&of_line);
                thread::spawn(move || carry(asks, server, || {}));
                let pass = move || thread::sleep(Duration::from_millis(pace.load(Ordering::Relaxed)));
                thread::spawn(move || carry(answers, client, pass));
            }
        });
        Self { address, pace }
    }

    /// From now on each piece of an answer takes so long.
    pub(crate) fn slow(&self, each_ms: u64) {
        self.pace.store(each_ms, Ordering::Relaxed);
    }

    /// From now on everything goes through at once.
    pub(crate) fn go_on(&self) {
        self.slow(0);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, before_each: impl Fn()) {
    let mut piece = [0; PIECE];
    while let Ok(size @ 1..) = from.read(&mut piece) {
        before_each();
        if to.write_all(&piece[..size]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
