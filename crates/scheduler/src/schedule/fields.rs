//! One field of a cron expression, read into what its list names: plain values, and days that depend on the month.
//!
//! A field is a list of items; an item is a number, a name, a range, or a step through `*` or a range. Day of month
//! also knows `L`, `LW` and `15W`, day of week `5L` and `1#2`.

use super::Field;

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// What a field lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Values {
    /// Numbers, as bits. Sunday is bit 0.
    pub(super) plain: u64,
    /// Days that are not the same in every month.
    pub(super) special: Vec<Special>,
}

/// Days that a month has in a place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// `L`.
    LastDay,
    /// `LW`: the last day from Monday to Friday.
    LastWorkday,
    /// `15W`: the day from Monday to Friday nearest to this one, in the same month. Nothing where the month ends before.
    NearestWorkday(u8),
    /// `1#2`: of these weekdays, as bits, the ones of the n-th week.
    Nth { weekdays: u64, nth: u8 },
    /// `5L`: of these weekdays, as bits, the last ones.
    LastWeekday { weekdays: u64 },
}

/// Reads the field `text`.
/// # Errors
/// What is wrong with it, as a clause.
pub(super) fn read(field: Field, text: &str) -> Result<Values, String> {
    let mut values = Values::default();
    if text == "*" {
        values.plain = bits(Steps::all(field));
        return Ok(sunday_is_zero(field, values));
    }
    for item in text.split(',') {
        let item = item.to_ascii_uppercase();
        check_letters(&item)?;
        read_item(field, &item, &mut values)?;
    }
    if values.special.contains(&Special::LastDay) && values.special.contains(&Special::LastWorkday) {
        return Err("L and LW cannot be combined".into());
    }
    Ok(sunday_is_zero(field, values))
}

fn check_letters(item: &str) -> Result<(), &'static str> {
    if item.is_empty() {
        return Err("nothing stands beside a comma");
    }
    if !item.bytes().all(|b| b.is_ascii_alphanumeric() || b"*-/#?".contains(&b)) {
        return Err("a character cannot stand in a cron expression");
    }
    if item.contains('?') {
        return Err("? can only stand alone, for day of month or day of week");
    }
    Ok(())
}

fn read_item(field: Field, item: &str, values: &mut Values) -> Result<(), String> {
    match field {
        Field::Day => {
            if let Some(special) = special_date(item)? {
                values.special.push(special);
                return Ok(());
            }
        }
        Field::Weekday => {
            if let Some(special) = special_weekday(item)? {
                values.special.push(special);
                return Ok(());
            }
        }
        _ if item.contains('#') => return Err("# can only stand in day of week, as in 1#2".into()),
        _ => {}
    }
    values.plain |= bits(steps(field, item)?);
    Ok(())
}

/// `L`, `LW` or `15W`; `None` for anything else.
fn special_date(item: &str) -> Result<Option<Special>, String> {
    if item.contains('#') {
        return Err("# can only stand in day of week, as in 1#2".into());
    }
    match item {
        "L" => return Ok(Some(Special::LastDay)),
        "LW" => return Ok(Some(Special::LastWorkday)),
        _ => {}
    }
    match item.split_once('W') {
        Some((_, rest)) if !rest.is_empty() => Err("nothing can follow a W".into()),
        Some((day, _)) if day.bytes().all(|b| b.is_ascii_digit()) && !day.is_empty() => {
            Ok(Some(Special::NearestWorkday(number(Field::Day, day)?)))
        }
        Some(_) => Err("W needs one day before it, as in 15W, or is written LW".into()),
        None if item.contains('L') => {
            Err("L stands alone for the last day; nothing is counted from it".into())
        }
        None => Ok(None),
    }
}

/// `5L` or `1#2`, where a range or a step may stand before the `#`; `None` for anything else.
fn special_weekday(item: &str) -> Result<Option<Special>, String> {
    if let Some((days, nth)) = item.split_once('#') {
        let weekdays = bits(steps(Field::Weekday, days)?);
        return match nth {
            "L" => Ok(Some(Special::LastWeekday { weekdays })),
            "1" | "2" | "3" | "4" | "5" => Ok(Some(Special::Nth { weekdays, nth: nth.as_bytes()[0] - b'0' })),
            _ => Err("after # comes the week of the month, 1 to 5, or L for the last".into()),
        };
    }
    let Some(day) = item.strip_suffix('L') else { return Ok(None) };
    if day.is_empty() {
        return Err("L needs a day before it, such as 5L for the last Friday".into());
    }
    Ok(Some(Special::LastWeekday { weekdays: 1 << value(Field::Weekday, day)? }))
}

/// The values `first`, `first + step` and so on until `last`.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub(super) first: u8,
    pub(super) last: u8,
    step: u16,
}

impl Steps {
    fn all(field: Field) -> Self {
        let (first, last) = bounds(field);
        Self { first, last, step: 1 }
    }
}

/// A number, a name, a range, or a step through `*` or a range.
fn steps(field: Field, item: &str) -> Result<Steps, String> {
    let Some((range, step)) = item.split_once('/') else {
        return match item.split_once('-') {
            Some((first, last)) => self::range(field, first, last),
            None if item == "*" => Err("* stands alone, or begins a step as in */2".into()),
            None => value(field, item).map(|first| Steps { first, last: first, step: 1 }),
        };
    };
    let step = self::step(step)?;
    let range = match range.split_once('-') {
        Some((first, last)) => self::range(field, first, last)?,
        None if range == "*" => Steps::all(field),
        None => {
            let (_, last) = bounds(field);
            return Err(format!("a step goes through * or a range: write */{step} or {range}-{last}/{step}"));
        }
    };
    Ok(Steps { step, ..range })
}

pub(super) fn step(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) => Err("step cannot be zero".into()),
        Ok(step) => Ok(step),
        Err(_) => Err(format!("the step `{text}` is not a number")),
    }
}

pub(super) fn range(field: Field, first: &str, last: &str) -> Result<Steps, String> {
    let (from, until) = (value(field, first)?, value(field, last)?);
    // A range that ends on Sunday ends the week.
    let until = if field == Field::Weekday && last == WEEKDAYS[0] { 7 } else { until };
    if from > until {
        return Err(format!("the range {first}-{last} ends before it begins"));
    }
    Ok(Steps { first: from, last: until, step: 1 })
}

/// A number or, where the field has them, a name.
fn value(field: Field, word: &str) -> Result<u8, String> {
    if word.is_empty() {
        return Err("a number is missing".into());
    }
    if word.bytes().all(|b| b.is_ascii_digit()) {
        return number(field, word);
    }
    let place =
        |names: &[&str]| names.iter().position(|name| *name == word).and_then(|at| u8::try_from(at).ok());
    let letters = word.bytes().any(|b| b.is_ascii_alphabetic());
    match field {
        Field::Month if letters => place(&MONTHS)
            .map(|at| at + 1)
            .ok_or_else(|| format!("`{word}`: a month has its first three letters: JAN to DEC")),
        Field::Weekday if letters => {
            place(&WEEKDAYS).ok_or_else(|| format!("`{word}`: a day has its first three letters: SUN to SAT"))
        }
        _ if letters => Err(format!("`{word}`: letters cannot stand here")),
        _ => Err(format!("`{word}` is not a number")),
    }
}

fn number(field: Field, digits: &str) -> Result<u8, String> {
    let (min, max) = bounds(field);
    let number = digits.parse::<u8>().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("{digits} is not within {min}-{max}"))
}

/// The least and the greatest number of a field; Sunday is both in day of week.
pub(super) fn bounds(field: Field) -> (u8, u8) {
    match field {
        Field::Second | Field::Minute => (0, 59),
        Field::Hour => (0, 23),
        Field::Day => (1, 31),
        Field::Month => (1, 12),
        Field::Weekday => (0, 7),
    }
}

fn bits(steps: Steps) -> u64 {
    (steps.first..=steps.last).step_by(steps.step.into()).fold(0, |bits, value| bits | 1 << value)
}

/// Sunday is 0 and 7, plain and in every week.
fn sunday_is_zero(field: Field, mut values: Values) -> Values {
    if field == Field::Weekday {
        let fold = |weekdays: u64| (weekdays | weekdays >> 7) & 0x7f;
        values.plain = fold(values.plain);
        for special in &mut values.special {
            if let Special::Nth { weekdays, .. } | Special::LastWeekday { weekdays } = special {
                *weekdays = fold(*weekdays);
            }
        }
    }
    values
}
