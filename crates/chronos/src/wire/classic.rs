//! The dialect of Chronos: what its endpoints took in a job definition that is written otherwise here.
//!
//! A document is brought into the form that [`job`](super::job) reads, with a sentence for every value that is not
//! taken as it stands. What Chronos guessed at, as garbage for the number 0, is left for the reader to refuse.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use scheduler::schedule::Zone;
use serde_json::{Map, Value, json};

use super::{duration, shape};

/// A document in our form.
#[derive(Default)]
pub(super) struct Canonical {
    pub(super) document: Map<String, Value>,
    /// The zone as its author wrote it, where that is not the name of the zone that was meant.
    pub(super) zone_as_written: Option<String>,
    /// One sentence each.
    pub(super) warnings: Vec<String>,
}

/// Abbreviations that Java does not know, and the zones that whoever writes them means. Chronos took them for UTC.
const MEANT: [(&str, &str); 10] = [
    ("AEDT", "Australia/Sydney"),
    ("AEST", "Australia/Sydney"),
    ("AKDT", "America/Anchorage"),
    ("AKST", "America/Anchorage"),
    ("CDT", "America/Chicago"),
    ("CEST", "CET"),
    ("EDT", "America/New_York"),
    ("MDT", "America/Denver"),
    ("NZDT", "Pacific/Auckland"),
    ("PDT", "America/Los_Angeles"),
];

/// Reads the dialect. `by_parents` says that a job with parents and a schedule is started by its parents.
pub(super) fn canonical(document: &Map<String, Value>, by_parents: bool) -> Canonical {
    let mut document = document.clone();
    let mut warnings = Vec::new();
    for key in ["retries", "maxCompletionTime"] {
        if let Some((number, was)) = document.get(key).and_then(whole) {
            warnings.push(format!("`{key}`: {was} is taken as {number}"));
            document.insert(key.into(), json!(number));
        }
    }
    for key in ["cpus", "mem", "disk"] {
        match document.get(key).and_then(number) {
            Some(n) if n < 0.0 => {
                warnings.push(format!("`{key}`: {n} is taken as the default"));
                document.shift_remove(key);
            }
            Some(n) if document.get(key).is_some_and(Value::is_boolean) => {
                document.insert(key.into(), json!(n));
            }
            _ => {}
        }
    }
    if document.contains_key("dataJob") {
        document.shift_remove("dataJob");
        warnings.push("`dataJob` is ignored, as it was by Chronos: write `dataProcessingJobType`".into());
    }
    epsilon(&mut document, &mut warnings);
    let has = |document: &Map<String, Value>, key: &str| match document.get(key) {
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::String(text)) => !text.trim().is_empty(),
        _ => false,
    };
    if by_parents && has(&document, "parents") && has(&document, "schedule") {
        document.shift_remove("schedule");
        document.shift_remove("scheduleTimeZone");
        warnings.push("`schedule` is ignored: the job has `parents`, which start it".into());
    }
    container(&mut document, &mut warnings);
    let zone_as_written = zone(&mut document, &mut warnings);
    Canonical { document, zone_as_written, warnings }
}

/// Chronos 2 took any period for it, and Chronos 3 anything.
fn epsilon(document: &mut Map<String, Value>, warnings: &mut Vec<String>) {
    let Some(written) = document.get("epsilon").and_then(Value::as_str).map(|text| text.trim().to_owned())
    else {
        return;
    };
    if written.is_empty() {
        document.shift_remove("epsilon");
    } else if duration::parse(&written).is_some_and(|length| length.as_secs() == 0) {
        document.shift_remove("epsilon");
        warnings.push(format!("`epsilon`: {written} is ignored: nothing could start within it"));
    } else if let Some(length) = about(&written) {
        let length = duration::text(length);
        warnings.push(format!("`epsilon`: {written} is taken as {length}"));
        document.insert("epsilon".into(), json!(length));
    }
}

/// The length of a period with months or years in it, which have none of their own: 30 and 365 days. It says how late is
/// too late, and so long after its time nobody counts days.
fn about(text: &str) -> Option<Duration> {
    if duration::parse(text).is_some() || !text.starts_with('P') {
        return None;
    }
    let period: Span = text.parse().ok()?;
    let days = 365 * i64::from(period.get_years()) + 30 * i64::from(period.get_months());
    let rest = period.years(0).months(0).to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    SignedDuration::from_hours(24 * days).checked_add(rest)?.try_into().ok()
}

/// To Chronos a container was one by its image, which was always pulled where `true` said so, in letters of any size: every
/// other value meant that it is not.
fn container(document: &mut Map<String, Value>, warnings: &mut Vec<String>) {
    let Some(Value::Object(container)) = document.get_mut("container") else { return };
    let pull = container.get("forcePullImage").filter(|pull| !pull.is_null() && !pull.is_boolean());
    if let Some(pull) = pull.cloned() {
        let word = pull.as_str().map(str::to_ascii_lowercase).unwrap_or_default();
        if !matches!(word.as_str(), "true" | "false") {
            warnings.push(format!(
                "`container.forcePullImage`: {} is taken as false, as it was by Chronos",
                shape::found(&pull)
            ));
        }
        container.insert("forcePullImage".into(), json!(word == "true"));
    }
    if container.get("image").is_none_or(Value::is_null) {
        document.shift_remove("container");
        warnings.push("`container` is ignored, as it was by Chronos: it names no `image`".into());
    }
}

/// Puts the name of the zone that was meant in the place of one that Chronos had from Java.
fn zone(document: &mut Map<String, Value>, warnings: &mut Vec<String>) -> Option<String> {
    let written = document.get("scheduleTimeZone")?.as_str()?.to_owned();
    let id = written.trim().to_ascii_uppercase();
    let meant = MEANT.iter().find(|(abbreviation, _)| *abbreviation == id).map(|(_, region)| *region);
    let (region, why) = match (Zone::classic(&id), meant) {
        (Some(region), _) => (region, "as Chronos read it"),
        (None, Some(region)) => (region, "which is what it means; Chronos took it for UTC"),
        (None, None) => return None,
    };
    warnings.push(format!("`scheduleTimeZone`: `{id}` is read as {region}, {why}; write that name"));
    document.insert("scheduleTimeZone".into(), json!(region));
    Some(written)
}

/// What a reader of our form should know about this zone: the same letters mean another zone to Chronos.
pub(super) fn zone_lint(zone: &str) -> Option<String> {
    let region = Zone::classic(zone)?;
    let told = format!(
        "`scheduleTimeZone`: `{zone}` is here what the IANA database says, without summer time; Chronos read it as \
         {region}: write that if it is meant"
    );
    matches!(zone, "EST" | "MST").then_some(told)
}

/// The whole number that Chronos made of a value which is none, and that value.
fn whole(value: &Value) -> Option<(i64, String)> {
    let n = number(value)?;
    #[expect(clippy::cast_possible_truncation, reason = "a cast from a float saturates")]
    let truncated = n.trunc().max(0.0) as i64;
    let is_plain = n >= 0.0 && n.fract() == 0.0;
    (!is_plain || value.is_boolean()).then(|| (truncated, value.to_string()))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    }
    .filter(|n| n.is_finite())
}
