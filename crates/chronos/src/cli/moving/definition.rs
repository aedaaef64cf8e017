//! Job definitions between the form of an old Chronos, which writes every field into every job, and ours, which has
//! what its author said.

use jiff::Timestamp;
use scheduler::job::Retry;
use scheduler::request::PlanText;
use scheduler::schedule::{DstPolicy, Schedule, Spread, Zones};
use serde_json::{Map, Value, json};

use crate::wire::job::{COUNTERS, Door, OF_CHRONOS, OF_CHRONOS_2, Reading, as_written, read_value};
use crate::wire::shape::Problem;

/// How what comes from an old Chronos is read.
const DOOR: Door = Door::Imported;
/// The fields of a definition that Chronos 2.5 and 3 read, in the order of Chronos.
fn fields() -> impl Iterator<Item = &'static str> {
    OF_CHRONOS.iter().chain(OF_CHRONOS_2).copied().filter(|field| !COUNTERS.contains(field))
}

/// Whether an old Chronos reads this field of a definition.
fn is_known(field: &str) -> bool {
    fields().any(|known| known == field)
}

/// Fields that are true or false. Ruby, in which chronos-sync is written, reads `yes` and `on` in a file so too.
const SWITCHES: &[&str] =
    &["shell", "disabled", "softError", "dataProcessingJobType", "highPriority", "concurrent", "async"];

/// What an old Chronos writes where nobody has said anything.
fn default(field: &str) -> Option<Value> {
    Some(match field {
        "owner" => json!(""),
        "disabled" | "softError" | "highPriority" | "concurrent" => json!(false),
        "retries" => json!(Retry::default().max),
        "maxCompletionTime" => json!(0),
        _ => return crate::wire::job::default(field),
    })
}

/// A definition of an old Chronos in our form, and what its author should know.
pub(super) struct Taken {
    pub(super) definition: Map<String, Value>,
    pub(super) notes: Vec<String>,
    /// Whether it said `runAsUser: root`, as every job does that did not say.
    pub(super) root: bool,
}

/// Reads a definition of an old Chronos, whose names have been mapped.
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn take(
    mut document: Map<String, Value>,
    zones: &Zones,
    now: Timestamp,
) -> Result<Taken, Problem> {
    let mut notes = Vec::new();
    let root = document.get("runAsUser") == Some(&json!("root"));
    for field in SWITCHES {
        let word = document.get(*field).and_then(Value::as_str).map(str::to_ascii_lowercase);
        match word.as_deref() {
            Some("yes" | "on") => document.insert((*field).into(), json!(true)),
            Some("no" | "off") => document.insert((*field).into(), json!(false)),
            _ => None,
        };
    }
    // Chronos 2 wrote it into every job.
    if document.get("async") == Some(&json!(false)) {
        document.shift_remove("async");
    }
    document.retain(|field, value| {
        !COUNTERS.contains(&field.as_str()) && default(field).is_none_or(|default| !same(&default, value))
    });
    notes.extend(join_files(&mut document));
    if document.get("epsilon").and_then(Value::as_str).is_some_and(|text| !text.is_empty()) {
        notes.push(
            "`epsilon` counts here: what cannot start within it is missed (Chronos 3 ignored it)".into(),
        );
    }
    let Reading { definition, warnings, .. } = read_value(&Value::Object(document), DOOR, zones, now)?;
    notes.extend(warnings);
    let (job, parents) = definition.draft();
    let mut written = as_written(&job, |_| None);
    if matches!(definition.plan, PlanText::Parents(_)) {
        written.insert("parents".into(), parents.iter().map(|parent| parent.as_str()).collect());
    }
    Ok(Taken { definition: written, notes, root })
}

/// The same value, whether a number is written with a point or without.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() < f64::EPSILON,
        _ => a == b,
    }
}

/// Chronos fetched what is in `uris` after what is in `fetch`, and its list of jobs shows most of them in both.
fn join_files(document: &mut Map<String, Value>) -> Option<String> {
    let Some(Value::Array(fetch)) = document.get("fetch") else { return None };
    let Some(Value::Array(uris)) = document.get("uris") else { return None };
    let known: Vec<&Value> = fetch.iter().filter_map(|item| item.get("uri")).collect();
    let more: Vec<Value> =
        uris.iter().filter(|uri| !known.contains(uri)).map(|uri| json!({ "uri": uri })).collect();
    document.shift_remove("uris");
    if more.is_empty() {
        return None;
    }
    if let Some(Value::Array(fetch)) = document.get_mut("fetch") {
        fetch.extend(more);
    }
    Some("`uris` has been added to `fetch`, which does the same".into())
}

/// What an old Chronos reads of a definition, and what it does not.
pub(in crate::cli) fn known(definition: &Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let (mut known, mut lost): (Map<String, Value>, Map<String, Value>) =
        definition.iter().map(owned).partition(|(key, _)| is_known(key));
    lost.extend(without_secrets(&mut known));
    (known, lost)
}

/// A definition with every field that an old Chronos has in a file of chronos-sync, in its order, and what it does
/// not understand.
pub(in crate::cli) fn give(definition: &Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let mut lost: Map<String, Value> =
        definition.iter().filter(|(key, _)| !is_known(key)).map(owned).collect();
    let mut given: Map<String, Value> = Map::new();
    for field in fields() {
        if let Some(value) = definition.get(field).cloned().or_else(|| default(field)) {
            given.insert(field.into(), value);
        }
    }
    if lost.get("overlap") == Some(&json!("allow")) {
        lost.shift_remove("overlap");
        given.insert("concurrent".into(), json!(true));
    }
    lost.extend(without_secrets(&mut given));
    // Files that say nothing about it are taken for enabled, and chronos-sync never compares it.
    if given.get("disabled") == Some(&json!(false)) {
        given.shift_remove("disabled");
    }
    if given.contains_key("schedule") && !given.contains_key("scheduleTimeZone") {
        given.insert("scheduleTimeZone".into(), json!(""));
    }
    (given, lost)
}

/// Takes out the variables whose values are found when a task begins, and returns them under names that say which they
/// are. An old Chronos wants a value of each: it answers 500 to a variable without one, and ends where it finds one in its
/// store.
fn without_secrets(given: &mut Map<String, Value>) -> Map<String, Value> {
    let Some(Value::Array(variables)) = given.get_mut("environmentVariables") else { return Map::new() };
    let is_secret = |variable: &Value| variable.get("value").is_none();
    let lost = variables.iter().filter(|variable| is_secret(variable)).map(|variable| {
        let name = variable.get("name").and_then(Value::as_str).unwrap_or_default();
        let key = format!("environmentVariables {name} valueFrom");
        (key, variable.get("valueFrom").cloned().unwrap_or_default())
    });
    let lost = lost.collect();
    variables.retain(|variable| !is_secret(variable));
    lost
}

/// Why an old Chronos cannot read this definition at all, if it cannot.
pub(in crate::cli) fn unreadable(given: &Map<String, Value>) -> Option<String> {
    let schedule = given.get("schedule").and_then(Value::as_str).filter(|text| !text.starts_with('R'));
    if let Some(schedule) = schedule {
        return Some(format!("the old Chronos cannot read the schedule `{schedule}`"));
    }
    let network = given.get("container").and_then(|container| container.get("network"));
    (network == Some(&json!("NONE"))).then(|| "the old Chronos cannot read `container.network: NONE`".into())
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

/// The schedule of a definition, if it has one that can be read; `anchor` stands for an empty start.
pub(super) fn schedule(
    definition: &Map<String, Value>,
    zones: &Zones,
    anchor: Timestamp,
) -> Option<Schedule> {
    let text = |key: &str| definition.get(key).and_then(Value::as_str).unwrap_or_default();
    let dst = DstPolicy::default();
    Schedule::parse(zones, text("schedule"), text("scheduleTimeZone"), dst, anchor, Spread::of(text("name")))
        .ok()
}

/// A slot as the start of the same schedule, on its wall clock: calendar periods are added there.
pub(super) fn start(schedule: &Schedule, slot: Timestamp) -> String {
    let local = slot.to_zoned(schedule.zone().time_zone().clone());
    if local.offset().is_zero() {
        return crate::wire::job::instant(slot);
    }
    local.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}

/// Keeps the start that a job has here where the old Chronos, which moves it on with every launch, has one of the same
/// slots. Otherwise every look at it would find all jobs changed.
pub(super) fn keep_start(
    taken: &mut Map<String, Value>,
    present: &Map<String, Value>,
    zones: &Zones,
    now: Timestamp,
) {
    let text = |map: &Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (new, old) = (text(taken, "schedule"), text(present, "schedule"));
    let (Some((new_repeats, _, new_period)), Some((old_repeats, _, old_period))) = (parts(&new), parts(&old))
    else {
        return;
    };
    let alike = (new_repeats, new_period) == ("R", old_period)
        && old_repeats == "R"
        && text(taken, "scheduleTimeZone") == text(present, "scheduleTimeZone");
    if !alike {
        return;
    }
    let (Some(of_new), Some(of_old)) = (schedule(taken, zones, now), schedule(present, zones, now)) else {
        return;
    };
    // The first slot of one of them is a slot of the other.
    let first_is_of = |one: &Schedule, other: &Schedule| {
        let first = one.first_after(Timestamp::MIN);
        first.is_some_and(|first| other.last_until(first.due).is_some_and(|slot| slot.due == first.due))
    };
    if first_is_of(&of_new, &of_old) || first_is_of(&of_old, &of_new) {
        taken.insert("schedule".into(), json!(old));
    }
}

/// Keeps a job enabled that has no slots left: it is listed as disabled then, here and at the old Chronos, although nobody
/// has disabled it.
pub(super) fn keep_enabled(
    taken: &mut Map<String, Value>,
    present: &Map<String, Value>,
    zones: &Zones,
    now: Timestamp,
) {
    let is_disabled = |map: &Map<String, Value>| map.get("disabled") == Some(&json!(true));
    // As many slots have passed as it has.
    let is_over = |map: &Map<String, Value>| {
        let schedule = schedule(map, zones, now)?;
        let passed = schedule.span_from(Timestamp::MIN, now).map_or(0, |span| span.count);
        Some(passed >= schedule.repeats()?)
    };
    let same_slots =
        ["schedule", "scheduleTimeZone"].into_iter().all(|key| taken.get(key) == present.get(key));
    if is_disabled(taken) && !is_disabled(present) && same_slots && is_over(taken) == Some(true) {
        taken.shift_remove("disabled");
    }
}

/// Whether a definition that was taken says what the one here says, in whichever order and with whichever defaults.
pub(super) fn says_the_same(
    taken: &Map<String, Value>,
    present: &Map<String, Value>,
    zones: &Zones,
    now: Timestamp,
) -> bool {
    // The letters of some zones mean another one in the dialect of Chronos.
    let same_zone = taken.get("scheduleTimeZone") == present.get("scheduleTimeZone");
    same_zone && take(present.clone(), zones, now).is_ok_and(|present| present.definition == *taken)
}

/// `R5`, start and period of a repeating interval, whose start may be empty.
pub(super) fn interval(schedule: &str) -> Option<(&str, &str, &str)> {
    let (repeats, rest) = schedule.split_once('/')?;
    let (start, period) = rest.rsplit_once('/')?;
    repeats.starts_with('R').then_some((repeats, start, period))
}

/// The same of one with a start.
fn parts(schedule: &str) -> Option<(&str, &str, &str)> {
    interval(schedule).filter(|(_, start, _)| !start.is_empty())
}

/// The slot that a new job with this definition has at once, because its start is past.
pub(super) fn past_slot(definition: &Map<String, Value>, zones: &Zones, now: Timestamp) -> Option<Timestamp> {
    let off =
        definition.get("disabled") == Some(&json!(true)) || definition.get("catchUp") == Some(&json!("none"));
    let text = definition.get("schedule").and_then(Value::as_str).unwrap_or_default();
    let (_, _, _) = parts(text).filter(|_| !off)?;
    Some(schedule(definition, zones, now)?.last_until(now)?.due)
}

/// Whether an old Chronos would run this job as soon as it has it.
pub(super) fn begins_at_once(definition: &Map<String, Value>, zones: &Zones, now: Timestamp) -> bool {
    let off = definition.get("disabled") == Some(&json!(true));
    let text = definition.get("schedule").and_then(Value::as_str).unwrap_or_default();
    let empty = text.starts_with('R') && text.contains("//");
    !off && (empty || past_slot(definition, zones, now).is_some())
}

/// So many slots must stay what they were for a start to be moved: enough for every month of some years.
const SLOTS_COMPARED: usize = 48;

/// Writes the next slot as the start, and leaves out the one that is due at once, so that nothing is. `false`: that would
/// have changed later slots, as at the ends of months.
pub(super) fn advance(definition: &mut Map<String, Value>, zones: &Zones, now: Timestamp) -> bool {
    let text = definition.get("schedule").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some((repeats, _, period)) = parts(&text) else { return false };
    let Some(before) = schedule(definition, zones, now) else { return false };
    let Some(next) = before.first_after(now) else { return false };
    // A new job has no slots before the latest past one, see `past_slot`: that is one of them.
    let left = before.repeats().map(|repeats| repeats.saturating_sub(1));
    let repeats = left.map_or(repeats.to_owned(), |left| format!("R{left}"));
    let mut moved = definition.clone();
    moved.insert("schedule".into(), json!(format!("{repeats}/{}/{period}", start(&before, next.due))));
    let compared = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX).min(SLOTS_COMPARED);
    let slots = |schedule: &Schedule| -> Vec<Timestamp> {
        schedule.upcoming(now).take(compared).map(|slot| slot.due).collect()
    };
    let same = schedule(&moved, zones, now).is_some_and(|after| slots(&after) == slots(&before));
    if same {
        *definition = moved;
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2030-06-15T12:00:00Z".parse().expect("an instant")
    }

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is no object"),
        }
    }

    fn taken(value: Value) -> Taken {
        take(object(value), &Zones::bundled(), now()).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// A job as `GET /v1/scheduler/jobs` of Chronos 3 wrote it.
    fn listed() -> Value {
        json!({
            "name": "report", "command": "make-report", "shell": true, "executor": "", "executorFlags": "",
            "taskInfoData": "", "retries": 2, "owner": "ops@example.org", "ownerName": "", "description": "",
            "successCount": 3, "errorCount": 0, "lastSuccess": "2030-01-01T00:00:07.120Z", "lastError": "",
            "cpus": 0.1, "disk": 256.0, "mem": 512.0, "disabled": false, "softError": false,
            "dataProcessingJobType": false, "errorsSinceLastSuccess": 0,
            "fetch": [{ "uri": "http://a/b", "executable": false, "cache": false, "extract": true }],
            "uris": ["http://a/b"], "environmentVariables": [], "arguments": [], "highPriority": false,
            "runAsUser": "root", "concurrent": false, "maxCompletionTime": 0, "constraints": [],
            "schedule": "R/2030-01-02T00:00:00.000Z/P1D", "scheduleTimeZone": "",
        })
    }

    #[test]
    fn what_nobody_said_is_not_taken_for_said() {
        let taken = taken(listed());
        let expected = json!({
            "name": "report", "command": "make-report", "owner": "ops@example.org", "mem": 512.0,
            "fetch": [{ "uri": "http://a/b", "executable": false, "cache": false, "extract": true }],
            "schedule": "R/2030-01-02T00:00:00.000Z/P1D",
        });
        let found: Value = taken.definition.into();
        assert_eq!(found, expected);
        assert!(taken.root && taken.notes.is_empty(), "{:?}", taken.notes);
    }

    #[test]
    fn old_quirks_are_understood() {
        let job = taken(
            json!({ "name": "a", "disabled": "yes", "shell": "off", "retries": "3", "schedule": "R0/2020-01-01T00:00:00Z/P1D" }),
        );
        let expected = json!({ "name": "a", "shell": false, "retries": 3, "disabled": true, "schedule": "R0/2020-01-01T00:00:00Z/P1D" });
        assert_eq!(Value::from(job.definition), expected);
        let job =
            taken(json!({ "name": "a", "fetch": [{ "uri": "x" }], "uris": ["y", "x"], "parents": ["b"] }));
        let uris: Vec<_> =
            job.definition["fetch"].as_array().into_iter().flatten().map(|item| &item["uri"]).collect();
        assert_eq!(uris, ["x", "y"]);
        assert!(job.notes[0].contains("`uris`"), "{:?}", job.notes);
        let job = taken(json!({ "name": "a", "epsilon": "PT30M", "schedule": "R/2030-01-01T00:00:00Z/P1D" }));
        assert!(job.notes[0].contains("`epsilon`"), "{:?}", job.notes);
    }

    #[test]
    fn the_old_chronos_gets_what_it_knows() {
        let job = object(
            json!({ "name": "a", "schedule": "R//P1D", "retries": 3, "catchUp": "none", "labels": {} }),
        );
        let (old, lost) = known(&job);
        assert_eq!(Value::from(old), json!({ "name": "a", "schedule": "R//P1D", "retries": 3 }));
        assert_eq!(Value::from(lost), json!({ "catchUp": "none", "labels": {} }));
        // A variable without a value is one that it cannot read.
        let variables = json!([{ "name": "A", "value": "1" }, { "name": "B", "valueFrom": { "env": "CHRONOS_SECRET_B" } }]);
        let job = object(json!({ "name": "a", "schedule": "R//P1D", "environmentVariables": variables }));
        for (given, lost) in [known(&job), give(&job)] {
            assert_eq!(given["environmentVariables"], json!([{ "name": "A", "value": "1" }]));
            assert_eq!(lost["environmentVariables B valueFrom"], json!({ "env": "CHRONOS_SECRET_B" }));
        }
    }

    #[track_caller]
    fn kept(ours: &str, theirs: &str, zone: &str, expected: bool) {
        let job =
            |schedule: &str| object(json!({ "name": "a", "schedule": schedule, "scheduleTimeZone": zone }));
        let mut taken = job(theirs);
        keep_start(&mut taken, &job(ours), &Zones::bundled(), now());
        assert_eq!(taken["schedule"] == ours, expected, "{ours} and {theirs}");
    }

    #[test]
    fn a_start_that_moved_along_its_own_slots_is_no_change() {
        let daily = "R/2030-01-01T02:00:00.000Z/P1D";
        kept(daily, "R/2030-06-15T02:00:00.000Z/P1D", "", true);
        kept(daily, "R/2030-06-15T03:00:00.000Z/P1D", "", false);
        kept(daily, "R/2030-06-15T02:00:00.000Z/P2D", "", false);
        kept(daily, "R5/2030-06-15T02:00:00.000Z/P1D", "", false);
        kept(daily, "R/2029-06-15T02:00:00.000Z/P1D", "", true);
        kept(daily, "R/2029-06-15T02:00:00.001Z/P1D", "", false);
        // The old Chronos writes the offset of the moment; the zone counts.
        kept("R/2030-01-01T02:00:00+01:00/P1D", "R/2030-06-15T02:00:00.000+02:00/P1D", "Europe/Berlin", true);
        kept("R/2030-01-31T02:00:00Z/P1M", "R/2030-02-28T02:00:00.000Z/P1M", "", true);
        // It has lost the end of the month.
        kept("R/2030-01-31T02:00:00Z/P1M", "R/2030-03-28T02:00:00.000Z/P1M", "", false);
        kept("0 2 * * *", "R/2030-06-15T02:00:00.000Z/P1D", "", false);
    }

    #[track_caller]
    fn advanced(schedule: &str, zone: &str, expected: Option<&str>) {
        let mut job = object(json!({ "name": "a", "schedule": schedule, "scheduleTimeZone": zone }));
        let moved = advance(&mut job, &Zones::bundled(), now());
        assert_eq!(job["schedule"], expected.unwrap_or(schedule));
        assert_eq!(moved, expected.is_some());
        assert_eq!(past_slot(&job, &Zones::bundled(), now()).is_none(), expected.is_some(), "{schedule}");
    }

    #[test]
    fn a_start_is_moved_to_the_next_slot_if_the_slots_that_are_left_stay_the_same() {
        advanced("R/2020-01-01T02:00:00Z/P1D", "", Some("R/2030-06-16T02:00:00.000Z/P1D"));
        advanced("R7/2020-01-01T02:00:00Z/PT1H", "", Some("R6/2030-06-15T13:00:00.000Z/PT1H"));
        advanced("R1/2020-01-01T02:00:00Z/PT1H", "", Some("R0/2030-06-15T13:00:00.000Z/PT1H"));
        advanced("R/2020-01-01T02:30:00Z/P1D", "Europe/Berlin", Some("R/2030-06-16T02:30:00.000+02:00/P1D"));
        advanced("R/2020-01-31T02:00:00Z/P1M", "", None);
        let offset = "R/2030-07-01T00:30:00.000+02:00/P1M";
        advanced("R/2020-01-01T00:30:00+02:00/P1M", "", Some(offset));
    }

    /// Any job that an old Chronos can have.
    fn any_job() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let text = || {
            prop_oneof![
                Just(String::new()),
                "[ -~]{1,12}",
                Just("yes".to_owned()),
                Just("äöü\n'\"#: -".to_owned())
            ]
        };
        let uri = "https?://[a-z]{1,5}/[a-z.]{1,5}";
        let start = prop_oneof![
            Just("2030-01-31T02:30:00.000Z"),
            Just("2029-05-01T00:00:00+02:00"),
            Just("2031-01-01")
        ];
        let plan = prop_oneof![
            (
                start,
                prop_oneof![Just("R"), Just("R0"), Just("R5")],
                prop_oneof![Just("P1D"), Just("PT15M"), Just("P1M")],
                prop_oneof![Just(""), Just("Europe/Berlin"), Just("America/New_York")]
            )
                .prop_map(|(start, repeats, period, zone)| json!({
                    "schedule": format!("{repeats}/{start}/{period}"), "scheduleTimeZone": zone })),
            proptest::collection::vec("[a-d]{1,2}", 1..4).prop_map(|parents| json!({ "parents": parents })),
        ];
        let texts = (text(), text(), text(), text());
        let numbers =
            (0u32..5, prop_oneof![Just(0.1), Just(2.0)], prop_oneof![Just(128.0), Just(64.5)], 0u32..3);
        let switches = proptest::collection::vec(any::<bool>(), 6);
        let lists =
            (proptest::collection::vec(uri, 0..3), proptest::collection::vec(text(), 0..3), any::<bool>());
        (plan, texts, numbers, switches, lists).prop_map(|(plan, texts, numbers, switches, lists)| {
            let mut job = object(json!({
                "name": "job_1.a-b", "command": texts.0, "owner": texts.1, "description": texts.2, "ownerName": texts.3,
                "retries": numbers.0, "cpus": numbers.1, "mem": numbers.2, "maxCompletionTime": numbers.3,
                "shell": switches[0], "disabled": switches[1], "softError": switches[2], "highPriority": switches[3],
                "concurrent": switches[4], "dataProcessingJobType": switches[5], "arguments": lists.1,
                "environmentVariables": [{ "name": "A", "value": "1" }],
            }));
            if lists.2 {
                job.insert("uris".into(), json!(lists.0));
            } else {
                job.insert("fetch".into(), lists.0.iter().map(|uri| json!({ "uri": uri, "extract": false })).collect());
            }
            job.extend(object(plan));
            Value::Object(job)
        })
    }

    proptest::proptest! {
        #[test]
        fn what_is_given_and_taken_again_is_the_same(job in any_job()) {
            let first = taken(job).definition;
            let (given, lost) = give(&first);
            proptest::prop_assert!(lost.is_empty(), "{lost:?}");
            let text = crate::cli::moving::folder::text(&given);
            let back: Map<String, Value> = serde_norway::from_str(&text).expect("YAML");
            let again = taken(back.into()).definition;
            proptest::prop_assert_eq!(&Value::from(again.clone()), &Value::from(first));
            proptest::prop_assert_eq!(Value::from(give(&again).0), Value::from(given));
        }
    }
}
