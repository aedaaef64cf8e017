//! Backfills and re-runs with real tasks, also under a server that is killed again and again.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::server::TestServer;
use crate::wait;

/// An hourly job with many past slots. Its start has passed, so the slot of this hour runs at once.
fn hourly(name: &str, command: &str, at_once: u32) -> Value {
    json!({
        "name": name, "command": command, "schedule": "R/2020-01-01T00:00:00Z/PT1H", "retries": 0,
        "concurrent": at_once > 1, "maxConcurrent": at_once,
    })
}

fn lines(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(String::from).collect()
}

#[test]
fn from_the_command_line() {
    let server = TestServer::start();
    server.put(hourly("report", "echo $CHRONOS_JOB_RUN_TIME $CHRONOS_JOB_CYCLE >> done", 1));
    server.put(json!({ "name": "child", "command": "true", "parents": ["report"] }));
    server.wait_for("child", "succeeded");
    let range = ["--from", "2024-03-01", "--to", "2024-03-01T05:00:00Z"];
    let preview = server.cli(["backfill", "report", "--dry-run"].iter().chain(&range)).success();
    assert!(preview.stdout_text().starts_with(
        "5 slots of job `report` would run: first 2024-03-01T00:00:00Z, last 2024-03-01T04:00:00Z\n"
    ));
    let done = server.cli(["backfill", "report", "--wait", "--rate", "20/s"].iter().chain(&range)).success();
    done.says("backfilling 5 slots of job `report`: ").says("5 of 5 slots have succeeded");
    server.cli(["backfills"]).success().says("2024-03-01T00:00:00Z to 2024-03-01T05:00:00Z").says("over");
    let children = server
        .runs("child")
        .iter()
        .filter(|run| run["cycle"].as_str().is_some_and(|c| c.starts_with("2024")))
        .count();
    assert_eq!(children, 5, "each slot has its child");
    let again = server.cli(["backfill", "report", "--only-missing"].iter().chain(&range)).exit(3);
    again.says("every slot in this range is left out");
    let key = server.runs("report").iter().find_map(|run| Some(run["key"].as_str()?.to_owned())).unwrap();
    server.cli(["rerun", &key, "--only"]).success().says(&format!("running {key} again: run "));
    server.cli(["rerun", "nonsense"]).exit(2).says("is not the key of a run");
    server.cli(["backfill", "--cancel", "nonsense"]).exit(2).says("is not the id of a backfill");
    server.cli(["forecast", "--hours", "3", "--bucket", "1h"]).success().says("3 starts of slots");
}

#[test]
fn no_past_slot_is_lost_or_doubled_when_the_server_is_killed_again_and_again() {
    const SLOTS: usize = 300;
    const KILLS: usize = 12;
    let mut server = TestServer::start();
    let begun = server.folder.path().join("begun");
    // A task goes on while no more have begun than are let in: the kills meet the backfill, whoever is slow.
    let let_in = |count: usize| {
        let place = begun.with_extension("let-in");
        std::fs::write(place.with_extension("new"), count.to_string()).unwrap();
        std::fs::rename(place.with_extension("new"), place).unwrap();
    };
    let_in(usize::MAX >> 1);
    let command = format!(
        "echo $CHRONOS_JOB_RUN_TIME >> '{0}'; until [ $(cat '{1}') -ge $(wc -l < '{0}') ]; do sleep 0.05; done",
        begun.display(),
        begun.with_extension("let-in").display()
    );
    server.put(hourly("past", &command, 9));
    server.wait_for("past", "succeeded");
    std::fs::write(&begun, "").unwrap();
    let_in(0);
    let body = json!({ "from": "2024-01-01T00:00:00Z", "to": "2024-01-13T12:00:00Z", "parallel": 8, "order": "newest" });
    let answer = server.post("/v1/jobs/past/backfills", body.to_string().as_bytes()).unwrap();
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let mut kills = 0;
    while kills < KILLS && lines(&begun).len() < SLOTS {
        let more = lines(&begun).len() + SLOTS / (KILLS + 1);
        let_in(more);
        wait::until("more slots begin", || (lines(&begun).len() >= more.min(SLOTS)).then_some(()));
        server = TestServer::start_in(server.kill());
        kills += 1;
    }
    let_in(usize::MAX >> 1);
    let over = wait::until("the backfill is over", || {
        let now = server.get_json(&format!("/v1/backfills/{id}"));
        (!now["ended"].is_null()).then_some(now)
    });
    let mut starts: BTreeMap<String, usize> = BTreeMap::new();
    // Not the slot of an hour that has begun meanwhile.
    let is_past = |due: &String| due.parse::<i64>().unwrap() < 1_706_745_600_000;
    lines(&begun).into_iter().filter(is_past).for_each(|due| *starts.entry(due).or_default() += 1);
    let doubled = starts.values().filter(|count| **count > 1).count();
    let lost = SLOTS - starts.len();
    let mut recorded = 0;
    let mut cursor = String::new();
    loop {
        let page = server.get_json(&format!("/v1/runs?job=past&limit=1000&to=2024-02-01T00:00:00Z{cursor}"));
        recorded +=
            page["runs"].as_array().unwrap().iter().filter(|run| run["outcome"] == "succeeded").count();
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    println!(
        "{SLOTS} slots, {kills} kills: {lost} lost, {doubled} doubled, {recorded} succeeded by the ledger"
    );
    assert!(kills >= KILLS / 2, "only {kills} kills met the backfill");
    assert_eq!((lost, doubled, recorded), (0, 0, SLOTS), "{over}");
    assert_eq!((&over["begun"], &over["succeeded"]), (&json!(SLOTS), &json!(SLOTS)));
}
