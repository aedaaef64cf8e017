//! What a batch changes in tables, whichever database has them: encoded once, on the caller's thread; who writes only
//! binds slices of it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use scheduler::audit::Entry as AuditEntry;
use scheduler::ids::{Cycle, JobUid};
use scheduler::revision::Revision;
use scheduler::state::Change;

use crate::facts::Facts;
use crate::{CauseKind, OutcomeKind, format};

/// Batches kept for followers in other processes: what a standby may miss while it is paused.
const LOG_BATCHES_MAX: usize = 20_000;
/// The same in bytes.
const LOG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Jobs remembered as known to the history, so that most records need not say so again.
pub(crate) const KNOWN_MAX: usize = 65_536;

/// One encoded batch.
pub(crate) struct Batch {
    /// The batch in the stored format, one change a line: what followers are given.
    pub(crate) text: String,
    /// Keys of rows, one after the other.
    pub(crate) keys: String,
    /// What is to be done, in order.
    pub(crate) rows: Vec<Row>,
}

/// One change of a table. Ranges are of [`Batch::text`] for values, of [`Batch::keys`] for keys.
pub(crate) enum Row {
    Counters(Range<usize>),
    PutJob(i64, Range<usize>),
    RemoveJob(i64),
    PutProgress(i64, Range<usize>),
    PutNotice(i64, Range<usize>),
    RemoveNotice(i64),
    Put(Keyed, Range<usize>, Range<usize>),
    Remove(Keyed, Range<usize>),
    Append(Box<Entry>),
    Revise(Box<RevisionRow>),
    Note(Arc<AuditEntry>, Range<usize>),
}

/// Tables whose keys are texts.
#[derive(Clone, Copy)]
pub(crate) enum Keyed {
    Runs,
    Joins,
    Fanouts,
    Backfills,
    Receipts,
    Staged,
}

/// A record of the history.
pub(crate) struct Entry {
    pub(crate) facts: Facts,
    pub(crate) key: Option<Range<usize>>,
    pub(crate) value: Range<usize>,
}

/// A revision of a definition.
pub(crate) struct RevisionRow {
    pub(crate) revision: Arc<Revision>,
    pub(crate) value: Range<usize>,
}

impl Batch {
    pub(crate) fn encode(changes: &[Change]) -> Self {
        let mut text = Vec::with_capacity(changes.len() * 256);
        let mut keys = String::new();
        let rows = changes.iter().map(|change| {
            let value = format::write_change(&mut text, change);
            text.push(b'\n');
            Row::of(change, value, &mut keys)
        });
        let rows = rows.collect();
        Self { text: String::from_utf8(text).expect("JSON is UTF-8"), keys, rows }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }
}

impl Row {
    fn of(change: &Change, value: Range<usize>, keys: &mut String) -> Self {
        let mut key = |key: std::fmt::Arguments<'_>| {
            let start = keys.len();
            keys.write_fmt(key).expect("a String takes every character");
            start..keys.len()
        };
        match change {
            Change::Meta(_) => Self::Counters(value),
            Change::PutJob(job) => Self::PutJob(integer(job.uid), value),
            Change::RemoveJob(uid) => Self::RemoveJob(integer(*uid)),
            Change::PutProgress(uid, _) => Self::PutProgress(integer(*uid), value),
            Change::PutRun(run) => Self::Put(Keyed::Runs, key(format_args!("{}", run.key)), value),
            Change::RemoveRun(run) => Self::Remove(Keyed::Runs, key(format_args!("{run}"))),
            Change::PutFanout(fanout) => {
                Self::Put(Keyed::Fanouts, key(format_args!("{}", fanout.run)), value)
            }
            Change::RemoveFanout(run) => Self::Remove(Keyed::Fanouts, key(format_args!("{run}"))),
            Change::PutJoin(join) => {
                let Cycle { due, origin, seq } = join.cycle;
                let due = due.as_millisecond();
                Self::Put(Keyed::Joins, key(format_args!("{} {origin} {due} {seq}", join.child)), value)
            }
            Change::RemoveJoin(child, Cycle { due, origin, seq }) => {
                let due = due.as_millisecond();
                Self::Remove(Keyed::Joins, key(format_args!("{child} {origin} {due} {seq}")))
            }
            Change::PutBackfill(backfill) => {
                Self::Put(Keyed::Backfills, key(format_args!("{}", backfill.id)), value)
            }
            Change::RemoveBackfill(id) => Self::Remove(Keyed::Backfills, key(format_args!("{id}"))),
            Change::PutReceipt(receipt) => {
                Self::Put(Keyed::Receipts, key(format_args!("{}", receipt.once.key)), value)
            }
            Change::RemoveReceipt(request) => Self::Remove(Keyed::Receipts, key(format_args!("{request}"))),
            Change::Stage(definition) => {
                Self::Put(Keyed::Staged, key(format_args!("{}", definition.name)), value)
            }
            Change::Unstage(name) => Self::Remove(Keyed::Staged, key(format_args!("{name}"))),
            Change::PutNotice(notice) => Self::PutNotice(notice.id.0.cast_signed(), value),
            Change::RemoveNotice(id) => Self::RemoveNotice(id.0.cast_signed()),
            Change::Append(record) => {
                let run = format::record_key(record);
                let key = run.map(|run| key(format_args!("{run}")));
                Self::Append(Box::new(Entry { facts: Facts::of(record), key, value }))
            }
            Change::Revise(revision) => {
                Self::Revise(Box::new(RevisionRow { revision: revision.clone(), value }))
            }
            Change::Note(entry) => Self::Note(entry.clone(), value),
        }
    }
}

/// Sequence numbers and sizes of the batches that are kept for followers.
#[derive(Default)]
pub(crate) struct LogSizes {
    kept: VecDeque<(i64, usize)>,
    bytes: usize,
}

impl LogSizes {
    /// One more is kept.
    pub(crate) fn push(&mut self, seq: i64, bytes: usize) {
        self.kept.push_back((seq, bytes));
        self.bytes += bytes;
    }

    /// Forgets what is too much. Returns the last batch that goes, if any does: all up to it do.
    pub(crate) fn trim(&mut self) -> Option<i64> {
        let mut gone = None;
        while self.kept.len() > LOG_BATCHES_MAX || (self.bytes > LOG_BYTES_MAX && self.kept.len() > 1) {
            let Some((seq, bytes)) = self.kept.pop_front() else { break };
            self.bytes -= bytes;
            gone = Some(seq);
        }
        gone
    }
}

/// The integers of databases are signed; our numbers never have 64 bits.
pub(crate) fn integer(uid: JobUid) -> i64 {
    uid.0.cast_signed()
}

/// How an outcome is written: its place in [`OutcomeKind::ALL`].
pub(crate) fn code(outcome: OutcomeKind) -> i64 {
    match outcome {
        OutcomeKind::Succeeded => 0,
        OutcomeKind::Failed => 1,
        OutcomeKind::Killed => 2,
        OutcomeKind::TimedOut => 3,
        OutcomeKind::Lost => 4,
        OutcomeKind::Skipped => 5,
        OutcomeKind::Missed => 6,
    }
}

pub(crate) fn outcome(code: i64) -> Option<OutcomeKind> {
    usize::try_from(code).ok().and_then(|code| OutcomeKind::ALL.get(code)).copied()
}

/// Databases count with signed numbers.
pub(crate) fn small(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The letters that keys have for these causes, see the form of [`RunKey`]; none for all.
pub(crate) fn letters(causes: &[CauseKind]) -> String {
    let of = |cause: &CauseKind| match cause {
        CauseKind::Slot => "icd",
        CauseKind::Trigger => "t",
        CauseKind::Join => "j",
        CauseKind::Backfill => "b",
    };
    causes.iter().map(of).collect()
}

/// Rounded up: due times have whole milliseconds, so "at or after" and "before" mean the same then.
pub(crate) fn whole_ms(at: Timestamp) -> i64 {
    let ms = at.as_millisecond();
    if at.as_nanosecond() > i128::from(ms) * 1_000_000 { ms + 1 } else { ms }
}
