//! A container's output, taken out of Docker's log into capped files of our own.
//!
//! Docker keeps the log as long as the container, and only its end once it has grown beyond its bound. What we take lasts
//! as long as any task's output, is read by offset at no cost, and shows what came first.
//! Each message of the log is told with the instant at which Docker took it, which within a stream only grows; the parts
//! of a long line share one. So after a restart we ask from the last instant on, skip what is earlier, and of that instant
//! as many messages as we had. Should we have died with bytes written that were not noted, they are written again, in the
//! same place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::capped::{Kept, Window, Written};
use crate::{Output, Stream};

/// How far output was taken: the content of the file `kept`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Taken {
    output_max: u64,
    stdout: TakenOf,
    stderr: TakenOf,
}

/// The same of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TakenOf {
    written: Written,
    /// The instant of the last message, as Docker wrote it; empty before the first.
    last: String,
    /// How many messages of that instant were taken.
    parts: u64,
    /// Whether what was taken last did not end its line.
    open: bool,
}

/// The output of a task that may still write.
#[derive(Debug)]
pub(super) struct Taking {
    folder: PathBuf,
    output_max: u64,
    stdout: Sink,
    stderr: Sink,
    /// Why bytes could not be kept, the first time.
    pub(super) trouble: Option<String>,
}

#[derive(Debug)]
struct Sink {
    kept: Kept,
    last: String,
    parts: u64,
    open: bool,
    /// How many messages of the last instant the present reading of the log has told.
    seen: u64,
}

impl Sink {
    fn new(path: PathBuf, output_max: u64, taken: TakenOf) -> Self {
        Self {
            kept: Kept::new(path, Window::new(output_max, taken.written)),
            last: taken.last,
            parts: taken.parts,
            open: taken.open,
            seen: 0,
        }
    }

    fn taken(&self) -> TakenOf {
        TakenOf {
            written: self.kept.window().written(),
            last: self.last.clone(),
            parts: self.parts,
            open: self.open,
        }
    }

    /// Takes a message. Another instant is another line: Docker's own format (of 20.10, at least) loses the end of lines
    /// that it cut into parts.
    fn take(&mut self, instant: &str, bytes: &[u8]) -> Option<io::Result<()>> {
        let another = *instant > *self.last;
        if !self.is_new(instant) {
            return None;
        }
        let ended = if another && self.open { self.kept.keep(b"\n") } else { Ok(()) };
        self.open = !bytes.ends_with(b"\n");
        Some(ended.and(self.kept.keep(bytes)))
    }

    /// Whether a message of this instant is new.
    fn is_new(&mut self, instant: &str) -> bool {
        match instant.cmp(&self.last) {
            std::cmp::Ordering::Less => return false,
            std::cmp::Ordering::Equal => self.seen += 1,
            std::cmp::Ordering::Greater => {
                (self.last, self.parts, self.seen) = (instant.to_owned(), 0, 1);
            }
        }
        let new = self.seen > self.parts;
        self.parts = self.parts.max(self.seen);
        new
    }
}

impl Taking {
    /// Goes on where the last server was, or from the beginning where that cannot be told.
    pub(super) fn open(folder: &Path, output_max: u64) -> Self {
        let taken = read(folder).unwrap_or_else(|| Taken { output_max, ..Taken::default() });
        let output_max = taken.output_max;
        Self {
            folder: folder.to_owned(),
            output_max,
            stdout: Sink::new(folder.join("stdout"), output_max, taken.stdout),
            stderr: Sink::new(folder.join("stderr"), output_max, taken.stderr),
            trouble: None,
        }
    }

    /// Notes what its bound is, for who goes on with it.
    pub(super) fn prepare(folder: &Path, output_max: u64) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        Self::open(folder, output_max).save()
    }

    /// Puts something of ours before what the task will write to stderr.
    pub(super) fn say(folder: &Path, output_max: u64, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut taking = Self::open(folder, output_max);
        taking.stderr.kept.keep(bytes)?;
        taking.save()
    }

    /// Begins to read the log. Seconds since 1970 from which on it is to be asked for: nothing before was missed in either
    /// stream.
    pub(super) fn begin(&mut self) -> i32 {
        (self.stdout.seen, self.stderr.seen) = (0, 0);
        let (out, err) = (&self.stdout.last, &self.stderr.last);
        let earlier = match (out.is_empty(), err.is_empty()) {
            (true, true) => return 0,
            // Of two streams the one that is silent has nothing to be missed before the other's last.
            (true, false) => err,
            (false, true) => out,
            (false, false) => out.min(err),
        };
        // A second more: streams are stamped apart and written in any order.
        seconds(earlier).map_or(0, |second| second - 1)
    }

    /// Takes one message with its instant in front. Whether it was new.
    pub(super) fn take(&mut self, stream: Stream, message: &[u8]) -> bool {
        let sink = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(blank) = message.iter().position(|byte| *byte == b' ') else { return false };
        let (instant, bytes) = (String::from_utf8_lossy(&message[..blank]), &message[blank + 1..]);
        let Some(kept) = sink.take(&instant, bytes) else { return false };
        if let Err(error) = kept {
            self.trouble.get_or_insert_with(|| error.to_string());
        }
        true
    }

    /// Notes how far it was taken. Not synced: who finds nothing begins anew.
    pub(super) fn save(&mut self) -> io::Result<()> {
        self.stdout.kept.close();
        self.stderr.kept.close();
        let taken =
            Taken { output_max: self.output_max, stdout: self.stdout.taken(), stderr: self.stderr.taken() };
        let draft = self.folder.join("kept.new");
        fs::write(&draft, serde_json::to_vec(&taken)?)?;
        fs::rename(draft, self.folder.join("kept"))
    }

    /// A piece of what has been taken so far.
    pub(super) fn read(&self, stream: Stream, offset: u64) -> io::Result<Output> {
        let (sink, path) = match stream {
            Stream::Stdout => (&self.stdout, self.folder.join("stdout")),
            Stream::Stderr => (&self.stderr, self.folder.join("stderr")),
        };
        sink.kept.window().read(&path, offset, false)
    }
}

/// A piece of the output of a task that nobody takes any more; `None` where there is none.
pub(super) fn read_kept(
    folder: &Path,
    stream: Stream,
    offset: u64,
    ended: bool,
) -> io::Result<Option<Output>> {
    let Some(taken) = read(folder) else { return Ok(None) };
    let (written, name) = match stream {
        Stream::Stdout => (taken.stdout.written, "stdout"),
        Stream::Stderr => (taken.stderr.written, "stderr"),
    };
    Window::new(taken.output_max, written).read(&folder.join(name), offset, ended).map(Some)
}

/// Removes the output and leaves the rest.
pub(super) fn remove(folder: &Path) {
    for name in ["kept", "stdout", "stderr"] {
        let _ = fs::remove_file(folder.join(name));
    }
}

fn read(folder: &Path) -> Option<Taken> {
    serde_json::from_slice(&fs::read(folder.join("kept")).ok()?).ok()
}

/// The second of an instant like `2030-01-02T03:04:05.000000006Z`.
fn seconds(instant: &str) -> Option<i32> {
    let number = |range: std::ops::Range<usize>| instant.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days from the civil calendar, with years that begin in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    i32::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00.000000000Z", 0),
            ("2000-02-29T23:59:59.999999999Z", 951_868_799),
            ("2026-11-28T22:09:51.123456789Z", 1_795_903_791),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        assert_eq!(seconds("yesterday"), None);
    }

    /// Parts of a long line share an instant.
    #[test]
    fn parts_of_an_instant_are_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let part = |text: &str| format!("2030-01-01T00:00:00.000000001Z {text}");
        let mut first = Taking::open(folder.path(), 1000);
        first.begin();
        assert!(
            first.take(Stream::Stderr, part("a").as_bytes())
                && first.take(Stream::Stderr, part("b").as_bytes())
        );
        first.save().expect("saved");
        for _ in 0..2 {
            let mut next = Taking::open(folder.path(), 1000);
            next.begin();
            for text in ["a", "b", "c"] {
                next.take(Stream::Stderr, part(text).as_bytes());
            }
            next.begin();
            assert!(!next.take(Stream::Stderr, part("a").as_bytes()), "the same handle may read again");
            next.save().expect("saved");
        }
        let all = read_kept(folder.path(), Stream::Stderr, 0, true).expect("read").expect("there");
        assert_eq!(String::from_utf8_lossy(&all.bytes), "abc");
    }

    /// Two parts of a long line, whose end Docker has lost, and the next line.
    #[test]
    fn the_end_of_a_long_line_is_put_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut taking = Taking::open(folder.path(), 1000);
        for (instant, text) in [(1, "lo"), (1, "ng"), (2, "next\n"), (3, "no end")] {
            taking.take(Stream::Stdout, format!("2030-01-01T00:00:00.{instant:09}Z {text}").as_bytes());
        }
        taking.save().expect("saved");
        let all = read_kept(folder.path(), Stream::Stdout, 0, true).expect("read").expect("there");
        assert_eq!(String::from_utf8_lossy(&all.bytes), "long\nnext\nno end");
    }

    /// A server that died before it noted what it had written writes it again, and nothing twice.
    #[test]
    fn messages_are_taken_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = |n: u32| format!("2030-01-01T00:00:00.{n:09}Z line {n}\n");
        let mut first = Taking::open(folder.path(), 1000);
        first.take(Stream::Stdout, line(1).as_bytes());
        first.save().expect("saved");
        first.take(Stream::Stdout, line(2).as_bytes());
        drop(first);

        let mut second = Taking::open(folder.path(), 1000);
        assert_eq!(second.begin(), 1_893_455_999);
        let new: Vec<_> = (1..=3).map(|n| second.take(Stream::Stdout, line(n).as_bytes())).collect();
        assert_eq!(new, [false, true, true]);
        second.save().expect("saved");
        let all = read_kept(folder.path(), Stream::Stdout, 0, true).expect("read").expect("there");
        assert_eq!(String::from_utf8_lossy(&all.bytes), "line 1\nline 2\nline 3\n");
        assert!(all.complete);
    }
}
