//! When a job is due: schedules as pure arithmetic on nominal slots.

use jiff::Timestamp;

/// Identity of a slot: what the calendar calls it, not the instant it falls on. The instant is derived with
/// the zone data at hand, so other zone data moves a slot but never repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nominal {
    /// The k-th repetition of an ISO 8601 interval: its anchor plus k periods, counted from 0.
    Index(u64),
    /// A civil time that a cron expression matches, in the zone of the job.
    Civil {
        /// Seconds from 1970-01-01T00:00:00 on the wall clock of the job's zone.
        second: i64,
        /// 1 for the second time a repeated wall-clock time comes around, else 0.
        fold: u8,
    },
}

/// One nominal occurrence of a schedule and the instant it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which occurrence.
    pub nominal: Nominal,
    /// When, with whole milliseconds.
    pub due: Timestamp,
}
