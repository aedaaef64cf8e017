//! Much of everything.

use serde_json::json;

use crate::http;
use crate::server::{Folder, TestServer, by_hand};
use crate::wait;

#[test]
fn output_beyond_the_bound_is_dropped_and_the_job_goes_on() {
    let server = TestServer::start();
    server.put(by_hand("chatty", "echo head; yes 0123456789abcde | head -c 209715200; echo tail"));
    server.cli(["run", "chatty"]).success();
    server.wait_for("chatty", "succeeded");
    let logs = server.cli(["logs", "chatty"]).success();
    assert!(logs.stdout_bytes().starts_with(b"head\n0123456789abcde\n"));
    assert!(logs.stdout_bytes().len() < 21 << 20, "{} bytes", logs.stdout_bytes().len());
    let kept: u64 = disk_use(&server.folder.data().join("engine/tasks"));
    assert!(kept < 32 << 20, "{kept} bytes on the disk");
}

#[test]
fn output_need_not_be_text() {
    let server = TestServer::start();
    server.put(by_hand("binary", r"printf '\377\000\200x\n'"));
    server.cli(["run", "binary"]).success();
    server.wait_for("binary", "succeeded");
    let logs = server.cli(["logs", "binary"]).success();
    assert_eq!(logs.stdout_bytes(), b"\xff\x00\x80x\n");
}

#[test]
fn ten_thousand_jobs_can_be_created_at_once() {
    let server = TestServer::start();
    let jobs: Vec<_> = (0..10_000).map(|i| by_hand(&format!("job-{i}"), "true")).collect();
    server.folder.file("many.json", &json!(jobs).to_string());
    let applied = server.cli(["apply", "many.json"]).success();
    assert_eq!(applied.stdout_text().lines().count(), 10_000);
    let listed = server.cli(["jobs", "--output", "json"]).success().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(10_000));
    // It still does what it is for.
    server.cli(["run", "job-9999"]).success();
    server.wait_for("job-9999", "succeeded");
}

#[test]
fn a_thousand_slots_at_one_instant_all_run() {
    let server = TestServer::start();
    let start = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    let jobs: Vec<_> = (0..1000)
        .map(|i| json!({ "name": format!("herd-{i}"), "schedule": format!("R1/{start:.0}/P1D"), "command": "true" }))
        .collect();
    server.folder.file("herd.json", &json!(jobs).to_string());
    server.cli(["apply", "herd.json"]).success();
    wait::within(3 * wait::BOUND, "all have run", || {
        let runs = server
            .cli(["runs", "--outcome", "succeeded", "--limit", "2000", "--output", "json"])
            .success()
            .json();
        (runs.as_array().map(Vec::len) == Some(1000)).then_some(())
    });
}

#[test]
fn a_limit_holds_runs_and_says_so() {
    let server = TestServer::launch(Folder::new(), &["--running_max", "2"]);
    server.wait_ready();
    for name in ["a", "b", "c"] {
        server.put(by_hand(name, "sleep 600"));
    }
    for name in ["a", "b"] {
        server.cli(["run", name]).success();
        server.wait_for_run(name, "running", |run| run["state"] == "running");
    }
    server.cli(["run", "c"]).success();
    wait::until("the limit is named", || {
        let why = server.cli(["why", "c"]).success().stdout_text();
        why.contains("waits: 2 of 2 tasks are running (--running_max 2)").then_some(())
    });
    let metrics = http::send(&server.address, "GET", "/metrics", &["Accept: text/plain"], b"");
    let metrics = String::from_utf8(metrics.expect("an answer").body).expect("text");
    // What has not happened yet is told too, or nobody would see it happen for the first time.
    for line in [
        "chronos_held_runs{limit=\"running_max 2\"} 1",
        "chronos_runs_total{outcome=\"missed\"} 0",
        "chronos_launch_loops_total 0",
        "chronos_unknown_attempts 0",
        "chronos_age_seconds 0",
    ] {
        assert!(metrics.lines().any(|told| told == line), "{line}: {metrics}");
    }
    server.cli(["kill", "a"]).success();
    server.wait_for_run("c", "running", |run| run["state"] == "running");
}

fn disk_use(path: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return path.metadata().map(|file| file.len()).unwrap_or_default();
    };
    entries.flatten().map(|entry| disk_use(&entry.path())).sum()
}
