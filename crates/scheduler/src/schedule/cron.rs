//! Cron expressions: the slots of a set of civil times in a zone.
//!
//! The set knows no zone. The zone is a series of segments of constant offset, each with a gap before it, an
//! overlap with its neighbour, or neither; within a segment, slots are the set moved by the offset.

use jiff::Timestamp;

use super::calendar::{self, Fold, Gap, JUMP_MAX, Place, Resolved, Segment, Zone};
use super::civil_set::CivilSet;
use super::expression;
use super::{DstPolicy, Lint, Nominal, ScheduleError, Slot, Spread};

/// A mark of a second time around that no longer exists is taken for this much later: no fold is longer in practice.
const LOST_FOLD: i64 = 3 * 3_600;

/// A cron expression with its policy resolved: `Auto` no longer occurs.
#[derive(Clone, Debug)]
pub(super) struct Cron {
    set: CivilSet,
    gap: Gap,
    fold: Fold,
    lints: Vec<Lint>,
    resolved: Option<String>,
}

impl Cron {
    /// Reads a cron expression or macro.
    pub(super) fn parse(text: &str, dst: DstPolicy, spread: Spread) -> Result<Self, ScheduleError> {
        let expression::Read { set, hourly, lints, resolved } = expression::read(text, spread)?;
        if set.is_empty() {
            return Err(ScheduleError::Never { text: text.into() });
        }
        // What runs every so many hours is elapsed time: it runs through both repeated hours and not at all in a gap.
        let (gap, fold) = if hourly { (Gap::Skip, Fold::Both) } else { (Gap::Shift, Fold::First) };
        let gap = if dst.gap == Gap::Auto { gap } else { dst.gap };
        let fold = if dst.fold == Fold::Auto { fold } else { dst.fold };
        Ok(Self { set, gap, fold, lints, resolved })
    }

    pub(super) fn lints(&self) -> Vec<Lint> {
        self.lints.clone()
    }

    pub(super) fn resolved(&self) -> Option<&str> {
        self.resolved.as_deref()
    }

    pub(super) fn due(&self, zone: &Zone, civil: i64, fold: u8) -> Option<Timestamp> {
        if !(calendar::CIVIL_MIN..=calendar::CIVIL_MAX).contains(&civil) {
            return None;
        }
        let wanted = if fold == 0 { Fold::First } else { Fold::Second };
        let (Resolved::At(instant) | Resolved::Edge(instant)) = zone.resolve(civil, self.gap, wanted)?;
        Timestamp::from_second(instant).ok()
    }

    pub(super) fn after(&self, zone: &Zone, civil: i64, fold: u8) -> Option<Slot> {
        let civil = civil.clamp(calendar::CIVIL_MIN, calendar::CIVIL_MAX);
        match zone.place(civil) {
            Place::Once(_) if fold != 0 => {
                // The second time around is gone from the zone data. Marks only ever move forward, so this ends.
                let later = civil + LOST_FOLD;
                match zone.place(later) {
                    Place::Fold { second, .. } => self.search(zone, second, Cursor::Plain(later)),
                    _ => self.after(zone, later, 0),
                }
            }
            Place::Gap { .. } if fold != 0 => self.after(zone, civil + LOST_FOLD, 0),
            Place::Once(instant) => match self.near(zone, civil) {
                Some(slot) => Some(slot),
                None => self.search(zone, instant, Cursor::Plain(civil)),
            },
            Place::Fold { first, .. } if fold == 0 => self.search(zone, first, Cursor::Plain(civil)),
            Place::Fold { second, .. } => self.search(zone, second, Cursor::Plain(civil)),
            Place::Gap { earlier, .. } => {
                let end = zone.segment(earlier).end;
                self.search(zone, end, Cursor::Gap(civil))
            }
        }
    }

    pub(super) fn first_after(&self, zone: &Zone, t: Timestamp) -> Option<Slot> {
        let instant = calendar::floor_second(t);
        let civil = instant + zone.offset(instant);
        if matches!(zone.place(civil), Place::Once(_))
            && let Some(slot) = self.near(zone, civil)
        {
            return Some(slot);
        }
        self.search(zone, instant, Cursor::Instant(instant))
    }

    pub(super) fn last_until(&self, zone: &Zone, t: Timestamp) -> Option<Slot> {
        let instant = calendar::floor_second(t);
        let mut segment = zone.segment(instant);
        loop {
            if let Some(slot) = self.last_in(&segment, instant) {
                return slot;
            }
            segment = segment.previous(zone)?;
        }
    }

    /// How many slots there are from `first` to `last`, which are slots.
    pub(super) fn count(&self, zone: &Zone, first: Slot, last: Slot) -> u64 {
        let (from, until) = (first.due.as_second() - 1, last.due.as_second());
        let mut segment = zone.segment(from);
        let mut count = 0;
        loop {
            count += self.count_in(&segment, from, until);
            if segment.end > until {
                return count;
            }
            match segment.next(zone) {
                Some(next) => segment = next,
                None => return count,
            }
        }
    }

    /// The common case, without segments: the next civil time of the set, if the clock does nothing unusual at it
    /// nor in the day before it. `civil` must come once. Then nothing in between can match: a fold or gap lies
    /// wholly after `civil` and, were one of its times in the set, that time would have been found.
    fn near(&self, zone: &Zone, civil: i64) -> Option<Slot> {
        let next = self.set.next(civil + 1)?;
        let Place::Once(due) = zone.place(next) else { return None };
        if self.gap != Gap::Skip && zone.offset(due - JUMP_MAX) != next - due {
            // A gap just before may have shifted its slots up to here or beyond.
            return None;
        }
        slot(next, 0, due)
    }

    /// The first slot after `cursor`, beginning in the segment around `instant`.
    fn search(&self, zone: &Zone, instant: i64, cursor: Cursor) -> Option<Slot> {
        let mut segment = zone.segment(instant);
        let mut cursor = cursor;
        loop {
            if let Some(slot) = self.first_in(&segment, cursor) {
                return slot;
            }
            // A month of the set may be far away: walking there costs a step for each change of offset.
            segment = segment.next(zone)?;
            cursor = Cursor::Start;
        }
    }

    /// The first slot of `segment` after `cursor`. The inner `None` is the end of the calendar.
    fn first_in(&self, segment: &Segment, cursor: Cursor) -> Option<Option<Slot>> {
        let view = self.view(segment);
        let (gap_after, plain_after) = match cursor {
            Cursor::Start => (i64::MIN, i64::MIN),
            Cursor::Gap(civil) => (civil, i64::MIN),
            Cursor::Plain(civil) => (i64::MAX, civil),
            // At the end of a gap nothing is left of it: its one slot is due as the segment starts.
            Cursor::Instant(_) if self.gap == Gap::End => (i64::MAX, cursor.civil(segment.offset)),
            Cursor::Instant(_) => (cursor.civil(segment.before), cursor.civil(segment.offset)),
        };
        let gap = self.set.next_in(view.gap.0.max(gap_after.saturating_add(1)), view.gap.1);
        if let Some(civil) = gap {
            return Some(slot(civil, 0, view.gap_due(civil, segment)));
        }
        let civil = self.set.next_in(view.plain.0.max(plain_after.saturating_add(1)), view.plain.1)?;
        Some(slot(civil, view.fold(civil), civil - segment.offset))
    }

    /// The last slot of `segment` due at or before `until`.
    fn last_in(&self, segment: &Segment, until: i64) -> Option<Option<Slot>> {
        let view = self.view(segment);
        let end = view.plain.1.min(until.saturating_add(segment.offset + 1));
        if let Some(civil) = self.set.previous_in(view.plain.0, end) {
            return Some(slot(civil, view.fold(civil), civil - segment.offset));
        }
        let end = if view.edge.is_some() {
            view.gap.1
        } else {
            view.gap.1.min(until.saturating_add(segment.before + 1))
        };
        let civil = self.set.previous_in(view.gap.0, end)?;
        Some(slot(civil, 0, view.gap_due(civil, segment)))
    }

    /// How many slots of `segment` are due after `from`, at or before `until`.
    fn count_in(&self, segment: &Segment, from: i64, until: i64) -> u64 {
        let view = self.view(segment);
        let within = |range: (i64, i64), offset: i64| {
            let begin = range.0.max(from.saturating_add(offset + 1));
            self.set.count(begin, range.1.min(until.saturating_add(offset + 1)))
        };
        let gap = match view.edge {
            Some(edge) => u64::from(from < edge && edge <= until),
            None => within(view.gap, segment.before),
        };
        gap + within(view.plain, segment.offset)
    }

    /// Which civil times are slots of `segment` under the policy.
    fn view(&self, segment: &Segment) -> View {
        let (start, offset) = (segment.start, segment.offset);
        let mut view = View {
            gap: (0, 0),
            edge: None,
            plain: (start + offset, segment.end + offset),
            repeated_until: i64::MIN,
        };
        if segment.before > offset {
            if self.fold == Fold::First {
                view.plain.0 = start + segment.before;
            }
            view.repeated_until = start + segment.before;
        }
        if segment.after < offset && self.fold == Fold::Second {
            view.plain.1 = segment.end + segment.after;
        }
        if segment.before < offset && self.gap != Gap::Skip {
            // Slots of the gap come first; what the clock says at or before the last of them is dropped.
            let end = (start + offset).min(segment.end + segment.before);
            match (self.gap, self.set.next_in(start + segment.before, end)) {
                (_, None) => {}
                (Gap::End, Some(first)) => {
                    view.gap = (first, first + 1);
                    view.edge = Some(start);
                    view.plain.0 = start + offset + 1;
                }
                (_, Some(first)) => {
                    view.gap = (first, end);
                    let last = self.set.previous_in(first, end).unwrap_or(first);
                    view.plain.0 = last - segment.before + offset + 1;
                }
            }
        }
        view
    }
}

/// Where a search begins.
#[derive(Clone, Copy)]
enum Cursor {
    /// With the first slot of the segment.
    Start,
    /// After a civil time in the gap before the segment.
    Gap(i64),
    /// After a civil time in the segment.
    Plain(i64),
    /// After an instant.
    Instant(i64),
}

impl Cursor {
    fn civil(self, offset: i64) -> i64 {
        match self {
            Self::Start => i64::MIN,
            Self::Gap(civil) | Self::Plain(civil) => civil,
            Self::Instant(instant) => instant.saturating_add(offset),
        }
    }
}

/// The civil times that are slots of one segment, as half-open ranges. All of `gap` is due before all of `plain`.
struct View {
    /// In the gap before the segment.
    gap: (i64, i64),
    /// The one instant at which they are due, if it is one.
    edge: Option<i64>,
    /// In the segment itself.
    plain: (i64, i64),
    /// Times before this one come around the second time.
    repeated_until: i64,
}

impl View {
    fn gap_due(&self, civil: i64, segment: &Segment) -> i64 {
        self.edge.unwrap_or(civil - segment.before)
    }

    fn fold(&self, civil: i64) -> u8 {
        u8::from(civil < self.repeated_until)
    }
}

/// A slot, unless it is past the end of the calendar.
fn slot(civil: i64, fold: u8, due: i64) -> Option<Slot> {
    let due = Timestamp::from_second(due).ok()?;
    Some(Slot { nominal: Nominal::Civil { second: civil, fold }, due })
}
