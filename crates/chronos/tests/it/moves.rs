//! From one store to another, by backup and restore: everything goes along.

use serde_json::Value;

use crate::fleet::Fleet;
use crate::server::{TestServer, by_hand};
use crate::wait;

/// What is told of everything that a backup holds, without what is of the present moment.
fn told(server: &TestServer) -> Vec<Value> {
    let runs = server.get_json("/v1/runs?limit=1000");
    let definitions = server.get_json("/v1/definitions");
    let versions = server.get_json("/v1/jobs/parent/versions");
    let pauses = server.get_json("/v1/jobs/paused")["paused"].clone();
    vec![runs, definitions, versions, pauses]
}

#[test]
fn everything_goes_along_from_sqlite_to_postgresql_and_back() {
    Fleet::new().iter().for_each(goes_along);
}

#[test]
fn everything_goes_along_from_sqlite_to_zookeeper_and_back() {
    Fleet::on_zookeeper().iter().for_each(goes_along);
}

fn goes_along(fleet: &Fleet) {
    let old = TestServer::start();
    old.put(by_hand("parent", "echo one"));
    old.put(by_hand("parent", "echo two"));
    old.put(serde_json::json!({ "name": "child", "command": "true", "parents": ["parent"] }));
    old.put(by_hand("paused", "true"));
    old.cli(["pause", "paused", "--reason", "the store is moved"]).success();
    old.cli(["run", "parent"]).success();
    old.wait_for("child", "succeeded");
    let before = told(&old);
    old.cli(["backup", "all.jsonl"]).success();
    let backup = old.folder.path().join("all.jsonl");
    let backup = backup.to_str().unwrap();

    let new = fleet.joined(&[]);
    new.cli(["restore", backup, "--yes"]).success();
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
    let more = new.folder.path().join("more.jsonl");
    old.cli(["restore", more.to_str().unwrap(), "--yes"]).success();
    old.wait_ready();
    assert_eq!(told(&old), grown);
}
