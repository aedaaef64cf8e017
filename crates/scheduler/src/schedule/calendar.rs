//! Civil time and instants: zones, what to do where a zone's clock jumps, days and months.
//!
//! Seconds are whole and signed: an instant is counted from 1970-01-01T00:00:00Z, a civil time from
//! 1970-01-01T00:00:00 on the wall clock, so that `instant = civil - offset`.

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

pub(super) const DAY: i64 = 86_400;
/// First and last civil second that is looked at: the years -9999 to 9999.
pub(super) const CIVIL_MIN: i64 = -377_705_116_800;
pub(super) const CIVIL_MAX: i64 = 253_402_300_799;
/// No zone has ever jumped further: Samoa and Kiribati left out a day when they crossed the date line.
pub(super) const JUMP_MAX: i64 = DAY;

/// What becomes of a slot whose wall-clock time does not exist or exists twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DstPolicy {
    /// For a time that the clock jumps over, such as 02:30 on a spring Sunday.
    pub gap: Gap,
    /// For a time that comes twice, such as 02:30 on an autumn Sunday.
    pub fold: Fold,
}

/// What becomes of a slot in a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gap {
    /// `Skip` for a cron expression that covers every hour or steps through them (`*`, `*/n`), else `Shift`.
    #[default]
    Auto,
    /// Due at the same distance from midnight: 02:30 becomes 03:30 (RFC 5545 §3.3.5).
    Shift,
    /// There is no slot.
    Skip,
    /// Due at the first instant after the gap: 02:30 becomes 03:00.
    End,
}

/// What becomes of a slot in a repeated hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fold {
    /// `Both` for a cron expression that covers every hour or steps through them (`*`, `*/n`), else `First`.
    #[default]
    Auto,
    /// Due the first time (RFC 5545 §3.3.5).
    First,
    /// Due the second time.
    Second,
    /// Due both times. An interval, whose slots are known by index, treats it as `First`.
    Both,
}

/// A time zone that is known to exist: an IANA zone of some [`Zones`](super::Zones), or a fixed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    pub(super) fn of(zone: TimeZone) -> Self {
        Self(zone)
    }

    /// The zone as its library knows it, to write times in.
    pub fn time_zone(&self) -> &TimeZone {
        &self.0
    }

    /// What Java, and with it Chronos, understood by one of its three-letter ids: `PST` is America/Los_Angeles.
    /// For the import of old jobs; [`Zones::named`](super::Zones::named) refuses most of these because others read them differently.
    pub fn classic(name: &str) -> Option<&'static str> {
        CLASSIC.iter().find(|(id, _)| *id == name).map(|(_, zone)| *zone)
    }

    /// The zone at a fixed distance from UTC; `None` beyond 25:59:59.
    pub(super) fn fixed(seconds: i32) -> Option<Self> {
        let offset = Offset::from_seconds(seconds).ok()?;
        Some(Self(if seconds == 0 { TimeZone::UTC } else { TimeZone::fixed(offset) }))
    }

    /// Whether the offset from UTC may change.
    pub(super) fn jumps(&self) -> bool {
        self.0.to_fixed_offset().is_err()
    }

    /// Seconds that the wall clock is ahead of UTC at `instant`.
    pub(super) fn offset(&self, instant: i64) -> i64 {
        self.0.to_offset(timestamp(instant)).seconds().into()
    }

    /// What the wall clock makes of `civil`.
    pub(super) fn place(&self, civil: i64) -> Place {
        let utc =
            Timestamp::from_second(civil).unwrap_or(if civil < 0 { Timestamp::MIN } else { Timestamp::MAX });
        let seconds = |offset: Offset| i64::from(offset.seconds());
        match self.0.to_ambiguous_timestamp(Offset::UTC.to_datetime(utc)).offset() {
            AmbiguousOffset::Unambiguous { offset } => Place::Once(civil - seconds(offset)),
            AmbiguousOffset::Gap { before, after } => {
                Place::Gap { earlier: civil - seconds(after), later: civil - seconds(before) }
            }
            AmbiguousOffset::Fold { before, after } => {
                Place::Fold { first: civil - seconds(before), second: civil - seconds(after) }
            }
        }
    }

    /// The instant of `civil` under `gap` and `fold`; `None` in a gap that is skipped.
    pub(super) fn resolve(&self, civil: i64, gap: Gap, fold: Fold) -> Option<Resolved> {
        Some(match self.place(civil) {
            Place::Once(instant) => Resolved::At(instant),
            Place::Fold { second, .. } if fold == Fold::Second => Resolved::At(second),
            Place::Fold { first, .. } => Resolved::At(first),
            Place::Gap { .. } if gap == Gap::Skip => return None,
            Place::Gap { earlier, .. } if gap == Gap::End => Resolved::Edge(self.segment(earlier).end),
            Place::Gap { later, .. } => Resolved::At(later),
        })
    }

    /// The stretch of constant offset around `instant`.
    pub(super) fn segment(&self, instant: i64) -> Segment {
        // jiff 0.2.46 misses a jump when it looks back over one that ends a zone's table and is none of the zone's
        // rule (Ciudad Juárez, November 2022), so from where it lands we go forward again.
        let found = self.0.preceding(timestamp(instant.saturating_add(1))).next();
        let mut start = found.map(|jump| jump.timestamp().as_second()).filter(|start| *start <= instant);
        let mut end = None;
        for jump in self.0.following(timestamp(start.unwrap_or(instant))) {
            let jump = jump.timestamp().as_second();
            if jump > instant {
                end = Some(jump);
                break;
            }
            start = Some(jump);
        }
        let start = start.unwrap_or(CIVIL_MIN - 2 * JUMP_MAX);
        let end = end.unwrap_or(CIVIL_MAX + 2 * JUMP_MAX);
        let offset = self.offset(instant);
        Segment { start, end, offset, before: self.offset(start - 1), after: self.offset(end) }
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.iana_name(), self.0.to_fixed_offset()) {
            (Some(name), _) => f.write_str(name),
            (None, Ok(offset)) => write!(f, "{offset}"),
            (None, Err(_)) => f.write_str("?"),
        }
    }
}

/// Where a civil time falls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// It comes once, at this instant.
    Once(i64),
    /// The clock jumps over it: its instants by the offset after the jump and by the one before.
    Gap { earlier: i64, later: i64 },
    /// It comes twice.
    Fold { first: i64, second: i64 },
}

/// An instant for a civil time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resolved {
    /// That of the civil second itself, so that fractions of it still count.
    At(i64),
    /// That of the end of a gap, exactly.
    Edge(i64),
}

/// A stretch of constant offset: `start..end`, with the offsets before, in and after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) before: i64,
    pub(super) offset: i64,
    pub(super) after: i64,
}

impl Segment {
    /// The one after it; `None` past the end of the calendar.
    pub(super) fn next(&self, zone: &Zone) -> Option<Self> {
        (self.end <= CIVIL_MAX).then(|| zone.segment(self.end))
    }

    /// The one before it; `None` before the beginning of the calendar.
    pub(super) fn previous(&self, zone: &Zone) -> Option<Self> {
        (self.start > CIVIL_MIN).then(|| zone.segment(self.start - 1))
    }
}

/// The instant `seconds` after 1970, or the nearest there is.
fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// Whole seconds of `t`, rounded down.
pub(super) fn floor_second(t: Timestamp) -> i64 {
    t.as_second() - i64::from(t.subsec_nanosecond() < 0)
}

/// Whole milliseconds of `t`, rounded down.
pub(super) fn floor_milli(t: Timestamp) -> i64 {
    t.as_millisecond() - i64::from(t.subsec_nanosecond() % 1_000_000 < 0)
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
/// # Source
/// Hinnant, "chrono-compatible low-level date algorithms".
pub(super) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date `days` after 1970-01-01: year, month, day.
pub(super) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Days of a month, 28 to 31.
pub(super) fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// UTC and offsets from it, which need no zone data.
pub(super) fn fixed_zone(name: &str) -> Option<Zone> {
    if name.is_empty() || name.eq_ignore_ascii_case("z") || name.eq_ignore_ascii_case("utc") {
        return Some(Zone(TimeZone::UTC));
    }
    fixed_offset(name)
}

/// `+05:30`, `-0800`, `+01`, `UTC+5`, `GMT-03:30`. One digit of hours is read after a prefix only, as in Java.
fn fixed_offset(name: &str) -> Option<Zone> {
    let prefix = name.get(..3).filter(|p| p.eq_ignore_ascii_case("utc") || p.eq_ignore_ascii_case("gmt"));
    let text = &name.as_bytes()[prefix.map_or(0, str::len)..];
    let (sign, digits) = match text.split_first()? {
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let digit = |b: &u8| b.is_ascii_digit().then(|| i32::from(b - b'0'));
    let (hours, minutes) = match digits {
        [a] if prefix.is_some() => (digit(a)?, 0),
        [a, b] => (digit(a)? * 10 + digit(b)?, 0),
        [a, b, b':', c, d] | [a, b, c, d] => (digit(a)? * 10 + digit(b)?, digit(c)? * 10 + digit(d)?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    Zone::fixed(sign * (hours * 3600 + minutes * 60))
}

/// The first 64 bytes, for messages.
pub(super) fn clip(name: &str) -> &str {
    (0..=64).rev().find_map(|end| name.get(..end.min(name.len()))).unwrap_or("")
}

/// The one of `known` zones whose name, or its last part, differs least from `name`; `None` if all differ by more than a third.
pub(super) fn nearest(name: &str, known: Vec<String>) -> Option<String> {
    if let Some(zone) = Zone::classic(&name.to_ascii_uppercase()) {
        return Some(zone.into());
    }
    let wanted: Vec<u8> =
        clip(name).bytes().map(|b| if b == b' ' { b'_' } else { b.to_ascii_lowercase() }).collect();
    let limit = wanted.len() / 3;
    let near = |name: &[u8]| {
        // The lengths alone rule most names out.
        (name.len().abs_diff(wanted.len()) <= limit)
            .then(|| distance(&wanted, name))
            .filter(|score| *score <= limit)
    };
    let scored = known.into_iter().filter_map(|zone| {
        let full = zone.to_ascii_lowercase();
        let city = full.rsplit('/').next().unwrap_or(&full).len();
        let scores = near(full.as_bytes()).into_iter().chain(near(&full.as_bytes()[full.len() - city..]));
        Some((scores.min()?, zone))
    });
    // Continents before the historic aliases at the top level, then by name: the answer must not depend on luck.
    let best = scored.min_by_key(|(score, zone)| (*score, !zone.contains('/'), zone.clone()))?;
    Some(best.1)
}

/// How many letters must be added, dropped or replaced to turn `a` into `b` (Levenshtein).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The three-letter ids of `java.util.TimeZone`, with the regions that Joda-Time maps them to.
const CLASSIC: [(&str, &str); 28] = [
    ("ACT", "Australia/Darwin"),
    ("AET", "Australia/Sydney"),
    ("AGT", "America/Argentina/Buenos_Aires"),
    ("ART", "Africa/Cairo"),
    ("AST", "America/Anchorage"),
    ("BET", "America/Sao_Paulo"),
    ("BST", "Asia/Dhaka"),
    ("CAT", "Africa/Harare"),
    ("CNT", "America/St_Johns"),
    ("CST", "America/Chicago"),
    ("CTT", "Asia/Shanghai"),
    ("EAT", "Africa/Addis_Ababa"),
    ("ECT", "CET"),
    ("EST", "America/New_York"),
    ("HST", "Pacific/Honolulu"),
    ("IET", "America/Indiana/Indianapolis"),
    ("IST", "Asia/Kolkata"),
    ("JST", "Asia/Tokyo"),
    ("MIT", "Pacific/Apia"),
    ("MST", "America/Denver"),
    ("NET", "Asia/Yerevan"),
    ("NST", "Pacific/Auckland"),
    ("PLT", "Asia/Karachi"),
    ("PNT", "America/Phoenix"),
    ("PRT", "America/Puerto_Rico"),
    ("PST", "America/Los_Angeles"),
    ("SST", "Pacific/Guadalcanal"),
    ("VST", "Asia/Ho_Chi_Minh"),
];
