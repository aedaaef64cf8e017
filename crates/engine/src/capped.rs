//! The kept part of a stream: its first bytes and its last, in one file of bounded size.
//!
//! The file begins with the head, half of the bound. Behind it lies a ring with the tail. As long as a stream stays
//! within its bound, the file is the stream, and can be read with any tool.
//! Rejected: letting tasks write to files themselves. Nothing then bounds a file but `RLIMIT_FSIZE`, which kills.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{OUTPUT_PIECE_MAX, Output};

/// What was kept of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Written {
    /// Bytes that the task wrote.
    pub(crate) total: u64,
    /// Where keeping stopped for good: the disk was full, or who kept it died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept_until: Option<u64>,
}

/// Which bytes of a stream are kept, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    head: u64,
    tail: u64,
    written: Written,
}

impl Window {
    pub(crate) fn new(output_max: u64, written: Written) -> Self {
        Self { head: output_max / 2, tail: output_max - output_max / 2, written }
    }

    pub(crate) fn written(&self) -> Written {
        self.written
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
    pub(crate) fn read(&self, path: &Path, offset: u64, ended: bool) -> io::Result<Output> {
        let (start, place, length) = self.piece(offset);
        let mut bytes = vec![0; length as usize];
        if length > 0 {
            File::open(path)?.read_exact_at(&mut bytes, place)?;
        }
        let next = start + length;
        Ok(Output { bytes, next, dropped: self.dropped(), complete: ended && next >= self.written.total })
    }
}

/// Writes the kept part of a stream.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    file: Option<File>,
    window: Window,
}

impl Kept {
    pub(crate) fn new(path: PathBuf, window: Window) -> Self {
        Self { path, file: None, window }
    }

    /// What is kept so far.
    pub(crate) fn window(&self) -> Window {
        self.window
    }

    /// Closes the file until more comes.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    /// Keeps these bytes as far as they belong to head or tail. After an error nothing more is kept, but counted.
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
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
        let mut store = Kept::new(path.clone(), Window::new(output_max, Written::default()));
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
