//! Rates as users write them: `10/m`, `1/30s`, `500/h`.

use std::time::Duration;

use scheduler::backfill::{Backfill, Rate};

use super::duration;

/// What the text form is, for error messages.
pub const EXPECTED: &str = "a rate such as \"10/m\", \"1/30s\" or \"500/h\", in at most a day";

/// Reads a rate: a number, a slash, and a unit or a duration. `None` if it is none.
pub fn parse(text: &str) -> Option<Rate> {
    let (count, per) = text.trim().split_once('/')?;
    let count: u32 = count.trim().parse().ok().filter(|count| *count > 0)?;
    let per = match per.trim() {
        unit if unit.starts_with(|c: char| c.is_ascii_alphabetic()) => duration::parse(&format!("1{unit}")),
        span => duration::parse(span),
    };
    let per = per.filter(|per| (Duration::from_millis(1)..=Backfill::PER_MAX).contains(per))?;
    Some(Rate { count, per })
}

/// The shortest form of a rate.
pub fn text(rate: Rate) -> String {
    let per = duration::text(rate.per);
    let unit = per.strip_prefix('1').filter(|unit| unit.starts_with(|c: char| c.is_ascii_alphabetic()));
    format!("{}/{}", rate.count, unit.unwrap_or(&per))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        for (given, count, millis, canonical) in [
            ("10/m", 10, 60_000, "10/m"),
            (" 1 / 30s", 1, 30_000, "1/30s"),
            ("500/h", 500, 3_600_000, "500/h"),
            ("3/24h", 3, 86_400_000, "3/d"),
            ("3/1d", 3, 86_400_000, "3/d"),
            ("7/10m", 7, 600_000, "7/10m"),
        ] {
            let rate = parse(given).unwrap_or_else(|| panic!("{given} is refused"));
            assert_eq!((rate.count, rate.per.as_millis()), (count, millis), "{given}");
            assert_eq!(text(rate), canonical);
        }
        for wrong in ["", "10", "/m", "0/m", "-1/m", "10/", "10/x", "1/2d", "1/0s", "4294967296/s", "1/m/m"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
