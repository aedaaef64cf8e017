//! Takes what tasks write to their pipes.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio::net::unix::pipe;

use crate::capped::{Kept, Window, Written};

/// Most bytes taken from a pipe at its task's end. The pipe holds 64 KiB; what a process in another session writes
/// meanwhile must not keep us.
const DRAIN_MAX: u64 = 1024 * 1024;

/// Takes what a task writes to one stream.
pub(super) struct Capture {
    pipe: pipe::Receiver,
    kept: RefCell<Kept>,
}

impl Capture {
    pub(super) fn new(pipe: OwnedFd, path: PathBuf, output_max: u64) -> io::Result<Self> {
        let window = Window::new(output_max, Written::default());
        let kept = RefCell::new(Kept::new(path, window));
        Ok(Self { pipe: pipe::Receiver::from_owned_fd(pipe)?, kept })
    }

    /// Keeps what comes until all writers have closed. `on_full` hears why bytes could not be kept.
    pub(super) async fn follow(&self, buffer: &RefCell<Vec<u8>>, on_full: impl Fn(io::Error)) {
        while self.pipe.readable().await.is_ok() && self.take(&mut buffer.borrow_mut(), &on_full) {
            // One flood must not keep the other tasks from being heard.
            tokio::task::yield_now().await;
        }
    }

    /// Keeps what one read gives. Whether there may be more, now or later.
    fn take(&self, buffer: &mut [u8], on_full: &impl Fn(io::Error)) -> bool {
        match self.pipe.try_read(buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.keep(&buffer[..count], on_full);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Keeps what is in the pipe now, and no more: its writers may never close it.
    pub(super) fn drain(&self, buffer: &RefCell<Vec<u8>>, on_full: impl Fn(io::Error)) -> Written {
        let mut left = DRAIN_MAX;
        let mut buffer = buffer.borrow_mut();
        while left > 0 {
            // Not `try_read`: it would only say what the runtime has heard, and it may not have heard of the last bytes.
            match rustix::io::read(&self.pipe, &mut buffer[..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    self.keep(&buffer[..count], &on_full);
                    left = left.saturating_sub(count as u64);
                }
            }
        }
        let mut kept = self.kept.borrow_mut();
        kept.close();
        kept.window().written()
    }

    /// What is kept so far.
    pub(super) fn window(&self) -> Window {
        self.kept.borrow().window()
    }

    fn keep(&self, bytes: &[u8], on_full: &impl Fn(io::Error)) {
        if let Err(error) = self.kept.borrow_mut().keep(bytes) {
            on_full(error);
        }
    }
}
