//! Ports at which nobody listens, for as long as a test wants that.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Neither the ports that the kernel gives to who listens on port 0 or connects, nor those that `testing/mesos-local` and
/// its like choose from.
const FIRST: u32 = 10_000;
const COUNT: u32 = 2_000;

/// One that nobody takes by chance before the test does, or while nobody listens there. Each call gives another.
pub(crate) fn unused() -> u16 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + number).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
