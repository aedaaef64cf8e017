//! Job definitions as JSON: the form of Chronos, with the fields that are new beside it.
//!
//! What the scheduler decides by becomes typed [`Rules`]; everything else goes, in a normal form, into the body that
//! the core keeps and never reads. Counters in a document are ignored: only the server counts.

use std::time::Duration;

use engine::mesos::constraints::Constraints;
use jiff::Timestamp;
use scheduler::ids::{JobName, JobUid};
use scheduler::job::{CatchUp, Guarantee, Job, Overlap, Plan, Progress, Retry, Rules, Tags};
use scheduler::limits::Label;
use scheduler::request::{Definition, PlanText};
use scheduler::schedule::{DstPolicy, Fold, Gap, Lint, Schedule, ScheduleError, Spread, Zone, Zones};
use serde_json::{Map, Value, json};

use super::classic::{self, Canonical};
use super::duration;
use super::shape::{Field, Kind, Problem, Reader, SPAN_MAX, Shape, optional, required};
use super::twice::Document;
use super::unsaid;
use scheduler::moment::Moment;

/// Which endpoint a definition came to; it says what the job must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `/iso8601`: a schedule, or neither schedule nor parents, which means once, now.
    Schedule,
    /// `/dependency`: parents.
    Dependency,
    /// Either of them, as an old Chronos wrote or took it: what is imported.
    Imported,
    /// Either of them: files, where nobody names an endpoint.
    Any,
}

impl Door {
    /// Whether what comes in is in the dialect of Chronos.
    fn is_classic(self) -> bool {
        self != Self::Any
    }
}

/// A definition that was understood.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What it says.
    pub definition: Definition,
    /// What its author should know; one sentence each.
    pub warnings: Vec<String>,
    /// Advice about the schedule.
    pub lints: Vec<Lint>,
}

/// The schedule of a job that has neither schedule nor parents: once, at the moment that it comes.
const ONCE: &str = "R1//PT24H";

const SECOND: Duration = Duration::from_secs(1);
/// `catchUp: all` without an age.
const AGE: Duration = Duration::from_secs(7 * 86_400);
/// No machine has a million processors: whoever asks for more has erred, and no sum of what is asked for overflows.
const CPUS_MAX: f64 = 1e6;
/// In MiB, about a pebibyte; the largest machines have some 64 TiB.
const MEM_MAX: f64 = 1e9;
/// In MiB, a thousand times that.
const DISK_MAX: f64 = 1e12;

const SPAN: Shape = Shape::Span(SECOND, SPAN_MAX);

const FETCH: Shape = Shape::Object(&[
    required("uri", Shape::Text),
    optional("executable", Shape::Bool),
    optional("cache", Shape::Bool),
    optional("extract", Shape::Bool),
    optional("output_file", Shape::Text),
]);
const VALUE_FROM: Shape = Shape::Closed(&[optional("file", Shape::Text), optional("env", Shape::Text)]);
const VARIABLE: Shape = Shape::Object(&[
    required("name", Shape::Text),
    optional("value", Shape::Text),
    optional("valueFrom", VALUE_FROM),
]);
const CONSTRAINT: Shape = Shape::Row(&[Shape::Text, Shape::Word(&["EQUALS", "LIKE", "UNLIKE"]), Shape::Text]);
const CATCH_UP: Shape = Shape::Either(&[
    Shape::Word(&["latest", "none", "all"]),
    Shape::Object(&[required(
        "all",
        Shape::Object(&[
            optional("count", Shape::Whole(1, CatchUp::COUNT_MAX.cast_signed())),
            optional("age", SPAN),
        ]),
    )]),
]);
const DST: Shape = Shape::Object(&[
    optional("gap", Shape::Word(&["auto", "shift", "skip", "end"])),
    optional("fold", Shape::Word(&["auto", "first", "second", "both"])),
]);

/// Every field that is read. What the scheduler does not keep itself is stored in this order.
const FIELDS: &[Field] = &[
    required("name", Shape::Text),
    optional("command", Shape::Text),
    optional("shell", Shape::Bool),
    optional("executor", Shape::Text),
    optional("executorFlags", Shape::Text),
    optional("taskInfoData", Shape::Text),
    optional("async", Shape::Bool),
    optional("retries", Shape::Whole(0, Retry::MAX as i64)),
    optional("owner", Shape::Text),
    optional("ownerName", Shape::Text),
    optional("description", Shape::Text),
    optional("cpus", Shape::Real(0.0, CPUS_MAX)),
    optional("disk", Shape::Real(0.0, DISK_MAX)),
    optional("mem", Shape::Real(0.0, MEM_MAX)),
    optional("disabled", Shape::Bool),
    optional("softError", Shape::Bool),
    optional("dataProcessingJobType", Shape::Bool),
    optional("fetch", Shape::List(&FETCH)),
    optional("uris", Shape::List(&Shape::Text)),
    optional("environmentVariables", Shape::List(&VARIABLE)),
    optional("arguments", Shape::List(&Shape::Text)),
    optional("highPriority", Shape::Bool),
    optional("runAsUser", Shape::Text),
    optional("concurrent", Shape::Bool),
    optional("maxCompletionTime", Shape::Whole(0, SPAN_MAX.as_secs().cast_signed())),
    optional("container", super::container::CONTAINER),
    optional("constraints", Shape::List(&CONSTRAINT)),
    optional("parents", Shape::List(&Shape::Text)),
    optional("schedule", Shape::Text),
    optional("scheduleTimeZone", Shape::Text),
    optional("overlap", Shape::Word(&["queue", "skip", "replace", "allow"])),
    optional("maxConcurrent", Shape::Whole(1, Overlap::CONCURRENT_MAX as i64)),
    optional("catchUp", CATCH_UP),
    optional("epsilon", SPAN),
    optional("jitter", Shape::Span(Duration::ZERO, Rules::JITTER_MAX)),
    optional("retryDelay", Shape::Span(Retry::DELAY_MIN, SPAN_MAX)),
    optional("retryBackoff", Shape::Real(1.0, 10.0)),
    optional("retryDelayMax", Shape::Span(Retry::DELAY_MIN, SPAN_MAX)),
    optional("guarantee", Shape::Word(&["atMostOnce", "atLeastOnce"])),
    optional("lostAfter", SPAN),
    optional("dstPolicy", DST),
    optional("alerts", super::alerts::ALERTS),
    optional("labels", Shape::Dictionary(&Shape::Text)),
];

/// The zone as its author wrote it to an endpoint of Chronos, which has it back from there; kept beside the fields.
const ZONE_AS_WRITTEN: &str = "zoneAsWritten";

/// What the server counts; a document that was read from it carries them back.
pub const COUNTERS: &[&str] =
    &["successCount", "errorCount", "lastSuccess", "lastError", "errorsSinceLastSuccess"];

/// The fields of Chronos 3 in its order, in which jobs are written.
pub const OF_CHRONOS: &[&str] = &[
    "name",
    "command",
    "shell",
    "executor",
    "executorFlags",
    "taskInfoData",
    "retries",
    "owner",
    "ownerName",
    "description",
    "successCount",
    "errorCount",
    "lastSuccess",
    "lastError",
    "cpus",
    "disk",
    "mem",
    "disabled",
    "softError",
    "dataProcessingJobType",
    "errorsSinceLastSuccess",
    "fetch",
    "uris",
    "environmentVariables",
    "arguments",
    "highPriority",
    "runAsUser",
    "concurrent",
    "maxCompletionTime",
    "container",
    "constraints",
    "parents",
    "schedule",
    "scheduleTimeZone",
];
/// Those that Chronos 2 had beside them.
pub const OF_CHRONOS_2: &[&str] = &["epsilon", "async"];

/// What is written after them. Every field that is kept is in one of the two.
const AFTER_THOSE: &[&str] = &[
    "overlap",
    "maxConcurrent",
    "catchUp",
    "epsilon",
    "async",
    "jitter",
    "retryDelay",
    "retryBackoff",
    "retryDelayMax",
    "guarantee",
    "lostAfter",
    "dstPolicy",
    "alerts",
    "labels",
];

/// The order in which a job is written.
fn order() -> impl Iterator<Item = &'static str> {
    OF_CHRONOS.iter().chain(AFTER_THOSE).copied()
}

/// Reads a definition. `now` stands for an empty start while the schedule is checked.
/// # Errors
/// The first thing that is wrong with it, with the path of the field.
pub fn read(document: &[u8], door: Door, zones: &Zones, now: Timestamp) -> Result<Reading, Problem> {
    let document = Document::of_json(document).map_err(|e| Problem {
        kind: Kind::Malformed,
        field: String::new(),
        message: format!("the body is not valid JSON: {e}"),
        hint: "send one JSON object, at most 128 levels deep".into(),
    })?;
    let mut reading = read_value(&document.value, door, zones, now)?;
    // Chronos took the last one, and its clients count on that.
    reading.warnings.extend(document.warnings());
    Ok(reading)
}

/// Reads a definition that is JSON already.
/// # Errors
/// As [`read`].
pub fn read_value(document: &Value, door: Door, zones: &Zones, now: Timestamp) -> Result<Reading, Problem> {
    let Value::Object(document) = document else {
        let message = "the body is not a JSON object: expected the fields of one job";
        return Err(Problem::invalid("", message, "send one job at a time, as {\"name\": ..., ...}"));
    };
    let translated = door.is_classic().then(|| classic::canonical(document, door != Door::Schedule));
    let document = translated.as_ref().map_or(document, |translated| &translated.document);
    let mut reader = Reader::default();
    let mut fields = reader.read_object(document, FIELDS, COUNTERS, "")?;
    let Canonical { zone_as_written, mut warnings, .. } = translated.unwrap_or_default();
    warnings.extend(reader.warnings);

    let name = name(&take_text(&mut fields, "name"), "name")?;
    let (plan, lints) = match plan(&mut fields, door, now, &mut warnings)? {
        text @ PlanText::Parents(_) => (text, Vec::new()),
        PlanText::Schedule { text, zone, dst } => {
            let schedule = Schedule::parse(zones, &text, &zone, dst, now, Spread::of(name.as_str()))
                .map_err(|e| wrong_schedule(&e, &zone))?;
            warnings.extend(classic::zone_lint(&zone).filter(|_| !door.is_classic()));
            // With a start it is how Chronos wrote a schedule that is over.
            if schedule.repeats() == Some(0) && text.contains("//") {
                let never =
                    "`schedule`: R0 has no slots, so the job never runs by itself; R repeats for ever";
                warnings.push(never.into());
            }
            (PlanText::Schedule { text, zone, dst }, schedule.lints())
        }
    };
    let rules = rules(&mut fields, &mut warnings)?;
    normalise(&mut fields)?;
    if does_nothing(&fields) {
        warnings.push("`command` is missing: the job does nothing, and succeeds".into());
    }
    if let Some(zone) = zone_as_written.filter(|_| matches!(plan, PlanText::Schedule { .. })) {
        fields.insert(ZONE_AS_WRITTEN.into(), json!(zone));
    }
    let body = Value::Object(fields).to_string();

    let size = body.len() + plan_bytes(&plan) + tags_bytes(&rules);
    if size > Definition::BYTES_MAX {
        let message = format!("the definition has {size} bytes; at most {} are kept", Definition::BYTES_MAX);
        let hint = "put the script into a file or an image, and call it from the command".into();
        return Err(Problem { kind: Kind::TooLarge, field: String::new(), message, hint });
    }
    Ok(Reading { definition: Definition { name, plan, rules, body: body.into() }, warnings, lints })
}

/// Whether there is nothing to run, and nobody else who knows what: an image or an executor does.
fn does_nothing(fields: &Map<String, Value>) -> bool {
    let blank = |key: &str| fields.get(key).and_then(Value::as_str).is_none_or(|text| text.trim().is_empty());
    let given = |key: &str| !list(fields, key).is_empty();
    blank("command") && blank("executor") && !given("arguments") && !fields.contains_key("container")
}

fn name(text: &str, path: &str) -> Result<JobName, Problem> {
    JobName::new(text).map_err(|e| {
        let hint = "use letters, digits, `_`, `.` and `-`, at most 255 of them";
        Problem::invalid(path, format!("`{path}`: {e}"), hint)
    })
}

fn plan(
    fields: &mut Map<String, Value>,
    door: Door,
    now: Timestamp,
    warnings: &mut Vec<String>,
) -> Result<PlanText, Problem> {
    let listed = match fields.shift_remove("parents") {
        Some(Value::Array(parents)) => Some(parents),
        _ => None,
    };
    let is_blank = fields.get("schedule").and_then(Value::as_str).is_some_and(|text| text.trim().is_empty());
    let schedule = take_text(fields, "schedule");
    let zone = take_text(fields, "scheduleTimeZone");
    let dst = dst(fields.get("dstPolicy"));
    let has_parents = listed.as_ref().is_some_and(|parents| !parents.is_empty());
    if !schedule.is_empty() && has_parents {
        let message =
            "`schedule` and `parents` are both given: a job is started by time or by other jobs, not by both";
        return Err(Problem::invalid("parents", message, "remove one of the two"));
    }
    if door == Door::Schedule && has_parents {
        let message = "`parents` are given, but this endpoint takes jobs with a schedule";
        return Err(Problem::invalid("parents", message, "send it to .../dependency"));
    }
    if door == Door::Dependency && (listed.is_none() || !schedule.is_empty()) {
        let message = "`parents` is missing, but this endpoint takes jobs that have parents";
        return Err(Problem::invalid("parents", message, "send a job with a schedule to .../iso8601"));
    }
    if has_parents || door == Door::Dependency {
        if !zone.is_empty() {
            warnings.push("`scheduleTimeZone` has no effect on a job with parents and was ignored".into());
        }
        let mut parents = Vec::new();
        for (i, parent) in listed.unwrap_or_default().iter().enumerate() {
            parents.push(self::name(parent.as_str().unwrap_or_default(), &format!("parents[{i}]"))?);
        }
        parents.sort();
        parents.dedup();
        return Ok(PlanText::Parents(parents));
    }
    if is_blank {
        // Left blank, most likely: who means once and now leaves it out.
        let message = "`schedule` is empty";
        let hint = "write when the job is due; without `schedule` it runs once, now";
        return Err(Problem::invalid("schedule", message, hint));
    }
    let text = match door {
        _ if !schedule.is_empty() => schedule,
        // Each post says it anew, and Chronos ran the job once for each: the schedule of the one before is another.
        Door::Schedule => ONCE.replacen("//", &format!("/{}/", instant(now)), 1),
        _ => ONCE.into(),
    };
    Ok(PlanText::Schedule { text: text.into(), zone: zone.into(), dst })
}

/// A schedule or zone that cannot be read, as a problem of its field.
pub fn wrong_schedule(error: &ScheduleError, zone: &str) -> Problem {
    let field = if matches!(error, ScheduleError::Zone { .. }) { "scheduleTimeZone" } else { "schedule" };
    let hint = match Zone::classic(zone) {
        Some(region) if field == "scheduleTimeZone" => format!("Chronos read {zone} as {region}: write that"),
        _ => error.hint(),
    };
    Problem::invalid(field, format!("`{field}`: {error}"), hint)
}

fn rules(fields: &mut Map<String, Value>, warnings: &mut Vec<String>) -> Result<Rules, Problem> {
    let default = Rules::default();
    let alone = fields.get("concurrent") == Some(&json!(false));
    let concurrent = take_bool(fields, "concurrent");
    let overlap = fields.get("overlap").and_then(Value::as_str);
    let most = fields.get("maxConcurrent").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let overlap = match overlap {
        Some(rule) if concurrent && rule != "allow" => {
            let message = format!("`concurrent` is true, but `overlap` is \"{rule}\"");
            return Err(Problem::invalid(
                "overlap",
                message,
                "`concurrent: true` means `overlap: allow`; remove one of them",
            ));
        }
        Some("skip") => Overlap::Skip,
        Some("replace") => Overlap::Replace,
        Some("allow") => Overlap::Allow { max: most.unwrap_or(Overlap::CONCURRENT_MAX) },
        None if concurrent => Overlap::Allow { max: most.unwrap_or(Overlap::CONCURRENT_MAX) },
        _ => Overlap::Queue,
    };
    if alone && matches!(overlap, Overlap::Allow { .. }) {
        warnings
            .push("`concurrent` is false, but `overlap` is \"allow\", which counts: runs may overlap".into());
    }
    if most.is_some() && !matches!(overlap, Overlap::Allow { .. }) {
        warnings.push("`maxConcurrent` has no effect without `overlap: allow`".into());
    }
    let retry = Retry {
        max: take_whole(fields, "retries").and_then(|n| u32::try_from(n).ok()).unwrap_or(default.retry.max),
        delay: span(fields, "retryDelay"),
        factor_percent: factor(fields).unwrap_or(default.retry.factor_percent),
        delay_max: span(fields, "retryDelayMax").unwrap_or(default.retry.delay_max),
    };
    if retry.delay.is_some_and(|delay| delay > retry.delay_max) && fields.contains_key("retryDelayMax") {
        let message = "`retryDelayMax` is less than `retryDelay`";
        return Err(Problem::invalid("retryDelayMax", message, "raise it, or leave it out"));
    }
    let guarantee = match fields.get("guarantee").and_then(Value::as_str) {
        Some("atLeastOnce") => Guarantee::AtLeastOnce,
        _ => Guarantee::AtMostOnce,
    };
    Ok(Rules {
        disabled: take_bool(fields, "disabled"),
        high_priority: take_bool(fields, "highPriority"),
        catch_up: catch_up(fields.get("catchUp")),
        epsilon: span(fields, "epsilon"),
        jitter: span(fields, "jitter").filter(|jitter| !jitter.is_zero()),
        overlap,
        retry,
        guarantee,
        lost_after: span(fields, "lostAfter").unwrap_or(default.lost_after),
        run_max: take_whole(fields, "maxCompletionTime").filter(|n| *n > 0).map(Duration::from_secs),
        soft_error: take_bool(fields, "softError"),
        alerts: super::alerts::rules(fields, warnings)?,
        tags: tags(fields).kept(),
    })
}

fn tags(fields: &mut Map<String, Value>) -> Tags {
    let labels = match fields.shift_remove("labels") {
        Some(Value::Object(labels)) => labels,
        _ => Map::new(),
    };
    let label = |(key, value): (String, Value)| Some((key.into(), value.as_str()?.into()));
    let labels = labels.into_iter().filter_map(label).collect();
    Tags { owner: take_text(fields, "owner").into(), labels }
}

fn factor(fields: &Map<String, Value>) -> Option<u32> {
    let factor = fields.get("retryBackoff")?.as_f64()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to 10, checked by its shape"
    )]
    Some((factor * 100.0).round() as u32)
}

fn catch_up(value: Option<&Value>) -> CatchUp {
    match value {
        Some(Value::Object(object)) => {
            let bounds = object.get("all");
            let of = |key| bounds.and_then(|b| b.get(key));
            CatchUp::All {
                count_max: of("count").and_then(Value::as_u64).unwrap_or(CatchUp::COUNT_MAX),
                age_max: of("age").and_then(Value::as_str).and_then(duration::parse).unwrap_or(AGE),
            }
        }
        Some(Value::String(word)) if word == "none" => CatchUp::None,
        Some(Value::String(word)) if word == "all" => {
            CatchUp::All { count_max: CatchUp::COUNT_MAX, age_max: AGE }
        }
        _ => CatchUp::Latest,
    }
}

fn dst(value: Option<&Value>) -> DstPolicy {
    let word = |key| value.and_then(|v| v.get(key)).and_then(Value::as_str);
    DstPolicy {
        gap: match word("gap") {
            Some("shift") => Gap::Shift,
            Some("skip") => Gap::Skip,
            Some("end") => Gap::End,
            _ => Gap::Auto,
        },
        fold: match word("fold") {
            Some("first") => Fold::First,
            Some("second") => Fold::Second,
            Some("both") => Fold::Both,
            _ => Fold::Auto,
        },
    }
}

/// Brings what is stored unread into its normal form, and refuses what no engine could run.
fn normalise(fields: &mut Map<String, Value>) -> Result<(), Problem> {
    for key in ["cpus", "mem", "disk"] {
        // As in Chronos, 0 means the default.
        if fields.get(key).and_then(Value::as_f64) == Some(0.0) {
            fields.shift_remove(key);
        }
    }
    let fetched: Vec<_> = list(fields, "fetch").iter().filter_map(|f| f.get("uri").cloned()).collect();
    if !fetched.is_empty() && list(fields, "uris").iter().all(|uri| fetched.contains(uri)) {
        // `GET /jobs` of Chronos wrote every URI in both.
        fields.shift_remove("uris");
    }
    if !fetched.is_empty() && !list(fields, "uris").is_empty() {
        let message = "`uris` and `fetch` are both given and differ";
        return Err(Problem::invalid("uris", message, "`uris` is the old form of `fetch`: keep `fetch`"));
    }
    for (i, variable) in list(fields, "environmentVariables").iter().enumerate() {
        self::variable(variable, &format!("environmentVariables[{i}]"))?;
    }
    for (i, fetch) in list(fields, "fetch").iter().enumerate() {
        output_file(fetch, &format!("fetch[{i}].output_file"))?;
    }
    for fetch in list_mut(fields, "fetch") {
        let defaults = [("executable", json!(false)), ("cache", json!(false)), ("extract", json!(true))];
        super::container::fill(fetch, &FETCH, &defaults);
    }
    if let Some(container) = fields.get_mut("container") {
        super::container::normalise(container);
    }
    let stated = super::task::stated_constraints(list(fields, "constraints"));
    for (i, constraint) in stated.iter().enumerate() {
        Constraints::new(std::slice::from_ref(constraint)).map_err(|error| {
            let path = format!("constraints[{i}][2]");
            let hint =
                "it must match the whole value, as in `rack-[0-9]+`; what looks around or back is not known";
            Problem::invalid(&path, format!("`{path}`: {error}"), hint)
        })?;
    }
    if unsaid::on_mesos() { super::task::check(fields) } else { super::container::check(fields) }
}

/// A variable has a value or says where one is found when a task begins; the value itself is then never here.
fn variable(variable: &Value, path: &str) -> Result<(), Problem> {
    let name = variable.get("name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() || name.contains('=') {
        let path = format!("{path}.name");
        let message = format!("`{path}`: a variable's name must not be empty and must not contain `=`");
        return Err(Problem::invalid(&path, message, ""));
    }
    let from = match (variable.get("value"), variable.get("valueFrom")) {
        (Some(_), None) => return Ok(()),
        (None, Some(from)) => from,
        (None, None) => {
            let path = format!("{path}.value");
            return Err(Problem::invalid(&path, format!("`{path}` is missing"), "give it, or `valueFrom`"));
        }
        (Some(_), Some(_)) => {
            let path = format!("{path}.valueFrom");
            let message = format!("`{path}`: `value` and `valueFrom` are both given");
            return Err(Problem::invalid(&path, message, "remove one of the two"));
        }
    };
    let text = |key| from.get(key).and_then(Value::as_str);
    let (key, wrong) = match (text("file"), text("env")) {
        (Some(file), None) => {
            ("file", (!file.starts_with('/')).then_some("the path of the file must begin with `/`"))
        }
        (None, Some(env)) if env.is_empty() || env.contains('=') => {
            ("env", Some("a variable's name must not be empty and must not contain `=`"))
        }
        (None, Some(env)) if engine::is_setting(env.as_bytes()) => {
            ("env", Some("variables that set up the server are not for jobs; name it `CHRONOS_SECRET_...`"))
        }
        (None, Some(_)) => ("env", None),
        _ => {
            let path = format!("{path}.valueFrom");
            let message = format!("`{path}`: expected either \"file\" or \"env\"");
            return Err(Problem::invalid(
                &path,
                message,
                r#"write {"file": "/run/secrets/x"} or {"env": "CHRONOS_SECRET_X"}"#,
            ));
        }
    };
    match wrong {
        Some(wrong) => {
            let path = format!("{path}.valueFrom.{key}");
            Err(Problem::invalid(&path, format!("`{path}`: {wrong}"), ""))
        }
        None => Ok(()),
    }
}

fn output_file(fetch: &Value, path: &str) -> Result<(), Problem> {
    let Some(name) = fetch.get("output_file").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        let message = format!("`{path}`: `{name}` leads out of the working directory of the task");
        return Err(Problem::invalid(path, message, "give a relative path without `..`"));
    }
    Ok(())
}

fn list<'a>(fields: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    fields.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn list_mut<'a>(fields: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Value> {
    fields.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn take_text(fields: &mut Map<String, Value>, key: &str) -> String {
    match fields.shift_remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn take_bool(fields: &mut Map<String, Value>, key: &str) -> bool {
    fields.shift_remove(key).and_then(|v| v.as_bool()).unwrap_or(false)
}

fn take_whole(fields: &mut Map<String, Value>, key: &str) -> Option<u64> {
    fields.shift_remove(key).and_then(|v| v.as_u64())
}

fn span(fields: &Map<String, Value>, key: &str) -> Option<Duration> {
    fields.get(key).and_then(Value::as_str).and_then(duration::parse)
}

fn plan_bytes(plan: &PlanText) -> usize {
    match plan {
        PlanText::Schedule { text, zone, .. } => text.len() + zone.len(),
        PlanText::Parents(parents) => parents.iter().map(|p| p.as_str().len() + 3).sum(),
    }
}

fn tags_bytes(rules: &Rules) -> usize {
    rules.owner().len() + rules.labels().iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
}

/// An instant as Chronos writes it: UTC, with milliseconds.
pub fn instant(t: Timestamp) -> String {
    format!("{t:.3}")
}

/// Whether a job will not be started by its schedule any more, because there are no slots left.
pub fn is_exhausted(job: &Job, progress: &Progress) -> bool {
    matches!(job.plan, Plan::Schedule(_))
        && !job.rules.disabled
        && (progress.remaining == Some(0) || progress.next.is_none())
}

/// The fields of a body; empty when it is none of ours.
pub fn body(job: &Job) -> Map<String, Value> {
    serde_json::from_str(&job.body).unwrap_or_default()
}

/// Writes a job with its counters, in the order of Chronos. `name_of` knows the names of the parents.
pub fn write(
    job: &Job,
    progress: &Progress,
    name_of: impl Fn(JobUid) -> Option<JobName>,
) -> Map<String, Value> {
    let time = |t: Option<Timestamp>| json!(t.map(instant).unwrap_or_default());
    let counter = |key: &str| match key {
        "successCount" => Some(json!(progress.successes)),
        "errorCount" => Some(json!(progress.errors)),
        "errorsSinceLastSuccess" => Some(json!(progress.errors_in_a_row)),
        "lastSuccess" => Some(time(progress.last_success.map(Moment::at))),
        "lastError" => Some(time(progress.last_error.map(Moment::at))),
        key => default(key),
    };
    let mut written = fields(job, &names(job, name_of), counter);
    written.insert("disabled".into(), json!(job.rules.disabled || is_exhausted(job, progress)));
    written
}

/// The same for the endpoints of Chronos, in whose dialect the zone may be written.
pub fn write_classic(
    job: &Job,
    progress: &Progress,
    name_of: impl Fn(JobUid) -> Option<JobName>,
) -> Map<String, Value> {
    let mut written = write(job, progress, name_of);
    // Hardly any body has it, and lists write many.
    if job.body.contains(ZONE_AS_WRITTEN)
        && let Some(zone) = body(job).get(ZONE_AS_WRITTEN)
        && let Some(shown) = written.get_mut("scheduleTimeZone")
    {
        shown.clone_from(zone);
    }
    written
}

/// Whether the tasks of a job may say how far they are.
pub fn is_data_job(job: &Job) -> bool {
    body(job).get("dataProcessingJobType").and_then(Value::as_bool).unwrap_or(false)
}

/// Writes a definition without counters, with all defaults filled in: to be compared with another one.
pub fn whole_definition(job: &Job, parents: &[JobName]) -> Map<String, Value> {
    fields(job, parents, default)
}

/// The fields that are kept, in the order of Chronos; `other` knows those that are not.
fn fields(job: &Job, parents: &[JobName], other: impl Fn(&str) -> Option<Value>) -> Map<String, Value> {
    let mut body = body(job);
    let rules = &job.rules;
    let mut written = Map::new();
    for key in order() {
        let value = match key {
            "name" => Some(json!(job.name.as_str())),
            "retries" => Some(json!(rules.retry.max)),
            "owner" => Some(json!(*rules.owner())),
            "labels" => labels(rules.labels()),
            "disabled" => Some(json!(rules.disabled)),
            "softError" => Some(json!(rules.soft_error)),
            "highPriority" => Some(json!(rules.high_priority)),
            "concurrent" => Some(json!(matches!(rules.overlap, Overlap::Allow { .. }))),
            "maxCompletionTime" => Some(json!(rules.run_max.map_or(0, |d| d.as_secs()))),
            "parents" => matches!(job.plan, Plan::Parents(_))
                .then(|| parents.iter().map(JobName::as_str).collect::<Value>()),
            "schedule" => timetable(job).map(|t| json!(*t.text)),
            "scheduleTimeZone" => timetable(job).map(|t| json!(*t.zone)),
            key => body.swap_remove(key).or_else(|| other(key)),
        };
        if let Some(value) = value {
            written.insert(key.into(), value);
        }
    }
    written
}

/// Writes what its author said, without counters and without defaults: read again, it is the same definition.
pub fn as_written(job: &Job, name_of: impl Fn(JobUid) -> Option<JobName>) -> Map<String, Value> {
    let parents = names(job, name_of);
    let mut body = body(job);
    body.shift_remove(ZONE_AS_WRITTEN);
    let (rules, default) = (&job.rules, Rules::default());
    let concurrent = matches!(rules.overlap, Overlap::Allow { .. }) && !body.contains_key("overlap");
    let mut written = Map::new();
    for key in order() {
        let value = match key {
            "name" => Some(json!(job.name.as_str())),
            "owner" => Some(rules.owner()).filter(|owner| !owner.is_empty()).map(|owner| json!(*owner)),
            "labels" => labels(rules.labels()),
            "retries" => (rules.retry.max != default.retry.max).then(|| json!(rules.retry.max)),
            "disabled" => rules.disabled.then(|| json!(true)),
            "softError" => rules.soft_error.then(|| json!(true)),
            "highPriority" => rules.high_priority.then(|| json!(true)),
            "concurrent" => concurrent.then(|| json!(true)),
            "maxCompletionTime" => rules.run_max.map(|longest| json!(longest.as_secs())),
            "parents" => matches!(job.plan, Plan::Parents(_))
                .then(|| parents.iter().map(JobName::as_str).collect::<Value>()),
            "schedule" => timetable(job).map(|t| json!(*t.text)),
            "scheduleTimeZone" => timetable(job).filter(|t| !t.zone.is_empty()).map(|t| json!(*t.zone)),
            key => body.shift_remove(key),
        };
        if let Some(value) = value {
            written.insert(key.into(), value);
        }
    }
    // Fields that came after the list above was written.
    written.append(&mut body);
    written
}

/// What a field that is kept in the body is where a job does not say: as Chronos wrote it.
pub fn default(key: &str) -> Option<Value> {
    Some(match key {
        "shell" => json!(true),
        "cpus" => json!(unsaid::get().cpus),
        "mem" => json!(unsaid::get().mem),
        "disk" => json!(unsaid::get().disk),
        "runAsUser" => json!(unsaid::get().user),
        "dataProcessingJobType" => json!(false),
        "command" | "executor" | "executorFlags" | "taskInfoData" | "ownerName" | "description" => json!(""),
        "fetch" | "uris" | "environmentVariables" | "arguments" | "constraints" => json!([]),
        _ => return None,
    })
}

fn labels(labels: &[Label]) -> Option<Value> {
    let written = labels.iter().map(|(key, value)| (key.to_string(), json!(**value))).collect();
    (!labels.is_empty()).then(|| Value::Object(written))
}

fn timetable(job: &Job) -> Option<&scheduler::job::Timetable> {
    match &job.plan {
        Plan::Schedule(timetable) => Some(timetable),
        Plan::Parents(_) => None,
    }
}

/// The names of the parents, sorted.
fn names(job: &Job, name_of: impl Fn(JobUid) -> Option<JobName>) -> Vec<JobName> {
    let Plan::Parents(parents) = &job.plan else { return Vec::new() };
    let mut names: Vec<_> = parents.iter().filter_map(|uid| name_of(*uid)).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests;
