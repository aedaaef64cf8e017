use std::sync::Arc;

use proptest::prelude::*;
use scheduler::job::Timetable;
use scheduler::schedule::Slot;

use super::*;

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().expect("a time")
}

fn reading(document: &str) -> Result<Reading, Problem> {
    read(document.as_bytes(), Door::Any, &Zones::bundled(), now())
}

/// The job that the core makes of a definition.
fn job(definition: &Definition) -> Job {
    let plan = match &definition.plan {
        PlanText::Schedule { text, zone, dst } => {
            let (text, zone) = (text.clone(), zone.clone());
            Plan::Schedule(Timetable { text, zone, dst: *dst, anchor: now(), plan: 1 })
        }
        PlanText::Parents(parents) => Plan::Parents((1..).take(parents.len()).map(JobUid).collect()),
    };
    Job {
        uid: JobUid(9),
        version: 1,
        created: now(),
        changed: now(),
        joins_from: scheduler::ids::GraphVersion(0),
        name: definition.name.clone(),
        plan,
        rules: definition.rules.clone().shared(),
        body: definition.body.clone(),
    }
}

/// Nothing has happened, and there are slots to come.
fn fresh() -> Progress {
    let nominal = scheduler::schedule::Nominal::Index(1);
    Progress { next: Some(Slot { nominal, due: now() }), ..Progress::new(now()) }
}

fn written(definition: &Definition) -> Map<String, Value> {
    let names = match &definition.plan {
        PlanText::Parents(parents) => parents.clone(),
        PlanText::Schedule { .. } => Vec::new(),
    };
    write(&job(definition), &fresh(), |uid| names.get(usize::try_from(uid.0).ok()? - 1).cloned())
}

/// Reads `document`, writes it, reads that again: nothing may change, and all that was said is still said.
#[track_caller]
fn round_trip(document: &Value) {
    let first = read_value(document, Door::Any, &Zones::bundled(), now())
        .unwrap_or_else(|e| panic!("{e}: {document}"));
    let out = Value::Object(written(&first.definition));
    for (key, value) in document.as_object().expect("an object") {
        assert_eq!(out.get(key), Some(value), "field {key}");
    }
    let second =
        read_value(&out, Door::Any, &Zones::bundled(), now()).unwrap_or_else(|e| panic!("{e}: {out}"));
    assert_eq!(second.definition.rules, first.definition.rules);
    assert_eq!(second.definition.plan, first.definition.plan);
    assert_eq!(Value::Object(written(&second.definition)), out);
}

const SAMPLE: &str = r#"{"name":"report","command":"make-report","shell":true,"executor":"","executorFlags":"","taskInfoData":"","retries":2,
 "owner":"ops@example.org, dev@example.org","ownerName":"Ops","description":"","successCount":3,"errorCount":0,
 "lastSuccess":"2030-01-01T00:00:07.120Z","lastError":"","cpus":0.5,"disk":256.0,"mem":512.0,"disabled":false,
 "softError":false,"dataProcessingJobType":false,"errorsSinceLastSuccess":0,
 "fetch":[{"uri":"http://files.example.org/a.tgz","executable":false,"cache":false,"extract":true}],"uris":[],
 "environmentVariables":[{"name":"MODE","value":"full"}],"arguments":[],"highPriority":false,"runAsUser":"root",
 "concurrent":false,"maxCompletionTime":0,"constraints":[["rack","EQUALS","r1"]],
 "schedule":"R/2030-01-02T00:00:00.000Z/P1D","scheduleTimeZone":""}"#;

#[test]
fn the_sample_of_chronos_comes_back_key_by_key() {
    let sample: Map<String, Value> = serde_json::from_str(SAMPLE).expect("JSON");
    let reading = reading(SAMPLE).expect("valid");
    assert_eq!((reading.warnings.len(), reading.lints.len()), (0, 0));
    let out = written(&reading.definition);
    assert_eq!(out.keys().collect::<Vec<_>>(), sample.keys().collect::<Vec<_>>(), "the order of keys");
    for (key, value) in &sample {
        match key.as_str() {
            "successCount" => assert_eq!(out[key], json!(0), "only the server counts"),
            "lastSuccess" => assert_eq!(out[key], json!(""), "only the server counts"),
            _ => assert_eq!(&out[key], value, "{key}"),
        }
    }
}

#[test]
fn a_short_definition_gets_the_defaults_of_chronos() {
    let reading = reading(r#"{"name":"a","command":"true","schedule":"R//PT1H"}"#).expect("valid");
    assert_eq!(&*reading.definition.body, r#"{"command":"true"}"#);
    assert_eq!(reading.definition.rules, Rules::default());
    let expected = r#"{"name":"a","command":"true","shell":true,"executor":"","executorFlags":"","taskInfoData":"","retries":2,"owner":"","ownerName":"","description":"","successCount":0,"errorCount":0,"lastSuccess":"","lastError":"","cpus":0.1,"disk":256.0,"mem":128.0,"disabled":false,"softError":false,"dataProcessingJobType":false,"errorsSinceLastSuccess":0,"fetch":[],"uris":[],"environmentVariables":[],"arguments":[],"highPriority":false,"runAsUser":"root","concurrent":false,"maxCompletionTime":0,"constraints":[],"schedule":"R//PT1H","scheduleTimeZone":""}"#;
    assert_eq!(Value::Object(written(&reading.definition)).to_string(), expected);
}

#[test]
fn every_field_is_kept() {
    round_trip(&json!({
        "name": "all.of-it_1", "command": "run \"it\" 'now' é", "shell": false, "executor": "/bin/x", "executorFlags": "-f",
        "taskInfoData": "data", "retries": 7, "owner": "a@example.org", "ownerName": "A", "description": "d\nd",
        "cpus": 1.5, "disk": 1.0, "mem": 2048.0, "disabled": true, "softError": true, "dataProcessingJobType": true,
        "fetch": [{"uri": "u", "executable": true, "cache": true, "extract": false, "output_file": "o"}],
        "environmentVariables": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"},
            {"name": "S", "valueFrom": {"file": "/run/secrets/s"}}, {"name": "T", "valueFrom": {"env": "CHRONOS_SECRET_T"}}],
        "arguments": ["-v", "a b", ""],
        "highPriority": true, "runAsUser": "", "concurrent": true, "maxCompletionTime": 3600,
        "container": {"type": "MESOS", "image": "busybox", "network": "USER", "networkName": "n",
            "networkInfos": [{"name": "n", "protocol": "IPv4", "labels": [{"key": "k", "value": "v"}],
                "portMappings": [{"hostPort": "0", "containerPort": "80", "protocol": "tcp"}]}],
            "volumes": [{"containerPath": "/c", "hostPath": "/h", "mode": "RW"},
                {"containerPath": "/e", "external": {"name": "e", "provider": "p", "options": []}}],
            "forcePullImage": true, "parameters": [{"key": "k", "value": "v"}]},
        "constraints": [["rack", "LIKE", "r.*"]], "schedule": "0 3 * * *", "scheduleTimeZone": "Europe/Berlin",
        "overlap": "allow", "maxConcurrent": 3, "catchUp": {"all": {"count": 5, "age": "2d"}}, "epsilon": "PT30M",
        "retryDelay": "30s", "retryBackoff": 2.5, "retryDelayMax": "1h", "guarantee": "atLeastOnce", "lostAfter": "PT2H",
        "dstPolicy": {"gap": "end", "fold": "both"}, "labels": {"team": "data", "tier": "1"},
    }));
    round_trip(&json!({"name": "child", "command": "", "parents": ["a", "b"]}));
}

#[test]
fn rules_are_typed() {
    let rules = |fields: &str| {
        let document = format!(r#"{{"name":"a","command":"x","schedule":"R//PT1H",{fields}}}"#);
        reading(&document).unwrap_or_else(|e| panic!("{fields}: {e}")).definition.rules
    };
    let seconds = Duration::from_secs;
    assert_eq!(rules(r#""epsilon":"PT10M""#).epsilon, Some(seconds(600)));
    assert_eq!(rules(r#""retries":"3""#).retry.max, 3);
    let retry = rules(r#""retryDelay":"2s","retryBackoff":1.5,"retryDelayMax":"1m""#).retry;
    assert_eq!((retry.delay, retry.factor_percent, retry.delay_max), (Some(seconds(2)), 150, seconds(60)));
    assert_eq!(rules(r#""overlap":"Replace""#).overlap, Overlap::Replace);
    assert_eq!(rules(r#""concurrent":"true""#).overlap, Overlap::Allow { max: Overlap::CONCURRENT_MAX });
    assert_eq!(rules(r#""concurrent":true,"maxConcurrent":4"#).overlap, Overlap::Allow { max: 4 });
    assert_eq!(
        rules(r#""concurrent":false,"overlap":"allow","maxConcurrent":4"#).overlap,
        Overlap::Allow { max: 4 }
    );
    assert_eq!(rules(r#""catchUp":"none""#).catch_up, CatchUp::None);
    assert_eq!(
        rules(r#""catchUp":"all""#).catch_up,
        CatchUp::All { count_max: CatchUp::COUNT_MAX, age_max: AGE }
    );
    assert_eq!(
        rules(r#""catchUp":{"all":{"count":2}}"#).catch_up,
        CatchUp::All { count_max: 2, age_max: AGE }
    );
    assert_eq!(rules(r#""maxCompletionTime":0"#).run_max, None);
    assert_eq!(rules(r#""maxCompletionTime":9"#).run_max, Some(seconds(9)));
    assert_eq!(rules(r#""guarantee":"atLeastOnce""#).guarantee, Guarantee::AtLeastOnce);
}

#[test]
fn harmless_leniencies_are_kept() {
    let document = r#"{"name":"a","command":5,"cpus":"0.5","mem":0,"retries":3.0,"disabled":1,"owner":null,"container":null,
        "schedule":"R//PT1H","parents":[],"scheduleTimeZone":null}"#;
    let reading = reading(document).expect("valid");
    assert_eq!(&*reading.definition.body, r#"{"command":"5","cpus":0.5}"#);
    assert!(reading.definition.rules.disabled);
    assert_eq!(reading.warnings, Vec::<String>::new());
}

/// What a definition in the dialect of Chronos comes to, and what its author is told.
#[track_caller]
fn classic(door: Door, fields: &str) -> (Definition, Vec<String>) {
    classic_at(door, &format!(r#"{{"name":"a","command":"x",{fields}}}"#))
}

#[track_caller]
fn classic_at(door: Door, document: &str) -> (Definition, Vec<String>) {
    let read = read(document.as_bytes(), door, &Zones::bundled(), now());
    let reading = read.unwrap_or_else(|e| panic!("{e}: {document}"));
    (reading.definition, reading.warnings)
}

#[test]
fn a_container_is_one_by_its_image() {
    let taken = |fields: &str| classic(Door::Schedule, &format!(r#""schedule":"R//PT1H",{fields}"#));
    for fields in [r#""container":{}"#, r#""container":{"type":"DOCKER","image":null}"#] {
        let (definition, warnings) = taken(fields);
        assert_eq!(&*definition.body, r#"{"command":"x"}"#);
        assert_eq!(warnings, ["`container` is ignored, as it was by Chronos: it names no `image`"]);
    }
    let (definition, warnings) =
        taken(r#""container":{"image":"i","type":"docker","network":"host","forcePullImage":"TRUE"}"#);
    assert!(definition.body.contains(r#""forcePullImage":true"#), "{}", definition.body);
    assert_eq!(warnings, Vec::<String>::new());
    for other in [r#""yes""#, r#""""#, "1", "[true]", r#""nope""#] {
        let (definition, warnings) =
            taken(&format!(r#""container":{{"image":"i","forcePullImage":{other}}}"#));
        assert!(definition.body.contains(r#""forcePullImage":false"#), "{}", definition.body);
        assert!(
            warnings[0].starts_with("`container.forcePullImage`: ") && warnings.len() == 1,
            "{warnings:?}"
        );
    }
    refused(
        r#""container":{"image":"i","forcePullImage":"TRUE"}"#,
        "container.forcePullImage",
        "true or false",
    );
}

#[test]
fn numbers_are_taken_as_chronos_took_them_and_that_is_said() {
    let taken = |fields: &str| classic(Door::Schedule, &format!(r#"{fields},"schedule":"R//PT1H""#));
    let (definition, warnings) = taken(r#""retries":"3.7","maxCompletionTime":-1,"cpus":-0.5,"mem":true"#);
    assert_eq!((definition.rules.retry.max, definition.rules.run_max), (3, None));
    assert_eq!(&*definition.body, r#"{"command":"x","mem":1.0}"#);
    let expected = [
        "`retries`: \"3.7\" is taken as 3",
        "`maxCompletionTime`: -1 is taken as 0",
        "`cpus`: -0.5 is taken as the default",
    ];
    assert_eq!(warnings, expected);
    assert_eq!(taken(r#""retries":"1e1","mem":"64","epsilon":"" "#).1, Vec::<String>::new());
    assert_eq!(taken(r#""retries":false"#).0.rules.retry.max, 0);
    assert!(taken(r#""dataJob":true"#).1[0].contains("`dataProcessingJobType`"));
    refused(r#""schedule":"R//PT1H","retries":"3.7""#, "retries", "a whole number");
    // Garbage is a mistake at any door.
    let garbage = br#"{"name":"a","retries":"many","schedule":"R//PT1H"}"#;
    let problem = read(garbage, Door::Schedule, &Zones::bundled(), now()).expect_err("not a number");
    assert_eq!(problem.field, "retries");
}

#[test]
fn any_period_is_a_start_deadline_as_chronos_two_took_it() {
    let taken = |epsilon: &str| {
        let (definition, warnings) =
            classic(Door::Imported, &format!(r#""schedule":"R//PT1H","epsilon":"{epsilon}""#));
        (definition.rules.epsilon.map(|length| length.as_secs()), warnings)
    };
    assert_eq!(taken("PT15M"), (Some(900), Vec::new()));
    assert_eq!(taken(" "), (None, Vec::new()));
    assert_eq!(taken("PT0S").0, None);
    assert_eq!(taken("PT0S").1, ["`epsilon`: PT0S is ignored: nothing could start within it"]);
    assert_eq!(taken("P1M").1, ["`epsilon`: P1M is taken as 30d"]);
    assert_eq!(taken("P1Y12M12DT1H1S").0, Some((365 + 12 * 30 + 12) * 86_400 + 3601));
    assert_eq!(taken("P1Y2W").0, Some((365 + 14) * 86_400));
    for bad in ["soon", "P-1M", "P99999Y"] {
        let document = format!(r#"{{"name":"a","schedule":"R//PT1H","epsilon":"{bad}"}}"#);
        let problem = read(document.as_bytes(), Door::Schedule, &Zones::bundled(), now()).expect_err(bad);
        assert_eq!(problem.field, "epsilon", "{bad}");
    }
}

#[test]
fn a_dependent_with_a_schedule_is_started_by_its_parents() {
    let fields = r#""parents":["b"],"schedule":"R//PT1H","scheduleTimeZone":"PST""#;
    for door in [Door::Dependency, Door::Imported] {
        let (definition, warnings) = classic(door, fields);
        assert!(matches!(definition.plan, PlanText::Parents(_)), "{door:?}");
        assert_eq!(warnings, ["`schedule` is ignored: the job has `parents`, which start it"]);
    }
    refused(fields, "parents", "not by both");
}

#[test]
fn zones_of_java_mean_what_their_users_meant() {
    for (written, zone) in [
        ("PST", "America/Los_Angeles"),
        ("EST", "America/New_York"),
        ("MST", "America/Denver"),
        ("EDT", "America/New_York"),
        ("pdt", "America/Los_Angeles"),
        ("BST", "Asia/Dhaka"),
        ("ECT", "CET"),
    ] {
        let fields = format!(r#""schedule":"R/2014-10-10T18:32:00Z/PT60M","scheduleTimeZone":"{written}""#);
        let (definition, warnings) = classic(Door::Schedule, &fields);
        let PlanText::Schedule { zone: found, .. } = &definition.plan else { panic!("{definition:?}") };
        assert_eq!(&**found, zone, "{written}");
        assert!(warnings[0].contains(zone), "{warnings:?}");
        let zone_of = |written: &Map<String, Value>| written["scheduleTimeZone"].clone();
        let job = job(&definition);
        assert_eq!(zone_of(&write_classic(&job, &fresh(), |_| None)), json!(written), "as it was written");
        assert_eq!(zone_of(&write(&job, &fresh(), |_| None)), json!(zone), "by its name elsewhere");
        let again = Value::Object(as_written(&job, |_| None));
        let again = read_value(&again, Door::Any, &Zones::bundled(), now()).expect("valid").definition;
        assert_eq!(again.plan, definition.plan, "exported and applied, it is the same");
    }
    for zone in ["GMT+05:30", "Europe/Berlin", "UTC", "CET", "+05:30", ""] {
        let fields = format!(r#""schedule":"R/2014-10-10T18:32:00/PT60M","scheduleTimeZone":"{zone}""#);
        let (definition, warnings) = classic(Door::Schedule, &fields);
        assert!(matches!(&definition.plan, PlanText::Schedule { zone: found, .. } if &**found == zone));
        assert_eq!(warnings, Vec::<String>::new(), "{zone}");
    }
}

/// Else every job that is exported and applied would have another version, in which nothing has changed.
#[test]
fn what_was_filled_in_is_the_same_text_when_it_is_read_again() {
    let document = r#"{"name":"a","command":"x","schedule":"R/2030-01-01T00:00:00Z/P1D","fetch":[{"uri":"u","cache":true}],
        "container":{"image":"i","network":"user","networkName":"n","volumes":[{"containerPath":"/c","mode":"RO"}],
        "networkInfos":[{"name":"n","portMappings":[{"hostPort":1,"containerPort":2}]}]}}"#;
    let first = reading(document).expect("valid").definition;
    let again = Value::Object(as_written(&job(&first), |_| None));
    let again = read_value(&again, Door::Any, &Zones::bundled(), now()).expect("valid").definition;
    assert_eq!(again.body, first.body);
}

#[test]
fn a_zone_that_chronos_read_otherwise_is_pointed_out() {
    let warnings = |zone: &str| {
        let document =
            format!(r#"{{"name":"a","command":"true","schedule":"0 3 * * *","scheduleTimeZone":"{zone}"}}"#);
        reading(&document).expect("valid").warnings
    };
    assert!(warnings("EST")[0].contains("America/New_York"));
    assert_eq!(warnings("America/New_York"), Vec::<String>::new());
    assert_eq!(warnings("HST"), Vec::<String>::new(), "it is the same to both");
}

#[test]
fn every_schedule_that_chronos_took_is_taken_and_kept_as_written() {
    for (schedule, slot) in [
        ("R/2030-W05-2T10:00:00Z/P2W3D", "2030-01-29T10:00:00Z"),
        ("R/2030-W05/P1W", "2030-01-28T00:00:00Z"),
        ("R/2030-032T10Z/P1D", "2030-02-01T10:00:00Z"),
        ("R/2030-02/Pt1h", "2030-02-01T00:00:00Z"),
        ("R/2030/P1y", "2030-01-01T00:00:00Z"),
        ("R3/2030-02-01T10:00:00,5+0530/P1DT2h30m", "2030-02-01T04:30:00.5Z"),
        ("R/2030-02-01T10:00:00.123456z/PT1.5s", "2030-02-01T10:00:00.123Z"),
        ("R/T10:00/P1D", "1970-01-01T10:00:00Z"),
        ("R//PT1H", "2030-01-01T00:00:00Z"),
        ("R0/2030-02-01T10:00:00-08/P1M", ""),
    ] {
        let document = format!(r#"{{"name":"a","command":"x","schedule":"{schedule}"}}"#);
        let read = read(document.as_bytes(), Door::Schedule, &Zones::bundled(), now());
        let definition = read.unwrap_or_else(|e| panic!("{e}")).definition;
        assert_eq!(written(&definition)["schedule"], json!(schedule));
        let spread = Spread::of("a");
        let read = Schedule::parse(&Zones::bundled(), schedule, "", DstPolicy::default(), now(), spread);
        let first = read.expect("valid").first_after(Timestamp::UNIX_EPOCH);
        assert_eq!(first.map(|slot| slot.due), slot.parse().ok(), "{schedule}");
    }
}

#[test]
fn a_command_that_is_an_address_is_fetched_and_run() {
    let told = |command: &str| {
        let document = format!(
            r#"{{"name":"a","command":"{command}","arguments":["-v"],"uris":["http://b/c"],"runAsUser":"root",
                "schedule":"R//PT1H"}}"#
        );
        task_of(&reading(&document).expect("valid").definition)
    };
    let spec = told("http://files.example/run.sh?v=1");
    assert_eq!(
        (spec.command.as_str(), spec.user),
        ("./run.sh '-v'", None),
        "root means nobody in particular"
    );
    let fetched: Vec<_> = spec.fetches.iter().map(|f| (f.uri.as_str(), f.executable, f.extract)).collect();
    assert_eq!(fetched, [("http://files.example/run.sh?v=1", true, false)]);
    for command in ["httpcheck", "http://files.example/", "http://files.example/a; rm -rf x", "ftpsync a/b"] {
        let spec = told(command);
        assert_eq!((spec.command, spec.fetches[0].uri.as_str()), (format!("{command} '-v'"), "http://b/c"));
    }
}

/// An image may be made to be told one.
#[test]
fn an_address_is_given_to_a_container_as_it_is() {
    let document = r#"{"name":"a","command":"http://files.example/run.sh","shell":false,"schedule":"R//PT1H",
        "container":{"type":"DOCKER","image":"curl"}}"#;
    let spec = task_of(&reading(document).expect("valid").definition);
    assert_eq!((spec.command.as_str(), spec.fetches), ("http://files.example/run.sh", Vec::new()));
}

/// A manual run.
fn run_of(job: &Job) -> scheduler::run::Run {
    use scheduler::ids::{Cause, Cycle, RunKey};
    scheduler::run::Run {
        key: RunKey { job: job.uid, cause: Cause::Trigger(3) },
        job: job.name.clone(),
        cycle: Cycle { due: now(), origin: job.uid, seq: 3 },
        graph: scheduler::ids::GraphVersion(0),
        due: now(),
        created: now(),
        again: false,
        arguments: None,
        state: scheduler::run::RunState::Queued,
        attempts: Vec::new(),
        told: Default::default(),
    }
}

/// What an engine is told of its first attempt.
fn task_of(definition: &Definition) -> engine::TaskSpec {
    let job = job(definition);
    crate::wire::task_spec(&job, &run_of(&job), 0)
}

#[test]
fn both_forms_of_fetch_as_chronos_listed_them_are_one() {
    let document = r#"{"name":"a","fetch":[{"uri":"u"}],"uris":["u"],"schedule":"R//PT1H"}"#;
    assert!(!reading(document).expect("valid").definition.body.contains("uris"));
}

#[test]
fn neither_schedule_nor_parents_means_once_now() {
    for (door, once) in [
        (Door::Schedule, "R1/2030-01-01T00:00:00.000Z/PT24H"),
        (Door::Any, "R1//PT24H"),
        (Door::Imported, "R1//PT24H"),
    ] {
        let (definition, warnings) = classic_at(door, r#"{"name":"a","command":"x","concurrent":true}"#);
        assert!(matches!(definition.plan, PlanText::Schedule { text, .. } if &*text == once), "{door:?}");
        assert!(matches!(definition.rules.overlap, Overlap::Allow { .. }), "it was dropped by Chronos");
        assert_eq!(warnings, Vec::<String>::new());
    }
}

#[test]
fn an_empty_schedule_is_refused_where_it_would_run_at_once() {
    let read = |document: &str, door| read(document.as_bytes(), door, &Zones::bundled(), now());
    for blank in ["", " "] {
        for door in [Door::Schedule, Door::Any] {
            let problem = read(&format!(r#"{{"name":"a","command":"x","schedule":"{blank}"}}"#), door)
                .expect_err("nobody can mean that");
            assert_eq!((problem.field.as_str(), &*problem.message), ("schedule", "`schedule` is empty"));
        }
    }
    let child = read(r#"{"name":"a","command":"x","schedule":"","parents":["b"]}"#, Door::Dependency);
    assert!(matches!(child.expect("its parents start it").definition.plan, PlanText::Parents(_)));
}

#[test]
fn unknown_fields_are_named_with_a_suggestion() {
    let document =
        r#"{"name":"a","schedule":"R//PT1H","retrys":1,"sync":true,"container":{"image":"i","imag":1}}"#;
    let expected = [
        "unknown field `container.imag` was ignored; did you mean `image`?",
        "unknown field `retrys` was ignored; did you mean `retries`?",
        "unknown field `sync` was ignored; did you mean `async`?",
    ];
    assert_eq!(reading(document).expect("valid").warnings, expected);
}

#[test]
fn of_many_unknown_fields_the_others_are_counted() {
    let warnings = |count: usize| {
        let fields: String = (0..count).map(|i| format!(r#","x-{i:02}":1"#)).collect();
        let document = format!(r#"{{"name":"a","command":"true","schedule":"R//PT1H"{fields}}}"#);
        reading(&document).expect("valid").warnings
    };
    assert_eq!(warnings(16).last().map(String::as_str), Some("unknown field `x-15` was ignored"));
    assert_eq!(warnings(17).last().map(String::as_str), Some("1 more unknown field was ignored"));
    let many = warnings(100);
    assert_eq!((many.len(), &*many[16]), (17, "84 more unknown fields were ignored"));
}

#[test]
fn a_job_that_can_do_nothing_is_warned_of() {
    let warnings = |fields: &str| {
        let document = format!(r#"{{"name":"a","schedule":"R//PT1H"{fields}}}"#);
        reading(&document).expect("valid").warnings
    };
    let nothing = ["`command` is missing: the job does nothing, and succeeds"];
    assert_eq!(warnings(""), nothing);
    assert_eq!(warnings(r#","command":" ","arguments":[],"executor":"""#), nothing);
    for enough in [
        r#","command":"true""#,
        r#","arguments":["x"]"#,
        r#","executor":"/bin/x""#,
        r#","container":{"image":"i"}"#,
    ] {
        assert_eq!(warnings(enough), [] as [&str; 0], "{enough}");
    }
    let both = r#","command":"true","overlap":"allow","concurrent":false"#;
    assert_eq!(warnings(both).len(), 1, "{both}");
    assert!(warnings(both)[0].starts_with("`concurrent` is false, but `overlap` is \"allow\""));
    assert_eq!(warnings(r#","command":"true","overlap":"skip","concurrent":false"#), [] as [&str; 0]);
    let repeats = |n: &str| format!(r#"{{"name":"a","command":"true","schedule":"R{n}//PT1M"}}"#);
    let never = reading(&repeats("0")).expect("valid").warnings;
    assert!(never.len() == 1 && never[0].contains("never runs by itself"), "{never:?}");
    assert_eq!(reading(&repeats("1")).expect("valid").warnings, [] as [&str; 0]);
}

/// The field that is named and a part of the message and the hint.
#[track_caller]
fn refused(fields: &str, field: &str, says: &str) {
    let document = if fields.starts_with("\"name\"") {
        format!("{{{fields}}}")
    } else {
        format!("{{\"name\":\"a\",{fields}}}")
    };
    let problem = reading(&document).err().unwrap_or_else(|| panic!("accepted: {document}"));
    let told = format!("{} / {}", problem.message, problem.hint);
    assert_eq!(problem.field, field, "{told}");
    assert!(told.contains(says), "{told}");
}

#[test]
fn wrong_types_name_the_field_and_what_was_expected() {
    refused(
        r#""retries":"many""#,
        "retries",
        "expected a whole number from 0 to 100, found the text \"many\"",
    );
    refused(r#""retries":2.5"#, "retries", "found the number 2.5");
    refused(r#""retries":101"#, "retries", "from 0 to 100");
    refused(r#""retries":-1"#, "retries", "from 0 to 100");
    refused(r#""command":["a"]"#, "command", "expected text, found a list of 1");
    refused(r#""disabled":"yes""#, "disabled", "expected true or false");
    refused(r#""cpus":"lots""#, "cpus", "expected a number from 0 to 1000000");
    refused(r#""cpus":1e308"#, "cpus", "expected a number from 0 to 1000000, found the number 1e");
    refused(r#""mem":1e300"#, "mem", "expected a number from 0 to 1000000000, found");
    refused(r#""disk":"1e13""#, "disk", "expected a number from 0 to 1000000000000, found");
    refused(r#""cpus":-1"#, "cpus", "from 0");
    refused(r#""arguments":"-v""#, "arguments", "expected a list");
    refused(r#""arguments":["a",{}]"#, "arguments[1]", "expected text, found an object");
    refused(r#""environmentVariables":[{"name":"A"}]"#, "environmentVariables[0].value", "is missing");
    refused(
        r#""environmentVariables":[{"name":"A=B","value":""}]"#,
        "environmentVariables[0].name",
        "must not contain",
    );
    let from = |from: &str, field: &str, says: &str| {
        let field = format!("environmentVariables[0].{field}");
        refused(&format!(r#""environmentVariables":[{{"name":"A",{from}}}]"#), &field, says);
    };
    from(r#""value":"","valueFrom":{"env":"B"}"#, "valueFrom", "both given");
    from(r#""valueFrom":{}"#, "valueFrom", "either \"file\" or \"env\"");
    from(r#""valueFrom":{"file":"/a","env":"B"}"#, "valueFrom", "either \"file\" or \"env\"");
    from(r#""valueFrom":{"file":"/a","key":"b"}"#, "valueFrom.key", "unknown field");
    from(r#""valueFrom":{"file":"a"}"#, "valueFrom.file", "must begin with `/`");
    from(r#""valueFrom":{"env":""}"#, "valueFrom.env", "must not be empty");
    from(r#""valueFrom":{"env":"CHRONOS_HTTP_PORT"}"#, "valueFrom.env", "not for jobs");
    refused(r#""fetch":[{"uri":"/a","output_file":"../a"}]"#, "fetch[0].output_file", "leads out");
    refused(r#""fetch":[{"uri":"/a","output_file":"/a"}]"#, "fetch[0].output_file", "leads out");
    refused(r#""environmentVariables":{"A":"B"}"#, "environmentVariables", "expected a list");
    refused(r#""constraints":[["a","EQUALS"]]"#, "constraints[0]", "a list of exactly 3");
    refused(r#""constraints":[["a","IS","b"]]"#, "constraints[0][1]", "\"EQUALS\" or \"LIKE\" or \"UNLIKE\"");
    refused(r#""constraints":[["a","EQUALS","b","c"]]"#, "constraints[0]", "a list of exactly 3");
    refused(r#""fetch":[{"executable":true}]"#, "fetch[0].uri", "is missing");
    refused(r#""container":{"type":"DOCKER"}"#, "container.image", "is missing");
    refused(r#""container":{"image":"i","type":"APPC"}"#, "container.type", "\"DOCKER\" or \"MESOS\"");
    refused(r#""container":{"image":"i","network":"NAT"}"#, "container.network", "\"BRIDGE\"");
    refused(
        r#""container":{"image":"i","volumes":[{"containerPath":"/a","mode":"RX"}]}"#,
        "container.volumes[0].mode",
        "RW",
    );
    refused(r#""epsilon":600"#, "epsilon", "expected a duration such as");
    refused(r#""epsilon":"PT0S""#, "epsilon", "at least 1s");
    refused(r#""epsilon":"P1M""#, "epsilon", "expected a duration such as");
    refused(r#""retryDelay":"10ms""#, "retryDelay", "at least 1s");
    refused(r#""retryBackoff":11"#, "retryBackoff", "from 1 to 10");
    refused(r#""retryDelay":"1h","retryDelayMax":"1m""#, "retryDelayMax", "less than");
    refused(r#""overlap":"never""#, "overlap", "\"queue\" or \"skip\"");
    refused(r#""overlap":"skip","concurrent":true"#, "overlap", "`concurrent` is true");
    refused(r#""maxConcurrent":0"#, "maxConcurrent", "from 1 to 1000");
    refused(r#""catchUp":"some""#, "catchUp", "\"latest\"");
    refused(r#""catchUp":{"all":{"count":0}}"#, "catchUp.all.count", "from 1 to 10080");
    refused(r#""catchUp":{}"#, "catchUp.all", "is missing");
    refused(r#""guarantee":"exactlyOnce""#, "guarantee", "atMostOnce");
    refused(r#""dstPolicy":{"gap":"x"}"#, "dstPolicy.gap", "\"auto\"");
    refused(r#""alerts":{"on":["all"]}"#, "alerts.on[0]", "\"failed\"");
    refused(r#""alerts":{"lateAfter":"0s"}"#, "alerts.lateAfter", "at least 1s");
    refused(r#""alerts":{"to":["ops"]}"#, "alerts.to", "not a mail address");
    refused(r#""labels":["a"]"#, "labels", "expected an object");
    refused(r#""labels":{"a":[]}"#, "labels.a", "expected text");
    refused(r#""maxCompletionTime":-1"#, "maxCompletionTime", "a whole number from 0");
    refused(r#""fetch":[{"uri":"u"}],"uris":["v"]"#, "uris", "keep `fetch`");
}

#[test]
fn impossible_names_plans_and_texts_are_refused() {
    refused(r#""name":"""#, "name", "must not be empty");
    refused(r#""name":null"#, "name", "is missing");
    refused(r#""name":"a b""#, "name", "letters, digits");
    refused(r#""name":"../../etc/passwd""#, "name", "letters, digits");
    refused(r#""name":"..""#, "name", "folder");
    refused(&format!(r#""name":"{}""#, "x".repeat(256)), "name", "at most 255");
    refused(r#""schedule":"R//PT1H","parents":["b"]"#, "parents", "not by both");
    refused(r#""parents":["b","c d"]"#, "parents[1]", "letters, digits");
    refused(r#""command":"a\u0000b""#, "command", "NUL");
    refused(r#""arguments":["\u0000"]"#, "arguments[0]", "NUL");
    refused(
        r#""environmentVariables":[{"name":"A","value":"\u0000"}]"#,
        "environmentVariables[0].value",
        "NUL",
    );
    for schedule in [
        "R//PT0S",
        "R//-PT1H",
        "R/1969-01-01T00:00:00Z/P1D",
        "R/10000-01-01T00:00:00Z/P1D",
        "nonsense",
        "61 * * * *",
        "R99999999999999999999//PT1H",
    ] {
        refused(&format!(r#""schedule":"{schedule}""#), "schedule", schedule);
    }
    refused(
        r#""schedule":"0 3 * * *","scheduleTimeZone":"Europe/Berlni""#,
        "scheduleTimeZone",
        "did you mean Europe/Berlin?",
    );
    refused(r#""schedule":"0 3 * * *","scheduleTimeZone":"PST""#, "scheduleTimeZone", "America/Los_Angeles");
}

#[test]
fn each_door_takes_its_kind() {
    let at =
        |door, document: &str| read(document.as_bytes(), door, &Zones::bundled(), now()).map_err(|e| e.field);
    assert_eq!(at(Door::Schedule, r#"{"name":"a","parents":["b"]}"#).err(), Some("parents".into()));
    assert_eq!(at(Door::Dependency, r#"{"name":"a","schedule":"R//PT1H"}"#).err(), Some("parents".into()));
    assert_eq!(at(Door::Dependency, r#"{"name":"a"}"#).err(), Some("parents".into()));
    let empty = at(Door::Dependency, r#"{"name":"a","parents":[]}"#).expect("the scheduler says no to this");
    assert_eq!(empty.definition.plan, PlanText::Parents(Vec::new()));
    let twice = at(Door::Dependency, r#"{"name":"a","parents":["c","b","c"]}"#).expect("a set");
    let names = ["b", "c"].map(|n| JobName::new(n).expect("a name"));
    assert_eq!(twice.definition.plan, PlanText::Parents(names.into()));
}

#[test]
fn what_is_not_json_or_too_large_is_refused_as_such() {
    let kind = |document: &str| reading(document).err().map(|e| e.kind);
    for document in ["", "{", "[", "\u{feff}{}", "{\"name\":}", "{'name':'a'}", "NaN"] {
        assert_eq!(kind(document), Some(Kind::Malformed), "{document:?}");
    }
    assert_eq!(kind(&"[".repeat(100_000)), Some(Kind::Malformed));
    let deep = format!("{{\"name\":\"a\",\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(kind(&deep), Some(Kind::Malformed));
    assert_eq!(kind("[]"), Some(Kind::Invalid));
    assert_eq!(kind("\"a\""), Some(Kind::Invalid));
    let large = format!(r#"{{"name":"a","schedule":"R//PT1H","command":"{}"}}"#, "x".repeat(70_000));
    assert_eq!(kind(&large), Some(Kind::TooLarge));
}

/// A field that is read and in no list would be lost by whoever writes the job.
#[test]
fn every_field_that_is_read_is_written() {
    use std::collections::BTreeSet;
    let read: BTreeSet<_> = FIELDS.iter().map(|field| field.name).collect();
    let written: BTreeSet<_> = order().filter(|name| !COUNTERS.contains(name)).collect();
    assert_eq!(read, written);
    assert_eq!(order().count(), written.len() + COUNTERS.len(), "each once");
    assert!(OF_CHRONOS_2.iter().all(|name| read.contains(name) && !OF_CHRONOS.contains(name)));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z0-9:/ .\\-\\PC]{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["true", "3", "PT10M", "allow", "R//PT1H", "* * * * *", "UTC"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop::sample::select(vec![
            "name",
            "value",
            "image",
            "uri",
            "all",
            "count",
            "gap",
            "volumes",
            "containerPath",
            "x",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.into(), v)).collect())),
        ]
    })
}

proptest! {
    /// Law: no document causes a panic, and what is accepted is written in a form that reads as the same job.
    #[test]
    fn what_is_accepted_comes_back(fields in prop::collection::btree_map(prop::sample::select(order().collect::<Vec<_>>()), any_json(), 0..6)) {
        let mut document: Map<String, Value> = fields.into_iter().map(|(k, v)| (k.into(), v)).collect();
        document.insert("name".into(), "a".into());
        if let Ok(first) = read_value(&Value::Object(document), Door::Any, &Zones::bundled(), now()) {
            let out = Value::Object(written(&first.definition));
            let second = read_value(&out, Door::Any, &Zones::bundled(), now()).map_err(|e| TestCaseError::fail(format!("{e}: {out}")))?;
            prop_assert_eq!(&second.definition.rules, &first.definition.rules);
            prop_assert_eq!(&second.definition.plan, &first.definition.plan);
            prop_assert_eq!(Value::Object(written(&second.definition)), out);
        }
    }

    /// Law: nothing said in a valid field is lost.
    #[test]
    fn texts_are_kept(command in "[^\\x00]{0,40}", owner in "[^\\x00]{0,10}", arguments in prop::collection::vec("[^\\x00]{0,8}", 0..4)) {
        round_trip(&json!({"name": "a", "command": command, "owner": owner, "arguments": arguments, "schedule": "@daily"}));
    }
}

#[test]
fn what_is_told_to_whom_comes_back() {
    round_trip(&json!({
        "name": "a", "schedule": "@daily", "owner": "ops@example.org",
        "alerts": {"on": ["failed", "late"], "lateAfter": "10m", "longRunningAfter": "PT2H", "to": ["a@example.org"]},
    }));
}

#[test]
fn an_exhausted_job_shows_as_disabled() {
    let reading = reading(r#"{"name":"a","schedule":"R1//PT1H"}"#).expect("valid");
    let progress = Progress { remaining: Some(0), ..Progress::new(now()) };
    assert_eq!(write(&job(&reading.definition), &progress, |_| None)["disabled"], json!(true));
}

#[test]
fn a_task_is_told_what_chronos_told_it() {
    let document = r#"{"name":"a","command":"echo","owner":"o","cpus":1,"arguments":["x y","it's"],"schedule":"R//PT1H",
        "environmentVariables":[{"name":"CHRONOS_JOB_NAME","value":"no"},{"name":"A","value":"1"},{"name":"A","value":"2"}]}"#;
    let job = job(&reading(document).expect("valid").definition);
    let mut run = run_of(&job);
    let spec = crate::wire::task_spec(&job, &run, 2);
    assert_eq!(spec.command, r"echo 'x y' 'it'\''s'");
    assert_eq!(spec.arguments, ["x y", "it's"]);
    assert_eq!(spec.title, "ChronosTask:a");
    let value = |name: &str| {
        let found: Vec<_> =
            spec.environment.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0].to_string()
    };
    assert_eq!(value("CHRONOS_JOB_NAME"), "a");
    assert_eq!(value("CHRONOS_JOB_RUN_TIME"), now().as_millisecond().to_string());
    assert_eq!(value("CHRONOS_JOB_CYCLE"), now().as_millisecond().to_string());
    assert_eq!(value("CHRONOS_JOB_RUN_ATTEMPT"), "2");
    assert_eq!(
        (value("CHRONOS_RESOURCE_CPU"), value("CHRONOS_RESOURCE_MEM")),
        ("1.0".into(), "128.0".into())
    );
    assert_eq!((value("A"), value("CHRONOS_JOB_OWNER")), ("1".into(), "o".into()));
    assert_eq!(value("mesos_task_id"), value("CHRONOS_TASK_ID"));

    run.arguments = Some(Arc::from("--day 3; rm"));
    let spec = crate::wire::task_spec(&job, &run, 0);
    assert_eq!(spec.command, "echo '--day' '3;' 'rm'");
    assert_eq!(spec.arguments, ["--day", "3;", "rm"]);
}
