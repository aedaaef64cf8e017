//! Jobs as they are given to an old Chronos, and what is said of that.

use jiff::Timestamp;
use scheduler::schedule::Zones;
use serde_json::{Map, Value};

use super::definition;

/// Tells what the old Chronos would not understand of a job.
pub(crate) fn tell_lost(kept: &Map<String, Value>, lost: &Map<String, Value>) {
    let name = kept.get("name").and_then(Value::as_str).unwrap_or_default();
    let told: Vec<String> = lost.iter().map(|(key, value)| format!("`{key}: {value}`")).collect();
    if !told.is_empty() {
        crate::cli::warn(&format!("job `{name}`: the old Chronos does not know {}", told.join(", ")));
    }
    let schedule = kept.get("schedule").and_then(Value::as_str).unwrap_or("R");
    if !schedule.starts_with('R') {
        crate::cli::warn(&format!(
            "job `{name}`: the old Chronos knows no cron expressions: write `{schedule}` as a repeating interval"
        ));
    } else if let Some(why) = definition::unreadable(kept) {
        crate::cli::warn(&format!("job `{name}`: {why}"));
    }
}

/// Jobs as an old Chronos wrote them; tells what is lost of them, and which of them it would run at once.
pub(crate) fn for_the_old(jobs: Vec<Value>, advance: bool) -> Vec<Map<String, Value>> {
    let (zones, now) = (Zones::bundled(), Timestamp::now());
    let mut all = Vec::with_capacity(jobs.len());
    for job in jobs {
        let Value::Object(fields) = job else { continue };
        let (mut given, lost) = definition::give(&fields);
        tell_lost(&given, &lost);
        if definition::begins_at_once(&given, &zones, now)
            && !(advance && definition::advance(&mut given, &zones, now))
        {
            let name = given.get("name").and_then(Value::as_str).unwrap_or_default();
            let hint = if advance {
                "another start would move later slots"
            } else {
                "--advance writes its next slot"
            };
            crate::cli::warn(&format!(
                "job `{name}`: its start has passed, so the old Chronos runs it at once; {hint}"
            ));
        }
        all.push(given);
    }
    all
}
