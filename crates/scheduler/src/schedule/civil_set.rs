//! A set of civil times, as a cron expression describes it: asked for the next, the previous and how many.
//!
//! Nothing is searched second by second or day by day: a month is one mask of days, a day three masks.

use super::calendar::{self, DAY};

/// The calendar repeats itself, weekdays included, after 400 years.
const CYCLE_MONTHS: i64 = 4_800;

/// The matching days of a month, bit 1 is the first: by length of the month (28 to 31), then by the weekday of its
/// first day (0 is Sunday).
pub(super) type Days = [[u32; 7]; 4];

/// The civil seconds that an expression matches.
#[derive(Clone, Debug)]
pub(super) struct CivilSet {
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u32,
    /// Bit 1 is January.
    pub(super) months: u16,
    pub(super) days: Days,
}

impl CivilSet {
    /// Whether no day ever matches. All combinations of length and first weekday do occur in every month.
    pub(super) fn is_empty(&self) -> bool {
        let lengths = |month: i64| match month {
            2 => 0..2,
            4 | 6 | 9 | 11 => 2..3,
            _ => 3..4,
        };
        !(1..=12).any(|month| {
            self.months >> month & 1 == 1 && self.days[lengths(month)].iter().flatten().any(|days| *days != 0)
        })
    }

    /// The first member in `from..end`.
    pub(super) fn next_in(&self, from: i64, end: i64) -> Option<i64> {
        if from >= end {
            return None;
        }
        self.next(from).filter(|civil| *civil < end)
    }

    /// The last member in `from..end`.
    pub(super) fn previous_in(&self, from: i64, end: i64) -> Option<i64> {
        if from >= end {
            return None;
        }
        self.previous(end - 1).filter(|civil| *civil >= from)
    }

    /// The first member at or after `from`, up to the year 9999.
    pub(super) fn next(&self, from: i64) -> Option<i64> {
        let from = from.max(calendar::CIVIL_MIN);
        if from > calendar::CIVIL_MAX {
            return None;
        }
        let day = from.div_euclid(DAY);
        let (year, month, of_month) = calendar::civil_from_days(day);
        if self.has_day(year, month, of_month)
            && let Some(second) = self.time_from(from.rem_euclid(DAY))
        {
            return Some(day * DAY + second);
        }
        let day = self.day_from(year, month, of_month + 1)?;
        Some(day * DAY + self.time_from(0)?)
    }

    /// The last member at or before `to`.
    pub(super) fn previous(&self, to: i64) -> Option<i64> {
        let to = to.min(calendar::CIVIL_MAX);
        if to < calendar::CIVIL_MIN {
            return None;
        }
        let day = to.div_euclid(DAY);
        let (year, month, of_month) = calendar::civil_from_days(day);
        if self.has_day(year, month, of_month)
            && let Some(second) = self.time_until(to.rem_euclid(DAY))
        {
            return Some(day * DAY + second);
        }
        let day = self.day_until(year, month, of_month - 1)?;
        Some(day * DAY + self.time_until(DAY - 1)?)
    }

    /// How many members there are in `from..end`.
    pub(super) fn count(&self, from: i64, end: i64) -> u64 {
        let (from, end) = (from.max(calendar::CIVIL_MIN), end.min(calendar::CIVIL_MAX + 1));
        if from >= end {
            return 0;
        }
        self.count_before(end, from.div_euclid(DAY)) - self.count_before(from, from.div_euclid(DAY))
    }

    /// How many members there are from the day `since` to before the civil second `end`.
    fn count_before(&self, end: i64, since: i64) -> u64 {
        let last = end.div_euclid(DAY);
        let per_day =
            u64::from(self.hours.count_ones() * self.minutes.count_ones() * self.seconds.count_ones());
        let (year, month, of_month) = calendar::civil_from_days(last);
        let mut count =
            if self.has_day(year, month, of_month) { self.times_before(end.rem_euclid(DAY)) } else { 0 };
        // Whole days, a month at a time: the first of them may begin late, the last end early.
        let (mut year, mut month, from) = calendar::civil_from_days(since);
        let mut first_day = since - (from - 1);
        let mut skip = from;
        while first_day < last {
            let before = (last - first_day + 1).min(32);
            let mask = self.days_of(year, month) & below(before) & !below(skip);
            count += u64::from(mask.count_ones()) * per_day;
            first_day += calendar::days_in_month(year, month);
            (year, month) = following(year, month);
            skip = 0;
        }
        count
    }

    /// How many times of a matching day are before `second` of the day.
    fn times_before(&self, second: i64) -> u64 {
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let (seconds, minutes) = (u64::from(self.seconds.count_ones()), u64::from(self.minutes.count_ones()));
        let mut count = u64::from((self.hours & below(hour)).count_ones()) * minutes * seconds;
        if self.hours >> hour & 1 == 1 {
            count += u64::from((self.minutes & below_64(minute)).count_ones()) * seconds;
            if self.minutes >> minute & 1 == 1 {
                count += u64::from((self.seconds & below_64(second)).count_ones());
            }
        }
        count
    }

    /// The first time of a matching day at or after `second` of the day.
    fn time_from(&self, second: i64) -> Option<i64> {
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let (first_second, first_minute) = (lowest(self.seconds)?, lowest(self.minutes)?);
        if self.hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = lowest(self.seconds & !below_64(second))
            {
                return Some(hour * 3_600 + minute * 60 + second);
            }
            if let Some(minute) = lowest(self.minutes & !below_64(minute + 1)) {
                return Some(hour * 3_600 + minute * 60 + first_second);
            }
        }
        let hour = lowest(u64::from(self.hours) & !below_64(hour + 1))?;
        Some(hour * 3_600 + first_minute * 60 + first_second)
    }

    /// The last time of a matching day at or before `second` of the day.
    fn time_until(&self, second: i64) -> Option<i64> {
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let (last_second, last_minute) = (highest(self.seconds)?, highest(self.minutes)?);
        if self.hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = highest(self.seconds & below_64(second + 1))
            {
                return Some(hour * 3_600 + minute * 60 + second);
            }
            if let Some(minute) = highest(self.minutes & below_64(minute)) {
                return Some(hour * 3_600 + minute * 60 + last_second);
            }
        }
        let hour = highest(u64::from(self.hours & below(hour)))?;
        Some(hour * 3_600 + last_minute * 60 + last_second)
    }

    fn has_day(&self, year: i64, month: i64, of_month: i64) -> bool {
        self.days_of(year, month) >> of_month & 1 == 1
    }

    /// The first matching day at or after a day of a month, which may be one past its last.
    fn day_from(&self, year: i64, month: i64, of_month: i64) -> Option<i64> {
        let (mut year, mut month, mut skip) = (year, month, of_month);
        for _ in 0..=CYCLE_MONTHS {
            if year > 9_999 {
                return None;
            }
            if let Some(day) = lowest(u64::from(self.days_of(year, month) & !below(skip))) {
                return Some(calendar::days_from_civil(year, month, day));
            }
            (year, month) = following(year, month);
            skip = 0;
        }
        None
    }

    /// The last matching day at or before a day of a month, which may be 0.
    fn day_until(&self, year: i64, month: i64, of_month: i64) -> Option<i64> {
        let (mut year, mut month, mut before) = (year, month, of_month + 1);
        for _ in 0..=CYCLE_MONTHS {
            if year < -9_999 {
                return None;
            }
            if let Some(day) = highest(u64::from(self.days_of(year, month) & below(before))) {
                return Some(calendar::days_from_civil(year, month, day));
            }
            (year, month) = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
            before = 32;
        }
        None
    }

    /// The matching days of a month.
    fn days_of(&self, year: i64, month: i64) -> u32 {
        if self.months >> month & 1 == 0 {
            return 0;
        }
        // 1970-01-01 was a Thursday.
        let weekday = (calendar::days_from_civil(year, month, 1) + 4).rem_euclid(7);
        self.days[(calendar::days_in_month(year, month) - 28) as usize][weekday as usize]
    }
}

fn following(year: i64, month: i64) -> (i64, i64) {
    if month == 12 { (year + 1, 1) } else { (year, month + 1) }
}

/// The bits below `n`, which is at most 32.
fn below(n: i64) -> u32 {
    u32::try_from((1_u64 << n) - 1).unwrap_or(u32::MAX)
}

/// The bits below `n`, which is at most 60.
fn below_64(n: i64) -> u64 {
    (1 << n) - 1
}

fn lowest(mask: u64) -> Option<i64> {
    (mask != 0).then(|| mask.trailing_zeros().into())
}

fn highest(mask: u64) -> Option<i64> {
    mask.checked_ilog2().map(i64::from)
}
