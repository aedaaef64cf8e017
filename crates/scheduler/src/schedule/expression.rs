//! The text of a cron expression, read into the set of civil times that it matches.
//!
//! croner reads single fields and knows which days `L`, `W` and `#` mean. Names, stars and what croner would let
//! pass are seen to here.

use croner::errors::CronError;
use croner::{CronComponent, CronPattern, Weekday};

use super::civil_set::{CivilSet, Days};
use super::{Field, Lint, ScheduleError};

/// What an expression says.
pub(super) struct Read {
    pub(super) set: CivilSet,
    /// Whether the hour is `*`, `*/n` or all of them.
    pub(super) hourly: bool,
    pub(super) lint: Option<Lint>,
}

/// Reads a cron expression or macro.
/// # Errors
/// Says which field is wrong.
pub(super) fn read(text: &str) -> Result<Read, ScheduleError> {
    let expression = if text.trim_start().starts_with('@') { expand(text)? } else { text };
    Expression { text, expression }.read()
}

/// The five fields that a macro stands for.
fn expand(text: &str) -> Result<&'static str, ScheduleError> {
    Ok(match text.trim().to_ascii_lowercase().as_str() {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        _ => return Err(ScheduleError::Macro { text: text.into() }),
    })
}

/// An expression being read.
struct Expression<'t> {
    /// As written, for messages.
    text: &'t str,
    /// With macros expanded.
    expression: &'t str,
}

impl Expression<'_> {
    fn read(&self) -> Result<Read, ScheduleError> {
        let fields: Vec<&str> = self.expression.split_ascii_whitespace().collect();
        let (second, [minute, hour, day, month, weekday]) = match *fields.as_slice() {
            [a, b, c, d, e] => ("0", [a, b, c, d, e]),
            [s, a, b, c, d, e] => (s, [a, b, c, d, e]),
            _ => return Err(ScheduleError::FieldCount { text: self.text.into(), fields: fields.len() }),
        };
        let mut pattern = CronPattern::new("");
        self.field(&mut pattern.seconds, Field::Second, second)?;
        self.field(&mut pattern.minutes, Field::Minute, minute)?;
        self.field(&mut pattern.hours, Field::Hour, hour)?;
        self.field(&mut pattern.months, Field::Month, month)?;
        let (days, lint) = self.days(day, weekday)?;
        let hours = mask(&pattern.hours) as u32;
        let set = CivilSet {
            seconds: mask(&pattern.seconds),
            minutes: mask(&pattern.minutes),
            hours,
            months: mask(&pattern.months) as u16,
            days,
        };
        let hourly = (hour.starts_with('*') && !hour.contains(',')) || hours.count_ones() == 24;
        Ok(Read { set, hourly, lint })
    }

    /// The matching days of all kinds of months.
    ///
    /// As in Vixie's cron a field that begins with `*` is no restriction of its own: if neither field does, a day
    /// matches when either matches it, else when both do.
    fn days(&self, day: &str, weekday: &str) -> Result<(Days, Option<Lint>), ScheduleError> {
        let every = |field: &str| matches!(field, "*" | "?");
        let starred = day.starts_with('*') || weekday.starts_with('*');
        Ok(match (every(day), every(weekday)) {
            (true, true) => (ALL_DAYS, None),
            (false, true) => (self.days_by(Field::Day, day)?, None),
            (true, false) => (self.days_by(Field::Weekday, weekday)?, None),
            (false, false) => {
                let (days, weekdays) =
                    (self.days_by(Field::Day, day)?, self.days_by(Field::Weekday, weekday)?);
                let join = |length: usize, first: usize| {
                    let (a, b) = (days[length][first], weekdays[length][first]);
                    if starred { a & b } else { a | b }
                };
                let joined = std::array::from_fn(|length| std::array::from_fn(|first| join(length, first)));
                (joined, Some(if starred { Lint::BothDaysMatch } else { Lint::EitherDayMatches }))
            }
        })
    }

    /// The days that one of the two day fields matches by itself.
    fn days_by(&self, field: Field, text: &str) -> Result<Days, ScheduleError> {
        // The other field stays empty and so matches nothing: either is then this one.
        let mut pattern = CronPattern::new("");
        match field {
            Field::Day => self.field(&mut pattern.days, field, text)?,
            _ => self.field(&mut pattern.days_of_week, field, text)?,
        }
        let plain = |component: &CronComponent| (!component.has_modifiers()).then(|| mask(component) as u32);
        Ok(match field {
            Field::Day => plain(&pattern.days).map_or_else(|| days_of(&pattern), with_dates),
            _ => plain(&pattern.days_of_week).map_or_else(|| days_of(&pattern), with_weekdays),
        })
    }

    /// Reads one field into `component`.
    fn field(&self, component: &mut CronComponent, field: Field, found: &str) -> Result<(), ScheduleError> {
        let refuse = |problem: &str| ScheduleError::Cron {
            text: self.text.into(),
            field,
            found: found.into(),
            problem: problem.into(),
        };
        let items: Result<Vec<String>, &str> = found.split(',').map(|item| self.item(field, item)).collect();
        let items = items.map_err(refuse)?;
        if items.iter().any(|item| item == "L") && items.iter().any(|item| item == "LW") {
            return Err(refuse("L and LW cannot be combined"));
        }
        component.parse(&items.join(",")).map_err(|error| refuse(&reason(error)))?;
        if field == Field::Weekday {
            // Sunday is 0 and 7, plain and in every ordinal.
            for bit in (0..7).map(|bit| 1 << bit) {
                if component.is_bit_set(7, bit).unwrap_or(false) {
                    component.set_bit(0, bit).map_err(|error| refuse(&reason(error)))?;
                }
            }
        }
        Ok(())
    }

    /// One item of a list, with names replaced by numbers.
    fn item(&self, field: Field, item: &str) -> Result<String, &'static str> {
        let item = item.to_ascii_uppercase();
        if item.is_empty() {
            return Err("nothing stands beside a comma");
        }
        if !item.bytes().all(|b| b.is_ascii_alphanumeric() || b"*-/#?".contains(&b)) {
            return Err("a character cannot stand in a cron expression");
        }
        if item.contains('?') {
            return Err("? can only stand alone, for day of month or day of week");
        }
        let mut out = String::with_capacity(item.len());
        let mut rest = item.as_str();
        while !rest.is_empty() {
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (word, tail) = rest.split_at(letters);
            if !word.is_empty() {
                out.push_str(&number(field, word, out.ends_with('-'))?);
                rest = tail;
                continue;
            }
            let other = rest.bytes().take_while(|b| !b.is_ascii_alphabetic()).count();
            let (plain, tail) = rest.split_at(other);
            out.push_str(plain);
            rest = tail;
        }
        if out.find('W').is_some_and(|at| at + 1 < out.len()) {
            return Err("nothing can follow a W");
        }
        if field == Field::Weekday && out == "L" {
            return Err("L needs a day before it, such as 5L for the last Friday");
        }
        Ok(out)
    }
}

/// The plain values of a field as bits.
fn mask(component: &CronComponent) -> u64 {
    component.values().iter().fold(0, |mask, value| mask | 1 << value)
}

/// Every month with `dates`, as far as it has them.
fn with_dates(dates: u32) -> Days {
    std::array::from_fn(|length| ALL_DAYS[length].map(|all| all & dates))
}

/// Every month with the `weekdays` in it.
fn with_weekdays(weekdays: u32) -> Days {
    std::array::from_fn(|length| {
        std::array::from_fn(|first| {
            let falls = |day: &usize| weekdays >> ((first + day - 1) % 7) & 1 == 1;
            (1..=28 + length).filter(falls).fold(0, |days, day| days | 1 << day)
        })
    })
}

/// The days that croner says a pattern matches, month by month of each kind. Some 50 µs, so only for `L`, `W`, `#`.
fn days_of(pattern: &CronPattern) -> Days {
    const WEEK: [Weekday; 7] = [
        Weekday::Sunday,
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
    ];
    // A month of each length; croner takes the weekday on trust.
    const MONTHS: [(i32, u32); 4] = [(2023, 2), (2024, 2), (2023, 4), (2023, 1)];
    std::array::from_fn(|length| {
        std::array::from_fn(|first| {
            let (year, month) = MONTHS[length];
            let matches = |day: &usize| {
                let weekday = WEEK[(first + day - 1) % 7];
                pattern.day_match(year, month, *day as u32, weekday).unwrap_or(false)
            };
            (1..=28 + length).filter(matches).fold(0, |days, day| days | 1 << day)
        })
    })
}

/// What croner says, as a clause.
fn reason(error: CronError) -> String {
    let sentence = match error {
        CronError::ComponentError(text)
        | CronError::InvalidPattern(text)
        | CronError::IllegalCharacters(text) => text,
        other => other.to_string(),
    };
    let mut letters = sentence.trim_end_matches('.').chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

/// A name as a number; `L` and `W` as they are.
fn number(field: Field, word: &str, ends_range: bool) -> Result<String, &'static str> {
    const MONTHS: [&str; 12] =
        ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
    const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let of = |names: &[&str], name: &str| names.iter().position(|known| *known == name);
    match (field, word) {
        (Field::Day, "L" | "W" | "LW") | (Field::Weekday, "L") => Ok(word.into()),
        (Field::Month, name) => of(&MONTHS, name)
            .map(|at| (at + 1).to_string())
            .ok_or("a month has its first three letters: JAN to DEC"),
        (Field::Weekday, name) => {
            let (name, last) = if name.len() == 4 { (name.trim_end_matches('L'), "L") } else { (name, "") };
            let at = of(&DAYS, name).ok_or("a day has its first three letters: SUN to SAT")?;
            // A range that ends on Sunday ends the week.
            let at = if at == 0 && ends_range { 7 } else { at };
            Ok(format!("{at}{last}"))
        }
        _ => Err("letters cannot stand here"),
    }
}

/// Every day of every month.
const ALL_DAYS: Days = {
    let mut days = [[0; 7]; 4];
    let mut length = 0;
    while length < 4 {
        days[length] = [((1_u64 << (29 + length)) - 2) as u32; 7];
        length += 1;
    }
    days
};
