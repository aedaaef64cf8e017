//! A whole store as lines of text, the same for all stores: taken at one moment, put back at another.
//!
//! The first line is a [`Header`]. Then comes what the store holds, one record a line in the stored format of
//! [`mod@crate::format`]: hot state, then the history, oldest first, then since when the history of a job is whole. The
//! last line counts the others and has their checksum, so that a file that was cut, or of which a byte has changed, is
//! refused before anything is touched.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use scheduler::ids::{Epoch, JobName, JobUid, Seq};
use scheduler::job::Plan;
use scheduler::state::{Change, State};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::format::{self, FormatError};
use crate::{StoreError, Term};

/// Which parts of a store a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Everything,
    /// Without the history of ended runs; the jobs are then accounted for from the backup on.
    WithoutHistory,
}

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of the stored format that its lines are in.
    pub format: u32,
    /// Kind of the store that it was taken of.
    pub kind: String,
    /// The batch after which it was taken, and its term.
    pub term: Term,
    /// When.
    pub taken: Timestamp,
    /// Version of the program that took it.
    pub program: String,
    /// How many lines there are between the first and the last.
    pub lines: u64,
    /// Whether the history is part of it.
    pub extent: Extent,
}

/// Why a backup is not taken back. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The first line is something else.
    #[error("this is not a backup of Chronos: its first line is not that of one")]
    NotABackup,
    /// Written by a newer program.
    #[error("the backup has format {found}, which is newer than {ours}, the newest that this program knows")]
    Newer {
        /// What it says.
        found: u32,
        /// What we can read.
        ours: u32,
    },
    /// A line is not what it should be.
    #[error("line {number} of the backup cannot be read")]
    Line {
        /// Counted from 1.
        number: u64,
        /// What is wrong with it.
        #[source]
        cause: FormatError,
    },
    /// A line that no program of ours writes.
    #[error("line {number} of the backup has more than {LINE_MAX} bytes")]
    TooLong {
        /// Counted from 1.
        number: u64,
    },
    /// A line that has no place where it is.
    #[error("line {number} of the backup is out of place: {what}")]
    OutOfPlace {
        /// Counted from 1.
        number: u64,
        /// What it is.
        what: &'static str,
    },
    /// The end is missing.
    #[error("the backup ends too early, after {lines} lines: it was cut")]
    Cut {
        /// Whole lines that are there.
        lines: u64,
    },
    /// Count or checksum differ.
    #[error("the backup has been changed or damaged: its checksum is not that of its lines")]
    Checksum,
    /// Its lines contradict each other.
    #[error("the backup contradicts itself: {0}")]
    Inconsistent(String),
}

/// Why content was not put beside a store.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It is no good.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Content that was read whole and waits beside a store, to take its place by [`crate::Store::restore`]. Gone when
/// dropped.
#[derive(Debug)]
pub struct Staged {
    /// What the backup says of itself.
    pub header: Header,
    /// Records of the history in it.
    pub records: u64,
    pub(crate) content: Content,
}

/// Where staged content is.
#[derive(Debug)]
pub(crate) enum Content {
    Memory(Box<crate::memory::MemoryCore>),
    #[cfg(feature = "sqlite")]
    Sqlite(crate::sqlite::StagedFile),
    #[cfg(feature = "postgres")]
    Postgres(Box<crate::postgres::StagedTables>),
}

impl Content {
    /// That which is in memory.
    /// # Errors
    /// It was staged beside a store of another kind.
    pub(crate) fn in_memory(self) -> Result<Box<crate::memory::MemoryCore>, StoreError> {
        let content = match self {
            Self::Memory(core) => Some(core),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => None,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => None,
        };
        content.ok_or_else(|| StoreError::Unavailable("this was staged beside another store".into()))
    }
}

impl Staged {
    /// The hot state that it would bring. Takes as long as loading a store; not to be called on an async thread.
    /// # Errors
    /// See [`StoreError`].
    pub fn state(&self) -> Result<State, StoreError> {
        match &self.content {
            Content::Memory(core) => Ok(core.state().clone()),
            #[cfg(feature = "sqlite")]
            Content::Sqlite(file) => file.state(),
            #[cfg(feature = "postgres")]
            Content::Postgres(tables) => Ok(tables.state()),
        }
    }

    /// Which of these runs have ended in it. Likewise.
    /// # Errors
    /// See [`StoreError`].
    pub fn ended(&self, runs: &[scheduler::ids::RunKey]) -> Result<Vec<scheduler::ids::RunKey>, StoreError> {
        match &self.content {
            Content::Memory(core) => {
                Ok(runs.iter().copied().filter(|run| core.ended_run(*run).is_some()).collect())
            }
            #[cfg(feature = "sqlite")]
            Content::Sqlite(file) => file.ended(runs),
            #[cfg(feature = "postgres")]
            Content::Postgres(tables) => tables.ended(runs),
        }
    }
}

/// Longest line that is read: twice the largest batch, and a record is part of one.
const LINE_MAX: usize = 2 * crate::BATCH_BYTES_MAX;
/// Lines are handed on in pieces of this size: few enough messages, little enough memory.
const PIECE: usize = 64 * 1024;
/// A reader that takes nothing for so long is gone. It would keep the store from tidying up.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// What a line between the first and the last may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A record of the hot state or of the history; never one that removes something.
    Record(Change),
    /// Since when the history of a job is whole.
    Kept(JobUid, JobName, Timestamp),
}

#[derive(Serialize, Deserialize)]
struct StoredHeader {
    chronos_backup: StoredHead,
}

#[derive(Serialize, Deserialize)]
struct StoredHead {
    format: u32,
    kind: String,
    epoch: u64,
    seq: u64,
    taken: i64,
    program: String,
    lines: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    without_history: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredKept {
    job: u64,
    name: String,
    since: i64,
}

#[derive(Serialize, Deserialize)]
struct StoredKeptLine {
    kept: StoredKept,
}

#[derive(Serialize, Deserialize)]
struct StoredEnd {
    end: StoredSum,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct StoredSum {
    lines: u64,
    crc32: u32,
}

/// Writes a backup piece by piece, to whoever reads it.
pub(crate) struct Writer<'a> {
    out: Vec<u8>,
    sum: crc32fast::Hasher,
    lines: u64,
    to: &'a mpsc::Sender<Vec<u8>>,
    runtime: tokio::runtime::Handle,
}

/// Whoever read the backup is gone.
pub(crate) struct ReaderGone;

impl From<ReaderGone> for StoreError {
    fn from(_: ReaderGone) -> Self {
        Self::Unavailable("whoever asked for the backup does not take it".into())
    }
}

impl<'a> Writer<'a> {
    /// Begins with the header. To be used on a thread for blocking work.
    pub(crate) fn begin(header: &Header, to: &'a mpsc::Sender<Vec<u8>>) -> Result<Self, ReaderGone> {
        let runtime = tokio::runtime::Handle::current();
        let mut writer = Self { out: Vec::new(), sum: crc32fast::Hasher::new(), lines: 0, to, runtime };
        let head = StoredHead {
            format: header.format,
            kind: header.kind.clone(),
            epoch: header.term.epoch.0,
            seq: header.term.seq.0,
            taken: header.taken.as_millisecond(),
            program: header.program.clone(),
            lines: header.lines,
            without_history: header.extent == Extent::WithoutHistory,
        };
        writer.json(&StoredHeader { chronos_backup: head })?;
        writer.lines = 0;
        Ok(writer)
    }

    /// A record as a store keeps it: the part after the tag.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "zookeeper"))]
    pub(crate) fn value(&mut self, tag: &str, value: &[u8]) -> Result<(), ReaderGone> {
        let start = self.out.len();
        for part in [b"{\"", tag.as_bytes(), b"\":", value, b"}\n"] {
            self.out.extend_from_slice(part);
        }
        self.wrote(start)
    }

    pub(crate) fn change(&mut self, change: &Change) -> Result<(), ReaderGone> {
        let start = self.out.len();
        format::write_change(&mut self.out, change);
        self.out.push(b'\n');
        self.wrote(start)
    }

    pub(crate) fn kept(&mut self, job: JobUid, name: &str, since: i64) -> Result<(), ReaderGone> {
        self.json(&StoredKeptLine { kept: StoredKept { job: job.0, name: name.into(), since } })
    }

    fn json(&mut self, line: &impl Serialize) -> Result<(), ReaderGone> {
        let start = self.out.len();
        serde_json::to_writer(&mut self.out, line).expect("our own types, and a Vec takes every byte");
        self.out.push(b'\n');
        self.wrote(start)
    }

    fn wrote(&mut self, start: usize) -> Result<(), ReaderGone> {
        self.sum.update(&self.out[start..]);
        self.lines += 1;
        if self.out.len() >= PIECE { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), ReaderGone> {
        let piece = std::mem::replace(&mut self.out, Vec::with_capacity(PIECE + 4096));
        let sent = self.runtime.block_on(tokio::time::timeout(TAKEN_WITHIN, self.to.send(piece)));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ReaderGone),
        }
    }

    /// The last line.
    pub(crate) fn end(mut self) -> Result<(), ReaderGone> {
        let sum = StoredSum { lines: self.lines, crc32: self.sum.clone().finalize() };
        self.json(&StoredEnd { end: sum })?;
        self.send()
    }
}

/// Reads a backup piece by piece, and refuses it at the first thing that is wrong.
#[derive(Default)]
pub struct Reader {
    header: Option<Header>,
    rest: Vec<u8>,
    sum: crc32fast::Hasher,
    /// Whole lines so far, the first one included.
    lines: u64,
    counters: bool,
    ended: bool,
}

impl Reader {
    /// Takes the next bytes; each whole line in them goes to `take`.
    /// # Errors
    /// [`BackupError`], or what `take` says.
    pub fn feed<E: From<BackupError>>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&Header, Line) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut bytes = bytes;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, after) = bytes.split_at(end + 1);
            bytes = after;
            if self.rest.is_empty() {
                self.line(line, &mut take)?;
            } else {
                self.rest.extend_from_slice(line);
                let line = std::mem::take(&mut self.rest);
                self.line(&line, &mut take)?;
            }
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() > LINE_MAX {
            return Err(BackupError::TooLong { number: self.lines + 1 }.into());
        }
        Ok(())
    }

    /// Nothing follows.
    /// # Errors
    /// [`BackupError::Cut`], or [`BackupError::NotABackup`] if there was nothing at all.
    pub fn finish(self) -> Result<Header, BackupError> {
        match self.header {
            Some(header) if self.ended && self.rest.is_empty() => Ok(header),
            Some(_) => Err(BackupError::Cut { lines: self.lines }),
            None => Err(BackupError::NotABackup),
        }
    }

    fn line<E: From<BackupError>>(
        &mut self,
        line: &[u8],
        take: &mut impl FnMut(&Header, Line) -> Result<(), E>,
    ) -> Result<(), E> {
        let number = self.lines + 1;
        if line.len() > LINE_MAX {
            return Err(BackupError::TooLong { number }.into());
        }
        let Some(header) = &self.header else {
            self.header = Some(read_header(line)?);
            self.sum.update(line);
            self.lines = 1;
            return Ok(());
        };
        if self.ended {
            return Err(BackupError::OutOfPlace { number, what: "it follows after the end" }.into());
        }
        if line.starts_with(b"{\"end\":") {
            let ours = StoredSum { lines: self.lines - 1, crc32: self.sum.clone().finalize() };
            let theirs = serde_json::from_slice::<StoredEnd>(line).map_err(|_| BackupError::Checksum)?;
            if theirs.end != ours || header.lines != ours.lines || !self.counters {
                return Err(BackupError::Checksum.into());
            }
            self.ended = true;
            self.lines = number;
            return Ok(());
        }
        self.sum.update(line);
        self.lines = number;
        let read = read_line(line, number)?;
        if let Line::Record(Change::Meta(_)) = read {
            if self.counters {
                return Err(BackupError::OutOfPlace { number, what: "counters come once" }.into());
            }
            self.counters = true;
        }
        take(header, read)
    }
}

fn read_header(line: &[u8]) -> Result<Header, BackupError> {
    // A newer program may have another header, but says its format in the same place.
    #[derive(Deserialize)]
    struct Mark {
        chronos_backup: Format,
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let mark: Mark = serde_json::from_slice(line).map_err(|_| BackupError::NotABackup)?;
    let (found, ours) = (mark.chronos_backup.format, format::VERSION);
    if found > ours {
        return Err(BackupError::Newer { found, ours });
    }
    let read: StoredHeader = serde_json::from_slice(line).map_err(|_| BackupError::NotABackup)?;
    let head = read.chronos_backup;
    Ok(Header {
        format: head.format,
        kind: head.kind,
        term: Term { epoch: Epoch(head.epoch), seq: Seq(head.seq) },
        taken: Timestamp::from_millisecond(head.taken).map_err(|_| BackupError::NotABackup)?,
        program: head.program,
        lines: head.lines,
        extent: if head.without_history { Extent::WithoutHistory } else { Extent::Everything },
    })
}

fn read_line(line: &[u8], number: u64) -> Result<Line, BackupError> {
    if line.starts_with(b"{\"kept\":") {
        let wrong = BackupError::OutOfPlace { number, what: "it does not say since when a history is whole" };
        let Ok(StoredKeptLine { kept: StoredKept { job, name, since } }) = serde_json::from_slice(line)
        else {
            return Err(wrong);
        };
        let (Ok(name), Ok(since)) = (JobName::new(&name), Timestamp::from_millisecond(since)) else {
            return Err(wrong);
        };
        return Ok(Line::Kept(JobUid(job), name, since));
    }
    let change = format::read_change(line).map_err(|cause| BackupError::Line { number, cause })?;
    if removes(&change) {
        return Err(BackupError::OutOfPlace { number, what: "it removes something" });
    }
    Ok(Line::Record(change))
}

fn removes(change: &Change) -> bool {
    match change {
        Change::RemoveJob(_)
        | Change::RemoveRun(_)
        | Change::RemoveJoin(..)
        | Change::RemoveFanout(_)
        | Change::RemoveBackfill(_)
        | Change::RemoveNotice(_)
        | Change::RemoveReceipt(_)
        | Change::Unstage(_) => true,
        Change::Meta(_)
        | Change::PutJob(_)
        | Change::PutProgress(..)
        | Change::PutRun(_)
        | Change::PutJoin(_)
        | Change::PutFanout(_)
        | Change::PutBackfill(_)
        | Change::PutNotice(_)
        | Change::PutReceipt(_)
        | Change::Stage(_)
        | Change::Append(_)
        | Change::Revise(_)
        | Change::Note(_) => false,
    }
}

/// Whether a state is one that a scheduler can go on from: every job has its progress and its parents, no name occurs
/// twice, and nobody waits for itself.
/// # Errors
/// What contradicts what.
pub fn check(state: &State) -> Result<(), BackupError> {
    let wrong = |what: String| Err(BackupError::Inconsistent(what));
    let mut names = BTreeMap::new();
    for job in state.jobs.values() {
        if names.insert(&job.name, job.uid).is_some() {
            return wrong(format!("there are two jobs `{}`", job.name));
        }
        if !state.progress.contains_key(&job.uid) {
            return wrong(format!("nothing says how far job `{}` has come", job.name));
        }
        if job.uid.0 >= state.meta.next_uid && same_salt(job.uid.0, state.meta.next_uid) {
            return wrong(format!("the uid of job `{}` is to be given to another one", job.name));
        }
    }
    if let Some(uid) = state.progress.keys().find(|uid| !state.jobs.contains_key(uid)) {
        return wrong(format!("there is no job with the uid {uid}, but it has come somewhere"));
    }
    let mut waits: BTreeMap<JobUid, usize> = BTreeMap::new();
    let mut children: BTreeMap<JobUid, Vec<JobUid>> = BTreeMap::new();
    for job in state.jobs.values() {
        let Plan::Parents(parents) = &job.plan else { continue };
        for parent in parents {
            if !state.jobs.contains_key(parent) {
                return wrong(format!("a parent of job `{}` is missing", job.name));
            }
            children.entry(*parent).or_default().push(job.uid);
        }
        waits.insert(job.uid, parents.len());
    }
    let mut ready: Vec<JobUid> = state.jobs.keys().filter(|uid| !waits.contains_key(uid)).copied().collect();
    while let Some(parent) = ready.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if let Some(left) = waits.get_mut(&child) {
                *left -= 1;
                if *left == 0 {
                    waits.remove(&child);
                    ready.push(child);
                }
            }
        }
    }
    match waits.keys().next().and_then(|uid| state.jobs.get(uid)) {
        Some(job) => wrong(format!("job `{}` waits for itself", job.name)),
        None => Ok(()),
    }
}

/// Whether two uids were given out by the same store.
pub(crate) fn same_salt(a: u64, b: u64) -> bool {
    a >> JobUid::COUNTER_BITS == b >> JobUid::COUNTER_BITS
}
