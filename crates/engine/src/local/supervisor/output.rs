//! The kept part of a stream: its first bytes and its last, in one file of bounded size.
//!
//! The file begins with the head, half of the bound. Behind it lies a ring with the tail. As long as a stream stays
//! within its bound, the file is the stream, and can be read with any tool.
//! Rejected: letting tasks write to files themselves. Nothing then bounds a file but `RLIMIT_FSIZE`, which kills.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tokio::net::unix::pipe;

use crate::local::formats::Written;
use crate::{OUTPUT_PIECE_MAX, Output};

/// Most bytes taken from a pipe at its task's end. The pipe holds 64 KiB; what a process in another session writes
/// meanwhile must not keep us.
const DRAIN_MAX: u64 = 1024 * 1024;

/// Which bytes of a stream are kept, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    head: u64,
    tail: u64,
    written: Written,
}

impl Window {
    pub(super) fn new(output_max: u64, written: Written) -> Self {
        Self { head: output_max / 2, tail: output_max - output_max / 2, written }
    }

    /// End of the kept head.
    fn head_end(&self) -> u64 {
        self.written.total.min(self.head).min(self.written.kept_until.unwrap_or(u64::MAX))
    }

    /// Begin of the kept tail.
    fn tail_start(&self) -> u64 {
        let total = self.written.total;
        if self.written.kept_until.is_some() {
            total
        } else {
            total.saturating_sub(self.tail).max(self.head).min(total)
        }
    }

    fn dropped(&self) -> u64 {
        self.tail_start() - self.head_end().min(self.tail_start())
    }

    /// Where the byte at this offset of the stream lies in the file, and how many follow it there.
    fn place(&self, offset: u64) -> (u64, u64) {
        if offset < self.head {
            return (offset, self.head - offset);
        }
        let in_ring = (offset - self.head) % self.tail.max(1);
        (self.head + in_ring, self.tail - in_ring)
    }

    /// The first kept byte at or after `offset`, its place in the file, and how many to read there.
    fn piece(&self, offset: u64) -> (u64, u64, u64) {
        let start = if offset < self.head_end() { offset } else { offset.max(self.tail_start()) };
        let end = if start < self.head_end() { self.head_end() } else { self.written.total };
        if start >= end {
            return (end, 0, 0);
        }
        let (place, room) = self.place(start);
        (start, place, room.min(end - start).min(OUTPUT_PIECE_MAX as u64))
    }

    /// Reads a piece from the file. A stream without a file has written nothing that was kept.
    pub(super) fn read(&self, path: &Path, offset: u64, ended: bool) -> io::Result<Output> {
        let (start, place, length) = self.piece(offset);
        let mut bytes = vec![0; length as usize];
        if length > 0 {
            File::open(path)?.read_exact_at(&mut bytes, place)?;
        }
        let next = start + length;
        Ok(Output { bytes, next, dropped: self.dropped(), complete: ended && next >= self.written.total })
    }
}

/// Takes what a task writes to one stream.
pub(super) struct Capture {
    pipe: pipe::Receiver,
    kept: RefCell<Kept>,
}

struct Kept {
    path: PathBuf,
    file: Option<File>,
    window: Window,
}

impl Capture {
    pub(super) fn new(pipe: OwnedFd, path: PathBuf, output_max: u64) -> io::Result<Self> {
        let window = Window::new(output_max, Written::default());
        let kept = RefCell::new(Kept { path, file: None, window });
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
        kept.file = None;
        kept.window.written
    }

    /// What is kept so far.
    pub(super) fn window(&self) -> Window {
        self.kept.borrow().window
    }

    fn keep(&self, bytes: &[u8], on_full: &impl Fn(io::Error)) {
        if let Err(error) = self.kept.borrow_mut().keep(bytes) {
            on_full(error);
        }
    }
}

impl Kept {
    /// Keeps these bytes as far as they belong to head or tail. After an error nothing more is kept, but counted.
    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.window.written;
        let outcome = if written.kept_until.is_none() { self.write(bytes) } else { Ok(()) };
        self.window.written.total += bytes.len() as u64;
        if outcome.is_err() {
            self.window.written.kept_until = Some(written.total);
        }
        outcome
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Window { head, tail, written } = self.window;
        let mut offset = written.total;
        while !bytes.is_empty() {
            // Of what goes into the ring, only the last of its size will be there in the end.
            let excess = (bytes.len() as u64).saturating_sub(tail);
            if offset >= head && excess > 0 {
                offset += excess;
                bytes = &bytes[excess as usize..];
                continue;
            }
            let (place, room) = self.window.place(offset);
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.file()?.write_all_at(now, place)?;
            offset += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn file(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            self.file = Some(options.create(true).truncate(false).write(true).open(&self.path)?);
        }
        Ok(self.file.as_ref().expect("opened above"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes 0, 1, 2, ... in chunks of a size, reads all back.
    #[track_caller]
    fn check(output_max: u64, total: u64, chunk: usize, kept: &[(u64, u64)]) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("stdout");
        let mut store =
            Kept { path: path.clone(), file: None, window: Window::new(output_max, Written::default()) };
        let bytes: Vec<u8> = (0..total).map(|n| n as u8).collect();
        for chunk in bytes.chunks(chunk) {
            store.keep(chunk).expect("kept");
        }
        let (mut read, mut offset) = (Vec::new(), 0);
        loop {
            let piece = store.window.read(&path, offset, true).expect("read");
            read.extend_from_slice(&piece.bytes);
            offset = piece.next;
            if piece.complete {
                assert_eq!(piece.dropped, total - read.len() as u64);
                break;
            }
        }
        let expected: Vec<u8> = kept.iter().flat_map(|(from, to)| *from..*to).map(|n| n as u8).collect();
        assert_eq!(read, expected, "bound {output_max}, {total} bytes in chunks of {chunk}");
        assert!(std::fs::metadata(&path).map_or(0, |file| file.len()) <= output_max);
    }

    #[test]
    fn head_and_tail_are_kept() {
        for chunk in [1, 3, 7, 100, 5000] {
            check(100, 0, chunk, &[]);
            check(100, 40, chunk, &[(0, 40)]);
            check(100, 100, chunk, &[(0, 100)]);
            check(100, 101, chunk, &[(0, 50), (51, 101)]);
            check(101, 4000, chunk, &[(0, 50), (3949, 4000)]);
            check(1, 4000, chunk, &[(3999, 4000)]);
            check(0, 4000, chunk, &[]);
        }
    }

    #[test]
    fn what_the_disk_refused_counts_as_dropped() {
        let window = Window::new(100, Written { total: 500, kept_until: Some(30) });
        assert_eq!((window.head_end(), window.dropped(), window.piece(30)), (30, 470, (500, 0, 0)));
    }
}
