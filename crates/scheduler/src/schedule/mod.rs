//! When a job is due: schedules as pure arithmetic on nominal slots.
//!
//! A [`Schedule`] is an ISO 8601 repeating interval or a cron expression in a [`Zone`]. It has no clock and no
//! memory: all questions are asked with a mark or an instant. Slots are ordered by their due time, which strictly
//! increases; a slot that DST would put at or before its predecessor does not exist.

mod calendar;
mod civil_set;
mod cron;
mod days;
mod error;
mod expression;
mod fields;
mod interval;
mod iso;
mod spread;
mod zones;

use jiff::Timestamp;

pub use calendar::{DstPolicy, Fold, Gap, Zone};
pub use error::{Field, Part, ScheduleError};
pub use spread::Spread;
pub use zones::Zones;

use cron::Cron;
use interval::Interval;

/// Longest text that is read as a schedule. The longest sensible cron expression has some 100 bytes.
pub const SCHEDULE_BYTES_MAX: usize = 256;

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

/// A checked schedule: a pure function from nominal slots to instants.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Kind,
    zone: Zone,
}

#[derive(Clone, Debug)]
enum Kind {
    Interval(Interval),
    Cron(Box<Cron>),
}

/// Some consecutive slots of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The earliest.
    pub first: Slot,
    /// The latest; equal to `first` when there is one.
    pub last: Slot,
    /// How many, both included; at least 1.
    pub count: u64,
}

/// Advice about a schedule that is valid but may not mean what its author thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lint {
    /// The start has an offset, but a zone is given: its local fields are read in that zone.
    OffsetIgnored,
    /// A period of whole days in hours, in a zone whose offset changes after the start: the time of day will move.
    ElapsedDays,
    /// The start is a day that some months lack: those use their last day.
    MonthEnd {
        /// Day of month of the start, 29 to 31.
        day: u8,
    },
    /// Day of month and day of week are both restricted: a day matches when either does.
    EitherDayMatches,
    /// Day of month or day of week is `*/n` and the other restricted: a day matches when both do.
    BothDaysMatch,
    /// `H` picks an hour or a day, but a field before it is `*`: it runs all through that hour or day.
    SpreadAfterEvery,
}

impl std::fmt::Display for Lint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OffsetIgnored => f.write_str("the offset of the start is ignored because a time zone is given"),
            Self::ElapsedDays => f.write_str(
                "PT24H is 24 hours of elapsed time: the time of day moves when daylight saving time begins or ends; P1D keeps it",
            ),
            Self::MonthEnd { day } => {
                write!(f, "the start is on day {day}: months without it use their last day")
            }
            Self::EitherDayMatches => f.write_str(
                "day of month and day of week are both set: a day matches when either of them does",
            ),
            Self::BothDaysMatch => f.write_str(
                "one of day of month and day of week is a step of `*`: a day matches when both of them do",
            ),
            Self::SpreadAfterEvery => f.write_str(
                "H picks one value, but a field before it is `*`, so the job runs again and again within it; write H there too",
            ),
        }
    }
}

impl Schedule {
    /// Reads `text`, an ISO 8601 repeating interval `R[n]/[start]/period` or a cron expression: five fields, six
    /// with seconds first, or a macro such as `@daily`. Names, `L`, `W`, `#` and `H` are understood; `H` falls where
    /// `spread` says, which is the name of the job.
    ///
    /// `zone` is the id of a time zone of `zones` (see [`Zones::named`]) or empty for none: then an interval uses the offset
    /// of its start, and everything else is UTC. If a zone is given, the local fields of a start are kept and read in
    /// that zone. `anchor` stands for an empty start; it is the moment at which the job was posted.
    /// # Errors
    /// Says which part is wrong and, by [`ScheduleError::hint`], what to write instead.
    /// # Source
    /// Intervals: ISO 8601 as read by Chronos. Cron: Vixie's, with the extensions of Quartz.
    pub fn parse(
        zones: &Zones,
        text: &str,
        zone: &str,
        dst: DstPolicy,
        anchor: Timestamp,
        spread: Spread,
    ) -> Result<Self, ScheduleError> {
        if text.len() > SCHEDULE_BYTES_MAX {
            return Err(ScheduleError::TooLong { bytes: text.len() });
        }
        if text.trim().is_empty() {
            return Err(ScheduleError::Empty);
        }
        if iso::looks_like_interval(text) {
            let (interval, zone) = Interval::parse(zones, text, zone, dst, anchor)?;
            return Ok(Self { kind: Kind::Interval(interval), zone });
        }
        let zone = zones.named(zone)?;
        Ok(Self { kind: Kind::Cron(Box::new(Cron::parse(text, dst, spread)?)), zone })
    }

    /// `n` of `Rn`; `None` when the schedule goes on for ever. Counting is left to the caller, who knows where it
    /// began: only `R0` ends a schedule here, by having no slots.
    pub fn repeats(&self) -> Option<u64> {
        match &self.kind {
            Kind::Interval(interval) => interval.repeats,
            Kind::Cron(_) => None,
        }
    }

    /// A cron expression with each `H` replaced by what it stands for; `None` if it has none.
    pub fn resolved(&self) -> Option<&str> {
        match &self.kind {
            Kind::Interval(_) => None,
            Kind::Cron(cron) => cron.resolved(),
        }
    }

    /// The zone in which the schedule is read.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// What its author may want to know about it.
    pub fn lints(&self) -> Vec<Lint> {
        match &self.kind {
            Kind::Interval(interval) => interval.lints(&self.zone),
            Kind::Cron(cron) => cron.lints(),
        }
    }

    /// The first slot strictly after `mark`, in the order of slots, or `None` past the end of the calendar.
    ///
    /// In a repeated hour that order is not the one of [`Nominal`]: 02:00 the second time comes after 02:45 the
    /// first time. A mark need not be a slot. A mark of the second time around where today's zone data repeats
    /// nothing resumes three hours later: skip rather than double. A mark of the other kind of schedule has no
    /// successor: use [`Schedule::first_after`] when a schedule was replaced.
    pub fn after(&self, mark: Nominal) -> Option<Slot> {
        match (&self.kind, mark) {
            (Kind::Interval(interval), Nominal::Index(k)) => interval.after(&self.zone, k),
            (Kind::Cron(cron), Nominal::Civil { second, fold }) => cron.after(&self.zone, second, fold),
            _ => None,
        }
    }

    /// The first slot due strictly after `t`.
    pub fn first_after(&self, t: Timestamp) -> Option<Slot> {
        match &self.kind {
            Kind::Interval(interval) => interval.first_after(&self.zone, t),
            Kind::Cron(cron) => cron.first_after(&self.zone, t),
        }
    }

    /// The latest slot due at or before `t`. An interval has none before its start.
    pub fn last_until(&self, t: Timestamp) -> Option<Slot> {
        match &self.kind {
            Kind::Interval(interval) => interval.last_until(&self.zone, t),
            Kind::Cron(cron) => cron.last_until(&self.zone, t),
        }
    }

    /// The instant of `nominal` with today's zone data, whether or not it is a slot. `None` if a gap swallows it
    /// under [`Gap::Skip`], if it is past the end of the calendar or belongs to the other kind of schedule.
    pub fn due(&self, nominal: Nominal) -> Option<Timestamp> {
        match (&self.kind, nominal) {
            (Kind::Interval(interval), Nominal::Index(k)) => interval.due(&self.zone, k),
            (Kind::Cron(cron), Nominal::Civil { second, fold }) => cron.due(&self.zone, second, fold),
            _ => None,
        }
    }

    /// The slots after `mark` (as in [`Schedule::after`]) that are due at or before `until`; `None` if there are none.
    ///
    /// Costs O(1) for elapsed-time intervals, O(log n) for calendar intervals, O(months) for cron, each plus one
    /// step for each change of offset in between.
    pub fn span(&self, mark: Nominal, until: Timestamp) -> Option<Span> {
        let first = self.after(mark)?;
        self.span_of(first, until)
    }

    /// The slots due after `after` and at or before `until`; costs as [`Schedule::span`].
    pub fn span_from(&self, after: Timestamp, until: Timestamp) -> Option<Span> {
        let first = self.first_after(after)?;
        self.span_of(first, until)
    }

    /// All slots due strictly after `after`, in order.
    pub fn upcoming(&self, after: Timestamp) -> impl Iterator<Item = Slot> {
        std::iter::successors(self.first_after(after), |slot| self.after(slot.nominal))
    }

    fn span_of(&self, first: Slot, until: Timestamp) -> Option<Span> {
        if first.due > until {
            return None;
        }
        let last = self.last_until(until)?;
        let count = match &self.kind {
            Kind::Interval(interval) => interval.count(&self.zone, first, last),
            Kind::Cron(cron) => cron.count(&self.zone, first, last),
        };
        Some(Span { first, last, count })
    }
}
