//! Children follow their parents.

use serde_json::json;

use crate::server::{TestServer, by_hand};
use crate::wait;

#[test]
fn a_chain_runs_in_order_within_one_cycle() {
    let server = TestServer::start();
    let log = server.folder.path().join("log-of-jobs");
    let job = |name: &str| format!("echo {name} >> '{}'", log.display());
    let yaml = format!(
        "name: c\nparents: [b]\ncommand: {}\n---\nname: b\nparents: [a]\ncommand: {}\n---\nname: a\nschedule: R1/2099-01-01T00:00:00Z/P1D\ncommand: {}\n",
        job("c"),
        job("b"),
        job("a"),
    );
    server.folder.file("chain.yaml", &yaml);
    server
        .cli(["apply", "chain.yaml"])
        .stdout("created job `c`\ncreated job `b`\ncreated job `a`\n")
        .success();
    server.cli(["run", "a"]).success();
    let last = server.wait_for("c", "succeeded");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "a\nb\nc\n");
    assert_eq!(last["cycle"], server.wait_for("a", "succeeded")["cycle"]);
}

#[test]
fn a_join_waits_for_all_parents_and_runs_once() {
    let server = TestServer::start();
    server.put(by_hand("root", "true"));
    server.put(json!({ "name": "left", "parents": ["root"], "command": "sleep 0.3" }));
    server.put(json!({ "name": "right", "parents": ["root"], "command": "true" }));
    server.put(json!({ "name": "join", "parents": ["left", "right"], "command": "true" }));
    for round in 1..=2 {
        server.cli(["run", "root"]).success();
        wait::until("the join has run", || {
            (server.runs("join").iter().filter(|run| run["outcome"] == "succeeded").count() == round)
                .then_some(())
        });
    }
    assert_eq!(server.runs("join").len(), 2);
}

#[test]
fn children_of_a_failed_job_are_skipped_until_it_is_marked_as_successful() {
    let server = TestServer::start();
    server.put(by_hand("parent", "false"));
    server.put(json!({ "name": "child", "parents": ["parent"], "command": "echo ran" }));
    server.cli(["run", "parent"]).success();
    server.wait_for("parent", "failed");
    let skipped = server.wait_for("child", "skipped");
    assert!(skipped["reason"].to_string().contains("parent"), "{skipped}");
    server.cli(["mark-success", "parent"]).says("marked job `parent` as successful").success();
    server.wait_for("child", "succeeded");
}
