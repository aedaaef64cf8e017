//! The text of a cron expression, read into the set of civil times that it matches.
//!
//! Macros, the number of fields, and how the two day fields meet are seen to here; `fields` reads one field, `days`
//! knows the months.

use super::civil_set::{CivilSet, Days};
use super::fields::{self, Values};
use super::{Field, Lint, ScheduleError, days};

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
        let seconds = self.field(Field::Second, second)?.plain;
        let minutes = self.field(Field::Minute, minute)?.plain;
        let hours = self.field(Field::Hour, hour)?.plain as u32;
        let months = self.field(Field::Month, month)?.plain as u16;
        let (days, lint) = self.days(day, weekday)?;
        let hourly = (hour.starts_with('*') && !hour.contains(',')) || hours.count_ones() == 24;
        Ok(Read { set: CivilSet { seconds, minutes, hours, months, days }, hourly, lint })
    }

    /// The matching days of all kinds of months.
    ///
    /// As in Vixie's cron a field that begins with `*` is no restriction of its own: if neither field does, a day
    /// matches when either matches it, else when both do.
    fn days(&self, day: &str, weekday: &str) -> Result<(Days, Option<Lint>), ScheduleError> {
        let every = |field: &str| matches!(field, "*" | "?");
        let by_date = || self.field(Field::Day, day).map(|values| days::by_date(&values));
        let by_weekday = || self.field(Field::Weekday, weekday).map(|values| days::by_weekday(&values));
        Ok(match (every(day), every(weekday)) {
            (true, true) => (days::ALL, None),
            (false, true) => (by_date()?, None),
            (true, false) => (by_weekday()?, None),
            (false, false) if day.starts_with('*') || weekday.starts_with('*') => {
                (days::join(&by_date()?, &by_weekday()?, |a, b| a & b), Some(Lint::BothDaysMatch))
            }
            (false, false) => {
                (days::join(&by_date()?, &by_weekday()?, |a, b| a | b), Some(Lint::EitherDayMatches))
            }
        })
    }

    fn field(&self, field: Field, found: &str) -> Result<Values, ScheduleError> {
        fields::read(field, found).map_err(|problem| ScheduleError::Cron {
            text: self.text.into(),
            field,
            found: found.into(),
            problem,
        })
    }
}
