//! Moving in from an old Chronos and out again, and a shadow beside one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::golden::golden;
use crate::old_chronos::{OldChronos, Version, listed};
use crate::server::{Folder, TestServer, by_hand};
use crate::wait;

/// What an old Chronos may have: every quirk of its lists, and jobs that cannot be taken over.
pub(crate) fn deployment() -> Value {
    json!([
        listed(json!({ "name": "load", "parents": ["extract", "my report #2"] })),
        listed(
            json!({ "name": "extract", "schedule": "R/2099-01-02T00:00:00.000Z/P1D", "scheduleTimeZone": "",
            "owner": "ops@example.org, dev@example.org", "successCount": 7, "lastSuccess": "2030-01-01T00:00:07.120Z",
            "fetch": [{ "uri": "http://files.example.org/a.tgz", "executable": false, "cache": false, "extract": true }],
            "uris": ["http://files.example.org/a.tgz"] })
        ),
        listed(json!({ "name": "my report #2", "schedule": "R/2099-01-02T02:30:00.000+01:00/P1D",
            "scheduleTimeZone": "Europe/Berlin", "cpus": 2.0 })),
        listed(
            json!({ "name": "over", "schedule": "R0/2020-01-01T00:00:00.000Z/P1D", "scheduleTimeZone": "",
            "disabled": true })
        ),
        listed(json!({ "name": "zombie", "parents": ["gone"] })),
        listed(json!({ "name": "of-the-zombie", "parents": ["zombie", "extract"] })),
        listed(json!({ "name": "ring-a", "parents": ["ring-b"] })),
        listed(json!({ "name": "ring-b", "parents": ["ring-a"] })),
        listed(json!({ "name": "broken", "schedule": "R/yesterday/P1D", "scheduleTimeZone": "" })),
    ])
}

fn import<'a>(old: &'a OldChronos, more: &[&'a str]) -> Vec<&'a str> {
    [&["import", "chronos", "--from", &old.url], more].concat()
}

/// Definitions by name.
#[track_caller]
pub(crate) fn definitions(server: &TestServer) -> BTreeMap<String, Value> {
    let all = server.get_json("/v1/definitions?limit=1000");
    let named = |job: &Value| (job["name"].as_str().unwrap().to_owned(), job.clone());
    all["definitions"].as_array().unwrap().iter().map(named).collect()
}

#[test]
fn a_deployment_is_taken_over_and_every_job_is_accounted_for() {
    let old = OldChronos::start(Version::Three, None, deployment());
    let server = TestServer::start();
    let told = server.cli(import(&old, &["--dry_run"])).exit(3);
    golden("import-chronos-dry-run.txt", &(told.stdout_text() + &told.stderr_text()));
    assert!(definitions(&server).is_empty(), "a dry run changes nothing");

    let told = server.cli(import(&old, &[])).exit(3);
    golden("import-chronos.txt", &(told.stdout_text() + &told.stderr_text()));
    let jobs = definitions(&server);
    assert_eq!(jobs.keys().collect::<Vec<_>>(), ["extract", "load", "my_report__2", "over"]);
    assert_eq!(jobs["load"]["parents"], json!(["extract", "my_report__2"]));
    assert_eq!(jobs["extract"].get("runAsUser"), None);

    let list = server.folder.file("jobs.json", &deployment().to_string());
    server.cli(["import", "chronos", list.to_str().unwrap()]).exit(3).says("4 unchanged, 5 refused");

    let report = server.cli(import(&old, &["--output", "json"])).exit(3).json();
    let names: Vec<_> = report["jobs"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    let listed = deployment();
    assert_eq!(names.len(), listed.as_array().unwrap().len());
    for job in listed.as_array().unwrap() {
        let row = report["jobs"].as_array().unwrap().iter().find(|row| row["name"] == job["name"]);
        let row = row.unwrap_or_else(|| panic!("nothing is told of {}", job["name"]));
        assert!(row["result"] == "unchanged" || row["notes"][0].is_string(), "{row}");
    }
    assert_eq!(old.writes.lock().unwrap().len(), 0, "the old Chronos is only read");
}

#[test]
fn what_only_the_server_can_refuse_keeps_nobody_else_out() {
    let server = TestServer::start();
    server.put(by_hand("root", "true"));
    server.put(json!({ "name": "late", "command": "true", "parents": ["root"] }));
    server.put(json!({ "name": "later", "command": "true", "parents": ["late"] }));
    // `late` would wait for `later`, which waits for it and is not among these jobs.
    let old = OldChronos::start(
        Version::Three,
        None,
        json!([
            listed(
                json!({ "name": "good", "schedule": "R/2099-01-02T00:00:00.000Z/P1D", "scheduleTimeZone": "" })
            ),
            listed(json!({ "name": "late", "parents": ["later"] })),
            listed(json!({ "name": "after", "parents": ["late", "good"] })),
        ]),
    );
    for more in [&["--dry_run"][..], &[]] {
        let told = server.cli([import(&old, &["--output", "json"]), more.to_vec()].concat()).exit(3).json();
        let results: BTreeMap<_, _> = told["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["name"].as_str().unwrap(), row["result"].as_str().unwrap()))
            .collect();
        assert_eq!(
            results,
            BTreeMap::from([("after", "refused"), ("good", "created"), ("late", "refused")]),
            "{told}"
        );
        assert!(told.to_string().contains("waits for itself"), "{told}");
        assert!(told.to_string().contains("its parent `late` is refused"), "{told}");
    }
}

#[test]
fn what_has_changed_is_shown_and_a_start_that_has_moved_on_is_not() {
    let job = |schedule: &str, command: &str| {
        json!([listed(
            json!({ "name": "a", "command": command, "schedule": schedule, "scheduleTimeZone": "" })
        )])
    };
    let old = OldChronos::start(Version::Three, None, job("R/2099-01-02T00:00:00.000Z/P1D", "true"));
    let server = TestServer::start();
    server.cli(import(&old, &[])).success().says("a    created");
    old.has(move || job("R/2099-01-05T00:00:00.000Z/P1D", "true"));
    server.cli(import(&old, &[])).success().says("a    unchanged");
    old.has(move || job("R/2099-01-06T00:00:00.000Z/P1D", "false"));
    let told = server.cli(import(&old, &["--dry_run"])).success();
    golden("import-chronos-changes.txt", &told.stdout_text());
    server.cli(import(&old, &[])).success().says("a    replaced");
    assert_eq!(definitions(&server)["a"]["schedule"], "R/2099-01-02T00:00:00.000Z/P1D");
}

#[test]
fn chronos_two_and_passwords_are_understood() {
    let jobs = json!([{ "name": "my job", "command": "true", "schedule": "R/2099-01-02T00:00:00Z/P1D",
        "epsilon": "PT30M", "async": false }]);
    // `ops:s:cret`, which the old Chronos would have split at the last colon.
    let old = OldChronos::start(Version::Two, Some("Basic b3BzOnM6Y3JldA=="), jobs);
    let server = TestServer::start();
    let refused = server.cli(import(&old, &[])).exit(3);
    refused.says("cannot list the jobs of the old Chronos").says("401").says("NAME:PASSWORD");
    let told = server.cli(import(&old, &["--from_user", "ops:s:cret", "--output", "json"])).success().json();
    assert_eq!((&told["jobs"][0]["job"], &told["jobs"][0]["renamed"]), (&json!("my_job"), &json!(true)));
    assert_eq!(definitions(&server)["my_job"]["epsilon"], "PT30M");
    server
        .cli(["import", "chronos", "--from", "http://127.0.0.1:9"])
        .exit(4)
        .says("where the old Chronos is");
    server.cli(["import", "chronos"]).exit(2);
}

#[test]
fn a_start_in_the_past_runs_once_unless_told_otherwise() {
    let folder = Folder::new();
    let config = folder.path().join("config");
    std::fs::create_dir_all(config.join("scheduled")).unwrap();
    let text = "name: a\ncommand: 'true'\nschedule: R/2020-01-01T00:00:00Z/P1D\n";
    std::fs::write(config.join("scheduled/a.yaml"), text).unwrap();
    let config = config.to_str().unwrap();
    let server = TestServer::start();
    let told = server.cli(["import", "chronos", config, "--advance", "--output", "json"]).success().json();
    assert_eq!(told["jobs"][0]["result"], "created");
    let again = server.cli(["import", "chronos", config]).success();
    again.says("unchanged");
    let second = TestServer::start();
    second.cli(["import", "chronos", config]).success().says("past and due at once");
    second.wait_for("a", "succeeded");
    assert!(server.runs("a").is_empty(), "its next slot is not due yet");
}

/// Every kind of job that an old Chronos can have.
pub(crate) fn portable() -> Vec<Value> {
    let mut jobs = vec![
        by_hand("plain", "echo 'yes: no' # \"x\""),
        json!({ "name": "zoned", "command": "true", "schedule": "R/2099-01-01T02:30:00/P1D", "scheduleTimeZone": "Europe/Berlin",
            "owner": "a@example.org,b@example.org", "description": "äöü\n- two lines" }),
        json!({ "name": "rich", "command": "/bin/x", "shell": false, "arguments": ["a b", "", "no"], "schedule": "R5/2099-01-01T00:00:00Z/PT15M",
            "retries": 7, "cpus": 2, "mem": 64.5, "concurrent": true, "highPriority": true, "softError": true, "disabled": true,
            "maxCompletionTime": 60, "uris": ["http://b/x", "http://a/x"], "runAsUser": "www-data",
            "environmentVariables": [{ "name": "A", "value": "1" }], "constraints": [["rack", "EQUALS", "r1"]] }),
    ];
    for i in 0..40 {
        jobs.push(json!({ "name": format!("child_{i}"), "command": "true",
            "parents": if i == 0 { json!(["plain", "zoned"]) } else { json!([format!("child_{}", i - 1)]) } }));
    }
    jobs
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for place in ["scheduled", "dependent"] {
        for entry in std::fs::read_dir(folder.join(place)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
    files
}

#[test]
fn an_export_for_chronos_sync_comes_back_the_same() {
    let first = TestServer::start();
    portable().into_iter().for_each(|job| first.put(job));
    let (one, two) = (first.folder.path().join("one"), first.folder.path().join("two"));
    let export = |folder: &Path| {
        ["export", "--format", "chronos-sync", "--output_dir", folder.to_str().unwrap()].map(str::to_owned)
    };
    let told = first.cli(export(&one)).success();
    assert_eq!(
        told.stdout_text(),
        format!("wrote 3 scheduled and 40 dependent jobs into {}\n", one.display())
    );
    assert_eq!(told.stderr_text(), "");

    let second = TestServer::start();
    second.cli(["import", "chronos", one.to_str().unwrap()]).success().says("43 in all: 43 created");
    second.cli(export(&two)).success();
    assert_eq!(files(&one), files(&two));
    let (first, second) = (definitions(&first), definitions(&second));
    assert_eq!(first, second);
    golden("chronos-sync.yaml", &files(&one)["scheduled/rich.yaml"]);
}

#[test]
fn what_an_export_loses_is_told() {
    let server = TestServer::start();
    server.put(json!({ "name": "a", "command": "true", "schedule": "0 3 * * *", "catchUp": "none" }));
    server.put(json!({ "name": "b", "command": "true", "schedule": "R/2020-01-01T00:00:00Z/P1D", "catchUp": "none" }));
    server.put(by_hand("c", "true"));
    server.put(json!({ "name": "d", "command": "true", "schedule": "R1//P1D" }));
    server.wait_for("d", "succeeded");
    server.put(json!({ "name": "e", "command": "true", "parents": ["c"] }));
    server.cli(["pause", "e"]).success();
    let folder = server.folder.path().join("config");
    let folder = folder.to_str().unwrap();
    let told = server.cli(["export", "--format", "chronos-sync", "--output_dir", folder]).success();
    told.says("job `a`: the old Chronos does not know `catchUp: \"none\"`")
        .says("job `a`: the old Chronos knows no cron expressions")
        .says("job `b`: its start has passed, so the old Chronos runs it at once")
        .says("job `d`: its schedule is over, so it is written as disabled")
        .says("job `e`: it is paused, which the old Chronos does not know: it is written as disabled");
    let files = files(&server.folder.path().join("config"));
    let over = &files["scheduled/d.yaml"];
    assert!(over.contains("R0//P1D") && over.contains("disabled: true"), "{over}");
    assert!(files["dependent/e.yaml"].contains("disabled: true"), "{files:#?}");
    let list = server.cli(["export", "--chronos", "--advance", "d", "e", "b"]).success().json();
    let disabled: Vec<_> = list.as_array().unwrap().iter().map(|job| &job["disabled"]).collect();
    assert_eq!(disabled, [&json!(true), &json!(true), &Value::Null], "{list}");
    assert_ne!(list[2]["schedule"], "R/2020-01-01T00:00:00Z/P1D", "{list}");
    server.cli(["export", "--advance"]).exit(2).says("--chronos");
    server.cli(["delete", "e", "c"]).success();
    let told =
        server.cli(["export", "--format", "chronos-sync", "--output_dir", folder, "--advance"]).success();
    told.says("scheduled/c.yaml` is not the file of any of these jobs");
    server.cli(["export", "--format", "chronos-sync"]).exit(2).says("--output_dir");
}

/// A job that the stand-in runs as a clock would, and those who look see what an old Chronos shows.
fn ticking(name: &'static str, every: i64, begun: jiff::Timestamp, runs_each: u64) -> impl Fn() -> Value {
    move || {
        let now = jiff::Timestamp::now();
        let slots = now.duration_since(begun).as_millis() as i64 / (every * 1000) + 1;
        let last = begun + jiff::SignedDuration::from_millis((slots - 1) * every * 1000);
        let next = begun + jiff::SignedDuration::from_secs(slots * every);
        listed(json!({ "name": name, "command": "touch ran", "scheduleTimeZone": "",
            "schedule": format!("R/{next:.3}/PT{every}S"), "successCount": slots as u64 * runs_each,
            "lastSuccess": format!("{last:.3}") }))
    }
}

/// An end goes with the nearest launch: so far apart that one may come late by half of it, as on a busy machine.
const SLOTS_EVERY: i64 = 6;

#[test]
fn a_shadow_runs_nothing_and_is_compared() {
    let folder = Folder::new();
    let server = TestServer::launch(Arc::clone(&folder), &["--shadow"]);
    server.wait_ready();
    let status = server.get_json("/v1/status");
    assert_eq!(status["engine"], "shadow");
    assert!(status["notes"][0].as_str().unwrap().contains("shadow"), "{status}");

    // The whole second before now, so that slots of both fall on whole seconds.
    let begun = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
    let old = OldChronos::start(Version::Three, None, json!([]));
    let never = listed(json!({ "name": "never there", "command": "touch ran", "scheduleTimeZone": "",
        "schedule": "R/2099-01-01T00:00:00.000Z/P1D" }));
    let jobs = move || {
        json!([
            ticking("alike", SLOTS_EVERY, begun, 1)(),
            ticking("twice-there", SLOTS_EVERY, begun, 2)(),
            never.clone(),
            listed(json!({ "name": "after", "command": "touch ran", "parents": ["alike"] })),
        ])
    };
    old.has(jobs.clone());
    let told = server.cli(import(&old, &["--output", "json"])).success().json();
    assert_eq!(told["jobs"].as_array().unwrap().len(), 4, "{told}");
    server.put(
        json!({ "name": "only-here", "command": "touch ran", "schedule": "R/2099-01-01T00:00:00Z/P1D" }),
    );
    // A slot of the stand-in comes before the comparison begins, so that there is something to be told of.
    let run = server.wait_for("after", "succeeded");
    assert!(run["attempts"][0]["node"].as_str().unwrap().starts_with("shadow-"), "{run}");
    server.cli(["logs", "after"]).success().stdout("nothing was run: this server is a shadow\n");
    // What it made up goes nowhere, and what was does not come to it.
    server.cli(["backup", "-"]).exit(3).says("this server is a shadow").says("chronos export");
    let backup = folder.file("backup.jsonl", "{}\n");
    server.cli(["restore", backup.to_str().unwrap(), "--yes"]).exit(3).says("this server is a shadow");

    let args = [
        "shadow",
        "compare",
        "--old",
        &old.url,
        "--for",
        "21s",
        "--every",
        "500ms",
        "--longest",
        "5s",
        "--output",
        "json",
    ];
    let report = server.cli(args).exit(1).json();
    let row = |name: &str| {
        let found = report["jobs"].as_array().unwrap().iter().find(|row| row["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {report}")).clone()
    };
    let alike = row("alike");
    assert_eq!(
        (&alike["same"], &alike["onlyOld"], &alike["onlyHere"]),
        (&json!(true), &json!(0), &json!(0)),
        "{report}"
    );
    assert!(alike["agreed"].as_u64().unwrap() >= 2, "{report}");
    assert!(row("twice-there")["onlyOld"].as_u64().unwrap() >= 2, "{report}");
    assert_eq!(row("after")["same"], false, "its parent went on here, and it ran: {report}");
    assert_eq!(row("never there")["same"], true, "{report}");
    assert_eq!(row("only-here")["notes"][0], "it is not at the old Chronos");
    assert!(report["looks"].as_u64().unwrap() > 5, "{report}");

    let ran = wait::within(Duration::from_secs(5), "the folder can be read", || {
        Some(walk(folder.path()).iter().any(|path| path.ends_with("ran")))
    });
    assert!(!ran && folder.supervisor().is_none(), "a shadow runs nothing");

    // Its history is never taken for one of runs that were.
    let (folder, _) = server.terminate();
    let refused = crate::server::Ended::of(&mut crate::server::server_command(&folder, &[]));
    refused.exit(6);
    assert!(crate::server::log_of(&folder).contains("is that of a shadow"));
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() { walk(&path) } else { vec![path] }
        })
        .collect()
}

#[test]
fn a_comparison_is_a_table() {
    let server = TestServer::start();
    let job =
        listed(json!({ "name": "a", "schedule": "R/2099-01-01T00:00:00.000Z/P1D", "scheduleTimeZone": "" }));
    let other = listed(
        json!({ "name": "b c", "schedule": "R/2099-01-01T00:00:00.000Z/P1D", "scheduleTimeZone": "" }),
    );
    let old = OldChronos::start(Version::Three, None, json!([job, other]));
    server.cli(import(&old, &[])).success();
    let moved = listed(
        json!({ "name": "b c", "schedule": "R/2099-01-01T01:00:00.000Z/P1D", "scheduleTimeZone": "" }),
    );
    old.has(move || json!([job.clone(), moved.clone(), listed(json!({ "name": "d", "parents": ["a"] }))]));
    let told = server.cli(["shadow", "compare", "--old", &old.url]).exit(1);
    // The times of the looks are those of now.
    let text: String = told
        .stdout_text()
        .lines()
        .filter(|line| !line.starts_with("looked"))
        .map(|line| format!("{line}\n"))
        .collect();
    golden("shadow-compare.txt", &(text + &told.stderr_text()));
}
