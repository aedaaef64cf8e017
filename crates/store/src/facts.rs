//! What records of the history are found by. One meaning for all stores.

use std::time::Duration;

use jiff::Timestamp;
use scheduler::audit::Entry;
use scheduler::ids::{Cause, JobName, JobUid};
use scheduler::revision::Revision;
use scheduler::run::{EndedRun, Outcome, Record, SlotRange};

use crate::{AuditQuery, CauseKind, HistoryQuery, LastRun, OutcomeKind, RevisionQuery};

/// A new store's first uid: 20 bits of `salt` above a counter that begins at 1, see [`JobUid`].
pub(crate) fn first_uid(salt: u32) -> u64 {
    let salt_bits = JobUid::BITS - JobUid::COUNTER_BITS;
    u64::from(salt & ((1 << salt_bits) - 1)) << JobUid::COUNTER_BITS | 1
}

/// Since when the history is whole when a record due at `due` is gone. Due times have whole milliseconds.
pub(crate) fn after(due: Timestamp) -> Timestamp {
    due.checked_add(Duration::from_millis(1)).unwrap_or(Timestamp::MAX)
}

/// What a record is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whose record.
    pub job: JobUid,
    /// The job's name at the time.
    pub name: JobName,
    /// Its due time, or that of its first slot.
    pub first_due: Timestamp,
    /// Its due time, or that of its last slot.
    pub last_due: Timestamp,
    /// When it was written.
    pub recorded: Timestamp,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// Why there was anything to end.
    pub cause: CauseKind,
}

impl Facts {
    /// The facts of a record.
    pub fn of(record: &Record) -> Self {
        match record {
            Record::Run(EndedRun { key, job, due, ended, outcome, .. }) => Self {
                job: key.job,
                name: job.clone(),
                first_due: *due,
                last_due: *due,
                recorded: *ended,
                outcome: OutcomeKind::of(outcome),
                cause: CauseKind::of(key.cause),
            },
            Record::Range(SlotRange { job, name, first_due, last_due, recorded, outcome, .. }) => Self {
                job: *job,
                name: name.clone(),
                first_due: *first_due,
                last_due: *last_due,
                recorded: *recorded,
                outcome: OutcomeKind::of(outcome),
                cause: CauseKind::Slot,
            },
        }
    }
}

impl HistoryQuery {
    /// The largest page.
    pub const LIMIT_MAX: usize = 1000;

    /// Whether a record is asked for, cursor aside.
    pub fn wants(&self, facts: &Facts) -> bool {
        self.job.is_none_or(|job| job == facts.job)
            && self.name.as_ref().is_none_or(|name| name == facts.name.as_str())
            && (self.outcomes.is_empty() || self.outcomes.contains(&facts.outcome))
            && (self.causes.is_empty() || self.causes.contains(&facts.cause))
            && self.from.is_none_or(|from| facts.last_due >= from)
            && self.to.is_none_or(|to| facts.first_due < to)
    }

    /// The limit, within its bounds.
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, Self::LIMIT_MAX)
    }
}

impl RevisionQuery {
    /// Whether a revision is asked for, cursor aside.
    pub fn wants(&self, revision: &Revision) -> bool {
        self.job.is_none_or(|job| job == revision.job.uid)
            && self.name.as_ref().is_none_or(|name| *name == revision.job.name)
    }

    /// The limit, within its bounds.
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, HistoryQuery::LIMIT_MAX)
    }
}

impl AuditQuery {
    /// Whether an entry is asked for, cursor aside.
    pub fn wants(&self, entry: &Entry) -> bool {
        let named = |wanted| entry.job.as_ref().is_some_and(|(_, name)| name == wanted);
        self.name.as_ref().is_none_or(named)
            && self.by.as_ref().is_none_or(|by| **by == **entry.author.name())
            && (self.acts.is_empty() || self.acts.contains(&entry.act.word()))
            && self.from.is_none_or(|from| entry.at >= from)
            && self.to.is_none_or(|to| entry.at < to)
    }

    /// The limit, within its bounds.
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, HistoryQuery::LIMIT_MAX)
    }
}

impl OutcomeKind {
    /// The kind of an outcome.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed => Self::Failed,
            Outcome::Killed(_) => Self::Killed,
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Lost => Self::Lost,
            Outcome::Skipped(_) => Self::Skipped,
            Outcome::Missed(_) => Self::Missed,
        }
    }
}

impl CauseKind {
    /// The kind of a cause.
    pub fn of(cause: Cause) -> Self {
        match cause {
            Cause::Slot { .. } => Self::Slot,
            Cause::Trigger(_) => Self::Trigger,
            Cause::Join { .. } => Self::Join,
            Cause::Backfill { .. } => Self::Backfill,
        }
    }
}

impl LastRun {
    /// What an ended run says of its job.
    pub fn of(run: &EndedRun) -> Self {
        Self { key: run.key, outcome: OutcomeKind::of(&run.outcome), ended: run.ended }
    }
}
