//! ISO 8601 repeating intervals: slot k is the anchor plus k periods.

use jiff::Timestamp;

use super::calendar::{self, DAY, Fold, Gap, Resolved, Zone};
use super::iso::{self, Period, Start};
use super::{DstPolicy, Lint, Nominal, Part, ScheduleError, Slot, Zones};

const DAY_MS: i64 = DAY * 1_000;
/// A twelfth of the mean Gregorian year, 365.2425 days.
const MONTH_MS: i64 = 2_629_746_000;

/// An interval with its anchor.
///
/// Years, months, weeks and days are added on the calendar, to the anchor and not to the previous slot: 31 January
/// plus P1M is 28 February, and plus twice that is 31 March. Hours, minutes and seconds are elapsed time.
#[derive(Clone, Debug)]
pub(super) struct Interval {
    pub(super) repeats: Option<u64>,
    anchor: Anchor,
    period: Period,
    gap: Gap,
    fold: Fold,
    offset_ignored: bool,
}

/// What index 0 is counted from, in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Anchor {
    /// An instant, where the period is elapsed time only.
    Instant(i64),
    /// A wall-clock time, where the period has calendar parts.
    Civil(i64),
}

impl Interval {
    /// Reads an interval and finds its zone.
    pub(super) fn parse(
        zones: &Zones,
        text: &str,
        zone: &str,
        dst: DstPolicy,
        anchor: Timestamp,
    ) -> Result<(Self, Zone), ScheduleError> {
        let parts = iso::read(text)?;
        let zone_given = !zone.is_empty();
        let start_offset = parts.start.and_then(|start| start.offset);
        let zone = match start_offset.filter(|_| !zone_given).and_then(Zone::fixed) {
            Some(fixed) => fixed,
            None => zones.named(zone)?,
        };
        let gap = if dst.gap == Gap::Auto { Gap::Shift } else { dst.gap };
        let fold = if dst.fold == Fold::Second { Fold::Second } else { Fold::First };
        let elapsed = parts.period.months == 0 && parts.period.days == 0;
        let (instant_ms, civil_ms) = match parts.start {
            None => {
                let ms = calendar::floor_milli(anchor);
                (Some(ms), ms.saturating_add(zone.offset(ms.div_euclid(1_000)) * 1_000))
            }
            // An elapsed-time interval has to begin somewhere, even if its gap policy is to skip.
            Some(Start { civil_ms, .. }) => {
                let gap = if gap == Gap::Skip { Gap::Shift } else { gap };
                (instant_of(&zone, civil_ms, gap, fold), civil_ms)
            }
        };
        let refuse = |problem| ScheduleError::Interval {
            text: text.into(),
            part: Part::Start,
            position: parts.start_at,
            problem,
            advice: "give a date from 1970 to 9999; time alone means the first day of 1970",
        };
        let instant_ms = match instant_ms {
            Some(ms) if Timestamp::from_millisecond(ms).is_err() => {
                return Err(refuse("it is after the year 9999"));
            }
            Some(ms) if ms < 1_000 => return Err(refuse("it is before 1970-01-01T00:00:01Z")),
            Some(ms) => ms,
            None => return Err(refuse("it is after the year 9999")),
        };
        let anchor = if elapsed { Anchor::Instant(instant_ms) } else { Anchor::Civil(civil_ms) };
        let offset_ignored = zone_given && start_offset.is_some();
        Ok((Self { repeats: parts.repeats, anchor, period: parts.period, gap, fold, offset_ignored }, zone))
    }

    pub(super) fn lints(&self, zone: &Zone) -> Vec<Lint> {
        let mut lints = Vec::new();
        if self.offset_ignored {
            lints.push(Lint::OffsetIgnored);
        }
        match self.anchor {
            Anchor::Instant(ms)
                if self.period.time_ms % DAY_MS == 0
                    && zone.segment(ms.div_euclid(1_000)).end <= calendar::CIVIL_MAX =>
            {
                lints.push(Lint::ElapsedDays);
            }
            Anchor::Civil(ms) if self.period.months != 0 => {
                let (_, _, day) = calendar::civil_from_days(ms.div_euclid(DAY_MS));
                if let Some(day) = u8::try_from(day).ok().filter(|day| *day > 28) {
                    lints.push(Lint::MonthEnd { day });
                }
            }
            _ => {}
        }
        lints
    }

    pub(super) fn after(&self, zone: &Zone, k: u64) -> Option<Slot> {
        self.slot_from(zone, k.checked_add(1)?)
    }

    pub(super) fn first_after(&self, zone: &Zone, t: Timestamp) -> Option<Slot> {
        let k = self.index_until(zone, calendar::floor_milli(t)).map_or(Some(0), |k| k.checked_add(1))?;
        self.slot_from(zone, k)
    }

    pub(super) fn last_until(&self, zone: &Zone, t: Timestamp) -> Option<Slot> {
        if self.repeats == Some(0) {
            return None;
        }
        let k = self.index_until(zone, calendar::floor_milli(t))?;
        (0..=k).rev().find_map(|k| self.slot(zone, k))
    }

    pub(super) fn due(&self, zone: &Zone, k: u64) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.due_ms(zone, k, self.gap)?).ok()
    }

    /// How many slots there are from `first` to `last`, which are slots: all indices but those that DST removed.
    pub(super) fn count(&self, zone: &Zone, first: Slot, last: Slot) -> u64 {
        let (Nominal::Index(from), Nominal::Index(to)) = (first.nominal, last.nominal) else {
            return 0;
        };
        let all = to.saturating_sub(from) + 1;
        if matches!(self.anchor, Anchor::Instant(_)) || !zone.jumps() {
            return all;
        }
        // Indices can only be missing where the clock jumped forward: in a gap that is skipped, or because a jump
        // of a whole day puts two of them at one instant. Elapsed time is added after that and plays no part.
        let dates = Self { period: Period { time_ms: 0, ..self.period }, ..self.clone() };
        let second = |k| dates.due_ms(zone, k, Gap::Shift).map(|ms| ms.div_euclid(1_000));
        let (Some(begin), Some(end)) = (second(from), second(to)) else {
            return all;
        };
        // The first may itself be due at a jump, and the next one with it.
        let mut segment = zone.segment(begin - 1);
        let mut missing = 0;
        let mut checked = from;
        while segment.end <= end {
            let Some(next) = segment.next(zone) else { break };
            let width = next.offset - next.before;
            if width >= DAY || (width > 0 && self.gap == Gap::Skip) {
                // The earliest index that may be touched is the last one due before the jump.
                let before = dates.index_until(zone, next.start.saturating_mul(1_000) - 1).unwrap_or(0);
                let touched = (before.max(checked)..=to)
                    .take_while(|k| second(*k).is_some_and(|second| second <= next.start + 2 * width));
                for k in touched {
                    missing += u64::from(self.slot(zone, k).is_none());
                    checked = k + 1;
                }
            }
            segment = next;
        }
        all - missing
    }

    /// The first slot at or after index `k`. Each index that is left out needs a change of offset of its own, so
    /// the search ends with the calendar at the latest, after some 16,000 steps.
    fn slot_from(&self, zone: &Zone, k: u64) -> Option<Slot> {
        if self.repeats == Some(0) {
            return None;
        }
        let mut k = k;
        loop {
            if let Some(slot) = self.slot(zone, k) {
                return Some(slot);
            }
            // A gap leaves out single indices; the end of the calendar all that follow.
            self.due_ms(zone, k, Gap::Shift).filter(|due| Timestamp::from_millisecond(*due).is_ok())?;
            k = k.checked_add(1)?;
        }
    }

    /// Index `k` as a slot, unless it is skipped or due with its predecessor.
    fn slot(&self, zone: &Zone, k: u64) -> Option<Slot> {
        if self.repeats == Some(0) {
            return None;
        }
        let due = self.due_ms(zone, k, self.gap)?;
        let calendar_only = self.period.time_ms == 0;
        if calendar_only && k > 0 && self.due_ms(zone, k - 1, self.gap).is_some_and(|before| before >= due) {
            return None;
        }
        Some(Slot { nominal: Nominal::Index(k), due: Timestamp::from_millisecond(due).ok()? })
    }

    /// When index `k` is due, in milliseconds; `None` in a gap that is skipped and past the end of the calendar.
    fn due_ms(&self, zone: &Zone, k: u64, gap: Gap) -> Option<i64> {
        let k = i64::try_from(k).ok()?;
        let elapsed = self.period.time_ms.checked_mul(k)?;
        let from = match self.anchor {
            Anchor::Instant(ms) => ms,
            Anchor::Civil(ms) => instant_of(zone, self.add_calendar(ms, k)?, gap, self.fold)?,
        };
        from.checked_add(elapsed)
    }

    /// `ms` plus k times the calendar parts of the period; a day that a month lacks becomes its last.
    fn add_calendar(&self, ms: i64, k: i64) -> Option<i64> {
        let mut days = ms.div_euclid(DAY_MS);
        if self.period.months != 0 {
            let (year, month, day) = calendar::civil_from_days(days);
            let months = self.period.months.checked_mul(k)?.checked_add(year * 12 + month - 1)?;
            let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
            if year > 9_999 {
                return None;
            }
            days = calendar::days_from_civil(year, month, day.min(calendar::days_in_month(year, month)));
        }
        let days = days.checked_add(self.period.days.checked_mul(k)?)?;
        days.checked_mul(DAY_MS)?.checked_add(ms.rem_euclid(DAY_MS))
    }

    /// The largest index due at or before `t_ms`, slot or not: where gaps are skipped, as if they were shifted.
    /// Due times then never decrease: calendar periods have at least a day, and no clock jumps further.
    fn index_until(&self, zone: &Zone, t_ms: i64) -> Option<u64> {
        let gap = if self.gap == Gap::Skip { Gap::Shift } else { self.gap };
        let due_by = |k: u64| self.due_ms(zone, k, gap).is_some_and(|due| due <= t_ms);
        if !due_by(0) {
            return None;
        }
        if let Anchor::Instant(ms) = self.anchor {
            return u64::try_from((t_ms - ms) / self.period.time_ms).ok();
        }
        let period = &self.period;
        let mean = i128::from(period.months) * i128::from(MONTH_MS)
            + i128::from(period.days) * i128::from(DAY_MS)
            + i128::from(period.time_ms);
        let start = self.due_ms(zone, 0, gap)?;
        let estimate = u64::try_from((i128::from(t_ms) - i128::from(start)) / mean).unwrap_or(0);
        // Gallop from the estimate to bracket the answer, then halve: `low` is due by then, `high` is not.
        let (mut low, mut high, mut step) = (estimate, estimate, 1);
        while !due_by(low) {
            high = low;
            low = low.saturating_sub(step);
            step *= 2;
        }
        while due_by(high) {
            low = high;
            high += step;
            step *= 2;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if due_by(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }
}

/// The instant of a civil time in milliseconds; `None` in a gap that is skipped and past the end of the calendar.
fn instant_of(zone: &Zone, civil_ms: i64, gap: Gap, fold: Fold) -> Option<i64> {
    let (second, fraction) = (civil_ms.div_euclid(1_000), civil_ms.rem_euclid(1_000));
    if !(calendar::CIVIL_MIN..=calendar::CIVIL_MAX).contains(&second) {
        return None;
    }
    Some(match zone.resolve(second, gap, fold)? {
        Resolved::At(instant) => instant * 1_000 + fraction,
        Resolved::Edge(instant) => instant * 1_000,
    })
}
