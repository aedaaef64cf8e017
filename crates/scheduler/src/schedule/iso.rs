//! The text of an ISO 8601 repeating interval, `R[n]/[start]/period`, read into its parts.
//!
//! The grammar is the one that Chronos read through Joda-Time, less what it had better refused: negative and
//! empty periods, and periods under a second.

use super::calendar::{days_from_civil, days_in_month};
use super::{Part, ScheduleError};

/// A longer period could not repeat: the calendar ends in the year 9999.
const YEARS_MAX: u64 = 9_999;
const MILLIS_MAX: u64 = (YEARS_MAX + 1) * 366 * 86_400_000;

/// An interval as written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub(super) repeats: Option<u64>,
    /// `None` when left empty.
    pub(super) start: Option<Start>,
    /// Where the start begins in the text, for messages.
    pub(super) start_at: usize,
    pub(super) period: Period,
}

/// A start as written: local fields and, maybe, an offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// Milliseconds from 1970-01-01T00:00:00 on the wall clock.
    pub(super) civil_ms: i64,
    /// Seconds ahead of UTC.
    pub(super) offset: Option<i32>,
}

/// A period: three amounts that cannot be converted into each other, at least one second in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    /// Years and months.
    pub(super) months: i64,
    /// Weeks and days.
    pub(super) days: i64,
    /// Hours, minutes and seconds.
    pub(super) time_ms: i64,
}

/// Whether `text` is meant as an interval, right or wrong; all else is read as cron.
pub(super) fn looks_like_interval(text: &str) -> bool {
    let word = text.trim_start().as_bytes();
    match word {
        [b'R' | b'r' | b'P' | b'p', ..] => true,
        [a, b, c, d, b'-', ..] => [a, b, c, d].iter().all(|digit| digit.is_ascii_digit()),
        _ => false,
    }
}

/// Reads `text`.
/// # Errors
/// [`ScheduleError::Interval`], with the part, the place and what to write instead.
pub(super) fn read(text: &str) -> Result<Text, ScheduleError> {
    read_parts(text).map_err(|fault| ScheduleError::Interval {
        text: text.into(),
        part: fault.part,
        position: fault.position,
        problem: fault.problem,
        advice: fault.advice,
    })
}

/// What is wrong with a part.
pub(super) struct Fault {
    pub(super) part: Part,
    pub(super) position: usize,
    pub(super) problem: &'static str,
    pub(super) advice: &'static str,
}

const FORM: &str = "an interval is R[n]/[start]/period, such as R/2030-01-01T02:30:00Z/P1D";
const PERIOD_FORM: &str = "a period is PnYnMnWnDTnHnMnS in that order, such as P1D, PT15M or P1Y2M3DT4H5M6S";
const START_FORM: &str =
    "a start is YYYY-MM-DDTHH:MM:SS with Z, an offset such as +01:00, or neither; or empty";

fn read_parts(text: &str) -> Result<Text, Fault> {
    let whole = |position, problem| Fault { part: Part::Whole, position, problem, advice: FORM };
    match text.as_bytes().first() {
        Some(b'R') => {}
        Some(b'r') => return Err(whole(0, "the R must be a capital letter")),
        Some(b' ' | b'\t') => return Err(whole(0, "there is a blank before it")),
        _ => return Err(whole(0, "it does not begin with R")),
    }
    let slashes: Vec<usize> =
        text.bytes().enumerate().filter(|(_, b)| *b == b'/').map(|(at, _)| at).collect();
    let &[first, second] = slashes.as_slice() else {
        return Err(match slashes.len() {
            0 | 1 => whole(text.len(), "it has fewer than three parts"),
            _ => whole(slashes[2], "it has more than three parts"),
        });
    };
    let repeats = read_repeats(&text[1..first])?;
    let start = &text[first + 1..second];
    let period = &text[second + 1..];
    if start.starts_with('P') && !period.starts_with('P') {
        return Err(whole(first + 1, "the period must come last; an interval with an end is not supported"));
    }
    if !period.starts_with(['P', 'p']) && period.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(whole(second + 1, "an end date is not supported; the last part must be a period"));
    }
    let start_at = first + 1;
    let start =
        if start.is_empty() { None } else { Some(Reader::new(text, Part::Start, start_at, second).start()?) };
    let period = Reader::new(text, Part::Period, second + 1, text.len()).period()?;
    Ok(Text { repeats, start, start_at, period })
}

fn read_repeats(digits: &str) -> Result<Option<u64>, Fault> {
    let fault = |problem| Fault {
        part: Part::Repeats,
        position: 1,
        problem,
        advice: "write R for ever, or R and a number such as R5",
    };
    match digits.as_bytes() {
        [] => Ok(None),
        [b'-', ..] => Err(fault("it is negative")),
        bytes if !bytes.iter().all(u8::is_ascii_digit) => Err(fault("it is not a number")),
        _ => digits.parse().map(Some).map_err(|_| fault("it does not fit 64 bits")),
    }
}

/// Reads one part of the text from left to right.
struct Reader<'t> {
    bytes: &'t [u8],
    part: Part,
    at: usize,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str, part: Part, from: usize, to: usize) -> Self {
        Self { bytes: &text.as_bytes()[..to], part, at: from }
    }

    fn fault(&self, problem: &'static str) -> Fault {
        let advice = if self.part == Part::Period { PERIOD_FORM } else { START_FORM };
        Fault { part: self.part, position: self.at, problem, advice }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// How many digits follow.
    fn digits_ahead(&self) -> usize {
        self.bytes[self.at..].iter().take_while(|b| b.is_ascii_digit()).count()
    }

    /// Reads exactly `count` digits as a number from `min` to `max`.
    fn number(&mut self, count: usize, min: i64, max: i64, problem: &'static str) -> Result<i64, Fault> {
        if self.digits_ahead() < count {
            return Err(self.fault(problem));
        }
        let digits = &self.bytes[self.at..self.at + count];
        let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        if !(min..=max).contains(&value) {
            return Err(self.fault(problem));
        }
        self.at += count;
        Ok(value)
    }

    fn start(mut self) -> Result<Start, Fault> {
        // Time alone is on the first day of 1970, as in Joda-Time.
        let days = if self.peek() == Some(b'T') { 0 } else { self.date()? };
        let mut start = Start { civil_ms: days * 86_400_000, offset: None };
        if self.eat(b'T') {
            start.civil_ms += self.time()?;
            start.offset = self.offset()?;
        }
        match self.peek() {
            None => Ok(start),
            Some(b'[') => Err(Fault {
                advice: "name the time zone in the zone field of the job",
                ..self.fault("a zone in brackets is not supported")
            }),
            Some(b' ') => Err(self.fault("there is a blank; date and time are joined by T")),
            Some(_) => Err(self.fault("it should end here")),
        }
    }

    /// Days from 1970-01-01 to `YYYY[-MM[-DD]]`, `YYYY-Www[-d]` or `YYYY-DDD`.
    fn date(&mut self) -> Result<i64, Fault> {
        match (self.peek(), self.digits_ahead()) {
            (Some(b'+'), _) | (_, 5..=7) | (_, 9..) => return Err(self.fault("the year is after 9999")),
            (Some(b'-'), _) => return Err(self.fault("it is before 1970-01-01T00:00:01Z")),
            (_, 8) => return Err(self.fault("the basic format YYYYMMDD is not supported")),
            _ => {}
        }
        let year = self.number(4, 0, 9_999, "it does not begin with a year of four digits")?;
        if !self.eat(b'-') {
            return Ok(days_from_civil(year, 1, 1));
        }
        if self.eat(b'W') {
            return self.week_date(year);
        }
        if self.digits_ahead() == 3 {
            let length = 337 + days_in_month(year, 2);
            let day = self.number(3, 1, length, "the year has no such day")?;
            return Ok(days_from_civil(year, 1, 1) + day - 1);
        }
        let month = self.number(2, 1, 12, "the month is not 01 to 12")?;
        if !self.eat(b'-') {
            return Ok(days_from_civil(year, month, 1));
        }
        let day = self.number(2, 1, days_in_month(year, month), "the month has no such day")?;
        Ok(days_from_civil(year, month, day))
    }

    fn week_date(&mut self, year: i64) -> Result<i64, Fault> {
        // Week 1 is the one with 4 January; weeks begin on Monday.
        let monday = |year| {
            let fourth = days_from_civil(year, 1, 4);
            fourth - (fourth + 3).rem_euclid(7)
        };
        let weeks = (monday(year + 1) - monday(year)) / 7;
        let week = self.number(2, 1, weeks, "the year has no such week")?;
        let day = if self.eat(b'-') { self.number(1, 1, 7, "the day of the week is not 1 to 7")? } else { 1 };
        Ok(monday(year) + (week - 1) * 7 + day - 1)
    }

    /// Milliseconds since midnight of `HH[:mm[:ss[.fraction]]]`; digits after the third of a fraction are dropped.
    fn time(&mut self) -> Result<i64, Fault> {
        let mut time = self.number(2, 0, 23, "the hour is not 00 to 23")? * 3_600_000;
        if !self.eat(b':') {
            return Ok(time);
        }
        time += self.number(2, 0, 59, "the minute is not 00 to 59")? * 60_000;
        if !self.eat(b':') {
            return Ok(time);
        }
        time += self.number(2, 0, 59, "the second is not 00 to 59")? * 1_000;
        if self.eat(b'.') || self.eat(b',') {
            time += self.fraction_ms()?;
        }
        Ok(time)
    }

    fn fraction_ms(&mut self) -> Result<i64, Fault> {
        let count = self.digits_ahead();
        if count == 0 {
            return Err(self.fault("a fraction needs digits"));
        }
        let digits = &self.bytes[self.at..self.at + count];
        self.at += count;
        let first = digits.iter().chain([b'0', b'0', b'0'].iter()).take(3);
        Ok(first.fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
    }

    /// Seconds of `Z`, `±HH`, `±HHmm` or `±HH:mm`.
    fn offset(&mut self) -> Result<Option<i32>, Fault> {
        if self.eat(b'Z') || self.eat(b'z') {
            return Ok(Some(0));
        }
        let sign = match self.peek() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Ok(None),
        };
        self.at += 1;
        let problem = "the offset is not HH, HHmm or HH:mm up to 23:59";
        let mut seconds = self.number(2, 0, 23, problem)? * 3600;
        if self.eat(b':') || self.digits_ahead() > 0 {
            seconds += self.number(2, 0, 59, problem)? * 60;
        }
        Ok(i32::try_from(sign * seconds).ok())
    }

    fn period(mut self) -> Result<Period, Fault> {
        let begin = self.at;
        match self.peek() {
            Some(b'P') => self.at += 1,
            Some(b'p') => return Err(self.fault("the P must be a capital letter")),
            Some(b'-') => return Err(self.fault("it is negative")),
            None => return Err(self.fault("it is missing")),
            Some(_) => return Err(self.fault("it does not begin with P")),
        }
        // Amounts in the order in which units must come: Y M W D, then T, then H M S.
        let mut amounts = [0_u64; 7];
        let mut fraction_ms = 0;
        let (mut unit_min, mut in_time) = (0, false);
        while let Some(byte) = self.peek() {
            if byte.eq_ignore_ascii_case(&b'T') && !in_time {
                self.at += 1;
                (unit_min, in_time) = (4, true);
                if self.peek().is_none() {
                    return Err(self.fault("nothing follows the T"));
                }
                continue;
            }
            let amount_at = self.at;
            let amount = self.amount()?;
            let fraction = if self.eat(b'.') || self.eat(b',') { Some(self.fraction_ms()?) } else { None };
            let unit = self.unit(in_time)?;
            if unit < unit_min {
                return Err(self.fault("this unit is repeated or out of order"));
            }
            if let Some(fraction) = fraction {
                if unit != 6 {
                    return Err(self.fault("only seconds can have a fraction"));
                }
                fraction_ms = fraction;
            }
            if amount > MILLIS_MAX {
                self.at = amount_at;
                return Err(self.fault("it is longer than the calendar, which ends in the year 9999"));
            }
            amounts[unit] = amount;
            unit_min = unit + 1;
            self.at += 1;
        }
        self.at = begin;
        self.total(amounts, fraction_ms)
    }

    /// Reads the digits before a unit; saturates.
    fn amount(&mut self) -> Result<u64, Fault> {
        let count = self.digits_ahead();
        if count == 0 {
            return Err(self.fault(match self.peek() {
                Some(b'-') => "it is negative",
                Some(b' ' | b'\t') => "there is a blank",
                Some(b'T' | b't') => "there are two T",
                _ => "a number is missing here",
            }));
        }
        let digits = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(digits
            .iter()
            .fold(0, |value: u64, digit| value.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
    }

    /// Which of the seven units stands here.
    fn unit(&self, in_time: bool) -> Result<usize, Fault> {
        let units: &[u8] = if in_time { b"HMS" } else { b"YMWD" };
        let Some(letter) = self.peek() else {
            return Err(self.fault("the unit is missing after the number"));
        };
        match units.iter().position(|unit| unit.eq_ignore_ascii_case(&letter)) {
            Some(unit) => Ok(unit + if in_time { 4 } else { 0 }),
            None if !in_time && b"HS".contains(&letter.to_ascii_uppercase()) => {
                Err(self.fault("hours and seconds must come after a T, as in PT1H"))
            }
            None => Err(self.fault("this is not a unit that can stand here")),
        }
    }

    fn total(
        &self,
        [years, months, weeks, days, hours, minutes, seconds]: [u64; 7],
        fraction_ms: i64,
    ) -> Result<Period, Fault> {
        // No sum overflows: every amount is at most MILLIS_MAX, about 3.2e14, and sums are of 128 bits.
        let months = u128::from(years) * 12 + u128::from(months);
        let days = u128::from(weeks) * 7 + u128::from(days);
        let time_ms =
            u128::from(hours) * 3_600_000 + u128::from(minutes) * 60_000 + u128::from(seconds) * 1_000;
        let time_ms = time_ms + u128::from(fraction_ms.unsigned_abs());
        if months + days + time_ms == 0 {
            return Err(self.fault("it is zero; the shortest period is one second"));
        }
        if months + days == 0 && time_ms < 1_000 {
            return Err(self.fault("the shortest period is one second"));
        }
        let length_ms = (months * 28 + days) * 86_400_000 + time_ms;
        let fit = |amount: u128| i64::try_from(amount).ok().filter(|_| length_ms <= u128::from(MILLIS_MAX));
        match (fit(months), fit(days), fit(time_ms)) {
            (Some(months), Some(days), Some(time_ms)) => Ok(Period { months, days, time_ms }),
            _ => Err(self.fault("it is longer than the calendar, which ends in the year 9999")),
        }
    }
}
