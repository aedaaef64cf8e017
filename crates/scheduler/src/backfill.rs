//! Backfills: past slots that a user wants to run, and how far that has come. A re-run of one run with all that comes
//! after it is a backfill of one.
//!
//! A backfill makes a run only when its job has room for it, so hardly anything of it ever waits; what there is of it is
//! this record. Its cursor moves in the same batch as the run that it makes, so a slot is never left out or made twice.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::ids::{BackfillId, Cycle, RunKey};
use crate::job::Timetable;
use crate::schedule::{Schedule, Slot};

/// Past slots of one job that are to run, and how far that has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Backfill {
    /// Its identity.
    pub id: BackfillId,
    /// What it goes through.
    pub what: Redo,
    /// Whether the children of its job follow.
    pub children: Children,
    /// Slots under way at once, with all that descends from them; 1 to [`Backfill::PARALLEL_MAX`].
    pub parallel: u32,
    /// How fast slots begin; `None` for as fast as they can.
    pub rate: Option<Rate>,
    /// When it was asked for.
    pub created: Timestamp,
    /// How many slots it is about.
    pub slots: u64,
    /// The cursor: the slot that begins next. `None` once all have, or when it was cancelled.
    pub next: Option<Slot>,
    /// Slots between the cursor and the end that are left out, as first and last due time, in the order of time.
    pub except: Vec<(Timestamp, Timestamp)>,
    /// Slots that have begun.
    pub begun: u64,
    /// Runs of those that succeeded.
    pub succeeded: u64,
    /// Runs of those that ended otherwise.
    pub failed: u64,
    /// When a slot last began.
    pub last: Option<Timestamp>,
    /// Its rate lets no slot begin before this.
    pub hold: Option<Timestamp>,
    /// Due times of slots that have begun and are not over: their cycles are under way until nothing lives of them.
    pub under_way: Vec<Timestamp>,
    /// Whether a user has ended it.
    pub cancelled: bool,
    /// When the last of it was over.
    pub ended: Option<Timestamp>,
}

/// What a backfill goes through.
#[derive(Clone, Debug, PartialEq)]
pub enum Redo {
    /// Slots of a schedule, also those from before the job had it.
    Slots {
        /// The schedule that the job had when the backfill was asked for.
        table: Timetable,
        /// Slots due at or after this.
        from: Timestamp,
        /// Slots due before this.
        to: Timestamp,
        /// Which end first.
        order: Order,
    },
    /// One run once more, whatever made it.
    Run(RunKey),
}

/// In which order slots begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they were due.
    OldestFirst,
    /// The other way round.
    NewestFirst,
}

/// Whether the children of a job follow a run of a backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// As they would a slot.
    Follow,
    /// They are not told.
    Stay,
}

/// At most so many in so long, evenly spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

impl Rate {
    /// Shortest time between two beginnings, rounded up to a millisecond.
    pub fn spacing(&self) -> Duration {
        let millis = self.per.as_millis().div_ceil(self.count.max(1).into());
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// Why a range cannot be gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Nothing lies between them.
    #[error("`from` is not before `to`")]
    Empty,
    /// Slots that are not due yet come by themselves.
    #[error("`from` is not in the past")]
    Future,
    /// Names of runs begin with 1970.
    #[error("`from` is before 1971")]
    TooOld,
    /// The schedule has none there.
    #[error("the schedule has no slot in this range; an interval has none before its start")]
    NoSlots,
    /// More than [`Backfill::SLOTS_MAX`].
    #[error("the range has {slots} slots, more than the 100000 of one backfill")]
    TooMany {
        /// How many.
        slots: u64,
    },
    /// There are slots, and all of them are left out.
    #[error("every slot in this range is left out")]
    AllExcept,
    /// More than [`Backfill::EXCEPT_MAX`] gaps.
    #[error("the slots to be left out lie in {ranges} pieces, more than the 256 that a backfill can keep")]
    TooScattered {
        /// How many.
        ranges: usize,
    },
}

/// What a backfill would go through.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// Slots that would run.
    pub slots: u64,
    /// Slots in the range that would be left out.
    pub left_out: u64,
    /// The first to begin.
    pub first: Slot,
    /// The last to begin.
    pub last: Slot,
    /// Where the range ends: never in the future.
    pub to: Timestamp,
}

/// The last instant of whole milliseconds before `at`, which is what due times have.
fn before(at: Timestamp) -> Timestamp {
    at.checked_sub(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MIN)
}

impl Redo {
    /// The slots of `table` from `from` until `to`, or until now where that comes first.
    /// # Errors
    /// See [`RangeError`].
    pub fn preview(
        schedule: &Schedule,
        (from, to): (Timestamp, Timestamp),
        now: Timestamp,
        order: Order,
        except: &[(Timestamp, Timestamp)],
    ) -> Result<Preview, RangeError> {
        if from >= to {
            return Err(RangeError::Empty);
        }
        if from >= now {
            return Err(RangeError::Future);
        }
        if from.as_second() < 365 * 86_400 {
            return Err(RangeError::TooOld);
        }
        let to = to.min(now);
        let all = schedule.span_from(before(from), before(to)).ok_or(RangeError::NoSlots)?;
        // First, as each piece is looked for in the schedule.
        if except.len() > Backfill::EXCEPT_MAX {
            return Err(RangeError::TooScattered { ranges: except.len() });
        }
        let within = except.iter().map(|(first, last)| ((*first).max(from), (*last).min(before(to))));
        let spans = within.filter_map(|(first, last)| schedule.span_from(before(first), last));
        let left_out: u64 = spans.map(|span| span.count).sum();
        let slots = all.count.saturating_sub(left_out);
        if slots == 0 {
            return Err(RangeError::AllExcept);
        }
        if slots > Backfill::SLOTS_MAX {
            return Err(RangeError::TooMany { slots });
        }
        let oldest = walk(schedule, Some(all.first), Order::OldestFirst, except, (from, to));
        let newest = walk(schedule, Some(all.last), Order::NewestFirst, except, (from, to));
        let (oldest, newest) = oldest.zip(newest).ok_or(RangeError::AllExcept)?;
        let (first, last) = match order {
            Order::OldestFirst => (oldest, newest),
            Order::NewestFirst => (newest, oldest),
        };
        Ok(Preview { slots, left_out, first, last, to })
    }
}

/// The first slot from this one on that is not left out, within the range.
fn walk(
    schedule: &Schedule,
    mut slot: Option<Slot>,
    order: Order,
    except: &[(Timestamp, Timestamp)],
    (from, to): (Timestamp, Timestamp),
) -> Option<Slot> {
    // Each turn leaves one piece behind.
    for _ in 0..=except.len() {
        let here = slot.filter(|slot| (from..to).contains(&slot.due))?;
        let left_out = except.iter().find(|(first, last)| (*first..=*last).contains(&here.due));
        slot = match (left_out, order) {
            (None, _) => return Some(here),
            (Some((_, last)), Order::OldestFirst) => schedule.first_after(*last),
            (Some((first, _)), Order::NewestFirst) => schedule.last_until(before(*first)),
        };
    }
    None
}

impl Backfill {
    /// Bound on `parallel`. Beyond it, the joins of a child could not all be open.
    pub const PARALLEL_MAX: u32 = 64;
    /// Slots of one backfill: eleven years of an hourly job. Whoever wants more asks again.
    pub const SLOTS_MAX: u64 = 100_000;
    /// Pieces of slots that are left out. They are written with every step of the cursor.
    pub const EXCEPT_MAX: usize = 256;
    /// Backfills that are kept in all, those that are over included: each is looked at when its job moves.
    pub const KEPT_MAX: usize = 256;
    /// Longest period of a rate: a day.
    pub const PER_MAX: Duration = Duration::from_secs(86_400);

    /// The cycle of one of its slots.
    pub fn cycle(&self, due: Timestamp) -> Cycle {
        Cycle { due, origin: self.id.job, seq: self.id.number }
    }

    /// Slots that are still to begin.
    pub fn left(&self) -> u64 {
        if self.next.is_some() { self.slots.saturating_sub(self.begun) } else { 0 }
    }

    /// The cursor after the slot under it has begun.
    pub(crate) fn advanced(&self, schedule: &Schedule) -> Option<Slot> {
        let Redo::Slots { from, to, order, .. } = &self.what else { return None };
        let slot = self.next?;
        let following = match order {
            Order::OldestFirst => schedule.after(slot.nominal),
            Order::NewestFirst => schedule.last_until(before(slot.due)),
        };
        walk(schedule, following, *order, &self.except, (*from, *to))
    }

    /// Forgets the pieces that the cursor has left behind.
    pub(crate) fn trim(&mut self) {
        let (Redo::Slots { order, .. }, Some(next)) = (&self.what, self.next) else {
            return self.except.clear();
        };
        match order {
            Order::OldestFirst => self.except.retain(|(_, last)| *last > next.due),
            Order::NewestFirst => self.except.retain(|(first, _)| *first < next.due),
        }
    }
}
