//! From one store to another, by backup and restore: everything goes along.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::server::{Folder, TestServer, by_hand};
use crate::wait;

/// Where a server keeps its state.
enum Home {
    Sqlite,
    Shared(Fleet),
}

impl Home {
    /// A server that leads there.
    fn server(&self, folder: Arc<Folder>) -> TestServer {
        let server = match self {
            Self::Sqlite => TestServer::launch(folder, &[]),
            Self::Shared(fleet) => fleet.node(folder, &[]),
        };
        server.wait_ready();
        server
    }
}

/// `None`, and said so, where there is no such server.
fn postgresql() -> Option<Home> {
    Fleet::new().map(Home::Shared)
}

fn zookeeper() -> Option<Home> {
    Fleet::on_zookeeper().map(Home::Shared)
}

/// What is told of everything that a backup holds: definitions and how far they have come, runs that live and that have
/// ended, versions, pauses, the audit, and since when each job is accounted for.
fn told(server: &TestServer) -> Vec<Value> {
    let runs = server.get_json("/v1/runs?limit=1000");
    let definitions = server.get_json("/v1/definitions");
    let versions = server.get_json("/v1/jobs/parent/versions");
    let mut audit = server.get_json("/v1/audit?limit=1000")["entries"].take();
    // That it was restored is known only where it was.
    audit.as_array_mut().unwrap().retain(|entry| entry["act"] != "restoredStore");
    let mut told = vec![runs, definitions, versions, audit];
    for job in ["parent", "child", "paused", "retried"] {
        let job = server.get_json(&format!("/v1/jobs/{job}"));
        told.extend(["accountedSince", "paused", "remaining", "runs"].map(|key| job[key].clone()));
    }
    told
}

#[test]
fn everything_goes_along_from_sqlite_to_postgresql_and_back() {
    postgresql().iter().for_each(|postgresql| goes_along(&Home::Sqlite, postgresql));
}

#[test]
fn everything_goes_along_from_sqlite_to_zookeeper_and_back() {
    zookeeper().iter().for_each(|zookeeper| goes_along(&Home::Sqlite, zookeeper));
}

#[test]
fn everything_goes_along_from_postgresql_to_zookeeper_and_back() {
    let (Some(postgresql), Some(zookeeper)) = (postgresql(), zookeeper()) else { return };
    goes_along(&postgresql, &zookeeper);
}

fn goes_along(here: &Home, there: &Home) {
    let old = here.server(Folder::new());
    old.put(by_hand("parent", "echo one"));
    old.put(by_hand("parent", "echo two"));
    old.put(json!({ "name": "child", "command": "true", "parents": ["parent"] }));
    old.put(by_hand("paused", "true"));
    old.cli(["pause", "paused", "--reason", "the store is moved"]).success();
    // Its first attempt fails, and the second is due long after all this.
    old.put(json!({ "name": "retried", "command": "false", "schedule": "R1//P1D", "retries": 1, "retryDelay": "10h",
        "retryDelayMax": "10h" }));
    old.wait_for_run("retried", "it waits for its next attempt", |run| run["state"] == "waiting");
    old.cli(["run", "parent"]).success();
    old.wait_for("child", "succeeded");
    let before = told(&old);
    old.cli(["backup", "all.jsonl"]).success();
    let backup = old.folder.path().join("all.jsonl");
    let (folder, _) = old.terminate();

    let new = there.server(Folder::new());
    new.cli(["restore", backup.to_str().unwrap(), "--yes"]).success();
    new.wait_ready();
    assert_eq!(told(&new), before);
    // It is a living one: what was is known, and more comes.
    new.cli(["run", "parent"]).success();
    wait::until("the second cycle", || {
        let runs = new.runs("child");
        (runs.len() == 2 && runs.iter().all(|run| run["outcome"] == "succeeded")).then_some(())
    });
    let grown = told(&new);
    new.cli(["backup", "more.jsonl"]).success();
    let (theirs, _) = new.terminate();
    let more = theirs.path().join("more.jsonl");

    let old = here.server(folder);
    old.cli(["restore", more.to_str().unwrap(), "--yes"]).success();
    old.wait_ready();
    assert_eq!(told(&old), grown);
}

/// As the guide says: the data folder stays where it is, and with it whoever knows the tasks.
#[test]
fn a_task_that_runs_meanwhile_goes_along_with_the_data_folder() {
    let Some(there) = postgresql() else { return };
    let folder = Folder::new();
    let old = TestServer::start_in(Arc::clone(&folder));
    let gate = folder.path().join("gate");
    let command = format!("until [ -e {} ]; do sleep 0.1; done", gate.display());
    old.put(json!({ "name": "long", "command": command, "schedule": "R1//P1D" }));
    let run = old.wait_for_run("long", "it runs", |run| run["attempts"][0]["started"].is_string());
    old.cli(["backup", "all.jsonl"]).success();
    let backup = folder.path().join("all.jsonl");
    let (folder, _) = old.terminate();

    let new = there.server(folder);
    new.cli(["restore", backup.to_str().unwrap()]).success();
    new.wait_ready();
    std::fs::write(gate, "").unwrap();
    let ended = new.wait_for("long", "succeeded");
    assert_eq!(ended["key"], run["key"]);
    assert_eq!(ended["attempts"].as_array().unwrap().len(), 1, "{ended}");
    assert_eq!(ended["attempts"][0]["task"], run["attempts"][0]["task"]);
}
