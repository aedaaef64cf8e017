//! Which days of a month a day field means: by the length of the month and the weekday it begins with.

use super::civil_set::Days;
use super::fields::{Special, Values};

/// Every day of every month.
pub(super) const ALL: Days = {
    let mut days = [[0; 7]; 4];
    let mut length = 0;
    while length < 4 {
        days[length] = [((1_u64 << (29 + length)) - 2) as u32; 7];
        length += 1;
    }
    days
};

/// A kind of month: all Februaries of 28 days that begin on a Monday are one.
#[derive(Clone, Copy)]
struct Month {
    /// 28 to 31.
    length: u32,
    /// Weekday of its first day; Sunday is 0.
    first: u32,
}

/// The days that day of month means by `values`.
pub(super) fn by_date(values: &Values) -> Days {
    every(|month| {
        let plain = values.plain as u32 & month.days();
        values.special.iter().fold(plain, |days, special| days | month.special(*special))
    })
}

/// The days that day of week means by `values`.
pub(super) fn by_weekday(values: &Values) -> Days {
    every(|month| {
        let plain = month.falling_on(values.plain);
        values.special.iter().fold(plain, |days, special| days | month.special(*special))
    })
}

/// The days on which both `a` and `b` say yes by `join`, month by month.
pub(super) fn join(a: &Days, b: &Days, join: impl Fn(u32, u32) -> u32) -> Days {
    std::array::from_fn(|length| std::array::from_fn(|first| join(a[length][first], b[length][first])))
}

fn every(days: impl Fn(Month) -> u32) -> Days {
    std::array::from_fn(|length| {
        std::array::from_fn(|first| days(Month { length: 28 + length as u32, first: first as u32 }))
    })
}

impl Month {
    fn days(self) -> u32 {
        ALL[self.length as usize - 28][0]
    }

    fn weekday(self, day: u32) -> u32 {
        (self.first + day - 1) % 7
    }

    /// The days that fall on one of `weekdays`.
    fn falling_on(self, weekdays: u64) -> u32 {
        let falls = |day: &u32| weekdays >> self.weekday(*day) & 1 == 1;
        (1..=self.length).filter(falls).fold(0, |days, day| days | 1 << day)
    }

    fn special(self, special: Special) -> u32 {
        match special {
            Special::LastDay => 1 << self.length,
            Special::LastWorkday => 1 << self.nearest_workday(self.length),
            Special::NearestWorkday(day) if u32::from(day) > self.length => 0,
            Special::NearestWorkday(day) => 1 << self.nearest_workday(day.into()),
            Special::Nth { weekdays, nth } => {
                let week = 7 * (u32::from(nth) - 1) + 1;
                self.falling_on(weekdays)
                    & (week..week + 7).filter(|day| *day < 32).fold(0, |days, day| days | 1 << day)
            }
            Special::LastWeekday { weekdays } => {
                self.falling_on(weekdays)
                    & (self.length - 6..=self.length).fold(0, |days, day| days | 1 << day)
            }
        }
    }

    /// The day from Monday to Friday that is nearest to `day` without leaving the month.
    fn nearest_workday(self, day: u32) -> u32 {
        match self.weekday(day) {
            6 if day == 1 => 3,
            6 => day - 1,
            0 if day == self.length => day - 2,
            0 => day + 1,
            _ => day,
        }
    }
}
