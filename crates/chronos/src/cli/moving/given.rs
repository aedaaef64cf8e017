//! Jobs as they are given to an old Chronos, and what is said of that.

use jiff::Timestamp;
use scheduler::schedule::Zones;
use serde_json::{Map, Value};

use super::definition;
use super::handover::{Handover, Leaving};
use crate::cli::failure::Failure;
use crate::cli::warn;

/// Splits a definition into what an old Chronos is given of it and what is lost.
pub(in crate::cli) type Form = fn(&Map<String, Value>) -> (Map<String, Value>, Map<String, Value>);

/// Jobs in a form that an old Chronos reads, as far as they have come. Tells what is lost of them, what was written that
/// nobody has said, and which of them it would run at once.
pub(in crate::cli) fn for_the_old(
    jobs: Vec<Leaving>,
    handover: Option<Handover>,
    form: Form,
) -> Result<Vec<Map<String, Value>>, Failure> {
    let (zones, now) = (Zones::bundled(), Timestamp::now());
    let until = handover.map(|handover| handover.from(now)).transpose()?;
    let mut all = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (definition, notes) = job.carried(until, &zones);
        let (given, lost) = form(&definition);
        tell_lost(&given, &lost);
        let name = name(&given);
        notes.iter().for_each(|note| warn(&format!("job `{name}`: {note}")));
        if definition::begins_at_once(&given, &zones, now) {
            warn(&format!(
                "job `{name}`: its start has passed, so the old Chronos runs it at once; --advance writes its next slot"
            ));
        }
        all.push(given);
    }
    if let Some(until) = until.filter(|until| *until > now) {
        warn(&format!(
            "the old Chronos begins with slots after {until}: stop this server before that, or export once more"
        ));
    }
    Ok(all)
}

fn name(job: &Map<String, Value>) -> &str {
    job.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Tells what the old Chronos would not understand of a job.
fn tell_lost(kept: &Map<String, Value>, lost: &Map<String, Value>) {
    let name = name(kept);
    let told: Vec<String> = lost.iter().map(|(key, value)| format!("`{key}: {value}`")).collect();
    if !told.is_empty() {
        warn(&format!("job `{name}`: the old Chronos does not know {}", told.join(", ")));
    }
    let schedule = kept.get("schedule").and_then(Value::as_str).unwrap_or("R");
    if !schedule.starts_with('R') {
        warn(&format!(
            "job `{name}`: the old Chronos knows no cron expressions: write `{schedule}` as a repeating interval"
        ));
    } else if let Some(why) = definition::unreadable(kept) {
        warn(&format!("job `{name}`: {why}"));
    }
}
