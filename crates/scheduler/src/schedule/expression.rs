//! The text of a cron expression, read into the set of civil times that it matches.
//!
//! Macros, the number of fields, and how the two day fields meet are seen to here; `fields` reads one field, `days`
//! knows the months.

use super::civil_set::{CivilSet, Days};
use super::fields::{self, Values};
use super::{Field, Lint, ScheduleError, Spread, days, spread};

/// What an expression says.
pub(super) struct Read {
    pub(super) set: CivilSet,
    /// Whether the hour is `*`, `*/n`, `H/n` or all of them.
    pub(super) hourly: bool,
    pub(super) lints: Vec<Lint>,
    /// The expression with each `H` replaced, if it has one.
    pub(super) resolved: Option<String>,
}

/// Reads a cron expression or macro.
/// # Errors
/// Says which field is wrong.
pub(super) fn read(text: &str, spread: Spread) -> Result<Read, ScheduleError> {
    let expression = if text.trim_start().starts_with('@') { expand(text)? } else { text };
    Expression { text, expression, spread }.read()
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
    spread: Spread,
}

impl Expression<'_> {
    fn read(&self) -> Result<Read, ScheduleError> {
        let fields: Vec<&str> = self.expression.split_ascii_whitespace().collect();
        let texts = match *fields.as_slice() {
            [a, b, c, d, e] => ["0", a, b, c, d, e],
            [s, a, b, c, d, e] => [s, a, b, c, d, e],
            _ => return Err(ScheduleError::FieldCount { text: self.text.into(), fields: fields.len() }),
        };
        let mut resolved = texts.map(String::from);
        for (at, field) in FIELDS.into_iter().enumerate() {
            if let Some(plain) = self.refused(field, texts[at], self.spread.resolve(field, texts[at]))? {
                resolved[at] = plain;
            }
        }
        let spreads = resolved != texts;
        let read = |at: usize| self.refused(FIELDS[at], texts[at], fields::read(FIELDS[at], &resolved[at]));
        let seconds = read(0)?.plain;
        let minutes = read(1)?.plain;
        let hours = read(2)?.plain as u32;
        let months = read(4)?.plain as u16;
        let (days, lint) = Self::days(texts[3], texts[5], || read(3), || read(5))?;
        let set = CivilSet { seconds, minutes, hours, months, days };
        let hourly = (steps_through(texts[2]) && !texts[2].contains(',')) || hours.count_ones() == 24;
        let lints = lint.into_iter().chain(spread_after_every(&texts)).collect();
        let resolved = spreads.then(|| resolved[6 - fields.len()..].join(" "));
        Ok(Read { set, hourly, lints, resolved })
    }

    /// The matching days of all kinds of months.
    ///
    /// As in Vixie's cron a field that begins with `*` is no restriction of its own: if neither field does, a day
    /// matches when either matches it, else when both do.
    fn days(
        day: &str,
        weekday: &str,
        dates: impl Fn() -> Result<Values, ScheduleError>,
        weekdays: impl Fn() -> Result<Values, ScheduleError>,
    ) -> Result<(Days, Option<Lint>), ScheduleError> {
        let every = |field: &str| matches!(field, "*" | "?");
        let by_date = || dates().map(|values| days::by_date(&values));
        let by_weekday = || weekdays().map(|values| days::by_weekday(&values));
        Ok(match (every(day), every(weekday)) {
            (true, true) => (days::ALL, None),
            (false, true) => (by_date()?, None),
            (true, false) => (by_weekday()?, None),
            (false, false) if steps_through(day) || steps_through(weekday) => {
                (days::join(&by_date()?, &by_weekday()?, |a, b| a & b), Some(Lint::BothDaysMatch))
            }
            (false, false) => {
                (days::join(&by_date()?, &by_weekday()?, |a, b| a | b), Some(Lint::EitherDayMatches))
            }
        })
    }

    fn refused<T>(&self, field: Field, found: &str, read: Result<T, String>) -> Result<T, ScheduleError> {
        read.map_err(|problem| ScheduleError::Cron {
            text: self.text.into(),
            field,
            found: found.into(),
            problem,
        })
    }
}

const FIELDS: [Field; 6] =
    [Field::Second, Field::Minute, Field::Hour, Field::Day, Field::Month, Field::Weekday];

/// Whether a field goes through all its values, at least in steps: `*`, `*/2`, `H/2`.
fn steps_through(field: &str) -> bool {
    field.starts_with('*') || field.starts_with("H/") || field.starts_with("h/")
}

/// Whether a field is `*` and one of the longer units after it is `H`: rarely what was meant.
fn spread_after_every(texts: &[&str; 6]) -> Option<Lint> {
    let every = texts[..3].iter().position(|text| *text == "*")?;
    texts[every + 1..].iter().any(|text| spread::is_spread(text)).then_some(Lint::SpreadAfterEvery)
}
