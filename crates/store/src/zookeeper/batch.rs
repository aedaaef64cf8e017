//! A batch as records: encoded once, on the caller's thread.

use std::ops::Range;
use std::sync::Arc;

use scheduler::audit::Entry;
use scheduler::ids::RunKey;
use scheduler::revision::Revision;
use scheduler::state::Change;

use super::tree::{Kind, hot_name};
use crate::facts::Facts;
use crate::format;

/// One encoded batch.
#[derive(Default)]
pub(super) struct Batch {
    /// In the stored format, one change a line: what followers are given.
    pub(super) text: Vec<u8>,
    pub(super) rows: Vec<Row>,
    /// The place of its first row among those of the same number, see [`super::tree::number`].
    pub(super) first_place: usize,
}

/// What a change does to records. Ranges are those of the value in the text.
pub(super) enum Row {
    Counters(Range<usize>),
    Put(Kind, String, Range<usize>),
    Remove(Kind, String),
    RemoveJob(String),
    Append(Box<(Option<RunKey>, Facts)>, Range<usize>),
    Revise(Arc<Revision>, Range<usize>),
    Note(Arc<Entry>, Range<usize>),
}

impl Batch {
    pub(super) fn encode(changes: &[Change]) -> Self {
        let mut text = Vec::with_capacity(changes.len() * 256);
        let rows = changes.iter().map(|change| {
            let value = format::write_change(&mut text, change);
            text.push(b'\n');
            Row::of(change, value)
        });
        let rows = rows.collect();
        Self { text, rows, first_place: 0 }
    }

    /// About what it takes in a multi, paths included.
    pub(super) fn size(&self) -> usize {
        self.text.len() + self.rows.len() * 100
    }

    pub(super) fn value(&self, range: &Range<usize>) -> &[u8] {
        &self.text[range.clone()]
    }
}

impl Row {
    fn of(change: &Change, value: Range<usize>) -> Self {
        match change {
            Change::Meta(_) => Self::Counters(value),
            Change::RemoveJob(uid) => Self::RemoveJob(uid.to_string()),
            Change::Append(record) => {
                Self::Append(Box::new((format::record_key(record), Facts::of(record))), value)
            }
            Change::Revise(revision) => Self::Revise(revision.clone(), value),
            Change::Note(entry) => Self::Note(entry.clone(), value),
            Change::RemoveRun(_)
            | Change::RemoveJoin(..)
            | Change::RemoveFanout(_)
            | Change::RemoveBackfill(_)
            | Change::RemoveNotice(_)
            | Change::RemoveReceipt(_)
            | Change::Unstage(_) => {
                let (kind, name) = hot_name(change).expect("it removes one hot record");
                Self::Remove(kind, name)
            }
            Change::PutJob(_)
            | Change::PutProgress(..)
            | Change::PutRun(_)
            | Change::PutJoin(_)
            | Change::PutFanout(_)
            | Change::PutBackfill(_)
            | Change::PutNotice(_)
            | Change::PutReceipt(_)
            | Change::Stage(_) => {
                let (kind, name) = hot_name(change).expect("it puts one hot record");
                Self::Put(kind, name, value)
            }
        }
    }
}
