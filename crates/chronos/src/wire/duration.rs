//! Durations as users write them: `30s`, `1h30m`, `7d`, or ISO 8601 such as `PT10M`.

use std::time::Duration;

/// What the text form is, for error messages.
pub const EXPECTED: &str = "a duration such as \"30s\", \"10m\", \"2h\", \"7d\" or \"PT10M\"";

const UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Reads a duration: numbers with a unit, one after the other, or an ISO 8601 duration without years and months,
/// which have no fixed length. A day is 24 hours. `None` if it is neither, or has fractions of a millisecond.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let iso = text.strip_prefix(['P', 'p']).map(|rest| {
        let (date, time) = rest.split_once(['T', 't']).map_or((rest, None), |(d, t)| (d, Some(t)));
        let designators = time.is_none_or(|t| !t.is_empty()) && !rest.is_empty();
        (designators).then(|| Some(sum(date, &["d", "w"])? + sum(time.unwrap_or(""), &["h", "m", "s"])?))
    });
    let millis = match iso {
        Some(parts) => parts??,
        None if text.is_empty() => return None,
        None => sum(text, &["ms", "s", "m", "h", "d", "w"])?,
    };
    Some(Duration::from_millis(u64::try_from(millis).ok()?))
}

/// The shortest exact form with one unit: `90s`, `2h`.
pub fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, size) = UNITS[..5]
        .iter()
        .rev()
        .find(|(_, size)| millis.is_multiple_of(u128::from(*size)))
        .unwrap_or(&UNITS[0]);
    if millis == 0 { "0s".into() } else { format!("{}{unit}", millis / u128::from(*size)) }
}

/// Milliseconds of numbers with units; seconds may have up to three decimals.
fn sum(mut text: &str, allowed: &[&str]) -> Option<u128> {
    let mut millis = 0;
    while !text.is_empty() {
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, rest) = text.split_at(end);
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(end);
        let unit = unit.to_ascii_lowercase();
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit && allowed.contains(name))?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() > 15
            || whole.is_empty()
            || (number.contains('.') && !(unit == "s" && (1..=3).contains(&decimals.len())))
        {
            return None;
        }
        millis += whole.parse::<u128>().ok()? * u128::from(*size);
        if !decimals.is_empty() {
            millis += format!("{decimals:0<3}").parse::<u128>().ok()?;
        }
        text = rest;
    }
    Some(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &str, millis: u64, canonical: &str) {
        let duration = parse(given).unwrap_or_else(|| panic!("{given} is refused"));
        assert_eq!(
            (duration.as_millis(), text(duration).as_str()),
            (u128::from(millis), canonical),
            "{given}"
        );
        assert_eq!(parse(canonical), Some(duration));
    }

    #[test]
    fn durations_have_units() {
        check("30s", 30_000, "30s");
        check("10m", 600_000, "10m");
        check("1h30m", 5_400_000, "90m");
        check("7d", 604_800_000, "7d");
        check("1500ms", 1500, "1500ms");
        check("PT10M", 600_000, "10m");
        check("P1DT2H", 93_600_000, "26h");
        check("P2W", 1_209_600_000, "14d");
        check("PT0.5S", 500, "500ms");
        check("0s", 0, "0s");
    }

    #[test]
    fn what_has_none_is_no_duration() {
        for text in [
            "",
            "10",
            "P",
            "PT",
            "P1DT",
            "P1M",
            "P1Y",
            "-5s",
            "5x",
            "1.5h",
            "s",
            "PT1H5",
            "PT1D",
            "5 s",
            "9999999999999999d",
            "1.s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
