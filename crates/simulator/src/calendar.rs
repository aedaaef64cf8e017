//! Schedules as the checkers see them: a text for the product, and a naive way to list its slots that shares no
//! code with it. Intervals are stepped, cron expressions are matched second by second.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};
use scheduler::schedule::Nominal;

use crate::random::Random;

/// Milliseconds since 1970.
pub(crate) type Millis = i64;

/// A slot as a checker finds it: what it is called, and when it is due.
pub(crate) type Occurrence = (Nominal, Millis);

pub(crate) fn instant(at: Millis) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A schedule in the words of a user, with its meaning.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) text: Arc<str>,
    pub(crate) zone: Arc<str>,
    pub(crate) meaning: Meaning,
}

/// What a schedule means.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    /// `start + k * period` for ever, or `count` times; without a start from when it was posted.
    Every { start: Option<Millis>, period: Millis, count: Option<u64> },
    /// The same time of day, every so many days and months after a date.
    Calendar { start: DateTime, zone: TimeZone, months: i32, days: i32, count: Option<u64> },
    /// When seconds, minutes and hours of the clock on the wall, so far from UTC, are among these.
    Cron { seconds: Vec<i64>, minutes: Vec<i64>, hours: Vec<i64>, offset: Millis },
}

/// All schedules of a history, by what the product stores of them.
pub(crate) type Phrasebook = BTreeMap<(Arc<str>, Arc<str>), Meaning>;

/// A list that is looked through for one that is due gives up after so many: a checker must not hang either.
const STEPS_MAX: u64 = 3_000_000;

impl Meaning {
    /// `n` of `Rn`.
    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Self::Every { count, .. } | Self::Calendar { count, .. } => *count,
            Self::Cron { .. } => None,
        }
    }

    /// The first slot due after `after`.
    pub(crate) fn next(&self, anchor: Millis, after: Millis) -> Option<Occurrence> {
        match self {
            Self::Every { start, period, .. } => {
                let start = start.unwrap_or(anchor);
                let k = if after < start { 0 } else { (after - start) / period + 1 };
                Some((Nominal::Index(k.unsigned_abs()), start + k * period))
            }
            Self::Calendar { .. } => {
                let mut k = 0;
                loop {
                    let due = self.on_calendar(k)?;
                    if due > after {
                        return Some((Nominal::Index(k), due));
                    }
                    k += 1;
                }
            }
            Self::Cron { seconds, minutes, hours, offset } => {
                let mut wall = (after + offset).div_euclid(1000) + 1;
                for _ in 0..STEPS_MAX {
                    let (second, minute, hour) = (wall % 60, wall / 60 % 60, wall / 3600 % 24);
                    if !hours.contains(&hour) {
                        wall += 3600 - wall % 3600;
                    } else if !minutes.contains(&minute) {
                        wall += 60 - wall % 60;
                    } else if !seconds.contains(&second) {
                        wall += 1;
                    } else {
                        return Some((Nominal::Civil { second: wall, fold: 0 }, wall * 1000 - offset));
                    }
                }
                None
            }
        }
    }

    /// The latest slot due by `until`; only intervals have a first one to count from.
    pub(crate) fn latest(&self, anchor: Millis, until: Millis) -> Option<Occurrence> {
        match self {
            Self::Every { start, period, .. } => {
                let start = start.unwrap_or(anchor);
                let k = (until - start).div_euclid(*period);
                (k >= 0).then(|| (Nominal::Index(k.unsigned_abs()), start + k * period))
            }
            Self::Calendar { .. } => {
                let due =
                    (0..).map_while(|k| self.on_calendar(k).filter(|due| *due <= until).map(|due| (k, due)));
                due.last().map(|(k, due)| (Nominal::Index(k), due))
            }
            Self::Cron { .. } => None,
        }
    }

    fn on_calendar(&self, k: u64) -> Option<Millis> {
        let Self::Calendar { start, zone, months, days, .. } = self else { return None };
        let k = i32::try_from(k).ok()?;
        let span = Span::new().try_months(months * k).ok()?.try_days(days * k).ok()?;
        let civil = start.checked_add(span).ok()?;
        Some(zone.to_ambiguous_zoned(civil).compatible().ok()?.timestamp().as_millisecond())
    }
}

/// Zones in which days have 23 and 25 hours, and some in which they never do.
const ZONES: [&str; 5] = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"];

impl Written {
    /// Some schedule for a job of a history that begins at `now`.
    pub(crate) fn any(random: &mut Random, now: Millis) -> Self {
        match random.below(10) {
            0..=5 => Self::interval(random, now),
            6 => Self::calendar(random, now),
            _ => Self::cron(random),
        }
    }

    /// Every so many milliseconds from `start`.
    pub(crate) fn every(start: Option<Millis>, period: Millis, count: Option<u64>) -> Self {
        let count_text = count.map_or(String::new(), |n| n.to_string());
        let start_text = start.map_or(String::new(), |at| instant(at).to_string());
        let seconds = period / 1000;
        let period_text =
            if seconds % 60 == 0 { format!("PT{}M", seconds / 60) } else { format!("PT{seconds}S") };
        let text = format!("R{count_text}/{start_text}/{period_text}").into();
        Self { text, zone: "".into(), meaning: Meaning::Every { start, period, count } }
    }

    fn interval(random: &mut Random, now: Millis) -> Self {
        let period = 1000 * random.pick(&[2, 5, 7, 10, 20, 30, 45, 60, 60, 120, 300, 600]);
        let start = match random.below(4) {
            0 => None,
            // Long ago, just now, soon.
            1 => Some(now - random.between(0, 400) * 86_400_000 - random.between(0, 86_400) * 1000),
            2 => Some(now - random.between(0, 300_000)),
            _ => Some(now + random.between(0, 300_000)),
        };
        let count = random.permille(250).then(|| random.below(20));
        Self::every(start, period, count)
    }

    fn calendar(random: &mut Random, now: Millis) -> Self {
        let zone = random.pick(&ZONES);
        let named = TimeZoneDatabase::bundled().get(zone).unwrap_or(TimeZone::UTC);
        // Some minutes from now in the day, so that histories of an hour meet it.
        let near = named.to_datetime(instant(now + random.between(-20, 60) * 60_000));
        let days_ago = random.between(0, 40);
        let start = near.checked_sub(Span::new().days(days_ago)).unwrap_or(near);
        let start = start.with().subsec_nanosecond(0).build().unwrap_or(start);
        let (months, days, period) =
            random.pick(&[(0, 1, "P1D"), (0, 1, "P1D"), (0, 7, "P1W"), (1, 0, "P1M")]);
        let count = random.permille(200).then(|| random.below(5));
        let count_text = count.map_or(String::new(), |n| n.to_string());
        let text = format!("R{count_text}/{}Z/{period}", start.strftime("%Y-%m-%dT%H:%M:%S")).into();
        Self {
            text,
            zone: zone.into(),
            meaning: Meaning::Calendar { start, zone: named, months, days, count },
        }
    }

    fn cron(random: &mut Random) -> Self {
        let steps = |n: i64, of: i64| (0..of).step_by(usize::try_from(n).unwrap_or(1)).collect::<Vec<_>>();
        let (text, seconds, minutes, hours) = match random.below(4) {
            0 => {
                let n = random.pick(&[5, 10, 15, 20, 30]);
                (format!("*/{n} * * * * *"), steps(n, 60), steps(1, 60), steps(1, 24))
            }
            1 => {
                let n = random.pick(&[1, 2, 3, 5, 7, 10]);
                (format!("*/{n} * * * *"), vec![0], steps(n, 60), steps(1, 24))
            }
            2 => {
                let (a, b) = (random.between(0, 29), random.between(30, 59));
                (format!("{a},{b} * * * *"), vec![0], vec![a, b], steps(1, 24))
            }
            _ => {
                let (minute, n) = (random.between(0, 59), random.pick(&[2, 3, 4, 6]));
                (format!("{minute} */{n} * * *"), vec![0], vec![minute], steps(n, 24))
            }
        };
        let (zone, offset) = random.pick(&[
            ("", 0),
            ("UTC", 0),
            ("Asia/Kolkata", 19_800_000),
            ("America/Phoenix", -25_200_000),
        ]);
        Self {
            text: text.into(),
            zone: zone.into(),
            meaning: Meaning::Cron { seconds, minutes, hours, offset },
        }
    }
}
