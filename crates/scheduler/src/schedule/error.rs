//! Why a schedule or a zone was refused, and what to write instead.

use super::SCHEDULE_BYTES_MAX;

/// Why a schedule was refused. Every variant is the owner's to mend; [`ScheduleError::hint`] says how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// There is no text, or only blanks.
    #[error("the schedule is empty")]
    Empty,
    /// The text is longer than any schedule needs; it is not repeated here.
    #[error("the schedule has {bytes} bytes; at most {SCHEDULE_BYTES_MAX} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A part of an ISO 8601 repeating interval cannot be used.
    #[error("schedule `{text}`: {part}: {problem} (at character {})", position + 1)]
    Interval {
        /// The schedule as written.
        text: String,
        /// Which part is wrong.
        part: Part,
        /// Where in `text` the trouble begins: bytes, from 0.
        position: usize,
        /// What is wrong there.
        problem: &'static str,
        /// What to write instead.
        advice: &'static str,
    },
    /// A field of a cron expression cannot be used.
    #[error("schedule `{text}`: {field} `{found}`: {problem}")]
    Cron {
        /// The schedule as written.
        text: String,
        /// Which field is wrong.
        field: Field,
        /// That field as written.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The text is read as a cron expression but does not have five or six fields.
    #[error("schedule `{text}`: {}; a cron expression has 5, or 6 with seconds first", count(*fields))]
    FieldCount {
        /// The schedule as written.
        text: String,
        /// How many fields it has.
        fields: usize,
    },
    /// An `@` word that is not one of the known macros.
    #[error("schedule `{text}`: this macro is not supported")]
    Macro {
        /// The schedule as written.
        text: String,
    },
    /// A cron expression for days that no calendar has, such as 30 February.
    #[error("schedule `{text}`: no day ever matches")]
    Never {
        /// The schedule as written.
        text: String,
    },
    /// A time zone that the zone data does not know.
    #[error("time zone `{name}` is not known")]
    Zone {
        /// The zone as written, at most 64 bytes of it.
        name: String,
        /// A known zone with a similar name.
        suggestion: Option<String>,
    },
}

/// A part of an ISO 8601 repeating interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The interval as a whole.
    Whole,
    /// `R` or `Rn`.
    Repeats,
    /// The start.
    Start,
    /// The period.
    Period,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole => "the interval",
            Self::Repeats => "the number of repetitions",
            Self::Start => "the start",
            Self::Period => "the period",
        })
    }
}

/// A field of a cron expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Second of the minute, only in expressions of six fields.
    Second,
    /// Minute of the hour.
    Minute,
    /// Hour of the day.
    Hour,
    /// Day of the month.
    Day,
    /// Month of the year.
    Month,
    /// Day of the week.
    Weekday,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day of month",
            Self::Month => "month",
            Self::Weekday => "day of week",
        })
    }
}

impl Field {
    /// What may stand in the field.
    fn grammar(self) -> &'static str {
        match self {
            Self::Second | Self::Minute => {
                "numbers 0-59, as in `*`, `*/15`, `0,30`, `10-20` or `10-20/2`, or `H` for one that the job's name picks"
            }
            Self::Hour => {
                "numbers 0-23, as in `*`, `*/4`, `6,18`, `9-17` or `8-18/2`, or `H(0-5)` for one that the job's name picks"
            }
            Self::Day => {
                "numbers 1-31, `L` (last day), `LW` (last working day) or `15W` (working day nearest to the 15th)"
            }
            Self::Month => "numbers 1-12 or names JAN-DEC",
            Self::Weekday => {
                "numbers 0-7 (0 and 7 are Sunday), names SUN-SAT, `5L` (last Friday) or `1#2` (second Monday)"
            }
        }
    }
}

impl ScheduleError {
    /// What to do about it, in one sentence.
    pub fn hint(&self) -> String {
        match self {
            Self::Empty => "write an interval such as R/2030-01-01T02:30:00Z/P1D or a cron expression such as 30 2 * * *".into(),
            Self::TooLong { .. } => "split it into several jobs".into(),
            Self::Interval { advice, .. } => (*advice).into(),
            Self::Cron { field, .. } => format!("{field}: {}", field.grammar()),
            Self::FieldCount { .. } => {
                "write minute, hour, day of month, month, day of week, such as 30 2 * * *, or an interval such as R//PT1H".into()
            }
            Self::Macro { text } => macro_hint(text).into(),
            Self::Never { .. } => "check day of month against month: 30 February and 31 April do not exist".into(),
            Self::Zone { suggestion: Some(name), .. } => format!("did you mean {name}?"),
            Self::Zone { suggestion: None, .. } => {
                "use a name of the IANA time zone database such as Europe/Berlin, UTC, or an offset such as +05:30".into()
            }
        }
    }
}

fn count(fields: usize) -> String {
    if fields == 1 { "1 field".into() } else { format!("{fields} fields") }
}

fn macro_hint(text: &str) -> &'static str {
    let word = text.trim().to_ascii_lowercase();
    if word.starts_with("@reboot") {
        "a cluster has no start of its own; run the job by hand or give it a schedule"
    } else if word.starts_with("@every") {
        "write the period as an interval: @every 5m is R//PT5M"
    } else {
        "known are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually"
    }
}
